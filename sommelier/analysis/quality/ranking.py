"""Ranked lists: overlap of the first k, or weighted towards the top (algorithms.md A.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sommelier.analysis.quality.classes import OVERLAP
from sommelier.analysis.quality.measure import (
    Array,
    Figure,
    Floats,
    Mask,
    mean_figure,
    same_shape,
)
from sommelier.errors import AnalysisError

PERSISTENCE = 0.9  # Webber et al. 2010: the first ten places carry 86 % of the weight


@dataclass(frozen=True, slots=True)
class RankedOverlap:
    """1 - overlap@k. answers : integer (n, >= k) item ids, best first, none twice.

    Lists of one length make it a metric: |A symmetric-difference B| / 2k.
    truth : relevance (n, items) >= 0, indexed by item id; nDCG@k is a mean of terms.
    """

    k: int = 10
    tolerance: float = OVERLAP

    symmetric: ClassVar[bool] = True
    pseudometric: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return f"1 - overlap@{self.k}"

    @property
    def predicate(self) -> str:
        return f"overlap@{self.k} >= {self.tolerance:g}"

    def losses(self, reference: Array, candidate: Array) -> Floats:
        one, other = _lists(reference, candidate)
        return 1.0 - _agreement_by_depth(one[:, : self.k], other[:, : self.k])[:, -1]

    def interchangeable(self, reference: Array, candidate: Array) -> Mask:
        one, other = _lists(reference, candidate)
        shared = _agreement_by_depth(one[:, : self.k], other[:, : self.k])[:, -1]
        return np.asarray(shared >= self.tolerance - 1e-9)

    def quality(self, answers: Array, truth: Array) -> tuple[Figure, ...]:
        gains = np.asarray(truth, dtype=np.float64)
        relevant = gains.sum(axis=1) > 0  # a query without a relevant item has no ideal order
        terms = ndcg(np.asarray(answers)[relevant], gains[relevant], self.k)
        return (mean_figure(f"nDCG@{self.k}", terms),)

    def describe(self, answer: Array) -> str:
        shown = ", ".join(str(int(item)) for item in answer[: min(self.k, 5)])
        return f"{shown}, ..." if len(answer) > 5 else shown


@dataclass(frozen=True, slots=True)
class RankBiased(RankedOverlap):
    """1 - rank-biased overlap, extrapolated (Webber, Moffat & Zobel 2010, equation 32).

    A convex combination of the overlap distances at depth 1..k, hence a metric as they are. The
    predicate stays overlap@k, which weighs no place more than another.
    """

    persistence: float = PERSISTENCE

    @property
    def name(self) -> str:
        return f"1 - RBO (p = {self.persistence:g})"

    def losses(self, reference: Array, candidate: Array) -> Floats:
        one, other = _lists(reference, candidate)
        agreement = _agreement_by_depth(one, other)  # (n, depth)
        depth = agreement.shape[1]
        weights = (1 - self.persistence) * self.persistence ** np.arange(depth)
        weights[-1] += self.persistence**depth  # the list is taken to go on as it ends
        return np.clip(1.0 - agreement @ weights, 0.0, 1.0)


def ndcg(answers: Array, gains: Array, k: int) -> Floats:
    """Normalised discounted cumulative gain of the first k, float64 (n,) in [0, 1].

    answers : integer (n, >= k) item ids; gains : (n, items). Gain / log2(place + 1).
    """
    places = min(k, answers.shape[1], gains.shape[1])
    discount = 1.0 / np.log2(np.arange(places) + 2)
    given = np.take_along_axis(gains, answers[:, :places].astype(np.int64), axis=1) @ discount
    ideal = -np.sort(-gains, axis=1)[:, :places] @ discount
    return np.asarray(given / ideal)


def _lists(reference: Array, candidate: Array) -> tuple[Array, Array]:
    one, other = np.asarray(reference), np.asarray(candidate)
    same_shape(one, other)
    for side in (one, other):
        ranked = np.sort(side, axis=1)
        if (ranked[:, 1:] == ranked[:, :-1]).any():
            raise AnalysisError("a ranked list names an item twice")
    return one, other


def _agreement_by_depth(one: Array, other: Array) -> Floats:
    """|first d of one in first d of other| / d for d = 1..k, float64 (n, k)."""
    places = np.arange(one.shape[1])
    deeper = np.maximum(places[:, None], places[None, :])  # the depth at which a pair is in both
    same = one[:, :, None] == other[:, None, :]  # (n, k, k)
    shared = np.stack([(same & (deeper <= d)).sum(axis=(1, 2)) for d in places], axis=1)
    return np.asarray(shared / (places + 1))
