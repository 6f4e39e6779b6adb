"""Which models a question chose from before it looked at any answer: they share alpha.

CORR is corrected for the models that reach it. Where a condition before it reads answers to probes
(measured accuracy on the same data, a pool that an earlier CORR filled), the models that reach it
were chosen by the luck that the bound has to allow for, so that those it was chosen from have to be
counted: algorithms.md A.5, the winner of many is optimistic.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from sommelier.engine.plan import (
    Condition,
    LogicalPlan,
    MetricColumn,
    SourcePlan,
    atoms,
    conjuncts,
    leaves,
    operands,
)
from sommelier.engine.predicates import Block, evaluate
from sommelier.engine.world import World

Mask = NDArray[np.bool_]

ANSWER_METRICS = frozenset({"accuracy", "top5_accuracy"})


def eligible(plan: LogicalPlan, world: World) -> Mask | None:
    """Models that the sources and conditions that read no answers keep; None where all that reach
    CORR are those."""
    parts = (*conjuncts(plan.where), *conjuncts(plan.on))
    probed = _probed(parts, world)
    blind = [part for part in parts if not reads_answers(part, probed)]
    sources = [source for source in plan.sources if not _chosen_by_answers(source, world)]
    if len(blind) == len(parts) and len(sources) == len(plan.sources):
        return None
    mask: Mask = world.listed(plan.including).copy()
    if sources and len(sources) == len(plan.sources):
        from sommelier.engine.executor import source_mask  # which runs stages that ask this module

        mask &= np.logical_or.reduce([source_mask(source, world) for source in sources])
    for part in blind:
        mask &= evaluate(part, Block(world)).true
    return mask


def reads_answers(condition: Condition, probed: Collection[str]) -> bool:
    """Whether a condition compares accuracy on data that models have answered probes of."""
    return any(
        isinstance(leaf, MetricColumn)
        and leaf.key.metric in ANSWER_METRICS
        and (leaf.key.dataset is None or leaf.key.dataset in probed)
        for atom in atoms(condition)
        for value in operands(atom)
        for leaf in leaves(value)
    )


def _probed(parts: tuple[Condition, ...], world: World) -> frozenset[str]:
    """Names of the data that was probed; not asked for where no condition is about accuracy."""
    every = reads_answers_at_all(parts)
    return frozenset(p.name for p in world.facts.probe_sets()) if every else frozenset()


def reads_answers_at_all(parts: tuple[Condition, ...]) -> bool:
    """Whether any condition is about accuracy, on whatever data."""
    return any(
        isinstance(leaf, MetricColumn) and leaf.key.metric in ANSWER_METRICS
        for part in parts
        for atom in atoms(part)
        for value in operands(atom)
        for leaf in leaves(value)
    )


def _chosen_by_answers(source: SourcePlan, world: World) -> bool:
    """Whether a pool, view or query chose its models by what they answered."""
    if source.kind == "source":
        return False
    if source.plan is not None:
        inner = source.plan
        return inner.corr is not None or eligible(inner, world) is not None
    query = next((p.query for p in world.facts.catalog.pools() if p.name == source.name), "")
    words = query.upper().split()
    return "CORR" in words or "ACCURACY" in words
