"""Slopes of functions that are written out as several elementwise operators.

x * sigmoid(x), x * (1 + erf(x / sqrt 2)) / 2, x * tanh(softplus(x)) ...: taken one by one, the
product's rule multiplies the input's size with the gate's change, which is far from the function's
slope. Here the whole is one function of one number, and its slope is enclosed by interval
arithmetic on the cells of a grid, so that the result is an upper bound, not a sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sommelier.analysis.graph import Node
from sommelier.analysis.probabilities import sigmoid
from sommelier.analysis.propagation.extension import Array
from sommelier.analysis.propagation.site import ROUNDING, Bound, Reading, Site

CELL = 1 / 128  # width of a cell near 0: encloses GELU's slope 1.129 as less than 1.16
DENSE = 24.0  # where gates have long saturated; from here on cells grow
GROWTH = 1.02
FARTHEST = 1e12
DEPTH = 16  # operators a pattern may have


@dataclass(frozen=True, slots=True)
class Jet:
    """Enclosures of a value and of its derivative, one interval a cell."""

    low: Array
    high: Array
    slope_low: Array
    slope_high: Array


def function_of_one(site: Site) -> Bound | None:
    """The bound of an elementwise pattern that starts and ends at one tensor, if it is one."""
    found = _pattern(site)
    if found is None:
        return None
    source, nodes = found
    edges = _grid()
    try:
        with np.errstate(all="ignore"):
            jet = _enclose(site, source, nodes, edges)
    except _NotCoveredError:
        return None
    slopes = np.maximum(np.abs(jet.slope_low), np.abs(jet.slope_high))
    slopes = np.nan_to_num(slopes * (1 + ROUNDING), nan=np.inf)
    low, high = site.extension.lowest(source), site.extension.highest(source)

    def bound(at: Reading) -> Array:
        change = at.delta_of(source)
        first = np.searchsorted(edges, at[low] - change, side="right") - 1
        last = np.searchsorted(edges, at[high] + change, side="left")
        steepest = np.array([
            slopes[a:b].max(initial=0.0) if a >= 0 and b < len(edges) else np.inf
            for a, b in zip(first, last, strict=True)
        ])  # fmt: skip
        return np.where(change == 0, 0.0, steepest * change)

    return bound


class _NotCoveredError(Exception):
    """An operator of the pattern has no enclosure."""


def _grid() -> Array:
    """Edges of the cells: fine around 0, growing to the farthest number that is considered."""
    dense = np.arange(0.0, DENSE + CELL / 2, CELL)
    count = math.ceil(math.log(FARTHEST / DENSE) / math.log(GROWTH))
    far = DENSE * GROWTH ** np.arange(1, count + 1)
    half = np.concatenate([dense, far])
    return np.concatenate([-half[:0:-1], half])


def _pattern(site: Site) -> tuple[str, list[Node]] | None:
    """The one tensor that the operator is a function of, and the operators from it, in order.

    Operators are expanded, latest first, until a single tensor is left; nothing is expanded
    further than that.
    """
    situation = site.situation
    order = situation.order
    nodes = {site.node.outputs[0]: site.node}
    leaves = _moving(site, site.node)
    if len(leaves) < 2 or site.node.title not in ENCLOSURES:
        return None
    while len(leaves) > 1:
        latest = max(leaves, key=lambda name: order.get(name, -1))
        node = situation.producers.get(latest)
        if node is None or node.title not in ENCLOSURES or len(nodes) >= DEPTH:
            return None
        nodes[latest] = node
        leaves = (leaves - {latest}) | _moving(site, node)
    ordered = sorted(nodes.values(), key=lambda node: order[node.outputs[0]])
    return leaves.pop(), ordered


def _moving(site: Site, node: Node) -> set[str]:
    """Operands that are no weights."""
    return {n for n in node.inputs if n and n not in site.situation.constants}


def _enclose(site: Site, source: str, nodes: Sequence[Node], edges: Array) -> Jet:
    low, high = edges[:-1], edges[1:]
    jets = {source: Jet(low, high, np.ones(len(low)), np.ones(len(low)))}
    for node in nodes:
        operands = [_operand(site, name, jets, len(low)) for name in node.inputs if name]
        jets[node.outputs[0]] = ENCLOSURES[node.title](operands, Site(node, site.situation))
    return jets[nodes[-1].outputs[0]]


def _operand(site: Site, name: str, jets: dict[str, Jet], count: int) -> Jet:
    if name in jets:
        return jets[name]
    constant = site.situation.constants.get(name)
    if constant is None or constant.changed or constant.before.size != 1:
        raise _NotCoveredError
    value = np.full(count, float(constant.before.ravel()[0]))
    return Jet(value, value, np.zeros(count), np.zeros(count))


Enclosure = Callable[[list[Jet], Site], Jet]


def _product(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
    ends = np.array([x * y for x in a for y in b])
    unknown = np.isnan(ends).any(axis=0)  # infinity times 0
    low = np.where(unknown, -np.inf, ends.min(axis=0))
    return low, np.where(unknown, np.inf, ends.max(axis=0))


def _multiply(operands: list[Jet], _: Site) -> Jet:
    a, b = operands
    value = _product((a.low, a.high), (b.low, b.high))
    left = _product((a.slope_low, a.slope_high), (b.low, b.high))
    right = _product((b.slope_low, b.slope_high), (a.low, a.high))
    return Jet(*value, left[0] + right[0], left[1] + right[1])


def _add(operands: list[Jet], _: Site) -> Jet:
    a, b = operands
    return Jet(a.low + b.low, a.high + b.high, a.slope_low + b.slope_low,
               a.slope_high + b.slope_high)  # fmt: skip


def _negative(operands: list[Jet], _: Site) -> Jet:
    (a,) = operands
    return Jet(-a.high, -a.low, -a.slope_high, -a.slope_low)


def _subtract(operands: list[Jet], site: Site) -> Jet:
    return _add([operands[0], _negative(operands[1:], site)], site)


def _divide(operands: list[Jet], site: Site) -> Jet:
    b = operands[1]
    if np.any((b.low <= 0) & (b.high >= 0)):
        raise _NotCoveredError
    slope = _product((-1 / b.low**2, -1 / b.high**2), (b.slope_low, b.slope_high))
    return _multiply([operands[0], Jet(1 / b.high, 1 / b.low, *slope)], site)


def _power(operands: list[Jet], site: Site) -> Jet:
    exponent = float(operands[1].low[0])
    if exponent not in (2.0, 3.0):
        raise _NotCoveredError
    square = _square(operands[0])
    return square if exponent == 2.0 else _multiply([square, operands[0]], site)


def _square(a: Jet) -> Jet:
    ends = np.array([a.low**2, a.high**2])
    low = np.where((a.low <= 0) & (a.high >= 0), 0.0, ends.min(axis=0))
    slope = _product((2 * a.low, 2 * a.high), (a.slope_low, a.slope_high))
    return Jet(low, ends.max(axis=0), *slope)


def _monotone(
    function: Callable[[Array, Site], Array], slopes: Callable[[Array, Array, Site], list[Array]]
) -> Enclosure:
    """A function that never falls. slopes : low, high -> values that enclose its derivative."""

    def enclose(operands: list[Jet], site: Site) -> Jet:
        a = operands[0]
        ends = np.array(slopes(a.low, a.high, site))
        slope = _product((ends.min(axis=0), ends.max(axis=0)), (a.slope_low, a.slope_high))
        return Jet(function(a.low, site), function(a.high, site), *slope)

    return enclose


def _peaked(derivative: Callable[[Array], Array], top: float) -> Callable[..., list[Array]]:
    """Enclosure of an even derivative that falls away from its peak `top` at 0."""

    def slopes(low: Array, high: Array, _: Site) -> list[Array]:
        inside = (low <= 0) & (high >= 0)
        ends = [derivative(low), derivative(high)]
        return [*ends, np.where(inside, top, ends[0])]

    return slopes


def _bell(x: Array) -> Array:
    """The sigmoid's derivative, without the cancellation that would lose its tail."""
    decay = np.exp(-np.abs(x))
    return np.asarray(decay / (1 + decay) ** 2)


