"""How measurements become a column: which contexts it is made of, and which number a model shows.

Entries are the known numbers of one metric. They are many and their contexts few, so an entry holds
the code of its context; what is read is not kept, only the columns made of it are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.metrics import METRICS
from sommelier.records import Provenance

PROVENANCES: tuple[Provenance, ...] = tuple(Provenance)
"""Code c of `ColumnView.provenance` is PROVENANCES[c]; UNKNOWN is -1."""

UNKNOWN = -1
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
class MetricContext:
    """A context in which `count` models have a value of some metric."""

    device: str | None
    batch: int | None
    percentile: int | None
    dataset: str | None
    count: int


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
class Context:
    """What numbers have in common that a column looks at. batch, percentile : -1 = not stated."""

    provenance: int
    device: str | None
    dataset: str | None
    precision: str | None
    batch: int
    percentile: int

    @property
    def place(self) -> tuple[str | None, int, int, str | None]:
        """The same without what a person cannot ask for in ON and AT."""
        return self.device, self.batch, self.percentile, self.dataset

    @property
    def rank(self) -> tuple[Any, ...]:
        """Sorts those of one model, the one it shows first."""
        word = (self.precision is None, self.precision or "")
        return self.provenance, -self.percentile, self.batch, word


@dataclass(frozen=True, slots=True)
class Entries:
    """The known numbers of one metric. row, context, value, low, high : (n,), in any order.

    of : what each code in `context` means.
    """

    row: NDArray[np.int32]
    context: NDArray[np.int32]
    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    of: Mapping[int, Context]

    def kept(self, keep: Callable[[Context], bool]) -> Entries:
        """Those of the contexts that `keep` says."""
        of = {code: context for code, context in self.of.items() if keep(context)}
        if len(of) == len(self.of):
            return self
        at = self.are_in(list(of))
        return Entries(
            self.row[at], self.context[at], self.value[at], self.low[at], self.high[at], of
        )

    def rows_of(self, contexts: Sequence[int]) -> NDArray[np.int32]:
        """The models known in any of these contexts, each once, ascending."""
        if len(contexts) == 1:  # a model has one number in a context
            return np.sort(self.row if len(self.of) == 1 else self.row[self.are_in(contexts)])
        return np.unique(self.row[self.are_in(contexts)])

    def models_in(self, contexts: Sequence[int]) -> int:
        """How many those are."""
        if len(contexts) == 1:
            return (
                len(self.row) if len(self.of) == 1 else int(np.count_nonzero(self.are_in(contexts)))
            )
        return len(self.rows_of(contexts))

    def are_in(self, contexts: Sequence[int]) -> NDArray[np.bool_]:
        """Which entries are in any of these contexts."""
        wanted = np.zeros(max(self.of, default=0) + 1, dtype=bool)
        wanted[list(contexts)] = True
        return wanted[self.context]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The entries that a column is made of, and the context that they have in common."""

    entries: Entries
    context: tuple[str | None, int | None, int | None, str | None]


@dataclass(frozen=True, slots=True)
class Column:
    """A column and what it was made of. contexts : the codes of its contexts."""

    view: ColumnView
    contexts: Mapping[int, Context]

    def extended(self, fresh: Entries, touched: NDArray[np.bool_]) -> Column | None:
        """The column with what was measured since; None if it has to be made anew.

        fresh : every number of the models that were changed or arrived, touched : (size,) which
        those are. Of the contexts that the column is made of, more models can only be more reason
        to choose them.
        """
        view, before = self.view, len(self.view.values)
        more = build(Chosen(fresh, (None, None, None, None)), len(touched)).view
        lost = touched[:before] & more.unknown[:before] & ~view.unknown
        if lost.any() or any(code not in self.contexts for code in fresh.of):
            return None
        fewer = touched[:before] & ~view.unknown
        known = int(np.count_nonzero(~more.unknown & touched)) - int(np.count_nonzero(fewer))
        columns = {
            name: _over(getattr(view, name), getattr(more, name), touched)
            for name in ("values", "unknown", "provenance", "low", "high")
        }
        context = replace(view.context, count=view.context.count + known)
        return Column(ColumnView(**columns, context=context), self.contexts)


