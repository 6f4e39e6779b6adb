"""Windows that slide: padding as ONNX states it, and one axis of a linear window as a matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.propagation.site import Site, UnboundedError

EXACT_SIDE = 512  # beyond this a matrix's norm is bounded by Schur's test instead of computed
SAFETY = 1 + 1e-9  # of a norm computed in float64


def strides_and_dilations(site: Site, axes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The attributes with their defaults."""
    ones = [1] * axes
    return tuple(site.attribute("strides", ones)), tuple(site.attribute("dilations", ones))


def padding(
    site: Site, spatial: Sequence[int], kernel: Sequence[int], strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[int, ...]:  # fmt: skip
    """Pads as ONNX orders them, beginnings then ends, auto_pad resolved."""
    automatic = str(site.attribute("auto_pad", "NOTSET"))
    if automatic in ("NOTSET", ""):
        return tuple(site.attribute("pads", [0] * 2 * len(kernel)))
    if automatic == "VALID":
        return (0,) * 2 * len(kernel)
    totals = [
        max(0, (math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size)
        for size, k, s, d in zip(spatial, kernel, strides, dilations, strict=True)
    ]
    less, more = [t // 2 for t in totals], [t - t // 2 for t in totals]
    upper = automatic == "SAME_UPPER"
    return (*less, *more) if upper else (*more, *less)


def overlaps(
    kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], outputs: Sequence[int]
) -> int:
    """How many windows share one element at most.

    Window j reads elements s j + D t, t < k. Two windows that share one differ by a multiple of
    D / gcd(s, D) in j, so by one of s / gcd(s, D) in t: at most ceil(k / (s / gcd(s, D))) along an
    axis, and never more than there are outputs.
    """
    return math.prod(
        min(math.ceil(k / (s // math.gcd(s, d))), max(1, out))
        for k, s, d, out in zip(kernel, strides, dilations, outputs, strict=True)
    )


def matrix_norm(matrix: NDArray[np.float64]) -> float:
    """The operator norm of one axis' matrix, or Schur's bound of it where it is large."""
    if matrix.size == 0:
        return 0.0
    if min(matrix.shape) <= EXACT_SIDE:
        small = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
        return math.sqrt(max(0.0, float(np.linalg.eigvalsh(small)[-1]))) * SAFETY
    sums = np.abs(matrix)
    return math.sqrt(float(sums.sum(0).max() * sums.sum(1).max()))


def average_matrix(
    size: int, kernel: int, stride: int, dilation: int, pads: tuple[int, int], outputs: int,
    *, counted: bool,
) -> NDArray[np.float64]:  # fmt: skip
    """One axis of an average pool, (outputs, size). counted : padding counts as elements.

    A window that runs past the end of the padding divides by the elements before it only.
    """
    matrix = np.zeros((outputs, size))
    for row in range(outputs):
        places = row * stride - pads[0] + dilation * np.arange(kernel)
        inside = places[(places >= 0) & (places < size)]
        extent = places[places < size + pads[1]] if counted else inside
        if len(extent):
            matrix[row, inside] = 1.0 / len(extent)
    return matrix


def pad_matrix(size: int, before: int, after: int, mode: str) -> NDArray[np.float64]:
    """One axis of a Pad, (before + size + after, size). Negative pads cut, before others copy."""
    kinds = {"constant": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    if mode not in kinds:
        raise UnboundedError(f"its mode '{mode}' is unknown")
    kept = np.eye(size)[max(0, -before) : size - max(0, -after)]
    if not len(kept):
        raise UnboundedError("its pads cut everything off")
    widths = ((max(0, before), max(0, after)), (0, 0))
    padded = np.pad(kept, widths, mode=kinds[mode])  # type: ignore[call-overload]  # a known word
    return np.asarray(padded)
