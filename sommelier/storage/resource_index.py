"""The column block: every number of the catalog as one float64 column per metric and context.

A resource constraint is a comparison of whole columns, so it is answered exactly; docs/adr/0001
says why there is no LSH here. Row i of every column is the model `ResourceIndex.ids[i]`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.errors import UnknownNameError
from sommelier.metrics import METRICS
from sommelier.records import Provenance

if TYPE_CHECKING:
    from sommelier.storage.catalog import Catalog

PROVENANCES: tuple[Provenance, ...] = tuple(Provenance)
"""Code c of `ColumnView.provenance` is PROVENANCES[c]; UNKNOWN is -1."""

UNKNOWN = -1
_WORDS = ("device", "dataset", "precision")
_NUMBERS = ("batch", "percentile")
DEFAULT_PERCENTILE = 50
PER_BATCH = frozenset({"latency", "memory", "measured_memory", "activation_memory"})
"""Metrics whose values at different batch sizes must not share a column; others are per input."""


@dataclass(frozen=True, slots=True)
class ColumnKey:
    """A metric in a context. None means any: see `ResourceIndex.column` for what is then taken."""

    metric: str
    device: str | None = None
    batch: int | None = None
    percentile: int | None = None
    dataset: str | None = None
    provenance: Provenance | None = None


@dataclass(frozen=True, slots=True)
class ColumnView:
    """One number per model, read-only. values : float64, NaN = unknown, base units.

    unknown : where `values` is NaN. provenance : int8 codes into PROVENANCES, -1 = unknown.
    low, high : error band, NaN = none. context : the context the values were taken from; its
    `count` is the number of known values.
    """

    values: NDArray[np.float64]
    unknown: NDArray[np.bool_]
    provenance: NDArray[np.int8]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    context: MetricContext


@dataclass(frozen=True, slots=True)
class MetricContext:
    """A context in which `count` models have a value of some metric."""

    device: str | None
    batch: int | None
    percentile: int | None
    dataset: str | None
    count: int


@dataclass(frozen=True, slots=True)
class _Entries:
    """The measurements of one metric, one per position; the words are coded as integers."""

    row: NDArray[np.int64]
    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    provenance: NDArray[np.int8]
    device: NDArray[np.int32]
    dataset: NDArray[np.int32]
    precision: NDArray[np.int32]
    batch: NDArray[np.int64]  # -1 = not stated
    percentile: NDArray[np.int64]  # -1 = not stated

    def take(self, where: NDArray[Any]) -> _Entries:
        return _Entries(*(getattr(self, name)[where] for name in self.__slots__))


class ResourceIndex:
    """Columns of the catalog's measurements, rebuilt when the catalog has changed."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._lock = threading.RLock()
        self._generation = -1
        self._ids: NDArray[np.object_] = np.empty(0, dtype=object)
        self._rows: dict[str, int] = {}
        self._words: dict[str, list[str | None]] = {}
        self._entries: dict[str, _Entries] = {}
        self._columns: dict[ColumnKey, ColumnView] = {}

    @property
    def ids(self) -> NDArray[np.object_]:
        """Model ids in row order. The array is replaced, never changed, when models come or go."""
        return self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def row(self, model_id: str) -> int:
        """The row of a model. Raises UnknownNameError."""
        try:
            return self._rows[model_id]
        except KeyError:
            raise UnknownNameError(
                f"no model with the id '{model_id}' is in the database"
            ) from None

    def rows(self, ids: Iterable[str]) -> NDArray[np.int64]:
        """The rows of models, -1 where an id is not in the database."""
        return np.fromiter((self._rows.get(i, -1) for i in ids), dtype=np.int64)

    def refresh(self) -> bool:
        """Read the catalog again if it has changed since the last call; True if it had.

        Costs one comparison of integers when nothing changed; about 1 s per million measurements
        when something did. Columns are built on first use.
        """
        generation = self._catalog.generation
        if generation == self._generation:
            return False
        with self._catalog.steady(), self._lock:
            ids = np.asarray(self._catalog.model_ids(), dtype=object)
            if not np.array_equal(ids, self._ids):
                self._ids = ids
                self._rows = {model_id: row for row, model_id in enumerate(ids)}
            self._entries = self._read_entries()
            self._columns = {}
            self._generation = generation
        return True

    def contexts(self, metric: str) -> list[MetricContext]:
        """The contexts that have values of `metric`, those with most models first."""
        self.refresh()
        entries = self._entries.get(metric)
        if entries is None:
            return []
        keys = np.stack(
            [entries.device, entries.batch, entries.percentile, entries.dataset], axis=1
        )
        found, inverse = np.unique(keys, axis=0, return_inverse=True)
        pairs = np.unique(np.stack([inverse.reshape(-1), entries.row], axis=1), axis=0)
        counts = np.bincount(pairs[:, 0], minlength=len(found))
        contexts = [
            MetricContext(
                self._words["device"][device], _stated(batch), _stated(percentile),
                self._words["dataset"][dataset], int(count),
            )
            for (device, batch, percentile, dataset), count in zip(found, counts, strict=True)
        ]  # fmt: skip
        return sorted(contexts, key=_context_order)

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
        view = self._columns.get(key)
        if view is None:
            if key.metric not in METRICS:
                raise UnknownNameError(f"unknown metric '{key.metric}'", expected=tuple(METRICS))
            with self._lock:
                view = self._columns[key] = self._build(key)
        return view

    def batches(self, key: ColumnKey) -> dict[int, NDArray[np.int64]]:
        """The rows known at each batch size in the context of `key`, whatever batch it names.

        The first is the one `column` takes when the key leaves it open: the batch with most
        models, unless batch 1 was measured (provenance) and that one was not.
        """
        self.refresh()
        return _by_batch(self._select(key, any_batch=True)[0])

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

    def _build(self, key: ColumnKey) -> ColumnView:
        entries, context = self._select(key)
        order = np.lexsort(
            (entries.value, entries.precision, entries.batch, -entries.percentile,
             entries.provenance, entries.row)
        )  # fmt: skip
        rows, first = np.unique(entries.row[order], return_index=True)
        best = entries.take(order[first])
        size = len(self._ids)
        values = _scatter(size, rows, best.value, np.nan)
        return ColumnView(
            values=values,
            unknown=np.isnan(values),
            provenance=_scatter(size, rows, best.provenance, UNKNOWN),
            low=_scatter(size, rows, best.low, np.nan),
            high=_scatter(size, rows, best.high, np.nan),
            context=MetricContext(*context, count=len(rows)),
        )

    def _select(
        self, key: ColumnKey, *, any_batch: bool = False
    ) -> tuple[_Entries, tuple[str | None, int | None, int | None, str | None]]:
        """The entries of the one context that `key` stands for, and that context.

        any_batch : those of every batch, whatever the key says of it.
        """
        entries = self._entries.get(key.metric)
        if entries is None:
            return _no_entries(), (key.device, key.batch, key.percentile, key.dataset)
        context = METRICS[key.metric].context
        if key.provenance is not None:
            entries = entries.take(entries.provenance == PROVENANCES.index(key.provenance))
        named: dict[str, str | None] = {"device": key.device, "dataset": key.dataset}
        for field, name in named.items():
            if name is not None or field in context:
                entries, named[field] = self._keep(entries, field, name)
        if key.metric == "latency" or key.percentile is not None:
            entries = _keep_percentile(entries, key.percentile)
        batch = key.batch
        if batch is not None and not any_batch:
            entries = entries.take(entries.batch == batch)
        elif key.metric in PER_BATCH and not any_batch:
            entries, batch = _keep_usual_batch(entries)
        return entries, (named["device"], batch, key.percentile, named["dataset"])

    def _keep(self, entries: _Entries, field: str, name: str | None) -> tuple[_Entries, str | None]:
        """The entries whose device or dataset is `name`, or, for None, the one with most models."""
        words, codes = self._words[field], getattr(entries, field)
        if name is not None:
            code = words.index(name) if name in words else UNKNOWN
        else:
            code = min(
                (int(c) for c in np.unique(codes)),
                key=lambda c: (
                    -len(np.unique(entries.row[codes == c])),
                    words[c] is None,
                    words[c],
                ),
                default=UNKNOWN,
            )
        kept = entries.take(codes == code)
        return kept, name if code == UNKNOWN else words[code]

    def _read_entries(self) -> dict[str, _Entries]:
        """The entries of every metric; words are looked up once per context, not per number."""
        columns = self._catalog.measurement_columns()
        codes, first, inverse = np.unique(
            columns["context"], return_index=True, return_inverse=True
        )
        contexts = [
            {field: columns[field][place] for field in (*_WORDS, *_NUMBERS, "metric", "provenance")}
            for place in first.tolist()
        ]
        fields: dict[str, NDArray[Any]] = {
            name: np.array([_number(context[name]) for context in contexts], dtype=np.int64)
            for name in _NUMBERS
        }
        for name in _WORDS:
            fields[name], self._words[name] = _factorize([context[name] for context in contexts])
        places = {p.value: code for code, p in enumerate(PROVENANCES)}
        fields["provenance"] = np.array([places[c["provenance"]] for c in contexts], dtype=np.int8)
        entries = _Entries(
            row=np.asarray(columns["row"], dtype=np.int64),
            value=columns["value"],
            low=columns["low"],
            high=columns["high"],
            **{name: of_context[inverse] for name, of_context in fields.items()},
        )
        known = ~np.isnan(entries.value)
        by_metric: dict[str, NDArray[np.bool_]] = {}
        for code, context in enumerate(contexts):
            mine = by_metric.setdefault(context["metric"], np.zeros(len(codes), dtype=bool))
            mine[code] = True
        return {
            metric: entries.take(np.flatnonzero(mine[inverse] & known))
            for metric, mine in by_metric.items()
        }