def contexts_by_metric(found: Mapping[int, Mapping[str, Any]]) -> dict[str, dict[int, Context]]:
    """The catalog's contexts as columns look at them, by metric and id."""
    places = {p.value: code for code, p in enumerate(PROVENANCES)}
    by_metric: dict[str, dict[int, Context]] = {}
    for code, fields in found.items():
        by_metric.setdefault(fields["metric"], {})[code] = Context(
            provenance=places[fields["provenance"]],
            device=fields["device"],
            dataset=fields["dataset"],
            precision=fields["precision"],
            batch=UNKNOWN if fields["batch"] is None else int(fields["batch"]),
            percentile=UNKNOWN if fields["percentile"] is None else int(fields["percentile"]),
        )
    return by_metric


def entries_of(found: Mapping[str, NDArray[Any]], contexts: Mapping[int, Context]) -> Entries:
    """What the catalog's `numbers_in` found, without unknown numbers and unused contexts."""
    known = ~np.isnan(found["value"])
    kept = {
        name: found[name] if known.all() else found[name][known]
        for name in ("row", "context", "value", "low", "high")
    }
    used = np.flatnonzero(np.bincount(kept["context"])).tolist()
    return Entries(**kept, of={code: contexts[code] for code in used})


def counted(entries: Entries) -> list[MetricContext]:
    """The places that numbers are known at, those with most models first."""
    codes: dict[tuple[str | None, int, int, str | None], list[int]] = {}
    for code, context in entries.of.items():
        codes.setdefault(context.place, []).append(code)
    found = [
        MetricContext(
            device, _stated(batch), _stated(percentile), dataset, entries.models_in(of_place)
        )
        for (device, batch, percentile, dataset), of_place in codes.items()
    ]
    return sorted(found, key=_context_order)


def added_up(known: list[MetricContext], more: list[MetricContext]) -> list[MetricContext]:
    """The contexts of models and of others, none of whom are among both."""
    counts: dict[MetricContext, int] = {}
    for context in (*known, *more):
        place = replace(context, count=0)
        counts[place] = counts.get(place, 0) + context.count
    found = [replace(place, count=count) for place, count in counts.items()]
    return sorted(found, key=_context_order)


def select(entries: Entries, key: ColumnKey, *, any_batch: bool = False) -> Chosen:
    """The entries of the one context that `key` stands for.

    any_batch : those of every batch, whatever the key says of it.
    """
    if not entries.of:
        return Chosen(entries, (key.device, key.batch, key.percentile, key.dataset))
    if key.provenance is not None:
        code = PROVENANCES.index(key.provenance)
        entries = entries.kept(lambda context: context.provenance == code)
    named: dict[str, str | None] = {"device": key.device, "dataset": key.dataset}
    for field, name in named.items():
        if name is not None or field in METRICS[key.metric].context:
            named[field] = _most_used(entries, field) if name is None else name
            entries = entries.kept(_is(field, named[field]))
    if key.percentile is not None:
        entries = entries.kept(lambda context: context.percentile == key.percentile)
    elif key.metric == "latency":
        entries = entries.kept(lambda c: c.percentile in (DEFAULT_PERCENTILE, UNKNOWN))
    batch = key.batch
    if batch is not None and not any_batch:
        entries = entries.kept(lambda context: context.batch == batch)
    elif key.metric in PER_BATCH and not any_batch:
        batch = next(iter(by_batch(entries)), None)
        if batch is not None:
            entries = entries.kept(lambda context: context.batch in (batch, UNKNOWN))
    return Chosen(entries, (named["device"], batch, key.percentile, named["dataset"]))


