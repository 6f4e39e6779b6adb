"""What the footer says of CORR: what was compared, what the bounds promise and what weakens it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sommelier.engine.answers import CorrAnswers, combined
from sommelier.engine.comparison import samples_needed
from sommelier.engine.plan import LogicalPlan
from sommelier.engine.skipped import models
from sommelier.engine.world import World

if TYPE_CHECKING:
    from sommelier.engine.facts import Facts
    from sommelier.records import Dataset, ProbeSet

PROJECTED = "from projected outputs, whose distances are about 4% off"  # algorithms.md C.3

_IN_ORDER = -1  # ProbeSet.seed of the first n items of a dataset


def corr_notes(
    answers: CorrAnswers, reached: NDArray[np.bool_], world: World
) -> tuple[list[str], int]:
    """Notes on what was compared, and how many of the rows that reached CORR could not be."""
    corr = answers.corr
    notes = []
    count = answers.comparisons[0].count
    if len(answers.comparisons) > 1:
        count = len(combined([c.rows for c in answers.comparisons], corr.quantifier))
    missing = int(np.count_nonzero(reached)) - count
    if missing:
        notes.append(_incomparable(answers, missing))
    notes += _undecidable(answers)
    if count:
        notes += _confidence(answers, world)
        used = {c.candidates.probe_set_id for c in answers.comparisons if c.count}
        notes += probe_caveats(used, world.facts)
    if not corr.possible and len(answers.comparisons) == 1:
        more = answers.comparisons[0].undecided(corr.bounds, answers.tests)
        if more:
            notes.append(
                f"{models(more)} more may pass: USING certainty='possible' shows what is undecided"
            )
    if any(c.candidates.positional.any() for c in answers.comparisons):
        notes.append("some models name no classes: theirs are matched by position (column labels)")
    return notes, missing


# ---- what the bounds promise


def _confidence(answers: CorrAnswers, world: World) -> list[str]:
    """At which confidence, for how many models, on which probes; and what is only estimated."""
    found = answers.comparisons[0].candidates
    probes = f"{found.samples} probes"
    for probe_set in world.facts.probe_sets():
        if probe_set.id == found.probe_set_id:
            probes += f" of '{probe_set.name}'"
    promise = f"{answers.corr.confidence * 100:g}% confidence {_scope(answers)}, on {probes}"
    pairs = zip(answers.corr.references, answers.comparisons, strict=True)
    estimated = [reference.name for reference, c in pairs if c.count and not c.candidates.exact]
    if not estimated:
        return [f"equivalence holds with {promise}"]
    whose = "equivalence"
    if len(estimated) < len(answers.comparisons):
        whose += f" to {', '.join(estimated)}"
    limits = "the bounds count probes only, not that error"
    return [f"{whose} is estimated {PROJECTED}: {limits} ({promise})"]


def _scope(answers: CorrAnswers) -> str:
    """For which claims together the confidence holds."""
    if answers.tests == 1:
        return "per model"
    if answers.corr.corrected:
        return f"for all K = {answers.tests} comparisons together"
    return f"per model, for its {answers.tests} references together"


# ---- what weakens it


def probe_caveats(used: Collection[str | None], facts: Facts) -> list[str]:
    """Made-up inputs, inputs that are no random sample, or that models were trained on."""
    notes = []
    for probe_set, dataset in _probed(used, facts):
        if probe_set.synthetic:
            notes.append("the probes are synthetic: the bounds hold for such inputs only")
        if dataset is None:
            continue
        if probe_set.seed == _IN_ORDER and probe_set.samples < dataset.samples:
            notes.append(
                f"the probes are the first {probe_set.samples} items of '{dataset.name}' (of "
                f"{dataset.samples}), not a random sample: the bound holds for those like them"
            )
        if dataset.held_out is False:
            notes.append(
                f"'{dataset.name}' is not held out: agreement on inputs that models were trained "
                "on is optimistic"
            )
    return notes


def training_notes(plan: LogicalPlan, world: World) -> tuple[str, ...]:
    """For EXPLAIN: the datasets of CORR's probes that nobody declared held out of training."""
    corr = plan.corr
    if corr is None:
        return ()
    used = {
        world.candidates(reference.id, corr.probe_set_id, corr.mode).probe_set_id
        for reference in corr.references
    }
    names = [d.name for _, d in _probed(used, world.facts) if d is not None and d.held_out is None]
    return tuple(
        f"dataset '{name}' is not declared held out of training" for name in dict.fromkeys(names)
    )


def _probed(used: Collection[str | None], facts: Facts) -> list[tuple[ProbeSet, Dataset | None]]:
    """The probe sets used, each with the dataset it was taken from where that is registered."""
    datasets = {dataset.id: dataset for dataset in facts.datasets()}
    return [
        (probe_set, datasets.get(probe_set.dataset_id or ""))
        for probe_set in facts.probe_sets()
        if probe_set.id in used
    ]


# ---- what was not compared


def _incomparable(answers: CorrAnswers, missing: int) -> str:
    """How many models were skipped, how many for which reason, and what would change it."""
    corr = answers.corr
    names = ", ".join(reference.name for reference in corr.references)
    found = [comparison.candidates.incomparable for comparison in answers.comparisons]
    distinct = list(dict.fromkeys(reason for reasons in found for reason in _ranked(reasons)))
    if len(distinct) < 2:
        why = f", {distinct[0] if distinct else 'no common probes'}"
    elif len(found) == 1:
        exact = sum(found[0].values()) == missing
        why = f": {_counted(found[0])}{'' if exact else ' in the whole catalog'}"
    else:
        pairs = zip(corr.references, found, strict=True)
        each = "; ".join(f"with {r.name} {_counted(reasons)}" for r, reasons in pairs if reasons)
        why = f": {each} in the whole catalog"
    sketched = answers.comparisons[0].candidates.samples > 0
    remedy = "ANALYZE ALL FOR EQUIVALENCE" if sketched else f"ANALYZE {names} FOR EQUIVALENCE"
    return f"{models(missing)} skipped: not comparable with {names}{why} (run {remedy})"


def _ranked(reasons: Mapping[str, int]) -> list[str]:
    return sorted(reasons, key=lambda reason: -reasons[reason])


def _counted(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{reasons[reason]} {reason}" for reason in _ranked(reasons))


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
