"""Jobs in the background: statements go on beside them, and none of them ends without a word."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sommelier.connection import connect
from sommelier.connection.background import BackgroundJob
from sommelier.connection.connection import Connection
from sommelier.engine.result import Result, Table
from sommelier.errors import (
    AnalysisError,
    BinderError,
    CancelledError,
    ReadOnlyError,
    StorageError,
    UnknownNameError,
)
from tests.storage.catalog_factories import plain_model

SOON = 30.0  # seconds within which a busy machine gets round to anything here


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.sommelier"


@pytest.fixture
def db(path: Path) -> Iterator[Connection]:
    with connect(path) as opened:
        yield opened


class Search:
    """Work that goes on until it is let go, or told to stop."""

    def __init__(self, said: str = "found one") -> None:
        self.said = said
        self.begun = threading.Event()
        self.go = threading.Event()
        self.job: BackgroundJob | None = None

    def __call__(self, job: BackgroundJob) -> str:
        self.job = job
        job.progress("training", 3, 12, "candidate 7")
        self.begun.set()
        while not self.go.wait(0.01):
            if job.cancelled():
                raise CancelledError("the search was stopped", hint="it can go on from step 3")
        return self.said


def started(db: Connection, work: Search, **options: tuple[str, str]) -> int:
    number = db.background.start("CREATE MODEL m AS FUSION OF a, b ASYNC", work, **options)
    assert work.begun.wait(SOON)
    return number


def told(db: Connection, text: str, params: dict[str, object] | None = None) -> Table:
    answer = db.execute(text, params)
    assert isinstance(answer, Table)
    return answer


# ---- beside statements


def test_statements_are_answered_and_change_the_database_while_a_job_runs(db: Connection) -> None:
    work = Search()
    number = started(db, work)
    db.catalog.add_model(plain_model("a"))
    assert len(db.query("SELECT MODELS")) == 1
    db.execute("CREATE POOL p AS SELECT MODELS")
    work.go.set()
    job = db.wait(number, SOON)
    assert (job.state, job.reason, job.progress) == ("done", "found one", 1.0)
    assert job.finished_at is not None


def test_a_job_goes_on_while_a_statement_holds_the_connection(db: Connection) -> None:
    work = Search()
    number = started(db, work)
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with db._lock:  # as a long statement does
            inside.set()
            assert leave.wait(SOON)

    statement = threading.Thread(target=hold)
    statement.start()
    assert inside.wait(SOON)
    work.go.set()
    assert db.wait(number, SOON).state == "done"
    leave.set()
    statement.join()


def test_show_jobs_tells_of_this_moment(db: Connection) -> None:
    work = Search()
    number = started(db, work)
    (row,) = told(db, "SHOW JOBS").dicts()
    assert (row["id"], row["state"], row["progress"]) == (number, "running", 0.25)
    assert row["now"] == "training 3/12 candidate 7"
    took = row["took_ms"]
    assert isinstance(took, float)
    ((doing, elapsed, background),) = db.sql("SELECT doing, elapsed_ms, background FROM jobs").rows
    assert isinstance(elapsed, int)
    assert (doing, background) == ("training 3/12 candidate 7", True)
    assert elapsed >= took - 1
    assert db.jobs()[0].doing == doing
    work.go.set()
    db.wait(number, SOON)
    (row,) = told(db, "SHOW JOBS").dicts()
    assert (row["state"], row["now"], row["reason"]) == ("done", None, "found one")


def test_progress_is_no_change_for_which_indexes_are_read_anew(db: Connection) -> None:
    work = Search()
    started(db, work)
    before = db.catalog.generation
    assert db.jobs()[0].doing is not None
    assert db.catalog.generation == before


def test_readers_of_another_process_see_a_job_and_its_progress(
    db: Connection, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sommelier.connection.background.NOTE_EVERY_S", 0.0)
    work = Search()
    number = started(db, work)
    asked = (
        "from sommelier.connection import connect; import sys;"
        "print(connect(sys.argv[1], read_only=True).execute('SHOW JOBS').dicts()[0])"
    )
    seen = subprocess.run(
        [sys.executable, "-c", asked, path], capture_output=True, text=True, check=True
    ).stdout
    assert f"'id': {number}, 'state': 'running', 'progress': 0.25" in seen
    assert "training 3/12 candidate 7" in seen
    work.go.set()


def test_rows_are_of_one_moment_while_a_job_adds_models(db: Connection) -> None:
    """A question once planned on one numbering of rows and executed on the next."""
    for i in range(20):
        db.catalog.add_model(plain_model(f"m{i}", task="t"))
    go_on = threading.Event()

    def add(job: BackgroundJob) -> str:
        count = 0
        while not go_on.is_set():
            db.catalog.add_model(plain_model(f"n{count}", task="t"))
            count += 1
        return str(count)

    number = db.background.start("add", add)
    for _ in range(60):
        result = db.execute("SELECT MODELS name WHERE task = 't' ORDER BY name")
        assert isinstance(result, Result)
        assert result.matched == len(result) >= 20
    go_on.set()
    job = db.wait(number, SOON)
    assert job.state == "done"
    assert len(db.query("SELECT MODELS")) == 20 + int(job.reason or 0)


# ---- stopping


def test_ctrl_c_of_a_statement_does_not_reach_a_job(db: Connection) -> None:

    def use(job: BackgroundJob) -> str:
        for i in range(20):
            db.catalog.sql("SELECT count(*) FROM range(1000000)")
            db.catalog.add_model(plain_model(f"m{i}"))
        return "undisturbed"

    number = db.background.start("use", use)
    while len(db.background):
        db.cancel()
    job = db.wait(number, SOON)
    assert (job.state, job.reason) == ("done", "undisturbed")


def test_a_statement_is_cancelled_while_a_job_runs(db: Connection) -> None:
    work = Search()
    number = started(db, work)
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            db.sql(
                "SELECT count(*) FROM range(100000) a, range(10000000) b WHERE a.range < b.range"
            )
        except BaseException as error:
            errors.append(error)

    statement = threading.Thread(target=ask)
    statement.start()
    while statement.is_alive():
        db.cancel()
        statement.join(0.05)
    assert isinstance(errors[0], CancelledError)
    assert db.jobs()[0].state == "running"
    work.go.set()
    assert db.wait(number, SOON).state == "done"


def test_cancel_job_answers_what_became_of_it(db: Connection) -> None:
    number = started(db, Search())
    table = told(db, f"CANCEL JOB {number}")
    assert table.rows[0][:2] == ("cancelled", f"job {number}")
    assert "it can go on from step 3" in table.notes[0]
    (job,) = db.jobs()
    assert job.state == "cancelled"
    assert "stopped" in (job.reason or "")
    assert db.background.ended() == []  # who cancelled it knows


def test_the_number_of_a_job_may_be_a_parameter(db: Connection) -> None:
    number = started(db, Search())
    assert told(db, "CANCEL JOB $job", {"job": number}).rows[0][0] == "cancelled"


def test_what_is_no_number_is_told_from_a_job_there_is_not(db: Connection) -> None:
    for ask in (db.wait, db.cancel_job):
        with pytest.raises(BinderError, match="'x' is not the number of a job"):
            ask("x")  # type: ignore[arg-type]  # as a notebook may


def test_a_job_that_takes_long_to_stop_is_said_to_be_cancelling(
    db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, leave = threading.Event(), threading.Event()

    def slow(job: BackgroundJob) -> str:
        while not job.cancelled():
            stopped.wait(0.01)
        assert leave.wait(SOON)
        return "kept the best so far"

    number = db.background.start("slow", slow)
    assert db.background.cancel(number, timeout=0.05).state == "running"
    leave.set()
    job = db.wait(number, SOON)
    assert (job.state, job.reason) == ("done", "kept the best so far")


def test_what_cannot_be_cancelled_says_why(db: Connection, path: Path) -> None:
    work = Search()
    number = started(db, work)
    with pytest.raises(UnknownNameError, match="no job 77") as unknown:
        db.execute("CANCEL JOB 77")
    assert unknown.value.suggestions == (str(number),)
    assert unknown.value.text == "CANCEL JOB 77"
    with connect(path, read_only=True) as reader:
        with pytest.raises(ReadOnlyError, match=f"run by process {os.getpid()}"):
            reader.execute(f"CANCEL JOB {number}")
        with pytest.raises(BinderError, match=f"run by process {os.getpid()}"):
            reader.wait(number)
        with pytest.raises(ReadOnlyError):
            reader.execute("CREATE MODEL m AS FUSION OF a, b ASYNC")
    work.go.set()
    db.wait(number, SOON)
    with pytest.raises(BinderError, match=rf"job {number} has ended \(done at"):
        db.cancel_job(number)
    waited_for = db.background._queue.start_job("ANALYZE ALL", ())
    with pytest.raises(BinderError, match="not one in the background"):
        db.cancel_job(waited_for.id)


def test_a_failed_job_keeps_the_reason_and_the_connection_goes_on(db: Connection) -> None:
    def fail(job: BackgroundJob) -> str:
        raise AnalysisError("a and b read different inputs")

    def bug(job: BackgroundJob) -> str:
        raise ZeroDivisionError("division by zero")

    first = db.wait(db.background.start("fail", fail), SOON)
    second = db.wait(db.background.start("bug", bug), SOON)
    assert (first.state, first.reason) == ("failed", "a and b read different inputs")
    assert (second.state, second.reason) == ("failed", "ZeroDivisionError: division by zero")
    assert [job.id for job in db.background.ended()] == [first.id, second.id]
    assert db.background.ended() == []
    assert told(db, "SHOW MODELS").rows == []


def test_wait_gives_up_after_its_time_and_passes_on_progress(db: Connection) -> None:
    work = Search()
    number = started(db, work)
    steps: list[tuple[object, ...]] = []
    assert db.wait(number, 0.15, progress=lambda *step: steps.append(step)).state == "running"
    assert steps == [("training", 3, 12, "candidate 7")]
    work.go.set()
    assert db.wait(number).state == "done"
    assert db.wait(number, 0.0).state == "done"


# ---- names


def test_a_name_that_a_running_job_will_give_is_taken(db: Connection) -> None:
    work = Search()
    number = started(db, work, makes=("model", "m"))
    with pytest.raises(BinderError, match=f"model 'm' is being made by job {number}"):
        db.background.start("again", Search(), makes=("model", "m"))
    db.catalog.add_model(plain_model("a"))
    with pytest.raises(BinderError, match=f"being made by job {number}") as refused:
        db.execute("CREATE MODEL m AS GRAFT a INTO a AT SEGMENT 's'")
    assert refused.value.span is not None
    work.go.set()
    db.wait(number, SOON)
    assert db.background.maker("model", "m") is None


# ---- leaving


def test_closing_stops_jobs_and_says_so_in_the_database(path: Path) -> None:
    db = connect(path)
    work = Search()
    number = started(db, work)
    db.close()
    db.close()
    assert work.job is not None
    assert work.job.stop_reason == "interrupted"
    with connect(path, read_only=True) as again:
        (job,) = again.jobs()
        assert (job.id, job.state) == (number, "interrupted")
        assert "it can go on from step 3" in (job.reason or "")
        assert job.finished_at is not None
    with pytest.raises(StorageError, match="closed"):
        db.background.start("late", Search())


def test_closing_waits_for_all_jobs_where_how_they_ended_cannot_be_kept(path: Path) -> None:
    db, leave = connect(path), threading.Event()
    begun = [threading.Event(), threading.Event()]

    def deaf(place: int) -> Callable[[BackgroundJob], str]:
        def work(_job: BackgroundJob) -> str:
            begun[place].set()
            assert leave.wait(SOON)
            return "never heard"

        return work

    for place in range(2):
        db.background.start(f"deaf {place}", deaf(place))
    assert all(event.wait(SOON) for event in begun)
    db.catalog.close()
    db.background.close(timeout=0.1)
    assert len(db.background) == 0
    leave.set()


def test_closing_does_not_wait_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, leave, left = threading.Event(), threading.Event(), threading.Event()
    db = connect(path)

    def deaf(job: BackgroundJob) -> str:
        begun.set()
        assert leave.wait(SOON)
        try:
            db.catalog.add_model(plain_model("late"))
        finally:
            left.set()
        return "never heard"

    number = db.background.start("deaf", deaf)
    assert begun.wait(SOON)
    begin = time.monotonic()
    db.background.close(timeout=0.1)
    db.close()
    assert time.monotonic() - begin < SOON / 2
    leave.set()
    assert left.wait(SOON)
    with connect(path) as again:
        (job,) = again.jobs()
        assert (job.id, job.state) == (number, "interrupted")
        assert again.names("model") == []


RUNNER = """
import sys, threading
from sommelier.connection import connect
db = connect(sys.argv[1])
def work(job):
    from concurrent.futures import ThreadPoolExecutor
    job.progress("training", 1, 4)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(search, job).result()
