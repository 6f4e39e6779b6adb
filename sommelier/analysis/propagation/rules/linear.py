"""Products with weights: what a change carries on, and what the weights' difference adds.

For y = W x + b:  y' - y = W'(x' - x) + (W' - W) x + (b' - b), so the bound is the donor's norm
times the input's bound, plus the last two terms evaluated exactly at the host's input
(algorithms.md B.2, B.4 rows 1-5).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.norms import Window
from sommelier.analysis.propagation.extension import Array
from sommelier.analysis.propagation.rules.windows import padding, strides_and_dilations
from sommelier.analysis.propagation.site import (
    Bound,
    Reading,
    Residual,
    Rule,
    Site,
)
from sommelier.analysis.propagation.weights import Constant


def gemm(site: Site) -> Bound:
    """Row 1: alpha op(A) op(B) + beta C."""
    alpha, beta = float(site.attribute("alpha", 1.0)), float(site.attribute("beta", 1.0))
    bias = site.constant(2)
    moving_bias = site.has(2) and bias is None
    left, right = site.constant(0), site.constant(1)
    if left is None and right is None:
        product, added = _two_activations(site, 1.0, 1.0), _addend(site, beta, site.has(2))
        return lambda at: abs(alpha) * np.asarray(product(at)) + added(at)
    added = _addend(site, beta, moving_bias)
    place, weight = (1, right) if right is not None else (0, left)
    assert weight is not None
    carry = site.norms.norm(weight.after)
    residual = _linear_residual(site, place, weight, abs(alpha))

    def bound(at: Reading) -> Array:
        return abs(alpha) * at[carry] * at.delta(1 - place) + at[residual] + added(at)

    return bound


def _addend(site: Site, beta: float, moves: bool) -> Callable[[Reading], Array]:
    """What a third operand adds that is no part of a residual."""
    if not moves:
        return lambda at: at[0.0]
    factor = abs(beta) * math.sqrt(site.repeats(2))
    return lambda at: factor * at.delta(2)


def _linear_residual(
    site: Site, place: int, weight: Constant, scale: float, window: Window | None = None
) -> Residual:
    """The operator with the differences of its weight and its bias, where there are any."""
    bias = site.constant(2) if site.node.op in ("Gemm", "Conv", "ConvTranspose") else None
    if not weight.changed and not (bias is not None and bias.changed):
        return Residual()
    difference = weight.difference
    arrays: dict[int, NDArray[Any] | None] = {place: difference}
    if site.has(2):
        arrays[2] = None if bias is None else bias.difference
    gain: Any = 0.0
    if site.situation.ball:
        gain = site.norms.norm(scale * difference, window)
    return site.with_weights(arrays, gain, operand=0 if place else 1)


def matmul(site: Site) -> Bound:
    """Rows 1 and 4: a matrix product with a weight on either side, or of two activations."""
    for place in (1, 0):
        weight = site.constant(place)
        if weight is not None:
            return _matmul_weight(site, place, weight)
    sides = [_batch_repeats(site, k) for k in (0, 1)]
    return _two_activations(site, *sides)


def _matmul_weight(site: Site, place: int, weight: Constant) -> Bound:
    after, difference = (_as_matrix(v, place) for v in (weight.after, weight.difference))
    repeats = math.sqrt(_batch_repeats(site, 1 - place))
    carry = site.norms.norm(after)
    residual = Residual()
    if weight.changed:
        gain = site.norms.norm(repeats * difference) if site.situation.ball else 0.0
        residual = site.with_weights({place: weight.difference}, gain, operand=1 - place)
    return lambda at: repeats * at[carry] * at.delta(1 - place) + at[residual]


def _as_matrix(array: NDArray[Any], place: int) -> NDArray[Any]:
    """A one-axis operand as ONNX reads it: a row on the left, a column on the right."""
    if array.ndim > 1:
        return array
    return array[:, None] if place else array[None, :]


def _batch_repeats(site: Site, operand: int) -> float:
    """How often each matrix of the operand is used, by broadcasting over the other's batch."""
    shapes = [site.shape(k)[:-2] for k in (0, 1)]
    return math.prod(np.broadcast_shapes(*shapes)) / max(1, math.prod(shapes[operand]))


def _two_activations(site: Site, left_repeats: float, right_repeats: float) -> Bound:
    """A'B' - AB = A(B' - B) + (A' - A)B' = A'(B' - B) + (A' - A)B, in Frobenius norms."""
    if any(len(site.shape(k)) < 2 for k in (0, 1)):
        norms = [site.size(k) for k in (0, 1)]
    else:
        norms = [site.extension.spectral(site.name(k)) for k in (0, 1)]
    left, right = norms

    def bound(at: Reading) -> Array:
        a, b = math.sqrt(left_repeats) * at.delta(0), math.sqrt(right_repeats) * at.delta(1)
        size_a, size_b = at[left], at[right]
        one = size_a * b + (size_b + at.delta(1)) * a
        other = (size_a + at.delta(0)) * b + size_b * a
        return np.asarray(np.minimum(one, other))

    return bound


def convolution(site: Site) -> Bound:
    """Row 2: any groups, strides, dilations; the operator norm, not the reshaped kernel's."""
    weight = site.weight(1, "kernel")
    if site.has(2):
        site.weight(2, "bias")
    window = conv_window(site, weight)
    carry = site.norms.norm(weight.after, window)
    residual = _linear_residual(site, 1, weight, 1.0, window)
    return lambda at: at[carry] * at.delta() + at[residual]


def conv_window(site: Site, weight: Constant) -> Window:
    """The convolution's attributes as norms want them, auto_pad resolved."""
    kernel = weight.after.shape[2:]
    strides, dilations = strides_and_dilations(site, len(kernel))
    spatial = site.shape()[2:]
    pads = padding(site, spatial, kernel, strides, dilations)
    return Window(spatial, strides, pads, dilations, int(site.attribute("group", 1)))


def transposed_convolution(site: Site) -> Bound:
    """Row 3: the adjoint of a convolution has its norm, for whatever size the output has."""
    weight = site.weight(1, "kernel")
    if site.has(2):
        site.weight(2, "bias")
    strides, dilations = strides_and_dilations(site, weight.after.ndim - 2)
    groups = int(site.attribute("group", 1))
    window = Window(None, strides, (), dilations, groups, transposed=True)
    carry = site.norms.norm(weight.after, window)
    residual = _linear_residual(site, 1, weight, 1.0, window)
    return lambda at: at[carry] * at.delta() + at[residual]


def gather(site: Site) -> Bound:
    """Rows 5 and 6: rows of a table, by the same indices in both models."""
    site.refuse_reached(1, "index")
    table = site.constant(0)
    if table is not None:
        residual = Residual()
        if table.changed:  # an index that moves within a ball may take any row
            residual = site.with_weights({0: table.difference}, math.inf, operand=1)
        return lambda at: at[residual]
    length = site.shape()[int(site.attribute("axis", 0))]
    repeats = index_repeats(site, length)
    return lambda at: math.sqrt(repeats) * at.delta()


def index_repeats(site: Site, length: int) -> int:
    """How often one position is taken at most: counted where the indices are known."""
    indices = site.constant(1)
    if indices is None:
        return max(1, site.elements(1))
    places = np.asarray(indices.before, np.int64).ravel() % max(1, length)
    return int(np.bincount(places).max()) if places.size else 0


LINEAR: dict[str, Rule] = {
    "Gemm": gemm,
    "MatMul": matmul,
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
    "Gather": gather,
}
