"""Workers: processes that share the tasks of a catalog on a real server and lose none."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sommelier as sm
from sommelier.connection.working import Worker
from sommelier.errors import StorageError
from tests.factories import hanging_model, mlp_classifier
from tests.over_postgres import Databases

SOON = 120.0  # seconds within which a busy machine gets round to anything here
MODELS = 6
EQUIVALENCE = "ANALYZE ALL FOR EQUIVALENCE USING dataset = 'points' ASYNC"


@pytest.fixture(scope="module")
def zoo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toys")
    for index in range(MODELS):
        mlp_classifier(folder / f"m{index}.onnx", seed=index, hidden=(8,))
    np.save(folder / "points.npy", np.random.default_rng(0).normal(size=(80, 4)).astype("f4"))
    return folder


@pytest.fixture
def url(databases: Databases, tmp_path: Path) -> str:
    return databases.fresh(tmp_path / "server")


@pytest.fixture
def db(url: str, zoo_folder: Path, tmp_path: Path) -> Iterator[sm.Connection]:
    with sm.connect(url, folder=tmp_path / "files", workers="shared") as connection:
        connection.import_models("folder", f"{zoo_folder}/*.onnx")
        connection.register_dataset("points", zoo_folder / "points.npy")
        yield connection


class Process:
    """`sommelier worker` in a process of its own."""

    def __init__(self, url: str, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sommelier", "worker", "--db", url, *options],
            stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip

    def ended(self) -> tuple[int, str]:
        """(exit code, what it said)."""
        _, said = self.process.communicate(timeout=SOON)
        return self.process.returncode, said

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def started(url: str, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    processes: list[Process] = []

    def start(*options: str) -> Process:
        processes.append(Process(url, "--folder", str(tmp_path / "files"), *options))
        return processes[-1]

    yield start
    for found in processes:
        if found.process.poll() is None:
            found.kill()


def asked(db: sm.Connection, statement: str) -> int:
    """The number of the job."""
    outcome: Any = db.execute(statement)
    return int(outcome.dicts()[0]["job"])


def until(true: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + SOON
    while not (found := true()):
        assert time.monotonic() < end, what
        time.sleep(0.05)
    return found


def tasks(db: sm.Connection, job: int) -> list[dict[str, Any]]:
    return db.sql("SELECT * FROM job_tasks WHERE job_id = ?", [job]).dicts()


def expire(db: sm.Connection) -> None:
    """The leases run out, as they do after half a minute."""
    import psycopg

    server: Any = db.catalog.database
    with psycopg.connect(server.server.conninfo, autocommit=True) as raw:
        raw.execute("UPDATE store.tasks SET lease_until = localtimestamp - interval '1 second'")


def facts(db: sm.Connection) -> list[list[tuple[object, ...]]]:
    """What an analysis leaves, without times and numbers that tell the order."""
    return [
        db.sql("SELECT model, probe_set, kind, width FROM sketches ORDER BY 1, 2").rows,
        db.sql(
            "SELECT reference, candidate, agreements, samples FROM equivalences ORDER BY 1, 2"
        ).rows,
        db.sql("SELECT count(*), count(DISTINCT (model_id, probe_set_id)) FROM sketches").rows,
    ]


def test_two_workers_share_a_job_and_find_what_the_statement_itself_finds(
    db: sm.Connection, zoo_folder: Path, started: Callable[..., Process]
) -> None:
    job = asked(db, EQUIVALENCE)
    assert db.wait(job, 0.2).state == "running"
    workers = [started("--once", "--name", name) for name in ("ada", "bob")]
    ends = [worker.ended() for worker in workers]
    assert [code for code, _ in ends] == [0, 0], ends
    row = db.wait(job, SOON)
    found = tasks(db, job)
    assert (row.state, row.done, row.failed, row.reason) == (
        "done", MODELS + 1, 0, f"{MODELS} tasks done",
    ), [(task["reason"], task["log"]) for task in found]  # fmt: skip
    assert {task["attempts"] for task in found} == {1}
    assert {task["worker"] for task in found} <= {"ada", "bob"}
    with sm.connect(":memory:") as alone:
        alone.import_models("folder", f"{zoo_folder}/*.onnx")
        alone.register_dataset("points", zoo_folder / "points.npy")
        alone.execute(EQUIVALENCE.removesuffix(" ASYNC"))
        assert facts(alone) == facts(db)
    assert db.sql("SELECT alive FROM workers").rows == [(False,), (False,)]


def test_a_worker_killed_in_mid_task_loses_nothing_and_doubles_nothing(
    db: sm.Connection, tmp_path: Path, started: Callable[..., Process]
) -> None:
    hanging_model(tmp_path / "slow.onnx", trips=800_000)
    db.import_models("folder", f"{tmp_path}/slow.onnx")
    job = asked(db, "ANALYZE slow, m0, m1 FOR EQUIVALENCE USING samples = 1 ASYNC")
    killed = started("--name", "killed")
    query = (
        "SELECT model FROM job_tasks"
        " WHERE worker = 'killed' AND state = 'running' AND model = 'slow'"
    )
    until(lambda: db.sql(query).rows, "nobody took it")
    killed.kill()
    assert db.sql(query).rows, "its lease lasts"
    expire(db)
    code, said = started("--once", "--name", "heir").ended()
    assert code == 0, said
    row = db.wait(job, SOON)
    assert (row.state, row.failed) == ("done", 0), tasks(db, job)
    (slow,) = [task for task in tasks(db, job) if task["model"] == "slow"]
    assert (slow["worker"], slow["attempts"], slow["state"]) == ("heir", 2, "done")
    assert re.search(r"try 1: killed on .*\n.*its lease ran out; try 2: heir on", slow["log"])
    assert db.sql("SELECT count(*), count(DISTINCT model_id) FROM sketches").rows == [(3, 3)]


def test_a_task_that_kills_its_workers_is_set_aside_after_three_tries(
    db: sm.Connection, started: Callable[..., Process]
) -> None:
    job = asked(db, EQUIVALENCE)
    from sommelier.storage.postgres_leases import leases_of

    key = ""
    for number in range(3):  # three that claim it and are heard of no more
        leases = leases_of(db.catalog, name=f"victim{number}")
        leases.enter()
        task = leases.claim(job_id=job, key=key or None)
        assert task is not None
        key = task.key
        leases.leave()
        expire(db)
    assert started("--once").ended()[0] == 0
    row = db.wait(job, SOON)
    assert (row.state, row.failed, row.done) == ("done", 1, MODELS)
    (poison,) = [task for task in tasks(db, job) if task["key"] == key]
    assert (poison["state"], poison["attempts"]) == ("failed", 3)
    assert re.match(r"given up after 3 tries: .*the last was victim2 on ", poison["reason"])
    assert [line[20:32] for line in poison["log"].splitlines()] == [
        "try 1: victi", "its lease ra", "its lease ra", "its lease ra",
    ]  # fmt: skip
    (shown,) = db.execute("SHOW JOBS").dicts()  # type: ignore[union-attr]
    assert (shown["failed"], shown["reason"]) == (1, f"{MODELS - 1} tasks done, 1 failed")


def test_sigterm_lets_a_task_end_and_a_second_one_gives_it_back(
    db: sm.Connection, tmp_path: Path, started: Callable[..., Process]
) -> None:
    hanging_model(tmp_path / "hangs.onnx")
    db.import_models("folder", f"{tmp_path}/hangs.onnx")
    job = asked(db, "ANALYZE hangs FOR EQUIVALENCE USING samples = 1, time_limit = 10min ASYNC")
    worker = started("--name", "told")
    until(lambda: any(t["state"] == "running" for t in tasks(db, job)), "nobody took it")
    worker.process.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert worker.process.poll() is None, "it has 30 s of grace"
    worker.process.send_signal(signal.SIGTERM)
    code, said = worker.ended()
    assert code == 0, said
    (task, _) = tasks(db, job)
    assert (task["state"], task["attempts"], task["lease_until"]) == ("pending", 0, None)
    assert task["log"].endswith("given back by the worker")
    other = started("--grace", "0")
    until(lambda: tasks(db, job)[0]["state"] == "running", "nobody took it again")
    other.process.send_signal(signal.SIGTERM)
    assert other.ended()[0] == 0
    assert tasks(db, job)[0]["state"] == "pending"


def test_any_client_cancels_what_workers_do(
    db: sm.Connection, url: str, tmp_path: Path, started: Callable[..., Process]
) -> None:
    hanging_model(tmp_path / "hangs.onnx")
    db.import_models("folder", f"{tmp_path}/hangs.onnx")
    job = asked(db, "ANALYZE hangs FOR EQUIVALENCE USING samples = 1, time_limit = 10min ASYNC")
    worker = started("--name", "busy")
    until(lambda: tasks(db, job)[0]["state"] == "running", "nobody took it")
    with sm.connect(url, folder=tmp_path / "files") as other:
        (shown,) = other.execute("SHOW JOBS").dicts()  # type: ignore[union-attr]
        assert (shown["state"], shown["now"]) == ("running", "1 at workers, 1 waiting")
        assert other.sql("SELECT alive, doing FROM workers").rows == [(True, "sketch of hangs")]
        assert other.cancel_job(job).state == "cancelled"
    assert db.wait(job, SOON).state == "cancelled"
    until(lambda: db.sql("SELECT doing FROM workers").rows == [(None,)], "it goes on")
    again = asked(db, "ANALYZE m1 FOR EQUIVALENCE USING dataset = 'points' ASYNC")
    assert db.wait(again, SOON).state == "done", "it is free for others"
    worker.process.send_signal(signal.SIGTERM)
    assert worker.ended()[0] == 0


def test_what_was_taken_over_meanwhile_is_not_kept(
    db: sm.Connection, url: str, tmp_path: Path
) -> None:
    """A worker that slept past its lease finds that its task is another's."""
    job = asked(db, "ANALYZE m0 FOR EQUIVALENCE USING dataset = 'points' ASYNC")
    with (
        sm.connect(url, folder=tmp_path / "files") as one,
        sm.connect(url, folder=tmp_path / "files") as two,
    ):
        slow, quick = Worker(one, name="slow"), Worker(two, name="quick")
        task = slow._leases.claim()
        assert task is not None
        expire(db)
        assert quick.step()
        slow._do(task)
        quick.close()
        slow.close()
    (kept, _) = tasks(db, job)
    assert (kept["worker"], kept["state"], kept["attempts"]) == ("quick", "done", 2)
    assert db.sql("SELECT count(*) FROM sketches").rows == [(1,)]


