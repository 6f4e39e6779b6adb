"""What the semantic index answers: candidates of a reference, and the same as records."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sommelier.confidence import clopper_pearson
from sommelier.records import EquivalenceEdge
from sommelier.storage.agreement_bounds import TransitiveBounds
from sommelier.storage.label_translation import NAMED, POSITIONAL
from sommelier.storage.model_ids import ModelIds

Rows = NDArray[np.int64]

ESTIMATED = "-estimated"  # after an edge's method: counted on projections of wide outputs


class Ranking(Protocol):
    """Rows and their agreements, most agreements first, then row; perhaps not counted yet.

    Both arrays grow at their end only, so a position in them stays that of its row.
    """

    def down_to(self, least: int, /) -> tuple[Rows, Rows]:
        """(rows, agreements) of all that have at least so many; there may be more."""

    def positions(self, rows: Rows) -> Rows:
        """Where rows stand, -1 where they do not."""

    def among(self, mask: NDArray[np.bool_]) -> Rows:
        """The rows that are in a mask over all models, in no order that can be relied on."""

    def count(self, mask: NDArray[np.bool_]) -> int:
        """How many those are."""

    @property
    def size(self) -> int:
        """How many rows there are."""

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept."""


class Ranked:
    """A ranking that is known. rows, agreements : most agreements first, then row."""

    def __init__(self, rows: Rows, agreements: Rows) -> None:
        self._rows, self._agreements = rows, agreements
        self._order = np.argsort(rows, kind="stable")

    def down_to(self, _least: int) -> tuple[Rows, Rows]:
        return self._rows, self._agreements

    def positions(self, rows: Rows) -> Rows:
        if not len(self._rows):
            return np.full(len(rows), -1, dtype=np.int64)
        places = np.searchsorted(self._rows, rows, sorter=self._order)
        found = self._order[np.minimum(places, len(self._rows) - 1)]
        return np.where(self._rows[found] == rows, found, -1)

    def among(self, mask: NDArray[np.bool_]) -> Rows:
        return self._rows[mask[self._rows]]

    def count(self, mask: NDArray[np.bool_]) -> int:
        return int(np.count_nonzero(mask[self._rows]))

    @property
    def size(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        return self._rows.nbytes + self._agreements.nbytes + self._order.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The models that compare with a reference on one probe set; the reference is among them.

    ranking : their rows and agreements, of `samples`; in method 'random5' the agreements that
    transitivity guarantees. low, high : the observed agreement's bounds in method 'random5', in the
    order of `rows`; None in method 'sketch', where it is agreements / samples.
    labels : 'named', 'positional' when some compare by position only (`by_position`, a mask over
    all models; None where nobody does), or None for vectors. exact : False when vectors are
    projections: their distances are estimates. incomparable : reason -> number of models that are
    neither measured nor bounded. transitive : bounds for models that share no probe set with the
    reference, from this one; or None. others : the same on less preferred probe sets, for models
    that have no bounds before them; no model comes twice, and `incomparable` is told once, here,
    for all of them.
    """

    reference_id: str
    probe_set_id: str | None
    ranking: Ranking
    samples: int
    method: str
    labels: str | None
    by_position: NDArray[np.bool_] | None = None
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None
    exact: bool = True
    incomparable: Mapping[str, int] = field(default_factory=dict)
    transitive: TransitiveBounds | None = None
    others: tuple[Candidates, ...] = ()

    @property
    def rows(self) -> Rows:
        """(n,) the model rows, best first. Counts whatever was not counted yet."""
        return self.ranking.down_to(0)[0]

    @property
    def agreements(self) -> Rows:
        """(n,) theirs. Counts whatever was not counted yet."""
        return self.ranking.down_to(0)[1]

    @property
    def positional(self) -> NDArray[np.bool_]:
        """(n,) which of `rows` compare by position only."""
        return self.is_positional(self.rows)

    def is_positional(self, rows: Rows) -> NDArray[np.bool_]:
        """Which of these model rows compare by position only."""
        if self.by_position is None:
            return np.zeros(len(rows), dtype=bool)
        return self.by_position[rows]

    @property
    def parts(self) -> tuple[Candidates, ...]:
        """These and the others, the most preferred probe set first."""
        return (self, *self.others)

    @property
    def nbytes(self) -> int:
        """Bytes of all rankings."""
        return sum(part.ranking.nbytes for part in self.parts)

    def __len__(self) -> int:
        return self.ranking.size

    def prefix(self, least: int) -> tuple[Rows, int]:
        """(rows best first, how many of them have at least so many agreements)."""
        rows, counts = self.ranking.down_to(least)
        return rows, bisect_right(counts, -least, key=lambda count: -int(count))

    def at_least(self, agreements: int) -> int:
        """How many rows have at least so many agreements."""
        return self.prefix(agreements)[1]


@dataclass(frozen=True, slots=True)
class PairAgreement:
    """How often a candidate answers as the reference does; `reason` when samples is 0.

    exact : False when both are projected vectors, so that the count is an estimate.
    """

    agreements: int
    samples: int
    probe_set_id: str | None
    labels: str | None
    reason: str | None = None
    exact: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class PairedCounts:
    """Labelled samples that only one of two models has right, per candidate row.

    samples : the labelled ones, more than 0.
    accuracy(reference) - accuracy(candidate) = (reference_only - candidate_only) / samples.
    """

    rows: NDArray[np.int64]
    reference_only: NDArray[np.int64]
    candidate_only: NDArray[np.int64]
    samples: int

    def difference(
        self, confidence: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """(difference, low, high): a Clopper-Pearson interval per count, alpha / 2 each."""
        leg = 1 - (1 - confidence) / 2
        b_low, b_high = clopper_pearson(self.reference_only, self.samples, leg)
        c_low, c_high = clopper_pearson(self.candidate_only, self.samples, leg)
        difference = (self.reference_only - self.candidate_only) / self.samples
        return difference, b_low - c_high, b_high - c_low


def equivalence_edges(
    found: Candidates,
    paired: Sequence[PairedCounts | None],
    ids: ModelIds,
    confidence: float,
) -> list[EquivalenceEdge]:
    """Candidates of all parts as records, best first, the reference left out; then transitive ones.

    paired : one a part. ids : by model row.
    """
    edges = [
        edge
        for part, counts in zip(found.parts, paired, strict=True)
        for edge in _measured_edges(part, counts, ids, confidence)
    ]
    if found.others:
        edges.sort(key=lambda edge: -edge.lower)
    for part in found.parts:
        edges += _transitive_edges(part, ids, confidence)
    return edges


def _measured_edges(
    found: Candidates, paired: PairedCounts | None, ids: ModelIds, confidence: float
) -> list[EquivalenceEdge]:
    if found.probe_set_id is None:
        return []
    low, high = clopper_pearson(found.agreements, found.samples, confidence)
    differences = _differences(paired, confidence)
    agreements, positional = found.agreements, found.positional
    return [
        EquivalenceEdge(
            reference_id=found.reference_id,
            candidate_id=str(ids[row]),
            probe_set_id=found.probe_set_id,
            samples=found.samples,
            agreements=int(agreements[i]),
            lower=float(low[i]),
            upper=float(high[i]),
            confidence=confidence,
            method=found.method if found.exact else found.method + ESTIMATED,
            labels=POSITIONAL if positional[i] else found.labels and NAMED,
            **differences.get(row, {}),
        )
        for i, row in enumerate(found.rows.tolist())
        if ids[row] != found.reference_id
    ]


def _differences(paired: PairedCounts | None, confidence: float) -> dict[int, dict[str, Any]]:
    if paired is None:
        return {}
    names = ("difference", "difference_low", "difference_high")
    columns = np.stack(paired.difference(confidence), axis=1).tolist()
    return {
        row: dict(zip(names, numbers, strict=True))
        for row, numbers in zip(paired.rows.tolist(), columns, strict=True)
    }


def _transitive_edges(found: Candidates, ids: ModelIds, confidence: float) -> list[EquivalenceEdge]:
    bounds = found.transitive
    if bounds is None:
        return []
    low, high = bounds.interval(confidence)
    return [
        EquivalenceEdge(
            reference_id=found.reference_id,
            candidate_id=str(ids[row]),
            probe_set_id=None,
            samples=0,
            agreements=0,
            lower=float(low[i]),
            upper=float(high[i]),
            confidence=confidence,
            method="transitive",
            labels=found.labels,
        )
        for i, row in enumerate(bounds.rows.tolist())
    ]
