"""One class an input: whether the first answer, or the best k, are the same (algorithms.md A.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from sommelier.analysis import metrics
from sommelier.analysis.quality.measure import (
    Array,
    Figure,
    Floats,
    Mask,
    mean_figure,
    same_length,
    same_shape,
)
from sommelier.records import NO_ANSWER

OVERLAP = 0.8  # algorithms.md A.2: shared classes that make two lists interchangeable


@dataclass(frozen=True, slots=True)
class TopClass:
    """1 where the first class differs. answers : integer (n,), NO_ANSWER where there is none.

    truth : integer (n,), negative where unknown. Accuracy is a mean of terms, and
    |accuracy difference| <= mean loss.
    """

    name: ClassVar[str] = "top-1 class differs"
    predicate: ClassVar[str] = "same class"
    symmetric: ClassVar[bool] = True
    pseudometric: ClassVar[bool] = True

    def losses(self, reference: Array, candidate: Array) -> Mask:
        return ~self.interchangeable(reference, candidate)

    def interchangeable(self, reference: Array, candidate: Array) -> Mask:
        same_length(reference, candidate)
        return metrics.same_class(np.asarray(reference), np.asarray(candidate))

    def quality(self, answers: Array, truth: Array) -> tuple[Figure, ...]:
        known = np.asarray(truth) >= 0
        right = metrics.same_class(np.asarray(answers)[known], np.asarray(truth)[known])
        return (mean_figure("accuracy", right),)

    def describe(self, answer: Any) -> str:
        return "no answer" if answer == NO_ANSWER else str(int(answer))


@dataclass(frozen=True, slots=True)
class TopClasses:
    """Share of the best classes not shared. answers : integer (n, k), best first.

    The loss is |A symmetric-difference B| / 2k, and a symmetric difference is a metric: for lists
    of one length, as here, the triangle inequality holds (algorithms.md A.2 says otherwise, which
    is true only of lists of different lengths). truth : integer (n,), negative where unknown.
    """

    tolerance: float = OVERLAP

    name: ClassVar[str] = "share of the best classes not shared"
    symmetric: ClassVar[bool] = True
    pseudometric: ClassVar[bool] = True

    @property
    def predicate(self) -> str:
        return f"overlap >= {self.tolerance:g}"

    def losses(self, reference: Array, candidate: Array) -> Floats:
        one, other = np.asarray(reference), np.asarray(candidate)
        same_shape(one, other)
        return 1.0 - np.minimum(
            metrics.top_k_overlap(one, other), metrics.top_k_overlap(other, one)
        )

    def interchangeable(self, reference: Array, candidate: Array) -> Mask:
        # overlaps are multiples of 1/k, which floats only meet to rounding
        return self.losses(reference, candidate) <= 1 - self.tolerance + 1e-9

    def quality(self, answers: Array, truth: Array) -> tuple[Figure, ...]:
        known = np.asarray(truth) >= 0
        best, wanted = np.asarray(answers)[known], np.asarray(truth)[known]
        right = (best.astype(np.int64) == wanted[:, None]).any(axis=1)
        return (mean_figure(f"top-{best.shape[1]} accuracy", right),)

    def describe(self, answer: Any) -> str:
        return ", ".join(str(int(a)) for a in answer if a != NO_ANSWER) or "no answer"
