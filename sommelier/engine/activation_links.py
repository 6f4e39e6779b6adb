"""What a plan may predict with: the usable links between models of a group, as ensembles.

Only links of one source count, for an ensemble of any subset is made of them, and only those that
were fitted to the same samples, divided the same way: the samples that judge one link must not have
taught another. Predictions are read from where they are kept; no model runs.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sommelier.engine.names import few
from sommelier.engine.plan import ModelReference
from sommelier.errors import AnalysisError, BinderError
from sommelier.link_records import PREDICTED, TARGET

if TYPE_CHECKING:
    from sommelier.analysis.links.ensemble import LinkEnsemble
    from sommelier.analysis.links.formats import LinkAnswers
    from sommelier.analysis.links.problem import Predictor
    from sommelier.analysis.links.profiles import Profile
    from sommelier.analysis.links.splits import Split
    from sommelier.engine.scope import Scope
    from sommelier.engine.session import Session
    from sommelier.link_records import ModelLink

Pair = tuple[str, str]  # ids of source and target


@dataclass(frozen=True, slots=True)
class Samples:
    """What links were fitted to: those of equal Samples are judged by the same held-out ones.

    probe_set_ids : all that hold the same samples, one of each modality.
    """

    probe_set_ids: frozenset[str]
    seed: int
    held_out: float
    validation: float

    @classmethod
    def of(cls, link: ModelLink, aligned: Sequence[frozenset[str]] = ()) -> Samples:
        """aligned : `aligned_probes` of all links of the group."""
        from sommelier.analysis.links.splits import HELD_OUT, VALIDATION

        options: dict[str, Any] = json.loads(link.options or "{}")
        own = _probes(link)
        return cls(
            next((probes for probes in aligned if own <= probes), own),
            link.seed,
            options.get("held_out") or HELD_OUT,
            options.get("validation") or VALIDATION,
        )

    def split(self, answers: LinkAnswers) -> Split:
        """As links to these answers were fitted: without samples that have none."""
        from sommelier.analysis.links.splits import answered, split

        parts = split(len(answers), self.seed, held_out=self.held_out, validation=self.validation)
        return answered(answers, parts)


@dataclass(frozen=True, slots=True)
class Linked:
    """The links of a group. names : what each model is called in the problem, by id.

    predictors : by the target's name, ensembles by the names of their sources; None where nothing
    but executing it answers. links : by ids. held_out : samples that judge them.
    """

    names: Mapping[str, str]
    predictors: Mapping[str, Predictor | None]
    links: Mapping[Pair, ModelLink]
    probe_set_id: str | None
    held_out: int
    notes: tuple[str, ...]

    def ensemble(self, name: str) -> LinkEnsemble | None:
        """The ensemble of a target; None where not even a constant answer of it is known."""
        from sommelier.analysis.links.ensemble import LinkEnsemble

        found = self.predictors[name]
        return found if isinstance(found, LinkEnsemble) else None


def linked_group(
    models: Sequence[ModelReference],
    session: Session,
    scope: Scope,
    *,
    confidence: float,
    profile: Profile | None = None,
) -> Linked:
    """The links between the models on the samples that most of them were fitted to.

    profile : inputs by which they are judged instead of held-out samples.
    Raises BinderError when USING names a dataset on which there are none.
    """
    ids = {model.id for model in models}
    between = [
        link
        for link in session.facts.links()
        if len(link.source_ids) == 1 and link.source_ids[0] in ids and link.target_id in ids
    ]
    chosen = _on_dataset([link for link in between if link.probe_set_id is not None], scope)
    aligned = aligned_probes(chosen)
    samples = _usual([Samples.of(link, aligned) for link in chosen if link.usable])
    current = [k for k in chosen if k.stale is None and samples in (None, Samples.of(k, aligned))]
    names = {model.id: model.name for model in models}
    reader = _Reader(session, samples, names, confidence, profile)
    predictors = {model.name: reader.predictor(model.id, current) for model in models}
    usable = [link for link in current if link.usable]
    notes = [*_left_out(between, usable, models), *reader.notes]
    first = usable[0] if usable else None
    if first is not None:
        notes.insert(0, _measured_on(first, reader.held_out, profile))
    probe_set_id = None if first is None else first.probe_set_id
    return Linked(
        reader.names, predictors, reader.links, probe_set_id, reader.held_out, tuple(notes)
    )


def _on_dataset(links: list[ModelLink], scope: Scope) -> list[ModelLink]:
    """Those on the dataset of USING or SET; all of them where SET names one that has none."""
    wanted = scope.options.dataset
    found = [link for link in links if wanted in (link.dataset, link.target_dataset)]
    if wanted is None or (not found and "dataset" not in scope.options.stated):
        return links
    if not found:
        counts = Counter(str(link.dataset) for link in links)
        told = ", ".join(f"{count} on '{name}'" for name, count in counts.most_common())
        raise BinderError(
            f"no link between these models was learned on '{wanted}'",
            span=scope.spans.get("dataset"),
            hint=f"there are {told or 'none at all'}; ANALYZE ... FOR LINKS makes them",
        )
    return found


def aligned_probes(links: Sequence[ModelLink]) -> tuple[frozenset[str], ...]:
    """The probe sets of links, those together that hold the same samples.

    A link between modalities says that its two probe sets do, sample by sample.
    """
    groups: list[frozenset[str]] = []
    for link in links:
        own = _probes(link)
        touched = [group for group in groups if group & own]
        groups = [group for group in groups if group not in touched] + [own.union(*touched)]
    return tuple(groups)


def _probes(link: ModelLink) -> frozenset[str]:
    ids = (link.probe_set_id, link.source_probe_set_id)
    return frozenset(id_ for id_ in ids if id_ is not None)


def _usual(samples: Sequence[Samples]) -> Samples | None:
    """The samples of most links; of equally many the first by the links' names."""
    counts = Counter(samples)
    return counts.most_common(1)[0][0] if counts else None


