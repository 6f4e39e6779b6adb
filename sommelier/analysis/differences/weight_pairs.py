"""Which weight of one model may be which of the other, and how far apart the two are.

Distances ignore the scale of every output channel, which normalisation layers make arbitrary: rows
are brought to length 1. What a distance means is told by the same distance with the rows of one
side shuffled: separate training gives no row a partner, so the right order is then no better than
any other. The threshold needs no knowledge of sizes, initialisation or mean filters.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.differences.alignment import certain_pairs
from sommelier.analysis.differences.weights import Weight

Array = NDArray[Any]

SEED = 20240817
SHUFFLES = 9
COMPARED = 2**16  # elements from which the likeness of two tensors is judged when pairing
LIKE = 0.3  # cosine that tells which of several tensors of one shape is meant
MATRIX = 100  # what a matrix is worth against a vector of scales
FEW_ROWS = 8  # below this, columns are shuffled instead of rows
TINY = 1e-12
NOTHING = 1e-5  # of a weight's size: converters move numbers near 0 by more than their rounding


@dataclass(frozen=True, slots=True)
class WeightPair:
    """Two weights side by side. cosine : of the row-normalised tensors. distance : root mean square
    of |a/|a| - b/|b|| over rows, 0..2. typical : median of that over shuffled rows. raw : |a - b| /
    |a|, nothing normalised; None where a scale is unknown. within : share of elements closer than
    half a step of the coarser side; None without a step. zeros : shares of zeros. kept : |a - b| /
    |a| over the elements that are not 0 in the candidate. bias : |a - b| / |a|, None without one.
    """

    reference: str
    candidate: str
    shape: tuple[int, ...]
    cosine: float
    distance: float
    typical: float
    raw: float | None
    within: float | None
    coarser: str | None
    zeros: tuple[float, float]
    kept: float
    bias: float | None

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def ratio(self) -> float:
        """Distance as a share of the typical one; 1 where nothing connects the two."""
        return self.distance / self.typical if self.typical > TINY else float("nan")


def pair_weights(reference: Sequence[Weight], candidate: Sequence[Weight]) -> list[tuple[int, int]]:
    """(i, j) of weights of equal shape, ascending: in order where only one order is possible, and
    wherever two are alike."""
    scores = np.zeros((len(reference), len(candidate)), np.int64)
    likeness = np.zeros(scores.shape)
    groups: defaultdict[tuple[int, ...], tuple[list[int], list[int]]]
    groups = defaultdict(lambda: ([], []))
    for side, weights in enumerate((reference, candidate)):
        for k, weight in enumerate(weights):
            groups[weight.values.shape][side].append(k)
    for ours, theirs in groups.values():
        if ours and theirs:
            found = _cosines([reference[i] for i in ours], [candidate[j] for j in theirs])
            likeness[np.ix_(ours, theirs)] = found
            base = MATRIX if reference[ours[0]].is_matrix else 1
            scores[np.ix_(ours, theirs)] = base * (
                1 + np.where(found >= LIKE, found * 100, 0)
            ).astype(int)
    pairs = dict(certain_pairs(scores)) if scores.size else {}
    taken = set(pairs.values())
    while scores.size:
        free = likeness.copy()
        free[list(pairs)] = 0
        free[:, list(taken)] = 0
        i, j = np.unravel_index(int(np.argmax(free)), free.shape)
        if free[i, j] < LIKE:
            break
        pairs[int(i)] = int(j)
        taken.add(int(j))
    return sorted(pairs.items())


def measure_pair(reference: Weight, candidate: Weight, channels: Sequence[int]) -> WeightPair:
    """The pair's figures. channels : sizes that a flattened input may be made of, in another order
    of axes in the other file."""
    ours, theirs = reference.values.astype(np.float64), candidate.values.astype(np.float64)
    theirs, step = _reordered(ours, theirs, candidate.step, channels)
    own = reference.step
    if not candidate.scaled:
        theirs, step = _fitted(ours, theirs)
    elif not reference.scaled:
        ours, own = _fitted(theirs, ours)
    rows, others = _rows(ours), _rows(theirs)
    distance = _distance(rows, others)
    coarse = _coarser(own, step)
    size = float(np.linalg.norm(ours))
    slack = NOTHING * size / np.sqrt(max(1, ours.size))
    mask = theirs != 0
    gap = np.abs(theirs - ours)
    bias = None
    if reference.bias is not None or candidate.bias is not None:
        bias = _bias_distance(reference.bias, candidate.bias)
    return WeightPair(
        reference.name, candidate.name, reference.values.shape,
        1.0 - distance**2 / 2, distance, _typical(rows, others),
        _relative(float(np.linalg.norm(gap)), size),
        None if coarse is None else float(np.mean(gap <= coarse[1] * (0.5 + 1e-3) + slack)),
        None if coarse is None else coarse[0],
        (float(np.mean(ours == 0)), float(np.mean(~mask))),
        _relative(float(np.linalg.norm(gap[mask])), size), bias,
    )  # fmt: skip


def _coarser(ours: Array | None, theirs: Array | None) -> tuple[str, Array] | None:
    """The side with the larger steps, and what rounding can move: the sum of both sides' steps."""
    if ours is None or theirs is None:
        if theirs is not None:
            return "candidate", theirs
        return None if ours is None else ("reference", ours)
    side = "candidate" if float(np.mean(theirs)) >= float(np.mean(ours)) else "reference"
    return side, ours + theirs


