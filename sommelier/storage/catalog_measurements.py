"""Numbers about models: measurements in their contexts, resource profiles, operator costs.

A measurement row holds numbers only; what tells two numbers of one model apart is its context, and
there are few of those. So all measurements of 100 000 models are read in a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sommelier.errors import UnknownNameError
from sommelier.records import Measurement, Provenance, ResourceProfile
from sommelier.storage.catalog_models import ModelTable
from sommelier.storage.change_log import ChangeLog

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sommelier.storage.database import Database

CONTEXT_COLUMNS = (
    "metric", "provenance", "method", "device", "batch", "percentile", "dataset", "precision",
    "threads",
)  # fmt: skip
_CONTEXT_LIST = ", ".join(CONTEXT_COLUMNS)
_Context = tuple[object, ...]

_FORGET = """
    DELETE FROM store.measurements m USING incoming i
    WHERE m.model = i.model AND m.context = i.context"""
INSERT = """
    INSERT INTO store.measurements
    SELECT model, context, value, nullif(low, 'nan'), nullif(high, 'nan'), nullif(count, 'nan'),
        nullif(source, 'nan'), recorded_at
    FROM incoming"""


class OperatorCost(NamedTuple):
    """The mean time of an operator on a device. key : chosen by analysis/latency.py."""

    device: str
    key: str
    milliseconds: float
    runs: int


class MeasurementTable(ModelTable):
    """The part of the catalog that knows numbers."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        database.on_abandon(self._forget_contexts)
        self._contexts: dict[_Context, int] | None = None
        self._sources: dict[str, int] | None = None
        self.measurement_changes = ChangeLog(database, "measurements")

    # ---- measurements

    def add_measurements(self, measurements: Iterable[Measurement]) -> int:
        """Add or replace numbers; how many were given.

        One number is kept per model, metric, context, provenance and method; the last one wins.
        One without a date gets the present. About 4 s per million.
        Raises UnknownNameError for a model that is not there; nothing is added then.
        """
        given = list(measurements)
        if not given:
            return 0
        from sommelier.storage.bulk import measurement_arrays

        with self._database.transaction("add measurements"):
            last = {(m.model_id, _context(m)): m for m in given}
            kept = list(last.values())
            numbers = self._numbers_of(kept)
            arrays = measurement_arrays(
                kept,
                numbers=numbers,
                contexts=self._context_ids([context for _, context in last]),
                sources=self._source_ids([m.source for m in kept]),
            )
            with self.measurement_changes.about(numbers.values()):
                self._database.load(arrays, _FORGET, INSERT)
        return len(given)

    def measurements(self, model_id: str) -> list[Measurement]:
        """All numbers of one model, by metric and context. Raises UnknownNameError."""
        numbers = self._numbers([model_id])
        if not numbers:
            raise UnknownNameError(f"there is no model with the id '{model_id}'")
        rows = self._database.rows(
            f"SELECT {_CONTEXT_LIST}, value, low, high, count, s.source, recorded_at"
            " FROM store.measurements m JOIN store.contexts c ON c.id = m.context"
            " LEFT JOIN store.sources s ON s.id = m.source"
            f" WHERE m.model = ? ORDER BY {_CONTEXT_LIST}, value",
            [numbers[model_id]],
        )
        return [_measurement(model_id, row) for row in rows]

    def measurement_columns(self) -> dict[str, NDArray[Any]]:
        """Every measurement as columns of equal length, in the order of `model_ids`.

        model_id, metric, device, dataset, precision, provenance, method : object arrays of str or
        None. batch, percentile, threads : masked int64. value, low, high : float64, NaN = none.
        row : int32, the model's row in `model_ids`. context : int32; equal numbers mean equal
        metric, device, batch, percentile, dataset, precision, provenance, method and threads.
        """
        from sommelier.storage import bulk

        with self._database.steady():
            found = self._database.columns(
                "SELECT model, context, value, low, high FROM store.measurements ORDER BY model"
            )
            contexts = self._database.rows(f"SELECT id, {_CONTEXT_LIST} FROM store.contexts")
            places = self._known_positions()
        rows = places.of_number[found["model"]]
        ids = found["context"]
        by_id: list[_Context] = [(None,) * len(CONTEXT_COLUMNS)] * (
            max((c[0] for c in contexts), default=0) + 1
        )
        for context_id, *fields in contexts:
            by_id[context_id] = tuple(fields)
        columns: dict[str, NDArray[Any]] = {"model_id": places.ids[rows], "row": rows}
        for place, name in enumerate(CONTEXT_COLUMNS):
            words: list[Any] = [fields[place] for fields in by_id]
            numeric = name in ("batch", "percentile", "threads")
            columns[name] = (bulk.numbers_of if numeric else bulk.words_of)(ids, words)
        return columns | {
            "context": ids,
            "value": bulk.filled(found["value"]),
            "low": bulk.filled(found["low"]),
            "high": bulk.filled(found["high"]),
        }

    def contexts(self) -> dict[int, dict[str, Any]]:
        """What tells numbers apart, by the id that `numbers_in` takes: metric, provenance, method,
        device, batch, percentile, dataset, precision and threads; values are text, int or None."""
        rows = self._database.rows(f"SELECT {_CONTEXT_LIST}, id FROM store.contexts ORDER BY id")
        return {row[-1]: dict(zip(CONTEXT_COLUMNS, row, strict=False)) for row in rows}

    def numbers_in(
        self, contexts: Sequence[int], models: Sequence[int] | None = None
    ) -> dict[str, NDArray[Any]]:
        """The measurements in these contexts, as columns in no order.

        models : only those with these models.number. row : int32, as in `model_ids`. context :
        int32. value, low, high : float64, NaN = none. About 30 ms per million measurements kept.
        """
        from sommelier.storage import bulk

        wanted = f"context IN ({', '.join(str(int(c)) for c in contexts)})" if contexts else "false"
        if models is not None:
            wanted += f" AND model IN ({', '.join(str(int(m)) for m in models) or 'NULL'})"
        with self._database.steady():
            found = self._database.columns(
                f"SELECT model, context, value, low, high FROM store.measurements WHERE {wanted}"
            )
            places = self._known_positions()
        return {
            "row": places.of_number[found["model"]],
            "context": found["context"],
            **{name: bulk.filled(found[name]) for name in ("value", "low", "high")},
        }

    def rows_of_numbers(self, models: Sequence[int]) -> NDArray[np.int32]:
        """The rows, as in `model_ids`, of those of these models.number that exist."""
        import numpy as np

        of_number = self._known_positions().of_number
        known = np.array([m for m in models if m < len(of_number)], dtype=np.int64)
        rows: NDArray[np.int32] = of_number[known]
        return rows[rows >= 0]

    # ---- resource profiles

    def add_profile(self, profile: ResourceProfile) -> None:
        """Remember where a model spends its resources; replaces what was there."""
        self.add_profiles([profile])

    def add_profiles(self, profiles: Iterable[ResourceProfile]) -> None:
        """Remember many resource profiles; about 1 s per 100 000."""
        from sommelier.storage.schema import PROFILES

        rows = [{"model_id": p.model_id, "vector": p.vector} for p in profiles]
        with self._database.transaction("add a resource profile"):
            self._database.upsert(PROFILES, rows)

    def profiles(self) -> dict[str, bytes]:
        """Resource profile vectors by model id, in the order of `model_ids`."""
        return dict(
            self._database.rows(
                "SELECT p.model_id, p.vector FROM store.profiles p"
                " JOIN store.models m ON m.id = p.model_id ORDER BY m.number"
            )
        )

    # ---- the table latency is estimated from

    def add_operator_costs(self, costs: Iterable[tuple[str, str, float, int]]) -> None:
        """Remember operator times, OperatorCosts; one of the same device and key is replaced."""
        from sommelier.storage.schema import OPERATOR_COSTS

        names = ("device", "key", "milliseconds", "count")
        rows = [dict(zip(names, cost, strict=True)) for cost in costs]
        with self._database.transaction("add operator costs"):
            self._database.upsert(OPERATOR_COSTS, rows)

    def operator_costs(self, device: str) -> list[OperatorCost]:
        """Operator times on a device, by key; empty if none were measured."""
        rows = self._database.rows(
            'SELECT device, "key", milliseconds, count FROM store.operator_costs WHERE device = ?'
            " ORDER BY 2",
            [device],
        )
        return [OperatorCost(*row) for row in rows]

    # ---- inside

    def _forget_contexts(self) -> None:
        self._contexts = None
        self._sources = None

    def _numbers_of(self, measurements: Sequence[Measurement]) -> Mapping[str, int]:
        ids = {m.model_id for m in measurements}
        numbers = self._numbers(list(ids))
        missing = ids - numbers.keys()
        if missing:
            raise UnknownNameError(f"there is no model with the id '{min(missing)}'")
        return numbers

    def _context_ids(self, wanted: Sequence[_Context]) -> list[int]:
        """The ids of contexts, those that are new added."""
        if self._contexts is None:
            rows = self._database.rows(f"SELECT {_CONTEXT_LIST}, id FROM store.contexts")
            self._contexts = {tuple(row[:-1]): row[-1] for row in rows}
        known = self._contexts
        fresh = [context for context in dict.fromkeys(wanted) if context not in known]
        if fresh:
            from sommelier.storage.schema import CONTEXTS

            first = max(known.values(), default=0) + 1
            known.update({context: first + place for place, context in enumerate(fresh)})
            self._database.write(
                CONTEXTS.insert(),
                [{"id": known[c], **dict(zip(CONTEXT_COLUMNS, c, strict=True))} for c in fresh],
            )
        return [known[context] for context in wanted]

    def _source_ids(self, wanted: Sequence[str | None]) -> list[int | None]:
        if self._sources is None:
            self._sources = dict(self._database.rows("SELECT source, id FROM store.sources"))
        known = self._sources
        fresh = [s for s in dict.fromkeys(wanted) if s is not None and s not in known]
        if fresh:
            from sommelier.storage.schema import SOURCES

            first = max(known.values(), default=0) + 1
            known.update({source: first + place for place, source in enumerate(fresh)})
            self._database.write(SOURCES.insert(), [{"id": known[s], "source": s} for s in fresh])
        return [None if source is None else known[source] for source in wanted]


def _context(m: Measurement) -> _Context:
    return (
        m.metric, m.provenance.value, m.method, m.device, m.batch, m.percentile, m.dataset,
        m.precision, m.threads,
    )  # fmt: skip


def _measurement(model_id: str, row: tuple[Any, ...]) -> Measurement:
    fields = dict(zip(CONTEXT_COLUMNS, row, strict=False))
    fields["provenance"] = Provenance(fields["provenance"])
    value, low, high, count, source, recorded_at = row[len(CONTEXT_COLUMNS) :]
    return Measurement(
        model_id=model_id, value=value, low=low, high=high, count=count, source=source,
        recorded_at=recorded_at, **fields,
    )  # fmt: skip
