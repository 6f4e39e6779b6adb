"""Label spaces and the maps between them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from sommelier.records import LabelSpace
from sommelier.storage.naming import unknown_name
from sommelier.storage.rows import to_json

if TYPE_CHECKING:
    from sommelier.storage.database import Database

UNNAMED = "labels of "
"""What the name of a label space begins with that is called after a model, for want of a name."""


class LabelTable:
    """The part of the catalog that knows what outputs are called."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_label_space(self, space: LabelSpace) -> None:
        """Remember a label space; one of the same id is replaced, but for a name that nobody gave:
        of models that share their labels, the first one's name stays."""
        from sommelier.storage.schema import LABEL_SPACES

        known = self._database.row("SELECT id FROM store.label_spaces WHERE id = ?", [space.id])
        if known is not None and space.name.startswith(UNNAMED):
            return
        row = {"id": space.id, "name": space.name, "labels": to_json(space.labels)}
        with self._database.transaction("add a label space"):
            self._database.upsert(LABEL_SPACES, [row])

    def label_space(self, space_id: str) -> LabelSpace:
        """The label space with this id. Raises UnknownNameError."""
        row = self._database.row(
            "SELECT id, name, labels FROM store.label_spaces WHERE id = ?", [space_id]
        )
        if row is None:
            known = [space.id for space in self.label_spaces()]
            raise unknown_name("label space", space_id, known)
        return LabelSpace(row[0], row[1], tuple(json.loads(row[2])))

    def label_spaces(self) -> list[LabelSpace]:
        """All label spaces, by name."""
        rows = self._database.rows("SELECT id, name, labels FROM store.label_spaces ORDER BY 2, 1")
        return [LabelSpace(i, name, tuple(json.loads(labels))) for i, name, labels in rows]

    def add_label_map(self, from_id: str, to_id: str, mapping: Mapping[str, str]) -> None:
        """Say which label of one space is which of another; replaces what was said before."""
        from sommelier.storage.schema import LABEL_MAPS

        row = {"from_id": from_id, "to_id": to_id, "mapping": to_json(dict(mapping))}
        with self._database.transaction("add a label map"):
            self._database.upsert(LABEL_MAPS, [row])

    def label_map(self, from_id: str, to_id: str) -> dict[str, str] | None:
        """The given map from one label space to another, or None."""
        row = self._database.row(
            "SELECT mapping FROM store.label_maps WHERE from_id = ? AND to_id = ?", [from_id, to_id]
        )
        if row is None:
            return None
        mapping: dict[str, str] = json.loads(row[0])
        return mapping

    def label_maps(self) -> dict[tuple[str, str], dict[str, str]]:
        """All given label maps, by (from, to)."""
        rows = self._database.rows("SELECT from_id, to_id, mapping FROM store.label_maps")
        return {(from_id, to_id): json.loads(mapping) for from_id, to_id, mapping in rows}