def _relative(gap: float, size: float) -> float:
    return gap / size if size else (0.0 if gap == 0 else float("inf"))


def _bias_distance(ours: Array | None, theirs: Array | None) -> float:
    known = ours if ours is not None else theirs
    assert known is not None
    zero = np.zeros_like(known, np.float64)
    a = zero if ours is None else ours.astype(np.float64)
    b = zero if theirs is None else theirs.astype(np.float64)
    if a.shape != b.shape:
        return float("inf")
    return _relative(float(np.linalg.norm(a - b)), float(np.linalg.norm(a)))


def _cosines(ours: Sequence[Weight], theirs: Sequence[Weight]) -> Array:
    """(len(ours), len(theirs)) cosines of row-normalised tensors, on a sample of the elements."""
    sides = []
    for weights in (ours, theirs):
        rows = np.stack([_rows(w.values.astype(np.float64)).ravel() for w in weights])
        if rows.shape[1] > COMPARED:
            chosen = np.random.default_rng(SEED).choice(rows.shape[1], COMPARED, replace=False)
            rows = rows[:, chosen]
        sides.append(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), TINY))
    return np.asarray(sides[0] @ sides[1].T)


def _rows(values: Array) -> Array:
    """(rows, elements), every row of length 1; rows of zeros stay."""
    flat = values.reshape(len(values), -1)
    return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), TINY))


def _distance(ours: Array, theirs: Array) -> float:
    return float(np.sqrt(np.mean(np.sum((ours - theirs) ** 2, axis=1))))


def _typical(ours: Array, theirs: Array) -> float:
    """The distance when rows (columns where there are few rows) are shuffled, median."""
    rng = np.random.default_rng(SEED)
    found = []
    for _ in range(SHUFFLES):
        if len(ours) >= FEW_ROWS:
            found.append(_distance(ours, theirs[rng.permutation(len(theirs))]))
        else:
            found.append(_distance(ours, theirs[:, rng.permutation(theirs.shape[1])]))
    return float(np.median(found))


def _fitted(ours: Array, theirs: Array) -> tuple[Array, Array]:
    """(values, steps) : integers without a scale, times the scale for which they are the other side
    rounded; of the whole tensor if there is one, else of each row, else the one that fits best."""
    flat, other = theirs.reshape(len(theirs), -1), ours.reshape(len(ours), -1)
    factor = _rounded(other.reshape(1, -1), flat.reshape(1, -1))
    if not np.isfinite(factor).all():
        best = np.sum(flat * other, axis=1) / np.maximum(np.sum(flat * flat, axis=1), TINY)
        rows = _rounded(other, flat)
        factor = np.where(np.isfinite(rows), rows, np.abs(best))
    shaped = factor.reshape(-1, *[1] * (theirs.ndim - 1))
    return theirs * shaped, np.broadcast_to(shaped, (len(theirs), *shaped.shape[1:]))


def _rounded(real: Array, integers: Array) -> Array:
    """(rows,) a scale for which every integer is the real number rounded; NaN where there is none.

    s is between |w| / (|q| + 1/2) and |w| / (|q| - 1/2) for every element; the largest integers may
    have been clipped and say nothing about the lower end.
    """
    size, count = np.abs(real), np.abs(integers)
    told = (count >= 1) & (np.sign(real) == np.sign(integers))
    clipped = count >= count.max(axis=1, keepdims=True)
    low = np.max(np.where(clipped, 0.0, size / (count + 0.5)), axis=1)
    high = np.min(np.where(told, size / np.maximum(count - 0.5, 0.5), np.inf), axis=1)
    fits = (low <= high) & np.isfinite(high) & np.all(told | (count < 1), axis=1)
    return np.where(fits, (low + high) / 2, np.nan)


def _reordered(
    ours: Array, theirs: Array, step: Array | None, channels: Sequence[int]
) -> tuple[Array, Array | None]:
    """The candidate's matrix with its columns in the reference's order.

    A matrix behind a flattened picture has columns (channel, place) in one file and (place,
    channel) in another.
    """
    if ours.ndim != 2:
        return theirs, step
    rows = _rows(ours)
    width = ours.shape[1]
    best = (_distance(rows, _rows(theirs)), np.arange(width))
    for count in sorted({c for c in channels if 1 < c < width and width % c == 0}):
        for order in ((count, width // count), (width // count, count)):
            columns = np.arange(width).reshape(order).T.ravel()
            found = _distance(rows, _rows(theirs[:, columns]))
            if found < best[0] - 1e-3:
                best = (found, columns)
    if step is not None and step.ndim == 2 and step.shape[1] == width:
        step = step[:, best[1]]
    return theirs[:, best[1]], step
