"""The column block: every number of the catalog as one float64 column per metric and context.

A resource constraint is a comparison of whole columns, so it is answered exactly; docs/adr/0001
says why there is no LSH here. Row i of every column is the model `ResourceIndex.ids[i]`. A column
is read when it is first asked for (column_reading.py); models that arrive later are added to it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sommelier.errors import UnknownNameError
from sommelier.metrics import METRICS
from sommelier.storage.column_reading import PER_BATCH as PER_BATCH
from sommelier.storage.column_reading import UNKNOWN as UNKNOWN
from sommelier.storage.column_reading import (
    Column,
    Context,
    Entries,
    added_up,
    build,
    by_batch,
    contexts_by_metric,
    counted,
    entries_of,
    select,
    stated_batches,
)
from sommelier.storage.column_reading import ColumnKey as ColumnKey
from sommelier.storage.column_reading import ColumnView as ColumnView
from sommelier.storage.column_reading import MetricContext as MetricContext
from sommelier.storage.model_ids import ABSENT, ModelIds
from sommelier.storage.text_index import TextIndex

if TYPE_CHECKING:
    from sommelier.storage.catalog import Catalog

FEW = 1_000  # models that are added to columns; after more of them columns are read again


class ResourceIndex:
    """Columns of the catalog's measurements, kept up to date with it."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._lock = threading.RLock()
        self._generation = -1
        self._mark = catalog.measurement_changes.mark()
        self._ids = ModelIds()
        self.texts = TextIndex(catalog)
        self._of_metric: dict[str, dict[int, Context]] = {}
        self._contexts: dict[str, list[MetricContext]] = {}
        self._batches: dict[ColumnKey, dict[int, NDArray[np.int32]]] = {}
        self._columns: dict[ColumnKey, Column] = {}

    @property
    def ids(self) -> ModelIds:
        """Model ids in row order. Replaced, never changed, when models come or go."""
        return self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def row(self, model_id: str) -> int:
        """The row of a model. Raises UnknownNameError."""
        row = self._ids.row(model_id)
        if row == ABSENT:
            raise UnknownNameError(f"no model with the id '{model_id}' is in the database")
        return row

    def rows(self, ids: Iterable[str]) -> NDArray[np.int64]:
        """The rows of models, -1 where an id is not in the database."""
        return self._ids.rows(ids)

    def refresh(self) -> bool:
        """Read what has changed in the catalog since the last call; True if something had.

        Costs one comparison of integers when nothing changed. When models only arrived, or few were
        measured, their numbers are added to the columns; otherwise columns are read again on their
        next use, about 50 ms per million models.
        """
        if self._catalog.generation == self._generation:
            return False
        with self._catalog.steady(), self._lock:
            before, mark, generation = self._ids, self._mark, self._catalog.generation
            self._mark = self._catalog.measurement_changes.mark()
            self._ids = self._catalog.model_ids()
            self._of_metric = contexts_by_metric(self._catalog.contexts())
            changed = self._catalog.measurement_changes.since(mark)
            stays = self._ids is before or self._ids.begins_with(before)
            if self._generation < 0 or not stays or changed is None or len(changed) > FEW:
                self._columns, self._contexts, self._batches = {}, {}, {}
            elif changed or len(self._ids) > len(before):
                self._add(sorted(changed), len(before))
            self._generation = generation
        return True

    def contexts(self, metric: str) -> list[MetricContext]:
        """The contexts that have values of `metric`, those with most models first."""
        self.refresh()
        found = self._contexts.get(metric)
        if found is None:
            with self._catalog.steady(), self._lock:
                found = self._contexts[metric] = counted(self._entries(metric))
        return list(found)

    def column(self, key: ColumnKey) -> ColumnView:
        """The values of a metric in one context, cached. Unknown models hold NaN.

        What the key leaves open is settled for the whole column, so that its values compare: the
        device (for metrics that have one), then the dataset, then the batch (for PER_BATCH metrics)
        with the most models, ties by name; a measurement that states no batch fits any batch, and
        `batches` says when batch 1 goes before the one with most models.
        The percentile left open is 50, or none stated. A model with several values in that context
        shows its best provenance, then the smallest batch, then the lowest value.
        Raises UnknownNameError for a metric that does not exist.
        """
        self.refresh()
        column = self._columns.get(key)
        if column is None:
            if key.metric not in METRICS:
                raise UnknownNameError(f"unknown metric '{key.metric}'", expected=tuple(METRICS))
            with self._catalog.steady(), self._lock:
                chosen = select(self._entries(key.metric), key)
                column = self._columns[key] = build(chosen, len(self._ids))
        return column.view

    def batches(self, key: ColumnKey) -> dict[int, NDArray[np.int32]]:
        """The rows known at each batch size in the context of `key`, whatever batch it names.

        The first is the one `column` takes when the key leaves it open: the batch with most
        models, unless batch 1 was measured (provenance) and that one was not. Where it is open and
        there is no choice, rows are not looked for.
        """
        self.refresh()
        stated = stated_batches(self._of_metric.get(key.metric, {}).values())
        if key.batch is None and len(stated) < 2:
            return {batch: np.empty(0, dtype=np.int32) for batch in stated}
        found = self._batches.get(key)
        if found is None:
            with self._catalog.steady(), self._lock:
                chosen = select(self._entries(key.metric), key, any_batch=True)
                found = self._batches[key] = by_batch(chosen.entries)
        return dict(found)

    def below(self, upper: Mapping[ColumnKey, float]) -> tuple[NDArray[np.bool_], int]:
        """(mask of models known to be at most every bound, number with an unknown value)."""
        self.refresh()
        mask = np.ones(len(self._ids), dtype=bool)
        unknown = np.zeros(len(self._ids), dtype=bool)
        for key, bound in upper.items():
            view = self.column(key)
            mask &= view.values <= bound
            unknown |= view.unknown
        return mask, int(unknown.sum())

    def _entries(self, metric: str, models: list[int] | None = None) -> Entries:
        """The known numbers of a metric; models : of these models.number only."""
        contexts = self._of_metric.get(metric, {})
        return entries_of(self._catalog.numbers_in(list(contexts), models), contexts)

    def _add(self, changed: list[int], before: int) -> None:
        """Put the numbers of changed models, and rows for those that arrived, into every column.

        before : how many models there were. What may change the choice of a column's contexts has
        it read again on its next use.
        """
        touched = np.zeros(len(self._ids), dtype=bool)
        touched[self._catalog.rows_of_numbers(changed)] = True
        older = bool(touched[:before].any())
        touched[before:] = True
        metrics = {key.metric for key in self._columns} | set(self._contexts)
        fresh = {metric: self._entries(metric, changed) for metric in metrics}
        self._contexts = {
            metric: added_up(known, counted(fresh[metric]))
            for metric, known in self._contexts.items()
            if not older
        }
        self._batches = {}
        columns = {
            key: column.extended(fresh[key.metric], touched)
            for key, column in self._columns.items()
        }
        self._columns = {key: column for key, column in columns.items() if column is not None}
