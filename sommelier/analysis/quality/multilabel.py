"""Several labels an input: Hamming loss, F1 and average precision (algorithms.md A.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from sommelier.analysis.quality.measure import (
    Array,
    Figure,
    Floats,
    Mask,
    dataset_figure,
    mean_figure,
    same_shape,
)

HAMMING = 0.05  # algorithms.md A.2


@dataclass(frozen=True, slots=True)
class LabelSets:
    """Share of the labels decided differently (Hamming). answers : scores or bool (n, labels).

    threshold : the score from which a label counts as given; 0.5 for probabilities, 0 for logits.
    truth : bool or 0/1 (n, labels). mAP needs scores; it and both F1 are figures of the dataset.
    """

    threshold: float = 0.5
    tolerance: float = HAMMING

    name: ClassVar[str] = "share of labels that differ"
    symmetric: ClassVar[bool] = True
    pseudometric: ClassVar[bool] = True

    @property
    def predicate(self) -> str:
        return f"Hamming <= {self.tolerance:g}"

    def losses(self, reference: Array, candidate: Array) -> Floats:
        one, other = np.asarray(reference), np.asarray(candidate)
        same_shape(one, other)
        differ = (self._given(one) != self._given(other)).mean(axis=1)
        return np.where(_unanswered(one) | _unanswered(other), 1.0, differ)

    def interchangeable(self, reference: Array, candidate: Array) -> Mask:
        return self.losses(reference, candidate) <= self.tolerance

    def quality(self, answers: Array, truth: Array) -> tuple[Figure, ...]:
        scores, wanted = np.asarray(answers), np.asarray(truth).astype(bool)
        same_shape(scores, wanted)
        given, n = self._given(scores), len(scores)
        figures = [
            mean_figure("Hamming accuracy", (given == wanted).mean(axis=1)),
            dataset_figure("micro F1", n, lambda i: _micro_f1(given[i], wanted[i])),
            dataset_figure("macro F1", n, lambda i: _macro_f1(given[i], wanted[i])),
        ]
        if scores.dtype != np.bool_:
            figures.append(dataset_figure("mAP", n, lambda i: mean_precision(scores[i], wanted[i])))
        return tuple(figures)

    def describe(self, answer: Any) -> str:
        given = np.flatnonzero(self._given(np.asarray(answer)))
        return "{" + ", ".join(str(label) for label in given) + "}"

    def _given(self, scores: Array) -> Mask:
        return scores if scores.dtype == np.bool_ else np.asarray(scores >= self.threshold)


def average_precision(scores: Array, truth: Array) -> float:
    """Sum over thresholds of precision x gain in recall, not interpolated; NaN without a positive.

    scores, truth : (n,). Equal scores are one threshold. This is scikit-learn's definition.
    """
    positives = np.count_nonzero(truth)
    if not positives:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(truth[order].astype(np.float64))
    ranked = scores[order]
    last = np.append(ranked[1:] != ranked[:-1], True)  # where a run of equal scores ends
    precision = (hits / np.arange(1, len(hits) + 1))[last]
    recall = hits[last] / positives
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def mean_precision(scores: Array, truth: Array) -> float:
    """Mean `average_precision` over the labels that occur; NaN when none does."""
    found = [
        average_precision(scores[:, label], truth[:, label])
        for label in range(truth.shape[1])
        if truth[:, label].any()
    ]
    return float(np.mean(found)) if found else float("nan")


def f1(matched: Array | float, found: Array | float, wanted: Array | float) -> Floats:
    """2 matched / (found + wanted); 0 where nothing was found and nothing wanted."""
    both = np.asarray(found, dtype=np.float64) + np.asarray(wanted, dtype=np.float64)
    return np.asarray(
        np.divide(2.0 * np.asarray(matched), both, out=np.zeros_like(both), where=both > 0)
    )


def _micro_f1(given: Mask, wanted: Mask) -> float:
    return float(f1((given & wanted).sum(), given.sum(), wanted.sum()))


def _macro_f1(given: Mask, wanted: Mask) -> float:
    return float(f1((given & wanted).sum(axis=0), given.sum(axis=0), wanted.sum(axis=0)).mean())


def _unanswered(scores: Array) -> Mask:
    if scores.dtype.kind != "f":
        return np.zeros(len(scores), dtype=np.bool_)
    return np.asarray(np.isnan(scores).any(axis=1))
