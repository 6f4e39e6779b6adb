"""The interactive shell: a prompt with history, completion and colours over a ShellSession."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application import Application, get_app
from prompt_toolkit.filters import Condition, completion_is_selected
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth, Output

from sommelier.errors import SommelierError
from sommelier.grammar.parser import is_complete
from sommelier.shell import databases, jobs
from sommelier.shell.config import ShellConfig, history_path, private_file
from sommelier.shell.console import Console
from sommelier.shell.exits import ExitCode
from sommelier.shell.highlighting import STYLE, statement_lexer
from sommelier.shell.scripts import is_command, read_script
from sommelier.shell.session import LeaveShell, ShellSession
from sommelier.shell.suggestions import StatementCompleter
from sommelier.shell.terminal import visible

_PROMPT = "sommelier> "


def run_shell(
    config: ShellConfig,
    parameters: Mapping[str, object] | None = None,
    *,
    quiet: bool = False,
    artifacts: str | None = None,
) -> int:
    """Runs the shell until the person leaves; returns the exit code.

    artifacts : the store for the model files of a database that has none yet.

    Raises StorageError if the database cannot be opened at all.
    """
    console = Console(color=config.color)
    session = ShellSession(config, console, interactive=True, parameters=parameters)
    session.quiet, session.artifacts = quiet, artifacts
    existed = databases.exists(config.database)
    session.open(config.database)
    try:
        if not quiet:
            _welcome(session, existed)
        return Repl(session).run()
    finally:
        session.close()


class Repl:
    """Reads statements and commands until .quit or Ctrl-D.

    input, output : prompt_toolkit's ends, given by tests; None = the terminal.
    """

    def __init__(
        self, session: ShellSession, *, input: Input | None = None, output: Output | None = None
    ) -> None:
        self.session = session
        self.completer = StatementCompleter(session)
        self._history = _history(session.config)
        self._input = input
        self._output = output
        self._prompt: PromptSession[str] = PromptSession(
            message=[("class:prompt", _PROMPT)],
            multiline=True,
            lexer=statement_lexer() if session.console.colour else None,
            style=STYLE,
            color_depth=None if session.console.colour else ColorDepth.MONOCHROME,
            completer=self.completer,
            complete_while_typing=True,
            history=self._history,
            enable_history_search=False,
            key_bindings=_bindings(),
            prompt_continuation=_continuation,
            bottom_toolbar=self._toolbar,
            input=input,
            output=output,
            reserve_space_for_menu=6,
        )
        session.history = self._typed
        session.ask = self._ask

    def run(self) -> int:
        """Reads, runs, shows, until the person leaves; returns the exit code.

        Who wants to leave background jobs is asked; the second time in a row it is meant.
        """
        insists = False
        while True:
            jobs.announce(self.session)
            try:
                default, self.session.next_input = self.session.next_input or "", None
                text = self._prompt.prompt(default=default)
                self._answer(text)
                insists = False
            except KeyboardInterrupt as interrupt:
                if type(interrupt) is not KeyboardInterrupt:
                    raise  # AbandonedError: leave at once
            except (EOFError, LeaveShell) as leaving:
                if insists or jobs.may_leave(self.session):
                    return leaving.code if isinstance(leaving, LeaveShell) else ExitCode.OK
                insists = True

    def _answer(self, text: str) -> None:
        self.session.run(read_script(text))
        self.completer.names.forget()

    def _typed(self) -> list[str]:
        return list(self._history.get_strings())

    def _ask(self, question: str) -> str:
        """The answer to a question; Ctrl-C and Ctrl-D mean no."""
        asking: PromptSession[str] = PromptSession(input=self._input, output=self._output)
        try:
            return asking.prompt(question)
        except (KeyboardInterrupt, EOFError):
            return ""

    def _toolbar(self) -> StyleAndTextTuples:
        session = self.session
        details = [session.format]
        if session.is_open and session.connection.read_only:
            details.insert(0, "read-only")
        details += [f"${name}" for name in session.parameters]
        if session.is_open and (count := len(session.connection.background)):
            details.append(f"{count} job{'' if count == 1 else 's'} running")
        details += ["Tab completes", ".help"]
        return [
            ("class:bottom-toolbar.strong", f" {visible(_database(session))}"),
            ("", "".join(f"  ·  {detail}" for detail in details)),
        ]


def _history(config: ShellConfig) -> History:
    if not config.history:
        return InMemoryHistory()
    try:
        return FileHistory(str(private_file(history_path())))
    except OSError:  # a home that cannot be written must not keep anyone from asking
        return InMemoryHistory()


def _bindings() -> KeyBindings:
    """Enter takes a chosen completion, submits a statement that is complete, or a command.

    Alt-Enter always starts a new line.
    """
    bindings = KeyBindings()

    @Condition
    def submits() -> bool:
        application: Application[str] = get_app()
        text = application.current_buffer.text
        return not text.strip() or is_command(text) or is_complete(text)

    @bindings.add("enter", filter=submits)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @bindings.add("enter", filter=completion_is_selected)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.complete_state = None

    @bindings.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    return bindings


def _continuation(width: int, _line: int, wraps: int) -> StyleAndTextTuples:
    dots = "" if wraps else "... "
    return [("class:continuation", dots.rjust(width))]


def _welcome(session: ShellSession, existed: bool) -> None:
    from sommelier import __version__

    try:
        count = len(session.connection.names("model"))
    except SommelierError:
        count = 0
    models = f"{count} model{'' if count == 1 else 's'}"
    state = f"{models} in {_database(session)}" if existed else f"new database {_database(session)}"
    talk = session.console.talk
    talk(f"Sommelier {__version__} · {state}")
    if count:
        talk("Statements end with `;`. Try SHOW MODELS;  .help lists more, Ctrl-D leaves.", "note")
    else:
        talk("It is empty: IMPORT MODELS FROM folder './models/*.onnx';  .help lists more.", "note")


def _database(session: ShellSession) -> str:
    if not session.is_open:
        return "no database"
    path = session.connection.path
    return path if len(path) <= 40 else "…/" + Path(path).name
