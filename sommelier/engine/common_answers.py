"""What several classifiers answered to the same samples, as the catalog has it: no model runs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sommelier.engine.cascade_facts import known_flops
from sommelier.errors import AnalysisError
from sommelier.storage.versions import version_of

if TYPE_CHECKING:
    from sommelier.analysis.cascades.members import Member
    from sommelier.analysis.links.formats import AnswerFormat
    from sommelier.engine.session import Session
    from sommelier.records import ModelRecord, ProbeSet
    from sommelier.storage.sketches import SketchStore

KEPT = 16  # models whose answers are kept in memory, each a few hundred kilobytes

_Read = tuple["Member", "AnswerFormat"]


@dataclass(frozen=True, slots=True)
class CommonAnswers:
    """members : of the models, in their order, with classes as those of the labels where there are
    labels. formats : how they write it. losses (n,) : of each but the last, an accuracy drop by
    labels, else a disagreement. accuracies : of all, None without labels."""

    probes: ProbeSet
    members: tuple[Member, ...]
    formats: tuple[AnswerFormat, ...]
    losses: tuple[Any, ...]
    accuracies: tuple[float, ...] | None

    @property
    def accuracy(self) -> float | None:
        """Of the last one, None without labels."""
        return None if self.accuracies is None else self.accuracies[-1]

    @property
    def data(self) -> str:
        """'2000 samples of 'cifar10''."""
        return f"{len(self.members[0])} samples of '{self.probes.name}'"


class AnswerReader:
    """Reads answers at full precision. The last few are kept: a deployment is planned again after
    every change of the catalog, and answers of the same version stay as they are."""

    def __init__(self, sketches: SketchStore) -> None:
        self._sketches = sketches
        self._read: OrderedDict[tuple[str, str], _Read] = OrderedDict()

    def read(self, record: ModelRecord, probes: ProbeSet) -> _Read | None:
        """A model's scores without its logits, and how it writes them; None where they are not
        kept. Raises AnalysisError for answers that choose no class."""
        from sommelier.analysis.cascade_data import KEPT as AS_GIVEN
        from sommelier.analysis.cascade_data import raw_member

        key = (version_of(record), probes.id)
        if key in self._read:
            self._read.move_to_end(key)
            return self._read[key]
        kept = self._sketches.outputs(*key)
        if kept is None or len(kept.get(AS_GIVEN, ())) != probes.samples:
            return None
        member, format = raw_member(record, kept[AS_GIVEN], None)
        self._read[key] = replace(member, logits=None), format
        if len(self._read) > KEPT:
            self._read.popitem(last=False)
        return self._read[key]


def common_answers(
    records: Sequence[ModelRecord], session: Session, dataset: str | None = None
) -> CommonAnswers | None:
    """What all these models answered to samples of the dataset, or of any: with labels before
    without, then the most samples. None where no such answers are kept at full precision.

    Raises AnalysisError for a model whose answers choose no class.
    """
    known = [
        probes for probes in session.facts.probe_sets()
        if not probes.synthetic and dataset in (None, probes.name)
    ]  # fmt: skip
    known.sort(key=lambda one: (one.labels is None, -one.samples, one.id))
    for probes in known:
        read = [session.answers.read(record, probes) for record in records]
        found = [one for one in read if one is not None]
        if len(found) == len(read):
            return _judged(records, found, probes, session)
    return None


def _judged(
    records: Sequence[ModelRecord], found: Sequence[_Read], probes: ProbeSet, session: Session
) -> CommonAnswers:
    from sommelier.analysis.cascade_data import accuracies, in_their_labels
    from sommelier.analysis.cascades.calibration import accuracy_drop, disagreement

    costs = known_flops(records, session.facts)
    priced = [
        (replace(one, flops=cost), format)
        for (one, format), cost in zip(found, costs, strict=True)
    ]  # fmt: skip
    formats = tuple(format for _, format in priced)
    try:
        labelled, labels = in_their_labels(session.catalog, records, priced, probes)
    except AnalysisError:  # labels of other classes than the models'
        labelled = labels = None
    if labelled is not None and labels is not None:
        right = accuracies(labelled, labels)
        return CommonAnswers(probes, labelled, formats, accuracy_drop(labelled, labels), right)
    members = tuple(one for one, _ in priced)
    return CommonAnswers(probes, members, formats, disagreement(members), None)
