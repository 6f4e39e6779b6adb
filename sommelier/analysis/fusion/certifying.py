"""What a fused model loses on each task, from samples that nothing was chosen by.

With labels the difference of two accuracies on the same samples; without them the disagreement with
the teacher, which an accuracy cannot fall by more than. The paper reports the drop on the data it
searched with: on digits, winners within 1 pp there lost 1.0, 3.5 and 2.5 pp elsewhere.
Source: algorithms.md A.4 and F.5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis import bounds
from sommelier.analysis.bounds import Interval, Verdict, bound
from sommelier.analysis.bounds.intervals import risk_of
from sommelier.analysis.fusion.lessons import Judged, Lessons
from sommelier.confidence import Side

Array = NDArray[Any]
Floats = NDArray[np.float64]
Bounded = Callable[..., Interval]
Measure = Literal["accuracy", "agreement", "score", "likeness"]

OTHER_SIDE: dict[Side, Side] = {"two": "two", "upper": "lower", "lower": "upper"}


@dataclass(frozen=True, slots=True)
class Drop:
    """What one task loses, as a fraction. drop : negative for a gain.

    measure : with labels 'accuracy', or 'score' where answers are right in part; without them
    'agreement' with the teacher, or 'likeness' to it. reference, score : of the teacher and of the
    fused model. interval : of the drop, proved. displayed : Tango's for an accuracy, narrower and
    an estimate; None elsewhere. lost, gained : samples only the teacher gets right, and only the
    fused model; None where answers are right in part. flawless : the upper end that answers like
    the teacher's on all samples would have had.
    """

    measure: Measure
    reference: float
    score: float
    drop: float
    interval: Interval
    displayed: Interval | None
    lost: int | None
    gained: int | None
    flawless: float

    def meets(self, tolerance: float, *, upper_end: bool = True) -> Verdict:
        """Whether the drop is at most `tolerance`: its interval's upper end, or else itself.

        UNDECIDABLE : so few samples could not have shown it whatever the answers, and they do not
        refute it.
        """
        if (self.interval.high if upper_end else self.drop) <= tolerance:
            return Verdict.PASSES
        if upper_end and self.flawless > tolerance >= self.drop:
            return Verdict.UNDECIDABLE
        return Verdict.FAILS


@dataclass(frozen=True, slots=True)
class Certificate:
    """The drops of all tasks, in order, each in its interval at the stated confidence."""

    drops: tuple[Drop, ...]

    @property
    def worst(self) -> Drop:
        return max(self.drops, key=lambda drop: drop.drop)

    def meets(self, tolerance: float, *, upper_end: bool = True) -> Verdict:
        """Whether every task meets the tolerance.

        Wrong with at most the risk of one upper end, however many tasks there are: it takes a
        mistake on a task that does not meet it. The intervals of all tasks together are not meant.
        """
        verdicts = [drop.meets(tolerance, upper_end=upper_end) for drop in self.drops]
        for verdict in (Verdict.FAILS, Verdict.UNDECIDABLE):
            if verdict in verdicts:
                return verdict
        return Verdict.PASSES


def certify(
    lessons: Lessons,
    outputs: Sequence[Array],
    *,
    confidence: float = 0.95,
    side: Side = "two",
    candidates: int = 1,
) -> Certificate:
    """What a fused model loses, from its `outputs` for the `certify` samples, per task (rows, ...).

    side : 'upper' spends the whole risk on the upper end. candidates : as many fused models are
    certified on these samples, and all statements hold together (Bonferroni). The samples must be
    independent, and neither trained on nor chosen by.
    Raises AnalysisError for outputs of other tasks or shapes, and where no sample has a label.
    """
    judged = lessons.judge(outputs, lessons.splits.certify)
    bounded = partial(bound, confidence=confidence, candidates=candidates)
    return Certificate(tuple(_drop(one, bounded, side) for one in judged))


def samples_needed(
    tolerance: float, *, labelled: bool, confidence: float = 0.95, side: Side = "two"
) -> int:
    """The fewest `certify` samples that can show a drop of at most `tolerance` in right or wrong
    answers, if none of them differs from the teacher's."""
    end = risk_of(confidence, side).end
    # a paired difference spends half of an end's risk on each of its two counts
    risk = end / 2 if labelled else end
    return bounds.samples_needed(1 - tolerance, confidence=1 - risk)


def samples_lacking(
    certificate: Certificate, tolerance: float, *, confidence: float = 0.95, candidates: int = 1
) -> int | None:
    """How many `certify` samples it takes to show the tolerance where as few as these cannot,
    whatever the answers. None where other answers would have shown it, and where answers are right
    in part, of which that depends on how they spread.
    """
    unshown = [d for d in certificate.drops if d.flawless > tolerance]
    if not unshown or any(d.lost is None for d in unshown) or not tolerance:
        return None
    each = 1 - (1 - confidence) / candidates
    return max(
        samples_needed(tolerance, labelled=d.measure == "accuracy", confidence=each)
        for d in unshown
    )


def _drop(judged: Judged, bounded: Bounded, side: Side) -> Drop:
    like_teacher = np.ones_like(judged.fused) if judged.teacher is None else judged.teacher
    counts = None if judged.graded else _counts(judged)
    displayed = None
    if counts is not None and judged.teacher is not None:
        n = len(judged.fused)
        displayed = bounded("difference", *counts, n, method="tango", side=side)
    return Drop(
        measure=_measure(judged),
        reference=judged.reference,
        score=judged.score,
        drop=judged.drop,
        interval=_interval(judged, bounded, side),
        displayed=displayed,
        lost=None if counts is None else counts[0],
        gained=None if counts is None else counts[1],
        flawless=_interval(replace(judged, fused=like_teacher), bounded, side).high,
    )


def _measure(judged: Judged) -> Measure:
    if judged.teacher is None:
        return "likeness" if judged.graded else "agreement"
    return "score" if judged.graded else "accuracy"


def _interval(judged: Judged, bounded: Bounded, side: Side) -> Interval:
    """Of the drop: paired where the truth is known, one minus the likeness where it is not."""
    n = len(judged.fused)
    if judged.teacher is None:
        other = OTHER_SIDE[side]
        if judged.graded:
            found = bounded("mean", judged.fused, side=other)
        else:
            found = bounded("proportion", judged.fused.sum(), n, side=other)
        return replace(found, low=1 - found.high, high=1 - found.low)
    if not judged.graded:
        return bounded("difference", *_counts(judged), n, side=side)
    halves = (judged.teacher - judged.fused + 1) / 2  # [-1, 1] -> [0, 1]
    found = bounded("mean", halves, side=side)
    return replace(found, low=2 * found.low - 1, high=2 * found.high - 1)


def _counts(judged: Judged) -> tuple[int, int]:
    """Samples only the teacher gets right, and only the fused model."""
    teacher = np.ones_like(judged.fused) if judged.teacher is None else judged.teacher
    return int((teacher > judged.fused).sum()), int((judged.fused > teacher).sum())
