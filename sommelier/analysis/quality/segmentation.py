"""A class for every pixel: pixels that differ, and mean IoU against the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sommelier.analysis.quality.measure import (
    Array,
    Figure,
    Floats,
    Indices,
    Mask,
    dataset_figure,
    mean_figure,
    same_shape,
)

PIXELS = 0.05  # algorithms.md A.2


@dataclass(frozen=True, slots=True)
class Pixels:
    """Share of pixels with another class. answers : integer (n, ...) class ids.

    truth : integer (n, ...), negative where a pixel is not labelled. Pixel accuracy is the mean
    over images; mIoU is a figure of the dataset.
    """

    tolerance: float = PIXELS

    name: ClassVar[str] = "share of pixels that differ"
    symmetric: ClassVar[bool] = True
    pseudometric: ClassVar[bool] = True

    @property
    def predicate(self) -> str:
        return f"pixels that differ <= {self.tolerance:g}"

    def losses(self, reference: Array, candidate: Array) -> Floats:
        one, other = np.asarray(reference), np.asarray(candidate)
        same_shape(one, other)
        return np.asarray((one != other).reshape(len(one), -1).mean(axis=1), dtype=np.float64)

    def interchangeable(self, reference: Array, candidate: Array) -> Mask:
        return self.losses(reference, candidate) <= self.tolerance

    def quality(self, answers: Array, truth: Array) -> tuple[Figure, ...]:
        given, wanted = np.asarray(answers), np.asarray(truth)
        same_shape(given, wanted)
        given, wanted = given.reshape(len(given), -1), wanted.reshape(len(wanted), -1)
        labelled = (wanted >= 0).any(axis=1)
        given, wanted = given[labelled], wanted[labelled]
        known = wanted >= 0
        right = ((given == wanted) & known).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        shared, union = _areas(given, wanted, known)
        return (
            mean_figure("pixel accuracy", right),
            dataset_figure("mIoU", len(given), lambda i: _mean_iou(shared[i], union[i])),
        )

    def describe(self, answer: Array) -> str:
        kinds, counts = np.unique(np.asarray(answer), return_counts=True)
        most = np.argsort(-counts, kind="stable")[:3]
        shares = (f"{kinds[i]}: {counts[i] / counts.sum():.0%}" for i in most)
        return ", ".join(shares)


def _areas(given: Array, wanted: Array, known: Mask) -> tuple[Indices, Indices]:
    """(pixels in both, pixels in either) per image and class, int64 (n, classes)."""
    kinds = np.union1d(given[known], wanted[known])
    both, either = [], []
    for kind in kinds:
        mine, theirs = (given == kind) & known, wanted == kind
        both.append((mine & theirs).sum(axis=1))
        either.append((mine | theirs).sum(axis=1))
    shape = (len(given), len(kinds))
    return np.array(both).T.reshape(shape), np.array(either).T.reshape(shape)


def _mean_iou(shared: Indices, union: Indices) -> float:
    """Mean over the classes that occur of (sum of shared) / (sum of union); NaN if none does."""
    covered = union.sum(axis=0)
    met = covered > 0
    return float(np.mean(shared.sum(axis=0)[met] / covered[met])) if met.any() else float("nan")
