"""Three-valued evaluation, and the rules over it, against a row-by-row evaluation in Python."""

from __future__ import annotations

import operator as op
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sommelier.engine.plan import (
    AllOf,
    AnyOf,
    Binary,
    Compare,
    Condition,
    Constant,
    IsUnknown,
    LogicalPlan,
    MetricColumn,
    Negated,
    TextMatch,
    Value,
)
from sommelier.engine.predicates import Block, evaluate, numbers
from sommelier.engine.rules import optimize
from sommelier.records import TextPredicate
from sommelier.storage.resource_index import ColumnKey, ColumnView, MetricContext
from sommelier.units import Dimension

METRICS = ("memory", "flops", "params")
TASKS = (None, "ner", "ocr")
OPERATORS = {"<": op.lt, "<=": op.le, ">": op.gt, ">=": op.ge, "=": op.eq, "!=": op.ne}


@dataclass
class ArrayColumns:
    """Columns held as plain arrays: what the resource index is to the engine."""

    metrics: dict[str, np.ndarray]
    tasks: list[str | None]
    asked: list[TextPredicate] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.tasks)

    def column(self, key: ColumnKey) -> ColumnView:
        values = self.metrics[key.metric]
        unknown = np.full(len(values), np.nan)
        known = int((~np.isnan(values)).sum())
        codes = np.zeros(len(values), dtype=np.int8)
        context = MetricContext(None, None, None, None, known)
        return ColumnView(values, np.isnan(values), codes, unknown, unknown, context)

    def similarity(self, model_id: str) -> np.ndarray:
        raise AssertionError("no condition here asks for it")

    def text_mask(self, predicate: TextPredicate) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append(predicate)
        true = np.array([task is not None and task in predicate.values for task in self.tasks])
        return true, np.array([task is None for task in self.tasks])


constants = st.sampled_from([float("nan"), 0.0, 1.0, 2.0, 3.0]).map(Constant)
columns = st.sampled_from(METRICS).map(lambda m: MetricColumn(ColumnKey(m), Dimension.NUMBER))
values: st.SearchStrategy[Value] = st.recursive(
    columns | constants,
    lambda inner: st.builds(
        Binary, st.sampled_from("+-*/"), inner, inner, st.just(Dimension.NUMBER)
    ),
    max_leaves=3,
)
atoms: st.SearchStrategy[Condition] = (
    st.builds(Compare, st.sampled_from(list(OPERATORS)), columns, constants)
    | st.builds(Compare, st.sampled_from(list(OPERATORS)), values, values)
    | st.builds(IsUnknown, columns)
    | st.sampled_from(["ner", "ocr"]).map(lambda t: TextMatch(TextPredicate("task", "=", (t,))))
)
conditions: st.SearchStrategy[Condition] = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: AllOf(tuple(parts)))
        | st.lists(inner, min_size=2, max_size=3).map(lambda parts: AnyOf(tuple(parts)))
        | inner.map(Negated)
    ),
    max_leaves=8,
)
numbers_or_none = st.sampled_from([float("nan"), 0.0, 1.0, 2.0, 3.0])
rows = st.lists(
    st.tuples(numbers_or_none, numbers_or_none, numbers_or_none, st.sampled_from(TASKS)),
    min_size=1,
    max_size=12,
)


def table(given_rows: list[tuple[float, float, float, str | None]]) -> ArrayColumns:
    arrays = {m: np.array([row[i] for row in given_rows]) for i, m in enumerate(METRICS)}
    return ArrayColumns(arrays, [row[3] for row in given_rows])


def plain_number(value: Value, row: dict[str, float]) -> float | None:
    if isinstance(value, Constant):
        return None if value.value != value.value else value.value
    if isinstance(value, MetricColumn):
        number = row[value.key.metric]
        return None if number != number else number
    assert isinstance(value, Binary)
    left, right = plain_number(value.left, row), plain_number(value.right, row)
    if left is None or right is None or (value.operator == "/" and right == 0):
        return None
    return {"+": op.add, "-": op.sub, "*": op.mul, "/": op.truediv}[value.operator](left, right)


def plain_truth(condition: Condition, row: dict[str, float], task: str | None) -> bool | None:
    """Kleene's logic with None for unknown."""
    if isinstance(condition, Compare):
        left = plain_number(condition.left, row)
        right = plain_number(condition.right, row)
        return None if left is None or right is None else OPERATORS[condition.operator](left, right)
    if isinstance(condition, IsUnknown):
        return plain_number(condition.value, row) is None
    if isinstance(condition, TextMatch):
        return None if task is None else task in condition.predicate.values
    if isinstance(condition, Negated):
        inner = plain_truth(condition.part, row, task)
        return None if inner is None else not inner
    assert isinstance(condition, AllOf | AnyOf)
    parts = [plain_truth(part, row, task) for part in condition.parts]
    decided = isinstance(condition, AnyOf)
    if decided in parts:
        return decided
    return None if None in parts else not decided


def engine_truths(condition: Condition, block: Block) -> list[bool | None]:
    truth = evaluate(condition, block)
    assert not (truth.true & truth.unknown).any()
    return [
        True if true else None if unknown else False
        for true, unknown in zip(truth.true, truth.unknown, strict=True)
    ]


@given(conditions, rows)
@settings(max_examples=300, deadline=None)
def test_every_row_gets_its_kleene_truth(
    condition: Condition, given_rows: list[tuple[float, float, float, str | None]]
) -> None:
    expected = [
        plain_truth(condition, dict(zip(METRICS, row, strict=False)), row[3]) for row in given_rows
    ]
    assert engine_truths(condition, Block(table(given_rows))) == expected


@given(conditions, rows)
@settings(max_examples=300, deadline=None)
def test_rules_keep_the_rows_that_are_true(
    condition: Condition, given_rows: list[tuple[float, float, float, str | None]]
) -> None:
    block = Block(table(given_rows))
    rewritten = optimize(LogicalPlan(columns=(), where=condition)).where
    assert rewritten is not None
    before, after = evaluate(condition, block), evaluate(rewritten, block)
    np.testing.assert_array_equal(before.true, after.true)


@given(conditions, rows)
@settings(max_examples=100, deadline=None)
def test_a_block_of_some_rows_answers_as_the_whole_does(
    condition: Condition, given_rows: list[tuple[float, float, float, str | None]]
) -> None:
    source = table(given_rows)
    some = np.arange(len(given_rows))[::2]
    whole = engine_truths(condition, Block(source))
    assert engine_truths(condition, Block(source, some)) == [whole[i] for i in some]


def test_text_is_not_asked_for_when_numbers_have_decided() -> None:
    source = table([(1.0, 1.0, 1.0, "ner")])
    text = TextMatch(TextPredicate("task", "=", ("ner",)))
    never = Compare("<", MetricColumn(ColumnKey("memory"), Dimension.BYTES), Constant(0.0))
    plan = optimize(LogicalPlan(columns=(), where=AllOf((text, never))))
    assert plan.where is not None
    assert not evaluate(plan.where, Block(source)).true.any()
    assert source.asked == []


def test_division_by_zero_is_unknown() -> None:
    memory = MetricColumn(ColumnKey("memory"), Dimension.NUMBER)
    value = Binary("/", Constant(1.0), memory, Dimension.NUMBER)
    assert np.isnan(numbers(value, Block(table([(0.0, 0.0, 0.0, None)])))).all()
