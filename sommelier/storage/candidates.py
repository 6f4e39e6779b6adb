"""What the semantic index answers: candidates of a reference, and the same as records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.confidence import clopper_pearson
from sommelier.records import EquivalenceEdge
from sommelier.storage.agreement_bounds import TransitiveBounds
from sommelier.storage.label_translation import NAMED, POSITIONAL

ESTIMATED = "-estimated"  # after an edge's method: counted on projections of wide outputs


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The models that compare with a reference on one probe set, most agreements first, then row.

    rows : int64 model rows; the reference is among them. agreements : int64, of `samples`; in
    method 'random5' the number that transitivity guarantees. low, high : the observed agreement's
    bounds in method 'random5', None in method 'sketch', where it is agreements / samples.
    labels : 'named', 'positional' when some compare by position only (the mask `positional` says
    which), or None for vectors. exact : False when vectors are projections: their distances are
    estimates. incomparable : reason -> number of models that are neither measured nor bounded.
    transitive : bounds for models that share no probe set with the reference, from this one; or
    None. others : the same on less preferred probe sets, for models that have no bounds before
    them; no model comes twice, and `incomparable` is told once, here, for all of them.
    """

    reference_id: str
    probe_set_id: str | None
    rows: NDArray[np.int64]
    agreements: NDArray[np.int64]
    samples: int
    method: str
    labels: str | None
    positional: NDArray[np.bool_]
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None
    exact: bool = True
    incomparable: Mapping[str, int] = field(default_factory=dict)
    transitive: TransitiveBounds | None = None
    others: tuple[Candidates, ...] = ()
    _places: dict[int, NDArray[np.int32]] = field(default_factory=dict, repr=False)

    def places(self, size: int) -> NDArray[np.int32]:
        """(size,) where each model row stands in `rows`, -1 where it does not; made once."""
        place = self._places.get(size)
        if place is None:
            place = np.full(size, -1, dtype=np.int32)
            place[self.rows] = np.arange(len(self.rows), dtype=np.int32)
            self._places[size] = place
        return place

    @property
    def parts(self) -> tuple[Candidates, ...]:
        """These and the others, the most preferred probe set first."""
        return (self, *self.others)

    def __len__(self) -> int:
        return len(self.rows)

    def at_least(self, agreements: int) -> int:
        """How many leading rows have at least so many agreements."""
        return int(np.searchsorted(-self.agreements, -agreements, side="right"))


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
    ids: NDArray[np.object_],
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
    found: Candidates, paired: PairedCounts | None, ids: NDArray[np.object_], confidence: float
) -> list[EquivalenceEdge]:
    if found.probe_set_id is None:
        return []
    low, high = clopper_pearson(found.agreements, found.samples, confidence)
    differences = _differences(paired, confidence)
    return [
        EquivalenceEdge(
            reference_id=found.reference_id,
            candidate_id=str(ids[row]),
            probe_set_id=found.probe_set_id,
            samples=found.samples,
            agreements=int(found.agreements[i]),
            lower=float(low[i]),
            upper=float(high[i]),
            confidence=confidence,
            method=found.method if found.exact else found.method + ESTIMATED,
            labels=POSITIONAL if found.positional[i] else found.labels and NAMED,
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


def _transitive_edges(
    found: Candidates, ids: NDArray[np.object_], confidence: float
) -> list[EquivalenceEdge]:
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
