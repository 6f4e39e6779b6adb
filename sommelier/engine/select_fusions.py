"""SELECT FUSIONS: ways to make models share computation, with the conditions of SELECT MODELS.

The question is bound here; analysis ranks the fusions, and the rows are chosen here again. Limits
of ON are bound twice: by what the catalog knows before a model is run, so that mistakes are told at
once, and by the costs of the ranking, so that a share in ON is the share that a row shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sommelier.engine.conditions import bind_condition
from sommelier.engine.fusion_columns import FusionRows, FusionWords, cost_of
from sommelier.engine.fusion_group import FusionGroup, fusion_group
from sommelier.engine.fusion_notes import (
    broken_note,
    closest_note,
    estimate_notes,
    shares_note,
    unknown_notes,
)
from sommelier.engine.listing import bind_listed, in_order, listed
from sommelier.engine.numbers import Binding
from sommelier.engine.options import FUSIONS_OPTIONS, bind_options, check_least
from sommelier.engine.outputs import bind_order
from sommelier.engine.parameters import Parameters
from sommelier.engine.plan import (
    Condition,
    MetricColumn,
    ModelReference,
    OrderKey,
    OutputColumn,
    Value,
)
from sommelier.engine.planner import row_count
from sommelier.engine.predicates import Block, Truth, evaluate
from sommelier.engine.result import ColumnInfo, Table
from sommelier.errors import BinderError
from sommelier.grammar import nodes

if TYPE_CHECKING:
    from sommelier.engine.session import Session
    from sommelier.fusion_records import FusionCost, FusionRanking

MOST_ROWS = 20  # without LIMIT
_LEAST = {"samples": 1, "candidates": 1, "seed": 0}
TOGETHER = ModelReference("", "the models together")  # what a percent in ON is relative to


@dataclass(frozen=True, slots=True)
class FusionsQuestion:
    """A bound SELECT FUSIONS. limits : ON by the costs that the catalog knows.

    options : dataset, samples, seed and candidates, as they were written.
    """

    group: FusionGroup
    columns: tuple[OutputColumn, ...]
    where: Condition | None
    limits: Condition | None
    order: tuple[OrderKey, ...]
    distinct: bool
    limit: int | None
    offset: int
    options: dict[str, Any]
    on: nodes.Expression | None
    binding: Binding


def bind_fusions(
    statement: nodes.SelectFusions, session: Session, parameters: Parameters
) -> FusionsQuestion:
    """The question with names as columns and every number in base units.

    Raises BinderError for words, units and options that do not fit and for fewer than two models,
    UnknownNameError for models, pools and devices there are not.
    """
    options = bind_options(statement.options, FUSIONS_OPTIONS, parameters)
    check_least(statement.options, options, _LEAST)
    shared = tuple(o for o in statement.options if o.name.lower() == "device")
    scope = session.scope(nodes.Select(options=shared), parameters)
    group = fusion_group(statement, session, scope)
    words = FusionWords(group.device)
    binding = Binding(scope, "where", vocabulary=words)
    where = None if statement.where is None else bind_condition(statement.where, binding)
    columns = bind_listed(statement.projection, replace(binding, clause="select"), words)
    named = replace(binding, clause="order", aliases=columns)
    limits = bind_limits(statement.on, binding, group, group.together, group.alone)
    return FusionsQuestion(
        group,
        columns,
        where,
        limits,
        bind_order(statement.order_by, named),
        statement.distinct,
        row_count(statement.limit, scope, "LIMIT"),
        row_count(statement.offset, scope, "OFFSET") or 0,
        options,
        statement.on,
        binding,
    )


def bind_limits(
    on: nodes.Expression | None,
    binding: Binding,
    group: FusionGroup,
    together: FusionCost,
    alone: Sequence[FusionCost],
) -> Condition | None:
    """ON with its shares as amounts of these costs. Raises BinderError."""
    if on is None:
        return None
    costs = {m.id: cost for m, cost in zip(group.models, alone, strict=True)}
    costs[TOGETHER.id] = together

    def value_of(value: Value, model_id: str) -> float:
        assert isinstance(value, MetricColumn)
        if model_id not in costs:
            raise BinderError(
                "a limit of fusions is a share of one of their models, or of all of them",
                span=on.span,
                hint=f"write {value.key.metric} < 60%, or 60% OF {group.models[0].name}",
            )
        known = cost_of(costs[model_id], value.key.metric)
        return math.nan if known is None else known

    limited = replace(binding, clause="on", references=(TOGETHER,), value_of=value_of)
    return bind_condition(on, limited)


def choose_fusions(question: FusionsQuestion, ranking: FusionRanking) -> Table:
    """The fusions that satisfy the question, the most promising first where no order is asked for.

    A row without a number that a condition looks at never matches, and is counted in the notes.
    """
    group, scope = question.group, question.binding.scope
    limits = bind_limits(question.on, question.binding, group, ranking.together, ranking.alone)
    rows = FusionRows(ranking, scope.facts.catalog)
    notes = [*estimate_notes(group, ranking), *scope.notes]
    kept = np.ones(rows.size, dtype=bool)
    if limits is not None:
        within = evaluate(limits, Block(rows))
        rows.feasible = _verdicts(within)
        kept &= within.true
        notes += broken_note(limits, within, rows.size)
        notes += unknown_notes(limits, np.flatnonzero(within.unknown), rows, group)
    if question.where is not None:
        truth = evaluate(question.where, Block(rows))
        notes += unknown_notes(question.where, np.flatnonzero(kept & truth.unknown), rows, group)
        kept &= truth.true
    places = in_order(np.flatnonzero(kept), question.order, rows)
    found = listed(question.columns, places, rows, distinct=question.distinct)
    if len(places):
        notes.insert(0, shares_note(rows, int(places[0])))
    else:
        notes += closest_note(question.where, limits, rows)
    shown, cut = _shown(found, question)
    described = tuple(ColumnInfo(c.name, c.value.dimension) for c in question.columns)
    return Table("fusions", described, shown, tuple(dict.fromkeys((*notes, *ranking.notes, *cut))))


def _verdicts(within: Truth) -> list[str | None]:
    """Whether each row keeps the limits, None where that is unknown."""
    return [
        None if unknown else "yes" if true else "no"
        for true, unknown in zip(within.true, within.unknown, strict=True)
    ]


def _shown(
    found: list[tuple[Any, ...]], question: FusionsQuestion
) -> tuple[list[tuple[Any, ...]], list[str]]:
    """The rows that LIMIT and OFFSET leave, and what is to be said of the others."""
    most = MOST_ROWS if question.limit is None else question.limit
    shown = found[question.offset : question.offset + most]
    if len(shown) == len(found):
        return shown, []
    more = ": LIMIT n shows more" if question.limit is None else ""
    return shown, [f"{len(shown)} of {len(found)} fusions{more}"]
