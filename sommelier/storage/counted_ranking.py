"""A ranking that counts agreements as far down as somebody asks."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from sommelier.storage.answer_scans import AnswerScans
from sommelier.storage.candidates import Rows
from sommelier.storage.probe_roster import LabelMaps, Roster

STEP = 64  # a 64th of the samples is counted in advance: questions differ by a few agreements


class CountedRanking:
    """The models of a roster by agreements with one of them; see candidates.Ranking.

    positions : of the roster, those that are ranked; None means all. What is asked about rows that
    agree on much reads little; the first question about all of them reads all.
    """

    def __init__(
        self,
        scans: AnswerScans,
        roster: Roster,
        reference: int,
        kept: NDArray[np.int64] | None,
        maps: LabelMaps,
    ) -> None:
        self._scans = scans
        self._roster = roster
        self._reference = reference
        self._kept = kept
        self._maps = maps
        self._lock = threading.Lock()
        self._least = roster.probe_set.samples + 1  # known down to here
        nothing = np.empty(0, dtype=np.int64)
        self._known = nothing, nothing, nothing  # rows, agreements, the order of the rows

    def down_to(self, least: int) -> tuple[Rows, Rows]:
        """(rows, agreements) of all that have at least so many; there may be more."""
        if least < self._least:
            with self._lock:
                if least < self._least:
                    self._extend(max(0, least - self._roster.probe_set.samples // STEP))
        return self._known[:2]

    def positions(self, rows: Rows) -> Rows:
        """Where rows stand, -1 where they do not."""
        found = self._places(rows)
        if self._least > 0 and (found < 0).any() and self._ranks(rows[found < 0]).any():
            self.down_to(0)
            found = self._places(rows)
        return found

    def among(self, mask: NDArray[np.bool_]) -> Rows:
        """The rows that are in a mask over all models."""
        rows = self._rows()
        return rows[mask[rows]].astype(np.int64)

    def count(self, mask: NDArray[np.bool_]) -> int:
        """How many those are."""
        rows = self._rows()
        return int(np.count_nonzero(mask if len(rows) == len(mask) else mask[rows]))

    @property
    def size(self) -> int:
        """How many rows there are."""
        return len(self._roster.rows if self._kept is None else self._kept)

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept."""
        kept = 0 if self._kept is None else self._kept.nbytes
        return kept + sum(array.nbytes for array in self._known)

    def _extend(self, least: int) -> None:
        """Count what may have `least` agreements. Rows known before stay where they are."""
        roster = self._roster
        kept = slice(None) if self._kept is None else self._kept
        at, counts = self._scans.at_least(roster, self._reference, kept, least, self._maps)
        rows = roster.rows[kept][at].astype(np.int64)
        order = np.lexsort((rows, -counts))
        rows, counts = rows[order], counts[order]
        self._known = rows, counts, np.argsort(rows, kind="stable")
        self._least = least

    def _rows(self) -> NDArray[np.int32]:
        """All rows, in the roster's order."""
        return self._roster.rows if self._kept is None else self._roster.rows[self._kept]

    def _ranks(self, rows: Rows) -> NDArray[np.bool_]:
        """Which rows are ranked at all."""
        places = self._roster.place.of_rows(rows.astype(np.int32))
        inside = places >= 0
        if self._kept is not None:
            inside &= np.isin(places, self._kept)
        return inside

    def _places(self, rows: Rows) -> Rows:
        known, _, order = self._known
        if not len(known):
            return np.full(len(rows), -1, dtype=np.int64)
        places = np.searchsorted(known, rows, sorter=order)
        found = order[np.minimum(places, len(known) - 1)]
        return np.where(known[found] == rows, found, -1)