def test_gpu_tasks_wait_for_workers_that_have_the_device(
    db: sm.Connection, started: Callable[..., Process]
) -> None:
    outcome: Any = db.execute("ANALYZE m0 FOR LATENCY USING device = 'cuda:0', runs = 2 ASYNC")
    job = outcome.dicts()[0]["job"]
    assert any("1 of the tasks waits for a worker with cuda:0" in note for note in outcome.notes)
    assert started("--once").ended()[0] == 0
    (task, _) = tasks(db, job)
    assert (task["state"], task["device"], task["attempts"]) == ("pending", "cuda:0", 0)
    from sommelier.storage.postgres_leases import leases_of

    leases = leases_of(db.catalog, device="cuda:0")
    claimed = leases.claim()
    assert claimed is not None
    assert claimed.key == task["key"]
    leases.give_back(claimed, "no test has one", counts=False)
    leases.leave()
    code, said = started("--device", "cuda:99").ended()
    assert (code, "cuda:99" in said) == (2, True), said


def test_what_another_job_did_is_not_done_again(db: sm.Connection) -> None:
    first = asked(db, EQUIVALENCE)
    second = asked(db, EQUIVALENCE)
    with_worker = Worker(db)
    with_worker.run(once=True)
    assert (db.wait(first, 0).state, db.wait(second, 0).state) == ("done", "done")
    assert db.wait(second, 0).skipped == MODELS
    assert db.sql("SELECT count(*) FROM sketches").rows == [(MODELS,)]