def by_batch(entries: Entries) -> dict[int, NDArray[np.int32]]:
    """The models known at each batch size, the batch to take first.

    That is the one with most models; but where batch 1 was measured here, batches that are only
    declared come after those measured.
    """
    codes: dict[int, list[int]] = {}
    for code, context in entries.of.items():
        if context.batch != UNKNOWN:
            codes.setdefault(context.batch, []).append(code)
    rows = {batch: entries.rows_of(of_batch) for batch, of_batch in codes.items()}
    measured = PROVENANCES.index(Provenance.MEASURED)
    here = {
        b for b, found in codes.items() if any(entries.of[c].provenance == measured for c in found)
    }
    later = {batch: 1 in here and batch not in here for batch in codes}
    return {b: rows[b] for b in sorted(codes, key=lambda b: (later[b], -len(rows[b]), b))}


def build(chosen: Chosen, size: int) -> Column:
    """The column of `size` models: of each its number in the best context, then the lowest."""
    entries = chosen.entries
    values, provenance = np.full(size, np.nan), np.full(size, UNKNOWN, dtype=np.int8)
    bands = not (np.isnan(entries.low).all() and np.isnan(entries.high).all())
    low = np.full(size, np.nan) if bands else _nothing(size)
    high = np.full(size, np.nan) if bands else _nothing(size)
    for codes in _worst_first(entries.of):
        at = np.flatnonzero(entries.are_in(codes))
        if len(codes) > 1:  # of equal rank: the lowest value is written last
            at = at[np.argsort(-entries.value[at], kind="stable")]
        rows = entries.row[at]
        values[rows] = entries.value[at]
        provenance[rows] = entries.of[codes[0]].provenance
        if bands:
            low[rows], high[rows] = entries.low[at], entries.high[at]
    unknown = np.isnan(values)
    for array in (values, unknown, provenance, low, high):
        array.flags.writeable = False
    context = MetricContext(*chosen.context, count=size - int(np.count_nonzero(unknown)))
    view = ColumnView(values, unknown, provenance, low, high, context)
    return Column(view, dict(entries.of))


def _worst_first(contexts: Mapping[int, Context]) -> list[list[int]]:
    """Codes of equal rank together, those that others are written over first."""
    ranks: dict[tuple[Any, ...], list[int]] = {}
    for code, context in contexts.items():
        ranks.setdefault(context.rank, []).append(code)
    return [ranks[rank] for rank in sorted(ranks, reverse=True)]


def _most_used(entries: Entries, field: str) -> str | None:
    """The device or dataset with most models, ties by name, none stated last."""
    codes: dict[str | None, list[int]] = {}
    for code, context in entries.of.items():
        codes.setdefault(getattr(context, field), []).append(code)
    if len(codes) < 2:
        return next(iter(codes), None)
    models = {word: entries.models_in(of_word) for word, of_word in codes.items()}
    return min(codes, key=lambda word: (-models[word], word is None, word or ""))


def _is(field: str, word: str | None) -> Callable[[Context], bool]:
    return lambda context: getattr(context, field) == word


def _over(before: NDArray[Any], more: NDArray[Any], changed: NDArray[np.bool_]) -> NDArray[Any]:
    """`before` and, where `changed` or beyond its end, `more`; read-only."""
    if before.strides == (0,) and more.strides == (0,):
        return more
    column = more.copy()
    kept = ~changed[: len(before)]
    column[: len(before)][kept] = before[kept]
    column.flags.writeable = False
    return column


def _nothing(size: int) -> NDArray[np.float64]:
    """NaN for every model in the room of one."""
    return np.broadcast_to(np.array(np.nan), (size,)).view()


def _stated(number: int) -> int | None:
    return None if number == UNKNOWN else number


def _context_order(context: MetricContext) -> tuple[Any, ...]:
    return (
        -context.count, context.device or "", context.dataset or "",
        context.batch or 0, context.percentile or 0,
    )  # fmt: skip


def stated_batches(contexts: Iterable[Context]) -> set[int]:
    """The batch sizes that any of the contexts names."""
    return {context.batch for context in contexts} - {UNKNOWN}
