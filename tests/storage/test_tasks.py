"""Jobs: every task is claimed once, done once, and survives the death of its process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sommelier.errors import UnknownNameError
from sommelier.records import AnalysisTask
from sommelier.storage.catalog import Catalog
from sommelier.storage.tasks import DONE_BEFORE, TaskQueue
from tests.storage.catalog_factories import plain_model, start


@pytest.fixture
def catalog() -> Iterator[Catalog]:
    with Catalog.open(":memory:") as opened:
        yield opened


def task(key: str, **fields: object) -> AnalysisTask:
    return AnalysisTask(key, 0, "latency", f"sha256:{key}", {"batch": 4, "runs": [1, 2]}, **fields)


def test_tasks_are_claimed_in_order_and_come_back_as_they_were(catalog: Catalog) -> None:
    queue = TaskQueue(catalog)
    given = [task("b"), task("a"), task("c", state="skipped", reason="no file"), task("b")]
    job = queue.start_job("ANALYZE ALL", given)
    assert (job.id, job.state, job.total, job.skipped) == (1, "running", 3, 1)
    first, second = queue.claim(job.id), queue.claim(job.id)
    assert first == replace(task("b"), job_id=1, state="running", attempts=1)
    assert second is not None
    assert second.key == "a"
    assert queue.claim(job.id) is None
    queue.finish(first, "done")
    queue.finish(second, "failed", "it crashed")
    assert [(t.key, t.state, t.reason) for t in queue.tasks(job.id)] == [
        ("b", "done", None),
        ("a", "failed", "it crashed"),
        ("c", "skipped", "no file"),
    ]
    finished = queue.finish_job(job.id)
    assert (finished.state, finished.done, finished.failed, finished.skipped) == ("done", 1, 1, 1)
    assert finished.finished_at is not None
    assert queue.jobs() == [finished]


def test_what_is_done_is_not_done_again_and_what_failed_is(catalog: Catalog) -> None:
    queue = TaskQueue(catalog)
    job = queue.start_job("ANALYZE ALL", [task("a"), task("b")])
    done, failed = queue.claim(job.id), queue.claim(job.id)
    assert done is not None
    assert failed is not None
    queue.finish(done, "done")
    queue.finish(failed, "failed", "a crash")
    again = queue.start_job("ANALYZE ALL", [task("a"), task("b")])
    assert (queue.is_done("a"), queue.is_done("b")) == (True, False)
    assert [(t.key, t.state, t.reason) for t in queue.tasks(again.id)] == [
        ("a", "skipped", DONE_BEFORE),
        ("b", "pending", None),
    ]


def test_a_task_of_a_dropped_model_is_no_longer_done(catalog: Catalog) -> None:
    queue = TaskQueue(catalog)
    model = catalog.add_model(plain_model("a")).record
    job = queue.start_job("ANALYZE a", [replace(task("k"), model_id=model.id)])
    claimed = queue.claim(job.id)
    assert claimed is not None
    queue.finish(claimed, "done")
    catalog.drop_model(model.id)
    assert not queue.is_done("k")


def test_a_task_and_its_findings_are_kept_together(catalog: Catalog) -> None:
    queue = TaskQueue(catalog)
    job = queue.start_job("ANALYZE ALL", [task("a")])
    claimed = queue.claim(job.id)
    assert claimed is not None

    def crash() -> None:
        with catalog.transaction():
            catalog.add_model(plain_model("finding"))
            queue.finish(claimed, "done")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        crash()
    assert catalog.model_names() == []
    assert not queue.is_done("a")


def test_threads_never_claim_the_same_task(catalog: Catalog) -> None:
    queue = TaskQueue(catalog)
    job = queue.start_job("ANALYZE ALL", [task(f"{i:03}") for i in range(60)])
    claimed: list[str] = []

    def work() -> None:
        while (mine := queue.claim(job.id)) is not None:
            claimed.append(mine.key)
            queue.finish(mine, "done")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == [f"{i:03}" for i in range(60)]
    assert queue.job(job.id).done == 60


def test_an_unknown_job_is_said(catalog: Catalog) -> None:
    with pytest.raises(UnknownNameError, match="there is no job 7"):
        TaskQueue(catalog).job(7)


KILLED = """
import sys
from sommelier.records import AnalysisTask
from sommelier.storage.catalog import Catalog
from sommelier.storage.tasks import TaskQueue
catalog = Catalog.open(sys.argv[1])
queue = TaskQueue(catalog)
job = queue.start_job("ANALYZE ALL", [AnalysisTask(k, 0, "latency", "m", {}) for k in "abc"])
queue.finish(queue.claim(job.id), "done")
queue.claim(job.id)
catalog.publish() if sys.argv[2] == "published" else None
print("working", flush=True)
sys.stdin.read()
"""


def killed_while_working(path: Path, how: str) -> None:
    """Leaves a job at the second of its three tasks."""
    process = start(KILLED, path, how)
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    with Catalog.open(path, read_only=True) as reader:  # the writer lives
        assert [job.state for job in TaskQueue(reader).jobs()] in ([], ["running"])
    process.kill()
    process.communicate()


@pytest.mark.duckdb("there are no snapshots")
@pytest.mark.parametrize("how", ["published", "unpublished"])
def test_a_reader_sees_a_killed_job_as_interrupted(tmp_path: Path, how: str) -> None:
    path = tmp_path / "m.sommelier"
    killed_while_working(path, how)
    for _ in range(2):
        with Catalog.open(path, read_only=True) as reader:
            (job,) = TaskQueue(reader).jobs()
            assert (job.state, job.done, job.finished_at) == ("interrupted", 1, None)
            assert [t.state for t in TaskQueue(reader).tasks(1)] == ["done", "pending", "pending"]
            assert reader.sql("SELECT state FROM jobs").rows == [("interrupted",)]


def test_a_killed_job_is_interrupted_and_its_tasks_wait(tmp_path: Path) -> None:
    path = tmp_path / "m.sommelier"
    killed_while_working(path, "unpublished")
    with Catalog.open(path) as catalog:
        queue = TaskQueue(catalog)
        assert queue.interrupt_stale() == 1
        assert queue.interrupt_stale() == 0
        (job,) = queue.jobs()
        assert (job.state, job.done) == ("interrupted", 1)
        assert [t.state for t in queue.tasks(1)] == ["done", "pending", "pending"]
        resumed = queue.start_job("ANALYZE ALL", [replace(task(k), model_id="m") for k in "abc"])
        assert [t.state for t in queue.tasks(resumed.id)] == ["skipped", "pending", "pending"]
