"""Norms of convolutions: the largest over frequencies of the norm of the symbol, a small matrix.

A zero-padded convolution is a compression of the circular one on a torus large enough that nothing
kept is read across the seam, so the torus' norm bounds it. Stride and dilation are taken out first
(`reduced`). A kernel has few taps, so its symbol A(theta) = sum_k W_k exp(i k theta) is summed
directly, slice by slice, instead of by an FFT of a kernel padded to the torus; real weights need
half the frequencies only.

Where the torus has many frequencies, or the size is unknown, a coarser grid of n points an axis is
enough: |A(theta) v|^2 is a trigonometric polynomial of degree d = taps - 1, which near its maximum
M stays above M cos(d t) (M. Riesz 1914), and some grid point lies within pi / n of it. Hence
sup |A|^2 <= max over the grid / cos(pi d / n), for each axis.

Source: algorithms.md B.3; Sedghi et al. 2019, Delattre et al. 2023, Singla and Feizi 2021.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sommelier.analysis.norms.certificate import (
    UNIT,
    gram,
    joint_eigenvalue_bound,
    rounding,
)
from sommelier.analysis.norms.matrices import CHUNK_BYTES, ZERO, batch_bounds
from sommelier.analysis.norms.unfoldings import schur_bound, unfolding_bound
from sommelier.analysis.norms.values import Axis, Norm, Window, reduced
from sommelier.analysis.norms.weights import (
    doubles,
    load_torch,
    magnitude,
    power_of_two,
    tensor_of,
)

if TYPE_CHECKING:
    from torch import Tensor

EFFORT = 3.0  # seconds by the cost model that one convolution may take
RATES = {"cpu": 2.5e10, "cuda": 1e13}  # double-precision operations a second that it reckons with
FINENESS = (16, 12, 8, 6, 5)  # grid points per degree; 3x3 kernels: bounds 2, 3.5, 8, 15, 24 % up
SMALL = 2**20  # elements up to which the operator's own matrix is always written out
LARGEST = 2**24  # and up to which it is where it costs at most EXTRA times its torus
EXTRA = 3.0
PER_MATRIX = 2e5  # operations that a small matrix costs beside its arithmetic


@dataclass(frozen=True, slots=True)
class Plan:
    """Which frequencies are looked at, what that costs, and by how much it may be too large.

    grid : points an axis. factor : what the largest symbol norm on the grid is multiplied by.
    operations : of real numbers.
    """

    grid: tuple[int, ...]
    factor: float
    operations: float


def convolution_norm(
    weight: Any,
    *,
    spatial: Sequence[int] | None,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    groups: int = 1,
    effort: float = EFFORT,
    device: str = "cpu",
) -> Norm:
    """An upper bound of the norm of an ONNX Conv with zero padding, without its bias.

    weight : (out, in / groups, k1[, k2[, k3]]). spatial : input sizes; None bounds all of them.
    strides, pads, dilations : ONNX attributes; None means their defaults.
    effort : seconds one norm may take by the cost model (RATES). Within it the first that fits of:
    the operator's matrix where it is small ('explicit'), all frequencies of its torus ('torus',
    usually 0 to 5 % too large) or of a coarser grid ('grid', 2 to 24 % more); beyond it the better
    of the unfoldings' and Schur's bounds (up to twice too large).
    Raises AnalysisError for weights that are not finite and windows that do not fit.
    """
    window = Window.of(spatial, strides, pads, dilations, groups=groups)
    return window_norm(weight, window, effort=effort, device=device)


def convolution_transpose_norm(
    weight: Any,
    *,
    spatial: Sequence[int] | None,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    groups: int = 1,
    output_padding: Sequence[int] | None = None,
    effort: float = EFFORT,
    device: str = "cpu",
) -> Norm:
    """The same of an ONNX ConvTranspose: that of its adjoint, a convolution.

    weight : (in, out / groups, k1[, k2[, k3]]). spatial : sizes of the ConvTranspose's own input.
    """
    extra = tuple(output_padding or ())
    window = Window.of(
        spatial, strides, pads, dilations, groups=groups, transposed=True, output_padding=extra
    )
    return window_norm(weight, window, effort=effort, device=device)


def window_norm(
    weight: Any, window: Window, *, effort: float = EFFORT, device: str = "cpu"
) -> Norm:
    """The same for attributes that are already a Window."""
    found = tensor_of(weight)
    window = window.resolved(found.shape)
    axes = reduced_axes(found.shape, window)
    largest = magnitude(found)
    if largest == 0:
        return ZERO
    unit = power_of_two(largest)
    grouped = doubles(found, unit, device)
    grouped = grouped.reshape(window.groups, -1, *found.shape[1:])
    kernels = polyphase(grouped, axes)
    if _explicit_pays(grouped, window, plans(axes, kernels.shape[:3])[0]):
        value, method = max(batch_bounds(_explicit(grouped, window))), "explicit"
    else:
        value, method = reduced_norm(kernels, axes, effort)
    return Norm(value * unit, True, method)


def plans(axes: Sequence[Axis], blocks: Sequence[int]) -> list[Plan]:
    """Ways to cover all frequencies, finest first. blocks : groups, outputs and inputs of each."""
    taps = math.prod(axis.taps for axis in axes)
    groups, (short, long) = blocks[0], sorted(blocks[1:])
    each = 5 * short**2 * long + 8 * short**3 / 3 + 4 * taps * short * long + PER_MATRIX
    found = []
    for fineness in FINENESS:
        grid, factor = [], 1.0
        for axis in axes:
            degree = axis.taps - 1
            points = max(1, fineness * degree)
            if axis.torus is not None and axis.torus <= points:
                points = axis.torus
            elif degree:
                factor /= math.sqrt(math.cos(math.pi * degree / points))
            grid.append(1 if not degree else points)
        count = len(_frequencies(grid))
        found.append(Plan(tuple(grid), factor * (1 + 8 * UNIT), count * groups * each))
    return found


def polyphase(grouped: Tensor, axes: Sequence[Axis]) -> Tensor:
    """(groups, out, in, k...) -> (groups, out, in * phases, taps...): kernels without stride."""
    torch = load_torch()
    for i, axis in enumerate(axes):
        kernel, place = grouped.shape[3 + i], 3 + i
        short = axis.taps * axis.phases - kernel
        if short:
            padding = [0, 0] * (grouped.ndim - place - 1) + [0, short]
            grouped = torch.nn.functional.pad(grouped, padding)
        split = (*grouped.shape[:place], axis.taps, axis.phases, *grouped.shape[place + 1 :])
        grouped = grouped.reshape(split).movedim(place + 1, 3).flatten(2, 3)
    return grouped


def symbol_bound(kernels: Tensor, grid: Sequence[int]) -> float:
    """An upper bound of the symbol's norm over all groups and all points of a frequency grid.

    kernels : (groups, out, in, taps...) of stride 1, of a size near 1.
    """
    torch = load_torch()
    groups, out, into = kernels.shape[:3]
    count = math.prod(kernels.shape[3:])
    taps = kernels.flatten(3).permute(3, 0, 1, 2).reshape(count, -1)  # (taps, groups * out * in)
    angles = _angles(grid, kernels.shape[3:]).to(kernels.device)  # (frequencies, taps)
    squares = float(kernels.square().sum(dim=tuple(range(1, kernels.ndim))).max()) * (1 + 1e-12)
    step = max(1, CHUNK_BYTES // (32 * groups * out * into))
    proven = 0.0
    for start in range(0, len(angles), step):
        part = angles[start : start + step]
        symbols = torch.complex(part.cos() @ taps, part.sin() @ taps)
        symbols = symbols.reshape(-1, out, into)  # (frequencies * groups, out, in)
        proven = joint_eigenvalue_bound(gram(symbols.mH if out < into else symbols), proven)
    # |A(theta)|_F <= sqrt(taps) |W|_F, so this bounds the Gram matrices' rounding and the symbols'.
    in_gram = rounding(max(out, into) + 2) * count * squares
    in_symbol = rounding(count + 16) * count * math.sqrt(squares)
    return (math.sqrt(proven + in_gram) + in_symbol) * (1 + 4 * UNIT)


def reduced_axes(shape: Sequence[int], window: Window) -> tuple[Axis, ...]:
    dims = len(shape) - 2
    return tuple(
        reduced(
            shape[2 + i],
            window.strides[i],
            window.dilations[i],
            (window.pads[i], window.pads[dims + i]),
            None if window.spatial is None else window.spatial[i],
        )
        for i in range(dims)
    )


def reduced_norm(kernels: Tensor, axes: Sequence[Axis], effort: float) -> tuple[float, str]:
    if all(axis.taps == 1 for axis in axes):  # a matrix at every place, real at every frequency
        return max(batch_bounds(kernels.flatten(2))), "dense"
    groups, out, into = kernels.shape[:3]
    budget = effort * RATES.get(kernels.device.type, RATES["cuda"])
    for plan in plans(axes, (groups, out, into)):
        if plan.operations <= budget:
            whole = all(a.torus == n or a.taps == 1 for a, n in zip(axes, plan.grid, strict=True))
            bound = symbol_bound(kernels, plan.grid) * plan.factor
            return bound, "torus" if whole else "grid"
    schur = schur_bound(kernels)
    unfolding = unfolding_bound(kernels)
    return (schur, "schur") if schur <= unfolding else (unfolding, "unfolding")


def _frequencies(grid: Sequence[int]) -> list[tuple[int, ...]]:
    """Half of the grid's points; the others have the conjugate symbol of one of these."""
    *others, last = grid
    return list(itertools.product(*(range(n) for n in others), range(last // 2 + 1)))


def _angles(grid: Sequence[int], taps: Sequence[int]) -> Tensor:
    """(frequencies, taps) angles of exp(i k theta), reduced modulo the circle in integers."""
    torch = load_torch()
    points = torch.tensor(_frequencies(grid), dtype=torch.int64)
    places = torch.tensor(list(itertools.product(*(range(n) for n in taps))), dtype=torch.int64)
    circle = torch.tensor(grid, dtype=torch.int64)
    turns = (points[:, None, :] * places[None, :, :]) % circle
    found: Tensor = (turns.double() / circle).sum(-1) * (2 * math.pi)
    return found


def _explicit_pays(grouped: Tensor, window: Window, torus: Plan) -> bool:
    """Small, or little more work than the torus, which is loose for maps smaller than kernels."""
    outputs = window.outputs(grouped.shape[3:])
    if window.spatial is None or outputs is None:
        return False
    groups, out, into = grouped.shape[:3]
    short, long = sorted((out * math.prod(outputs), into * math.prod(window.spatial)))
    operations = groups * short**2 * (1.2 * long + 0.7 * short)
    if groups * short * long <= SMALL:
        return True
    return groups * short * long <= LARGEST and operations <= EXTRA * torus.operations


def _explicit(grouped: Tensor, window: Window) -> Tensor:
    """(groups, in * positions, out * positions): each group's operator on every unit vector."""
    torch = load_torch()
    assert window.spatial is not None
    dims, into = grouped.ndim - 3, grouped.shape[2]
    units = torch.eye(into * math.prod(window.spatial), dtype=torch.float64, device=grouped.device)
    units = torch.nn.functional.pad(
        units.reshape(-1, into, *window.spatial), both_ends(window.pads)
    )
    convolve = (torch.conv1d, torch.conv2d, torch.conv3d)[dims - 1]
    rows = [
        convolve(units, kernel, stride=window.strides, dilation=window.dilations).flatten(1)
        for kernel in grouped
    ]
    return torch.stack(rows)  # type: ignore[no-any-return]  # torch is a ModuleType here


def both_ends(pads: Sequence[int]) -> list[int]:
    """ONNX pads (beginnings, then ends) in torch's order: last axis first, both ends together."""
    dims = len(pads) // 2
    return [pads[side + axis] for axis in reversed(range(dims)) for side in (0, dims)]
