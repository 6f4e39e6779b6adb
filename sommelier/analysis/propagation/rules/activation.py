"""Elementwise functions (algorithms.md B.4 rows 13-24, 40): their steepest slope, and their range.

A slope alone says nothing once the change is large; where the function's values stay in an
interval, no element changes by more than its width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

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

# Steepest slopes: maxima of the derivatives, rounded up in the fifth decimal (algorithms.md B.4).
ERF = 2 / math.sqrt(math.pi)
GELU = 1.12905  # 1.12890 with erf, 1.12900 with tanh
SILU = 1.09985
MISH = 1.08851
HARD_SWISH = 1.5
SELU_GAMMA, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


def lipschitz(slope: float, width: float = math.inf) -> Rule:
    """The rule of a function with this slope whose values lie in an interval of this width."""

    def rule(site: Site) -> Bound:
        return _sloped(site, slope, width)

    return rule


def _sloped(site: Site, slope: float, width: float = math.inf) -> Bound:
    if math.isinf(width):
        return lambda at: slope * at.delta()
    most = width * math.sqrt(site.output_elements())
    return lambda at: np.minimum(slope * at.delta(), most)


def clip(site: Site) -> Bound:
    """Row 13: between two numbers; a number that differs in the twin moves every element."""
    shift, ends = 0.0, []
    for operand, name in ((1, "min"), (2, "max")):
        value = site.constant(operand)
        if value is not None:
            shift += float(np.abs(value.difference).max())
            ends.append(value.after)
        elif site.has(operand):
            raise UnboundedError(f"its {name} is computed from the input")
        elif site.attribute(name) is not None:
            ends.append(np.asarray(site.attribute(name)))
    root = math.sqrt(site.output_elements())
    width = float(ends[1] - ends[0]) + shift if len(ends) == 2 else math.inf
    return lambda at: np.minimum(at.delta() + shift * root, max(width, 0.0) * root)


def dropout(site: Site) -> Bound:
    """Row 13 at inference; in training it is random."""
    if site.has(2) and np.any(site.fixed(2, "training mode")):
        raise UnboundedError("it is in training mode")
    return _sloped(site, 1.0)


def leaky_relu(site: Site) -> Bound:
    """Row 14."""
    return _sloped(site, max(1.0, abs(float(site.attribute("alpha", 0.01)))))


def prelu(site: Site) -> Bound:
    """Row 14, with slopes that are weights: what differs in them acts on the negative part."""
    slope = site.weight(1, "slope")
    steepest = max(1.0, float(np.abs(slope.after).max()))
    residual = Residual()
    if slope.changed:
        extension = site.extension
        negative = extension.node("Relu", [extension.node("Neg", [extension.real(site.name())])])
        factor = extension.constant(slope.difference.astype(np.float32))
        gain = float(np.abs(slope.difference).max())
        residual = site.differing(extension.node("Mul", [negative, factor]), gain)
    return lambda at: steepest * at.delta() + at[residual]


def thresholded_relu(site: Site) -> Bound:
    """Row 15: jumps by alpha at alpha."""
    if float(site.attribute("alpha", 1.0)) == 0:
        return _sloped(site, 1.0)
    raise UnboundedError("it is discontinuous")


def shrink(site: Site) -> Bound:
    """Soft thresholding when its bias equals its threshold of 0 or more; otherwise it jumps."""
    threshold = float(site.attribute("lambd", 0.5))
    if float(site.attribute("bias", 0.0)) == threshold >= 0:
        return _sloped(site, 1.0)
    raise UnboundedError("it is discontinuous")


def hard_sigmoid(site: Site) -> Bound:
    """Row 23."""
    return _sloped(site, abs(float(site.attribute("alpha", 0.2))), 1.0)


def elu(site: Site) -> Bound:
    """Row 24."""
    return _sloped(site, max(1.0, abs(float(site.attribute("alpha", 1.0)))))


def celu(site: Site) -> Bound:
    """Row 17: max(0, x) + min(0, alpha (exp(x / alpha) - 1)) has slope 1 for alpha > 0."""
    if float(site.attribute("alpha", 1.0)) <= 0:
        raise UnboundedError("its alpha is not positive")
    return _sloped(site, 1.0)


def selu(site: Site) -> Bound:
    """Row 24."""
    gamma = abs(float(site.attribute("gamma", SELU_GAMMA)))
    return _sloped(site, gamma * max(1.0, abs(float(site.attribute("alpha", SELU_ALPHA)))))


def swish(site: Site) -> Bound:
    """Row 20: x sigmoid(alpha x); alpha stretches the axis, so the slope is that of SiLU."""
    return _sloped(site, SILU)


def _on_range(slope: Callable[[Array, Array], Array]) -> Rule:
    """Row 40: the steepest slope between the smallest and the largest value of host and twin."""

    def rule(site: Site) -> Bound:
        low, high = site.extension.lowest(site.name()), site.extension.highest(site.name())

        def bound(at: Reading) -> Array:
            change = at.delta()
            with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
                found = slope(at[low] - change, at[high] + change) * change
            return np.where(change == 0, 0.0, np.nan_to_num(found, nan=np.inf, posinf=np.inf))

        return bound

    return rule


def _above_zero(slope: Callable[[Array], Array]) -> Callable[[Array, Array], Array]:
    return lambda low, _: np.where(low > 0, slope(np.maximum(low, 1e-300)), np.inf)


def _reciprocal_slope(low: Array, high: Array) -> Array:
    nearest = np.maximum(low, -high)  # positive where the range does not hold 0
    return np.where(nearest > 0, 1 / np.maximum(nearest, 1e-150) ** 2, np.inf)


def square_root(site: Site) -> Bound:
    """Row 40; and |sqrt a - sqrt b| <= sqrt |a - b|, which holds where the slope is infinite."""
    steep = _on_range(_above_zero(lambda low: 0.5 / np.sqrt(low)))(site)
    fourth = site.elements() ** 0.25
    return lambda at: np.minimum(np.asarray(steep(at)), fourth * np.sqrt(at.delta()))


def power(site: Site) -> Bound:
    """Row 40, for one exponent that is a weight."""
    site.refuse_reached(1, "exponent")
    exponents = np.asarray(site.fixed(1, "exponent"), np.float64).ravel()
    if exponents.size != 1:
        raise UnboundedError("its exponents differ by element")
    p = float(exponents[0])
    if p in (0.0, 1.0):
        return _sloped(site, p)
    if p == 2.0:
        largest = site.largest()
        return lambda at: (2 * at[largest] + at.delta()) * at.delta()
    if p == 0.5:
        return square_root(site)
    whole = p > 1 and p.is_integer()

    def slope(low: Array, high: Array) -> Array:
        ends = np.maximum(np.abs(low), np.abs(high)) if p > 1 else low
        steepest = abs(p) * np.maximum(ends, 1e-300) ** (p - 1)
        return np.asarray(np.where((low > 0) | whole, steepest, np.inf))

    return _on_range(slope)(site)


def rounding(site: Site) -> Bound:
    """As row 50 with scale 1: two numbers that are rounded part by less than 1 more."""
    root = math.sqrt(site.output_elements())
    return lambda at: np.where(at.delta() > 0, at.delta() + root, 0.0)


ACTIVATION: dict[str, Rule] = {
    **dict.fromkeys(
        ("Relu", "Identity", "Softplus", "Abs", "Neg"), lipschitz(1.0)
    ),
    **dict.fromkeys(("Tanh", "Softsign", "Sin", "Cos"), lipschitz(1.0, 2.0)),
    "Dropout": dropout,
    "Atan": lipschitz(1.0, math.pi),
    "Asinh": lipschitz(1.0),
    "Clip": clip,
    "LeakyRelu": leaky_relu,
    "PRelu": prelu,
    "ThresholdedRelu": thresholded_relu,
    "Shrink": shrink,
    "Sigmoid": lipschitz(0.25, 1.0),
    "HardSigmoid": hard_sigmoid,
    "Erf": lipschitz(ERF, 2.0),
    "Gelu": lipschitz(GELU),
    "com.microsoft:Gelu": lipschitz(GELU),
    "com.microsoft:QuickGelu": swish,
    "Swish": swish,
    "HardSwish": lipschitz(HARD_SWISH),
    "Mish": lipschitz(MISH),
    "Elu": elu,
    "Celu": celu,
    "Selu": selu,
    "Exp": _on_range(lambda _, high: np.exp(high)),
    "Log": _on_range(_above_zero(lambda low: 1 / low)),
    "Sqrt": square_root,
    "Reciprocal": _on_range(_reciprocal_slope),
    "Pow": power,
    "Sinh": _on_range(lambda low, high: np.cosh(np.maximum(np.abs(low), np.abs(high)))),
    **dict.fromkeys(("Floor", "Ceil", "Round"), rounding),
}  # fmt: skip
