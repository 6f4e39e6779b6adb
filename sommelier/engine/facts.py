"""What the engine has read from the catalog since it last changed, so that a hot query reads it
from memory: names, metadata columns, text masks, contexts of metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from sommelier.engine import settings
from sommelier.engine.moments import day_or_time
from sommelier.storage.text_index import KEPT
from sommelier.storage.words import Words

if TYPE_CHECKING:
    from sommelier.link_records import ModelLink
    from sommelier.records import Dataset, Device, ModelRecord, ProbeSet, TextPredicate
    from sommelier.storage.catalog import Catalog
    from sommelier.storage.model_ids import ModelIds
    from sommelier.storage.profile_index import ProfileIndex
    from sommelier.storage.resource_index import (
        ColumnKey,
        ColumnView,
        MetricContext,
        ResourceIndex,
    )

Array = np.ndarray[Any, np.dtype[Any]]
T = TypeVar("T")


class Facts:
    """Reads through to the catalog once. Arrays are in row order.

    It belongs to one generation of the catalog: after a change the session makes a new one, and
    answers that were given keep the old one with everything they need.
    """

    def __init__(self, catalog: Catalog, resources: ResourceIndex) -> None:
        resources.refresh()
        self.catalog = catalog
        self.resources = resources
        self.ids: ModelIds = resources.ids
        self._generation = catalog.generation
        self._known: dict[tuple[Any, ...], Any] = {}

    @property
    def current(self) -> bool:
        """Whether the catalog is still as it was read."""
        return self.catalog.generation == self._generation

    def model(self, name: str, version: str | None) -> ModelRecord:
        """The model of that name, alias or id. Raises UnknownNameError with the nearest names."""
        return self._once(
            ("model", name, version), lambda: self.catalog.resolve(name, version=version)
        )

    def model_names(self) -> list[str]:
        return self._once(("names",), lambda: list(self.catalog.model_names()))

    def contexts(self, metric: str) -> list[MetricContext]:
        return self._once(("contexts", metric), lambda: self.resources.contexts(metric))

    def context_names(self, metric: str, kind: str) -> list[str]:
        """The devices or datasets that have values of `metric`, those with most models first."""
        counts: dict[str, int] = {}
        for context in self.contexts(metric):
            name = getattr(context, kind)
            if name is not None:
                counts[name] = max(counts.get(name, 0), context.count)
        return sorted(counts, key=lambda name: (-counts[name], name))

    def devices(self) -> list[Device]:
        return self._once(("devices",), lambda: list(self.catalog.devices()))

    def datasets(self) -> list[Dataset]:
        return self._once(("datasets",), lambda: list(self.catalog.datasets()))

    def probe_sets(self) -> list[ProbeSet]:
        return self._once(("probe sets",), lambda: list(self.catalog.probe_sets()))

    def links(self) -> list[ModelLink]:
        """All model links, by name. A model of several versions is called name@version in them."""

        def read() -> list[ModelLink]:
            links = self.catalog.links()
            apart = self._versioned() if links else {}
            return [_called(link, apart) for link in links]

        return self._once(("links",), read)

    def versions(self) -> dict[str, tuple[str, str]]:
        """(name, version) of every model, by id."""

        def read() -> dict[str, tuple[str, str]]:
            pairs = zip(self.text("name").tolist(), self.text("version").tolist(), strict=True)
            return dict(zip(self.ids.tolist(), pairs, strict=True))

        return self._once(("versions",), read)

    def _versioned(self) -> dict[str, str]:
        """'name@version' of the models whose name is that of others too, by id."""
        counts = Counter(self.text("name").tolist())
        if len(counts) == len(self.ids):
            return {}
        return {i: f"{n}@{v}" for i, (n, v) in self.versions().items() if counts[n] > 1}

    def link_mask(self, predicate: TextPredicate) -> tuple[Array, Array]:
        """(links for which it is true, links whose column is unknown) as masks over `links`."""

        def ask() -> tuple[Array, Array]:
            found = self.catalog.link_masks(predicate)
            names = [link.name for link in self.links()]
            true, unknown = (np.array([n in part for n in names], dtype=bool) for part in found)
            return true, unknown

        return self._once(("link mask", predicate), ask)

    def settings(self) -> dict[str, Any]:
        """The engine's settings as Python values in base units."""
        return self._once(("settings",), lambda: settings.read(self.catalog))

    def tasks(self) -> list[tuple[str, int, str | None]]:
        return self._once(("tasks",), lambda: list(self.catalog.tasks()))

    def column(self, key: ColumnKey) -> ColumnView:
        return self._once(("column", key), lambda: self.resources.column(key))

    def batches(self, key: ColumnKey) -> dict[int, Array]:
        """The rows known at each batch size in the context of a column, its own batch first."""
        return self._once(("batches", key), lambda: self.resources.batches(key))

    def similarity(self, profiles: ProfileIndex, model_id: str) -> Array:
        """How alike every model spends its resources with this one."""
        return self._once(("similarity", model_id), lambda: profiles.similarity(model_id))

    def text(self, column: str) -> Array:
        """A metadata column as objects, None where unknown."""

        def read() -> Array:
            values = self._text_of(column)
            array = np.empty(len(values), dtype=object)
            array[:] = [list(v) if isinstance(v, tuple) else v for v in values]
            return array

        return self._once(("text", column), read)

    def words(self, column: str) -> Words | Array:
        """The same for a few rows at a time, in less memory where it is text: index it by rows."""

        def read() -> Words | Array:
            if column in ("tags", "opset") or ("text", column) in self._known:
                return self.text(column)
            if column in KEPT:
                return self.resources.texts.words(column)
            return Words(self._text_of(column))

        return self._once(("words", column), read)

    def _text_of(self, column: str) -> list[Any]:
        values = self.catalog.text_columns([column])[column]
        if column == "created":
            return [v if v is None else day_or_time(str(v)) for v in values]
        return values

    def rank(self, column: str) -> Array:
        """Numbers that sort as the column's text does; NaN where it is unknown."""
        return self._once(("rank", column), lambda: ranks(self._objects(column)))

    def _objects(self, column: str) -> Array:
        """A metadata column as objects that are not kept."""
        words = self.words(column)
        return words.objects() if isinstance(words, Words) else words

    def listed(self, including: tuple[str, ...]) -> Array:
        """Which models a question is about: all but proposals of kinds that are not included."""

        def read() -> Array:
            mask = np.ones(len(self.ids), dtype=bool)
            hidden = [
                id_ for id_, kind in self.catalog.proposals().items() if kind not in including
            ]
            mask[self.resources.rows(hidden)] = False
            mask.flags.writeable = False
            return mask

        return self._once(("listed", including), read)

    def text_mask(self, predicate: TextPredicate) -> tuple[Array, Array]:
        """(rows where it is true, rows where the column is unknown) as masks."""

        def ask() -> tuple[Array, Array]:
            found = self.catalog.text_mask(predicate)
            return self._mask(found.true_rows), self._mask(found.null_rows)

        return self._once(("mask", predicate), ask)

    def _mask(self, rows: Array) -> Array:
        mask = np.zeros(len(self.ids), dtype=bool)
        mask[rows] = True
        return mask

    def _once(self, key: tuple[Any, ...], read: Callable[[], T]) -> T:
        if key not in self._known:
            self._known[key] = read()
        value: T = self._known[key]
        return value


def _called(link: ModelLink, names: Mapping[str, str]) -> ModelLink:
    if not names.keys() & {*link.source_ids, link.target_id}:
        return link
    ends = zip(link.source_ids, link.source_names, strict=True)
    sources = tuple(names.get(id_, name) for id_, name in ends)
    target = names.get(link.target_id, link.target_name)
    return replace(link, source_names=sources, target_name=target)


def ranks(values: Array) -> Array:
    """Dense ranks of text or whole numbers, NaN for None.

    >>> ranks(np.array(["b", None, "a", "b"], dtype=object)).tolist()
    [1.0, nan, 0.0, 1.0]
    """
    known = np.array([v is not None for v in values], dtype=bool)
    result = np.full(len(values), np.nan)
    if known.any():
        words = values[known]
        if not all(isinstance(word, int) for word in words):
            words = np.array([str(word) for word in words], dtype=object)
        _, inverse = np.unique(words, return_inverse=True)
        result[known] = inverse
    return result
