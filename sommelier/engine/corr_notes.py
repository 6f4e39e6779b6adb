"""What the footer says of CORR: what was compared, what the bounds promise and what weakens it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sommelier.engine.answers import CorrAnswers, combined
from sommelier.engine.comparison import Part, samples_needed
from sommelier.engine.plan import LogicalPlan
from sommelier.engine.skipped import models
from sommelier.engine.world import World

if TYPE_CHECKING:
    from sommelier.engine.comparison_parts import Measured
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
    notes += _undecidable(answers, world)
    if count:
        notes += _confidence(answers, world)
        used = {part.probe_set_id for c in answers.comparisons for part in c.parts if part.count}
        notes += probe_caveats(used, world.facts)
    if not corr.possible and len(answers.comparisons) == 1:
        more = answers.comparisons[0].undecided(corr.bounds, answers.tests)
        if more:
            notes.append(
                f"{models(more)} more may pass: USING certainty='possible' shows what is undecided"
            )
    if any(m.candidates.positional.any() for c in answers.comparisons for m in c.measured):
        notes.append("some models name no classes: theirs are matched by position (column labels)")
    return notes, missing


# ---- what the bounds promise


def _confidence(answers: CorrAnswers, world: World) -> list[str]:
    """At which confidence, for how many models, on which probes; and what is only estimated."""
    promise = (
        f"{answers.corr.confidence * 100:g}% confidence {_scope(answers)}, {_where(answers, world)}"
    )
    whose = _estimated(answers, world)
    if whose is None:
        return [f"equivalence holds with {promise}"]
    limits = "the bounds count probes only, not that error"
    return [f"equivalence{whose} is estimated {PROJECTED}: {limits} ({promise})"]


def _where(answers: CorrAnswers, world: World) -> str:
    """On which probes the models were compared; how many, on those other than the first."""
    parts: dict[str | None, list[Measured]] = {}
    for part in _used(answers):
        parts.setdefault(part.probe_set_id, []).append(part)
    (first, *_), *others = parts.values()
    names = _names(world)
    texts = [f"on {_probes(first, names)}"]
    texts += [f"{_together(found)} on {_probes(found[0], names)}" for found in others]
    bounded = [part for c in answers.comparisons for part in c.transitive]
    if bounded:
        texts.append(f"{_together(bounded)} by transitivity")
    return "; ".join(texts)


def _together(parts: Sequence[Part]) -> str:
    """How many different models some parts have."""
    return models(len(combined([part.rows for part in parts], "any")))


def _used(answers: CorrAnswers) -> list[Measured]:
    """The parts that measured something; those of the preferred probe sets where nothing did."""
    found = [part for c in answers.comparisons for part in c.measured if part.count]
    return found or [comparison.measured[0] for comparison in answers.comparisons]


def _names(world: World) -> dict[str | None, str]:
    return {probe_set.id: probe_set.name for probe_set in world.facts.probe_sets()}


def _probes(part: Measured, names: Mapping[str | None, str]) -> str:
    probes, name = f"{part.candidates.samples} probes", names.get(part.probe_set_id)
    return probes if name is None else f"{probes} of '{name}'"


def _estimated(answers: CorrAnswers, world: World) -> str | None:
    """What of equivalence was counted on projections: '' for all of it, None for nothing."""
    used = _used(answers)
    rough = [part for part in used if not part.candidates.exact]
    if not rough:
        return None
    if len(rough) == len(used):
        return ""
    if len(answers.comparisons) == 1:
        names = _names(world)
        return " on " + " and ".join(_probes(part, names) for part in rough)
    ids = {part.candidates.reference_id for part in rough}
    return " to " + ", ".join(r.name for r in answers.corr.references if r.id in ids)


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
    probed = _probed(used, facts)
    for probe_set, dataset in probed:
        probes = "the probes" if len(probed) == 1 else f"the probes of '{probe_set.name}'"
        if probe_set.synthetic:
            notes.append(f"{probes} are synthetic: the bounds hold for such inputs only")
        if dataset is None:
            continue
        if probe_set.seed == _IN_ORDER and probe_set.samples < dataset.samples:
            notes.append(
                f"{probes} are the first {probe_set.samples} items of '{dataset.name}' (of "
                f"{dataset.samples}), not a random sample: the bound holds for those like them"
            )
        if dataset.held_out is False:
            notes.append(
                f"'{dataset.name}' is not held out: agreement on inputs that models were trained "
                "on is optimistic"
            )
    return list(dict.fromkeys(notes))


def training_notes(plan: LogicalPlan, world: World) -> tuple[str, ...]:
    """For EXPLAIN: the datasets of CORR's probes that nobody declared held out of training."""
    corr = plan.corr
    if corr is None:
        return ()
    used = {
        part.probe_set_id
        for reference in corr.references
        for part in world.candidates(reference.id, corr.probe_set_id, corr.mode).parts
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


def _undecidable(answers: CorrAnswers, world: World) -> list[str]:
    """A sentence for each probe set that is too small for any row to pass."""
    notes = []
    used = [part for part in _used(answers) if part.candidates.samples]
    several = len({part.probe_set_id for part in used}) > 1
    names = _names(world) if several else {}
    for part in used:
        samples = part.candidates.samples
        for bound in answers.corr.bounds:
            if bound.confidence is None or bound.operator not in (">", ">="):
                continue
            needed = samples_needed(bound.threshold, (1 - bound.confidence) / answers.tests)
            if needed is not None and needed <= samples:
                continue
            threshold = f"{bound.threshold * 100:g}%"
            if needed is None:
                notes.append(f"no number of probes can certify {threshold}")
            else:
                notes.append(
                    f"n={_probes(part, names)} cannot certify {threshold} for {answers.tests} "
                    f"comparisons: at least {needed} are needed"
                )
    return list(dict.fromkeys(notes))
