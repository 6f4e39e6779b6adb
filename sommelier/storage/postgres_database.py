"""A catalog on a PostgreSQL server: many readers, and several writers who take turns.

A transaction that writes takes one advisory lock at its beginning, so what it reads and then
changes nobody else changes in between; it is short, and the lock ends with it. The generation of
the whole and of each group of tables (database.GROUPS) lie in store.meta and are counted in the
same transaction. Before each question that is how a client notices what others committed, with one
read; what it remembered of before is forgotten then. In a `steady` block everything is read from
one snapshot, so an answer of several reads is of one moment while others ingest.

A connection that was lost is made anew where nothing was in progress on it.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from sommelier.errors import StorageError
from sommelier.storage.catalog_sql import SqlResult
from sommelier.storage.database import GROUPS, Database, Parameters, Row
from sommelier.storage.dialects import POSTGRES
from sommelier.storage.postgres_arrays import (
    KINDS,
    Kind,
    Packed,
    PackedDumper,
    incoming,
    of_rows,
    packed,
    unpacked,
    whole_columns,
)
from sommelier.storage.postgres_faults import lost, translated_here
from sommelier.storage.postgres_locks import AdvisoryLocks
from sommelier.storage.postgres_server import Server

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sqlalchemy import Connection, Table

WAIT_S = 60  # for another client's change to end
_GENERATIONS = "SELECT key, value FROM store.meta WHERE key LIKE 'generation%'"
_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_CHANGE = f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL lock_timeout = '{WAIT_S}s'"
_T = TypeVar("_T")
Raw = psycopg.Connection[tuple[Any, ...]]


class PostgresDatabase(Database):
    """An open connection to a server, and more of them while catalog SQL runs."""

    dialect = POSTGRES
    has_workers = True

    def __init__(self, server: Server, *, read_only: bool = False) -> None:
        super().__init__(read_only=read_only)
        self.server = server
        self._known = False  # whether there is a store.meta to read
        self._snapshot = False
        self._kinds: dict[str, tuple[list[str], list[Kind | None]]] = {}
        self._cursors: set[Raw] = set()
        self._idle: list[Raw] = []
        self._closed = False
        self._raw = self._connected()
        self._locks = AdvisoryLocks(self._raw)

    # ---- reading

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self._turn(), self._translated("read the catalog"):
            return self._ask(sql, values).fetchall()

    def row(self, sql: str, values: Sequence[object] = ()) -> tuple[Any, ...] | None:
        with self._turn(), self._translated("read the catalog"):
            return self._ask(sql, values).fetchone()

    def columns(self, sql: str, values: Sequence[object] = ()) -> dict[str, NDArray[Any]]:
        with self._turn(), self._translated("read the catalog"):
            names, kinds = self._columns_of(sql, values)
            known = [kind for kind in kinds if kind is not None]
            if len(known) < len(kinds):
                return of_rows(self._ask(sql, values).fetchall(), names)
            row = self._ask(whole_columns(sql, names, known), values).fetchone()
        assert row is not None, "aggregates have a row"
        return unpacked(row, names, known)

    def tables(self) -> set[tuple[str, str]]:
        return set(
            self.rows(
                "SELECT table_schema::text, table_name::text FROM information_schema.tables"
                " WHERE table_schema = 'store'"
            )
        )

    def sql(self, text: str, parameters: Parameters | None, limit: int | None) -> SqlResult:
        from sommelier.storage.postgres_sql import run_sql

        with self._second() as raw:
            return run_sql(raw, text, parameters, limit)

    # ---- what changed, and when

    @property
    def generation(self) -> int:
        """How many transactions changed the catalog until now, or until the moment that a `steady`
        block or a transaction sees."""
        if not self._depth and not self._snapshot and self._known:
            with self._turn(), self._translated("read the catalog"):
                self._notice(self._ask(_GENERATIONS, ()).fetchall())
        return self._generation

    def generation_of(self, group: str) -> int:
        _ = self.generation
        return super().generation_of(group)

    def read_generation(self) -> None:
        self._known = True
        self._generation = -1
        _ = self.generation

    @contextlib.contextmanager
    def steady(self) -> Iterator[None]:
        with self._turn():
            if self._depth or self._snapshot or not self._known:
                yield
                return
            with self._translated("read the catalog"):
                self._fresh(self._take_snapshot)
            try:
                yield
            finally:
                self._end_snapshot()

    # ---- others at work on the same database

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        with self._turn(), self._translated("look who else is connected"):
            alone = self._fresh(self._locks.try_alone)
        try:
            yield alone
        finally:
            with self._turn(), self._translated("look who else is connected"):
                self._fresh(self._locks.be_one_of_many)

    def keep_alive(self, job_id: int) -> None:
        with self._turn(), self._translated("start a job"):
            self._locks.hold_job(job_id)

    def let_go(self, job_id: int) -> None:
        with self._turn(), self._translated("finish a job"):
            self._fresh(lambda: self._locks.release_job(job_id))

    def living_jobs(self) -> frozenset[int]:
        with self._turn(), self._translated("read the catalog"):
            return self._fresh(self._locks.jobs)

    # ---- its lifetime

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._sqlalchemy = None
            for raw in (*self._idle, self._raw):
                raw.close()

    # ---- inside: transactions

    def _begin(self) -> None:
        self._end_snapshot()
        self._fresh(self._begin_now)

    def _begin_now(self) -> None:
        try:
            self._raw.execute(_CHANGE, prepare=False)
            self._locks.wait_to_write()
            if self._known:
                self._notice(self._raw.execute(_GENERATIONS).fetchall())
        except BaseException:
            self._undo()
            raise

    def _keep(self) -> None:
        if self._raw.info.transaction_status is TransactionStatus.INERROR:
            raise StorageError(
                "a change failed half-way inside this transaction; nothing of it was kept"
            )
        if self._writes:
            keys = ["generation", *(f"generation:{group}" for group in self._groups_touched())]
            values = ", ".join(f"('{key}', '{self._generation + 1}')" for key in keys)
            self._raw.execute(
                f"INSERT INTO store.meta (key, value) VALUES {values}"
                " ON CONFLICT (key) DO UPDATE SET value = excluded.value"
            )
        try:
            self._raw.execute("COMMIT")
        except psycopg.OperationalError as error:
            if self._raw.closed:
                raise StorageError(
                    "the connection to the server was lost while a change was being kept; whether"
                    " it was is not known",
                    hint="look before you repeat it",
                ) from error
            raise
        self._locks.kept()

    def _undo(self) -> None:
        with contextlib.suppress(psycopg.Error):
            self._raw.execute("ROLLBACK")
            self._locks.undone()

    def _take_snapshot(self) -> None:
        self._raw.execute(_SNAPSHOT)
        self._snapshot = True
        try:
            self._notice(self._raw.execute(_GENERATIONS).fetchall())
        except BaseException:
            self._end_snapshot()
            raise

    def _end_snapshot(self) -> None:
        """A change inside a `steady` block ends its snapshot too: it has to see the newest."""
        if self._snapshot:
            self._snapshot = False
            with contextlib.suppress(psycopg.Error):  # it only read
                self._raw.execute("ROLLBACK")

    def _notice(self, found: Sequence[tuple[Any, ...]]) -> None:
        """Take the generations that were read, and forget what they make out of date."""
        read = {key: int(value) for key, value in found}
        if read.get("generation") == self._generation:
            return
        self._generation = read.get("generation", 0)
        self._generations = {group: read.get(f"generation:{group}", 0) for group in GROUPS}
        self._forget_all()

    # ---- inside: statements

    def _ask(self, sql: str, values: Sequence[object]) -> psycopg.Cursor[tuple[Any, ...]]:
        def execute() -> psycopg.Cursor[tuple[Any, ...]]:
            return self._raw.execute(_marked(sql), [_sendable(value) for value in values])

        if self._depth or self._snapshot:
            return execute()
        return self._fresh(execute)

    def _columns_of(
        self, sql: str, values: Sequence[object]
    ) -> tuple[list[str], list[Kind | None]]:
        """The names of a query's columns and what is known of their types; None: not enough."""
        if sql not in self._kinds:
            found = self._ask(f"SELECT * FROM ({sql}) q LIMIT 0", values).description or []
            self._kinds[sql] = (
                [column.name for column in found],
                [KINDS.get(column.type_code) for column in found],
            )
        return self._kinds[sql]

    def _load(self, arrays: Mapping[str, NDArray[Any]], statements: Sequence[str]) -> None:
        """The arrays go with each statement, which reads them under WITH: a temporary table for
        them would cost each import of a model more than all its rows."""
        given = [packed(array) for array in arrays.values()]
        clause = incoming(arrays)
        for sql in statements:
            self._raw.execute((clause + sql.replace("%", "%%")).encode(), given)

    def _write_many(self, table: Table, rows: Sequence[Row], *, replace: bool) -> None:
        self._must_be_writing()
        names = [column.name for column in table.columns]
        with self._translated("change the catalog"):
            if not replace:
                self._copy(table.fullname, names, rows)
            else:
                keys = [column.name for column in table.primary_key]
                self._raw.execute(
                    f"CREATE TEMPORARY TABLE arriving (LIKE {table.fullname}) ON COMMIT DROP"
                )
                self._copy("arriving", names, rows)
                self._raw.execute(_replacing(table.fullname, names, keys))
                self._raw.execute("DROP TABLE arriving")
        self._changed(table.name)

    def _copy(self, table: str, names: Sequence[str], rows: Sequence[Row]) -> None:
        listed = ", ".join(f'"{name}"' for name in names)
        with self._raw.cursor().copy(f"COPY {table} ({listed}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row([row[name] for name in names])

    def _make_alchemy(self) -> Connection:
        from sommelier.storage.postgres_alchemy import alchemy_over

        return alchemy_over(self._raw)

    def _translated(self, doing: str) -> contextlib.AbstractContextManager[None]:
        return translated_here(doing, self.server, lambda: self._raw.closed)

    # ---- inside: connections

    def _connected(self) -> Raw:
        raw = self.server.connect(read_only=self.read_only)
        raw.adapters.register_dumper(Packed, PackedDumper)
        return raw

    def _fresh(self, run: Callable[[], _T]) -> _T:
        """What `run` answers, on a new connection where the one there is turns out to be lost."""
        if self._closed:
            raise StorageError(f"the catalog at {self.server.name} is closed", hint="open it again")
        if not self._raw.closed:
            try:
                return run()
            except psycopg.OperationalError as error:
                if not lost(error, self._raw):
                    raise
        self._raw.close()
        self._raw = self._connected()
        self._sqlalchemy = None
        self._locks.move_to(self._raw)
        return run()

    @contextlib.contextmanager
    def _second(self) -> Iterator[Raw]:
        """A connection for a user's statement, that `interrupt` reaches too."""
        with self._lock:
            if self._closed:
                raise StorageError(f"the catalog at {self.server.name} is closed")
            raw = self._idle.pop() if self._idle else self._connected()
            if threading.get_ident() not in self._spared:
                self._cursors.add(raw)
        try:
            yield raw
        finally:
            with self._lock:
                self._cursors.discard(raw)
                quiet = raw.info.transaction_status is TransactionStatus.IDLE
                if quiet and not self._closed and not self._idle:
                    self._idle.append(raw)
                else:
                    raw.close()

    def _interrupt(self) -> None:
        _cancel(self._raw)

    def _interrupt_cursors(self) -> None:
        for raw in tuple(self._cursors):
            _cancel(raw)


def _cancel(raw: Raw) -> None:
    """Stop what a connection executes; nothing where it executes nothing."""
    if raw.info.transaction_status is TransactionStatus.ACTIVE:
        with contextlib.suppress(psycopg.Error):
            raw.cancel()


@functools.lru_cache(maxsize=512)
def _marked(sql: str) -> bytes:
    """A text with psycopg's marks for values."""
    return sql.replace("%", "%%").replace("?", "%s").encode()


def _sendable(value: object) -> object:
    """A value as PostgreSQL can take it: its text has no zero character and no half of a pair."""
    if isinstance(value, list):
        return [_sendable(item) for item in value]
    if isinstance(value, str) and not (value.isascii() and "\0" not in value):
        return value.replace("\0", "\ufffd").encode(errors="replace").decode()
    return value


def _replacing(table: str, names: Sequence[str], keys: Sequence[str]) -> str:
    listed = ", ".join(f'"{name}"' for name in names)
    rest = [f'"{name}" = excluded."{name}"' for name in names if name not in keys]
    action = f"UPDATE SET {', '.join(rest)}" if rest else "NOTHING"
    on = ", ".join(f'"{key}"' for key in keys)
    return (
        f"INSERT INTO {table} ({listed}) SELECT {listed} FROM arriving"
        f" ON CONFLICT ({on}) DO {action}"
    )