def test_workers_that_are_alive_get_the_job_unless_it_is_to_stay_here(
    db: sm.Connection, url: str, tmp_path: Path, started: Callable[..., Process]
) -> None:
    with sm.connect(url, folder=tmp_path / "files") as usual:
        job = asked(usual, EQUIVALENCE)  # nobody is alive: it runs here
        row = usual.wait(job, SOON)
        assert (row.state, row.done, row.process) == ("done", MODELS, os.getpid())
        started("--name", "ada")
        until(lambda: usual.sql("SELECT 1 FROM workers WHERE alive").rows, "it does not come")
        job = asked(usual, "ANALYZE ALL FOR RESOURCES ASYNC")
        assert usual.wait(job, SOON).state == "done"
        assert {task["worker"] for task in tasks(usual, job)} == {"ada"}
    with sm.connect(url, folder=tmp_path / "files", workers="here") as here:
        job = asked(here, "ANALYZE ALL FOR RESOURCES USING batch = 2 ASYNC")
        assert here.wait(job, SOON).state == "done"
        assert {task["worker"] for task in tasks(here, job)} == {None}


def test_a_job_goes_on_without_the_client_that_asked(
    db: sm.Connection, url: str, tmp_path: Path, started: Callable[..., Process]
) -> None:
    with sm.connect(url, folder=tmp_path / "files", workers="shared") as client:
        job = asked(client, EQUIVALENCE)
    assert db.wait(job, 0).state == "running"
    with sm.connect(url, folder=tmp_path / "files"):  # which marks what killed processes left
        assert db.wait(job, 0).state == "running"
    assert started("--once").ended()[0] == 0
    assert db.wait(job, SOON).state == "done"


