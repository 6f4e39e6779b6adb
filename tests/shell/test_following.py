"""What a serving process asks of its database, and when: real databases, real processes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import sommelier as sm
from sommelier.records import Measurement, Provenance
from sommelier.runtime.server.service import ModelService
from sommelier.shell.following import Follower
from sommelier.shell.served import ServedDatabase
from sommelier.shell.serving_plan import Wanted, serving_plan
from sommelier.storage.noticing import ChangeWatch
from tests.asking import rows
from tests.factories import mlp_classifier
from tests.runtime.server.asking import ready

X = {"x": np.ones((1, 4), np.float32)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with zoo.sommelier: models a, said to take 500 ms, and b; `vision` has both."""
    folder = tmp_path_factory.mktemp("made")
    for seed, name in enumerate("ab"):
        mlp_classifier(folder / f"{name}.onnx", seed=seed)
    with sm.connect(folder / "zoo.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM folder '{folder}/*.onnx'")
        for percentile in (50, 99):
            measured = Measurement(
                db.catalog.resolve("a").id, "latency", 500.0, Provenance.MEASURED, "onnxruntime",
                device="cpu", batch=1, percentile=percentile, threads=1,
            )  # fmt: skip
            db.catalog.add_measurements([measured])
        db.execute("DEPLOY (SELECT MODELS ORDER BY name) AS vision ROUTE BY fixed")
    return folder


@pytest.fixture
def database(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "own")
    return tmp_path / "own" / "zoo.sommelier"


@contextmanager
def followed(
    database: Path, *, write: bool = True
) -> Iterator[tuple[Follower, ServedDatabase, ModelService]]:
    """Without its threads: the test says when to look and when to write."""
    wanted = Wanted(str(database), None, (), None)
    plan = serving_plan(wanted)
    served = ServedDatabase(wanted)
    service = ready(served.start(plan))
    follower = Follower(wanted, served, plan, write=write)
    yield follower, served, service
    follower.close()
    served.close()


def test_its_own_writes_are_no_news_and_those_of_others_are(database: Path) -> None:
    with followed(database) as (follower, _, service):
        (running,) = service.deployments
        for _ in range(10):
            running.infer(X)
        assert not follower.look()
        assert follower.write()
        assert not follower.look()
        with sm.connect(database) as db:
            db.execute("DEPLOY MODEL b AS second")
        follower._ask_from_s = 0.0  # it asks a fifth of the time at most
        assert follower.look()
        assert service.names == ("vision", "second")
        assert not follower.look()


def test_other_times_than_planned_are_written_and_planned_by_once(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="sommelier")
    with sm.connect(database) as db:
        db.execute(
            "DEPLOY OR REPLACE (SELECT MODELS WHERE served_requests IS NULL OR served_latency >"
            " 400 ms ORDER BY name LIMIT 1) AS vision"
        )
    with followed(database) as (follower, _, service):
        (running,) = service.deployments
        assert running.models == ("a",)
        for _ in range(120):
            running.infer(X)
        assert follower.look()
        assert running.models == ("b",), "the statement asks for what was measured just now"
        assert "not the 500 ms planned by" in caplog.text
        for _ in range(120):
            running.infer(X)
        follower._ask_from_s = 0.0
        assert not follower.look()
    with sm.connect(database, read_only=True) as db:
        found = {str(row["name"]): row["served_requests"] for row in rows(
            db, "SELECT MODELS name, served_requests")}  # fmt: skip
    assert found == {"a": 120, "b": 120}


def test_what_is_wrong_with_a_plan_is_a_warning_and_the_rest_goes_on(database: Path) -> None:
    with sm.connect(database) as db:
        db.execute("CREATE POOL mine AS SELECT MODELS")
        db.execute("DEPLOY POOL mine AS pooled")
    with followed(database) as (follower, _, service):
        with sm.connect(database) as db:
            db.execute("DROP POOL mine")
            db.execute("DEPLOY OR REPLACE MODEL b AS vision")
        assert follower.look()
        known = {running.name: running for running in service.deployments}
        assert known["vision"].models == ("b",)
        assert any("stays as it was" in told for told in known["pooled"].state().warnings)
        assert known["pooled"].infer(X).outputs


def test_a_database_that_cannot_be_read_changes_nothing_and_is_asked_again(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with followed(database) as (follower, _, service):
        whole = database.read_bytes()
        database.write_bytes(b"no database" * 100)
        assert not follower.look()
        assert service.names == ("vision",)
        follower._ask_from_s = 0.0
        assert not follower.look()
        assert caplog.text.count("stays as it was") == 1
        database.write_bytes(whole)
        follower._ask_from_s = 0.0
        assert follower.look()
        assert service.names == ("vision",)


def test_without_a_right_to_write_figures_are_not_kept(database: Path) -> None:
    with followed(database, write=False) as (follower, _, service):
        service.deployments[0].infer(X)
        assert not follower.write()
    with sm.connect(database, read_only=True) as db:
        assert db.catalog.served() == []


def test_requests_that_were_accepted_are_answered_after_undeploy(database: Path) -> None:
    with followed(database) as (follower, served, service):
        (running,) = service.deployments
        tickets = [running.submit(X) for _ in range(50)]
        with sm.connect(database) as db:
            db.execute("UNDEPLOY vision")
        assert follower.look()
        assert service.names == ()
        assert service.ready()
        assert all(ticket.result(30).outputs for ticket in tickets)
        assert sum(figure.requests for figure in served.ledger.figures()) == 50


WRITER = """
import sys, time, sommelier as sm
with sm.connect(sys.argv[1]) as db:
    db.execute("DEPLOY MODEL b AS second")
    print("deployed", flush=True)
    sys.stdin.readline()
    db.catalog.drop_deployment("second")  # not published: a statement would do that at its end
    print("dropped", flush=True)
    time.sleep(600)
"""


def test_the_files_tell_what_another_process_changed(database: Path) -> None:
    def version() -> str:
        with sm.connect(database, read_only=True) as db:
            return db.catalog.version

    watch, before = ChangeWatch(database), version()
    assert not watch.changed(before)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdin is not None
    assert writer.stdout is not None
    try:
        assert writer.stdout.readline() == "deployed\n"
        assert watch.changed(before)
        assert not watch.changed(before), "told once"
        watch.forget()
        assert watch.changed(before)
        between = version()
        assert between != before
        writer.stdin.write("go on\n")
        writer.stdin.flush()
        assert writer.stdout.readline() == "dropped\n"
        assert not watch.changed(between), "what it has not published yet is for nobody"
        assert version() == between
    finally:
        writer.kill()
        writer.wait()
    assert watch.changed(between), "what a killed one left is news"
    assert version() != between
