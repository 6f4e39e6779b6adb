"""SHOW: what its rows hold as data, and how they read."""

from __future__ import annotations

from sommelier.engine.session import Session
from sommelier.storage.tasks import TaskQueue
from tests.engine.conftest import asker


def test_jobs_start_to_the_second_in_text_and_exactly_in_data(own_shelf: Session) -> None:
    queue = TaskQueue(own_shelf.catalog)
    done = queue.finish_job(queue.start_job("ANALYZE ALL", []).id)
    queue.start_job("ANALYZE ALL FOR LATENCY", [])
    table = asker(own_shelf)("SHOW JOBS")
    running, first = table.dicts()
    assert first["started"] == done.started_at
    assert done.finished_at is not None
    assert first["took"] == (done.finished_at - done.started_at).total_seconds() * 1e3
    assert running["took"] > 0
    assert f"{done.started_at:%Y-%m-%d %H:%M:%S}  " in str(table)
    assert f"{done.started_at:%S.%f}" not in str(table)


def test_the_newest_jobs_come_first_and_like_narrows_by_their_statement(own_shelf: Session) -> None:
    queue = TaskQueue(own_shelf.catalog)
    for statement in ("ANALYZE ALL", "ANALYZE ALL FOR LATENCY", "ANALYZE MODEL a"):
        queue.start_job(statement, [])
    ask = asker(own_shelf)
    assert [row["statement"] for row in ask("SHOW JOBS LIMIT 2").dicts()] == [
        "ANALYZE MODEL a", "ANALYZE ALL FOR LATENCY",
    ]  # fmt: skip
    (found,) = ask("SHOW JOBS LIKE '%latency'").dicts()
    assert found["statement"] == "ANALYZE ALL FOR LATENCY"
