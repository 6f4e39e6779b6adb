"""Background jobs in the shell: announced when they end, waited for or asked about on leaving."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from sommelier.connection import connect
from sommelier.connection.background import BackgroundJob
from sommelier.errors import AnalysisError, CancelledError
from sommelier.records import Job
from sommelier.shell.exits import ExitCode
from sommelier.shell.jobs import finish
from sommelier.shell.repl import Repl
from sommelier.shell.session import ShellSession
from tests.shell.test_repl import CTRL_C, CTRL_D, ENTER, Terminal

SOON = 30.0
STATEMENT = "CREATE MODEL ab AS FUSION OF alpha, beta ASYNC"
Said = Callable[[], str]


@pytest.fixture
def said(tmp_path: Path) -> Said:
    return lambda: (tmp_path / "err.txt").read_text(encoding="utf-8")


@pytest.fixture
def own(home: Path, tmp_path: Path, session: ShellSession) -> Iterator[ShellSession]:
    """The session, over a database of its own."""
    session.open(str(tmp_path / "own.sommelier"))
    yield session
    session.close()


def typed(session: ShellSession, keys: str) -> int:
    session.interactive = True
    with create_pipe_input() as source:
        source.send_text(keys)
        return Repl(session, input=source, output=DummyOutput()).run()


class Search:
    """Work that goes on until it is let go, or told to stop."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()

    def __call__(self, job: BackgroundJob) -> str:
        job.progress("training", 3, 12, "candidate 7")
        self.begun.set()
        while not self.go.wait(0.01):
            if job.cancelled():
                raise CancelledError("the search was stopped")
        return "1.8x faster"


def started(session: ShellSession, work: Search) -> int:
    number = session.connection.background.start(STATEMENT, work)
    assert work.begun.wait(SOON)
    return number


def job_of(session: ShellSession) -> Job:
    with connect(session.connection.path, read_only=True) as db:
        return db.jobs()[-1]


def test_a_job_that_ended_is_announced_before_the_next_prompt_and_once(
    own: ShellSession, said: Said
) -> None:
    work = Search()
    number = started(own, work)
    work.go.set()
    own.connection.wait(number, SOON)
    assert typed(own, ENTER + CTRL_D) == 0
    assert said().count(f"[{number}] done in ") == 1
    assert said().endswith(f": {STATEMENT}\n  1.8x faster\n")


def test_a_script_waits_for_its_jobs(own: ShellSession, said: Said) -> None:
    work = Search()
    number = started(own, work)
    own.set(progress="plain")
    threading.Timer(0.3, work.go.set).start()
    finish(own)
    assert own.exit_code == ExitCode.OK
    lines = said().splitlines()
    assert lines[:2] == [
        f"waiting for job {number}; Ctrl-C cancels",
        "training 3/12 candidate 7",
    ]
    assert lines[2].startswith(f"[{number}] done in ")


def test_a_script_whose_job_failed_has_failed(own: ShellSession, said: Said) -> None:
    def fail(job: BackgroundJob) -> str:
        raise AnalysisError("alpha and beta read different inputs")

    own.connection.background.start(STATEMENT, fail)
    finish(own)
    assert own.exit_code == ExitCode.QUERY_ERROR
    assert "alpha and beta read different inputs" in said()


def test_ctrl_c_while_a_script_waits_cancels_the_job(own: ShellSession, said: Said) -> None:
    number = started(own, Search())
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    finish(own)
    assert own.exit_code == ExitCode.INTERRUPTED
    assert own.connection.wait(number).state == "cancelled"
    assert f"[{number}] cancelled after " in said()


def test_leaving_asks_about_running_jobs_and_stays_by_default(
    own: ShellSession, said: Said
) -> None:
    number = started(own, Search())
    assert typed(own, ".quit 4" + ENTER + ENTER + ".echo here" + ENTER + CTRL_D + "s" + ENTER) == 0
    assert f"leave once more to stop job {number}" in said()
    assert "here" in (Path(own.console.out.name)).read_text()


def test_who_leaves_twice_in_a_row_leaves(own: ShellSession) -> None:
    number = started(own, Search())
    path = own.connection.path
    assert typed(own, CTRL_D + CTRL_C + CTRL_D) == 0
    own.close()
    with connect(path, read_only=True) as db:
        (job,) = db.jobs()
        assert (job.id, job.state, job.reason) == (number, "interrupted", "the search was stopped")


def test_leaving_may_wait_for_the_job(own: ShellSession, said: Said) -> None:
    work = Search()
    number = started(own, work)
    threading.Timer(0.5, work.go.set).start()
    assert typed(own, CTRL_D + "w" + ENTER) == 0
    assert f"[{number}] done in " in said()


def test_opening_another_database_asks_too(own: ShellSession, tmp_path: Path) -> None:
    started(own, Search())
    before = own.connection.path
    other = tmp_path / "other.sommelier"
    keys = f".open {other}{ENTER}{ENTER}{CTRL_D}s{ENTER}"
    assert typed(own, keys) == 0
    assert own.connection.path == before


SHELL = """
import sys, threading
from sommelier.errors import CancelledError
from sommelier.shell.config import load_config
from sommelier.shell.console import Console
from sommelier.shell.repl import Repl
from sommelier.shell.session import ShellSession

def work(job):
    job.progress("training", 3, 12, "candidate 7")
    while not job.cancelled():
        threading.Event().wait(0.01)
    raise CancelledError("the search was stopped")

session = ShellSession(load_config({}, environ={}), Console(color="never"), interactive=True)
session.open(sys.argv[1])
session.connection.background.start("CREATE MODEL ab AS FUSION OF alpha, beta ASYNC", work)
code = Repl(session).run()
session.close()
sys.exit(code)
"""


def test_on_a_terminal_a_job_is_shown_and_cancelled(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.sommelier"
    terminal = Terminal(str(path), cwd=tmp_path, command=(sys.executable, "-c", SHELL))
    try:
        terminal.wait_for("1 job running")
        terminal.type("SELECT state, doing FROM jobs;\r")
        terminal.wait_for("training 3/12 candidate 7")
        terminal.type("CANCEL JOB 1;\r")
        terminal.wait_for("│ cancelled │")
        terminal.wait_for("the search was stopped")
        terminal.wait_for("sommelier>")
        terminal.type("\x04")
        assert terminal.close() == 0
    finally:
        terminal.process.kill()
    with connect(path, read_only=True) as db:
        assert [job.state for job in db.jobs()] == ["cancelled"]
