"""A shell session: one database, the settings in force, and how statements are run and shown."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sommelier.engine.result import Table
from sommelier.errors import (
    CancelledError,
    ConnectorError,
    DatabaseLockedError,
    ParameterError,
    ParserError,
    ReadOnlyError,
    StorageError,
)
from sommelier.grammar import nodes
from sommelier.grammar.formatter import format as format_query
from sommelier.grammar.parser import is_read_only, parse
from sommelier.shell import databases
from sommelier.shell.config import ShellConfig, saved_queries_path
from sommelier.shell.console import Console, pager_command
from sommelier.shell.exits import ExitCode
from sommelier.shell.interrupt import AbandonedError, run_cancellable
from sommelier.shell.output import HUMAN_FORMATS, Layout, Outcome, footer, pieces
from sommelier.shell.progress import ProgressBar
from sommelier.shell.scripts import Item, brings_more, parameters_in
from sommelier.shell.terminal import is_terminal, paint, terminal_width, visible, wrap
from sommelier.storage.servers import is_url

if TYPE_CHECKING:
    from sommelier.connection import Connection
    from sommelier.shell.diagnostics import Origin

_CANCELLING = "cancelling ... (Ctrl-C again leaves at once)"


class LeaveShell(Exception):  # noqa: N818 - a request, not an error
    """Raised by .quit; carries the exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class ShellSession:
    """What the command line, scripts and the prompt share. Close it, or use it as a context.

    interactive : a person types; a locked database is then opened read-only, DROP asks first.
    ask : puts a question and returns the answer's text; None where nobody can answer.
    """

    def __init__(
        self,
        config: ShellConfig,
        console: Console,
        *,
        interactive: bool = False,
        ask: Callable[[str], str] | None = None,
        parameters: Mapping[str, object] | None = None,
    ) -> None:
        self.config = config
        self.console = console
        self.interactive = interactive
        self.ask = ask
        self.parameters = dict(parameters or {})
        self.quiet = False
        self.artifacts: str | None = None  # the store that the first database opened is to use
        self.last_statement: str | None = None
        self.next_input: str | None = None  # what .edit leaves for the prompt
        self.history: Callable[[], list[str]] = list
        self.saved_queries = saved_queries_path()
        self.exit_code = ExitCode.OK
        self._connection: Connection | None = None
        self._place = ""
        self._upgradable = False

    # ---- the database

    @property
    def connection(self) -> Connection:
        """The open connection. Raises StorageError before `open`."""
        if self._connection is None:
            raise StorageError("no database is open", hint="write .open PATH")
        return self._connection

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    def open(self, path: str, *, writes: bool = True, creates: bool = True) -> None:
        """Opens the database `path` in place of the one before.

        writes : False if nothing that is going to run changes it. creates : False if nothing that
        is going to run has work to do in a new one. Without either it must exist.
        """
        read_only = self.config.readonly or not writes
        similar: tuple[str, ...] = ()
        if not databases.exists(path):
            if read_only or not creates:
                raise databases.no_database(path)
            similar = databases.similar(path)
        connection = self._connect(path, read_only=read_only and path != ":memory:")
        if similar and not self.quiet:
            self.console.talk(f"{path} is new; there is also {', '.join(similar)}", "hint")
        if self._connection is not None:
            self._connection.close()
        self._connection = connection
        self._place = path
        gc.enable()  # the command line puts it off until everything is loaded
        self._upgradable = not self.config.readonly and connection.read_only and not writes

    def reopen(self) -> None:
        """Looks again: a read-only connection then reads what was published since."""
        if self.connection.read_only:
            self.open(self._place, writes=not self._upgradable)

    def _connect(self, path: str, *, read_only: bool) -> Connection:
        from sommelier.connection import connect

        try:
            connection = connect(
                path, read_only=read_only, artifacts=self.artifacts, folder=self._folder(path)
            )
        except DatabaseLockedError as error:
            if not self.interactive or read_only:
                raise databases.in_flags(error) from None
            self.console.talk(f"Read-only: {error.message}", "hint")
            connection = connect(path, read_only=True, artifacts=self.artifacts)
        self.artifacts = None
        if connection.notice and self.interactive:
            self.console.talk(connection.notice, "note")
        return connection

    def _folder(self, path: str) -> str | None:
        """The folder of the files of a server's catalog; None: the one it remembers."""
        return (self.config.folder or None) if is_url(path) else None

    # ---- running

    def run(self, items: Iterable[Item], *, source: str | None = None) -> bool:
        """Whether everything succeeded. source : the script's name in error messages.

        Stops at the first error if the settings say so; Ctrl-C always stops.
        """
        succeeded = True
        for item in items:
            try:
                self._run_item(item)
            except LeaveShell:
                raise
            except CancelledError as error:
                self.report(error)
                self.exit_code = ExitCode.INTERRUPTED
                return False
            except BrokenPipeError:
                raise
            except Exception as error:  # also a bug: it must not take the session down
                self.report(error, _origin(source, item))
                succeeded = False
            if not succeeded:
                self.exit_code = ExitCode.QUERY_ERROR
                if self.bails:
                    return False
        return succeeded

    @property
    def bails(self) -> bool:
        """Whether a script stops at its first error."""
        return not self.interactive if self.config.bail is None else self.config.bail

    def report(self, error: BaseException, origin: Origin | None = None) -> None:
        """Shows an error on stderr."""
        from sommelier.shell.diagnostics import render_error

        colour = self.console.talk_colour
        width = self._talk_width
        self.console.talk(render_error(error, colour=colour, width=width, origin=origin))

    def _run_item(self, item: Item) -> None:
        if item.is_command:
            from sommelier.shell.commands import run_command

            run_command(self, item.text)
        else:
            self.statement(item.text)

    def statement(self, text: str) -> None:
        """Runs one statement and shows its answer. Raises what the connection raises, and
        the failure of one that achieved nothing."""
        self.last_statement = text
        self.console.note_statement(text)
        if self._upgradable and not reads_only([Item(text, 1, False)]):
            self.open(self._place)
        if not self._confirmed(text):
            self.console.talk("nothing was dropped", "note")
            return
        started = time.perf_counter()
        try:
            outcome = self._attempt(text)
        except (ParameterError, ReadOnlyError) as error:
            error.hint = self._hint(error, text)
            raise
        self.show(outcome, took_ms=(time.perf_counter() - started) * 1e3)
        if isinstance(outcome, Table) and outcome.failure is not None:
            raise outcome.failure

    def _attempt(self, text: str) -> Outcome:
        """The outcome; of an import that only wants trust, after the person was asked for it."""
        try:
            return self._execute(text)
        except ConnectorError as error:
            trusting = self._trusting(text, error)
            if trusting is None:
                raise
        return self._execute(trusting)

    def _trusting(self, text: str, error: ConnectorError) -> str | None:
        """The import with `trust = yes`, if that is all it wants and a person says so."""
        from sommelier.connection.nothing_came import UntrustedError

        if not isinstance(error, UntrustedError) or self.ask is None or not self.config.confirm:
            return None
        statement = parse(text)
        assert isinstance(statement, nodes.Import), "nothing else raises it"
        if any(option.name.lower() == "trust" for option in statement.options):
            return None  # it says no
        question = f"Run the code of {visible(error.place)}? [y/N] "
        if self.ask(question).strip().lower() not in ("y", "yes"):
            return None
        trust = nodes.Option("trust", nodes.Boolean(True))
        return format_query(replace(statement, options=(*statement.options, trust)))

    def _execute(self, text: str) -> Outcome:
        connection = self.connection
        used = parameters_in(text)
        params = {name: value for name, value in self.parameters.items() if name in used} or None
        bar = ProgressBar(
            self.console.err, mode=self.config.progress, colour=self.console.talk_colour
        )
        try:
            with bar:
                return run_cancellable(
                    lambda: connection.execute(text, params, progress=bar),
                    cancel=connection.cancel,
                    announce=lambda: bar.say(paint(_CANCELLING, "note", self.console.talk_colour)),
                )
        except AbandonedError:
            self.abandon()
            raise

    def _hint(self, error: ParameterError | ReadOnlyError, text: str) -> str | None:
        """What to do about an error in words of the shell instead of the Python API."""
        if isinstance(error, ReadOnlyError):
            if self.config.readonly:
                return "start without --readonly (readonly in the configuration) to change it"
            return f".open {self.connection.path} again when nobody else writes it"
        word = text[error.span.start : error.span.end] if error.span else ""
        if word == "?":
            return "values have names here: write $name in place of ? and start with -p name=value"
        if word.startswith("$") and word[1:] not in self.parameters:
            given = ", ".join(f"${name}" for name in self.parameters) or "none"
            return f"start with -p {word[1:]}=value; given: {given}"
        return error.hint

    def _confirmed(self, text: str) -> bool:
        """Whether to go on: a DROP typed by a person is asked about first."""
        if self.ask is None or not self.config.confirm:
            return True
        try:
            statement = parse(text)
        except ParserError:
            return True  # running it tells what is wrong
        if not isinstance(statement, nodes.Drop):
            return True
        what = f"{statement.kind} {statement.name.name}"
        return self.ask(f"Drop {what}? [y/N] ").strip().lower() in ("y", "yes")

    # ---- showing

    @property
    def format(self) -> str:
        """The format in force: `auto` is a table for a person and tsv for a program."""
        if self.config.format != "auto":
            return self.config.format
        return "table" if self.console.answers_to_terminal else "tsv"

    def show(self, outcome: Outcome, *, took_ms: float | None = None) -> None:
        """Writes an answer to stdout (or where .output points) and its footer to stderr."""
        form = self.format
        to_terminal = self.console.answers_to_terminal
        maxrows = self.config.maxrows if to_terminal and form == "table" else 0
        layout = Layout(
            width=terminal_width() if to_terminal else None,
            maxrows=maxrows,
            colour=self.console.colour,
        )
        pager = pager_command(self.config.pager) if self.interactive else None
        self.console.answer(pieces(outcome, form, layout), pager=pager)
        if self.quiet:
            return
        lines = footer(outcome, shown=maxrows, took_ms=took_ms if self.config.timer else None)
        counts = form in HUMAN_FORMATS
        for line in lines if counts else getattr(outcome, "notes", ()):
            self.console.talk(wrap(visible(line), self._talk_width), "note")

    @property
    def _talk_width(self) -> int | None:
        return terminal_width() if is_terminal(self.console.err) else None

    # ---- settings

    def set(self, **changes: Any) -> None:
        """Changes settings for the rest of the session."""
        self.config = replace(self.config, **changes)

    def abandon(self) -> None:
        """Leaves the connection open: it is busy, and closing would wait. The process ends now."""
        self._connection = None

    def close(self) -> None:
        """Closes the database and the files of .output and .log."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        self.console.close()


def reads_only(items: Iterable[Item]) -> bool:
    """Whether nothing here changes a database. What cannot be parsed changes nothing."""
    for item in items:
        if item.is_command:
            if brings_more(item):
                return False
            continue
        try:
            if not is_read_only(parse(item.text)):
                return False
        except ParserError:
            continue
    return True


def _origin(source: str | None, item: Item) -> Origin | None:
    from sommelier.shell.diagnostics import Origin

    return Origin(source, item.line) if source else None
