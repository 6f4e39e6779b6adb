"""Read-only SQL over the catalog's views, for people who would rather write SQL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sommelier.errors import CatalogSqlError
from sommelier.storage.faults import is_damage, read_fault, span_at, sql_error, was_interrupted

if TYPE_CHECKING:
    import duckdb

    from sommelier.storage.database import Parameters
    from sommelier.storage.duckdb_database import DuckdbDatabase

ONLY_READS = (
    "one SELECT, WITH, DESCRIBE or SUMMARIZE; to change the database use IMPORT, ALTER, DROP ..."
)


@dataclass(frozen=True, slots=True)
class SqlResult:
    """The rows of a statement. types : DuckDB's names; more : `limit` cut rows off."""

    columns: list[str]
    types: list[str]
    rows: list[tuple[Any, ...]]
    more: bool = False


def run_sql(
    database: DuckdbDatabase,
    text: str,
    parameters: Parameters | None = None,
    limit: int | None = None,
) -> SqlResult:
    """The rows of one SELECT, WITH, FROM, VALUES, DESCRIBE, SUMMARIZE or SHOW TABLES.

    Three fences keep it reading: DuckDB's own classification of the statement, a transaction that
    is READ ONLY, and a connection without access to files, the network or its own configuration.
    It sees what is committed. Raises CatalogSqlError with the words at fault, CancelledError.
    """
    import duckdb

    with database.cursor() as cursor:
        _check(cursor, text)
        try:
            cursor.execute("BEGIN TRANSACTION READ ONLY")
            # a Sequence or a Mapping; DuckDB's stubs know only object
            answer = cursor.execute(text, parameters if parameters is not None else [])
            described = answer.description or []
            rows = answer.fetchall() if limit is None else answer.fetchmany(limit + 1)
        except (duckdb.Error, RuntimeError) as error:
            if isinstance(error, RuntimeError):  # Ctrl-C that DuckDB saw: the statement goes on
                cursor.interrupt()
                if not was_interrupted(error):
                    raise
            if is_damage(error):
                raise database.damage(read_fault(error).message, "answer this") from error
            raise sql_error(error, text) from error
    more = limit is not None and len(rows) > limit
    return SqlResult(
        columns=[str(column[0]) for column in described],
        types=[str(column[1]) for column in described],
        rows=rows[:limit] if more else rows,
        more=more,
    )


def _check(cursor: duckdb.DuckDBPyConnection, text: str) -> None:
    """Refuse anything but one statement that reads."""
    import duckdb

    try:
        statements = cursor.extract_statements(text)
    except duckdb.Error as error:
        raise sql_error(error, text) from error
    if len(statements) != 1:
        problem = "there is no statement" if not statements else "one statement at a time"
        raise CatalogSqlError(problem, text=text)
    if statements[0].type != duckdb.StatementType.SELECT:
        raise only_reads(text)


def only_reads(text: str, *, hint: str = ONLY_READS) -> CatalogSqlError:
    """The error for a statement that would change something."""
    start = len(text) - len(text.lstrip())
    return CatalogSqlError(
        "catalog SQL only reads",
        text=text,
        span=span_at(text, len(text[:start].encode())),
        hint=hint,
    )
