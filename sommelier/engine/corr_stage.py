"""The CORR stage: compares what reached it with the references, and keeps what agrees enough."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sommelier.engine import wording
from sommelier.engine.answers import CorrAnswers
from sommelier.engine.comparison import Comparison, samples_needed
from sommelier.engine.plan import CorrPlan, LogicalPlan
from sommelier.engine.predicates import Block, evaluate
from sommelier.engine.skipped import models, skipped_notes
from sommelier.engine.state import State, Step
from sommelier.engine.world import World

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]


def corr_stage(plan: LogicalPlan, state: State, world: World) -> Step | None:
    """Keeps the rows whose agreement passes; sets the answers that later stages read."""
    corr = plan.corr
    if corr is None:
        return None
    references = world.facts.resources.rows([r.id for r in corr.references])
    own = references[state.mask[references]] if corr.include_reference else references[:0]
    reached = state.mask.copy()
    reached[references] = False
    answers = compare_reached(corr, reached, references, world)
    passed = _passing(answers, possible=corr.possible)
    unknown = _report(answers, reached, state, world)
    if corr.accuracy is not None:
        passed, missing = _accurate(corr, passed, state, world)
        unknown += missing
    if len(own):
        state.rows = np.concatenate([own, passed])
    else:
        state.rows = passed
        if len(answers.comparisons) == 1 and answers.comparisons[0].transitive is None:
            answers.passed = passed if corr.accuracy is None else None
    state.answers = answers
    return Step(lambda: wording.corr_text(corr), unknown=unknown)


def compare_reached(corr: CorrPlan, reached: Mask, references: Rows, world: World) -> CorrAnswers:
    comparisons = tuple(
        Comparison(world.candidates(reference.id, corr.probe_set_id, corr.mode), reached)
        for reference in corr.references
    )
    tests = 1
    if corr.corrected:
        tests = max(1, _claims(corr, comparisons))
    synthetic = frozenset(p.id for p in world.facts.probe_sets() if p.synthetic)
    return CorrAnswers(corr, comparisons, world.size, tests, references, synthetic=synthetic)


def _claims(corr: CorrPlan, comparisons: tuple[Comparison, ...]) -> int:
    """How many claims share alpha.

    ANY makes one per model and reference. For ALL the smallest of a model's bounds is exceeded by
    its smallest agreement only if that reference's own bound fails, so it is one claim a model.
    """
    if corr.quantifier == "all":
        return len(_combined([c.rows for c in comparisons], "all"))
    return sum(comparison.count for comparison in comparisons)


def _passing(answers: CorrAnswers, *, possible: bool) -> Rows:
    """The rows that pass for the reference, any of them, or all of them."""
    corr = answers.corr

    def find(*, possible: bool) -> Rows:
        found = [
            c.passing(corr.bounds, answers.tests, possible=possible) for c in answers.comparisons
        ]
        return _combined(found, corr.quantifier)

    certain = find(possible=False)
    if not possible:
        return certain
    answers.certain = certain
    return find(possible=True)


def _combined(found: list[Rows], quantifier: str) -> Rows:
    rows = found[0]
    for other in found[1:]:
        rows = np.intersect1d(rows, other) if quantifier == "all" else np.union1d(rows, other)
    return rows


def _accurate(corr: CorrPlan, rows: Rows, state: State, world: World) -> tuple[Rows, int]:
    """The rows whose accuracy passes as well, and how many have none."""
    assert corr.accuracy is not None
    truth = evaluate(corr.accuracy, Block(world, rows))
    unknown = rows[truth.unknown]
    if len(unknown):
        state.notes += skipped_notes(corr.accuracy, unknown, world)
    return rows[truth.true], len(unknown)


# ---- what the footer says


def _report(answers: CorrAnswers, reached: Mask, state: State, world: World) -> int:
    """Notes on what was compared; answers how many rows could not be."""
    corr = answers.corr
    count = answers.comparisons[0].count
    if len(answers.comparisons) > 1:
        count = len(_combined([c.rows for c in answers.comparisons], corr.quantifier))
    missing = int(np.count_nonzero(reached)) - count
    if missing:
        state.notes.append(_incomparable(answers, missing))
    state.notes += _undecidable(answers)
    if count:
        state.notes.append(_confidence(answers, world))
        state.notes += _caveats(answers, world)
    if not corr.possible and len(answers.comparisons) == 1:
        more = answers.comparisons[0].undecided(corr.bounds, answers.tests)
        if more:
            state.notes.append(
                f"{models(more)} more may pass: USING certainty='possible' shows what is undecided"
            )
    positional = sum(int(c.candidates.positional.any()) for c in answers.comparisons)
    if positional:
        state.notes.append(
            "some models name no classes: theirs are matched by position (column labels)"
        )
    return missing


def _confidence(answers: CorrAnswers, world: World) -> str:
    """What the bounds promise: at which confidence, for how many models, on which probes."""
    corr = answers.corr
    found = answers.comparisons[0].candidates
    probes = f"{found.samples} probes"
    for probe_set in world.facts.probe_sets():
        if probe_set.id == found.probe_set_id:
            probes += f" of '{probe_set.name}'"
    share = f"{corr.confidence * 100:g}%"
    if answers.tests == 1:
        return f"equivalence holds with {share} confidence per model, on {probes}"
    return (
        f"equivalence holds with {share} confidence for all K = {answers.tests} comparisons "
        f"together, on {probes}"
    )


def _caveats(answers: CorrAnswers, world: World) -> list[str]:
    """What weakens the promise: made-up inputs, or data that models may have been trained on."""
    used = {comparison.candidates.probe_set_id for comparison in answers.comparisons}
    notes = []
    for probe_set in world.facts.probe_sets():
        if probe_set.id not in used:
            continue
        if probe_set.synthetic:
            notes.append("the probes are synthetic: the bounds hold for such inputs only")
        seen = [d for d in world.facts.datasets() if d.id == probe_set.dataset_id]
        notes += [
            f"'{dataset.name}' is not held out: agreement on inputs that models were trained on "
            "is optimistic"
            for dataset in seen
            if dataset.held_out is False
        ]
    return notes


def _incomparable(answers: CorrAnswers, missing: int) -> str:
    names = ", ".join(reference.name for reference in answers.corr.references)
    reasons: dict[str, int] = {}
    for comparison in answers.comparisons:
        reasons |= dict(comparison.candidates.incomparable)
    why = ", ".join(sorted(reasons, key=lambda reason: -reasons[reason])) or "no common probes"
    sketched = answers.comparisons[0].candidates.samples > 0
    remedy = "ANALYZE ALL FOR EQUIVALENCE" if sketched else f"ANALYZE {names} FOR EQUIVALENCE"
    return f"{models(missing)} skipped: not comparable with {names}, {why} (run {remedy})"


def _undecidable(answers: CorrAnswers) -> list[str]:
    """A sentence when no row could ever pass with so few probes."""
    notes = []
    for comparison in answers.comparisons:
        samples = comparison.candidates.samples
        for bound in answers.corr.bounds:
            if bound.confidence is None or bound.operator not in (">", ">=") or not samples:
                continue
            needed = samples_needed(bound.threshold, (1 - bound.confidence) / answers.tests)
            if needed is not None and needed <= samples:
                continue
            threshold = f"{bound.threshold * 100:g}%"
            if needed is None:
                notes.append(f"no number of probes can certify {threshold}")
            else:
                notes.append(
                    f"n={samples} probes cannot certify {threshold} for {answers.tests} "
                    f"comparisons: at least {needed} are needed"
                )
    return notes
