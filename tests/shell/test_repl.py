"""The prompt, driven key by key through a pipe, and a few times on a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from pygments.token import Comment, Keyword, Name, Number, String

from sommelier.connection import Connection
from sommelier.connection.nothing_came import UntrustedError
from sommelier.engine.result import Table
from sommelier.shell.config import history_path
from sommelier.shell.highlighting import StatementLexer
from sommelier.shell.repl import Repl
from sommelier.shell.scripts import read_script
from sommelier.shell.session import ShellSession
from sommelier.shell.suggestions import StatementCompleter
from tests.shell.conftest import COMMAND

ENTER, ALT_ENTER, CTRL_C, CTRL_D, UP = "\r", "\x1b\r", "\x03", "\x04", "\x1b[A"
Type = Callable[[str], int]
Said = Callable[..., str]


@pytest.fixture
def typed(session: ShellSession) -> Type:
    """Runs the prompt on the keys; returns its exit code. Ends with Ctrl-D."""
    session.interactive = True

    def call(keys: str) -> int:
        with create_pipe_input() as source:
            source.send_text(keys + CTRL_D)
            return Repl(session, input=source, output=DummyOutput()).run()

    return call


@pytest.fixture
def said(tmp_path: Path) -> Said:
    def read(stream: str = "out") -> str:
        return (tmp_path / f"{stream}.txt").read_text(encoding="utf-8")

    return read


def test_a_statement_runs_when_its_semicolon_is_typed(typed: Type, said: Said) -> None:
    assert typed("SELECT MODELS name ORDER BY name LIMIT 1;" + ENTER) == 0
    assert said() == "name\nalpha\n"


def test_enter_before_the_semicolon_starts_a_new_line(typed: Type, said: Said) -> None:
    typed(f"SELECT MODELS name{ENTER}WHERE name = 'a;b'{ENTER}OR name = 'beta';{ENTER}")
    assert said() == "name\nbeta\n"


def test_alt_enter_starts_a_new_line_even_after_a_semicolon(typed: Type, said: Said) -> None:
    typed(f".echo one{ENTER}SHOW POOLS;{ALT_ENTER}SHOW VIEWS;{ENTER}")
    assert said().startswith("one\n")
    assert len(said().splitlines()) == 3  # two empty tables, each with its header


def test_commands_need_no_semicolon(typed: Type, said: Said) -> None:
    typed(f".echo hello{ENTER}\\qecho world{ENTER}")
    assert said() == "hello\nworld\n"


def test_an_empty_line_does_nothing(typed: Type, said: Said) -> None:
    typed(ENTER + "   " + ENTER)
    assert said() == said("err") == ""


def test_ctrl_c_clears_the_line_and_keeps_the_prompt(typed: Type, said: Said) -> None:
    typed(f"SELECT MODELS frobnicate{CTRL_C}.echo still here{ENTER}")
    assert said() == "still here\n"


def test_an_error_keeps_the_prompt(typed: Type, said: Said) -> None:
    assert typed(f"SELECT MODEL CORR;{ENTER}.frobnicate{ENTER}.echo still here{ENTER}") == 0
    assert said() == "still here\n"
    assert "Parser Error" in said("err")
    assert "Command Error" in said("err")


@pytest.mark.parametrize("line", [".quit", "\\q", ".exit"])
def test_quit_leaves(typed: Type, said: Said, line: str) -> None:
    assert typed(f"{line}{ENTER}.echo not reached{ENTER}") == 0
    assert said() == ""


def test_history_is_kept_for_the_next_session_and_for_its_owner_only(
    typed: Type, said: Said
) -> None:
    typed(f".echo first{ENTER}")
    path = history_path()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    typed(f"{UP}{ENTER}.history{ENTER}")
    assert said() == "first\nfirst\n.echo first\n.echo first\n.history\n" or said().startswith(
        "first\nfirst\n.echo first\n"
    )


def test_history_can_be_switched_off(session: ShellSession, typed: Type) -> None:
    session.set(history=False)
    typed(f".echo secret{ENTER}")
    assert not history_path().exists()


@pytest.mark.parametrize("answer", ["n", "", "no", CTRL_C])
def test_drop_asks_first_and_anything_but_yes_drops_nothing(
    typed: Type, said: Said, session: ShellSession, answer: str
) -> None:
    enter = "" if answer == CTRL_C else ENTER
    typed(f"DROP MODEL alpha;{ENTER}{answer}{enter}.echo next{ENTER}")
    assert said() == "next\n"
    assert "nothing was dropped" in said("err")
    assert "alpha" in session.connection.names("model")


def test_a_confirmed_drop_drops(
    home: Path, tmp_path: Path, said: Said, session: ShellSession, typed: Type
) -> None:
    session.open(str(tmp_path / "own.sommelier"))
    session.statement("REGISTER DEVICE board USING memory = 8 GB")
    typed(f"DROP DEVICE board;{ENTER}y{ENTER}")
    assert "board" not in session.connection.names("device")


IMPORTED = "IMPORT MODELS FROM torchhub './toy' USING weights = 'DEFAULT'"


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that reach the database, which refuses imports that say nothing of trust."""
    texts: list[str] = []

    def refusing(_: Connection, text: str, *__: object, **___: object) -> Table:
        texts.append(text)
        if "trust = true" not in text.lower():
            raise UntrustedError("it was not touched", place="'./toy'", hint="USING trust = yes")
        return Table("", (), [])

    monkeypatch.setattr(Connection, "execute", refusing)
    return texts