class _Reader:
    """Reads what links predicted, and makes an ensemble of those to each target."""

    def __init__(
        self,
        session: Session,
        samples: Samples | None,
        names: Mapping[str, str],
        confidence: float,
        profile: Profile | None,
    ) -> None:
        self.names = names
        self.links: dict[Pair, ModelLink] = {}
        self.notes: list[str] = []
        self.held_out = 0
        self._sketches = session.sketches
        self._samples = samples
        self._confidence = confidence
        self._profile = profile

    def predictor(self, target_id: str, links: Sequence[ModelLink]) -> Predictor | None:
        """The ensemble of the links to a target; what is known of its constant answer without."""
        from sommelier.analysis.links.ensemble import LinkEnsemble

        own = [link for link in links if link.target_id == target_id]
        answers, predicted = self._answers(target_id, own)
        known = next((link.constant for link in own if link.constant is not None), None)
        if answers is None:
            return self._only_constant(target_id, known)
        if not predicted:
            self._note_unlinked(target_id, known)
        assert self._samples is not None or not predicted, "usable links have samples"
        samples = self._samples or Samples.of(own[0])
        divided = samples.split(answers)
        if self._profile is not None and target_id in self._profile.answers:
            answers, predicted, divided = self._now(target_id, answers, predicted, divided)
        self.held_out = max(self.held_out, len(divided.held_out))
        # which links are usable was decided on the samples that judge them here
        tried = sum(link.performance is not None for link in own)
        try:
            return LinkEnsemble(
                answers, predicted, divided, confidence=self._confidence, tried=tried
            )
        except AnalysisError as error:
            self.notes.append(f"{self.names[target_id]}: {error.message}")
            return None

    def _answers(self, target_id: str, links: Sequence[ModelLink]) -> tuple[Any, dict[str, Any]]:
        """(the target's own answers or None, what each usable link predicts by source's name)."""
        from sommelier.analysis.links.formats import AnswerFormat, LinkAnswers

        answers: LinkAnswers | None = None
        predicted: dict[str, Any] = {}
        for link in sorted(links, key=_age):
            kept = self._sketches.outputs(link.id, str(link.probe_set_id))
            if kept is None or TARGET not in kept or link.target_format is None:
                if link.usable:
                    self._gone(link)
                continue
            own = LinkAnswers(AnswerFormat.from_json(link.target_format), kept[TARGET])
            answers = own if answers is None else answers
            judged = len(Samples.of(link).split(own).held_out)
            whole = len(own) == len(answers) and judged == link.held_out
            if link.usable and whole and PREDICTED in kept:
                source = link.source_ids[0]
                predicted[self.names[source]] = kept[PREDICTED]
                self.links[source, target_id] = link  # the newest of several counts
            elif link.usable:
                self._gone(link)
        return answers, predicted

    def _now(
        self, target_id: str, answers: LinkAnswers, predicted: Mapping[str, Any], rows: Split
    ) -> tuple[LinkAnswers, dict[str, Any], Split]:
        """The same, judged by the inputs of the profile."""
        from sommelier.analysis.links.profiles import judged_by

        assert self._profile is not None, "asked only with a profile"
        ids = {name: id_ for id_, name in self.names.items()}
        by_id = {ids[name]: values for name, values in predicted.items()}
        known, joined, divided = judged_by(self._profile, target_id, answers, by_id, rows)
        return known, {self.names[id_]: values for id_, values in joined.items()}, divided

    def _gone(self, link: ModelLink) -> None:
        self.notes.append(
            f"the link '{link.name}' is left out: what it predicted is not kept as it was"
            " (CREATE OR REPLACE LINK makes it anew)"
        )

    def _only_constant(self, target_id: str, known: float | None) -> Predictor | None:
        from sommelier.analysis.links.problem import BestLink

        self._note_unlinked(target_id, known)
        return None if known is None else BestLink({}, known)

    def _note_unlinked(self, target_id: str, known: float | None) -> None:
        worth = "nothing, which counts 0%"
        if known is not None:
            worth = f"its best constant answer, which counts {known:.1%}"
        self.notes.append(
            f"no usable link predicts {self.names[target_id]}: it is executed or gets {worth}"
        )


