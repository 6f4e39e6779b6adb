"""What a statement answers: Result (models, columnar and lazy), Table (rows) and Report (text).

Values stay in base units; a column's `dimension` tells a printer which unit to choose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

from sommelier.engine import rendering
from sommelier.engine.frames import (
    Array,
    arrow_table,
    as_python,
    column_array,
    pandas_frame,
    polars_frame,
)
from sommelier.errors import NoModelFoundError, SommelierError
from sommelier.notebook_tables import Bar, bars_of, cell, count, html_facts, html_lines, html_table
from sommelier.units import Dimension

if TYPE_CHECKING:
    from pathlib import Path

    from sommelier.engine.plots.of_result import ResultPlots
    from sommelier.engine.state import StageReport
    from sommelier.records import Measurement, ModelRecord

_ROWS_SHOWN = 40


@dataclass(frozen=True, slots=True)
class ColumnInfo:
    """A column of an answer. dimension None: text, truth or a bare number."""

    name: str
    dimension: Dimension | None = None


Column = ColumnInfo


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of plain values, for SHOW, DESCRIBE, COMPARE and catalog SQL.

    failure : what to raise where a statement achieved nothing, such as an ANALYZE of which every
    task failed; the notes say why. bars : of cells, by (row, column), beside those of shares.
    """

    title: str
    columns: tuple[ColumnInfo, ...]
    rows: list[tuple[object, ...]]
    notes: tuple[str, ...] = ()
    failure: SommelierError | None = None
    bars: Mapping[tuple[int, int], Bar] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def dicts(self) -> list[dict[str, object]]:
        """The rows by column; values in base units, None where unknown."""
        names = [column.name for column in self.columns]
        return [dict(zip(names, row, strict=True)) for row in self.rows]

    def rows_between(self, start: int, stop: int) -> list[tuple[object, ...]]:
        """Rows start to stop - 1."""
        return self.rows[start:stop]

    def arrow(self) -> Any:
        """A pyarrow Table; unknown values are null."""
        values = {c.name: [row[i] for row in self.rows] for i, c in enumerate(self.columns)}
        return arrow_table(values, {c.name: c.dimension for c in self.columns})

    def df(self) -> Any:
        """A pandas DataFrame; unknown numbers are NaN, unknown text None."""
        values = list(zip(*self.rows, strict=True)) or [()] * len(self.columns)
        arrays = [column_array(v, c.dimension) for c, v in zip(self.columns, values, strict=True)]
        return pandas_frame([c.name for c in self.columns], arrays)

    def __repr__(self) -> str:
        shown = self.rows[:_ROWS_SHOWN]
        return rendering.text_table(self.columns, shown, total=len(self.rows), notes=self.notes)

    def _repr_html_(self) -> str:
        shown = self.rows[:_ROWS_SHOWN]
        bars, _ = bars_of(self.columns, shown)
        notes = (count(len(shown), len(self.rows)), *self.notes)
        return html_table(self.columns, shown, notes=notes, bars={**bars, **self.bars})


@dataclass(frozen=True, slots=True)
class Report:
    """Text for people and the same facts as data, for EXPLAIN and EXPLAIN WHY.

    table : the same as rows and notes, which a notebook shows in place of the lines.
    """

    lines: tuple[str, ...]
    data: dict[str, Any] = field(default_factory=dict)
    table: Table | None = None

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        if (t := self.table) is None:
            return html_lines(self.lines)
        return html_table(t.columns, t.rows, notes=t.notes, bars=t.bars)


def _unavailable(*_: object, **__: object) -> Any:
    raise SommelierError(
        "this answer is not attached to a database", hint="ask through sommelier.connect(...)"
    )


@dataclass(frozen=True, slots=True)
class Actions:
    """What a row can do beyond its values; the connection supplies what needs a runtime.

    path(id) -> the ONNX file, or None for a row without weights. load(id, provider) -> a model
    ready to predict. why(id) -> Report. misses() -> nearest models of an empty answer.
    column(expression) -> (what it is, its value by id for every model, notes). references() -> the
    models that CORR compared with, in the columns of the answer. offered() -> the answer without
    PICK and LIMIT; None where there was neither.
    """

    record: Callable[[str], ModelRecord] = _unavailable
    measurements: Callable[[str], list[Measurement]] = _unavailable
    path: Callable[[str], Path | None] = _unavailable
    load: Callable[[str, str | None], Any] = _unavailable
    why: Callable[[str], Report] = _unavailable
    column: Callable[[str], tuple[ColumnInfo, Mapping[str, Any], tuple[str, ...]]] = _unavailable
    misses: Callable[[], tuple[tuple[str, ...], str | None]] = lambda: ((), None)
    references: Callable[[], Compared | None] = lambda: None
    offered: Callable[[], Result | None] = lambda: None


