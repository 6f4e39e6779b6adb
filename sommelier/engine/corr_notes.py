"""What the footer says of CORR: what was compared, what the bounds promise and what weakens it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sommelier.engine.answers import CorrAnswers, combined
from sommelier.engine.bound_choice import STEPWISE
from sommelier.engine.bound_methods import CP, METHODS
from sommelier.engine.comparison import Part
from sommelier.engine.comparison_datasets import Across
from sommelier.engine.comparison_parts import Measured
from sommelier.engine.plan import LogicalPlan
from sommelier.engine.skipped import models
from sommelier.engine.world import World

if TYPE_CHECKING:
    from sommelier.engine.facts import Facts
    from sommelier.records import Dataset, ProbeSet

PROJECTED = "from projected outputs, whose distances are about 4% off"  # algorithms.md C.3

UNPROVED = (
    "spectral bounds one model on its own training set, with hidden constants set to 1: it is no "
    "proof, says nothing of a pair, and decides no row (bound = cp does)"
)

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
    if corr.correction == "split":  # only the winners are compared, all were
        count = answers.comparisons[0].candidates.ranking.count(reached)
    missing = int(np.count_nonzero(reached)) - count
    if missing:
        notes.append(_incomparable(answers, missing))
    notes += _undecidable(answers, world)
    if count:
        notes += _about_new(answers) if corr.across else _confidence(answers, world)
        used = {part.probe_set_id for c in answers.comparisons for part in c.parts if part.count}
        used |= {probe_set_id for _, probe_set_id in corr.across}
        notes += probe_caveats(used, world.facts)
    if not corr.possible and len(answers.comparisons) == 1:
        more = answers.comparisons[0].undecided(corr.bounds, answers.tests)
        if more:
            notes.append(
                f"{models(more)} more may pass: USING certainty='possible' shows what is undecided"
            )
    if any(_by_position(part) for c in answers.comparisons for part in c.parts):
        notes.append("some models name no classes: theirs are matched by position (column labels)")
    return notes, missing


# ---- what the bounds promise


def _confidence(answers: CorrAnswers, world: World) -> list[str]:
    """At which confidence, for how many models, on which probes; and what is only estimated."""
    where = _where(answers, world)
    method = METHODS[answers.corr.method]
    if not method.bounds:
        return [*_unbounded(answers), f"compared {where}"]
    share = f"{answers.corr.confidence * 100:g}%"
    promise = f"{share} confidence {_scope(answers)}, {where}"
    whose = _estimated(answers, world)
    if not method.proved:
        notes = [f"equivalence is an estimate by {method.name}, not a proof: {promise}"]
    elif whose is not None:
        limits = "the bounds count probes only, not that error"
        notes = [f"equivalence{whose} is estimated {PROJECTED}: {limits} ({promise})"]
    else:
        by = "" if method is CP else f" (bound = {method.name})"
        notes = [f"equivalence holds with {promise}{by}"]
    return notes + _stepwise(answers, share)


def _about_new(answers: CorrAnswers) -> list[str]:
    """What several datasets say of a new one, and with which confidence."""
    corr = answers.corr
    names = ", ".join(f"'{name}'" for name, _ in corr.across)
    count = len(corr.across)
    level = 1 - answers.alpha
    if corr.method == "prediction":
        how = f"the t-prediction at {level * 100:.4g}% per model is an estimate, not a proof"
    else:
        own = f"{count / (count + 1) * 100:.3g}%"
        how = f"the minimum of {count} holds with {own} confidence per model"
    about = f"equivalence is about a new dataset, drawn like {names}"
    return [f"{about}: {how}; agreement is the mean over the datasets"]


def _unbounded(answers: CorrAnswers) -> list[str]:
    """What is said instead of a confidence."""
    if answers.corr.method == "observed":
        return ["no bound: equivalence is the agreement observed (generalization = off)"]
    known = [value for value in _spectral_of(answers) if value == value]
    vacuous = sum(value > 1 for value in known)
    told = [UNPROVED]
    if known:
        told.append(f"spectral is vacuous (over 100%) for {vacuous} of {models(len(known))}")
    else:
        names = ", ".join(reference.name for reference in answers.corr.references)
        told.append(f"spectral is not known of any: ANALYZE {names} FOR BOUNDS")
    return told


def _spectral_of(answers: CorrAnswers) -> list[float]:
    """The spectral bounds of what was compared."""
    if answers.spectral is None:
        return []
    rows = combined([c.rows for c in answers.comparisons], "any")
    return [float(value) for value in answers.spectral[rows]]


def _stepwise(answers: CorrAnswers, share: str) -> list[str]:
    """Which statement about all rows together holds with a stepwise correction."""
    corr = answers.corr
    if corr.correction not in STEPWISE or not corr.bounds:
        return []
    reach = f"reach {corr.bounds[0].threshold * 100:g}%"
    level = f"each bound is at the level of the last step, 1 / {answers.tests:.3g} of alpha"
    if corr.correction == "fwer":
        return [f"that all rows {reach} holds with {share} confidence together (Holm); {level}"]
    risk = f"{(1 - corr.confidence) * 100:.3g}%"
    if corr.correction == "fdr_by":
        how = "Benjamini-Yekutieli: under every dependence of the comparisons"
    else:
        how = "Benjamini-Hochberg: comparisons independent or positively dependent, else fdr_by"
    return [f"of the rows at most {risk} are expected not to {reach} ({how}); {level}"]


def _where(answers: CorrAnswers, world: World) -> str:
    """On which probes the models were compared; how many, on those other than the first."""
    parts: dict[str | None, list[Measured]] = {}
    for part in _used(answers):
        parts.setdefault(part.probe_set_id, []).append(part)
    (first, *_), *others = parts.values()
    names = _names(world)
    texts = [f"on {_probes(first, names)}"] if first.candidates.samples else []
    texts += [f"{_together(found)} on {_probes(found[0], names)}" for found in others]
    streamed = [part for c in answers.comparisons for part in c.streamed]
    if streamed:
        texts.append(f"{_together(streamed)} by early stopping, on as many samples as they took")
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
    """For which claims together the confidence of each bound holds."""
    corr = answers.corr
    if corr.correction in STEPWISE and corr.bounds:
        return f"per model at least, of K = {answers.claims} compared"
    if corr.correction == "split":
        chosen = f"chosen on the other half of the probes (seed {corr.seed})"
        return f"for the {models(answers.claims)} {chosen}"
    if answers.claims == 1:
        return "per model"
    if corr.corrected:
        return f"for all K = {answers.claims} comparisons together"
    return f"per model, for its {answers.claims} references together"


# ---- what weakens it


def _by_position(part: Part) -> bool:
    """Whether some models of a part are compared class by class number."""
    if isinstance(part, Measured):
        return part.candidates.by_position is not None
    return isinstance(part, Across) and bool(part.is_positional(part.rows).any())


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
            count = probe_set.samples
            which = f"the first {count}" if probe_set.indices is None else f"{count} chosen"
            notes.append(
                f"{probes} are {which} items of '{dataset.name}' (of {dataset.samples}), not a "
                "random sample: the bound holds for those like them"
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
    if corr.across:
        used = {probe_set_id for _, probe_set_id in corr.across}
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
    if corr.across:
        on = ", ".join(f"'{name}'" for name, _ in corr.across)
        return (
            f"{models(missing)} skipped: not comparable with {names} on every one of {on} (run "
            f"ANALYZE ALL FOR EQUIVALENCE USING dataset = [{on}])"
        )
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
    if answers.corr.across:
        parts: list[Part] = [part for c in answers.comparisons for part in c.parts]
        told = [p.undecidable(b, answers.tests) for p in parts for b in answers.corr.bounds]
        return [f"UNDECIDABLE: {text}" for text in dict.fromkeys(told) if text is not None]
    used = [part for part in _used(answers) if part.candidates.samples]
    several = len({part.probe_set_id for part in used}) > 1
    names = _names(world) if several else {}
    notes = []
    for part in used:
        name = names.get(part.probe_set_id)
        of = "" if name is None else f" of '{name}'"
        notes += [part.undecidable(bound, answers.tests, of) for bound in answers.corr.bounds]
    return [note for note in dict.fromkeys(notes) if note is not None]
