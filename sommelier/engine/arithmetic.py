"""What arithmetic does to dimensions and to constants."""

from __future__ import annotations

from sommelier.engine.plan import Binary, Constant, Value
from sommelier.units import Dimension, format_value

PURE = (Dimension.FRACTION, Dimension.NUMBER, Dimension.COUNT)
"""Dimensions that may be added to each other: they are plain numbers."""


SCALARS = (Dimension.FRACTION, Dimension.NUMBER)
"""Dimensions that leave another one as it is when they multiply it."""


def compatible(one: Dimension, other: Dimension) -> bool:
    return one is other or (one in PURE and other in PURE)


def product_dimension(operator: str, left: Dimension, right: Dimension) -> Dimension:
    """What `left operator right` measures, for * and /.

    bytes / bytes, flops / params and 1 / ms are numbers whose unit the language does not name.

    >>> product_dimension("*", Dimension.NUMBER, Dimension.BYTES).value
    'bytes'
    >>> product_dimension("/", Dimension.BYTES, Dimension.BYTES).value
    'number'
    """
    if right in SCALARS:
        return Dimension.NUMBER if left in SCALARS else left
    return right if left in SCALARS and operator == "*" else Dimension.NUMBER


def fold(operator: str, left: Value, right: Value, dimension: Dimension) -> Value:
    """The operation, already done when both sides are constant."""
    if isinstance(left, Constant) and isinstance(right, Constant):
        value = calculate(operator, left.value, right.value)
        return Constant(value, dimension, origin=_origin(operator, left, right))
    return Binary(operator, left, right, dimension)


def _origin(operator: str, left: Constant, right: Constant) -> str | None:
    if left.origin is None and right.origin is None:
        return None
    sides = (c.origin or format_value(c.value, c.dimension) for c in (left, right))
    return f" {operator} ".join(sides)


def calculate(operator: str, left: float, right: float) -> float:
    """Plain arithmetic; division by zero is unknown (NaN)."""
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    return left / right if right else float("nan")
