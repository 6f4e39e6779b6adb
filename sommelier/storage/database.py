"""One open database: transactions, reading, writing, and the generation that counts commits.

This is what DuckDB files (duckdb_database.py) and PostgreSQL (postgres_database.py) share. Reading
is fixed SQL text, straight on the driver; writing is SQLAlchemy Core on the same connection and so
in the same transaction. SQLAlchemy takes 0.16 s to import, 40 % of what a whole command-line
question may cost, so it is loaded by the first write and never by a question.

Threads: one re-entrant lock guards the connection; it is held for the length of a transaction, so
another thread sees all of it or nothing. Catalog SQL runs on a connection of its own, outside the
lock.
"""

from __future__ import annotations

import contextlib
import re
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sommelier.errors import ReadOnlyError, StorageError
from sommelier.storage.faults import translated
from sommelier.storage.spared import SparedThreads

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sqlalchemy import Connection, Executable, Table

    from sommelier.storage.catalog_sql import SqlResult
    from sommelier.storage.dialects import Dialect

FEW = 50  # rows below which executing a statement for each is quicker than one for all
CHUNK = 20_000  # rows that are sent at once
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


class Database(ABC):
    """An open connection to a catalog's tables."""

    dialect: Dialect
    has_workers = False  # whether other processes may do the tasks of jobs

    def __init__(self, *, read_only: bool) -> None:
        self.read_only = read_only
        self.commits = 0  # how many of them were made here
        self.notes = 0  # how often `note` was called
        self._generation = 0
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
        self._sqlalchemy: Connection | None = None

    # ---- reading

    @abstractmethod
    def rows(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query; each `?` in it stands for a value: None, bool, int, str, or a list
        of str."""

    @abstractmethod
    def row(self, sql: str, values: Sequence[object] = ()) -> tuple[Any, ...] | None:
        """The first row of a query, or None."""

    @abstractmethod
    def columns(self, sql: str, values: Sequence[object] = ()) -> dict[str, NDArray[Any]]:
        """The columns of a query as numpy arrays; one with NULLs is a masked array."""

    @abstractmethod
    def tables(self) -> set[tuple[str, str]]:
        """(schema, name) of the tables there are, as far as they could be ours."""

    @abstractmethod
    def sql(self, text: str, parameters: Parameters | None, limit: int | None) -> SqlResult:
        """The rows of one read-only statement of a user's; see catalog_sql.py."""

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
                self._begin()
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
            self._write_many(table, rows, replace=False)

    def upsert(self, table: Table, rows: Sequence[Row]) -> None:
        """Add rows, or replace those that have the same primary key; each has every column."""
        keys = [column.name for column in table.primary_key]
        if len(rows) >= FEW:
            last = {tuple(row[key] for key in keys): row for row in rows}
            self._write_many(table, list(last.values()), replace=True)
            return
        from sqlalchemy.dialects.postgresql import insert

        statement = insert(table)
        values = {c.name: statement.excluded[c.name] for c in table.columns if c.name not in keys}
        self.write(statement.on_conflict_do_update(index_elements=keys, set_=values), rows)

    def load(self, arrays: Mapping[str, NDArray[Any]], *statements: str) -> None:
        """Execute fixed SQL that reads `arrays` as the table `incoming`, for many rows."""
        self._must_be_writing()
        with self._translated("change the catalog"):
            self._load(arrays, statements)
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

    # ---- what changed, and when

    def on_change(self, forget: Callable[[], None]) -> None:
        """Have `forget()` called whenever what was read before may be out of date."""
        self._on_change.append(forget)

    def on_abandon(self, forget: Callable[[], None]) -> None:
        """Have `forget()` called when changes of this connection are undone, or others made some:
        what was read inside a transaction does not hold in the next."""
        self._on_abandon.append(forget)

    def after_commit(self, action: Callable[[], None]) -> None:
        """Have `action()` called once the changes of this transaction are kept; never if they are
        undone. For files that only the old rows named; no other thread changes rows meanwhile."""
        self._must_be_writing()
        self._after_commit.append(action)

    @property
    def generation(self) -> int:
        """How many transactions changed the catalog until now."""
        return self._generation

    def read_generation(self) -> None:
        """Take the number of commits from the database."""
        found = self.row("SELECT value FROM store.meta WHERE key = 'generation'")
        self._generation = self._first_generation = int(found[0]) if found else 0
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
        """What is read inside the block is of one moment: nobody's changes come in between."""
        with self._turn():
            yield

    # ---- others at work on the same database

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether nobody else has the database open to write it; nobody may until the block ends.

        The place to remove what killed processes left.
        """
        yield True

    def keep_alive(self, job_id: int) -> None:  # noqa: B027 - nobody else is there
        """Let others see, from this transaction's end on, that the process of a job lives."""

    def let_go(self, job_id: int) -> None:  # noqa: B027
        """The job has ended."""

    def living_jobs(self) -> frozenset[int]:
        """The jobs whose processes live, as far as others may write this database."""
        return frozenset()

    # ---- its lifetime

    def interrupt(self) -> None:
        """Stop what other threads are executing; they raise CancelledError.

        It waits for nobody's turn, and passes over threads that are `spared`.
        """
        self._spared.interrupt(self._interrupt)
        self._interrupt_cursors()

    def spared(self) -> contextlib.AbstractContextManager[None]:
        """`interrupt` does not reach the calling thread inside the block."""
        return self._spared.this_thread()

    @abstractmethod
    def close(self) -> None:
        """End the connection. A second call does nothing."""

    # ---- what the two kinds do in their own way

    @abstractmethod
    def _begin(self) -> None: ...

    @abstractmethod
    def _keep(self) -> None:
        """Commit, with the generation if there were changes (`_writes`) to groups (`_touched`)."""

    @abstractmethod
    def _undo(self) -> None:
        """Roll back, if there is anything left to."""

    @abstractmethod
    def _write_many(self, table: Table, rows: Sequence[Row], *, replace: bool) -> None: ...

    @abstractmethod
    def _load(self, arrays: Mapping[str, NDArray[Any]], statements: Sequence[str]) -> None: ...

    @abstractmethod
    def _make_alchemy(self) -> Connection: ...

    @abstractmethod
    def _interrupt(self) -> None: ...

    @abstractmethod
    def _interrupt_cursors(self) -> None: ...

    def _translated(self, doing: str) -> contextlib.AbstractContextManager[None]:
        return translated(doing)

    # ---- inside

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        with self._lock, self._spared:
            yield

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
        self._keep()
        if self._writes:
            for group in self._groups_touched():
                self._generations[group] = self._generation + 1
            self._generation += 1
            self.commits += 1

    def _groups_touched(self) -> list[str]:
        return [group for group, tables in GROUPS.items() if tables & self._touched]

    def _abandon(self) -> None:
        self._after_commit = []
        self._undo()
        self._forget_all()

    def _forget_all(self) -> None:
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

    def _must_be_writing(self) -> None:
        if not self._depth:
            raise StorageError("a change was sent outside a transaction")

    def _alchemy(self) -> Connection:
        if self._sqlalchemy is None:
            self._sqlalchemy = self._make_alchemy()
        return self._sqlalchemy
