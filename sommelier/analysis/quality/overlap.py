"""Intersection over union of boxes given as x1, y1, x2, y2."""

from __future__ import annotations

import numpy as np

from sommelier.analysis.quality.measure import Array, Floats


def box_overlaps(one: Array, other: Array) -> Floats:
    """IoU of every box of one set with every box of the other, float64 (m, k).

    A box with x2 <= x1 or y2 <= y1 has no area and overlaps nothing but a box equal to it.
    """
    a, b = np.asarray(one, np.float64)[:, None, :], np.asarray(other, np.float64)[None, :, :]
    return _overlap(a, b)


def paired_overlap(one: Array, other: Array) -> Floats:
    """IoU of each box with the one at the same place, float64 (n,); NaN corners overlap nothing."""
    return _overlap(np.asarray(one, np.float64), np.asarray(other, np.float64))


def suppressed(boxes: Array, scores: Array, overlap: float) -> Array:
    """Positions that non-maximum suppression keeps, best score first.

    A box goes when a better one overlaps it by more than `overlap`.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    kept: list[int] = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(int(best))
        order = order[box_overlaps(boxes[best : best + 1], boxes[order])[0] <= overlap]
    return np.array(kept, dtype=np.int64)


def _overlap(a: Floats, b: Floats) -> Floats:
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.clip(sides, 0.0, None).prod(axis=-1)
    union = _area(a) + _area(b) - shared
    equal = (a == b).all(axis=-1)
    ratio = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return np.asarray(np.where(equal, 1.0, np.nan_to_num(ratio)))


def _area(boxes: Floats) -> Floats:
    return np.asarray(np.clip(boxes[..., 2:] - boxes[..., :2], 0.0, None).prod(axis=-1))
