"""A DuckDB file, open: the database of one writer at a time.

SQLAlchemy works on the one DuckDB connection that reads, too; literals.py says why questions do
without bound parameters.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import duckdb

from sommelier.errors import StorageError
from sommelier.storage.catalog_sql import SqlResult, run_sql
from sommelier.storage.database import CHUNK, Database, Parameters, Row
from sommelier.storage.dialects import DUCKDB
from sommelier.storage.faults import translated, was_interrupted
from sommelier.storage.literals import bind

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sqlalchemy import Connection, Table

CONFIG: Mapping[str, str] = {
    "enable_external_access": "false",  # catalog SQL must not read or write other files
    "lock_configuration": "true",  # ... nor switch that on again
    "errors_as_json": "true",  # positions and candidates as fields; see faults.read_fault
    # a checkpoint writes the whole index of ids, so many of them make bulk loads quadratic; a
    # killed process costs the next one a log of at most this to read
    "checkpoint_threshold": "256MB",
}
MANY = 1000  # values in a list above which DuckDB's own binding pays, pandas and all


class DuckdbDatabase(Database):
    """An open DuckDB connection. Its caller has made sure that the file is ours to open."""

    dialect = DUCKDB

    def __init__(
        self, path: Path | str, *, read_only: bool = False, named: Path | None = None
    ) -> None:
        """named : the database that `path` is a snapshot of."""
        super().__init__(read_only=read_only)
        self._path = Path(path)
        self._named = named or self._path
        self._cursors: set[duckdb.DuckDBPyConnection] = set()
        self._raw = duckdb.connect(str(path), read_only=read_only, config=dict(CONFIG))

    # ---- reading

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self._turn(), self._translated("read the catalog"):
            return self._ask(sql, values).fetchall()

    def row(self, sql: str, values: Sequence[object] = ()) -> tuple[Any, ...] | None:
        with self._turn(), self._translated("read the catalog"):
            return self._ask(sql, values).fetchone()

    def columns(self, sql: str, values: Sequence[object] = ()) -> dict[str, NDArray[Any]]:
        with self._turn(), self._translated("read the catalog"):
            found = self._ask(sql, values).fetchnumpy()
        return cast("dict[str, NDArray[Any]]", found)  # a Categorical only for ENUM columns

    def tables(self) -> set[tuple[str, str]]:
        return set(self.rows("SELECT schema_name, table_name FROM duckdb_tables()"))

    def sql(self, text: str, parameters: Parameters | None, limit: int | None) -> SqlResult:
        return run_sql(self, text, parameters, limit)

    # ---- its lifetime

    def checkpoint(self) -> None:
        """Move what is in the write-ahead log into the file."""
        with self._translated("write the catalog to disk"):
            self._raw.execute("CHECKPOINT")

    @contextlib.contextmanager
    def cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A second connection to the same database that `interrupt` reaches too."""
        with self._lock:
            cursor = self._raw.cursor()
            if threading.get_ident() not in self._spared:
                self._cursors.add(cursor)
        try:
            yield cursor
        finally:
            with self._lock:
                self._cursors.discard(cursor)
            cursor.close()

    def close(self) -> None:
        with self._lock:
            self._sqlalchemy = None
            self._raw.close()

    def damage(self, found: str, doing: str) -> StorageError:
        """The error for what DuckDB `found` in the open file while it was to do something."""
        from sommelier.storage.integrity import error_while_open

        return error_while_open(self._path, self._named, found, doing)

    # ---- inside

    def _begin(self) -> None:
        self._raw.execute("BEGIN TRANSACTION")

    def _keep(self) -> None:
        if self._writes:
            self._raw.execute(
                "UPDATE store.meta SET value = ? WHERE key = 'generation'",
                [str(self._generation + 1)],
            )
        self._raw.execute("COMMIT")

    def _undo(self) -> None:
        # after a failed COMMIT or a fatal error there is nothing left to roll back
        with contextlib.suppress(duckdb.Error):
            self._raw.execute("ROLLBACK")

    def _interrupt(self) -> None:
        self._raw.interrupt()

    def _interrupt_cursors(self) -> None:
        for cursor in tuple(self._cursors):
            cursor.interrupt()

    @contextlib.contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        with translated(doing, self.damage):
            try:
                yield
            except RuntimeError as error:
                if was_interrupted(error):  # Ctrl-C that DuckDB saw: the statement goes on
                    self._raw.interrupt()
                raise

    def _ask(self, sql: str, values: Sequence[object]) -> duckdb.DuckDBPyConnection:
        if any(isinstance(value, list) and len(value) > MANY for value in values):
            return self._raw.execute(sql, values)
        return self._raw.execute(bind(sql, values))

    def _load(self, arrays: Mapping[str, NDArray[Any]], statements: Sequence[str]) -> None:
        self._raw.register("incoming", dict(arrays))
        try:
            for sql in statements:
                self._raw.execute(sql)
        finally:
            self._raw.unregister("incoming")

    def _write_many(self, table: Table, rows: Sequence[Row], *, replace: bool) -> None:
        """A typed list per column instead of a statement per row: about 1 us a value, not 40.

        Numpy columns of objects would do it in half the time, but DuckDB guesses their types from
        a sample of the rows.
        """
        self._must_be_writing()
        dialect = self._alchemy().dialect
        names = [column.name for column in table.columns]
        listed = ", ".join(f'"{name}"' for name in names)
        values = ", ".join(f"unnest(?::{c.type.compile(dialect)}[])" for c in table.columns)
        verb = "INSERT OR REPLACE" if replace else "INSERT"
        with self._translated("change the catalog"):
            for start in range(0, len(rows), CHUNK):
                chunk = rows[start : start + CHUNK]
                self._raw.execute(
                    f"{verb} INTO {table.fullname} ({listed}) SELECT {values}",
                    [[row[name] for row in chunk] for name in names],
                )
        self._changed(table.name)

    def _make_alchemy(self) -> Connection:
        from sommelier.storage.guest import alchemy_over

        return alchemy_over(self._raw)
