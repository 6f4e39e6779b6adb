"""Statements that change nothing: answered by the engine, or by models that run for the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sommelier.connection import comparing, deploying
from sommelier.engine.parameters import Parameters as Bound
from sommelier.engine.parameters import as_parameters
from sommelier.engine.result import Report, Result, Table
from sommelier.grammar import nodes

if TYPE_CHECKING:
    from sommelier.connection.connection import Connection, Parameters, Progress


def read(
    connection: Connection,
    statement: nodes.Statement,
    params: Parameters,
    progress: Progress | None,
    text: str | None,
) -> Result | Table | Report:
    """The outcome of a statement that only reads. text : of it, for places in errors."""
    of_a_source = isinstance(statement, nodes.Show) and statement.source is not None
    if of_a_source or isinstance(statement, nodes.ExplainImport):
        with connection.session.located(text):
            return _of_a_source(connection, statement, params)
    runs: Any = None
    if comparing.runs_models(statement):
        runs = comparing.answer
    elif deploying.answers(statement):
        runs = deploying.answer
    elif isinstance(statement, nodes.ExportModel):
        runs = _export
    if runs is not None:
        with connection.session.located(text):
            known = as_parameters(params)
            answer: Result | Table | Report = runs(statement, connection, known, progress)
            known.check_all_used()
            return answer
    if isinstance(statement, nodes.Show | nodes.CatalogSql):
        connection.background.note()  # SHOW JOBS and the view jobs tell of this moment
    return connection.session.answer(statement, params, text=text)


def _export(statement: nodes.ExportModel, connection: Connection, known: Bound, _: object) -> Table:
    from sommelier.connection.exporting import export

    return export(statement, connection, known)


def _of_a_source(
    connection: Connection, statement: nodes.Statement, params: Parameters
) -> Table | Report:
    """SHOW MODELS FROM a source, and EXPLAIN IMPORT: the database knows only where that is."""
    from sommelier.connection import searching

    known = as_parameters(params)
    if isinstance(statement, nodes.ExplainImport):
        answer: Table | Report = searching.explained(connection, statement, known)
    else:
        assert isinstance(statement, nodes.Show)
        answer = searching.shown(connection, statement, known)
    known.check_all_used()
    return answer
