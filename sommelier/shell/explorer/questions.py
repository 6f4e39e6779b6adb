"""Which statements the explorer answers, and with how many rows: what is known, read from the
database. Nothing is changed, no model runs, no file or source is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sommelier.engine.result import ColumnInfo, Report, Result, Table
from sommelier.errors import BinderError, QueryError, ReadOnlyError
from sommelier.grammar import nodes
from sommelier.grammar.parser import is_read_only, parse

if TYPE_CHECKING:
    from sommelier.connection import Connection

Outcome = Result | Table | Report
Parameters = Mapping[str, Any] | Sequence[Any] | None
_HINT = "sommelier shell, or a notebook, answers this"
_LINE = 200  # characters of a report's line, beyond which it is cut: no statement makes longer ones


@dataclass(frozen=True, slots=True)
class Answer:
    """The first rows of an answer. total : that there are; None: more than were read. ids : of the
    models that are its rows. took_ms : of the question, without writing it down."""

    outcome: Outcome
    columns: tuple[ColumnInfo, ...]
    rows: list[tuple[Any, ...]]
    total: int | None
    notes: tuple[str, ...]
    ids: tuple[str, ...]
    took_ms: float = 0.0

    @property
    def cut(self) -> bool:
        """Whether there are more rows."""
        return self.total is None or self.total > len(self.rows)


def ask(db: Connection, text: str, params: Parameters = None, *, most: int) -> Answer:
    """The answer of a statement, `most` rows at most. Raises SommelierError."""
    import time

    began = time.perf_counter()
    statement = parse(text)
    check(statement, text)
    if isinstance(statement, nodes.CatalogSql):
        return _sql(db, text, params, most, began)
    return answered(db.run(statement, params, text=text), most, began)


def answered(outcome: Outcome, most: int, began: float) -> Answer:
    """The first rows of an outcome. began : time.perf_counter() when it was asked for."""
    import time

    if isinstance(outcome, Report):
        lines = [(line,) for line in outcome.lines]
        columns: tuple[ColumnInfo, ...] = (ColumnInfo("report"),)
        answer = Answer(outcome, columns, lines[:most], len(lines), (), ())
    else:
        rows = outcome.rows_between(0, most)
        ids: tuple[str, ...] = ()
        if isinstance(outcome, Result):
            ids = tuple(str(id_) for id_ in outcome.ids[:most])
        answer = Answer(outcome, outcome.columns, rows, len(outcome), outcome.notes, ids)
    return replace(answer, took_ms=(time.perf_counter() - began) * 1e3)


def beginning_with(names: Sequence[str], found: Answer) -> Answer:
    """The same answer with these columns first, those of them that it has."""
    having = [column.name for column in found.columns]
    first = [having.index(name) for name in names if name in having]
    order = [*first, *(place for place in range(len(having)) if place not in first)]
    rows = [tuple(row[place] for place in order) for row in found.rows]
    return replace(found, columns=tuple(found.columns[place] for place in order), rows=rows)


def check(statement: nodes.Statement, text: str) -> None:
    """Raises ReadOnlyError for statements that change something, BinderError for those that take
    more than reading the database."""
    from sommelier.connection.comparing import runs_models

    if not is_read_only(statement) or isinstance(statement, nodes.ExportModel):
        raise ReadOnlyError(
            "the explorer changes nothing", hint="sommelier shell runs this statement"
        )
    of_a_source = isinstance(statement, nodes.Show) and statement.source is not None
    if of_a_source or isinstance(statement, nodes.ExplainImport):
        raise BinderError("the explorer asks no source of models", text=text, hint=_HINT)
    if isinstance(statement, nodes.Simulate):
        raise BinderError("the explorer simulates nothing", text=text, hint=_HINT)
    if runs_models(statement):
        raise BinderError("models would run for this answer", text=text, hint=_HINT)


def _sql(db: Connection, text: str, params: Parameters, most: int, began: float) -> Answer:
    """Catalog SQL, of which no more rows are read than are shown."""
    import time

    given = dict(params) if isinstance(params, Mapping) else list(params or ())
    try:
        found = db.catalog.sql(text, given or None, limit=most)
    except QueryError as error:
        error.text = error.text or text
        raise
    columns = tuple(ColumnInfo(name) for name in found.columns)
    table = Table("", columns, found.rows)
    took_ms = (time.perf_counter() - began) * 1e3
    total = None if found.more else len(found.rows)
    return Answer(table, columns, found.rows, total, (), (), took_ms)
