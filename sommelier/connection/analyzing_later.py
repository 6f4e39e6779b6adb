"""ANALYZE ... ASYNC: left to workers, or done in the background of this process."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING
from uuid import uuid4

from sommelier.errors import AnalysisError, CancelledError, SommelierError, StorageError
from sommelier.records import AnalysisTask
from sommelier.storage.tasks import COMPARISON, TaskQueue

if TYPE_CHECKING:
    from sommelier.analysis.jobs import AnalysisPlan
    from sommelier.connection.background import BackgroundJob
    from sommelier.connection.connection import Connection
    from sommelier.connection.statements import Call
    from sommelier.connection.working_on_ray import OnRay
    from sommelier.grammar import nodes
    from sommelier.records import Job, ModelRecord

WAIT_S = 0.5  # how soon a cancellation is passed on


def analyze_later(statement: nodes.Analyze, call: Call) -> tuple[str, tuple[str, ...], int]:
    """(what will be analyzed, notes, the number of the job). The job goes on without the connection
    where workers do it."""
    from sommelier.connection.analyzing import planned, titled
    from sommelier.grammar.formatter import format as format_statement

    db = call.db
    models, plan = planned(statement, call)
    text = format_statement(statement)
    devices = TaskQueue(db.catalog).living_workers()
    if is_on_ray(db):
        job = leave_to_workers(db, text, plan, devices)[0]
        _begin_on_ray(db, job)
        notes: tuple[str, ...] = ("on the Ray cluster",)
    elif db.workers == "shared" or (devices and db.workers is None):
        job, notes = leave_to_workers(db, text, plan, devices)
    else:
        job, notes = _here(db, text, models, plan), ()
    return titled(models), (*notes, *plan.remarks), job


def is_on_ray(db: Connection) -> bool:
    """Whether a connection has a Ray cluster do its analyses."""
    return db.workers is not None and not isinstance(db.workers, str)


def analyze_on_ray(
    statement: nodes.Analyze, call: Call
) -> tuple[str, int, tuple[str, ...], AnalysisError | None]:
    """What `analyzing.analyze` answers, of a cluster that is waited for. Raises CancelledError."""
    from sommelier.connection.analyzing import planned, titled
    from sommelier.grammar.formatter import format as format_statement

    db = call.db
    models, plan = planned(statement, call)
    number, _ = leave_to_workers(db, format_statement(statement), plan, [])
    job = _waited_for(_begin_on_ray(db, number), number, call)
    failure = None
    if job.state == "failed":
        failure = AnalysisError(
            f"every task of ANALYZE failed: {job.reason}",
            hint=f"SELECT model, reason, log FROM job_tasks WHERE job_id = {number}",
        )
    closed = 1  # the comparison
    return titled(models), max(0, job.done - closed), (job.reason or "", *plan.remarks), failure


def _waited_for(on_ray: OnRay, job_id: int, call: Call) -> Job:
    """The job when it has ended. One that is not waited for any longer is cancelled."""
    db = call.db
    try:
        while (job := db.wait(job_id, WAIT_S, progress=call.progress)).state == "running":
            if on_ray.error is not None:
                raise AnalysisError(f"the Ray cluster failed: {on_ray.error}")
            if call.cancelled():
                raise CancelledError(
                    "ANALYZE was cancelled",
                    hint=f"tasks kept: {job.done}; the same statement goes on from there",
                )
    except BaseException:
        with contextlib.suppress(SommelierError):  # it may have ended at this moment
            db.cancel_job(job_id)
        raise
    return job


def _begin_on_ray(db: Connection, job_id: int) -> OnRay:
    from sommelier.connection.working_on_ray import OnRay, RayCluster

    assert isinstance(db.workers, RayCluster), "asked before"
    try:
        return OnRay(db, db.workers, job_id)
    except BaseException:
        db.cancel_job(job_id)
        raise


def leave_to_workers(
    db: Connection, text: str, plan: AnalysisPlan, devices: list[str]
) -> tuple[int, tuple[str, ...]]:
    """(the number of a job that workers do, what is to be said of it).

    devices : of the workers that are alive. Raises StorageError for a DuckDB file.
    """
    from sommelier.analysis.frozen_plans import devices_of, frozen

    if not db.catalog.database.has_workers:
        raise no_workers(db.path)
    closing = AnalysisTask(f"{COMPARISON}:{uuid4().hex}", 0, COMPARISON, "", {})
    needed = devices_of(plan, plan.tasks)
    job = TaskQueue(db.catalog).start_job(
        text, [*plan.tasks, closing], background=True, plan=frozen(plan), devices=needed
    )
    count = len(devices)
    notes = [f"left to {count} worker{'s'[: count != 1]}: SELECT * FROM workers"]
    if not devices:
        notes = ["no worker is alive yet: sommelier worker --db ... starts one"]
    for device in sorted(set(needed.values()) - set(devices)):
        waiting = sum(found == device for found in needed.values())
        notes.append(
            f"{waiting} of the tasks wait{'s'[: waiting == 1]} for a worker with {device},"
            f" and none is alive: sommelier worker --device {device}"
        )
    return job.id, tuple(notes)


def no_workers(path: str) -> StorageError:
    """The error for a catalog that has one writer."""
    return StorageError(
        f"workers share a catalog on a PostgreSQL server, and {path} is a DuckDB file, which one"
        " process writes at a time",
        hint=f"sommelier copy {path} postgresql://user@host/database moves it to a server; on a"
        " file, ANALYZE ... USING workers = 4 runs four models side by side",
    )


def _here(db: Connection, text: str, models: list[ModelRecord], plan: AnalysisPlan) -> int:
    from sommelier.analysis.workers import Rooms, run_tasks
    from sommelier.connection.agreement_edges import add_edges
    from sommelier.connection.analyzing import failure_of, notes_of
    from sommelier.engine.session import Session

    tasks = TaskQueue(db.catalog)
    rooms = Rooms(db.catalog, db.artifacts, db.sketches, tasks)

    def work(job: BackgroundJob) -> str:
        summary = run_tasks(
            rooms, tasks.job(job.id), plan, progress=job.progress, cancelled=job.cancelled
        )
        ended = tasks.tasks(job.id)
        session = Session.open(rooms.catalog, rooms.sketches)  # the connection's has its turns
        add_edges(session, tuple(plan.probes), ended, job.progress, job.cancelled)
        failure = failure_of(summary, ended)
        if failure is not None:
            raise failure
        return "; ".join(notes_of(summary, ended, plan, models)[:3]) or "nothing was left to do"

    return db.background.start(text, work, tasks=plan.tasks)
