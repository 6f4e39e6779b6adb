"""Normalisation (algorithms.md B.4 rows 7-12).

A row x becomes P x / sigma, with P the centring and sigma^2 = mean((P x)^2) + eps. Seen with one
more coordinate sqrt(n eps), a normalised row is a point of a sphere; two of them are apart by the
chord of the angle between the rows, which is known when the distance and one length are.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.propagation.extension import Array
from sommelier.analysis.propagation.rules.linear import conv_window
from sommelier.analysis.propagation.site import (
    Bound,
    Reading,
    Residual,
    Rule,
    Site,
    UnboundedError,
)
from sommelier.analysis.propagation.weights import Constant

MEAN_VARIANCE_EPSILON = 1e-9  # onnx, MeanVarianceNormalization


def steepness(distance: Array, sigma: Array, floor: float) -> Array:
    """Largest ratio of change after normalisation to change before, for rows `distance` apart.

    distance : bound of ||P x' - P x|| / sqrt(n); sigma : the host's smallest, at least `floor` =
    sqrt(eps), which the twin's never falls below. With e, s, s' for these and the twin's sigma,
    the change is sqrt(n (e^2 - (s - s')^2) / (s s')); the worst s' is sqrt(s^2 - e^2), or the
    floor. Grows with distance, so that one row that takes all of it is the worst case of many.
    """
    sigma = np.maximum(sigma, max(floor, 1e-300))
    angle = np.clip(1.0 - (distance / sigma) ** 2, 0.0, 1.0)
    inner = 2.0 / (sigma**2 * (1.0 + np.sqrt(angle)))
    far = np.minimum(np.maximum(distance, sigma - floor), sigma + floor)  # beyond: antipodes
    if floor > 0:
        outer = (1.0 - ((sigma - floor) / np.maximum(far, 1e-300)) ** 2) / (sigma * floor)
    else:
        outer = 4.0 / sigma**2
    reachable = sigma**2 - distance**2 >= floor**2
    return np.asarray(np.sqrt(np.where(reachable, inner, outer)))


def normalised(distance: Array, deviation: Array, epsilon: float, row: int, rows: int) -> Array:
    """Bound of the change of normalised rows, before scale and bias.

    distance : ||x' - x|| over all rows; deviation : the host's smallest sqrt(mean((P x)^2)).
    """
    sigma = np.sqrt(np.maximum(deviation, 0.0) ** 2 + epsilon)
    ratio = steepness(distance / math.sqrt(row), sigma, math.sqrt(epsilon))
    with np.errstate(invalid="ignore"):
        change = np.where(distance == 0, 0.0, distance * ratio)
    return np.asarray(np.minimum(np.nan_to_num(change, nan=np.inf), 2.0 * math.sqrt(row * rows)))


def _rows(site: Site, row: int, epsilon: float, *, centred: bool, scale: int, shift: int) -> Bound:
    """Rows of `row` consecutive elements, then a scale and a shift that are weights."""
    rows = site.elements() // max(1, row)
    deviation = site.extension.root_mean_square(site.name(), row, centred=centred)
    gamma = site.weight(scale, "scale") if site.has(scale) else None
    beta = site.weight(shift, "bias") if site.has(shift) else None
    steepest = 1.0 if gamma is None else float(np.abs(gamma.after).max())
    residual = _affine_residual(site, {scale: gamma, shift: beta})

    def bound(at: Reading) -> Array:
        change = normalised(at.delta(), at[deviation], epsilon, row, rows)
        return steepest * change + residual(at)

    return bound


def _affine_residual(site: Site, weights: dict[int, Constant | None]) -> Bound:
    """||(gamma' - gamma) x_hat + beta' - beta||: the operator itself with these differences."""
    if not any(weight is not None and weight.changed for weight in weights.values()):
        return lambda at: at[0.0]
    arrays = {i: None if w is None else w.difference for i, w in weights.items()}
    if site.situation.ball:  # x_hat anywhere in the ball: no row is longer than sqrt(its length)
        elements = site.elements()
        scale, shift = (0.0 if a is None else float(np.abs(a).max()) for a in arrays.values())
        return lambda at: at[(scale + shift) * math.sqrt(elements)]
    residual = site.with_weights(arrays)
    return lambda at: at[residual]


def layer_normalization(site: Site) -> Bound:
    """Row 8: over the axes from `axis` on."""
    row = math.prod(site.shape()[_axis(site) :])
    epsilon = float(site.attribute("epsilon", 1e-5))
    return _rows(site, row, epsilon, centred=True, scale=1, shift=2)


def rms_normalization(site: Site) -> Bound:
    """Row 9: without centring. SimplifiedLayerNormalization is the same operator."""
    row = math.prod(site.shape()[_axis(site) :])
    epsilon = float(site.attribute("epsilon", 1e-5))
    return _rows(site, row, epsilon, centred=False, scale=1, shift=2)


def _axis(site: Site) -> int:
    return int(site.attribute("axis", -1)) % len(site.shape())


def instance_normalization(site: Site) -> Bound:
    """Row 10: every channel of a sample is a row."""
    row = math.prod(site.shape()[2:])
    epsilon = float(site.attribute("epsilon", 1e-5))
    return _rows(site, row, epsilon, centred=True, scale=1, shift=2)


def group_normalization(site: Site) -> Bound:
    """Row 10: every group of channels of a sample is a row."""
    shape = site.shape()
    row = math.prod(shape[1:]) // int(site.attribute("num_groups", 1))
    epsilon = float(site.attribute("epsilon", 1e-5))
    return _rows(site, row, epsilon, centred=True, scale=1, shift=2)


def mean_variance_normalization(site: Site) -> Bound:
    """As row 10, over all axes but some leading ones; its eps is 1e-9 on the deviation itself.

    x / (sigma + eps) is the normalised row times sigma / (sigma + eps), which changes as well.
    """
    shape = site.shape()
    axes = sorted(int(a) % len(shape) for a in site.attribute("axes", [0, 2, 3]))
    kept = [i for i in range(len(shape)) if i not in axes and shape[i] > 1]
    reduced = [i for i in axes if shape[i] > 1]
    if kept and reduced and max(kept) > min(reduced):
        raise UnboundedError(f"it normalises axes {axes}, which are not the last ones")
    row = math.prod(shape[i] for i in reduced)
    rows = site.elements() // row
    deviation = site.extension.root_mean_square(site.name(), row, centred=True)

    def bound(at: Reading) -> Array:
        sigma = np.maximum(at[deviation], 1e-300)
        twin = np.maximum(sigma - at.delta() / math.sqrt(row), 0.0) + MEAN_VARIANCE_EPSILON
        length = np.minimum(at.delta() * MEAN_VARIANCE_EPSILON / (sigma * twin),
                            math.sqrt(row * rows))  # fmt: skip
        return normalised(at.delta(), sigma, 0.0, row, rows) + length

    return bound


def lp_normalization(site: Site) -> Bound:
    """Row 11: p = 2. There is no eps: near 0 only the diameter of the sphere bounds it."""
    if int(site.attribute("p", 2)) != 2:
        raise UnboundedError("its p is not 2")
    shape = site.shape()
    axis = int(site.attribute("axis", -1)) % len(shape)
    rows = site.elements() // max(1, shape[axis])
    length = site.extension.thinnest(site.name(), (axis,))
    return lambda at: normalised(at.delta(), at[length], 0.0, 1, rows)


def batch_normalization(site: Site) -> Bound:
    """Row 7: at inference a scale and a shift per channel, folded into a convolution before it."""
    if int(site.attribute("training_mode", 0)):
        raise UnboundedError("it is in training mode")
    weights = [site.weight(i, "statistics") for i in range(1, 5)]
    epsilon = float(site.attribute("epsilon", 1e-5))
    scale, shift = _scale_and_shift([w.before for w in weights], epsilon)
    scale_after, shift_after = _scale_and_shift([w.after for w in weights], epsilon)
    residual = Residual()
    if any(w.changed for w in weights):
        residual = _channel_residual(site, scale_after - scale, shift_after - shift)
    steepest = float(np.abs(scale_after).max())
    folded = _folded(site, (scale, shift), (scale_after, shift_after))

    def bound(at: Reading) -> Array:
        own = steepest * at.delta() + at[residual]
        return own if folded is None else np.minimum(own, np.asarray(folded(at)))

    return bound


Channels = NDArray[np.float64]


def _scale_and_shift(weights: list[Channels], epsilon: float) -> tuple[Channels, Channels]:
    gamma, beta, mean, variance = (np.asarray(w, np.float64) for w in weights)
    if np.any(variance + epsilon <= 0):
        raise UnboundedError("a variance is negative")
    scale = gamma / np.sqrt(variance + epsilon)
    return scale, beta - mean * scale


def _channel_residual(site: Site, scale: Channels, shift: Channels) -> Residual:
    extension = site.extension
    shape = (-1, *[1] * (len(site.shape()) - 2))
    factor = extension.constant(scale.reshape(shape).astype(np.float32))
    addend = extension.constant(shift.reshape(shape).astype(np.float32))
    product = extension.node("Mul", [extension.real(site.name()), factor])
    total = extension.node("Add", [product, addend])
    return site.differing(total, float(np.abs(scale).max()))


def _folded(
    site: Site, before: tuple[Channels, Channels], after: tuple[Channels, Channels]
) -> Bound | None:
    """The convolution that makes the input and the normalisation as one convolution.

    Its norm is at most the product of both, and often far less: channels that the one enlarges the
    other shrinks.
    """
    conv = site.producer()
    if conv is None or conv.node.title != "Conv":
        return None
    kernel, bias = conv.constant(1), conv.constant(2)
    if kernel is None or (conv.has(2) and bias is None):
        return None
    kernels, shifts = [], []
    for values, added, (scale, shift) in (
        (kernel.before, None if bias is None else bias.before, before),
        (kernel.after, None if bias is None else bias.after, after),
    ):
        along = scale.reshape(-1, *[1] * (kernel.before.ndim - 1))
        kernels.append(np.asarray(values, np.float64) * along)
        shifts.append(shift if added is None else shift + scale * added)
    window = conv_window(conv, kernel)
    carry = site.norms.norm(kernels[1], window)
    difference, moved = kernels[1] - kernels[0], shifts[1] - shifts[0]
    residual = Residual()
    if np.any(difference) or np.any(moved):
        gain = site.norms.norm(difference, window) if site.situation.ball else 0.0
        residual = conv.with_weights({1: difference, 2: moved}, gain)
    entry = conv.name()
    return lambda at: at[carry] * at.delta_of(entry) + at[residual]


def local_response_normalization(site: Site) -> Bound:
    """Row 12: k^-b (1 + 2 b sqrt(size)), crude."""
    bias, beta = float(site.attribute("bias", 1.0)), float(site.attribute("beta", 0.75))
    size, alpha = int(site.attribute("size", 1)), float(site.attribute("alpha", 1e-4))
    if bias <= 0 or beta < 0 or alpha < 0:
        raise UnboundedError("its bias, alpha or beta is negative")
    factor = bias**-beta * (1 + 2 * beta * math.sqrt(size))
    return lambda at: factor * at.delta()


NORMALISATION: dict[str, Rule] = {
    "BatchNormalization": batch_normalization,
    "LayerNormalization": layer_normalization,
    "com.microsoft:LayerNormalization": layer_normalization,
    "RMSNormalization": rms_normalization,
    "SimplifiedLayerNormalization": rms_normalization,
    "com.microsoft:SimplifiedLayerNormalization": rms_normalization,
    "InstanceNormalization": instance_normalization,
    "GroupNormalization": group_normalization,
    "MeanVarianceNormalization": mean_variance_normalization,
    "LpNormalization": lp_normalization,
    "LRN": local_response_normalization,
}
