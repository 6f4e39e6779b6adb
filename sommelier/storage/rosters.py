"""Who answered which probe set, kept up to date: read once, then only the sketches that are new."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.storage.model_ids import ABSENT, ModelIds
from sommelier.storage.probe_roster import GroupKey, Roster, RosterColumns, build_roster

if TYPE_CHECKING:
    from sommelier.records import LabelSpace
    from sommelier.storage.catalog import Catalog
    from sommelier.storage.sketches import SketchRow

FEW = 1_000  # sketches that are added to rosters one by one; more of them are read as columns


class Rosters:
    """The rosters of all probe sets, by id."""

    def __init__(self) -> None:
        self.of: dict[str, Roster] = {}
        self.spaces: Mapping[str, LabelSpace] = {}
        self._ids = ModelIds()
        self._labels = -1  # the generation of the label spaces
        self._count = 0
        self._last: tuple[int, SketchRow] | None = None

    def refresh(self, catalog: Catalog, ids: ModelIds) -> bool:
        """Read what changed in the catalog; True if any roster did. ids : its models now."""
        labels = catalog.generation_of("labels")
        moved = ids is not self._ids and not ids.begins_with(self._ids)
        more = None if moved or labels != self._labels else self._more(catalog)
        if more is not None and not more:
            if ids is not self._ids:
                self._ids = ids
                self.of = {name: self._with_ids(roster) for name, roster in self.of.items()}
            return False
        self._ids, self._labels = ids, labels
        if more is None or not self._add(catalog, more):
            self._read(catalog)
        return True

    def _more(self, catalog: Catalog) -> list[tuple[int, SketchRow]] | None:
        """The sketches that came after those known; None if others changed, or many came."""
        if self._last is None:
            return None
        found = catalog.sketches_from(self._last[0])
        # the last one is read again: its number is given to the next sketch once it is dropped
        if not found or found[0] != self._last or len(found) > FEW:
            return None
        more = found[1:]
        return more if catalog.sketch_count() == self._count + len(more) else None

    def _read(self, catalog: Catalog) -> None:
        """All rosters anew."""
        groups, found = catalog.sketch_columns()
        self.spaces = {space.id: space for space in catalog.label_spaces()}
        self._count = catalog.sketch_count()
        self._last = catalog.sketches_from(int(found["number"][-1]))[-1] if self._count else None
        codes: dict[str, list[int]] = {}
        for code, (probe_set_id, *_) in enumerate(groups):
            codes.setdefault(probe_set_id, []).append(code)
        self.of = {}
        for probe_set_id, own in codes.items():
            mine = np.isin(found["code"], own)
            place = np.zeros(len(groups), dtype=_code_type(len(own)))
            place[own] = np.arange(len(own))
            columns = RosterColumns(
                rows=found["row"][mine].astype(np.int32),
                group_keys=tuple(GroupKey(*groups[code][1:]) for code in own),
                group=place[found["code"][mine]],
                file_rows=found["file_row"][mine].astype(np.int32),
            )
            if len(columns.rows):
                self.of[probe_set_id] = self._built(catalog, probe_set_id, columns)

    def _add(self, catalog: Catalog, more: list[tuple[int, SketchRow]]) -> bool:
        """Put sketches at the ends of their rosters; False if one replaces another."""
        by_probe_set: dict[str, list[SketchRow]] = {}
        for _, entry in more:
            by_probe_set.setdefault(entry.probe_set_id, []).append(entry)
        fresh: dict[str, Roster] = {}
        for probe_set_id, entries in by_probe_set.items():
            rows = self._ids.rows([entry.model_id for entry in entries]).astype(np.int32)
            before = self.of.get(probe_set_id)
            known = before is not None and (before.place.of_rows(rows) != ABSENT).any()
            if known or (rows == ABSENT).any() or len(np.unique(rows)) < len(rows):
                return False
            columns = _extended(before, rows, entries)
            fresh[probe_set_id] = self._built(catalog, probe_set_id, columns)
        self.of = {name: self._with_ids(roster) for name, roster in self.of.items()} | fresh
        self._count += len(more)
        self._last = more[-1]
        return True

    def _with_ids(self, roster: Roster) -> Roster:
        place = roster.place.among(self._ids)
        return replace(roster, ids=self._ids, place=place)

    def _built(self, catalog: Catalog, probe_set_id: str, columns: RosterColumns) -> Roster:
        sizes = {dataset.id: dataset.samples for dataset in catalog.datasets()}
        probe_set = catalog.probe_set(probe_set_id)
        return build_roster(probe_set, self._ids, columns, self.spaces, sizes)


def _extended(
    before: Roster | None, rows: NDArray[np.int32], entries: list[SketchRow]
) -> RosterColumns:
    """The columns of a roster with more sketches at its end."""
    keys = [] if before is None else list(before.group_keys)
    codes = []
    for e in entries:
        key = GroupKey(e.kind, e.file, e.width, e.exact, e.label_space_id, e.classes)
        if key not in keys:
            keys.append(key)
        codes.append(keys.index(key))
    group = np.array(codes, dtype=_code_type(len(keys)))
    file_rows = np.array([entry.row for entry in entries], dtype=np.int32)
    if before is not None:
        rows = np.concatenate([before.rows, rows])
        group = np.concatenate([before.group.astype(group.dtype), group])
        file_rows = np.concatenate([before.file_rows, file_rows])
    return RosterColumns(rows, tuple(keys), group, file_rows)


def _code_type(groups: int) -> type[np.signedinteger[Any]]:
    """The smallest type that numbers so many groups."""
    return np.int8 if groups < 128 else np.int16 if groups < 32_768 else np.int32
