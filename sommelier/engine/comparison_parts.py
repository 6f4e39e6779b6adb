"""One reference against others: those measured on one probe set, and those bounded over a bridge.

EQUIVALENCE is the one-sided lower bound of the agreement at alpha / K (algorithms.md A.4, A.5).
By Clopper-Pearson, the default, a count of agreements decides each measured row, and only rows that
are returned get their bound computed; other methods compute one for every distinct count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sommelier.confidence import largest_count_upper_below, smallest_count
from sommelier.engine.bound_methods import CP, BoundMethod, limits_by_count, samples_needed
from sommelier.engine.plan import CorrBound

if TYPE_CHECKING:
    from sommelier.storage.agreement_bounds import TransitiveBounds
    from sommelier.storage.candidates import Candidates

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_ROUNDING = 1e-12  # k / n against a threshold written in decimals


@dataclass(frozen=True, slots=True)
class Interval:
    """Bounds of the agreement of some rows with one reference. agreement : observed, NaN if not."""

    lower: Floats
    upper: Floats
    agreement: Floats
    samples: Floats


def asked_end(bound: CorrBound, interval: Interval, possible: bool) -> Floats:
    """What a threshold is compared with: for certain the end that makes it harder.

    EQUIVALENCE is the lower bound itself, so that asking for little of it is asking about that.
    """
    if bound.confidence is None:
        return interval.agreement
    if bound.operator in (">", ">="):
        return interval.upper if possible else interval.lower
    if bound.measure == "equivalence":
        return interval.lower
    return interval.lower if possible else interval.upper


class Measured:
    """The candidates that reached CORR on one probe set."""

    def __init__(self, candidates: Candidates, reached: Mask, method: BoundMethod = CP) -> None:
        self.candidates = candidates
        self.method = method
        self._reached = reached
        self.count = candidates.ranking.count(reached)
        self._found: Rows | None = None  # positions that passed, once asked

    @property
    def probe_set_id(self) -> str | None:
        return self.candidates.probe_set_id

    @property
    def rows(self) -> Rows:
        return self.candidates.ranking.among(self._reached)

    def is_positional(self, rows: Rows) -> Mask:
        """Which rows were compared class by class number, without names to check them."""
        return self.candidates.is_positional(rows)

    def passing(self, bounds: tuple[CorrBound, ...], tests: float, *, possible: bool) -> Rows:
        """A prefix of the sorted candidates, then whatever a prefix cannot decide; best first."""
        self._found = self._met(bounds, tests, possible=possible)
        return self._known[0][self._found]

    def _met(self, bounds: tuple[CorrBound, ...], tests: float, *, possible: bool) -> Rows:
        """The positions of the candidates that meet every bound."""
        floor = max((self._floor(b, tests, possible=possible) for b in bounds), default=0)
        if possible and self.candidates.high is not None:
            floor = 0  # random5 is sorted by its lower bound, possibility is about the upper one
        rows, stop = self.candidates.prefix(floor)
        at = np.flatnonzero(self._reached[rows[:stop]])
        for bound in bounds:
            if not self._decided_by_floor(bound):
                at = at[self._meets(bound, at, tests, possible=possible)]
        return at

    def _decided_by_floor(self, bound: CorrBound) -> bool:
        """Whether every candidate with at least `_floor` agreements meets the bound."""
        known = bound.confidence is None or self.method is CP
        return known and bound.operator == ">=" and self.candidates.low is None

    def undecided(self, bounds: tuple[CorrBound, ...], tests: float) -> int:
        """How many rows may meet the bounds but do not certainly; 0 where not counted."""
        plain = all(b.operator == ">=" and b.confidence is not None for b in bounds)
        if not bounds or not plain or self.candidates.high is not None:
            return 0
        if self.method is not CP:
            both = [self._met(bounds, tests, possible=possible) for possible in (True, False)]
            return len(both[0]) - len(both[1])
        ends = []
        for possible in (True, False):
            floor = max(self._floor(bound, tests, possible=possible) for bound in bounds)
            rows, end = self.candidates.prefix(floor)
            ends.append(end)
            if possible:
                more = rows  # at least as many as are certain
        return int(np.count_nonzero(self._reached[more[ends[1] : ends[0]]]))

    def head(self, keep: int) -> int:
        """How many of the rows that passed are at least as good as the `keep`-th: ties included."""
        if self._found is None or keep < 1 or keep >= len(self._found):
            return keep
        counts = self._known[1][self._found]
        ties = np.searchsorted(-counts, -counts[keep - 1], side="right")
        return int(ties)

    def _floor(self, bound: CorrBound, tests: float, *, possible: bool) -> int:
        """The fewest agreements a row needs to meet `bound`; 0 where a floor decides nothing."""
        samples = self.candidates.samples
        if bound.operator not in (">=", ">"):
            return 0
        if bound.confidence is None:
            return math.ceil(bound.threshold * samples * (1 - _ROUNDING) - _ROUNDING)
        if self.method is not CP:
            return 0
        alpha = (1 - bound.confidence) / tests
        if not possible:
            return smallest_count(samples, bound.threshold, alpha)
        if bound.threshold >= 1:
            return samples
        return largest_count_upper_below(samples, bound.threshold, alpha) + 1

    def _meets(self, bound: CorrBound, at: Rows, tests: float, *, possible: bool) -> Mask:
        alpha = 0.05 if bound.confidence is None else (1 - bound.confidence) / tests
        interval = self.interval_at(at, alpha)
        return compare(asked_end(bound, interval, possible), bound.operator, bound.threshold)

    def undecidable(self, bound: CorrBound, tests: float, of: str = "") -> str | None:
        """Why not even agreement on every probe would be enough, and what would; None if it is.

        of : whose probes they are, in words.
        """
        samples = self.candidates.samples
        if bound.confidence is None or bound.operator not in (">", ">=") or not samples:
            return None
        if not self.method.bounds:
            return None
        needed = samples_needed(bound.threshold, (1 - bound.confidence) / tests, self.method)
        threshold = f"{bound.threshold * 100:g}%"
        if needed is None:
            return f"no number of probes can certify {threshold}"
        if needed <= samples:
            return None
        return (
            f"n={samples} probes{of} cannot certify {threshold} for {tests:g} comparisons: "
            f"at least {needed} are needed"
        )

    def counts(self, rows: Rows, size: int) -> Floats:
        """Agreements of `rows` (guaranteed ones in mode random5); NaN for rows not compared."""
        at = self.positions(rows, size)
        counts = np.full(len(rows), np.nan)
        counts[at >= 0] = self._known[1][at[at >= 0]]
        return counts

    def positions(self, rows: Rows, _size: int) -> Rows:
        """Where `rows` stand among the candidates, -1 where they do not."""
        return self.candidates.ranking.positions(rows)

    def interval_at(self, at: Rows, alpha: float) -> Interval:
        """The bounds of the candidates at these positions, each at one-sided level alpha."""
        candidates, samples = self.candidates, self.candidates.samples
        counts = self._known[1][at]
        lower, upper = limits_by_count(self.method, counts, samples, alpha)
        if candidates.high is None:
            agreement = counts / max(1, samples)
        else:
            most = np.rint(candidates.high[at] * samples).astype(np.int64)
            _, upper = limits_by_count(self.method, most, samples, alpha)
            agreement = np.full(len(at), np.nan)
        return Interval(lower, upper, agreement, np.full(len(at), float(samples)))

    @property
    def _known(self) -> tuple[Rows, Rows]:
        """Rows and agreements as far down as they were asked for."""
        return self.candidates.ranking.down_to(self.candidates.samples + 1)


@dataclass(frozen=True, slots=True)
class StreamedPairs:
    """Pairs that stopped answering when a threshold was decided, by model row.

    agreements of samples, per pair, at a stopping time; probe_set_ids : what was streamed.
    """

    rows: Rows
    agreements: Rows
    samples: Rows
    probe_set_ids: tuple[str, ...] = ()


class Streamed:
    """Those of them that reached CORR and have no common complete sketch with the reference.

    Their bound is a confidence sequence, whatever the method asked for: no other allows for a
    number of samples that the answers chose. Source: algorithms.md A.4.
    """

    def __init__(self, pairs: StreamedPairs, reached: Mask) -> None:
        kept = reached[pairs.rows]
        self.rows = pairs.rows[kept]
        self._agreements, self._samples = pairs.agreements[kept], pairs.samples[kept]
        self.count = len(self.rows)
        self.probe_set_id = pairs.probe_set_ids[0] if pairs.probe_set_ids else None

    def passing(self, bounds: tuple[CorrBound, ...], tests: float, *, possible: bool) -> Rows:
        """The rows that meet every bound, best first."""
        mask = np.ones(self.count, dtype=bool)
        for bound in bounds:
            alpha = 0.05 if bound.confidence is None else (1 - bound.confidence) / tests
            interval = self.interval_at(np.arange(self.count), alpha)
            mask &= compare(asked_end(bound, interval, possible), bound.operator, bound.threshold)
        order = np.argsort(-self._agreements / self._samples, kind="stable")
        return self.rows[order[mask[order]]]

    def positions(self, rows: Rows, size: int) -> Rows:
        """Where `rows` stand here, -1 where they do not."""
        return row_places(self.rows, size)[rows]

    def undecidable(self, bound: CorrBound, tests: float, _of: str = "") -> str | None:
        """Not told: the number of samples differs from row to row."""

    def interval_at(self, at: Rows, alpha: float) -> Interval:
        """The confidence sequence at alpha, which holds at any stopping time."""
        from sommelier.analysis.bounds.anytime import anytime_limits

        k, n = self._agreements[at], self._samples[at]
        low, high = anytime_limits(k, n, alpha)
        return Interval(low, high, k / n, n.astype(np.float64))


class Transitive:
    """The models that reached CORR and share no probe set with the reference, bounded over others.

    probe_set_id : the one on which the reference met the models in between.
    """

    def __init__(self, bounds: TransitiveBounds, reached: Mask, probe_set_id: str | None) -> None:
        self._bounds = bounds.taken(np.flatnonzero(reached[bounds.rows]))
        self.probe_set_id = probe_set_id
        self.count = len(self._bounds.rows)

    @property
    def rows(self) -> Rows:
        return self._bounds.rows

    def undecidable(self, bound: CorrBound, tests: float, _of: str = "") -> str | None:
        """Not told of bounds over bridges: their probe sets differ from row to row."""

    def passing(self, bounds: tuple[CorrBound, ...], tests: float, *, possible: bool) -> Rows:
        """The rows that meet every bound, best first."""
        mask = np.ones(self.count, dtype=bool)
        for bound in bounds:
            if bound.confidence is None:
                return self.rows[:0]  # no observed agreement to look at
            low, high = self._bounds.interval(1 - (1 - bound.confidence) / tests)
            nothing = np.full(len(low), np.nan)
            end = asked_end(bound, Interval(low, high, nothing, nothing), possible)
            mask &= compare(end, bound.operator, bound.threshold)
        return self.rows[mask]

    def positions(self, rows: Rows, size: int) -> Rows:
        """Where `rows` stand among the bounded ones, -1 where they do not."""
        return row_places(self.rows, size)[rows]

    def interval_at(self, at: Rows, alpha: float) -> Interval:
        """The bounds of the rows at these positions, each at level alpha."""
        low, high = self._bounds.taken(at).interval(1 - alpha)
        return Interval(low, high, *np.full((2, len(at)), np.nan))


def row_places(rows: Rows, size: int) -> Rows:
    """(size,) the position of each catalog row in `rows`, -1 where it has none."""
    place = np.full(size, -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    return place


def compare(values: Floats, operator: str, threshold: float) -> Mask:
    """Which values satisfy the operator; a threshold written in decimals is rounded for."""
    if operator == ">=":
        return np.asarray(values >= threshold - _ROUNDING)
    if operator == "<=":
        return np.asarray(values <= threshold + _ROUNDING)
    return np.asarray(values > threshold if operator == ">" else values < threshold)
