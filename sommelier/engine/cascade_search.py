"""Which cascades of two the stored answers allow: the search behind SELECT CASCADES."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sommelier.engine.cascade_columns import CASCADE_NUMBERS, CASCADE_TEXTS, CascadeRows
from sommelier.engine.cascade_facts import known_flops
from sommelier.engine.listed_columns import floats
from sommelier.engine.plan import ModelReference
from sommelier.errors import AnalysisError, BinderError
from sommelier.storage.resource_index import ColumnKey
from sommelier.storage.versions import version_of

if TYPE_CHECKING:
    from sommelier.analysis.cascades.calibration import Target
    from sommelier.analysis.cascades.members import Member
    from sommelier.analysis.cascades.pairs import CascadePair
    from sommelier.engine.session import Session
    from sommelier.records import LabelSpace, ModelRecord, ProbeSet

Floats = NDArray[np.float64]
FULL = 64  # models whose answers are read at full precision; of more, what sketches have


@dataclass(frozen=True, slots=True)
class Answered:
    """What is stored of one probe set. groups : members that choose among the same classes, those
    of one group may be a cascade. labels : (n,) where the members of the groups have the classes of
    the labels. unread : how many models answered something else. exact : answers at full precision.
    """

    probes: ProbeSet
    groups: tuple[tuple[Member, ...], ...]
    records: Mapping[str, ModelRecord]
    labels: NDArray[np.int64] | None
    unread: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Found:
    """pairs : with a threshold that keeps the promise. looked : pairs that were looked at.
    statements : pairs and scores the risk was divided among. unprofiled : pairs not looked at since
    the FLOPs of a model are unknown, `lacking` are those models. needed : the fewest samples that
    could keep any promise."""

    pairs: tuple[CascadePair, ...]
    looked: int
    statements: int
    unprofiled: int
    lacking: tuple[str, ...]
    needed: int


# ---- what is stored


def answered_by(probes: ProbeSet, session: Session, *, labelled: bool) -> Answered:
    """The members that have answered a probe set. labelled : judge them by its labels, if any."""
    from sommelier.analysis.cascade_data import sketched_member

    catalog, sketches = session.catalog, session.sketches
    records = {r.id: r for r in catalog.models(sketches.model_ids(probes.id)) if not r.proposal}
    flops = dict(zip(records, known_flops(list(records.values()), session.facts), strict=True))
    exact = len(records) <= FULL
    members: list[tuple[ModelRecord, Member, int | None]] = []
    unread = 0
    for id_, record in records.items():
        sketch = sketches.get(id_, probes.id)
        outputs = sketches.outputs(version_of(record), probes.id) if exact else None
        try:
            one = sketched_member(record, sketch, flops[id_], outputs)
        except AnalysisError:
            unread += 1
            continue
        members.append((record, replace(one, name=id_), sketch.classes))
    labels = _labels(probes) if labelled else None
    if labels is not None:
        judged = _in_labels(members, labels, probes, session)
        if judged is not None:
            group, unfit = judged
            rows = np.flatnonzero(labels >= 0)
            kept = tuple(one.rows(rows) for one in group)
            return Answered(probes, (kept,), records, labels[rows], unread + unfit, exact)
    return Answered(probes, _groups(members), records, None, unread, exact)


def _labels(probes: ProbeSet) -> NDArray[np.int64] | None:
    if probes.labels is None:
        return None
    labels = np.frombuffer(probes.labels, dtype=np.int32).astype(np.int64)
    return labels if (labels >= 0).any() else None


def _in_labels(
    members: Sequence[tuple[ModelRecord, Member, int | None]],
    labels: NDArray[np.int64],
    probes: ProbeSet,
    session: Session,
) -> tuple[list[Member], int] | None:
    """(members with classes as those of the labels, how many have others); None if no two do."""
    from sommelier.analysis.cascade_data import in_labels, label_map

    catalog, space_id = session.catalog, probes.label_space_id
    spaces: dict[str, LabelSpace] = {}

    def space(id_: str | None) -> LabelSpace | None:
        if id_ is not None and id_ not in spaces:
            spaces[id_] = catalog.label_space(id_)
        return None if id_ is None else spaces[id_]

    found: list[Member] = []
    for record, one, classes in members:
        own = record.label_space_id
        explicit = catalog.label_map(own, space_id) if own and space_id else None
        try:
            mapped = label_map(space(own), classes, labels, space(space_id), explicit)
        except AnalysisError:
            continue
        found.append(in_labels(one, mapped))
    return (found, len(members) - len(found)) if len(found) > 1 else None


def _groups(
    members: Sequence[tuple[ModelRecord, Member, int | None]],
) -> tuple[tuple[Member, ...], ...]:
    """Members of the same label space, or without one and of as many classes."""
    groups: dict[object, list[Member]] = {}
    for record, one, classes in members:
        groups.setdefault(record.label_space_id or classes, []).append(one)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


# ---- the search


def search(answered: Answered, target: Target, teacher: ModelReference | None) -> Found:
    """Every pair whose promise holds, all at once; the risk is divided among all of them."""
    from sommelier.analysis.cascade_data import TOP_MARGIN
    from sommelier.analysis.cascades.pairs import search_pairs
    from sommelier.analysis.cascades.scores import SCORES
    from sommelier.analysis.cascades.thresholds import needed

    names = (*SCORES, TOP_MARGIN)
    wanted = None if teacher is None else (teacher.id,)
    counts = [_counts(group, wanted, names) for group in answered.groups]
    looked, statements = (sum(count[place] for count in counts) for place in (0, 1))
    pairs: list[CascadePair] = []
    for group, (_, tests) in zip(answered.groups, counts, strict=True):
        asked = None if wanted is None else [id_ for id_ in wanted if id_ in _ids(group)]
        if not tests or asked == []:
            continue
        part = (1 - target.confidence) * tests / statements  # each statement has an equal share
        own = replace(target, confidence=1 - part)
        pairs += search_pairs(group, own, teachers=asked, labels=answered.labels, scores=names)
    kept = sorted(
        (pair for pair in pairs if pair.threshold < inf),
        key=lambda pair: (pair.flops_share, pair.flops),
    )
    unprofiled, lacking = _unprofiled(answered, wanted)
    alone = 1 - (1 - target.confidence) / max(statements, 1)
    least = needed(target.at_most, alone, loss=target.loss)
    return Found(tuple(kept), looked, statements, unprofiled, lacking, least)


def _ids(group: Sequence[Member]) -> set[str]:
    return {one.name for one in group}


def _counts(
    group: Sequence[Member], teachers: Sequence[str] | None, names: Sequence[str]
) -> tuple[int, int]:
    """(pairs, pairs times scores) that search_pairs looks at."""
    pairs = tests = 0
    for student in group:
        above = [
            one for one in group
            if (teachers is None or one.name in teachers)
            and one.flops is not None and student.flops is not None
            and one.flops > student.flops
        ]  # fmt: skip
        scores = sum(name in student.scores for name in names)
        pairs += len(above) * bool(scores)
        tests += len(above) * scores
    return pairs, tests


def _unprofiled(answered: Answered, teachers: Sequence[str] | None) -> tuple[int, tuple[str, ...]]:
    """(pairs in which a model's FLOPs are unknown, the names of those models)."""
    count = 0
    lacking: dict[str, None] = {}
    for group in answered.groups:
        without = [one.name for one in group if one.flops is None]
        for place, student in enumerate(group):
            for other in group[place + 1 :]:
                ends = {student.name, other.name}
                if teachers is not None and not ends & set(teachers):
                    continue
                if student.flops is None or other.flops is None:
                    count += 1
        if teachers is None or _ids(group) & set(teachers):
            lacking |= dict.fromkeys(without)
    return count, tuple(answered.records[id_].name for id_ in lacking)


# ---- rows


def rows_of(found: Found, answered: Answered, target: Target, session: Session) -> CascadeRows:
    """The pairs with every column."""
    pairs, records = found.pairs, answered.records
    names = _names(records)
    texts = {
        "student": [names[pair.student] for pair in pairs],
        "teacher": [names[pair.teacher] for pair in pairs],
        "score": [pair.score for pair in pairs],
    }
    members = {one.name: one for group in answered.groups for one in group}
    ends = [[pair.student for pair in pairs], [pair.teacher for pair in pairs]]
    flops = [floats([members[id_].flops for id_ in side]) for side in ends]
    memory = [_memory(side, session) for side in ends]
    right = [_accuracies(side, members, answered.labels) for side in ends]
    lost = floats([pair.lost for pair in pairs])
    unknown = np.full(len(pairs), np.nan)
    labelled = answered.labels is not None
    together = memory[0] + memory[1]
    share = floats([pair.flops_share for pair in pairs])
    numbers = {
        "threshold": floats([pair.threshold for pair in pairs]),
        "answered": 1 - floats([pair.routed for pair in pairs]),
        "flops": floats([pair.flops for pair in pairs]),
        "flops_share": share,
        "memory": together,
        "memory_share": together / np.where(memory[1] > 0, memory[1], np.nan),
        "accuracy_drop": lost if labelled else unknown,
        "disagreement": unknown if labelled else lost,
        "guaranteed": np.full(len(pairs), target.at_most),
        "accuracy": right[1] - lost if labelled else unknown,
        "student_accuracy": right[0],
        "teacher_accuracy": right[1],
        "student_flops": flops[0],
        "teacher_flops": flops[1],
    }
    assert numbers.keys() == CASCADE_NUMBERS.keys(), "every column"
    assert texts.keys() == set(CASCADE_TEXTS), "every column"
    return CascadeRows(texts, numbers, session.catalog)


def _names(records: Mapping[str, ModelRecord]) -> dict[str, str]:
    """How models are called; one whose name is another's too, with its version."""
    called = [record.name for record in records.values()]
    return {
        id_: record.name if called.count(record.name) == 1 else f"{record.name}@{record.version}"
        for id_, record in records.items()
    }


def _memory(ids: Sequence[str], session: Session) -> Floats:
    facts = session.facts
    if not ids:
        return np.empty(0)
    rows = facts.resources.rows(list(ids))
    return np.asarray(facts.column(ColumnKey("memory")).values[rows], dtype=np.float64)


def _accuracies(
    ids: Sequence[str], members: Mapping[str, Member], labels: NDArray[np.int64] | None
) -> Floats:
    if labels is None:
        return np.full(len(ids), np.nan)
    known = {id_: float((members[id_].ids == labels).mean()) for id_ in set(ids)}
    return floats([known[id_] for id_ in ids])


# ---- which data


def probe_set_for(
    dataset: str | None, teacher: ModelReference | None, session: Session
) -> ProbeSet:
    """The probe set of the dataset that most models answered; of all that the teacher answered
    where none is named, those with labels first. Raises BinderError where there is none."""
    facts, sketches = session.facts, session.sketches
    known = [
        (probes, sketches.model_ids(probes.id))
        for probes in facts.probe_sets()
        if not probes.synthetic and dataset in (None, probes.name)
    ]
    fitting = [
        (probes, ids) for probes, ids in known
        if ids and (teacher is None or teacher.id in ids)
    ]  # fmt: skip
    if not fitting:
        who = "no model" if teacher is None else teacher.name
        verb = "has" if teacher is None else "has not"
        what = "samples of a dataset" if dataset is None else f"samples of '{dataset}'"
        scope = "ALL" if teacher is None else teacher.name
        using = "" if dataset is None else f" USING dataset = '{dataset}'"
        raise BinderError(
            f"{who} {verb} answered {what}{' yet' if teacher is None else ''}",
            hint=f"ANALYZE {scope} FOR EQUIVALENCE, RESOURCES{using}",
        )
    return max(
        fitting, key=lambda one: (one[0].labels is not None, len(one[1]), one[0].samples, one[0].id)
    )[0]
