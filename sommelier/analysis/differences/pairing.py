"""Which layer of one model is which layer of the other: by structure, confirmed by values.

Structure first: operator family, elements, matrix, neighbours, order. Where that leaves several
answers, nearly equal activations decide; what nothing decides stays unaligned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from sommelier.analysis.differences.alignment import Scores, certain_pairs
from sommelier.analysis.differences.layers import Layer, Tap
from sommelier.analysis.differences.sketches import Sketch

ALIKE = 0.02  # of sketches: rounding to 8 bits moves sorted values less, other features move more
EQUAL = 1e-3  # of sketches: enough to pair layers of different operators
MOST = 40_000  # pairs of leftover layers that are looked at
FEW = 8  # elements below which equal sketches say little
SAME, MATRIX, NEIGHBOUR, VALUES = 16, 8, 2, 12
"""What the same family and size, the same matrix, a like neighbour, and like values are worth. One
more aligned pair outweighs everything that values could say against it (16 + 8 > 12)."""

Known = Mapping[str, Sketch]


@dataclass(frozen=True, slots=True)
class Pair:
    """Positions of two layers, and the tensors at which they are compared. by : 'structure', or
    'values' where operators differ and activations are the same."""

    reference: int
    candidate: int
    reference_tap: Tap
    candidate_tap: Tap
    by: str


def pair_layers(
    reference: Sequence[Layer], candidate: Sequence[Layer], one: Known, other: Known
) -> tuple[Pair, ...]:
    """The pairs of layers that are certain, in the reference's order.

    one, other : sketches of their taps on the same samples.
    """
    if not reference or not candidate:
        return ()
    scores = np.zeros((len(reference), len(candidate)), np.int64)
    for i, ours in enumerate(reference):
        for j, theirs in enumerate(candidate):
            scores[i, j] = _score(ours, theirs, reference, candidate, one, other)
    places = _untangled(dict(certain_pairs(scores)), scores, reference, candidate, one, other)
    found = [
        Pair(i, j, *_taps(reference[i], candidate[j], one, other), "structure")
        for i, j in sorted(places.items())
    ]
    return tuple(_filled(found, reference, candidate, one, other))


def _score(
    ours: Layer, theirs: Layer, reference: Sequence[Layer], candidate: Sequence[Layer],
    one: Known, other: Known,
) -> int:  # fmt: skip
    if ours.family != theirs.family or not _same_size(ours, theirs, one, other):
        return 0
    score = SAME + MATRIX * (ours.weight == theirs.weight)
    score += NEIGHBOUR * (_families(ours.before, reference) == _families(theirs.before, candidate))
    score += NEIGHBOUR * (_families(ours.after, reference) == _families(theirs.after, candidate))
    return score + VALUES * (_closest(ours, theirs, one, other)[0] <= ALIKE)


def _families(places: Sequence[int], layers: Sequence[Layer]) -> list[str]:
    return sorted(layers[k].family for k in places)


def _same_size(ours: Layer, theirs: Layer, one: Known, other: Known) -> bool:
    a, b = one.get(ours.taps[-1].tensor), other.get(theirs.taps[-1].tensor)
    return a is not None and b is not None and a.elements == b.elements


def _closest(ours: Layer, theirs: Layer, one: Known, other: Known) -> tuple[float, Tap, Tap]:
    """The two taps of least sketch distance, later ones first among equals."""
    best = (float("inf"), ours.taps[-1], theirs.taps[-1])
    for mine in reversed(ours.taps):
        for yours in reversed(theirs.taps):
            a, b = one.get(mine.tensor), other.get(yours.tensor)
            gap = float("inf") if a is None or b is None else a.distance(b)
            if gap < best[0]:
                best = (gap, mine, yours)
    return best


def _taps(ours: Layer, theirs: Layer, one: Known, other: Known) -> tuple[Tap, Tap]:
    """The ends of both layers; where one does more than the other, the places that fit best."""
    if len(ours.taps) == len(theirs.taps):
        return ours.taps[-1], theirs.taps[-1]
    _, mine, yours = _closest(ours, theirs, one, other)
    return mine, yours


def _untangled(
    places: dict[int, int], scores: Scores, reference: Sequence[Layer],
    candidate: Sequence[Layer], one: Known, other: Known,
) -> dict[int, int]:  # fmt: skip
    """With partners exchanged where that, and only that, makes values alike.

    Parallel branches of equal structure stand in no order, and a sequence gives them one.
    """

    def alike(i: int, j: int) -> bool:
        return bool(scores[i, j] > 0) and (
            _closest(reference[i], candidate[j], one, other)[0] <= ALIKE
        )

    for i in places:
        if alike(i, places[i]):
            continue
        better = [k for k in places if alike(i, places[k]) and not alike(k, places[k])]
        if len(better) == 1:
            places[i], places[better[0]] = places[better[0]], places[i]
    return places


def _filled(
    found: list[Pair], reference: Sequence[Layer], candidate: Sequence[Layer],
    one: Known, other: Known,
) -> list[Pair]:  # fmt: skip
    """With pairs in the gaps whose values are equal although the operators differ."""
    ends = [(-1, -1), *((p.reference, p.candidate) for p in found)]
    more: list[Pair] = []
    for (i, j), (k, m) in pairwise([*ends, (len(reference), len(candidate))]):
        ours, theirs = range(i + 1, k), range(j + 1, m)
        if not ours or not theirs or len(ours) * len(theirs) > MOST:
            continue
        scores = np.zeros((len(ours), len(theirs)), np.int64)
        for a, mine in enumerate(ours):
            for b, yours in enumerate(theirs):
                scores[a, b] = _equal(reference[mine], candidate[yours], one, other)
        for a, b in certain_pairs(scores):
            _, tap, other_tap = _closest(reference[ours[a]], candidate[theirs[b]], one, other)
            more.append(Pair(ours[a], theirs[b], tap, other_tap, "values"))
    found = _crossing([*found, *more], reference, candidate, one, other)
    return sorted(found, key=lambda pair: pair.reference)


def _crossing(
    found: list[Pair], reference: Sequence[Layer], candidate: Sequence[Layer],
    one: Known, other: Known,
) -> list[Pair]:  # fmt: skip
    """With pairs out of order whose values are equal, and equal to no other's."""
    ours = sorted(set(range(len(reference))) - {p.reference for p in found})
    theirs = sorted(set(range(len(candidate))) - {p.candidate for p in found})
    if len(ours) * len(theirs) > MOST:
        return found
    same = np.array(
        [[_equal(reference[i], candidate[j], one, other) for j in theirs] for i in ours], bool
    ).reshape(len(ours), len(theirs))
    for a, b in zip(*np.nonzero(same), strict=True):
        if same[a].sum() == 1 and same[:, b].sum() == 1:
            i, j = ours[a], theirs[b]
            _, tap, other_tap = _closest(reference[i], candidate[j], one, other)
            found.append(Pair(i, j, tap, other_tap, "values"))
    return found


def _equal(ours: Layer, theirs: Layer, one: Known, other: Known) -> bool:
    gap, tap, _ = _closest(ours, theirs, one, other)
    known = one.get(tap.tensor)
    return gap <= EQUAL and known is not None and known.elements >= FEW