def _keep_percentile(entries: _Entries, percentile: int | None) -> _Entries:
    if percentile is not None:
        return entries.take(entries.percentile == percentile)
    return entries.take(
        (entries.percentile == DEFAULT_PERCENTILE) | (entries.percentile == UNKNOWN)
    )


def _keep_usual_batch(entries: _Entries) -> tuple[_Entries, int | None]:
    """The entries of the batch size that `_by_batch` puts first, and of those that state none."""
    batch = next(iter(_by_batch(entries)), None)
    if batch is None:
        return entries, None
    return entries.take((entries.batch == batch) | (entries.batch == UNKNOWN)), batch


def _by_batch(entries: _Entries) -> dict[int, NDArray[np.int64]]:
    """The models known at each batch size, the batch to take first.

    That is the one with most models; but where batch 1 was measured here, batches that are only
    declared come after those measured.
    """
    stated = [int(batch) for batch in np.unique(entries.batch[entries.batch >= 0])]
    at = {batch: entries.batch == batch for batch in stated}
    rows = {batch: np.unique(entries.row[at[batch]]) for batch in stated}
    measured = entries.provenance == PROVENANCES.index(Provenance.MEASURED)
    here = {batch for batch in stated if measured[at[batch]].any()}
    later = {batch: 1 in here and batch not in here for batch in stated}
    return {
        batch: rows[batch] for batch in sorted(stated, key=lambda b: (later[b], -len(rows[b]), b))
    }