def search(job):
    print("begun", flush=True)
    while not job.cancelled():
        threading.Event().wait(0.01)
    from sommelier.errors import CancelledError
    raise CancelledError("stopped when the program ended")
db.background.start("CREATE MODEL m AS FUSION OF a, b ASYNC", work)
if sys.argv[2] == "stay":  # else Python waits for the executor at its end
    threading.Event().wait()
"""


def program(path: Path, then: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(path), then], stdout=subprocess.PIPE, text=True
    )


def test_a_killed_process_leaves_its_jobs_interrupted(path: Path) -> None:
    process = program(path, "stay")
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    with connect(path) as db:
        (job,) = db.jobs()
        assert (job.state, job.finished_at) == ("interrupted", None)
        assert job.reason == f"process {process.pid} ended while it ran"
        assert told(db, "SHOW JOBS").dicts()[0]["took_ms"] is None


def test_a_program_that_ends_without_closing_stops_its_jobs_first(path: Path) -> None:
    process = program(path, "leave")
    assert process.wait(SOON) == 0
    with connect(path) as db:
        (job,) = db.jobs()
        assert (job.state, job.reason) == ("interrupted", "stopped when the program ended")


def test_closing_counts_more_than_a_cancellation(path: Path) -> None:
    """A cancelled search finishes what it has; one whose database closes must not."""
    begun = threading.Event()

    def finishing(job: BackgroundJob) -> str:
        begun.set()
        while job.stop_reason != "interrupted":
            threading.Event().wait(0.01)
        raise CancelledError("closing")

    db = connect(path)
    number = db.background.start("finishing", finishing)
    assert begun.wait(SOON)
    assert db.background.cancel(number, timeout=0.0).state == "running"
    db.close()
    with connect(path, read_only=True) as again:
        assert again.jobs()[0].state == "interrupted"