def _erf(x: Array, _: Site) -> Array:
    from scipy.special import erf

    return np.asarray(erf(x))


def _steps(low: Array, high: Array, ends: tuple[float, float], slope: float) -> list[Array]:
    """Derivative of a ramp: `slope` between two points, 0 outside."""
    touches = (high >= ends[0]) & (low <= ends[1])
    within = (low >= ends[0]) & (high <= ends[1])
    return [np.where(touches, slope, 0.0), np.where(within, slope, 0.0)]


def _hard_sigmoid(operands: list[Jet], site: Site) -> Jet:
    alpha, beta = float(site.attribute("alpha", 0.2)), float(site.attribute("beta", 0.5))
    if alpha <= 0:
        raise _NotCoveredError
    return _monotone(
        lambda x, _: np.clip(alpha * x + beta, 0, 1),
        lambda low, high, _: _steps(low, high, (-beta / alpha, (1 - beta) / alpha), alpha),
    )(operands, site)


def _clip(operands: list[Jet], site: Site) -> Jet:
    low, high = (_limit(site, 1, "min", -math.inf), _limit(site, 2, "max", math.inf))
    return _monotone(
        lambda x, _: np.minimum(np.maximum(x, low), high),
        lambda left, right, _: _steps(left, right, (low, high), 1.0),
    )(operands[:1], site)


def _limit(site: Site, operand: int, name: str, default: float) -> float:
    if site.has(operand):
        return float(site.fixed(operand, name).ravel()[0])
    return float(site.attribute(name, default))


ENCLOSURES: dict[str, Enclosure] = {
    "Add": _add,
    "Sub": _subtract,
    "Mul": _multiply,
    "Div": _divide,
    "Neg": _negative,
    "Pow": _power,
    "Identity": lambda operands, _: operands[0],
    "Sigmoid": _monotone(lambda x, _: sigmoid(x), _peaked(_bell, 0.25)),
    "Tanh": _monotone(lambda x, _: np.tanh(x), _peaked(lambda x: 4 * _bell(2 * x), 1.0)),
    "Erf": _monotone(_erf, _peaked(lambda x: 2 / math.sqrt(math.pi) * np.exp(-(x**2)),
                                   2 / math.sqrt(math.pi))),
    "Softplus": _monotone(lambda x, _: np.logaddexp(0, x),
                          lambda low, high, _: [sigmoid(low), sigmoid(high)]),
    "Relu": _monotone(lambda x, _: np.maximum(x, 0),
                      lambda low, high, _: _steps(low, high, (0.0, math.inf), 1.0)),
    "HardSigmoid": _hard_sigmoid,
    "Clip": _clip,
}  # fmt: skip
"""Operator -> enclosure of its value and slope from those of its operands."""
