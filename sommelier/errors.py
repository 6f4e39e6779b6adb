"""Every exception Sommelier raises; each says what was asked, what exists and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a statement's text. Lines and columns count from 1, offsets from 0."""

    line: int
    column: int
    start: int
    end: int


class SommelierError(Exception):
    """Base of the tree. `hint` says what to do, `suggestions` are the nearest valid names."""

    code = "error"
    title = "Error"

    def __init__(
        self, message: str, *, hint: str | None = None, suggestions: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.suggestions = suggestions


class QueryError(SommelierError):
    """A statement cannot be answered as written; `span` underlines the words at fault."""

    code = "query"
    title = "Query Error"

    def __init__(
        self,
        message: str,
        *,
        text: str | None = None,
        span: Span | None = None,
        expected: tuple[str, ...] = (),
        hint: str | None = None,
        suggestions: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, hint=hint, suggestions=suggestions)
        self.text = text
        self.span = span
        self.expected = expected

    @property
    def line(self) -> int | None:
        return self.span.line if self.span else None

    @property
    def column(self) -> int | None:
        return self.span.column if self.span else None

    def __str__(self) -> str:
        """The message, the line with a caret under the words at fault, and what would work."""
        lines = [f"{self.title}: {self.message}"]
        if self.text is not None and self.span is not None:
            source = self.text.split("\n")[self.span.line - 1].rstrip("\r")
            label = f"LINE {self.span.line}: "
            width = max(1, min(self.span.end - self.span.start, len(source) - self.span.column + 1))
            lines.append(label + source)
            before = source[: self.span.column - 1]
            shift = "".join("\t" if letter == "\t" else " " for letter in before)
            lines.append(" " * len(label) + shift + "^" * width)
        if self.suggestions:
            lines.append(f"Did you mean {_either(self.suggestions)}?")
        if self.expected:
            lines.append(f"Expected: {', '.join(self.expected)}")
        if self.hint:
            lines.append(f"Hint: {self.hint}")
        return "\n".join(lines)


class ParserError(QueryError):
    """The text is not a statement of the language."""

    code = "parser"
    title = "Parser Error"


class BinderError(QueryError):
    """The statement reads well but names or units in it do not exist or do not fit."""

    code = "binder"
    title = "Binder Error"


class ParameterError(BinderError):
    """A parameter is missing, unused, or of the wrong type."""

    code = "parameter"


class CatalogSqlError(QueryError):
    """DuckDB refused a catalog SQL statement."""

    code = "sql"
    title = "Catalog SQL Error"


class StorageError(SommelierError):
    """The database on disk cannot do what was asked."""

    code = "storage"
    title = "Storage Error"

    def __str__(self) -> str:
        """The message, what may be meant, and what to do."""
        lines = [self.message]
        if self.suggestions:
            lines.append(f"Did you mean {_either(self.suggestions)}?")
        if self.hint:
            lines.append(f"Hint: {self.hint}")
        return "\n".join(lines)


class LeaseLostError(StorageError):
    """A worker was too late: its task is another's, or its job was cancelled. Nothing was kept."""


class DatabaseLockedError(StorageError):
    """Another process is writing this database. `readable` : what can be read meanwhile is of this
    moment, local time; None when there is nothing yet."""

    code = "locked"

    def __init__(self, message: str, *, readable: datetime | None = None) -> None:
        hint = "wait until it is done"
        if readable is not None:
            hint = (
                f"open it with read_only=True to read its snapshot of {readable:%H:%M:%S}, or wait"
            )
        super().__init__(message, hint=hint)
        self.readable = readable


class DatabaseCorruptError(StorageError):
    """The file is not a Sommelier database, or is damaged; it was left untouched."""

    code = "corrupt"


class ReadOnlyError(StorageError):
    """A statement that changes the database was sent to a read-only connection."""

    code = "read-only"


class UnknownNameError(BinderError):
    """A model, dataset, pool, device, task ... of this name is not in the database."""

    code = "unknown-name"


class ConnectorError(SommelierError):
    """A source of models cannot be read."""

    code = "connector"
    title = "Connector Error"


class RejectedModelError(ConnectorError):
    """One model file is refused; the reason is recorded and the import goes on."""

    code = "rejected"


class DatasetError(SommelierError):
    """A dataset file cannot be read, or does not fit what it is asked for."""

    code = "dataset"
    title = "Dataset Error"


class AnalysisError(SommelierError):
    """A model could not be analysed; recorded on that model, the run goes on."""

    code = "analysis"
    title = "Analysis Error"


class MemoryBudgetError(SommelierError):
    """A model does not fit in the memory that serving may use."""

    code = "memory-budget"
    title = "Memory Budget Error"


class InputError(SommelierError):
    """The inputs of a request do not fit the model that is to answer it."""

    code = "input"
    title = "Input Error"


class RejectedError(SommelierError):
    """A deployment does not answer a request. `status` : as in HTTP; 429 too many requests, 503
    nothing to answer with, 504 too late. `retry_after_ms` : when it may be accepted; None where
    waiting would not help or is not known."""

    code = "refused"
    title = "Request Refused"

    def __init__(self, message: str, *, status: int, retry_after_ms: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_ms = retry_after_ms


class WorkerCrashedError(AnalysisError):
    """The worker process died while it ran this model."""

    code = "crashed"


class WorkerTimeoutError(AnalysisError):
    """The model did not answer within its time limit."""

    code = "timeout"


class UnusableStateError(AnalysisError):
    """What was kept of work that was to go on cannot be gone on with."""

    code = "unusable-state"


class NotFittedError(AnalysisError):
    """Something learned was used before it was fitted; the message names the call to make."""

    code = "not-fitted"


class MissingDependencyError(SommelierError):
    """An optional library is not installed; the hint is the command that installs it."""

    code = "missing-dependency"
    title = "Missing Dependency"


class NoModelFoundError(SommelierError):
    """`.one()` on an empty answer; `suggestions` are the nearest misses."""

    code = "no-model-found"
    title = "No Model Found"


class CancelledError(SommelierError):
    """The user cancelled the statement; what was finished before is kept."""

    code = "cancelled"
    title = "Cancelled"


def first_line(error: BaseException) -> str:
    r"""The first line of another library's message, at most 300 characters, or the error's type.

    >>> first_line(ValueError("\nno such operator\nin 3 of 5 places"))
    'no such operator'
    >>> first_line(ValueError())
    'ValueError'
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def reason(error: SommelierError) -> str:
    """What a Rejection says of an error: its message, and its hint in parentheses if it has one.

    >>> reason(SommelierError("'o/n' is gated"))
    "'o/n' is gated"
    >>> reason(SommelierError("'o/n' is gated", hint="accept its terms"))
    "'o/n' is gated (accept its terms)"
    """
    return f"{error.message} ({error.hint})" if error.hint else error.message


def _either(names: tuple[str, ...]) -> str:
    # Keywords stand bare, names in quotes.
    quoted = [name if name.isupper() else f"'{name}'" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"
