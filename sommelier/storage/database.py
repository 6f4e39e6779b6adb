"""One open DuckDB file: transactions, reading, writing, and the generation that counts commits.

Reading is fixed SQL text, straight on DuckDB; writing is SQLAlchemy Core. The two share one DuckDB
connection and so one transaction. SQLAlchemy and its dialect take 0.16 s to import, 40 % of what a
whole command-line question may cost, so they are loaded by the first write and never by a question;
literals.py says the same of pandas.

Threads: one re-entrant lock guards the connection; it is held for the length of a transaction, so
another thread sees all of it or nothing. Catalog SQL runs on its own cursor, outside the lock.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import duckdb

from sommelier.errors import ReadOnlyError, StorageError
from sommelier.storage.faults import translated
from sommelier.storage.literals import bind
from sommelier.storage.spared import SparedThreads

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sqlalchemy import Connection, Executable, Table

CONFIG: Mapping[str, str] = {
    "enable_external_access": "false",  # catalog SQL must not read or write other files
    "lock_configuration": "true",  # ... nor switch that on again
    "errors_as_json": "true",  # positions and candidates as fields; see faults.read_fault
}
FEW = 50  # rows below which executing a statement for each is quicker than one for all
MANY = 1000  # values in a list above which DuckDB's own binding pays, pandas and all
_CHUNK = 20_000
GROUPS: Mapping[str, frozenset[str]] = {
    "models": frozenset({"models"}),  # which there are; a tag or another name is not counted
    "measurements": frozenset({"measurements", "contexts"}),
    "profiles": frozenset({"profiles"}),
    "sketches": frozenset({"sketches", "probe_sets"}),
    "labels": frozenset({"label_spaces", "label_maps"}),
    "links": frozenset({"links", "plans", "plan_models"}),  # not the models, which make them stale
}
EDITED_MODELS = ""  # stands for the models where what is known of them changes, not which there are
_TABLES_WRITTEN = re.compile(r"(?:INTO|FROM|UPDATE)\s+store\.(\w+)")
Row = Mapping[str, Any]
Parameters = Sequence[object] | Mapping[str, object]


class Database:
    """An open DuckDB connection. Its caller has made sure that the file is ours to open."""

    def __init__(
        self, path: Path | str, *, read_only: bool = False, named: Path | None = None
    ) -> None:
        """named : the database that `path` is a snapshot of."""
        self.read_only = read_only
        self._path = Path(path)
        self._named = named or self._path
        self.generation = 0
        self.commits = self.notes = 0  # made here; how often `note` was called
        self._lock = threading.RLock()
        self._spared = SparedThreads()
        self._depth = 0
        self._writes = 0
        self._touched: set[str] = set()
        self.statements: Counter[str] = Counter()  # by table, undone ones too
        self._first_generation = 0
        self._generations: dict[str, int] = {}
        self._half_done = False
        self._on_change: list[Callable[[], None]] = []
        self._on_abandon: list[Callable[[], None]] = []
        self._after_commit: list[Callable[[], None]] = []
        self._cursors: set[duckdb.DuckDBPyConnection] = set()
        self._sqlalchemy: Connection | None = None
        self._raw = duckdb.connect(str(path), read_only=read_only, config=dict(CONFIG))

    # ---- reading

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query; each `?` in it stands for a value, see literals.py."""
        with self._turn(), self._translated("read the catalog"):
            return self._ask(sql, values).fetchall()

    def row(self, sql: str, values: Sequence[object] = ()) -> tuple[Any, ...] | None:
        """The first row of a query, or None."""
        with self._turn(), self._translated("read the catalog"):
            return self._ask(sql, values).fetchone()

    def columns(self, sql: str, values: Sequence[object] = ()) -> dict[str, NDArray[Any]]:
        """The columns of a query as numpy arrays; one with NULLs is a masked array."""
        with self._turn(), self._translated("read the catalog"):
            found = self._ask(sql, values).fetchnumpy()
        return cast("dict[str, NDArray[Any]]", found)  # a Categorical only for ENUM columns

    # ---- writing

    @contextlib.contextmanager
    def transaction(self, doing: str = "change the catalog") -> Iterator[None]:
        """All changes inside the block are kept, or none; a block inside a block joins it.

        An inner block that fails after it has changed something takes the outer one with it.
        Raises ReadOnlyError on a read-only database.
        """
        if self.read_only:
            raise ReadOnlyError(
                f"cannot {doing}: the database was opened read-only",
                hint="open it without read_only",
            )
        with self._turn():
            if self._depth:
                with self._joined():
                    yield
                return
            with self._translated(doing):
                self._raw.execute("BEGIN TRANSACTION")
            self._depth, self._writes, self._half_done = 1, 0, False
            self._touched = set()
            try:
                with self._translated(doing):
                    yield
                    self._commit()
            except BaseException:
                self._abandon()
                raise
            finally:
                self._depth = 0
            self._finish()

    def write(self, statement: Executable, rows: Sequence[Row] | None = None) -> None:
        """Execute a SQLAlchemy statement inside the transaction, once or for each of `rows`."""
        self._must_be_writing()
        if rows is not None and not rows:
            return
        with self._translated("change the catalog"):
            self._alchemy().execute(statement, rows)
        table = getattr(getattr(statement, "table", None), "name", None)
        if table == "models" and getattr(statement, "is_update", False):
            table = EDITED_MODELS
        self._changed(*([] if table is None else [table]))

    def insert(self, table: Table, rows: Sequence[Row]) -> None:
        """Add rows; each has every column. One transaction, one statement per 20 000 rows."""
        if len(rows) < FEW:
            self.write(table.insert(), rows)
        else:
            self._insert_many(table, rows, "INSERT")

    def upsert(self, table: Table, rows: Sequence[Row]) -> None:
        """Add rows, or replace those that have the same primary key; each has every column."""
        from sqlalchemy.dialects.postgresql import insert

        keys = [column.name for column in table.primary_key]
        if len(rows) >= FEW:
            last = {tuple(row[key] for key in keys): row for row in rows}
            self._insert_many(table, list(last.values()), "INSERT OR REPLACE")
            return
        statement = insert(table)
        values = {c.name: statement.excluded[c.name] for c in table.columns if c.name not in keys}
        self.write(statement.on_conflict_do_update(index_elements=keys, set_=values), rows)

    def load(self, arrays: Mapping[str, NDArray[Any]], *statements: str) -> None:
        """Execute fixed SQL that reads `arrays` as the table `incoming`, for many rows."""
        self._must_be_writing()
        with self._translated("change the catalog"):
            self._raw.register("incoming", dict(arrays))
            try:
                for sql in statements:
                    self._raw.execute(sql)
            finally:
                self._raw.unregister("incoming")
        edited = [EDITED_MODELS for sql in statements if "UPDATE store.models" in sql]
        self._changed(*(t for sql in statements for t in _TABLES_WRITTEN.findall(sql)), *edited)

    def note(self, statement: Executable) -> None:
        """Execute a statement that counts as no change: what nobody keeps in memory, as progress.

        Outside a transaction it is one of its own.
        """
        with self.transaction("note progress"), self._translated("note progress"):
            self._alchemy().execute(statement)
            self.notes += 1

    def alchemy(self) -> Connection:
        """The SQLAlchemy connection over this database, for migrations."""
        self._must_be_writing()
        self._changed()
        return self._alchemy()

    # ---- its lifetime

    def on_change(self, forget: Callable[[], None]) -> None:
        """Have `forget()` called whenever what was read before may be out of date."""
        self._on_change.append(forget)

    def on_abandon(self, forget: Callable[[], None]) -> None:
        """Have `forget()` called when changes of this connection are undone."""
        self._on_abandon.append(forget)

    def after_commit(self, action: Callable[[], None]) -> None:
        """Have `action()` called once the changes of this transaction are kept; never if they are
        undone. For files that only the old rows named; no other thread changes rows meanwhile."""
        self._must_be_writing()
        self._after_commit.append(action)

    def read_generation(self) -> None:
        """Take the number of commits from the file."""
        found = self.row("SELECT value FROM store.meta WHERE key = 'generation'")
        self.generation = self._first_generation = int(found[0]) if found else 0
        self._generations = {}

    def generation_of(self, group: str) -> int:
        """The generation in which a group of tables (GROUPS) last changed.

        At most the generation of the whole; that at opening for what has not changed since.
        """
        if group not in GROUPS:
            raise ValueError(f"there is no group of tables called '{group}'")
        return self._generations.get(group, self._first_generation)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open; in a `steady` block, one of the calling thread."""
        return self._depth > 0

    @contextlib.contextmanager
    def steady(self) -> Iterator[None]:
        """No other thread changes anything inside the block."""
        with self._turn():
            yield

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

    def interrupt(self) -> None:
        """Stop what other threads are executing; they raise CancelledError.

        It waits for nobody's turn, and passes over threads that are `spared`.
        """
        self._spared.interrupt(self._raw.interrupt)
        for cursor in tuple(self._cursors):
            cursor.interrupt()

    def spared(self) -> contextlib.AbstractContextManager[None]:
        """`interrupt` does not reach the calling thread inside the block."""
        return self._spared.this_thread()

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        with self._lock:
            self._sqlalchemy = None
            self._raw.close()

    def damage(self, found: str, doing: str) -> StorageError:
        """The error for what DuckDB `found` in the open file while it was to do something."""
        from sommelier.storage.integrity import error_while_open

        return error_while_open(self._path, self._named, found, doing)

    # ---- inside

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        with self._lock, self._spared:
            yield

    def _translated(self, doing: str) -> contextlib.AbstractContextManager[None]:
        return translated(doing, self.damage)

    def _ask(self, sql: str, values: Sequence[object]) -> duckdb.DuckDBPyConnection:
        if any(isinstance(value, list) and len(value) > MANY for value in values):
            return self._raw.execute(sql, values)
        return self._raw.execute(bind(sql, values))

    @contextlib.contextmanager
    def _joined(self) -> Iterator[None]:
        before = self._writes
        self._depth += 1
        try:
            yield
        except BaseException:
            self._half_done = self._half_done or self._writes != before
            raise
        finally:
            self._depth -= 1

    def _commit(self) -> None:
        if self._half_done:
            raise StorageError(
                "a change failed half-way inside this transaction; nothing of it was kept"
            )
        if self._writes:
            self._raw.execute(
                "UPDATE store.meta SET value = ? WHERE key = 'generation'",
                [str(self.generation + 1)],
            )
        self._raw.execute("COMMIT")
        if self._writes:
            for group, tables in GROUPS.items():
                if tables & self._touched:
                    self._generations[group] = self.generation + 1
            self.generation += 1
            self.commits += 1

    def _abandon(self) -> None:
        self._after_commit = []
        # after a failed COMMIT or a fatal error there is nothing left to roll back
        with contextlib.suppress(duckdb.Error):
            self._raw.execute("ROLLBACK")
        for forget in (*self._on_change, *self._on_abandon):
            forget()

    def _finish(self) -> None:
        actions, self._after_commit = self._after_commit, []
        for action in actions:
            action()

    def _changed(self, *tables: str) -> None:
        """Count a change of these tables; none named: of any."""
        self._writes += 1
        self.statements.update(touched := set(tables) or {EDITED_MODELS}.union(*GROUPS.values()))
        self._touched.update(touched)
        for forget in self._on_change:
            forget()

    def _insert_many(self, table: Table, rows: Sequence[Row], verb: str) -> None:
        """A typed list per column instead of a statement per row: about 1 us a value, not 40.

        Numpy columns of objects would do it in half the time, but DuckDB guesses their types from
        a sample of the rows.
        """
        self._must_be_writing()
        dialect = self._alchemy().dialect
        names = [column.name for column in table.columns]
        listed = ", ".join(f'"{name}"' for name in names)
        values = ", ".join(f"unnest(?::{c.type.compile(dialect)}[])" for c in table.columns)
        with self._translated("change the catalog"):
            for start in range(0, len(rows), _CHUNK):
                chunk = rows[start : start + _CHUNK]
                self._raw.execute(
                    f"{verb} INTO {table.fullname} ({listed}) SELECT {values}",
                    [[row[name] for row in chunk] for name in names],
                )
        self._changed(table.name)

    def _must_be_writing(self) -> None:
        if not self._depth:
            raise StorageError("a change was sent outside a transaction")

    def _alchemy(self) -> Connection:
        if self._sqlalchemy is None:
            from sommelier.storage.guest import alchemy_over

            self._sqlalchemy = alchemy_over(self._raw)
        return self._sqlalchemy
