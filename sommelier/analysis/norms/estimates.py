"""Estimates of norms from below, to see how tight a bound is. Never a bound themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sommelier.analysis.norms.convolutions import both_ends
from sommelier.analysis.norms.matrices import ZERO
from sommelier.analysis.norms.values import Norm, Window
from sommelier.analysis.norms.weights import (
    doubles,
    load_torch,
    magnitude,
    power_of_two,
    tensor_of,
)

if TYPE_CHECKING:
    from torch import Tensor

    Map = Callable[[Tensor], Tensor]

STEPS = 20  # power iterations; algorithms.md B.3 finds 0.975 to 1.000 of the norm
SIZE = 16  # of the map, in taps, where the size is unknown: any size is below the largest


def lower_estimate(
    weight: Any,
    window: Window | None = None,
    *,
    steps: int = STEPS,
    seed: int = 0,
    device: str = "cpu",
) -> Norm:
    """An estimate from below of the norm of a matrix (m, n), or of a convolution with a window.

    Power iteration on W^T W; certified is False. Raises AnalysisError as the bounds do.
    """
    torch = load_torch()
    found = tensor_of(weight)
    largest = magnitude(found)
    if largest == 0:
        return ZERO
    unit = power_of_two(largest)
    scaled = doubles(found, unit, device)
    if window is None:
        matrices = scaled.reshape(-1, *scaled.shape[-2:])
        shape: tuple[int, ...] = (len(matrices), matrices.shape[-1], 1)
        apply: Map = lambda x: matrices @ x  # noqa: E731
        back: Map = lambda y: matrices.mT @ y  # noqa: E731
    else:
        shape, apply, back = _convolution(scaled, window.resolved(scaled.shape))
    vector = torch.randn(
        shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(device)
    axes = tuple(range(1, vector.ndim))  # a batch of matrices iterates side by side
    for _ in range(steps):
        vector = vector / torch.linalg.vector_norm(vector, dim=axes, keepdim=True).clamp_min(1e-300)
        vector = back(apply(vector))
    vector = vector / torch.linalg.vector_norm(vector, dim=axes, keepdim=True).clamp_min(1e-300)
    value = float(torch.linalg.vector_norm(apply(vector), dim=axes).max())
    return Norm(value * unit, False, "power")


def _convolution(kernel: Tensor, window: Window) -> tuple[tuple[int, ...], Map, Map]:
    """The input's shape, the convolution, and its adjoint."""
    functional = load_torch().nn.functional
    dims = kernel.ndim - 2
    spatial = window.spatial or tuple(
        SIZE * d * k for d, k in zip(window.dilations, kernel.shape[2:], strict=True)
    )
    pads = both_ends(window.pads)
    padded = [n + window.pads[i] + window.pads[dims + i] for i, n in enumerate(spatial)]
    forward = (functional.conv1d, functional.conv2d, functional.conv3d)[dims - 1]
    adjoint = (
        functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d,
    )[dims - 1]  # fmt: skip
    how = {"stride": window.strides, "dilation": window.dilations, "groups": window.groups}

    def back(y: Tensor) -> Tensor:
        reached = adjoint(y, kernel, **how)
        missing = [n - m for n, m in zip(padded, reached.shape[2:], strict=True)]
        whole = functional.pad(reached, _ends(missing))
        return functional.pad(whole, [-p for p in pads])  # type: ignore[no-any-return]  # untyped

    shape = (1, kernel.shape[1] * window.groups, *spatial)
    return shape, lambda x: forward(functional.pad(x, pads), kernel, **how), back


def _ends(missing: Sequence[int]) -> list[int]:
    """Padding at the end of each axis only, in torch's order."""
    return [number for size in reversed(missing) for number in (0, size)]
