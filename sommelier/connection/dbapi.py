"""DB-API 2.0 (PEP 249): what pandas, SQLAlchemy and tools of tables know how to talk to.

    from sommelier.connection import dbapi
    with dbapi.connect("models.sommelier") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT MODELS WHERE task = ?", ["image-classification"])
        cursor.fetchall()

Statements of every kind are taken: SELECT MODELS, SHOW, IMPORT, catalog SQL. Each is kept when it
ends, so there is nothing to commit or to roll back (`autocommit` is True). Values are in base
units: bytes, FLOPs, milliseconds, fractions; what is unknown is None.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sommelier import errors
from sommelier.connection.connecting import connect as _connect
from sommelier.connection.connection import Connection as Database
from sommelier.engine.result import ColumnInfo, Report, Result, Table
from sommelier.units import BASE_UNITS

if TYPE_CHECKING:
    from sommelier.connection.connection import Outcome

apilevel = "2.0"
threadsafety = 2  # threads may share the module and connections: statements take turns
paramstyle = "qmark"  # and $name, with a mapping

_ROWS = 1  # PEP 249: what fetchmany takes unless it is told
Parameters = Sequence[Any] | Mapping[str, Any]


# ---- exceptions


class Warning(Exception):  # noqa: N818 - the standard's name
    """What was skipped, chosen or corrected; never raised, see `Cursor.messages`."""


class Error(Exception):
    """Base of what this module raises; the cause is a SommelierError."""


class InterfaceError(Error):
    """The interface was used wrongly: a cursor that is closed, a fetch without rows."""


class DatabaseError(Error):
    """The database could not do what was asked."""


class DataError(DatabaseError):
    """A value does not fit: a wrong unit, a parameter of the wrong type."""


class OperationalError(DatabaseError):
    """The file is locked, damaged or read-only, or the statement was cancelled."""


class IntegrityError(DatabaseError):
    """Relations between rows would be broken; the catalog never lets that happen."""


class InternalError(DatabaseError):
    """The database is in a state that it should not be in."""


class ProgrammingError(DatabaseError):
    """The statement cannot be answered as it is written; the words at fault are underlined."""


class NotSupportedError(DatabaseError):
    """What this database does not do."""


_CLASSES: tuple[tuple[type[errors.SommelierError], type[Error]], ...] = (
    (errors.ParameterError, DataError),
    (errors.QueryError, ProgrammingError),
    (errors.StorageError, OperationalError),
    (errors.CancelledError, OperationalError),
    (errors.MissingDependencyError, NotSupportedError),
    (errors.SommelierError, DatabaseError),
)


def _translated(error: errors.SommelierError) -> Error:
    """The standard's error with the same text."""
    return next(ours for theirs, ours in _CLASSES if isinstance(error, theirs))(str(error))


# ---- types


class DBAPIType(frozenset[str]):
    """A type object: equal to each of the type codes that it stands for."""

    def __eq__(self, other: object) -> bool:
        return other in self if isinstance(other, str) else super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = frozenset.__hash__


STRING = DBAPIType({"text", "boolean", "list"})
BINARY = DBAPIType({"binary"})
NUMBER = DBAPIType({"number"})
DATETIME = DBAPIType({"datetime"})
ROWID = DBAPIType({"rowid"})

Date = datetime.date
Time = datetime.time
Timestamp = datetime.datetime
Binary = bytes


def DateFromTicks(ticks: float) -> datetime.date:  # noqa: N802
    """A local date. ticks : s since 1970."""
    return Date(*time.localtime(ticks)[:3])


def TimeFromTicks(ticks: float) -> datetime.time:  # noqa: N802
    """A local time of day. ticks : s since 1970."""
    return Time(*time.localtime(ticks)[3:6])


def TimestampFromTicks(ticks: float) -> datetime.datetime:  # noqa: N802
    """A local moment. ticks : s since 1970."""
    return Timestamp(*time.localtime(ticks)[:6])


_CODES: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "boolean"),
    ((int, float), "number"),
    ((datetime.date, datetime.time), "datetime"),
    (bytes, "binary"),
    ((list, tuple), "list"),
)


def _type_code(column: ColumnInfo, values: Iterator[Any]) -> str:
    """Of a column; what has no unit is what its first known value is."""
    if column.dimension is not None:
        return "number"
    first = next((value for value in values if value is not None), "")
    return next((code for kinds, code in _CODES if isinstance(first, kinds)), "text")


# ---- connections


def connect(
    database: str | Path | Database = "models.sommelier", *, read_only: bool = False
) -> Connection:
    """A connection. database : a path, as of `sommelier.connect`, or an open connection of it, that
    stays open when this one is closed. Raises OperationalError."""
    if isinstance(database, Database):
        return Connection(database, owned=False)
    try:
        return Connection(_connect(database, read_only=read_only))
    except errors.SommelierError as error:
        raise _translated(error) from error


