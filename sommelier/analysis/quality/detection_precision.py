"""Mean average precision of detections, as COCO and PASCAL VOC define it.

Per class, all detections of all images are ranked by score. Going down the ranking, a detection is
right if it overlaps an object of its image and class that no better one has taken (of several, the
one it overlaps most). Precision is made non-increasing in recall and read off at 101 (COCO) or 11
(VOC 2007) equally spaced recalls, 0 where a recall is never reached. The figure is the mean over
classes that have objects, and over the overlaps asked for. No object counts as 'crowd', no size
limits, at most 100 detections an image and class.

Sources: cocoeval.py of the COCO API; Everingham et al. 2010, section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sommelier.analysis.quality.measure import Floats, Indices, Mask
from sommelier.analysis.quality.overlap import box_overlaps

if TYPE_CHECKING:
    from sommelier.analysis.quality.boxes import Detections

COCO_POINTS = 101
VOC_POINTS = 11
MOST = 100  # detections an image, as COCO counts them


@dataclass(frozen=True, slots=True)
class _Ranked:
    """Detections of one class at one overlap, best score first over all images.

    right : bool (d,). image : int (d,). objects : (images,), how many there are to be found.
    """

    right: Mask
    image: Indices
    objects: Indices


class CocoPrecision:
    """mAP of the images chosen, from one matching of all of them.

    Matching is done once; `of_images` only counts, so that a bootstrap costs a sum a resample.
    """

    def __init__(
        self,
        answers: Sequence[Detections],
        truth: Sequence[Detections],
        overlaps: Sequence[float] = (0.5,),
        *,
        points: int = COCO_POINTS,
    ) -> None:
        self._images = len(truth)
        self._recalls = np.linspace(0.0, 1.0, points)
        kinds = sorted({int(kind) for image in truth for kind in image.classes})
        self._ranked = [
            _rank(answers, truth, kind, overlap) for overlap in overlaps for kind in kinds
        ]

    def of_images(self, chosen: Indices) -> float:
        """mAP in [0, 1] of the images at these positions; NaN if they hold no object."""
        times = np.bincount(chosen, minlength=self._images)
        found = [self._average(ranked, times) for ranked in self._ranked]
        known = [value for value in found if value == value]
        return float(np.mean(known)) if known else float("nan")

    def _average(self, ranked: _Ranked, times: Indices) -> float:
        objects = int(ranked.objects @ times)
        if not objects:
            return float("nan")
        weight = times[ranked.image]
        right, seen = np.cumsum(weight * ranked.right), np.cumsum(weight)
        precision = np.divide(right, seen, out=np.zeros(len(seen)), where=seen > 0)
        best_after = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(right / objects, self._recalls - 1e-12, side="left")
        return float(np.append(best_after, 0.0)[at].mean())


def mean_average_precision(
    answers: Sequence[Detections],
    truth: Sequence[Detections],
    *,
    overlaps: Sequence[float] = (0.5,),
    points: int = COCO_POINTS,
) -> float:
    """mAP in [0, 1] over classes with objects; NaN without any. See the module for the definition.

    overlaps : (0.5,) is mAP@0.5, boxes.COCO_OVERLAPS is COCO's mAP@[.5:.95].
    points : recalls at which precision is read, 101 (COCO) or 11 (VOC 2007).
    """
    return CocoPrecision(answers, truth, overlaps, points=points).of_images(np.arange(len(truth)))


def _rank(
    answers: Sequence[Detections], truth: Sequence[Detections], kind: int, overlap: float
) -> _Ranked:
    scores: list[Floats] = []
    right: list[Mask] = []
    images: list[Indices] = []
    objects = np.zeros(len(truth), dtype=np.int64)
    for position, (given, wanted) in enumerate(zip(answers, truth, strict=True)):
        mine = np.flatnonzero(given.classes == kind)
        mine = mine[np.argsort(-given.scores[mine], kind="stable")][:MOST]
        theirs = wanted.boxes[wanted.classes == kind]
        objects[position] = len(theirs)
        scores.append(given.scores[mine])
        right.append(_taken(box_overlaps(given.boxes[mine], theirs), overlap))
        images.append(np.full(len(mine), position, dtype=np.int64))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return _Ranked(np.concatenate(right)[order], np.concatenate(images)[order], objects)


def _taken(overlaps: Floats, overlap: float) -> Mask:
    """Which detections (rows, best first) take an object (columns)."""
    free = np.ones(overlaps.shape[1], dtype=np.bool_)
    right = np.zeros(len(overlaps), dtype=np.bool_)
    for row, shared in enumerate(overlaps):
        candidates = np.where(free, shared, -1.0)
        if len(candidates) and (best := int(np.argmax(candidates))) >= 0:
            right[row] = candidates[best] >= overlap
            free[best] &= not right[row]
    return right
