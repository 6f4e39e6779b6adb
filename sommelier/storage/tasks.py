"""Jobs and their tasks: what is to be analysed, what is done, and what a killed job left.

A task's key says what it computes, whichever job asks. A key that is done is not done again: the
same statement after a crash, or a second time, skips it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from sommelier.errors import LeaseLostError, UnknownNameError
from sommelier.records import AnalysisTask, Job
from sommelier.storage.rows import mapping_from_json, now, to_json

if TYPE_CHECKING:
    from pathlib import Path

    from sommelier.storage.catalog import Catalog
    from sommelier.storage.database import Database

DONE_BEFORE = "done before"
"""The reason of a task that is skipped because another job has done it."""

_SETBACK = """
    SELECT t.aspect, t.state, t.reason, j.id, j.state, j.started_at
    FROM store.tasks t JOIN store.jobs j ON j.id = t.job_id
    WHERE t.model_id = ? AND t.aspect = coalesce(?, t.aspect)
        AND t.state = ANY(?::VARCHAR[]) AND t.reason IS DISTINCT FROM ?
        AND NOT EXISTS (
            SELECT 1 FROM store.tasks d WHERE d.model_id = t.model_id AND d.state = 'done'
                AND d.aspect = t.aspect AND d.job_id > t.job_id
                AND (t.state = 'skipped' OR d.parameters = t.parameters))
    ORDER BY t.job_id DESC, t.state, t.position LIMIT 1"""
_TASK = "SELECT key, job_id, aspect, model_id, parameters, state, reason, attempts FROM store.tasks"
_JOB = """
    SELECT id, statement, state, total, done, failed, skipped, started_at, finished_at,
        background, progress, doing, reason, process
    FROM main.jobs {where} ORDER BY id"""


COMPARISON = "comparison"
"""The aspect of the task that closes a job which is left to workers; it waits for all others."""

_ANY: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Setback:
    """A task of a model that did not end well, or was not reached. started_at : its job, UTC."""

    aspect: str
    state: str
    reason: str | None
    job_id: int
    job_state: str
    started_at: datetime


class TaskQueue:
    """The jobs of a database. Threads of the writing process may claim from it side by side."""

    def __init__(self, catalog: Catalog) -> None:
        self._database = catalog.database

    def start_job(
        self,
        statement: str,
        tasks: Iterable[AnalysisTask],
        *,
        background: bool = False,
        plan: str | None = None,
        devices: Mapping[str, str] = _ANY,
    ) -> Job:
        """A new running job. The tasks' job_id is set; one whose key is done becomes skipped.

        Of two tasks with the same key the first is kept. background : statements go on beside it.
        plan : what workers need besides the tasks, which are left to them then: the job goes on
        when this process ends. devices : that tasks need, by key.
        """
        from sommelier.storage.schema import JOBS, TASKS

        with self._database.transaction("start a job"):
            found = self._database.row("SELECT coalesce(max(id), 0) + 1 FROM store.jobs")
            job_id = int(found[0]) if found else 1
            row = {
                "id": job_id,
                "statement": statement,
                "state": "running",
                "started_at": now(),
                "finished_at": None,
                "background": background,
                "process": os.getpid() if plan is None else None,
                "doing": None,
                "progress": None,
                "reason": None,
                "plan": plan,
            }
            if plan is None:
                self._database.keep_alive(job_id)
            self._database.insert(JOBS, [row])
            self._database.insert(TASKS, self._task_rows(job_id, tasks, devices))
            return self.job(job_id)

    def claim(self, job_id: int) -> AnalysisTask | None:
        """The next pending task of a job, running from now on; None when none is left."""
        from sommelier.storage.schema import TASKS

        with self._database.transaction("claim a task"):
            row = self._database.row(
                f"{_TASK} WHERE job_id = ? AND state = 'pending' ORDER BY position LIMIT 1",
                [job_id],
            )
            if row is None:
                return None
            self._database.write(
                TASKS.update()
                .where(TASKS.c.job_id == job_id, TASKS.c.key == row[0])
                .values(state="running", attempts=TASKS.c.attempts + 1)
            )
            return _task((*row[:5], "running", row[6], row[7] + 1))

    def finish(self, task: AnalysisTask, state: str, reason: str | None = None) -> None:
        """Say how a task ended: done, failed or skipped; pending gives it back.

        Inside a transaction it is kept together with the task's findings.
        """
        from sommelier.storage.schema import TASKS

        with self._database.transaction("finish a task"):
            self._database.write(
                TASKS.update()
                .where(TASKS.c.job_id == task.job_id, TASKS.c.key == task.key)
                .values(state=state, reason=reason, lease_until=None)
            )

    def finish_job(self, job_id: int, state: str = "done", reason: str | None = None) -> Job:
        """The job after it ended: done, failed, cancelled or interrupted.

        Running tasks become pending. reason : why, or what came of it.
        """
        with self._database.transaction("finish a job"):
            _end_job(self._database, job_id, state, now(), reason)
            self._database.after_commit(partial(self._database.let_go, job_id))
            return self.job(job_id)

    def note_progress(self, job_id: int, doing: str, share: float | None) -> None:
        """Keep what a running job does now and how far that is.

        It counts as no change of the catalog: no index is read anew for it.
        """
        from sommelier.storage.schema import JOBS

        running = JOBS.update().where(JOBS.c.id == job_id, JOBS.c.state == "running")
        self._database.note(running.values(doing=doing, progress=share))

    def job(self, job_id: int) -> Job:
        """One job and how far it is. Raises UnknownNameError."""
        row = self._database.row(_JOB.format(where="WHERE id = ?"), [job_id])
        if row is None:
            raise UnknownNameError(f"there is no job {job_id}", hint="SHOW JOBS lists them")
        return Job(*row)

    def jobs(self) -> list[Job]:
        """All jobs, the oldest first."""
        return [Job(*row) for row in self._database.rows(_JOB.format(where=""))]

    def tasks(self, job_id: int) -> list[AnalysisTask]:
        """The tasks of a job, in the order they are claimed."""
        rows = self._database.rows(f"{_TASK} WHERE job_id = ? ORDER BY position", [job_id])
        return [_task(row) for row in rows]

    def setback(
        self,
        model_id: str,
        *,
        aspect: str | None = None,
        states: Sequence[str] = ("failed", "skipped"),
    ) -> Setback | None:
        """A model's newest task in one of these states, unless the same was done since; or None.

        What was skipped because it had been done before is no setback.
        """
        row = self._database.row(_SETBACK, [model_id, aspect, list(states), DONE_BEFORE])
        return None if row is None else Setback(*row)

    def ended(self, model_id: str, aspect: str) -> list[AnalysisTask]:
        """A model's tasks of one aspect that were done, failed or skipped, the newest first.

        What was skipped because it had been done before is left out.
        """
        rows = self._database.rows(
            f"{_TASK} WHERE model_id = ? AND aspect = ? AND state IN ('done', 'failed', 'skipped')"
            " AND reason IS DISTINCT FROM ? ORDER BY job_id DESC, position",
            [model_id, aspect, DONE_BEFORE],
        )
        return [_task(row) for row in rows]

    def is_done(self, key: str) -> bool:
        """Whether any job has done the task with this key."""
        return bool(self.done_keys([key]))

    def done_keys(self, keys: Sequence[str]) -> set[str]:
        """Those of the keys that any job has done."""
        rows = self._database.rows(
            "SELECT DISTINCT key FROM store.tasks"
            " WHERE state = 'done' AND key IN (SELECT unnest(?::VARCHAR[]))",
            [list(keys)],
        )
        return {key for (key,) in rows}

    def plan_of(self, job_id: int) -> str | None:
        """What workers need for a job; None of one that is not left to workers."""
        row = self._database.row("SELECT plan FROM store.jobs WHERE id = ?", [job_id])
        return None if row is None else row[0]

    def devices(self, job_id: int) -> dict[str, str]:
        """The devices that tasks of a job need, by key, where not any will do."""
        found = self._database.rows(
            "SELECT key, device FROM store.tasks WHERE job_id = ? AND device IS NOT NULL", [job_id]
        )
        return dict(found)

    def state_of(self, job_id: int, key: str) -> str:
        """The state of one task."""
        row = self._database.row(
            "SELECT state FROM store.tasks WHERE job_id = ? AND key = ?", [job_id, key]
        )
        assert row is not None, "tasks are not removed"
        return str(row[0])

    def living_workers(self) -> list[str]:
        """The devices of the workers that are alive; of a file there are none."""
        if not self._database.has_workers:
            return []
        found = self._database.rows(
            "SELECT device FROM store.workers WHERE seen_until > localtimestamp ORDER BY started_at"
        )
        return [device for (device,) in found]

    def interrupt_stale(self) -> int:
        """Mark jobs a dead process left running as interrupted; how many there were.

        Only for a process that may write the database, and before it starts a job of its own. What
        living clients of a server run is left alone.
        """
        return interrupt_running_jobs(self._database)

    def _task_rows(
        self, job_id: int, tasks: Iterable[AnalysisTask], devices: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        by_key: dict[str, AnalysisTask] = {}
        for task in tasks:
            by_key.setdefault(task.key, task)
        done = self.done_keys(list(by_key))
        rows = []
        for position, task in enumerate(by_key.values()):
            skip = task.state == "pending" and task.key in done
            row = {
                "job_id": job_id,
                "key": task.key,
                "position": position,
                "aspect": task.aspect,
                "model_id": task.model_id,
                "parameters": to_json(dict(task.parameters)),
                "state": "skipped" if skip else task.state,
                "reason": DONE_BEFORE if skip else task.reason,
                "attempts": task.attempts,
                "device": devices.get(task.key),
                "holder": None,
                "lease_until": None,
                "log": None,
            }
            rows.append(row)
        return rows


class HeldTasks(TaskQueue):
    """The jobs of a database as one worker sees them: it ends only tasks that it still has."""

    def __init__(self, catalog: Catalog, holder: str) -> None:
        super().__init__(catalog)
        self._holder = holder

    def finish(self, task: AnalysisTask, state: str, reason: str | None = None) -> None:
        """As of any queue; inside a transaction that keeps findings, the last of it.

        Raises LeaseLostError, and so undoes the transaction, where another worker has the task now
        or the job was cancelled: the row is locked, so nobody takes it in between.
        """
        with self._database.transaction("finish a task"):
            held = self._database.row(
                "SELECT 1 FROM store.tasks WHERE job_id = ? AND key = ? AND holder = ?"
                " AND state = 'running' FOR UPDATE",
                [task.job_id, task.key, self._holder],
            )
            if held is None:
                raise LeaseLostError(f"the task {task.key} is not this worker's any more")
            super().finish(task, state, reason)


def interrupt_running_jobs(database: Database) -> int:
    """Mark the running jobs whose processes are gone as interrupted; how many there were.

    Of a file that nobody writes, all; of a server none that is left to workers. When they ended is
    not known. The searches for fusions that they were are marked too.
    """
    living = database.living_jobs()
    _interrupt_searches(database, living)
    own = " AND plan IS NULL" if database.has_workers else ""
    running = database.rows(f"SELECT id, process FROM store.jobs WHERE state = 'running'{own}")
    stale = [(job_id, process) for job_id, process in running if job_id not in living]
    if stale:
        with database.transaction("mark interrupted jobs"):
            for job_id, process in stale:
                which = "" if process is None else f" {process}"
                why = f"process{which} ended while it ran"
                _end_job(database, job_id, "interrupted", None, why)
    return len(stale)


def _interrupt_searches(database: Database, living: frozenset[int]) -> None:
    from sommelier.storage.fusion_schema import FUSIONS

    found = database.rows("SELECT id, job_id FROM store.fusions WHERE state = 'searching'")
    ids = [id_ for id_, job_id in found if job_id not in living]
    if not ids:
        return
    why = "the process ended while it searched; the same statement goes on"
    searching = FUSIONS.update().where(FUSIONS.c.state == "searching", FUSIONS.c.id.in_(ids))
    with database.transaction("mark interrupted searches"):
        database.write(searching.values(state="interrupted", reason=why))


def _end_job(
    database: Database, job_id: int, state: str, at: datetime | None, reason: str | None
) -> None:
    from sommelier.storage.schema import JOBS, TASKS

    running = TASKS.update().where(TASKS.c.job_id == job_id, TASKS.c.state == "running")
    database.write(running.values(state="pending", lease_until=None))
    ended: dict[str, object] = {"state": state, "finished_at": at, "reason": reason, "doing": None}
    if state == "done":
        ended["progress"] = 1.0
    database.write(JOBS.update().where(JOBS.c.id == job_id).values(ended))


def _task(row: tuple[Any, ...]) -> AnalysisTask:
    key, job_id, aspect, model_id, parameters, state, reason, attempts = row
    return AnalysisTask(
        key, job_id, aspect, model_id, mapping_from_json(parameters), state, reason, attempts
    )


@contextmanager
def written_briefly(database: Path | str, *, folder: Path | str | None = None) -> Iterator[Catalog]:
    """The catalog of a database that is there, to write for a moment: others that want to write
    wait. What a killed process left running is ended first, as by everybody who may write. Raises
    as `Catalog.open`."""
    from sommelier.storage.catalog import Catalog

    with Catalog.open(database, folder=folder, brief=True) as catalog:
        TaskQueue(catalog).interrupt_stale()  # nobody else works
        yield catalog
