"""Runs a plan: a pipeline of stages, each of which narrows or orders the rows and reports it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.engine import wording
from sommelier.engine.corr_stage import corr_stage
from sommelier.engine.ordering import SortKey, ordered
from sommelier.engine.outputs import default_order
from sommelier.engine.plan import (
    AnswerColumn,
    Condition,
    LogicalPlan,
    MetricColumn,
    OrderKey,
    SourcePlan,
    TextColumn,
)
from sommelier.engine.predicates import Block, evaluate, numbers
from sommelier.engine.selection import pick_rows
from sommelier.engine.skipped import models, skipped_notes
from sommelier.engine.state import Stage, State, Step, run_stage
from sommelier.engine.world import World
from sommelier.records import TextPredicate
from sommelier.storage.resource_index import ColumnKey
from sommelier.units import Dimension

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]


def execute(plan: LogicalPlan, world: World) -> State:
    """The rows that answer the plan, in order, with a report per stage."""
    state = State(world.listed(plan.including))
    for name, stage in STAGES:
        run_stage(name, stage, plan, state, world)
    state.row_numbers()
    return state


# ---- filters


def source_stage(plan: LogicalPlan, state: State, world: World) -> Step:
    """Keeps the models of the named sources; all of them without FROM."""
    if plan.sources:
        masks = [source_mask(s, world) for s in plan.sources]
        listed = state.mask  # a pool or query says itself which proposals it has
        masks = [
            m & listed if s.kind == "source" else m
            for s, m in zip(plan.sources, masks, strict=True)
        ]
        state.mask = np.logical_or.reduce(masks)
    return Step(lambda: wording.source_text(plan.sources))


def source_mask(source: SourcePlan, world: World) -> Mask:
    if source.kind == "source":
        return world.text_mask(TextPredicate("source", "=", (source.name or "",)))[0]
    mask = np.zeros(world.size, dtype=bool)
    if source.plan is not None:
        mask[execute(source.plan, world).row_numbers()] = True
    else:
        rows = world.facts.resources.rows(source.ids)
        mask[rows[rows >= 0]] = True
    return mask


def where_stage(plan: LogicalPlan, state: State, world: World) -> Step | None:
    return _filter(plan.where, state, world)


def on_stage(plan: LogicalPlan, state: State, world: World) -> Step | None:
    return _filter(plan.on, state, world)


def _filter(condition: Condition | None, state: State, world: World) -> Step | None:
    """Keeps the rows for which the condition is TRUE; notes why others are unknown."""
    if condition is None:
        return None
    truth = evaluate(condition, Block(world))
    unknown = truth.unknown & state.mask
    count = int(np.count_nonzero(unknown))
    state.mask = state.mask & truth.true
    if count:
        state.notes += skipped_notes(condition, np.flatnonzero(unknown), world)
    return Step(lambda: wording.condition_text(condition), unknown=count)


def having_stage(plan: LogicalPlan, state: State, world: World) -> Step | None:
    """Conditions of WHERE on CORR's answers, over the rows that passed it."""
    condition = plan.having
    if condition is None:
        return None
    block = state.block(world)
    truth = evaluate(condition, block)
    state.rows = state.row_numbers()[truth.true]
    return Step(
        lambda: wording.condition_text(condition), unknown=int(np.count_nonzero(truth.unknown))
    )


# ---- choice and order


def distinct_stage(plan: LogicalPlan, state: State, world: World) -> Step | None:
    """Keeps the first row, in order, of those that show the same values."""
    if not plan.distinct:
        state.matched = state.count
        return None
    rows = ordered(state.row_numbers(), sort_keys(_full_order(plan), state, world))
    columns = [gather(column.value, rows, state, world) for column in plan.columns]
    first: dict[tuple[Any, ...], int] = {}
    for position in range(len(rows)):
        shown = tuple(_comparable(column[position]) for column in columns)
        first.setdefault(shown, position)
    state.rows = rows[np.fromiter(first.values(), dtype=np.int64, count=len(first))]
    state.matched = len(state.rows)
    names = ", ".join(column.name for column in plan.columns)
    return Step(lambda: f"distinct {names}")


