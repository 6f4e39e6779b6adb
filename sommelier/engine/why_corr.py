"""The verdict of CORR about one model: of each reference and bound, and of all of them together."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sommelier.engine import wording
from sommelier.engine.comparison import Comparison
from sommelier.engine.corr_stage import compare_reached
from sommelier.engine.incomparable import obstacle
from sommelier.engine.plan import CorrBound, CorrPlan, ModelReference
from sommelier.engine.relaxation import rounded
from sommelier.engine.verdicts import Verdict, verdict_word
from sommelier.engine.world import World
from sommelier.units import Dimension, format_value

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Leg:
    """One reference: a verdict per bound, and the number held against each (NaN: unknown)."""

    reference: ModelReference
    verdicts: tuple[Verdict, ...]
    values: tuple[float, ...]
    compared: bool = True

    @property
    def name(self) -> str:
        return f"to {self.reference.name}"

    @property
    def strength(self) -> int:
        return min(verdict.strength for verdict in self.verdicts)

    @property
    def nearness(self) -> tuple[int, float]:
        """Sorts references by how nearly the model passes for them."""
        worst = min((v for v in self.values if v == v), default=-1.0)
        return self.strength, worst


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the model stands. tests : claims that share alpha. size : rows of the catalog."""

    row: int
    tests: float
    size: int


def corr_verdicts(
    corr: CorrPlan, row: int, reached: Mask, world: World, chosen_from: Mask | None = None
) -> list[Verdict]:
    """One verdict a bound, or for ANY and ALL one verdict folded from every reference's.

    reached : the rows that reach CORR in the whole query, with which the model shares alpha, or
    with `chosen_from` where these were chosen by their answers.
    """
    references = world.facts.resources.rows([r.id for r in corr.references])
    if row in references:
        kept = corr.include_reference
        hint = "" if kept else "would match with USING include_reference=true"
        return [Verdict("CORR", "the reference itself", "", verdict_word(kept), hint)]
    reached = reached.copy()
    reached[row] = True
    reached[references] = False
    answers = compare_reached(corr, reached, references, world, chosen_from)
    place = _Place(row, answers.tests, world.size)
    legs = [
        _leg(corr, reference, comparison, place, world)
        for reference, comparison in zip(corr.references, answers.comparisons, strict=True)
    ]
    if corr.quantifier == "one":
        return _alone(corr, legs[0])
    return [_folded(corr, legs)]


def _leg(
    corr: CorrPlan, reference: ModelReference, comparison: Comparison, place: _Place, world: World
) -> _Leg:
    name = f"to {reference.name}"
    if corr.correction == "split" and place.row in set(comparison.candidates.rows) - set(
        comparison.rows
    ):
        told = f"not among the {corr.winners} most similar on half of the probes"
        return _Leg(reference, (Verdict(name, told, "", "false"),), (math.nan,), compared=False)
    if place.row not in comparison.rows:
        asked = _first_failing(corr, reference, place.row, world)
        found = obstacle(reference, str(world.facts.ids[place.row]), asked, world)
        unknown = Verdict(name, f"not compared: {found.reason}", "", "unknown", found.remedy)
        return _Leg(reference, (unknown,), (math.nan,), compared=False)
    if not corr.bounds:
        return _Leg(reference, (Verdict(name, "compared", "", "true"),), ())
    judged = [_judged(bound, comparison, place) for bound in corr.bounds]
    verdicts, values = zip(*judged, strict=True)
    if len(verdicts) == 1:
        verdicts = (replace(verdicts[0], predicate=name),)
    else:
        verdicts = tuple(replace(v, predicate=f"{name}: {v.predicate}") for v in verdicts)
    return _Leg(reference, verdicts, values)


def _first_failing(corr: CorrPlan, reference: ModelReference, row: int, world: World) -> CorrPlan:
    """The question about the first of several datasets on which the model was not compared."""
    for name, probes in corr.across:
        if row not in world.candidates(reference.id, probes, corr.mode).rows:
            return replace(corr, dataset=name, probe_set_id=probes)
    return corr


