"""Metadata columns of all models as text, read once and then only for models that arrive."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from sommelier.storage.change_log import Mark
from sommelier.storage.model_ids import ModelIds
from sommelier.storage.words import Words

if TYPE_CHECKING:
    from sommelier.storage.catalog import Catalog

KEPT = frozenset(
    {"name", "version", "source", "revision", "task", "family", "license", "format", "producer"}
)
"""Columns that hold a model's own text, so that only a change of that model changes them."""


class TextIndex:
    """Columns of text by row. Safe to use from several threads."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._lock = threading.RLock()
        self._known: dict[str, tuple[Words, ModelIds, Mark]] = {}

    def words(self, column: str) -> Words:
        """A column of KEPT as the catalog has it now, in the order of its models."""
        with self._catalog.steady(), self._lock:
            now, ids = self._catalog.model_edits.mark(), self._catalog.model_ids()
            known = self._known.get(column)
            words = None if known is None else self._followed(column, *known, ids)
            if words is None:
                words = Words(self._catalog.text_columns([column])[column])
            self._known[column] = words, ids, now
            return words

    def _followed(
        self, column: str, words: Words, before: ModelIds, mark: Mark, ids: ModelIds
    ) -> Words | None:
        """What was read before and the models since; None if a model was changed or dropped."""
        if self._catalog.model_edits.since(mark) != set():
            return None
        if ids is before:
            return words
        if not ids.begins_with(before):
            return None
        fresh = ids[slice(len(before), len(ids))].tolist()
        return words.followed_by(self._catalog.text_columns([column], fresh)[column])
