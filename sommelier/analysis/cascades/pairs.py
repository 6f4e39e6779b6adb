"""Which student would serve before which teacher, for all pairs of a zoo, from stored answers.

A student's samples are ordered once; what a threshold would lose against every teacher is then a
cumulative sum. The best of many pairs looks better than it is, so the risk is divided among all
pairs and scores that were looked at: every promise holds, all at once.
Source: algorithms.md A.5 and G.2.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sommelier.analysis.cascades.calibration import Target
from sommelier.analysis.cascades.members import Member, checked
from sommelier.analysis.cascades.scores import SCORES
from sommelier.analysis.cascades.thresholds import Falling, gained_within
from sommelier.cascade_records import expected_flops
from sommelier.confidence import largest_count_upper_below
from sommelier.errors import AnalysisError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CascadePair:
    """A student before a teacher. threshold : inf where nothing can be promised.

    routed : share of the samples that go on to the teacher. flops : of one input on average.
    flops_share : of the teacher's. lost : the mean loss on the samples. All three are estimates.
    """

    student: str
    teacher: str
    score: str
    threshold: float
    routed: float
    flops: float
    flops_share: float
    lost: float


def search_pairs(
    members: Sequence[Member],
    target: Target,
    *,
    teachers: Collection[str] | None = None,
    labels: ArrayLike | None = None,
    scores: Sequence[str] = SCORES,
) -> tuple[CascadePair, ...]:
    """Each pair of a student and a teacher that costs more, with its cheapest score and threshold;
    the smallest share of the teacher's FLOPs first.

    All thresholds keep what `target` says, a disagreement or (with labels (n,)) an accuracy drop,
    together with probability target.confidence. teachers : names, None for all members.
    Members without known FLOPs, and students without a score, are in no pair.
    Cost: members x scores x teachers x n additions. Raises AnalysisError for unknown teachers.
    """
    checked(members)
    _check_question(members, target, teachers, labels)
    asked = [one for one in members if teachers is None or one.name in teachers]
    tried = [
        (student, name, above)
        for student in members
        for name in scores
        if name in student.scores and (above := _above(student, asked))
    ]
    statements = sum(len(above) for _, _, above in tried)
    if not statements:
        return ()
    alone = Target(target.at_most, 1 - (1 - target.confidence) / statements, target.loss)
    best: dict[tuple[str, str], CascadePair] = {}
    for student, name, above in tried:
        for pair in _judged(student, name, above, alone, labels):
            key = (pair.student, pair.teacher)
            if key not in best or pair.routed < best[key].routed:
                best[key] = pair
    return tuple(sorted(best.values(), key=lambda pair: (pair.flops_share, pair.flops)))


def pareto(pairs: Sequence[CascadePair], quality: Sequence[float]) -> tuple[CascadePair, ...]:
    """The pairs that no other beats in both FLOPs and `quality` (higher is better), cheapest first.

    quality : of each pair, such as its teacher's accuracy less what is lost.
    """
    order = sorted(range(len(pairs)), key=lambda i: (pairs[i].flops, -quality[i]))
    front: list[CascadePair] = []
    reached = -inf
    for i in order:
        if quality[i] > reached:
            front.append(pairs[i])
            reached = quality[i]
    return tuple(front)


def _check_question(
    members: Sequence[Member],
    target: Target,
    teachers: Collection[str] | None,
    labels: ArrayLike | None,
) -> None:
    known = {one.name for one in members}
    if missing := set(teachers or ()) - known:
        raise AnalysisError(f"no answers of {', '.join(sorted(missing))}")
    if target.loss == "loss" or (target.loss == "accuracy drop") != (labels is not None):
        given = "without labels" if labels is None else "with labels"
        raise AnalysisError(
            f"pairs cannot be searched for a {target.loss} {given}",
            hint="a disagreement needs none, an accuracy drop needs them",
        )


def _above(student: Member, members: Sequence[Member]) -> list[Member]:
    """The members that cost more."""
    if student.flops is None:
        return []
    return [one for one in members if one.flops is not None and one.flops > student.flops]


def _judged(
    student: Member, name: str, teachers: list[Member], alone: Target, labels: ArrayLike | None
) -> Iterator[CascadePair]:
    scores = student.score(name)
    if labels is None:
        found = _agreeing(student, scores, teachers, alone)
    else:
        found = _accurate(student, scores, teachers, alone, np.asarray(labels))
    for teacher, (threshold, kept, lost) in zip(teachers, found, strict=True):
        assert student.flops is not None, "known: _above"
        assert teacher.flops is not None, "known: _above"
        flops = expected_flops((student.flops, teacher.flops), (kept, 1 - kept))
        share = flops / teacher.flops
        yield CascadePair(student.name, teacher.name, name, threshold, 1 - kept, flops, share, lost)


def _agreeing(
    student: Member, scores: Floats, teachers: list[Member], alone: Target
) -> Iterator[tuple[float, float, float]]:
    """(threshold, kept, lost) for each teacher: `kept_within`, the samples ordered once."""
    falling = Falling.of(scores)
    order = np.argsort(falling.place, kind="stable")
    order = order[: int(falling.ends[-1]) if falling.groups else 0]
    allowed = largest_count_upper_below(len(student), alone.at_most, 1 - alone.confidence)
    own = student.ids[order]
    for teacher in teachers:
        counts = np.cumsum(own != teacher.ids[order])[falling.ends - 1]
        groups = int(np.searchsorted(counts, allowed, side="right"))
        found = falling.keeping(groups, counts)
        yield found.value, found.kept, found.lost


def _accurate(
    student: Member,
    scores: Floats,
    teachers: list[Member],
    alone: Target,
    labels: NDArray[np.int64],
) -> Iterator[tuple[float, float, float]]:
    """(threshold, kept, lost) for each teacher: `gained_within`."""
    right = (student.ids == labels).astype(np.int64)
    for teacher in teachers:
        change = (teacher.ids == labels) - right
        found = gained_within(scores, change, at_most=alone.at_most, confidence=alone.confidence)
        yield found.value, found.kept, found.lost
