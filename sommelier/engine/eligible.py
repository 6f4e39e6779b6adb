"""Which models a question chose from before it looked at any answer: they share alpha.

CORR is corrected for the models that reach it. Where what comes before it reads answers to probes
(measured accuracy on the same data, the most accurate of a view, a pool that an earlier CORR
filled), the models that reach it were chosen by the luck that the bound has to allow for, so that
those it was chosen from have to be counted: algorithms.md A.5, the winner of many is optimistic.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sommelier.engine.plan import (
    Condition,
    LogicalPlan,
    MetricColumn,
    Shown,
    SourcePlan,
    TextColumn,
    atoms,
    conjuncts,
    leaves,
    operands,
)
from sommelier.engine.pool_history import pool_reads_answers
from sommelier.engine.predicates import Block, evaluate
from sommelier.engine.world import World
from sommelier.metrics import ANSWER_METRICS
from sommelier.storage.resource_index import ColumnKey

Mask = NDArray[np.bool_]


def eligible(plan: LogicalPlan, world: World) -> Mask | None:
    """Models that the sources and conditions that read no answers keep; None where all that reach
    CORR are those."""
    if _before_corr_reads_answers(plan, world):
        return _chosen_from(plan, world)
    return None


def _before_corr_reads_answers(plan: LogicalPlan, world: World) -> bool:
    """Whether the sources or a condition chose by answers."""
    return any(_condition_reads_answers(part, world) for part in _conditions(plan)) or any(
        _source_reads_answers(source, world) for source in plan.sources
    )


def _conditions(plan: LogicalPlan) -> tuple[Condition, ...]:
    return (*conjuncts(plan.where), *conjuncts(plan.on))


# ---- what reads answers


def _condition_reads_answers(condition: Condition, world: World) -> bool:
    values = (value for atom in atoms(condition) for value in operands(atom))
    return any(_reads_answers(value, world) for value in values)


def _source_reads_answers(source: SourcePlan, world: World) -> bool:
    """Whether a pool, view or query chose its models by what they answered."""
    if source.plan is not None:
        return _plan_reads_answers(source.plan, world)
    return source.kind == "pool" and pool_reads_answers(source.name or "", world.facts.catalog)


def _plan_reads_answers(plan: LogicalPlan, world: World) -> bool:
    return (
        plan.corr is not None
        or _before_corr_reads_answers(plan, world)
        or any(_reads_answers(value, world) for value in _deciding(plan))
    )


def _deciding(plan: LogicalPlan) -> Iterator[Shown]:
    """The values behind the conditions that decide which models are in the answer, and not only
    how it looks."""
    if plan.pick is not None:
        yield from (key.value for key in plan.pick.keys)
    if plan.limit is not None or plan.offset or plan.distinct:
        yield from (key.value for key in plan.order)
    if plan.distinct:
        yield from (column.value for column in plan.columns)


def _reads_answers(value: Shown, world: World) -> bool:
    """Whether a value is calculated from answers to data that models were probed on."""
    return any(
        key.dataset is None or any(p.name == key.dataset for p in world.facts.probe_sets())
        for key in _answer_columns(value)
    )


def _answer_columns(value: Shown) -> Iterator[ColumnKey]:
    """The columns of accuracy, and of what else is counted on answers, on whatever data."""
    if isinstance(value, TextColumn):
        return
    for leaf in leaves(value):
        if isinstance(leaf, MetricColumn) and leaf.key.metric in ANSWER_METRICS:
            yield leaf.key


# ---- what was chosen from


def _chosen_from(plan: LogicalPlan, world: World) -> Mask:
    """The models that are left without what reads answers."""
    mask: Mask = world.listed(plan.including)
    if plan.sources:
        parts = [_source_chosen_from(source, mask, world) for source in plan.sources]
        mask = np.logical_or.reduce(parts)
    for part in _conditions(plan):
        if not _condition_reads_answers(part, world):
            mask = mask & evaluate(part, Block(world)).true
    return mask


def _source_chosen_from(source: SourcePlan, listed: Mask, world: World) -> Mask:
    from sommelier.engine.executor import source_mask  # which runs stages that ask this module

    if not _source_reads_answers(source, world):
        mask = source_mask(source, world)
        return mask & listed if source.kind == "source" else mask
    if source.plan is not None:
        return _chosen_from(source.plan, world)
    return listed | source_mask(
        source, world
    )  # when it was filled, any of them may have been there
