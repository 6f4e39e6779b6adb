"""SHOW: what its rows hold as data, and how they read."""

from __future__ import annotations

import pytest

from sommelier.engine.session import Session
from sommelier.errors import BinderError
from sommelier.records import AnalysisTask
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
    assert first["took_ms"] == (done.finished_at - done.started_at).total_seconds() * 1e3
    assert running["took_ms"] > 0
    assert (first["total"], first["done"]) == (None, None)  # it is not made of tasks
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


def test_segments_looked_for_in_vain_are_told_from_segments_not_looked_for(
    own_shelf: Session,
) -> None:
    ask, queue = asker(own_shelf), TaskQueue(own_shelf.catalog)
    host, donor, third = own_shelf.catalog.models()[:3]
    text = f"SHOW SEGMENTS OF {host.name}, {donor.name}"
    analysis = f"ANALYZE {host.name}, {donor.name} FOR SEGMENTS"
    with pytest.raises(BinderError, match="are known in") as caught:
        ask(text)
    assert caught.value.hint == analysis
    for state, told in (("failed", "could not look for them: too wide"), ("done", "no segment in")):
        task = AnalysisTask(state, 0, "segments", host.id, {"donor_id": donor.id})
        job = queue.start_job(analysis, [task])
        queue.finish(queue.tasks(job.id)[0], state, "too wide" if state == "failed" else None)
        with pytest.raises(BinderError, match=told) as caught:
            ask(text)
    assert "compares it with another" in str(caught.value.hint)
    with pytest.raises(BinderError) as caught:
        ask(f"SHOW SEGMENTS OF {host.name}, {third.name}")
    assert caught.value.hint == f"ANALYZE {host.name}, {third.name} FOR SEGMENTS"
