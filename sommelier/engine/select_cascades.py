"""SELECT CASCADES: students before teachers, with the conditions and units of SELECT MODELS.

All pairs are looked at and every promise holds at once (engine.cascade_search); conditions choose
among them. A percent in ON is a share of the row's own teacher.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sommelier.engine import wording
from sommelier.engine.cascade_columns import (
    COSTS,
    SHARE,
    CascadeRows,
    CascadeWords,
    no_cost,
)
from sommelier.engine.cascade_facts import risk_of
from sommelier.engine.cascade_notes import notes_of
from sommelier.engine.cascade_search import answered_by, probe_set_for, rows_of, search
from sommelier.engine.conditions import bind_condition
from sommelier.engine.listing import bind_listed, in_order, listed, missing
from sommelier.engine.numbers import Binding
from sommelier.engine.options import CASCADES_OPTIONS, bind_options
from sommelier.engine.outputs import bind_order
from sommelier.engine.parameters import Parameters
from sommelier.engine.plan import Condition, ModelReference, OrderKey, OutputColumn, conjuncts
from sommelier.engine.planner import row_count
from sommelier.engine.predicates import Block, evaluate
from sommelier.engine.result import ColumnInfo, Report, Table
from sommelier.errors import BinderError
from sommelier.grammar import nodes

if TYPE_CHECKING:
    from sommelier.analysis.cascades.calibration import Target
    from sommelier.engine.cascade_search import Answered, Found
    from sommelier.engine.session import Session
    from sommelier.records import ProbeSet

MOST_ROWS = 20  # without LIMIT


@dataclass(frozen=True, slots=True)
class CascadesQuestion:
    """A bound SELECT CASCADES. probes : whose answers decide. on, where : None for none."""

    teacher: ModelReference | None
    probes: ProbeSet
    at_most: float
    confidence: float
    measure: str
    columns: tuple[OutputColumn, ...]
    where: Condition | None
    on: Condition | None
    order: tuple[OrderKey, ...]
    distinct: bool
    limit: int | None
    offset: int
    notes: tuple[str, ...]


def select_cascades(
    statement: nodes.SelectCascades, session: Session, parameters: Parameters
) -> Table:
    """The pairs that satisfy the question, the smallest share of the teacher's FLOPs first.

    Raises BinderError for words, units and values that do not fit and where nobody has answered
    data, UnknownNameError for models and datasets there are not.
    """
    question = bind_cascades(statement, session, parameters)
    table, *_ = _answer(question, session)
    return table


def _answer(question: CascadesQuestion, session: Session) -> tuple[Table, Answered, Found, Target]:
    from sommelier.analysis.cascades.calibration import Target

    labelled = question.measure == "accuracy"
    answered = answered_by(question.probes, session, labelled=labelled)
    loss: Any = "disagreement" if answered.labels is None else "accuracy drop"
    target = Target(question.at_most, question.confidence, loss)
    found = search(answered, target, question.teacher)
    rows = rows_of(found, answered, target, session)
    kept, lacking = _kept(question, rows)
    shown = listed(
        question.columns, in_order(kept, question.order, rows), rows, distinct=question.distinct
    )
    notes = [*question.notes, *_about_loss(question, answered, session)]
    notes += notes_of(found, answered, target, len(shown), question.teacher)
    notes += [*lacking, *_beyond(found, len(shown))]
    most = MOST_ROWS if question.limit is None else question.limit
    told = shown[question.offset : question.offset + most]
    if len(told) < len(shown):
        notes.append(f"{len(told)} of {len(shown)} cascades")
    described = tuple(ColumnInfo(c.name, c.value.dimension) for c in question.columns)
    return Table("cascades", described, told, tuple(dict.fromkeys(notes))), answered, found, target


def _about_loss(question: CascadesQuestion, answered: Answered, session: Session) -> list[str]:
    """That the promise is of another loss than was asked for, and of which data."""
    notes = []
    if question.measure == "accuracy" and answered.labels is None:
        notes.append(
            f"'{question.probes.name}' has no labels of these models' classes: the promise is of"
            " disagreement, and the accuracy falls by no more"
        )
    held_out = {d.id: d.held_out for d in session.facts.datasets()}
    if held_out.get(question.probes.dataset_id or "") is not True:
        notes.append(
            f"whether the models were trained on '{question.probes.name}' is not known; on what it"
            " was trained on, a model is surer than elsewhere"
        )
    return notes


# ---- binding


def bind_cascades(
    statement: nodes.SelectCascades, session: Session, parameters: Parameters
) -> CascadesQuestion:
    """The question with names as columns and every number in base units. Raises BinderError."""
    options = bind_options(statement.options, CASCADES_OPTIONS, parameters)
    scope = session.scope(nodes.Select(), parameters)
    at_most, confidence = risk_of(statement, scope)
    words = CascadeWords()
    binding = Binding(scope, "where", vocabulary=words)
    where = None if statement.where is None else bind_condition(statement.where, binding)
    on = None
    if statement.on is not None:
        limits = replace(binding, vocabulary=CascadeWords(costs=True))
        on = bind_condition(_by_share(statement.on, parameters), limits)
    columns = bind_listed(statement.projection, replace(binding, clause="select"), words)
    teacher = None if statement.teacher is None else scope.model(statement.teacher)
    dataset = _dataset(statement, options, session)
    return CascadesQuestion(
        teacher,
        probe_set_for(dataset, teacher, session),
        at_most,
        confidence,
        statement.measure,
        columns,
        where,
        on,
        bind_order(statement.order_by, replace(binding, clause="order", aliases=columns)),
        statement.distinct,
        row_count(statement.limit, scope, "LIMIT"),
        row_count(statement.offset, scope, "OFFSET") or 0,
        tuple(scope.notes),
    )


def _dataset(
    statement: nodes.SelectCascades, options: dict[str, Any], session: Session
) -> str | None:
    from sommelier.engine.names import unknown

    name: str | None = options.get("dataset")
    known = sorted({d.name for d in session.facts.datasets()})
    probed = {probes.name for probes in session.facts.probe_sets()}
    if name is not None and name not in {*known, *probed}:
        option = next(o for o in statement.options if o.name.lower() == "dataset")
        raise unknown("dataset", name, known, option.span)
    return name


def _by_share(node: Any, parameters: Parameters) -> Any:
    """ON with `flops < 70%` as `flops_share < 70%`: a row's percent is of its own teacher."""
    if isinstance(node, nodes.Comparison):
        left, right = (parameters.literal(side) for side in (node.left, node.right))
        if (share := _share_of(right)) is not None:
            return replace(node, left=_share_column(node.left), right=share)
        if (share := _share_of(left)) is not None:
            return replace(node, right=_share_column(node.right), left=share)
        return node
    if isinstance(node, nodes.Between):
        low, high = (_share_of(parameters.literal(side)) for side in (node.low, node.high))
        if low is not None and high is not None:
            return replace(node, operand=_share_column(node.operand), low=low, high=high)
        return node
    if isinstance(node, nodes.And | nodes.Or):
        return replace(node, operands=tuple(_by_share(part, parameters) for part in node.operands))
    if isinstance(node, nodes.Not):
        return replace(node, operand=_by_share(node.operand, parameters))
    return node


