"""Counts of agreements between a reference's cached answers and everyone else's, read once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.storage.agreement_scan import agreement_counts, interchangeable_counts, paired_counts
from sommelier.storage.candidates import PairedCounts
from sommelier.storage.label_translation import Classes
from sommelier.storage.probe_roster import AnswerGroup, LabelMaps, Roster, relate, relate_classes
from sommelier.storage.sketches import SketchStore

REMEMBERED_BYTES = 64 << 20  # counts kept; the scans least recently used leave first
UNREAD = -1

ScanKey = tuple[str, str, str, int, str]


class AnswerScans:
    """Agreement counts by reference and file row; rows are read once, also as files grow."""

    def __init__(self, sketches: SketchStore) -> None:
        self._sketches = sketches
        self._lock = threading.Lock()
        self._scans: OrderedDict[ScanKey, NDArray[np.int32]] = OrderedDict()
        self.rows_read = 0  # how many rows were compared so far; tests watch it

    def forget(self) -> None:
        """Drop all counts: the meaning of the answers has changed (a label map)."""
        with self._lock:
            self._scans.clear()

    def counts(
        self, roster: Roster, reference: int, positions: NDArray[np.int64], maps: LabelMaps
    ) -> NDArray[np.int64]:
        """Agreements of the model at position `reference` with those at `positions`."""
        counts = np.zeros(len(positions), dtype=np.int64)
        group_of = roster.group[positions]
        with self._lock:
            for code in np.unique(group_of):
                where = np.flatnonzero(group_of == code)
                rows = roster.file_rows[positions[where]]
                counts[where] = self._read(roster, reference, roster.groups[code], rows, maps)
        return counts

    def paired(
        self,
        roster: Roster,
        reference: int,
        positions: NDArray[np.int64],
        truth: Classes,
        maps: LabelMaps,
    ) -> PairedCounts | None:
        """Who is right where the other is wrong, by the probe set's true labels in classes `truth`.

        None when they cannot be told in the reference's classes; candidates in whose classes they
        cannot be told are left out.
        """
        probe_set = roster.probe_set
        labels = np.frombuffer(probe_set.labels or b"", dtype=np.int32).astype(np.uint32)
        home = relate_classes(truth, roster.group_of(reference).classes, maps)
        if home.labels is None:
            return None
        answers = self._sketches.answers(roster.entries[reference])
        correct = answers == home.apply(labels)
        rows, only = [roster.rows[:0]], [np.zeros((2, 0), dtype=np.int32)]
        for code in np.unique(roster.group[positions]):
            how = relate_classes(truth, roster.groups[code].classes, maps)
            if how.labels is None:
                continue
            where = positions[roster.group[positions] == code]
            matrix = self._matrix(roster, roster.groups[code], roster.file_rows[where])
            counts = paired_counts(correct, how.apply(labels), matrix, roster.file_rows[where])
            rows.append(roster.rows[where])
            only.append(np.stack(counts))
        both = np.concatenate(only, axis=1).astype(np.int64)  # (2, candidates)
        return PairedCounts(np.concatenate(rows), both[0], both[1], probe_set.samples)

    def _read(
        self,
        roster: Roster,
        reference: int,
        group: AnswerGroup,
        rows: NDArray[np.int64],
        maps: LabelMaps,
    ) -> NDArray[np.int32]:
        entry = roster.entries[reference]
        key = (roster.probe_set.id, entry.model_id, entry.file, entry.row, group.file)
        counts = self._scan(key, int(rows.max(initial=-1)) + 1)
        unread = np.unique(rows[counts[rows] == UNREAD])
        if len(unread):
            matrix = self._matrix(roster, group, unread)
            answers = self._sketches.answers(entry)
            if group.kind == "vectors":
                counts[unread] = interchangeable_counts(answers, matrix, unread)
            else:
                how = relate(roster.group_of(reference), group, maps)
                counts[unread] = agreement_counts(how.apply(answers), matrix, unread)
            self.rows_read += len(unread)
        return counts[rows]

    def _matrix(self, roster: Roster, group: AnswerGroup, rows: NDArray[np.int64]) -> NDArray[Any]:
        needed = int(rows.max()) + 1
        return np.asarray(self._sketches.matrix(roster.probe_set.id, group.file, rows=needed))

    def _scan(self, key: ScanKey, size: int) -> NDArray[np.int32]:
        """The counts of a scan, with room for `size` rows."""
        counts = self._scans.pop(key, np.empty(0, dtype=np.int32))
        if len(counts) < size:
            counts = np.concatenate([counts, np.full(size - len(counts), UNREAD, dtype=np.int32)])
        self._scans[key] = counts
        if len(self._scans) > max(16, REMEMBERED_BYTES // max(1, counts.nbytes)):
            self._scans.popitem(last=False)
        return counts