def _judged(bound: CorrBound, comparison: Comparison, place: _Place) -> tuple[Verdict, float]:
    """The verdict of one bound, and the number that it was held against."""
    rows = np.array([place.row])
    alpha = (1 - (bound.confidence or 0.95)) / place.tests
    interval = comparison.interval(rows, alpha, place.size)
    observed, lower = float(interval.agreement[0]), float(interval.lower[0])
    value = lower if bound.confidence is not None else observed

    def passes(*, possible: bool) -> bool:
        return place.row in comparison.passing((bound,), place.tests, possible=possible)

    told = comparison.undecidable(place.row, (bound,), place.tests)
    verdict = verdict_word(passes(possible=False), unknown=value != value and told is None)
    if verdict == "false" and passes(possible=True):
        verdict = "possible" if told is None else "undecidable"
    shown = format_value(value, Dimension.FRACTION)
    if observed == observed and bound.confidence is not None:
        shown += f" (observed {format_value(observed, Dimension.FRACTION)})"
    threshold = format_value(bound.threshold, Dimension.FRACTION)
    remedy = told if told is not None and verdict == "undecidable" else ""
    return Verdict(wording.bound_text(bound), shown, threshold, verdict, remedy), value


def _alone(corr: CorrPlan, leg: _Leg) -> list[Verdict]:
    """The verdicts of the only reference, each with its own relaxation."""
    head = f"CORR {leg.reference.name}"
    if not leg.compared or not corr.bounds:
        return [replace(verdict, predicate=head) for verdict in leg.verdicts]
    found = []
    for bound, verdict, value in zip(corr.bounds, leg.verdicts, leg.values, strict=True):
        one = replace(leg, verdicts=(verdict,), values=(value,))
        text = f"{head}: {wording.bound_text(bound)}"
        relaxation = _relaxation(corr, (bound,), [one])
        found.append(replace(verdict, predicate=text, relaxation=relaxation))
    return found


def _folded(corr: CorrPlan, legs: list[_Leg]) -> Verdict:
    """ANY is as true as the best of its references, ALL as the worst."""
    best = max if corr.quantifier == "any" else min
    decisive = best(legs, key=lambda leg: leg.nearness)
    asked = " AND ".join(wording.bound_text(bound) for bound in corr.bounds)
    head = f"CORR {wording.references_text(corr)}"
    weakest = min(decisive.verdicts, key=lambda verdict: verdict.strength)
    relaxation = ""
    if weakest.verdict != "true":
        compared = [leg for leg in legs if leg.compared]
        nearest = [max(compared or legs, key=lambda leg: leg.nearness)]
        relaxation = _relaxation(corr, corr.bounds, nearest if best is max else legs)
    value = f"{weakest.value} {decisive.name}" if len(decisive.verdicts) == 1 else decisive.name
    return Verdict(
        predicate=f"{head}: {asked}" if asked else head,
        value=value,
        bound=weakest.bound if len(corr.bounds) == 1 else "",
        verdict=weakest.verdict,
        relaxation=relaxation,
        parts=tuple(verdict for leg in legs for verdict in leg.verdicts),
    )


def _relaxation(corr: CorrPlan, bounds: tuple[CorrBound, ...], legs: list[_Leg]) -> str:
    """The nearest thresholds that every one of `legs` reaches; '' where none would help."""
    for leg in legs:
        if not leg.compared:
            return leg.verdicts[0].relaxation
    for verdict in (verdict for leg in legs for verdict in leg.verdicts):
        if verdict.verdict == "undecidable":
            return verdict.relaxation
    if any(value != value for leg in legs for value in leg.values):
        return "the answers have to be known: ANALYZE the models FOR EQUIVALENCE"
    easier = []
    for number, bound in enumerate(bounds):
        failing = [leg for leg in legs if leg.verdicts[number].verdict != "true"]
        if not failing:
            continue
        if bound.operator not in (">", ">="):
            return ""
        value = min(leg.values[number] for leg in failing)
        lowered = rounded(value, up=False, strict=bound.operator == ">", digits=3)
        measure = "" if bound.confidence is not None else "AGREEMENT "
        easier.append(f"{measure}{bound.operator} {format_value(lowered, Dimension.FRACTION)}")
    if not easier:
        return ""
    return f"would match with CORR {wording.references_text(corr)} {' AND '.join(easier)}"
