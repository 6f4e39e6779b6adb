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


class CocoPrecision:
    """mAP of the images chosen, from one matching of all of them.

    Matching is done once; `of_images` only counts, all classes and overlaps in one pass over flat
    arrays, so that a bootstrap is affordable: 0.2 ms a resample for one class of 1 000 detections.
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
        rankings = _rankings(answers, truth, kinds, overlaps)
        counts = np.array([len(ranking.image) for ranking in rankings], dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(counts)])  # of each ranking, and the end
        self._ranking = np.repeat(np.arange(len(rankings)), counts)
        if rankings:
            self._right = np.concatenate([ranking.right for ranking in rankings])
            self._image = np.concatenate([ranking.image for ranking in rankings])
            self._objects = np.stack([ranking.objects for ranking in rankings])  # (rankings, n)

    def of_images(self, chosen: Indices) -> float:
        """mAP in [0, 1] of the images at these positions; NaN if they hold no object."""
        if len(self._starts) == 1:
            return float("nan")
        times = np.bincount(chosen, minlength=self._images)
        objects = self._objects @ times  # (rankings,)
        weight = times[self._image]
        right, seen = self._within(weight * self._right), self._within(weight)
        precision = np.divide(right, seen, out=np.zeros(len(seen)), where=seen > 0)
        recall = right / np.maximum(objects, 1)[self._ranking]
        read = self._read(recall, precision)
        return float(read[objects > 0].mean()) if objects.any() else float("nan")

    def _within(self, values: Indices) -> Indices:
        """Running sums that start anew with every ranking."""
        total = np.concatenate([[0], np.cumsum(values)])
        return np.asarray(total[1:] - total[self._starts[:-1]][self._ranking])

    def _read(self, recall: Floats, precision: Floats) -> Floats:
        """Average precision of each ranking, float64 (rankings,).

        Steps of 2 between rankings keep the values of one from reaching into another's, so that one
        running maximum and one search serve all.
        """
        step = 2.0 * self._ranking
        best_after = np.maximum.accumulate((precision - step)[::-1])[::-1] + step
        rankings = np.arange(len(self._starts) - 1)
        wanted = self._recalls[None, :] - 1e-12 + 2.0 * rankings[:, None]
        at = np.searchsorted(recall + step, wanted.ravel(), side="left").reshape(wanted.shape)
        reached = at < self._starts[1:, None]
        found = np.append(best_after, 0.0)[at]
        return np.asarray(np.where(reached, found, 0.0).mean(axis=1))


@dataclass(frozen=True, slots=True)
class _Ranking:
    """Detections of one class at one overlap, best score first over all images.

    right : bool (d,). image : int (d,). objects : (images,), how many there are to be found.
    """

    right: Mask
    image: Indices
    objects: Indices


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


def _rankings(
    answers: Sequence[Detections],
    truth: Sequence[Detections],
    kinds: Sequence[int],
    overlaps: Sequence[float],
) -> list[_Ranking]:
    """One ranking for each overlap and class, in this order."""
    scores: list[list[Floats]] = [[np.empty(0)] for _ in kinds]
    images: list[list[Indices]] = [[np.empty(0, np.int64)] for _ in kinds]
    right: list[list[Mask]] = [[np.empty((len(overlaps), 0), np.bool_)] for _ in kinds]
    objects = np.zeros((len(kinds), len(truth)), dtype=np.int64)
    for image, (given, wanted) in enumerate(zip(answers, truth, strict=True)):
        for at, kind in enumerate(kinds):
            theirs = wanted.boxes[wanted.classes == kind]
            objects[at, image] = len(theirs)
            mine = np.flatnonzero(given.classes == kind)
            if not len(mine):
                continue
            mine = mine[np.argsort(-given.scores[mine], kind="stable")][:MOST]
            shared = box_overlaps(given.boxes[mine], theirs)
            scores[at].append(given.scores[mine])
            images[at].append(np.full(len(mine), image, dtype=np.int64))
            right[at].append(np.stack([_taken(shared, overlap) for overlap in overlaps]))
    places = [np.concatenate(parts) for parts in images]
    taken = [np.concatenate(parts, axis=1) for parts in right]
    orders = [np.argsort(-np.concatenate(parts), kind="stable") for parts in scores]
    return [
        _Ranking(taken[at][row][order], places[at][order], objects[at])
        for row in range(len(overlaps))
        for at, order in enumerate(orders)
    ]


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