def _age(link: ModelLink) -> tuple[str, str]:
    """Oldest first, so that the newest wins: blind to how good links are."""
    return ("" if link.created_at is None else link.created_at.isoformat(), link.name)


def _measured_on(link: ModelLink, held_out: int, profile: Profile | None) -> str:
    if profile is not None:
        return f"links are judged by the {held_out} inputs of the profile"
    other = "" if link.target_dataset is None else f" and '{link.target_dataset}'"
    return f"links are judged by {held_out} samples of '{link.dataset}'{other} held out from them"


def _left_out(
    between: Sequence[ModelLink],
    used: Sequence[ModelLink],
    models: Sequence[ModelReference],
) -> list[str]:
    """What is known of the group but does not count, and why."""
    notes = []
    stale = [link.name for link in between if link.stale is not None]
    if stale:
        notes.append(f"stale and not used: {few(stale)} (SHOW LINKS says why)")
    ids = {link.id for link in used}
    others = [link.name for link in between if link.usable and link.id not in ids]
    if others:
        notes.append(f"fitted to other samples and not used: {few(others)} (USING dataset chooses)")
    if not used:
        notes.append(_why_none(between, models))
    return notes


def _why_none(between: Sequence[ModelLink], models: Sequence[ModelReference]) -> str:
    """There are no usable links of a group: because none were made, or because none works."""
    tried = [link for link in between if link.stale is None and not link.usable]
    pairs = {(link.source_ids, link.target_id) for link in tried}
    states = " or ".join(sorted({link.state for link in tried}, reverse=True))
    if len(pairs) == len(models) * (len(models) - 1) > 0:
        return f"the links between these models are {states}: SHOW LINKS says why"
    make = f"ANALYZE {', '.join(model.name for model in models)} FOR LINKS"
    if not tried:
        return f"there are no usable links between these models: {make}"
    return (
        f"those links between these models that were tried are {states} (SHOW LINKS says why);"
        f" {make} tries the others"
    )