def _comparable(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return None if isinstance(value, float) and value != value else value


def pick_stage(plan: LogicalPlan, state: State, world: World) -> Step | None:
    pick = plan.pick
    if pick is None:
        return None
    keys = sort_keys(pick.keys, state, world)
    ties = sort_keys(default_order(plan.corr is not None, MEMORY), state, world)
    before = state.row_numbers()
    if pick.kind == "best":
        before = _shortened(before, pick.keys, pick.top, state)
    state.rows, unknown = pick_rows(pick, before, keys, ties)
    for key, count in zip(pick.keys, unknown, strict=False):
        if count:
            value = wording.value_text(key.value)
            state.notes.append(f"{models(count)} left out of PICK: {value} is unknown")
    return Step(lambda: wording.pick_text(pick), unknown=max(unknown, default=0))


def order_stage(plan: LogicalPlan, state: State, world: World) -> Step | None:
    """Sorts; with a limit only as many rows as are returned. PICK without ORDER BY is sorted."""
    if plan.pick is not None and not plan.order:
        return None
    order = _full_order(plan)
    rows = _shortened(state.row_numbers(), order, plan.keep, state)
    state.rows = ordered(rows, sort_keys(order, state, world), plan.keep)
    return Step(lambda: wording.order_text(plan.order or order))


def _shortened(rows: Rows, order: tuple[OrderKey, ...], keep: int | None, state: State) -> Rows:
    """The rows that the first `keep` can be among, where CORR has sorted them already."""
    first = order[0]
    by_equivalence = isinstance(first.value, AnswerColumn) and first.value.name == "equivalence"
    if keep is None or state.answers is None or not by_equivalence or not first.descending:
        return rows
    return state.answers.first(rows, keep)


def limit_stage(plan: LogicalPlan, state: State, _world: World) -> Step | None:
    if plan.limit is None and not plan.offset:
        return None
    stop = None if plan.limit is None else plan.offset + plan.limit
    state.rows = state.row_numbers()[plan.offset : stop]
    offset = f", from row {plan.offset + 1}" if plan.offset else ""
    limit = "all" if plan.limit is None else plan.limit
    return Step(lambda: f"{limit}{offset}")


STAGES: tuple[tuple[str, Stage], ...] = (
    ("source", source_stage),
    ("where", where_stage),
    ("on", on_stage),
    ("corr", corr_stage),
    ("having", having_stage),
    ("distinct", distinct_stage),
    ("pick", pick_stage),
    ("order", order_stage),
    ("limit", limit_stage),
)

MEMORY = MetricColumn(ColumnKey("memory"), Dimension.BYTES)


def _full_order(plan: LogicalPlan) -> tuple[OrderKey, ...]:
    """What was asked for, then the default order, so that every answer is deterministic."""
    return plan.order + default_order(plan.corr is not None, MEMORY)


def sort_keys(keys: tuple[OrderKey, ...], state: State, world: World) -> tuple[SortKey, ...]:
    """The keys as functions of rows, read only for the rows that need them."""
    return tuple(_sort_key(key, state, world) for key in keys)


def _sort_key(key: OrderKey, state: State, world: World) -> SortKey:
    value = key.value

    def values(rows: Rows) -> NDArray[Any]:
        if isinstance(value, AnswerColumn) and value.name == "equivalence" and state.answers:
            return state.answers.rank(rows)
        if isinstance(value, TextColumn):
            return _text_rank(value, rows, state, world)
        return numbers(value, Block(world, rows, state.answers))

    return SortKey(values, key.descending, key.nulls_first)


def _text_rank(column: TextColumn, rows: Rows, state: State, world: World) -> NDArray[np.float64]:
    from sommelier.engine.facts import ranks

    if len(rows) * 8 > world.size and not _is_answer(column, state):
        return world.rank(column.name)[rows]
    return ranks(gather(column, rows, state, world))


def gather(value: Any, rows: Rows, state: State, world: World) -> NDArray[Any]:
    """A column of the answer for `rows`: float64 with NaN, or objects with None."""
    if isinstance(value, TextColumn):
        if _is_answer(value, state) and state.answers is not None:
            return state.answers.text(value.name, rows)
        return world.words(value.name)[rows]
    return numbers(value, Block(world, rows, state.answers))


def _is_answer(column: TextColumn, state: State) -> bool:
    from sommelier.engine.vocabulary import ANSWER_TEXTS

    return column.name in ANSWER_TEXTS and state.answers is not None
