"""PostgreSQL's exceptions as ours: one sentence, and the words at fault where SQL is the user's."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
from psycopg import errors

from sommelier.errors import CancelledError, CatalogSqlError, ReadOnlyError, StorageError
from sommelier.storage.faults import span_at
from sommelier.storage.naming import nearest
from sommelier.storage.postgres_server import Server
from sommelier.storage.views import VIEWS

_BY_USER = "user request"  # a time limit of the server's cancels too
_QUOTED = re.compile(r'"([^"]+)"')


@contextlib.contextmanager
def translated_here(doing: str, server: Server, is_closed: Callable[[], bool]) -> Iterator[None]:
    """psycopg's and SQLAlchemy's exceptions inside the block leave it as StorageError.

    doing : what was attempted, as it follows 'could not': 'add the model'. An interrupted statement
    leaves as CancelledError. is_closed : whether the connection is lost.
    """
    try:
        yield
    except Exception as error:
        cause = getattr(error, "orig", None) or error  # SQLAlchemy keeps the driver's in .orig
        if not type(cause).__module__.startswith(("psycopg", "sqlalchemy")):
            raise
        raise _storage_error(cause, doing, server, is_closed()) from error


def lost(error: psycopg.OperationalError, raw: psycopg.Connection[Any]) -> bool:
    """Whether the connection ended, rather than the statement."""
    return raw.closed or isinstance(error, errors.AdminShutdown | errors.CrashShutdown)


def _storage_error(
    cause: BaseException, doing: str, server: Server, closed: bool
) -> StorageError | CancelledError | ReadOnlyError:
    if isinstance(cause, errors.QueryCanceled) and _BY_USER in str(cause):
        return CancelledError(f"cancelled while trying to {doing}")
    said = server.without_password(message_of(cause))
    if closed:
        return StorageError(
            f"could not {doing}: the connection to {server.name} was lost ({said})",
            hint="nothing of this change was kept; ask again, which connects anew",
        )
    if isinstance(cause, errors.LockNotAvailable):
        return StorageError(
            f"could not {doing}: another client has been changing the catalog all the time",
            hint="try again; pg_stat_activity says who it is",
        )
    if isinstance(cause, errors.ReadOnlySqlTransaction):
        return ReadOnlyError(
            f"could not {doing}: {server.name} only reads", hint="connect with read_only=True"
        )
    if isinstance(cause, errors.DiskFull):
        return StorageError(
            f"could not {doing}: the server's disk is full ({said})",
            hint="nothing of this change was kept; free some space there",
        )
    if isinstance(cause, errors.InsufficientPrivilege):
        return StorageError(
            f"could not {doing}: {said}",
            hint="let the server's administrator GRANT what is missing",
        )
    return StorageError(f"could not {doing}: {said}")


def message_of(cause: BaseException) -> str:
    """What PostgreSQL said, in its first sentence."""
    told = cause.diag.message_primary if isinstance(cause, psycopg.Error) else None
    return told or str(cause).strip().split("\n")[0]


def sql_error(
    error: psycopg.Error, text: str, position: int | None
) -> CatalogSqlError | CancelledError:
    """The error of a user's SQL statement, with the word at fault underlined.

    position : of the character in `text` it is about.
    """
    if isinstance(error, errors.QueryCanceled) and _BY_USER in str(error):
        return CancelledError("the statement was cancelled")
    message = message_of(error)
    named = _QUOTED.search(message)
    hint = error.diag.message_hint
    suggestions: tuple[str, ...] = ()
    if isinstance(error, errors.UndefinedColumn) and hint:
        suggestions, hint = tuple(name.split(".")[-1] for name in _QUOTED.findall(hint)), None
    if isinstance(error, errors.UndefinedTable) and named is not None:
        suggestions = nearest(named[1].split(".")[-1], VIEWS)
        hint = "SHOW TABLES lists what catalog SQL can read"
    span = None if position is None else span_at(text, len(text[:position].encode()))
    return CatalogSqlError(message, text=text, span=span, suggestions=suggestions, hint=hint)
