"""Counts of agreements between a reference's cached answers and everyone else's, read once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.storage.agreement_scan import agreement_counts, interchangeable_counts, paired_counts
from sommelier.storage.candidates import PairedCounts
from sommelier.storage.label_translation import NO_PARTNER, Classes, row_lookup
from sommelier.storage.probe_roster import AnswerGroup, LabelMaps, Roster, relate, truth_relation
from sommelier.storage.sketch_files import NARROW
from sommelier.storage.sketches import SketchStore

REMEMBERED_BYTES = 64 << 20  # counts kept; the scans least recently used leave first
UNREAD = -1
BOUNDED = -2  # minus the most agreements that a row's bits allow

ScanKey = tuple[str, str, str, int, str]


class AnswerScans:
    """Agreement counts by reference and file row; rows are read once, also as files grow."""

    def __init__(self, sketches: SketchStore) -> None:
        self._sketches = sketches
        self._lock = threading.Lock()
        self._scans: OrderedDict[ScanKey, NDArray[Any]] = OrderedDict()
        self.rows_read = 0  # how many rows were compared so far; tests watch it

    def forget(self) -> None:
        """Drop all counts: the meaning of the answers has changed (a label map)."""
        with self._lock:
            self._scans.clear()

    def counts(
        self,
        roster: Roster,
        reference: int,
        positions: NDArray[Any],
        maps: LabelMaps,
        part: NDArray[np.int64] | None = None,
    ) -> NDArray[np.int64]:
        """Agreements of the model at position `reference` with those at `positions`.

        part : only on the samples with these numbers; such counts are not remembered.
        """
        counts = np.zeros(len(positions), dtype=np.int64)
        group_of = roster.group[positions]
        with self._lock:
            for code in np.unique(group_of):
                where = np.flatnonzero(group_of == code)
                rows = roster.file_rows[positions[where]]
                group = roster.groups[code]
                if part is None:
                    counts[where] = self._read(roster, reference, group, rows, maps)
                else:
                    counts[where] = self._count(roster, reference, group, rows, maps, part)
        return counts

    def at_least(
        self,
        roster: Roster,
        reference: int,
        positions: NDArray[Any] | slice,
        least: int,
        maps: LabelMaps,
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """(places in `positions`, agreements) of the models with `least` agreements or more.

        Exact: rows that their bits exclude (answer_bits.py) are not read, all others are.
        """
        found, counts = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
        group_of = None if len(roster.groups) == 1 else roster.group[positions]
        file_rows = roster.file_rows[positions]
        with self._lock:
            for code, group in enumerate(roster.groups):
                where = None if group_of is None else np.flatnonzero(group_of == code)
                rows = file_rows if where is None else file_rows[where]
                if not len(rows):
                    continue
                known = self._screened(roster, reference, group, rows, least, maps)
                kept = np.flatnonzero(known >= least)
                found.append(kept if where is None else where[kept])
                counts.append(known[kept].astype(np.int64))
        return np.concatenate(found), np.concatenate(counts)

    def paired(
        self,
        roster: Roster,
        reference: int,
        positions: NDArray[Any],
        truth: Classes,
        maps: LabelMaps,
    ) -> PairedCounts | None:
        """Who is right where the other is wrong, by the probe set's true labels in classes `truth`.

        Answers are translated to `truth`, as accuracy does it; samples without a label do not
        count. None when the reference's cannot be translated or nothing is labelled; candidates
        whose answers cannot be translated are left out.
        """
        labels = np.frombuffer(roster.probe_set.labels or b"", dtype=np.int32)
        labelled = labels >= 0
        wanted = np.where(labelled, labels, NO_PARTNER).astype(np.uint32)
        home = truth_relation(roster.group_of(reference).classes, truth, maps)
        if home.labels is None or not labelled.any():
            return None
        answers = self._answers(roster, reference)
        correct = (home.apply(answers) == wanted) & labelled
        rows, only = [roster.rows[:0]], [np.zeros((2, 0), dtype=np.int32)]
        for code in np.unique(roster.group[positions]):
            how = truth_relation(roster.groups[code].classes, truth, maps)
            if how.labels is None:
                continue
            where = positions[roster.group[positions] == code]
            places = roster.file_rows[where]
            matrix = self._matrix(roster, roster.groups[code], places)
            table = None if how.table is None else row_lookup(how.table)
            rows.append(roster.rows[where])
            only.append(np.stack(paired_counts(correct, wanted, matrix, places, table)))
        both = np.concatenate(only, axis=1).astype(np.int64)  # (2, candidates)
        return PairedCounts(np.concatenate(rows), both[0], both[1], int(labelled.sum()))

    def _read(
        self,
        roster: Roster,
        reference: int,
        group: AnswerGroup,
        rows: NDArray[Any],
        maps: LabelMaps,
    ) -> NDArray[np.int32]:
        counts = self._scan(roster, reference, group, int(rows.max(initial=-1)) + 1)
        unread = np.unique(rows[counts[rows] < 0])
        if len(unread):
            counts[unread] = self._count(roster, reference, group, unread, maps)
        return np.asarray(counts[rows], dtype=np.int32)

    def _screened(
        self,
        roster: Roster,
        reference: int,
        group: AnswerGroup,
        rows: NDArray[Any],
        least: int,
        maps: LabelMaps,
    ) -> NDArray[Any]:
        """The counts of some rows of a group's file, right where they are `least` or more."""
        how = relate(roster.group_of(reference), group, maps)
        bits = None
        if least > 0 and group.file == NARROW.name and how.row_table is None:
            matrix = self._matrix(roster, group, rows)
            bits = self._sketches.bits(roster.probe_set.id, matrix)
        if bits is None:
            return self._read(roster, reference, group, rows, maps)
        counts = self._scan(roster, reference, group, int(rows.max(initial=-1)) + 1)
        known = counts[rows]
        new = rows[(known == UNREAD) & (rows < len(bits.rows))]
        if len(new):
            wanted = how.apply(self._answers(roster, reference))
            counts[new] = BOUNDED - bits.at_most(wanted, new)
            known = counts[rows]
        may = (known == UNREAD) | ((known <= BOUNDED) & (BOUNDED - known >= least))
        if may.any():
            reading = np.unique(rows[may])
            counts[reading] = self._count(roster, reference, group, reading, maps)
            known = counts[rows]
        return np.asarray(known)

    def _count(
        self,
        roster: Roster,
        reference: int,
        group: AnswerGroup,
        rows: NDArray[Any],
        maps: LabelMaps,
        part: NDArray[np.int64] | None = None,
    ) -> NDArray[np.int32]:
        """The counts of some rows of a group's file, read now."""
        self.rows_read += len(rows)
        matrix = self._matrix(roster, group, rows)
        answers = self._answers(roster, reference)
        if part is not None:
            answers, matrix, rows = answers[part], matrix[rows][:, part], np.arange(len(rows))
        if group.kind == "vectors":
            return interchangeable_counts(answers, matrix, rows)
        how = relate(roster.group_of(reference), group, maps)
        return agreement_counts(how.apply(answers), matrix, rows, how.row_table)

    def _matrix(self, roster: Roster, group: AnswerGroup, rows: NDArray[Any]) -> NDArray[Any]:
        needed = int(rows.max()) + 1
        return np.asarray(self._sketches.matrix(roster.probe_set.id, group.file, rows=needed))

    def _answers(self, roster: Roster, position: int) -> NDArray[Any]:
        """What a model of the roster answered."""
        group, row = roster.group_of(position), int(roster.file_rows[position])
        return self._sketches.answers_at(roster.probe_set.id, group.file, row)

    def _scan(self, roster: Roster, reference: int, group: AnswerGroup, size: int) -> NDArray[Any]:
        """What is known of the reference and the rows of the group's file, at least of `size`.

        A count, UNREAD, or BOUNDED minus a bound of it.
        """
        home, row = roster.group_of(reference).file, int(roster.file_rows[reference])
        key: ScanKey = (
            roster.probe_set.id, roster.model_id(reference), home, row, group.file,
        )  # fmt: skip
        small = roster.probe_set.samples < np.iinfo(np.int16).max
        counts = self._scans.pop(key, None)
        if counts is None:
            counts = np.empty(0, dtype=np.int16 if small else np.int32)
        if len(counts) < size:
            more = np.full(size - len(counts), UNREAD, dtype=counts.dtype)
            counts = np.concatenate([counts, more])
        self._scans[key] = counts
        if len(self._scans) > max(16, REMEMBERED_BYTES // max(1, counts.nbytes)):
            self._scans.popitem(last=False)
        return counts