def test_who_trusts_the_code_of_a_repository_has_it_imported(
    typed: Type, said: Said, executed: list[str]
) -> None:
    typed(f"{IMPORTED};{ENTER}yes{ENTER}")
    assert executed == [IMPORTED, f"{IMPORTED}, trust = TRUE"]
    assert "not touched" not in said("err")


@pytest.mark.parametrize("answer", ["n", "", CTRL_C])
def test_code_that_is_not_trusted_is_not_run(
    typed: Type, said: Said, executed: list[str], answer: str
) -> None:
    typed(f"{IMPORTED};{ENTER}{answer}{'' if answer == CTRL_C else ENTER}")
    assert executed == [IMPORTED]
    assert "not touched" in said("err")
    assert "USING trust = yes" in said("err")


def test_nobody_is_asked_for_trust_who_said_no_or_wants_no_questions(
    session: ShellSession, executed: list[str]
) -> None:
    session.interactive, session.ask = True, lambda _: "yes"
    session.run(read_script(f"{IMPORTED}, trust = no;"))
    session.set(confirm=False)
    session.run(read_script(f"{IMPORTED};"))
    assert executed == [f"{IMPORTED}, trust = no", IMPORTED]


def test_what_edit_leaves_is_offered_at_the_prompt(
    typed: Type, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISUAL", "sed -i s/gamma/beta/")
    typed(f".edit SELECT MODELS name WHERE name = 'gamma';{ENTER}{ENTER}")
    assert said() == "name\nbeta\n"


def test_names_made_by_a_statement_are_completed_at_once(
    session: ShellSession, tmp_path: Path
) -> None:
    session.interactive = True
    session.open(str(tmp_path / "own.sommelier"))
    with create_pipe_input() as source:
        repl = Repl(session, input=source, output=DummyOutput())
        assert "'board'" not in offered(repl.completer, "SELECT MODELS ON FITS ON '")
        source.send_text(f"REGISTER DEVICE board USING memory = 8 GB;{ENTER}{CTRL_D}")
        repl.run()
        assert "board" in [name.strip("'") for name in repl.completer.names.of("device")]


# ---- completion


def offered(completer: StatementCompleter, text: str) -> list[str]:
    """What the person gets when the first completion is taken, per candidate."""
    document = Document(text)
    found = completer.get_completions(document, CompleteEvent(text_inserted=True))
    return [text[: len(text) + c.start_position] + c.text for c in found]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("SEL", "SELECT"),
        ("sel", "select"),
        ("SELECT MODEL CO", "SELECT MODEL CORR"),
        ("SELECT MODEL co", "SELECT MODEL confidence"),
        ("SELECT MODEL CORR al", "SELECT MODEL CORR alpha"),
        ("SELECT MODEL CORR amma", None),
        ("SELECT MODELS ON mem", "SELECT MODELS ON memory"),
        ("SELECT MODELS ON memory < 80 M", "SELECT MODELS ON memory < 80 MB"),
        ("SELECT MODELS ON latency < 8 m", "SELECT MODELS ON latency < 8 ms"),
        ("SHOW MODELS; SHO", "SHOW MODELS; SHOW"),
        ("IMPORT MODELS FROM fol", "IMPORT MODELS FROM folder"),
        ("SELECT LINKS perf", "SELECT LINKS performance"),
        ("SELECT LINKS WHERE target = 'al", "SELECT LINKS WHERE target = 'alpha'"),
        ("SELECT PLAN FOR al", "SELECT PLAN FOR alpha"),
        ("SELECT PLAN FOR alpha ON mem", "SELECT PLAN FOR alpha ON memory"),
        ("CREATE LINK FROM alpha TO al", "CREATE LINK FROM alpha TO alpha"),
        ("DROP LI", "DROP LINK"),
        ("SELECT FUSIONS acc", "SELECT FUSIONS accuracy_drop"),
        ("SELECT FUSIONS OF al", "SELECT FUSIONS OF alpha"),
        ("SELECT FUSIONS OF alpha WHERE ris", "SELECT FUSIONS OF alpha WHERE risk"),
        ("SELECT FUSIONS OF alpha USING cand", "SELECT FUSIONS OF alpha USING candidates"),
        (
            "CREATE MODEL m AS FUSION OF alpha USING bud",
            "CREATE MODEL m AS FUSION OF alpha USING budget",
        ),
        (".tim", ".timer"),
        ("\\timi", "\\timing"),
        (".mode js", ".mode json"),
        (".timer o", ".timer on"),
        (".d alp", ".d alpha"),
        (".help sel", ".help select"),
    ],
)
def test_the_first_completion_is_what_a_person_means(
    session: ShellSession, text: str, first: str | None
) -> None:
    found = offered(StatementCompleter(session), text)
    if first is None:
        assert "SELECT MODEL CORR gamma" in found  # a part of the name is enough
    else:
        assert found[0] == first


