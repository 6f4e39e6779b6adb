"""EXPLAIN WHY m [NOT] IN (...): every condition with the model's value, verdict and what would do.

The same analysis, over all models, finds the smallest relaxation of an empty answer.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sommelier.engine import wording
from sommelier.engine.eligible import eligible
from sommelier.engine.executor import execute, gather, source_mask
from sommelier.engine.plan import (
    Compare,
    Condition,
    LogicalPlan,
    ModelReference,
    TextColumn,
    TextMatch,
    all_of,
    conjuncts,
)
from sommelier.engine.predicates import Block, evaluate, numbers
from sommelier.engine.relaxation import Relaxation, nearest, rounded, single_changes
from sommelier.engine.result import Report
from sommelier.engine.rules import optimize
from sommelier.engine.state import State
from sommelier.engine.verdicts import Verdict, verdict_data, verdict_table, verdict_word
from sommelier.engine.why_corr import corr_verdicts
from sommelier.engine.world import World
from sommelier.units import Dimension, format_value

Mask = NDArray[np.bool_]


def why(plan: LogicalPlan, model: ModelReference, world: World, *, negated: bool) -> Report:
    """A table of verdicts, and whether the model is in the answer. plan : before the rules."""
    row = int(world.facts.resources.rows([model.id])[0])
    state = execute(optimize(plan), world)
    inside = bool(np.isin(row, state.row_numbers()))
    verdicts = _verdicts(plan, row, world)
    enough = (
        {"true", "possible", "undecidable"}
        if plan.corr is not None and plan.corr.possible
        else {"true"}
    )
    failing = [v for v in verdicts if v.verdict not in enough]
    if not failing and not inside:
        verdicts.append(_cut(plan, row, world))
        failing = verdicts[-1:]
    lines = [_headline(model.name, inside, negated, failing), *verdict_table(verdicts)]
    conditions = [verdict_data(verdict) for verdict in verdicts]
    return Report(tuple(lines), {"model": model.name, "in": inside, "conditions": conditions})


def _headline(name: str, inside: bool, negated: bool, failing: list[Verdict]) -> str:
    surprise = "" if inside is not negated else " after all"
    if inside:
        return f"{name} is in the answer{surprise}: every condition is true"
    count = len(failing)
    which = "one condition is" if count == 1 else f"{count} conditions are"
    return f"{name} is not in the answer{surprise}: {which} not true"


# ---- one model


def _verdicts(plan: LogicalPlan, row: int, world: World) -> list[Verdict]:
    verdicts = []
    if not plan.sources and not world.listed(plan.including)[row]:
        kind = world.facts.catalog.proposals()[str(world.facts.ids[row])].upper()
        hint = f"would match with INCLUDING {kind}"
        verdicts.append(Verdict("FROM models", "a proposal", "", "false", hint))
    if plan.sources:
        inside = any(bool(source_mask(s, world)[row]) for s in plan.sources)
        text = wording.source_text(plan.sources)
        verdicts.append(Verdict(f"FROM {text}", "", "", verdict_word(inside)))
    block = Block(world, np.array([row]))
    verdicts += [_condition(c, block) for c in (*conjuncts(plan.where), *conjuncts(plan.on))]
    if plan.corr is not None:
        verdicts += _corr(plan, row, world)
        verdicts += [_having(part, plan, row, world) for part in conjuncts(plan.having)]
    return verdicts


def _condition(condition: Condition, block: Block) -> Verdict:
    truth = evaluate(condition, block)
    verdict = verdict_word(bool(truth.true[0]), bool(truth.unknown[0]))
    relaxation = ""
    if verdict == "false":
        found = nearest(condition, block)
        relaxation = f"would match with {found.text}" if found else "would match without it"
    elif verdict == "unknown":
        relaxation = "the value has to be known: ANALYZE the model"
    value, bound = _sides(condition, block)
    text = wording.condition_text(condition)
    if bound:
        text = text.removesuffix(f" = {bound}")  # of memory < 80% of a = 81.6 MB
    return Verdict(text, value, bound, verdict, relaxation)


def _sides(condition: Condition, block: Block) -> tuple[str, str]:
    """The model's value and the bound it is held against, in absolute numbers, as text."""
    if isinstance(condition, Compare):
        left = float(numbers(condition.left, block)[0])
        right = float(numbers(condition.right, block)[0])
        bound = format_value(right, condition.right.dimension)
        return format_value(left, condition.left.dimension), bound
    if isinstance(condition, TextMatch):
        rows = block.row_numbers
        shown = gather(
            TextColumn(condition.predicate.column),
            rows,
            State(np.ones(0, dtype=bool)),
            _world(block),
        )[0]
        if isinstance(shown, list):
            shown = ", ".join(shown)
        values = condition.predicate.values
        bound = values[0] if len(values) == 1 else ""  # a list is read in the predicate
        return "NULL" if shown is None else str(shown), bound
    return "", ""