def _scatter(size: int, rows: NDArray[np.int64], values: NDArray[Any], fill: float) -> NDArray[Any]:
    column = np.full(size, fill, dtype=values.dtype)
    column[rows] = values
    column.flags.writeable = False
    return column


def _no_entries() -> _Entries:
    none = np.empty(0, dtype=np.int64)
    real = np.empty(0, dtype=np.float64)
    code = np.empty(0, dtype=np.int32)
    return _Entries(none, real, real, real, np.empty(0, np.int8), code, code, code, none, none)


def _factorize(found: list[str | None]) -> tuple[NDArray[np.int32], list[str | None]]:
    """Codes of words, and the words in sorted order (None, if present, last)."""
    words: list[str | None] = [*sorted({w for w in found if w is not None})]
    if None in found:
        words.append(None)
    return np.array([words.index(w) for w in found], dtype=np.int32), words


def _number(stated: object) -> int:
    """A batch or percentile of the catalog as a code: UNKNOWN where none is stated."""
    return UNKNOWN if stated is np.ma.masked or stated is None else int(str(stated))


def _stated(number: int) -> int | None:
    return None if number == UNKNOWN else int(number)


def _context_order(context: MetricContext) -> tuple[Any, ...]:
    return (
        -context.count, context.device or "", context.dataset or "",
        context.batch or 0, context.percentile or 0,
    )  # fmt: skip