@pytest.mark.parametrize(
    "text", ["SELECT MODELS WHERE task = 'ima", "-- SEL", "SELECT MODELS WHERE FROB ( SEL"]
)
def test_inside_texts_comments_and_errors_no_keyword_is_offered(
    session: ShellSession, text: str
) -> None:
    assert not [c for c in offered(StatementCompleter(session), text) if "SELECT" in c[len(text) :]]


def test_an_open_quote_is_completed_and_closed_once(session: ShellSession, tmp_path: Path) -> None:
    session.open(str(tmp_path / "own.sommelier"))
    session.statement("REGISTER DEVICE board USING memory = 8 GB")
    completer = StatementCompleter(session)
    wanted = "SELECT MODELS ON FITS ON 'board'"
    assert offered(completer, "SELECT MODELS ON FITS ON 'bo") == [wanted]
    latency = "SELECT MODELS ON latency < 3 ms ON "
    assert f"{latency}'board'" in offered(completer, latency)


def test_file_names_are_completed_after_file_commands(
    session: ShellSession, tmp_path: Path
) -> None:
    (tmp_path / "questions.sql").touch()
    found = offered(StatementCompleter(session), f".read {tmp_path}/ques")
    assert found == [f".read {tmp_path}/questions.sql"]


def test_completion_survives_a_database_that_cannot_answer(session: ShellSession) -> None:
    session.close()
    assert offered(StatementCompleter(session), "SELECT MODEL CORR a") != []


# ---- colours


def test_words_are_coloured_by_what_they_are() -> None:
    text = "SELECT MODELS -- c\n CORR my-on-net 95% ON memory < 80 MB AND tags HAS 'on' LIMIT $n;"
    tokens = {value: kind for kind, value in StatementLexer().get_tokens(text)}
    assert tokens["SELECT"] is Keyword
    assert tokens["memory"] is Name.Builtin
    assert tokens["my-on-net"] is Name
    assert tokens["80 MB"] is Number
    assert tokens["95%"] is Number
    assert tokens["'on'"] is String
    assert tokens["$n"] is Name.Variable
    assert tokens["-- c"] is Comment


