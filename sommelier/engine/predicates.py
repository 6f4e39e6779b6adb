"""Conditions over blocks of models with three-valued logic: TRUE, FALSE, or UNKNOWN.

A number that is not known makes its comparison UNKNOWN, never false and never zero; AND, OR and
NOT follow Kleene. A row is kept only when its condition is TRUE; the unknown ones are counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sommelier.engine.plan import (
    AllOf,
    AnswerColumn,
    AnswerMatch,
    AnyOf,
    Binary,
    Compare,
    Condition,
    Constant,
    IsUnknown,
    MetricColumn,
    Negated,
    Similarity,
    TextMatch,
    Value,
)
from sommelier.storage.resource_index import ColumnKey, ColumnView

if TYPE_CHECKING:
    from sommelier.records import TextPredicate

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Objects = NDArray[np.object_]


class Columns(Protocol):
    """The numbers and text masks of every model, in row order."""

    @property
    def size(self) -> int: ...
    def column(self, key: ColumnKey) -> ColumnView: ...
    def similarity(self, model_id: str) -> Floats: ...
    def text_mask(self, predicate: TextPredicate) -> tuple[Mask, Mask]: ...


class Answers(Protocol):
    """What CORR answered about the rows that passed it."""

    def number(self, name: str, rows: Rows) -> Floats: ...
    def text(self, name: str, rows: Rows) -> Objects: ...


@dataclass(frozen=True, slots=True)
class Truth:
    """Two disjoint masks over the rows of a block; what is in neither is false."""

    true: Mask
    unknown: Mask


@dataclass(frozen=True, slots=True)
class Block:
    """The models a condition is asked about. rows None: all of them, in row order."""

    columns: Columns
    rows: Rows | None = None
    answers: Answers | None = None

    @property
    def length(self) -> int:
        return self.columns.size if self.rows is None else len(self.rows)

    def taken(self, values: NDArray[Any]) -> NDArray[Any]:
        return values if self.rows is None else values[self.rows]

    @property
    def known_answers(self) -> Answers:
        assert self.answers is not None, "the planner puts conditions on answers after CORR"
        return self.answers

    @property
    def row_numbers(self) -> Rows:
        return np.arange(self.columns.size) if self.rows is None else self.rows


# ---- numbers


@singledispatch
def numbers(value: Value, _block: Block) -> Floats:
    """The value for every row of the block, NaN where it is unknown."""
    raise TypeError(f"no numbers for {type(value).__name__}")


@numbers.register
def _constant(value: Constant, block: Block) -> Floats:
    return np.full(block.length, value.value)


@numbers.register
def _metric(value: MetricColumn, block: Block) -> Floats:
    return block.taken(block.columns.column(value.key).values)


@numbers.register
def _similarity(value: Similarity, block: Block) -> Floats:
    return block.taken(block.columns.similarity(value.model_id))


@numbers.register
def _answer(value: AnswerColumn, block: Block) -> Floats:
    return block.known_answers.number(value.name, block.row_numbers)


@numbers.register
def _binary(value: Binary, block: Block) -> Floats:
    left, right = numbers(value.left, block), numbers(value.right, block)
    if value.operator == "+":
        return left + right
    if value.operator == "-":
        return left - right
    if value.operator == "*":
        return left * right
    divisor = np.where(right == 0, np.nan, right)
    return np.asarray(left / divisor)


# ---- truth


@singledispatch
def evaluate(condition: Condition, _block: Block) -> Truth:
    """For which rows of the block the condition is true, and for which it is unknown."""
    raise TypeError(f"no evaluation for {type(condition).__name__}")


@evaluate.register
def _compare(condition: Compare, block: Block) -> Truth:
    left, right = _side(condition.left, block), _side(condition.right, block)
    unknown = _unknown(condition, left, right, block)
    true = _OPERATORS[condition.operator](left, right)
    if np.ndim(true) == 0:  # two constants
        true, unknown = np.full(block.length, true), np.full(block.length, unknown)
    if condition.operator == "!=":
        true &= ~unknown  # NaN != x is true for numpy and unknown for us
    return Truth(true, unknown)


def _side(value: Value, block: Block) -> Any:
    """A constant stays one number, so that numpy compares without a second column."""
    return np.float64(value.value) if isinstance(value, Constant) else numbers(value, block)


def _unknown(condition: Compare, left: Any, right: Any, block: Block) -> Any:
    """Where a side is unknown; a column compared with a known number was asked before."""
    column, bound = condition.left, condition.right
    if isinstance(column, MetricColumn) and isinstance(bound, Constant) and not np.isnan(right):
        return block.taken(block.columns.column(column.key).unknown)
    return np.isnan(left) | np.isnan(right)


@evaluate.register
def _text(condition: TextMatch, block: Block) -> Truth:
    true, unknown = block.columns.text_mask(condition.predicate)
    return Truth(block.taken(true), block.taken(unknown & ~true))


@evaluate.register
def _answer_text(condition: AnswerMatch, block: Block) -> Truth:
    found = block.known_answers.text(condition.name, block.row_numbers)
    true = np.array([word in condition.options for word in found], dtype=bool)
    return Truth(true, np.array([word is None for word in found], dtype=bool))


@evaluate.register
def _is_unknown(condition: IsUnknown, block: Block) -> Truth:
    true = np.isnan(numbers(condition.value, block))
    return Truth(true, np.zeros(block.length, dtype=bool))


@evaluate.register
def _negated(condition: Negated, block: Block) -> Truth:
    inner = evaluate(condition.part, block)
    return Truth(~(inner.true | inner.unknown), inner.unknown)


@evaluate.register
def _all_of(condition: AllOf, block: Block) -> Truth:
    result = evaluate(condition.parts[0], block)
    for part in condition.parts[1:]:
        if not (result.true.any() or result.unknown.any()):
            break  # nothing can become true any more: the rest is not looked at
        other = evaluate(part, block)
        unknown = (result.unknown & (other.true | other.unknown)) | (result.true & other.unknown)
        result = Truth(result.true & other.true, unknown)
    return result


@evaluate.register
def _any_of(condition: AnyOf, block: Block) -> Truth:
    parts = [evaluate(part, block) for part in condition.parts]
    true = np.logical_or.reduce([part.true for part in parts])
    unknown = np.logical_or.reduce([part.unknown for part in parts])
    return Truth(true, unknown & ~true)


_OPERATORS: dict[str, Any] = {
    "=": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}
