"""DuckDB's exceptions as ours: one sentence, and the words at fault where SQL is the user's."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sommelier.errors import CancelledError, CatalogSqlError, Span, StorageError

_DISK_FULL = ("no space left", "file too large", "disk quota exceeded")
_DAMAGED = (
    "corrupt",
    "not a valid duckdb",
    "could not read enough bytes",
    "could not read from file",
    "replaying wal",
    "failed to read",
)
_BY_CONTENT = ("IOException", "FatalException", "InternalException", "SerializationException")
_WORD = re.compile(r"\w+|\"(?:[^\"]|\"\")*\"|\S")


@dataclass(frozen=True, slots=True)
class Fault:
    """What DuckDB said. position : offset into the statement, where it knows one."""

    message: str
    position: int | None = None
    candidates: tuple[str, ...] = ()


def read_fault(error: BaseException) -> Fault:
    """The content of a DuckDB exception raised under `errors_as_json`, or of any other one."""
    text = str(error)
    start = text.find("{")
    try:
        fields = json.loads(text[start:]) if start >= 0 else None
    except ValueError:
        fields = None
    if not isinstance(fields, dict) or "exception_message" not in fields:
        return Fault(text)
    position = fields.get("position")
    names = fields.get("candidates") or ""
    return Fault(
        message=str(fields["exception_message"]).split("\n")[0],
        position=int(position) if position is not None else None,
        candidates=tuple(name for name in str(names).split(",") if name),
    )


@contextlib.contextmanager
def translated(
    doing: str, damaged: Callable[[str, str], StorageError] | None = None
) -> Iterator[None]:
    """DuckDB's and SQLAlchemy's exceptions inside the block leave it as StorageError.

    doing : what was attempted, as it follows 'could not': 'add the model'. An interrupted
    statement leaves as CancelledError. damaged : makes the error, of what DuckDB said and `doing`,
    for a file that can no longer be read.
    """
    try:
        yield
    except Exception as error:
        cause = getattr(error, "orig", None) or error  # SQLAlchemy keeps the driver's in .orig
        driver = type(cause).__module__.startswith(("duckdb", "_duckdb", "sqlalchemy"))
        if not driver and not was_interrupted(cause):
            raise
        if damaged is not None and is_damage(cause):
            raise damaged(read_fault(cause).message, doing) from error
        raise storage_error(cause, doing) from error


def storage_error(cause: BaseException, doing: str) -> StorageError | CancelledError:
    """Our exception for a DuckDB exception, by what has to be done about it."""
    if was_interrupted(cause):
        return CancelledError(f"cancelled while trying to {doing}")
    message = read_fault(cause).message
    lowered = message.lower()
    if any(words in lowered for words in _DISK_FULL):
        return StorageError(
            f"could not {doing}: the disk is full or a file may not grow ({message})",
            hint="nothing of this change was kept; free some space, then open the database again",
        )
    if "database has been invalidated" in lowered:
        return StorageError(
            f"could not {doing}: an earlier failure closed the database",
            hint="open it again; everything committed before is in it",
        )
    return StorageError(f"could not {doing}: {message}")


def was_interrupted(cause: BaseException) -> bool:
    """Whether a statement was told to stop. Where Ctrl-C reaches DuckDB itself, in the main thread
    of a program, it raises a RuntimeError of the KeyboardInterrupt."""
    if type(cause).__name__ == "InterruptException":
        return True
    return isinstance(cause, RuntimeError) and isinstance(cause.__cause__, KeyboardInterrupt)


def is_damage(cause: BaseException) -> bool:
    """Whether DuckDB could not read a file because of its content, at opening or later."""
    if type(cause).__name__ not in _BY_CONTENT:  # a table's name may be 'corrupt' too
        return False
    message = read_fault(cause).message.lower()
    return any(words in message for words in _DAMAGED)


def is_bad_pattern(cause: BaseException) -> bool:
    """Whether a database refused a regular expression as none."""
    return type(cause).__name__ in ("InvalidInputException", "InvalidRegularExpression")


def sql_error(cause: BaseException, text: str) -> CatalogSqlError | CancelledError:
    """The error of a user's SQL statement, with the word at fault underlined."""
    if was_interrupted(cause):
        return CancelledError("the statement was cancelled")
    fault = read_fault(cause)
    no_table = fault.message.startswith("Table with name")
    return CatalogSqlError(
        fault.message,
        text=text,
        span=span_at(text, fault.position) if fault.position is not None else None,
        suggestions=tuple(name for name in fault.candidates if not _internal(name))[:3],
        hint="SHOW TABLES lists what catalog SQL can read"
        if no_table or not fault.candidates
        else None,
    )


def _internal(name: str) -> bool:
    """Whether a table is DuckDB's own, such as pg_indexes, which nobody means."""
    return name.startswith(("pg_", "duckdb_", "sqlite_"))


def span_at(text: str, offset: int) -> Span:
    """The word of `text` that starts at `offset` (DuckDB counts bytes of UTF-8)."""
    start = min(len(text.encode()[:offset].decode(errors="ignore")), max(len(text) - 1, 0))
    word = _WORD.match(text, start)
    line = text.count("\n", 0, start) + 1
    column = start - (text.rfind("\n", 0, start) + 1) + 1
    return Span(line=line, column=column, start=start, end=word.end() if word else start + 1)