def test_the_lexer_loses_no_character() -> None:
    text = "SELECT é ' open \" $ ? .5 \\x <> /* open"
    assert "".join(value for _, value in StatementLexer().get_tokens(text)).rstrip("\n") == text


# ---- a real terminal


class Terminal:
    """The shell on a pseudo-terminal of its own."""

    def __init__(self, *arguments: str, cwd: Path, command: tuple[str, ...] = COMMAND) -> None:
        self.end, inside = pty.openpty()
        self.text = ""
        self.process = subprocess.Popen(
            [*command, *arguments],
            stdin=inside,
            stdout=inside,
            stderr=inside,
            cwd=cwd,
            start_new_session=True,
            preexec_fn=lambda: _take_terminal(0),
        )
        os.close(inside)

    def wait_for(self, text: str, seconds: float = 30.0) -> str:
        """Everything since the last wait up to `text`, once it is there."""
        deadline = time.monotonic() + seconds
        while text not in self.text:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} did not appear in {self.text!r}"
            if select.select([self.end], [], [], left)[0]:
                try:
                    received = os.read(self.end, 65536).decode(errors="replace")
                except OSError:  # the shell left
                    received = ""
                if "\x1b[6n" in received:  # prompt_toolkit asks where the cursor is
                    os.write(self.end, b"\x1b[1;1R")
                self.text += received
        seen, _, self.text = self.text.partition(text)
        return seen + text

    def type(self, keys: str) -> None:
        os.write(self.end, keys.encode())

    def close(self) -> int:
        code = self.process.wait(30)
        os.close(self.end)
        return code


def _take_terminal(descriptor: int) -> None:
    import fcntl
    import termios

    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)


@pytest.fixture
def terminal(database: Path, home: Path, tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(str(database), "--color", "never", cwd=tmp_path)
    yield terminal
    if terminal.process.poll() is None:
        terminal.process.kill()
        terminal.process.wait()


def test_on_a_terminal_answers_are_tables_with_a_footer(terminal: Terminal) -> None:
    terminal.wait_for("3 models in ")
    terminal.wait_for("sommelier>")
    terminal.type("SELECT MODELS name, params ORDER BY name;\r")
    seen = terminal.wait_for("3 rows (")
    assert "│ alpha │     15 │" in seen
    terminal.wait_for("sommelier>")
    terminal.type("\x04")
    assert terminal.close() == 0


def test_ctrl_c_ends_watch_and_keeps_the_shell(terminal: Terminal) -> None:
    terminal.wait_for("sommelier>")
    terminal.type(".watch 0.2 SHOW POOLS\r")
    terminal.wait_for("Every 0.2 s: SHOW POOLS")
    terminal.type("\x03")
    terminal.wait_for("sommelier>")
    terminal.type(".echo still here\r")
    terminal.wait_for("still here\r\n")
    terminal.wait_for("sommelier>")
    terminal.type(".quit 4\r")
    assert terminal.close() == 4


def test_a_database_that_is_being_written_is_opened_read_only(
    database: Path, home: Path, tmp_path: Path
) -> None:
    from sommelier.connection import connect

    with connect(database):
        terminal = Terminal("shell", str(database), "--color", "never", cwd=tmp_path)
        seen = terminal.wait_for("sommelier>")
        assert "Read-only: " in seen
        assert f"process {os.getpid()}" in seen
        terminal.type("DROP MODEL alpha;\r")
        terminal.wait_for("[y/N]")
        terminal.type("y\r")
        terminal.wait_for("Storage Error: ")
        terminal.wait_for("sommelier>")
        terminal.type("\x04")
        assert terminal.close() == 0


def test_sigterm_ends_the_shell(terminal: Terminal) -> None:
    terminal.wait_for("sommelier>")
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.close() != 0
