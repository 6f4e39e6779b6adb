"""Boxes: overlap of two, and sets of them matched one to one (algorithms.md A.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from sommelier.analysis.quality.detection_precision import CocoPrecision
from sommelier.analysis.quality.measure import (
    Array,
    Figure,
    Floats,
    Indices,
    Mask,
    dataset_figure,
    mean_figure,
    same_length,
    same_shape,
)
from sommelier.analysis.quality.multilabel import f1
from sommelier.analysis.quality.overlap import box_overlaps, paired_overlap
from sommelier.errors import AnalysisError

MATCH = 0.5  # algorithms.md A.2: the overlap (IoU) from which two boxes are one object
SAME_BOX = 0.75
SAME_SET = 0.9
COCO_OVERLAPS = tuple(0.5 + 0.05 * step for step in range(10))


@dataclass(frozen=True, slots=True)
class Detections:
    """The objects found in one image.

    boxes : float (m, 4) as x1, y1, x2, y2 in any one unit. scores : (m,), 1 where not given.
    classes : int (m,), 0 where not given. Raises AnalysisError where the lengths differ.
    """

    boxes: Floats
    scores: Floats
    classes: Indices

    @classmethod
    def of(cls, boxes: Any, scores: Any | None = None, classes: Any | None = None) -> Detections:
        """Detections from lists or arrays."""
        corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        count = len(corners)
        sure = np.ones(count) if scores is None else np.asarray(scores, dtype=np.float64)
        kinds = np.zeros(count, np.int64) if classes is None else np.asarray(classes, np.int64)
        if len(sure) != count or len(kinds) != count:
            raise AnalysisError(f"{count} boxes with {len(sure)} scores and {len(kinds)} classes")
        return cls(corners, sure, kinds)

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, slots=True)
class BoxSets:
    """1 - F1 of the two models' boxes, matched one to one within a class at IoU >= `overlap`.

    answers, truth : sequence of Detections. Not a pseudometric: A may match B and B match C where
    A does not match C. F1 per image is a mean of terms; mAP is a figure of the dataset.
    """

    overlap: float = MATCH
    tolerance: float = SAME_SET

    symmetric: ClassVar[bool] = True
    pseudometric: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return f"1 - F1 of boxes at IoU {self.overlap:g}"

    @property
    def predicate(self) -> str:
        return f"F1 >= {self.tolerance:g} at IoU {self.overlap:g}"

    def losses(self, reference: Sequence[Detections], candidate: Sequence[Detections]) -> Floats:
        same_length(reference, candidate)
        pairs = zip(reference, candidate, strict=True)
        return np.array([1.0 - self._f1(one, other) for one, other in pairs], dtype=np.float64)

    def interchangeable(
        self, reference: Sequence[Detections], candidate: Sequence[Detections]
    ) -> Mask:
        return self.losses(reference, candidate) <= 1 - self.tolerance + 1e-9

    def quality(
        self, answers: Sequence[Detections], truth: Sequence[Detections]
    ) -> tuple[Figure, ...]:
        figures = [mean_figure(f"F1@{self.overlap:g} per image", 1 - self.losses(truth, answers))]
        for name, overlaps in (("mAP@0.5", (0.5,)), ("mAP@[.5:.95]", COCO_OVERLAPS)):
            precision = CocoPrecision(answers, truth, overlaps)
            figures.append(dataset_figure(name, len(truth), precision.of_images))
        return tuple(figures)

    def describe(self, answer: Detections) -> str:
        if not len(answer):
            return "no box"
        best = int(np.argmax(answer.scores))
        corners = ", ".join(f"{side:.3g}" for side in answer.boxes[best])
        count = f"{len(answer)} box{'es' if len(answer) > 1 else ''}"
        return f"{count}, best {answer.scores[best]:.2f} at ({corners})"

    def _f1(self, one: Detections, other: Detections) -> float:
        if not len(one) and not len(other):
            return 1.0
        return float(f1(len(match_boxes(one, other, self.overlap)), len(one), len(other)))


@dataclass(frozen=True, slots=True)
class SingleBox:
    """1 - IoU of one box a sample (Jaccard distance). answers, truth : (n, 4) x1, y1, x2, y2.

    Two boxes without area overlap only if they are equal.
    """

    tolerance: float = SAME_BOX

    name: ClassVar[str] = "1 - IoU"
    symmetric: ClassVar[bool] = True
    pseudometric: ClassVar[bool] = True

    @property
    def predicate(self) -> str:
        return f"IoU >= {self.tolerance:g}"

    def losses(self, reference: Array, candidate: Array) -> Floats:
        one, other = np.asarray(reference, np.float64), np.asarray(candidate, np.float64)
        same_shape(one, other)
        return 1.0 - paired_overlap(one, other)

    def interchangeable(self, reference: Array, candidate: Array) -> Mask:
        return self.losses(reference, candidate) <= 1 - self.tolerance

    def quality(self, answers: Array, truth: Array) -> tuple[Figure, ...]:
        return (mean_figure("mean IoU", 1 - self.losses(truth, answers)),)

    def describe(self, answer: Array) -> str:
        return "(" + ", ".join(f"{side:.4g}" for side in np.asarray(answer)) + ")"


@dataclass(frozen=True, slots=True)
class BoxMatches:
    """Which box of one set is which of the other; positions, and the overlap of each pair."""

    first: Indices
    second: Indices
    overlaps: Floats = field(repr=False)

    def __len__(self) -> int:
        return len(self.first)


def match_boxes(one: Detections, other: Detections, overlap: float = MATCH) -> BoxMatches:
    """The largest one-to-one matching of boxes of equal class with IoU >= `overlap`.

    Among the largest, one of greatest total overlap (Hungarian method, per class).
    """
    from scipy.optimize import linear_sum_assignment

    found: list[tuple[Indices, Indices, Floats]] = []
    for kind in np.intersect1d(one.classes, other.classes):
        mine, theirs = (np.flatnonzero(side.classes == kind) for side in (one, other))
        overlaps = box_overlaps(one.boxes[mine], other.boxes[theirs])
        allowed = overlaps >= overlap
        # a pair more is worth more than all overlap there is, so the number of pairs comes first
        worth = np.where(allowed, min(len(mine), len(theirs)) + 1 + overlaps, 0.0)
        rows, columns = linear_sum_assignment(worth, maximize=True)
        kept = allowed[rows, columns]
        rows, columns = rows[kept], columns[kept]
        found.append((mine[rows], theirs[columns], overlaps[rows, columns]))
    empty = np.empty(0, np.int64)
    first, second, shared = zip(*found, strict=True) if found else ([empty], [empty], [empty])
    return BoxMatches(
        np.concatenate(first), np.concatenate(second), np.concatenate(shared).astype(np.float64)
    )