def _share_of(node: Any) -> nodes.Percent | None:
    """The share of the teacher's that a percent or factor stands for; None for other things."""
    if not isinstance(node, nodes.Percent | nodes.Times):
        return None
    if node.relative_to is not None:
        raise BinderError(
            "a limit of a cascade is a share of its teacher's, not of another model's",
            span=node.span,
            hint="write ON flops < 70%",
        )
    value = node.fraction if isinstance(node, nodes.Percent) else node.factor
    return nodes.Percent(value, span=node.span)


def _share_column(node: Any) -> Any:
    if isinstance(node, nodes.Column):
        if node.name.lower() not in COSTS:
            raise no_cost(node)
        return replace(node, name=node.name.lower() + SHARE)
    raise BinderError(
        "a percent in ON is compared with a metric",
        span=getattr(node, "span", None),
        hint="write ON flops < 70%",
    )


# ---- rows


def _kept(question: CascadesQuestion, rows: CascadeRows) -> tuple[Any, list[str]]:
    """(rows for which both conditions are TRUE, why others are unknown)."""
    keep = np.ones(rows.size, dtype=np.bool_)
    notes: list[str] = []
    for condition in (question.on, question.where):
        if condition is None:
            continue
        truth = evaluate(condition, Block(rows))
        keep &= truth.true
        for column, lack in missing(condition, np.flatnonzero(truth.unknown), rows):
            pairs = "1 pair has" if len(lack) == 1 else f"{len(lack)} pairs have"
            notes.append(f"{pairs} no {column}")
    return np.flatnonzero(keep), notes


