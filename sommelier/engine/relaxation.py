"""The nearest change to a condition that would let a model through."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sommelier.engine import wording
from sommelier.engine.plan import AllOf, AnyOf, Compare, Condition, Constant
from sommelier.engine.predicates import Block, Columns, evaluate, numbers
from sommelier.units import Dimension, format_value

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Relaxation:
    """`text` would let the model at `row` match; change : how far, as a share of the bound."""

    row: int
    change: float
    text: str


def nearest(condition: Condition, block: Block) -> Relaxation | None:
    """The smallest relaxation of one condition that admits some row of the block.

    None where only another value, not another bound, would help.
    """
    if isinstance(condition, AnyOf):
        found = [r for part in condition.parts if (r := nearest(part, block)) is not None]
        return min(found, key=lambda r: r.change, default=None)
    if isinstance(condition, AllOf):
        return _joint(condition, block)
    if not isinstance(condition, Compare) or not isinstance(condition.right, Constant):
        return None
    if condition.operator not in ("<", "<=", ">", ">="):
        return None
    values = numbers(condition.left, block)
    if math.isnan(condition.right.value) or np.isnan(values).all():
        return None
    upper = condition.operator[0] == "<"
    at = int(np.nanargmin(values) if upper else np.nanargmax(values))
    value, bound = float(values[at]), condition.right.value
    change = abs(value - bound) / (abs(bound) or 1.0)
    text = f"{wording.value_text(condition.left)} {condition.operator} {_written(condition, value)}"
    return Relaxation(int(block.row_numbers[at]), change, text)


def single_changes(
    conditions: Sequence[Condition],
    without: Callable[[tuple[Condition, ...]], Rows],
    columns: Columns,
) -> list[Relaxation]:
    """For each condition the change of it alone that admits some row, the smallest change first.

    without : the rows that satisfy these conditions alone, the others left out. A text reads 'with
    memory < 90 MB', or 'without ...' where no other bound would help.
    """
    found = []
    for number, condition in enumerate(conditions):
        rows = without(tuple(c for i, c in enumerate(conditions) if i != number))
        if not len(rows):
            continue
        relaxed = nearest(condition, Block(columns, rows))
        if relaxed is not None:
            found.append(replace(relaxed, text=f"with {relaxed.text}"))
        else:
            text = f"without {wording.condition_text(condition)}"
            found.append(Relaxation(int(rows[0]), math.inf, text))
    return sorted(found, key=lambda change: (change.change, change.row))


def _joint(condition: AllOf, block: Block) -> Relaxation | None:
    """A conjunction inside an OR: the one failing part, for rows where only one part fails."""
    truths = [evaluate(part, block).true for part in condition.parts]
    best: Relaxation | None = None
    for number, part in enumerate(condition.parts):
        others = [truth for i, truth in enumerate(truths) if i != number]
        rows = block.row_numbers[np.logical_and.reduce(others) & ~truths[number]]
        found = nearest(part, Block(block.columns, rows, block.answers)) if len(rows) else None
        if found is not None and (best is None or found.change < best.change):
            best = found
    return best


def _written(condition: Compare, value: float) -> str:
    """The new bound as it would be written: a percent where it was one, else a quantity."""
    bound = condition.right
    assert isinstance(bound, Constant)
    up = condition.operator[0] == "<"
    strict = len(condition.operator) == 1
    if bound.basis and bound.origin:
        share = rounded(value / bound.basis * 100, up=up, strict=strict, digits=3)
        return f"{share:.10g}%"
    digits = 4 if bound.dimension is Dimension.FRACTION else 3
    return format_value(rounded(value, up=up, strict=strict, digits=digits), bound.dimension)


def rounded(value: float, *, up: bool, strict: bool, digits: int) -> float:
    """The nearest number of so many significant digits that `value` satisfies as a bound.

    >>> rounded(92.31, up=True, strict=True, digits=3)
    92.4
    >>> rounded(92.0, up=True, strict=True, digits=3)
    92.1
    >>> rounded(0.7368, up=False, strict=False, digits=3)
    0.736
    """
    if value == 0 or not math.isfinite(value):
        return value
    exponent = math.floor(math.log10(abs(value))) - digits + 1
    scale = 10.0**-exponent if exponent < 0 else 1 / 10.0**exponent
    scaled = value * scale
    close = abs(scaled - round(scaled)) < 1e-9 * max(1.0, abs(scaled))
    whole = round(scaled) if close else (math.ceil(scaled) if up else math.floor(scaled))
    if strict and close:
        whole += 1 if up else -1
    return whole / scale
