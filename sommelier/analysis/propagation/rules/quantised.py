"""Rounding to a grid (algorithms.md B.4 row 50). Integer tensors count in steps of their grid.

Two numbers d apart land at most d / scale + 1 steps apart. Operators that compute on integers are
taken apart into dequantise, compute, quantise (expansion.py).
"""

from __future__ import annotations

import math

import numpy as np

from sommelier.analysis.propagation.extension import Array
from sommelier.analysis.propagation.site import (
    Bound,
    Reading,
    Residual,
    Rule,
    Site,
    UnboundedError,
)
from sommelier.analysis.propagation.weights import Constant

EIGHT_BIT_FLOATS = frozenset({17, 18, 19, 20, 23, 24})  # onnx.TensorProto's element types


def quantize_linear(site: Site) -> Bound:
    """d / scale + sqrt(n), and what another scale or zero point adds."""
    if site.situation.graph.tensor(site.node.outputs[0]).dtype in EIGHT_BIT_FLOATS:
        raise UnboundedError("it rounds to 8-bit floating point, whose steps are not equal")
    scale = site.weight(1, "scale")
    zero = site.weight(2, "zero point") if site.has(2) else None
    count, step = site.elements(), float(np.abs(scale.after).min())
    turned = 1 / np.asarray(scale.after, np.float64) - 1 / np.asarray(scale.before, np.float64)
    stretch = float(np.abs(turned).max()) if scale.changed else 0.0
    size = site.size()
    shift = 0.0 if zero is None else float(np.abs(zero.difference).max())
    moves = scale.changed or shift > 0

    def bound(at: Reading) -> Array:
        steps = at.delta() / step + (stretch * at[size] if scale.changed else 0.0)
        whole = steps + (1 + shift) * math.sqrt(count)
        return np.where((at.delta() > 0) | moves, whole, 0.0)

    return bound


def dequantize_linear(site: Site) -> Bound:
    """scale' times the steps, and (q - zero)(scale' - scale) - scale'(zero' - zero)."""
    scale = site.weight(1, "scale")
    zero = site.weight(2, "zero point") if site.has(2) else None
    steepest = float(np.abs(scale.after).max())
    shift = 0.0 if zero is None else float(np.abs(zero.difference).max())
    added = steepest * shift * math.sqrt(site.elements())
    residual = _scale_residual(site, scale)
    return lambda at: steepest * at.delta() + at[residual] + added


def _scale_residual(site: Site, scale: Constant) -> Residual:
    if not scale.changed:
        return Residual()
    difference = scale.difference
    gain = float(np.abs(difference).max())
    extension, axis = site.extension, int(site.attribute("axis", 1))
    shape = [1] * len(site.shape())
    if difference.size > 1:
        shape[axis] = -1
    zero = site.constant(2)
    offset = np.zeros(1) if zero is None else zero.before.astype(np.float64)
    offset = offset.reshape(shape if offset.size > 1 else [1] * len(shape))
    stored = [extension.constant(a.astype(np.float32)) for a in (offset, difference.reshape(shape))]
    steps = extension.node("Sub", [extension.real(site.name()), stored[0]])
    return site.differing(extension.node("Mul", [steps, stored[1]]), gain)


QUANTISED: dict[str, Rule] = {
    "QuantizeLinear": quantize_linear,
    "DequantizeLinear": dequantize_linear,
    "com.microsoft:QuantizeLinear": quantize_linear,
    "com.microsoft:DequantizeLinear": dequantize_linear,
}