def _world(block: Block) -> World:
    assert isinstance(block.columns, World)
    return block.columns


def _corr(plan: LogicalPlan, row: int, world: World) -> list[Verdict]:
    """The verdicts of CORR for one model, as it was compared in the whole query."""
    corr = plan.corr
    assert corr is not None
    verdicts = corr_verdicts(corr, row, _reached(plan, world), world, eligible(plan, world))
    compared = row not in world.facts.resources.rows([r.id for r in corr.references])
    if corr.accuracy is not None and compared:
        verdicts.append(_condition(corr.accuracy, Block(world, np.array([row]))))
    return verdicts


def _having(part: Condition, plan: LogicalPlan, row: int, world: World) -> Verdict:
    state = execute(_uncut(plan), world)
    if state.answers is None or row not in state.row_numbers():
        return Verdict(wording.condition_text(part), "", "", "unknown", "CORR has to match first")
    return _condition(part, Block(world, np.array([row]), state.answers))


def _cut(plan: LogicalPlan, row: int, world: World) -> Verdict:
    """The model passes every condition and lost its place to LIMIT, PICK or DISTINCT."""
    everything = execute(replace(plan, limit=None, offset=0, keep=None), world).row_numbers()
    if row not in everything:
        unpicked = replace(plan, pick=None, limit=None, offset=0, keep=None)
        if plan.pick is None or row not in execute(unpicked, world).row_numbers():
            shown = "an earlier row shows the same"
            return Verdict("DISTINCT", shown, "", "false", "would match without DISTINCT")
        text = f"PICK {wording.pick_text(plan.pick)}"
        return Verdict(text, "", "", "false", "others are better; raise TOP or leave out PICK")
    place = int(np.flatnonzero(everything == row)[0]) + 1
    shown = f"place {place} of {len(everything)}"
    first = plan.offset + 1
    bound = f"{first} to {plan.offset + plan.limit}" if plan.limit is not None else f"from {first}"
    needed = max(1, place - plan.offset)
    hint = f"would match with LIMIT {needed}" if place >= first else "would match without OFFSET"
    return Verdict("LIMIT", shown, bound, "false", hint)


# ---- all models


def smallest_relaxation(plan: LogicalPlan, world: World) -> tuple[tuple[str, ...], str | None]:
    """(names of the nearest misses, one sentence) for an empty answer.

    Each condition is left out in turn; the change is measured as a share of its bound.
    """
    conditions = (*conjuncts(plan.where), *conjuncts(plan.on))
    found = single_changes(conditions, lambda others: _without(plan, others, world), world)
    corr = _relaxed_corr(plan, world)
    if corr is not None:
        found.append(corr)
    if not found:
        return (), "no single condition is at fault: relax several, or ask EXPLAIN ANALYZE"
    found.sort(key=lambda change: (change.change, change.row))
    names = world.text("name")
    misses = tuple(dict.fromkeys(str(names[change.row]) for change in found))[:3]
    return misses, f"{names[found[0].row]} would match {found[0].text}"


def _without(
    plan: LogicalPlan, conditions: tuple[Condition, ...], world: World
) -> NDArray[np.int64]:
    """The rows that satisfy the query with only `conditions` of WHERE and ON."""
    kept = replace(_uncut(plan), where=all_of(conditions), on=None)
    return execute(kept, world).row_numbers()


def _relaxed_corr(plan: LogicalPlan, world: World) -> Relaxation | None:
    """The best model that fails only CORR's threshold."""
    corr = plan.corr
    if corr is None or not corr.bounds:
        return None
    ranked = replace(_uncut(plan), corr=replace(corr, bounds=()), limit=1, keep=1)
    state = execute(ranked, world)
    if not len(state.row_numbers()) or state.answers is None:
        return None
    row = state.row_numbers()[:1]
    lower = float(state.answers.number("equivalence", row)[0])
    if lower != lower:
        return None
    threshold = max(bound.threshold for bound in corr.bounds)
    easier = format_value(rounded(lower, up=False, strict=False, digits=3), Dimension.FRACTION)
    names = wording.references_text(corr)
    change = abs(threshold - lower) / (threshold or 1.0)
    return Relaxation(int(row[0]), change, f"with CORR {names} >= {easier}")


def _uncut(plan: LogicalPlan) -> LogicalPlan:
    """The plan without what only orders, chooses or cuts."""
    return replace(plan, having=None, pick=None, limit=None, offset=0, keep=None, distinct=False)


def _reached(plan: LogicalPlan, world: World) -> Mask:
    """The rows that reach CORR."""
    before = replace(_uncut(plan), corr=None, order=())
    mask = np.zeros(world.size, dtype=bool)
    mask[execute(before, world).row_numbers()] = True
    return mask
