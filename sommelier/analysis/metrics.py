"""How alike two models answered, and how often one is right (algorithms.md A.2).

Disagreement needs no labels; accuracy does. |accuracy gap| <= disagreement holds, the converse does
not, so the two are never mixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.answers import NO_ANSWER
from sommelier.analysis.confidence import clopper_pearson
from sommelier.analysis.labels import NO_LABEL, LabelMap
from sommelier.errors import AnalysisError
from sommelier.records import Measurement, Provenance
from sommelier.storage.agreement_scan import VECTOR_TOLERANCE

Array = NDArray[Any]
Mask = NDArray[np.bool_]

INTERCHANGEABLE = VECTOR_TOLERANCE  # the index's, so that both count the same answers as alike
CONFIDENCE = 0.95  # of the intervals stored beside measured accuracies


@dataclass(frozen=True, slots=True)
class Correctness:
    """Which labelled items a model answers rightly; masks over the labelled items only.

    first : the first answer is right. among_five : the label is among the five best, None where
    the model gives no scores or has five classes or fewer.
    """

    first: Mask
    among_five: Mask | None

    @property
    def count(self) -> int:
        return len(self.first)

    @property
    def accuracy(self) -> float:
        return float(self.first.mean()) if self.count else float("nan")


def same_class(reference: Array, candidate: Array, to_candidate: LabelMap | None = None) -> Mask:
    """Where both models name the same class; no answer, and no such class, are never the same.

    reference, candidate : uint32 (n,) class ids; to_candidate maps the reference's classes.
    """
    wanted = reference.astype(np.int64)
    if to_candidate is not None:
        wanted = to_candidate.apply(reference).astype(np.int64)
    answered = (reference != NO_ANSWER) & (wanted != NO_LABEL)
    return np.asarray(answered & (wanted == candidate.astype(np.int64)), dtype=np.bool_)


def top_k_overlap(
    reference: Array, candidate: Array, to_candidate: LabelMap | None = None
) -> Array:
    """Share of the reference's k best classes that are among the candidate's, float64 (n,).

    reference, candidate : uint32 (n, k), padded with NO_ANSWER, which counts as nothing.
    """
    wanted = reference.astype(np.int64)
    if to_candidate is not None:
        mapped = to_candidate.apply(reference.reshape(-1)).reshape(reference.shape)
        wanted = np.where(mapped == NO_LABEL, -1, mapped)
    real = reference != NO_ANSWER
    shared = (wanted[:, :, None] == candidate.astype(np.int64)[:, None, :]).any(axis=2) & real
    return np.asarray(shared.sum(axis=1) / np.maximum(real.sum(axis=1), 1), dtype=np.float64)


def relative_l2(reference: Array, candidate: Array) -> NDArray[np.float64]:
    """|candidate - reference| / |reference| per row, float64 (n,); NaN rows stay NaN.

    Asymmetric: it is relative to the reference. 0 against 0 is 0.
    """
    wanted, given = reference.astype(np.float64), candidate.astype(np.float64)
    if wanted.shape != given.shape:
        raise AnalysisError(
            f"outputs of {wanted.shape[1]} and of {given.shape[1]} numbers cannot be compared"
        )
    distance = np.linalg.norm(given - wanted, axis=1)
    norm = np.linalg.norm(wanted, axis=1)
    ratio = np.divide(distance, norm, out=np.full_like(distance, np.inf), where=norm > 0)
    return np.asarray(np.where(distance == 0, 0.0, ratio), dtype=np.float64)


def interchangeable(reference: Array, candidate: Array) -> Mask:
    """Where two output vectors are within INTERCHANGEABLE of each other; NaN never is."""
    return np.asarray(relative_l2(reference, candidate) <= INTERCHANGEABLE, dtype=np.bool_)


def correctness(
    answers: Array, labels: Array, to_labels: LabelMap, *, topk_ids: Array | None = None
) -> Correctness:
    """Right and wrong on the labelled items. answers uint32 (n,), labels int32 (n,), -1 = unknown.

    An item the model gave no answer to counts as wrong.
    """
    known = labels != NO_LABEL
    truth = labels[known]
    first = to_labels.apply(answers[known]) == truth
    if topk_ids is None or len(to_labels.targets) <= topk_ids.shape[1]:
        return Correctness(first, None)
    best = topk_ids[known]
    mapped = to_labels.apply(best.reshape(-1)).reshape(best.shape)
    answered = (answers[known] != NO_ANSWER)[:, None]
    return Correctness(first, ((mapped == truth[:, None]) & answered).any(axis=1))


def accuracy_measurements(
    found: Correctness, *, model_id: str, dataset: str, method: str = "probes"
) -> list[Measurement]:
    """'accuracy' and 'top5_accuracy' with their two-sided Clopper-Pearson 95 % intervals."""
    masks = {"accuracy": found.first, "top5_accuracy": found.among_five}
    measured = []
    for metric, mask in masks.items():
        if mask is None or not len(mask):
            continue
        right = int(mask.sum())
        low, high = clopper_pearson(right, len(mask), CONFIDENCE)
        measured.append(
            Measurement(
                model_id=model_id,
                metric=metric,
                value=right / len(mask),
                provenance=Provenance.MEASURED,
                method=method,
                dataset=dataset,
                low=float(low),
                high=float(high),
                count=len(mask),
            )
        )
    return measured