def _beyond(found: Found, count: int) -> list[str]:
    """What the cheapest pair costs where ON or WHERE left none."""
    if count or not found.pairs:
        return []
    share = 100 * min(pair.flops_share for pair in found.pairs)
    pairs = "the pair" if len(found.pairs) == 1 else f"the cheapest of {len(found.pairs)} pairs"
    return [f"{pairs} that keeps the promise takes {share:.1f}% of its teacher's FLOPs"]


# ---- EXPLAIN


def explain_cascades(
    statement: nodes.SelectCascades, session: Session, parameters: Parameters, *, analyze: bool
) -> Report:
    """What would be looked at, in absolute numbers; with analyze how many were found too."""
    started = time.perf_counter()
    question = bind_cascades(statement, session, parameters)
    table, answered, found, target = _answer(question, session)
    stages = _stages(question, answered, found, target)
    lines = [
        f"{name if place == 0 else '':<8} {detail}"
        for name, details in stages
        for place, detail in enumerate(details)
    ]
    data: dict[str, Any] = {"plan": [{"stage": name, "detail": part} for name, part in stages]}
    if analyze:
        took = (time.perf_counter() - started) * 1e3
        lines += [f"{'rows':<8} {len(table)}", *(f"note: {note}" for note in table.notes)]
        lines.append(f"time: {took:.3f} ms")
        data |= {"rows": len(table), "notes": list(table.notes), "timing_ms": round(took, 4)}
    return Report(tuple(lines), data)


def _stages(
    question: CascadesQuestion, answered: Answered, found: Found, target: Target
) -> list[tuple[str, list[str]]]:
    members = sum(len(group) for group in answered.groups)
    kind = "all their scores" if answered.exact else "the margin of their two best scores"
    teacher = "every model" if question.teacher is None else question.teacher.name
    unprofiled = f"{found.unprofiled} more have a model without a profile"
    pairs = f"{found.looked} of students that cost less than the teacher; teacher: {teacher}"
    groups = "1 group" if len(answered.groups) == 1 else f"{len(answered.groups)} groups"
    percent = 100 * target.at_most, 100 * target.confidence
    promise = f"{target.loss} of at most {percent[0]:g}% with confidence {percent[1]:g}%"
    divided = f"the risk is divided among {found.statements} pairs and scores"
    stages = [
        ("data", [f"'{question.probes.name}', {question.probes.samples} samples: {kind}"]),
        ("models", [f"{members}, {groups} that choose among the same classes"]),
        ("pairs", [pairs, *([unprofiled] * bool(found.unprofiled))]),
        ("promise", [promise, f"{divided}: at least {found.needed} samples are needed"]),
    ]
    for name, condition in (("on", question.on), ("where", question.where)):
        if condition is not None:
            first, *others = (wording.condition_text(part) for part in conjuncts(condition))
            stages.append((name, [first, *(f"AND {part}" for part in others)]))
    order = wording.order_text(question.order) if question.order else "flops_share, then flops"
    most = MOST_ROWS if question.limit is None else question.limit
    since = f" from row {question.offset + 1}" if question.offset else ""
    names = ", ".join(column.name for column in question.columns)
    return [*stages, ("order", [order]), ("limit", [f"{most}{since}"]), ("columns", [names])]