def test_a_lost_server_connection_is_a_try_and_no_failure(
    db: sm.Connection, url: str, tmp_path: Path
) -> None:
    job = asked(db, EQUIVALENCE)
    with sm.connect(url, folder=tmp_path / "files") as own:
        worker = Worker(own, name="cut off")
        task = worker._leases.claim()
        assert task is not None
        worker._leases.give_back(task, "the connection was lost", counts=True)
        worker.run(once=True)
    found = tasks(db, job)
    assert {t["state"] for t in found} == {"done"}
    (tried,) = [t for t in found if t["key"] == task.key]
    assert tried["attempts"] == 2
    assert "the connection was lost" in tried["log"]


# ---- on a file


@pytest.mark.duckdb("it is about files")
def test_a_file_has_no_workers_and_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "m.sommelier"
    with sm.connect(path) as db, pytest.raises(StorageError, match="DuckDB file") as caught:
        Worker(db)
    assert "sommelier copy" in str(caught.value.hint)
    with pytest.raises(StorageError, match="DuckDB file"):
        sm.connect(path, workers="shared")
    with pytest.raises(StorageError, match="'many' is not known"):
        sm.connect(path, workers="many")
    code, said = Process(str(path)).ended()
    assert (code, "DuckDB file" in said) == (2, True), said


@pytest.mark.duckdb("it is about files")
def test_analyze_async_runs_in_the_background_of_a_file(zoo_folder: Path, tmp_path: Path) -> None:
    with sm.connect(tmp_path / "m.sommelier") as db:
        db.import_models("folder", f"{zoo_folder}/*.onnx")
        db.register_dataset("points", zoo_folder / "points.npy")
        job = asked(db, EQUIVALENCE)
        row = db.wait(job, SOON)
        assert (row.state, row.total, row.done, row.background) == ("done", MODELS, MODELS, True)
        assert row.reason.startswith(f"sketch: {MODELS} done"), row.reason
        pairs = db.sql("SELECT count(*) FROM equivalences").rows
        assert pairs == [(MODELS * (MODELS - 1),)]