class Connection:
    """A connection of PEP 249. Threads may share it."""

    Warning, Error, InterfaceError, DatabaseError = Warning, Error, InterfaceError, DatabaseError
    DataError, OperationalError, IntegrityError = DataError, OperationalError, IntegrityError
    InternalError, ProgrammingError = InternalError, ProgrammingError
    NotSupportedError = NotSupportedError
    autocommit = True

    def __init__(self, database: Database, *, owned: bool = True) -> None:
        """owned : the database is closed with this connection."""
        self._database: Database | None = database
        self._owned = owned

    @property
    def database(self) -> Database:
        """The connection below, with all that Sommelier can do. Raises InterfaceError once this one
        is closed."""
        if self._database is None:
            raise InterfaceError("the connection is closed")
        return self._database

    def cursor(self) -> Cursor:
        """A new cursor."""
        _ = self.database
        return Cursor(self)

    def execute(self, operation: str, parameters: Parameters = ()) -> Cursor:
        """A new cursor that has executed a statement."""
        return self.cursor().execute(operation, parameters)

    def commit(self) -> None:
        """Nothing is left to do: each statement was kept when it ended."""
        _ = self.database

    def rollback(self) -> None:
        """Nothing happens: each statement was kept when it ended."""
        _ = self.database

    def close(self) -> None:
        """A second call does nothing."""
        database, self._database = self._database, None
        if database is not None and self._owned:
            database.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Cursor:
    """A cursor of PEP 249: executes statements and holds the answer of the last.

    arraysize : rows that fetchmany takes unless it is told. messages : notes of the last statement,
    (Warning, text) each.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection: Connection | None = connection
        self._outcome: Outcome | None = None
        self._rows: Callable[[int, int], list[tuple[Any, ...]]] | None = None
        self._description: list[tuple[Any, ...]] | None = None
        self._units: tuple[str | None, ...] | None = None
        self._next = 0
        self.arraysize = _ROWS
        self.rowcount = -1
        self.messages: list[tuple[type[Exception], str]] = []

    # ---- executing

    def execute(self, operation: str, parameters: Parameters = ()) -> Cursor:
        """Execute one statement. parameters : values of its `?` in order, or of its `$name`."""
        database = self.connection.database
        self._forget()
        try:
            outcome = database.execute(operation, parameters or None)
        except errors.SommelierError as error:
            raise _translated(error) from error
        self._take(outcome)
        return self

    def executemany(self, operation: str, parameters: Sequence[Parameters]) -> Cursor:
        """Execute one statement with each set of values; it may answer no rows of models."""
        done = 0
        for values in parameters:
            self.execute(operation, values)
            if isinstance(self._outcome, Result):
                self._forget()
                raise ProgrammingError("executemany() takes no statement that answers models")
            done += max(self.rowcount, 0)
        self._forget()
        self.rowcount = done
        return self

    # ---- the answer

    @property
    def description(self) -> list[tuple[Any, ...]] | None:
        """(name, type code, None, None, None, None, whether it may be NULL) of each column; None
        before the first statement."""
        return self._description

    @property
    def units(self) -> tuple[str | None, ...] | None:
        """The unit of each column's values, 'B', 'FLOPs' or 'ms', None where it has none; None
        before the first statement. No part of the standard."""
        return self._units

    @property
    def rownumber(self) -> int | None:
        """The place of the next row, from 0; None before the first statement."""
        return None if self._outcome is None else self._next

    def fetchone(self) -> tuple[Any, ...] | None:
        """The next row; None after the last."""
        rows = self.fetchmany(1)
        return rows[0] if rows else None

    def fetchmany(self, size: int | None = None) -> list[tuple[Any, ...]]:
        """The next rows. size : how many at most; `arraysize` if None."""
        _ = self.connection.database  # or one of them is closed
        if self._rows is None:
            raise InterfaceError("there are no rows: execute() a statement first")
        size = self.arraysize if size is None else size
        start, self._next = self._next, min(self._next + max(size, 0), self.rowcount)
        return self._rows(start, self._next)

    def fetchall(self) -> list[tuple[Any, ...]]:
        """The rows that were not fetched yet."""
        return self.fetchmany(max(self.rowcount, 0))

    def df(self) -> Any:
        """All rows as a pandas DataFrame."""
        return self._whole().df()

    def arrow(self) -> Any:
        """All rows as a pyarrow Table. Raises NotSupportedError without pyarrow."""
        try:
            return self._whole().arrow()
        except errors.MissingDependencyError as error:
            raise _translated(error) from error

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        while (row := self.fetchone()) is not None:
            yield row

    # ---- the rest of the standard

    @property
    def connection(self) -> Connection:
        """Whose cursor it is. Raises InterfaceError once it is closed."""
        if self._connection is None:
            raise InterfaceError("the cursor is closed")
        return self._connection

    def setinputsizes(self, sizes: Sequence[Any]) -> None:
        """Nothing happens: sizes are found by themselves."""

    def setoutputsize(self, size: int, column: int | None = None) -> None:
        """Nothing happens: no value is cut off."""

    def close(self) -> None:
        """A second call does nothing."""
        self._forget()
        self._connection = None

    def __enter__(self) -> Cursor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ---- inside

    def _whole(self) -> Any:
        if isinstance(self._outcome, Result | Table):
            return self._outcome
        _ = self.connection
        raise InterfaceError("there are no rows: execute() a statement that answers some first")

    def _forget(self) -> None:
        self._outcome = self._rows = self._description = self._units = None
        self._next, self.rowcount, self.messages = 0, -1, []

    def _take(self, outcome: Outcome) -> None:
        if isinstance(outcome, Table) and outcome.failure is not None:
            raise _translated(outcome.failure) from outcome.failure
        self._outcome = outcome
        columns: tuple[ColumnInfo, ...]
        if isinstance(outcome, Report):
            lines = [(line,) for line in outcome.lines]
            columns, self._rows = (ColumnInfo("line"),), lambda start, stop: lines[start:stop]
            self.rowcount = len(lines)
        else:
            columns, self.rowcount = outcome.columns, len(outcome)
            self._rows = outcome.rows_between
            self.messages = [(Warning, note) for note in outcome.notes]
        some = self._rows(0, min(self.rowcount, 100))
        self._description = [
            (c.name, _type_code(c, (row[i] for row in some)), None, None, None, None, True)
            for i, c in enumerate(columns)
        ]
        self._units = tuple(BASE_UNITS.get(c.dimension) if c.dimension else None for c in columns)
