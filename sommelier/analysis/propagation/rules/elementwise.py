"""Operators on several operands of one shape, or of shapes that broadcast (B.4 rows 35-41).

An operand that is repeated k times along other axes counts sqrt(k) times its norm. Changes of two
operands are never taken as independent: residual branches come from the same input.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.propagation.extension import FLOATING, Array, Quantity
from sommelier.analysis.propagation.site import (
    Bound,
    Reading,
    Residual,
    Rule,
    Site,
    UnboundedError,
)
from sommelier.analysis.propagation.weights import Constant


def _roots(site: Site) -> list[float]:
    """sqrt(repeats) of every operand."""
    return [math.sqrt(site.repeats(i)) for i in range(len(site.node.inputs))]


def add(site: Site) -> Bound:
    """Row 35: Add, Sub, Sum."""
    roots = _roots(site)
    return lambda at: np.sum([root * at.delta(i) for i, root in enumerate(roots)], axis=0)


def mean(site: Site) -> Bound:
    """Row 41: Mean."""
    total, count = add(site), len(site.node.inputs)
    return lambda at: np.asarray(total(at)) / count


def choose(site: Site) -> Bound:
    """Row 41: Max, Min: each element changes by at most the largest change among the operands."""
    roots = _roots(site)
    return lambda at: np.sqrt(
        np.sum([(root * at.delta(i)) ** 2 for i, root in enumerate(roots)], axis=0)
    )


def where(site: Site) -> Bound:
    """Row 41: Where, when both models choose alike."""
    site.refuse_reached(0, "condition")
    roots = _roots(site)
    return lambda at: np.hypot(roots[1] * at.delta(1), roots[2] * at.delta(2))


def multiply(site: Site) -> Bound:
    """Rows 37 and 38."""
    for place in (1, 0):
        weight = site.constant(place)
        if weight is not None:
            return _scaled(site, 1 - place, weight)
    slabs = [site.extension.slab(site.name(i), _own_axes(site, i, 1 - i)) for i in (0, 1)]

    def bound(at: Reading) -> Array:
        a, b = at.delta(0), at.delta(1)
        size_a, size_b = at[slabs[0]], at[slabs[1]]
        one = size_a * b + (size_b + b) * a
        return np.asarray(np.minimum(one, (size_a + a) * b + size_b * a))

    return bound


def _own_axes(site: Site, operand: int, other: int) -> tuple[int, ...]:
    """Axes of `operand` itself along which the other operand is repeated."""
    shift = len(site.output_shape()) - len(site.shape(operand))
    return tuple(i - shift for i in site.broadcast_axes(other) if i >= shift)


def _slab(array: NDArray[np.float64], axes: tuple[int, ...]) -> float:
    """The largest L2 norm over some axes."""
    if array.size == 0:
        return 0.0
    return float(np.sqrt(np.max(np.sum(np.square(array), axis=axes))) if axes else abs(array).max())


def _scaled(site: Site, operand: int, factor: Constant) -> Bound:
    """x times a weight c: max|c'| d + ||x (c' - c)||; where x is repeated, norms of c over that."""
    axes = _own_axes(site, 1 - operand, operand)
    steepest = _slab(np.asarray(factor.after, np.float64), axes)
    residual = _factor_residual(site, operand, factor, axes)
    return lambda at: steepest * at.delta(operand) + at[residual]


def _factor_residual(site: Site, operand: int, factor: Constant, axes: tuple[int, ...]) -> Residual:
    if not factor.changed:
        return Residual()
    extension, difference = site.extension, factor.difference
    stored = extension.constant(difference.astype(np.float32))
    product = extension.node("Mul", [extension.real(site.name(operand)), stored])
    return site.differing(product, _slab(difference, axes), operand=operand)


def divide(site: Site) -> Bound:
    """Rows 38 and 39: by a weight, or by an activation that stays away from 0."""
    if site.situation.graph.tensor(site.node.outputs[0]).dtype not in (0, *FLOATING):
        raise UnboundedError("it divides integers, which rounds")
    divisor = site.constant(1)
    if divisor is not None:
        before, after = (np.asarray(v, np.float64) for v in (divisor.before, divisor.after))
        if not (np.all(before) and np.all(after)):
            raise UnboundedError("its divisor holds 0")
        inverse = 1 / before
        return _scaled(site, 0, Constant(inverse, 1 / after if divisor.changed else inverse))
    smallest = site.extension.smallest(site.name(1))
    root = math.sqrt(site.repeats(0))
    axes = _own_axes(site, 0, 1)
    numerator = site.constant(0)
    size: Quantity | float = (
        site.extension.slab(site.name(0), axes)
        if numerator is None
        else _slab(np.asarray(numerator.before, np.float64), axes)
    )

    def bound(at: Reading) -> Array:
        host = np.maximum(at[smallest], 0.0)
        twin = host - at.delta(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = root * at.delta(0) / twin + at[size] * at.delta(1) / (host * twin)
        still = (at.delta(0) == 0) & (at.delta(1) == 0)
        return np.where(still, 0.0, np.where(twin > 0, found, np.inf))

    return bound


ELEMENTWISE: dict[str, Rule] = {
    **dict.fromkeys(("Add", "Sub", "Sum"), add),
    "Mean": mean,
    **dict.fromkeys(("Max", "Min"), choose),
    "Where": where,
    "Mul": multiply,
    "Div": divide,
}
