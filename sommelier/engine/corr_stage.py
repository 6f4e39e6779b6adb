"""The CORR stage: compares what reached it with the references, and keeps what agrees enough."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sommelier.engine import wording
from sommelier.engine.answers import CorrAnswers, combined
from sommelier.engine.bound_choice import STEPWISE
from sommelier.engine.bound_methods import METHODS
from sommelier.engine.comparison import Comparison
from sommelier.engine.comparison_datasets import DatasetComparison
from sommelier.engine.corr_notes import corr_notes
from sommelier.engine.eligible import eligible
from sommelier.engine.plan import CorrPlan, LogicalPlan
from sommelier.engine.predicates import Block, evaluate
from sommelier.engine.skipped import skipped_notes
from sommelier.engine.state import State, Step
from sommelier.engine.stepwise import hochberg_tests, holm_tests
from sommelier.engine.world import World

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]

CHOSEN_BY_ANSWERS = (
    "K counts the models before conditions and pools that read answers to probes: whoever is chosen"
    " by them is optimistic"
)


def corr_stage(plan: LogicalPlan, state: State, world: World) -> Step | None:
    """Keeps the rows whose agreement passes; sets the answers that later stages read."""
    corr = plan.corr
    if corr is None:
        return None
    references = world.facts.resources.rows([r.id for r in corr.references])
    own = references[state.mask[references]] if corr.include_reference else references[:0]
    reached = state.mask.copy()
    reached[references] = False
    chosen_from = eligible(plan, world)
    answers = compare_reached(corr, reached, references, world, chosen_from)
    if chosen_from is not None and answers.claims > sum(c.count for c in answers.comparisons):
        state.notes.append(CHOSEN_BY_ANSWERS)
    passed = _passing(answers, possible=corr.possible)
    notes, unknown = corr_notes(answers, reached, world)
    state.notes += notes
    if corr.accuracy is not None:
        passed, missing = _accurate(corr, passed, state, world)
        unknown += missing
    if len(own):
        state.rows = np.concatenate([own, passed])
    else:
        state.rows = passed
        if len(answers.comparisons) == 1 and answers.comparisons[0].simple:
            answers.passed = passed if corr.accuracy is None else None
    state.answers = answers
    return Step(lambda: wording.corr_text(corr), unknown=unknown)


def compare_reached(
    corr: CorrPlan,
    reached: Mask,
    references: Rows,
    world: World,
    chosen_from: Mask | None = None,
) -> CorrAnswers:
    """Every reference compared with what reached CORR, and how many claims share alpha.

    chosen_from : the models that share alpha, where those that reached CORR were chosen by answers.
    """
    if corr.correction == "split":
        comparisons: tuple[Comparison, ...] = (_winners(corr, reached, world),)
    else:
        comparisons = tuple(_compared(corr, r.id, reached, world) for r in corr.references)
    synthetic = frozenset(p.id for p in world.facts.probe_sets() if p.synthetic)
    counted = comparisons
    if chosen_from is not None and corr.corrected and corr.correction != "split":
        among = chosen_from | reached
        among[references] = False
        counted = tuple(_compared(corr, r.id, among, world) for r in corr.references)
    claims = max(1, _claims(corr, counted))
    tests = _stepwise(corr, counted) if corr.correction in STEPWISE and corr.bounds else claims
    spectral = None if corr.spectral is None else world.column(corr.spectral).values
    return CorrAnswers(
        corr, comparisons, world.size, claims, tests, references,
        synthetic=synthetic, spectral=spectral,
    )  # fmt: skip


def _compared(corr: CorrPlan, reference_id: str, reached: Mask, world: World) -> Comparison:
    if corr.across:
        found = [world.candidates(reference_id, probes, corr.mode) for _, probes in corr.across]
        return DatasetComparison(tuple(found), reached, corr.method)
    candidates = world.candidates(reference_id, corr.probe_set_id, corr.mode)
    pairs = world.streamed(reference_id, corr.dataset) if corr.mode == "sketch" else None
    return Comparison(candidates, reached, METHODS[corr.method], pairs)


def _winners(corr: CorrPlan, reached: Mask, world: World) -> Comparison:
    """The models that agree most on half of the probes, compared on the other half only."""
    first, second = world.semantics.halves(corr.references[0].id, corr.seed, corr.probe_set_id)
    ranked = Comparison(first, reached, METHODS[corr.method]).rows
    chosen = np.zeros_like(reached)
    chosen[ranked[: corr.winners]] = True
    return Comparison(second, chosen, METHODS[corr.method])


def _stepwise(corr: CorrPlan, comparisons: tuple[Comparison, ...]) -> float:
    """By what alpha is divided for the step that Holm or Benjamini-Hochberg end with.

    A claim is one model: for ANY its best bound, at alpha divided by the references.
    """
    together = "all" if corr.quantifier == "all" else "any"
    models = len(combined([c.rows for c in comparisons], together))
    each = 1 if together == "all" else max(1, sum(c.count > 0 for c in comparisons))

    def passing(tests: float) -> int:
        found = [c.passing(corr.bounds, tests * each, possible=False) for c in comparisons]
        return len(combined(found, together))

    if corr.correction == "fwer":
        return each * holm_tests(passing, models)
    return each * hochberg_tests(passing, models, any_dependence=corr.correction == "fdr_by")


def _claims(corr: CorrPlan, comparisons: tuple[Comparison, ...]) -> int:
    """How many claims share alpha.

    ANY makes one per model and reference: the largest of R bounds exceeds its agreement if any of
    them does, so even one model on its own needs alpha / R. For ALL the smallest of a model's
    bounds is exceeded by its smallest agreement only if that reference's own bound fails, so it is
    one claim a model.
    """
    together = corr.quantifier == "all"
    if not corr.corrected:
        return 1 if together else sum(comparison.count > 0 for comparison in comparisons)
    if together:
        return len(combined([c.rows for c in comparisons], "all"))
    return sum(comparison.count for comparison in comparisons)


def _passing(answers: CorrAnswers, *, possible: bool) -> Rows:
    """The rows that pass for the reference, any of them, or all of them."""
    corr = answers.corr

    def find(*, possible: bool) -> Rows:
        found = [
            c.passing(corr.bounds, answers.tests, possible=possible) for c in answers.comparisons
        ]
        return combined(found, corr.quantifier)

    certain = find(possible=False)
    if not possible:
        return certain
    answers.certain = certain
    return find(possible=True)


def _accurate(corr: CorrPlan, rows: Rows, state: State, world: World) -> tuple[Rows, int]:
    """The rows whose accuracy passes as well, and how many have none."""
    assert corr.accuracy is not None
    truth = evaluate(corr.accuracy, Block(world, rows))
    unknown = rows[truth.unknown]
    if len(unknown):
        state.notes += skipped_notes(corr.accuracy, unknown, world)
    return rows[truth.true], len(unknown)