@dataclass(frozen=True, slots=True)
class Compared:
    """The models that an answer was compared with: their names, and their rows."""

    names: tuple[str, ...]
    result: Result


class Match(Mapping[str, Any]):
    """One model of an answer: `match.memory`, `match['memory']`, `.load()`, `.why()`."""

    __slots__ = ("_index", "_result")

    def __init__(self, result: Result, index: int) -> None:
        self._result = result
        self._index = index

    @property
    def id(self) -> str:
        """The model's content fingerprint."""
        return str(self._result.ids[self._index])

    @property
    def model(self) -> ModelRecord:
        """The catalog's record of the model."""
        return self._result.actions.record(self.id)

    @property
    def profile(self) -> list[Measurement]:
        """Every number the catalog holds about the model, with context and provenance."""
        return self._result.actions.measurements(self.id)

    @property
    def onnx_path(self) -> Path | None:
        """The model's ONNX file; None for a row that is metadata only."""
        return self._result.actions.path(self.id)

    def load(self, provider: str | None = None) -> Any:
        """The model, ready to predict on `provider` (ONNX Runtime's name; None: the CPU)."""
        return self._result.actions.load(self.id, provider)

    def why(self) -> Report:
        """Each predicate of the query with this model's value and verdict."""
        return self._result.actions.why(self.id)

    def __getitem__(self, name: str) -> Any:
        return self._result.value(self._index, name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(error.args[0]) from None

    def __iter__(self) -> Iterator[str]:
        return (column.name for column in self._result.columns)

    def __len__(self) -> int:
        return len(self._result.columns)

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        shown = (
            f"{column.name}={cell(self[column.name], column.dimension)}"
            for column in self._result.columns
        )
        return f"Match({', '.join(shown)})"

    def _repr_html_(self) -> str:
        columns, row = self._result.columns, self._result.rows_between(self._index, self._index + 1)
        bars, under = self._result.bars(row)
        small = (f" ({under[i]})" if i in under else "" for i in range(len(columns)))
        shown = map(cell, row[0], (column.dimension for column in columns))
        facts = [(c.name, text + more) for c, text, more in zip(columns, shown, small, strict=True)]
        beside = {i: bar for (_, i), bar in bars.items()}
        return html_facts(f"row {self._index + 1} of {len(self._result)}", facts, beside)


class Result(Sequence[Match]):
    """The models that answer a question. Columns are gathered when they are first read.

    ids : model ids in answer order. matched : how many satisfied the question before LIMIT.
    stages : what each filter did. notes : what was skipped, chosen or corrected, as sentences.
    timing : milliseconds by phase.
    """

    def __init__(
        self,
        columns: Sequence[ColumnInfo],
        sources: Sequence[Callable[[], Array]],
        ids: Array,
        *,
        matched: int | None = None,
        stages: Sequence[StageReport] = (),
        notes: Sequence[str] = (),
        timing: Mapping[str, float] | None = None,
        actions: Actions | None = None,
        text: str | None = None,
    ) -> None:
        self.columns = tuple(columns)
        self.ids = ids
        self.matched = len(ids) if matched is None else matched
        self.stages = tuple(stages)
        self.notes = tuple(notes)
        self.timing: dict[str, float] = dict(timing or {})
        self.actions = actions or Actions()
        self.text = text
        self._sources = tuple(sources)
        self._gathered: dict[int, Array] = {}
        self._index = {column.name: i for i, column in reversed(list(enumerate(self.columns)))}
        self._cursor = 0

    # ---- rows

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Match: ...
    @overload
    def __getitem__(self, index: slice) -> list[Match]: ...
    def __getitem__(self, index: int | slice) -> Match | list[Match]:
        if isinstance(index, slice):
            return [Match(self, i) for i in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return Match(self, position)

    def __iter__(self) -> Iterator[Match]:
        return (Match(self, i) for i in range(len(self)))

    def one(self) -> Match:
        """The first match. Raises NoModelFoundError, with the nearest misses, if there is none."""
        if len(self):
            return self[0]
        names, relaxation = self.actions.misses()
        raise NoModelFoundError(
            "no model satisfies the question",
            suggestions=names,
            hint=relaxation or "EXPLAIN ANALYZE shows which condition removed the last model",
        )

    def fetchone(self) -> tuple[Any, ...] | None:
        """The next row, None after the last."""
        if self._cursor >= len(self):
            return None
        self._cursor += 1
        return self._row(self._cursor - 1)

    def fetchmany(self, size: int = 1) -> list[tuple[Any, ...]]:
        """The next `size` rows."""
        start, self._cursor = self._cursor, min(len(self), self._cursor + size)
        return self.rows_between(start, self._cursor)

    def fetchall(self) -> list[tuple[Any, ...]]:
        """All rows that were not fetched yet."""
        return self.fetchmany(len(self))

    # ---- columns

    def column(self, name: str) -> Array:
        """A column as an array: float64 with NaN = unknown, or objects with None = unknown."""
        index = self._index.get(name)
        if index is None:
            known = ", ".join(column.name for column in self.columns)
            raise KeyError(f"no column '{name}'; there are {known}")
        return self._gather(index)

    def value(self, row: int, name: str) -> Any:
        """One value as a Python object; None if unknown."""
        values = self.column(name)
        return as_python(values[row], self.columns[self._index[name]].dimension)

    def dicts(self) -> list[dict[str, Any]]:
        """The rows by column; values in base units, None where unknown."""
        names = [column.name for column in self.columns]
        return [dict(zip(names, row, strict=True)) for row in self.rows_between(0, len(self))]

    def df(self) -> Any:
        """A pandas DataFrame; unknown numbers are NaN, unknown text None."""
        arrays = [self._gather(i) for i in range(len(self.columns))]
        return pandas_frame([c.name for c in self.columns], arrays)

    def arrow(self) -> Any:
        """A pyarrow Table; unknown values are null. Numbers are shared with it, not copied."""
        return arrow_table(*self._named())

    def pl(self) -> Any:
        """A polars DataFrame; unknown values are null. Numbers are shared with it, not copied."""
        return polars_frame(*self._named())

    def table(self, limit: int | None = None) -> Table:
        """The same rows as a plain Table, at most `limit` of them."""
        stop = len(self) if limit is None else min(limit, len(self))
        return Table("models", self.columns, self.rows_between(0, stop), self.notes)

    @property
    def plot(self) -> ResultPlots:
        """Pictures of the answer: `result.plot.pareto()`."""
        from sommelier.engine.plots.of_result import ResultPlots

        return ResultPlots(self)

    def __repr__(self) -> str:
        rows = self.rows_between(0, min(len(self), _ROWS_SHOWN))
        return rendering.text_table(self.columns, rows, total=len(self), notes=self.notes)

    def _repr_html_(self) -> str:
        rows = self.rows_between(0, min(len(self), _ROWS_SHOWN))
        bars, under = self.bars(rows)
        notes = (count(len(rows), len(self)), *self.notes)
        return html_table(self.columns, rows, notes=notes, bars=bars, under=under)

    def bars(
        self, rows: Sequence[Sequence[object]]
    ) -> tuple[dict[tuple[int, int], Bar], dict[int, str]]:
        """(the bars of rows of the answer, what stands below the names of columns): shares, and
        numbers beside those of the reference, where it is one model."""
        compared = self.actions.references()
        if compared is None or len(compared.result) != 1:
            return bars_of(self.columns, rows)
        (row,) = compared.result.rows_between(0, 1)
        known = {i: value for i, value in enumerate(row) if isinstance(value, int | float)}
        return bars_of(self.columns, rows, known, compared.names[0])

    def _gather(self, index: int) -> Array:
        values = self._gathered.get(index)
        if values is None:
            values = self._gathered[index] = self._sources[index]()
        return values

    def _named(self) -> tuple[dict[str, Array], dict[str, Dimension | None]]:
        """The columns, and what they measure, by name."""
        arrays = {c.name: self._gather(i) for i, c in enumerate(self.columns)}
        return arrays, {c.name: c.dimension for c in self.columns}

    def _row(self, row: int) -> tuple[Any, ...]:
        return tuple(
            as_python(self._gather(i)[row], c.dimension) for i, c in enumerate(self.columns)
        )

    def rows_between(self, start: int, stop: int) -> list[tuple[Any, ...]]:
        """Rows start to stop - 1 as Python objects, whatever was fetched before."""
        columns = [
            [as_python(v, c.dimension) for v in self._gather(i)[start:stop]]
            for i, c in enumerate(self.columns)
        ]
        return list(zip(*columns, strict=True)) if columns else []
