"""Jobs in the background: a thread each, beside the statements of the connection that started them.

What runs here is any function. Its job is a row of the table of jobs, so other processes see it;
its progress is kept there now and then. Locks are taken in one order: the connection's, that of its
jobs, the catalog's. A job never takes the connection's, so neither waits for the other's length.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from operator import index
from typing import Literal

from sommelier.errors import (
    BinderError,
    CancelledError,
    ReadOnlyError,
    SommelierError,
    StorageError,
    UnknownNameError,
)
from sommelier.records import AnalysisTask, Job
from sommelier.storage.catalog import Catalog
from sommelier.storage.tasks import TaskQueue

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int | None, str | None], None]
StopReason = Literal["cancelled", "interrupted"]

NOTE_EVERY_S = 5.0  # readers of another process see a job at most this much later
STOP_S = 10.0  # how long a job may take to stop when its connection closes
CANCEL_S = 2.0  # how long CANCEL JOB waits to say what became of it; finishing may take longer
LOOK_EVERY_S = 0.1  # how often a wait passes on progress


class BackgroundJob:
    """What the work of a job is given: its number, whom to tell, whether to stop."""

    def __init__(
        self, row: Job, makes: tuple[str, str] | None, tell: Callable[[BackgroundJob], None]
    ) -> None:
        self.id = row.id
        self.statement = row.statement
        self.makes = makes
        self.step: tuple[str, int, int | None, str | None] | None = None
        self.ended = threading.Event()
        self.thread: threading.Thread | None = None
        self._stop: StopReason | None = None
        self._tell = tell

    def progress(
        self, phase: str, done: int, total: int | None = None, current: str | None = None
    ) -> None:
        """Say what is being done now. Cheap: it is kept every few seconds."""
        self.step = (phase, done, total, current)
        self._tell(self)

    def cancelled(self) -> bool:
        """Whether to stop as soon as things are in order; then raise CancelledError."""
        return self._stop is not None

    @property
    def stop_reason(self) -> StopReason | None:
        """Why to stop: 'cancelled' by the user, 'interrupted' because the connection closes."""
        return self._stop

    def stop(self, reason: StopReason) -> None:
        """Ask the work to stop; that the connection closes counts more than a cancellation."""
        if self._stop != "interrupted":
            self._stop = reason


Work = Callable[[BackgroundJob], str]
"""Returns a sentence on what came of it. It may use the catalog, artifacts, sketches and tasks,
which threads share, but nothing that takes the connection's turn (statements, db.session)."""


class BackgroundJobs:
    """The background jobs of one connection. Safe to use from several threads."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._queue = TaskQueue(catalog)
        self._running: dict[int, BackgroundJob] = {}
        self._kept: dict[int, tuple[object, float]] = {}  # the step that is in the row, and since
        self._ended: list[int] = []
        self._turn = threading.RLock()
        self._closed = False
        self._minds_exit = False

    # ---- one job

    def start(
        self,
        statement: str,
        work: Work,
        *,
        makes: tuple[str, str] | None = None,
        tasks: Sequence[AnalysisTask] = (),
    ) -> int:
        """The number of a new job, whose work has begun in a thread of its own.

        makes : (kind, name) of what it will make; see `maker`. tasks : that it has. Raises
        BinderError if another job that runs makes the same, ReadOnlyError, StorageError once the
        connection closes.
        """
        with self._turn:
            if self._closed:
                raise StorageError("the connection is closed", hint="connect again")
            if makes is not None and (other := self.maker(*makes)) is not None:
                raise made_by(other, *makes)
            row = self._queue.start_job(statement, tasks, background=True)
            job = BackgroundJob(row, makes, self._note_now_and_then)
            self._kept[job.id] = (None, time.monotonic())
            self._mind_exit()
            self._running[job.id] = job
            job.thread = threading.Thread(
                target=self._run, args=(job, work), name=f"job {job.id}", daemon=True
            )
            job.thread.start()
        self._catalog.publish()
        return job.id

    def cancel(self, job_id: int, *, timeout: float = CANCEL_S) -> Job:
        """The job after it was asked to stop and given `timeout` seconds for it.

        One that is 'running' still then is about to stop; one that was faster is 'done'. Raises
        UnknownNameError, BinderError for one that ended before or is no background job of this
        connection, ReadOnlyError where nothing may be changed. What is left to workers every
        connection may cancel; they hear of it within seconds.
        """
        job = self._running.get(job_id := _number(job_id))
        if job is None and self._is_shared(self.job(job_id)) and not self._catalog.read_only:
            return self._queue.finish_job(job_id, "cancelled", "cancelled; what was done is kept")
        if job is None:
            raise self._not_cancellable(self.job(job_id))
        job.stop("cancelled")
        if job.ended.wait(timeout):
            with self._turn:  # the caller is told: nothing is left to announce
                self._ended = [number for number in self._ended if number != job_id]
        return self.job(job_id)

    def wait(
        self, job_id: int, timeout: float | None = None, *, progress: Progress | None = None
    ) -> Job:
        """The job once it has ended, or as it is after `timeout` seconds.

        progress : is told what the job tells. Raises UnknownNameError; BinderError for a job that
        runs elsewhere, whose end cannot be seen from here.
        """
        job = self._running.get(job_id := _number(job_id))
        if job is None:
            row = self.job(job_id)
            if self._is_shared(row):
                return self._wait_for_workers(row, timeout, progress)
            if row.state == "running":
                raise BinderError(
                    f"job {job_id} is run {_where(row)}, so its end cannot be waited for here"
                )
            return row
        until = None if timeout is None else time.monotonic() + timeout
        told = None
        while not job.ended.wait(_left(until) if progress is None else LOOK_EVERY_S):
            if progress is not None and (step := job.step) is not None and step is not told:
                told = step
                progress(*step)
            if until is not None and time.monotonic() >= until:
                break
        return self.job(job_id)

    def job(self, job_id: int) -> Job:
        """One job of the database as it is now. Raises UnknownNameError."""
        self.note()
        try:
            return self._queue.job(job_id)
        except UnknownNameError as error:
            error.suggestions = tuple(str(number) for number in sorted(self._running))
            raise

    # ---- all jobs

    def jobs(self) -> list[Job]:
        """All jobs of the database, the oldest first, as they are now."""
        self.note()
        return self._queue.jobs()

    def running(self) -> list[Job]:
        """The background jobs that run now, the oldest first."""
        mine = set(self._running)
        return [job for job in self.jobs() if job.id in mine] if mine else []

    def ended(self) -> list[Job]:
        """The background jobs that ended since this was last asked, in that order."""
        with self._turn:
            numbers, self._ended = self._ended, []
        return [self._queue.job(number) for number in numbers]

    def maker(self, kind: str, name: str) -> int | None:
        """The running job that will make the `kind` ('model') of this name; None if none will."""
        with self._turn:
            found = (job.id for job in self._running.values() if job.makes == (kind, name))
            return next(found, None)

    def note(self) -> None:
        """Keep the progress of all running jobs, for who reads the table of jobs now."""
        for job in tuple(self._running.values()):
            self._note(job)

    def __len__(self) -> int:
        """How many run now."""
        return len(self._running)

    def stop(self) -> None:
        """Ask all jobs to stop, as CANCEL JOB does, and wait for none; for signal handlers."""
        for job in tuple(self._running.values()):
            job.stop("cancelled")

    def close(self, timeout: float = STOP_S) -> None:
        """Ask all jobs to stop and give them `timeout` seconds together; no more can be started.

        Their state is 'interrupted' then; what they left on disk they can go on from.
        """
        with self._turn:
            self._closed = True
            left = tuple(self._running.values())
        for job in left:
            job.stop("interrupted")
        until = time.monotonic() + timeout
        for job in left:
            if job.thread is not None:  # to its end: a thread inside DuckDB crashes an exit
                job.thread.join(max(0.0, until - time.monotonic()))
            self._end_logged(
                job, "interrupted", "it did not stop in time when the connection closed"
            )

    # ---- inside

    def _is_shared(self, row: Job) -> bool:
        """Whether a job is at workers now."""
        return row.state == "running" and self._queue.plan_of(row.id) is not None

    def _wait_for_workers(self, row: Job, timeout: float | None, progress: Progress | None) -> Job:
        until = None if timeout is None else time.monotonic() + timeout
        while row.state == "running" and (until is None or time.monotonic() < until):
            if progress is not None:
                done = row.done + row.failed + row.skipped
                progress("working", done, row.total, row.doing)
            left = _left(until)
            time.sleep(LOOK_EVERY_S if left is None else min(LOOK_EVERY_S, left))
            row = self._queue.job(row.id)
        return row

    def _mind_exit(self) -> None:
        """Have `close` called where a program ends without it.

        Python waits for the threads of executors before it calls what atexit was told, and a job
        may use some; concurrent.futures has the same hook, and the youngest comes first.
        """
        if not self._minds_exit:
            import concurrent.futures.thread  # noqa: F401 - its hook has to be older than ours

            register = getattr(threading, "_register_atexit", atexit.register)
            register(_close, weakref.ref(self))
            self._minds_exit = True

    def _run(self, job: BackgroundJob, work: Work) -> None:
        with self._catalog.spared():
            try:
                state, said = "done", work(job)
            except BaseException as error:  # nobody else would hear of it
                state, said = _outcome(job, error)
            self._end_logged(job, state, said)

    def _end_logged(self, job: BackgroundJob, state: str, said: str) -> None:
        """Keep how a job ended; where that fails, other jobs still have to be waited for."""
        try:
            self._end(job, state, said)
        except SommelierError:
            level = logging.DEBUG if self._closed else logging.WARNING
            logger.log(level, "how job %d ended could not be kept", job.id, exc_info=True)

    def _end(self, job: BackgroundJob, state: str, said: str) -> None:
        """Keep how a job ended; once, by its thread or by who does not wait for that any longer."""
        try:
            with self._turn:
                if self._running.get(job.id) is not job:
                    return
                try:
                    self._note(job)
                    self._queue.finish_job(job.id, state, said)
                finally:
                    del self._running[job.id]
                    self._kept.pop(job.id, None)
                    self._ended.append(job.id)
            self._catalog.publish()
        finally:
            job.ended.set()

    def _note_now_and_then(self, job: BackgroundJob) -> None:
        _, since = self._kept.get(job.id, (None, time.monotonic()))
        if time.monotonic() - since > NOTE_EVERY_S:
            self._note(job)
            self._catalog.publish()

    def _note(self, job: BackgroundJob) -> None:
        step = job.step
        kept, _ = self._kept.get(job.id, (None, 0.0))
        if step is None or step is kept:
            return
        phase, done, total, current = step
        count = f"{done}/{total}" if total else str(done)
        doing = " ".join(part for part in (phase, count, current) if part)
        self._kept[job.id] = (step, time.monotonic())
        self._queue.note_progress(job.id, doing, done / total if total else None)

    def _not_cancellable(self, row: Job) -> SommelierError:
        if row.state != "running":
            at = f" at {row.finished_at:%Y-%m-%d %H:%M:%S} UTC" if row.finished_at else ""
            return BinderError(
                f"job {row.id} has ended ({row.state}{at}): there is nothing to cancel",
                hint="SHOW JOBS says what runs",
            )
        if self._catalog.read_only:
            return ReadOnlyError(
                f"job {row.id} is run {_where(row)}, and this connection is read-only",
                hint=f"CANCEL JOB {row.id} there",
            )
        return BinderError(
            f"job {row.id} is a statement that is waited for, not one in the background",
            hint="Ctrl-C, or cancel() of its connection, stops it",
        )


def _number(job_id: object) -> int:
    """The number of a job as Python's own; one of another library's counts too."""
    try:
        return index(job_id)  # type: ignore[arg-type]  # that is the question
    except TypeError:
        raise BinderError(
            f"{job_id!r} is not the number of a job", hint="SHOW JOBS has them in its column id"
        ) from None


def _close(jobs: weakref.ref[BackgroundJobs]) -> None:
    open_yet = jobs()
    if open_yet is not None:
        open_yet.close()


def made_by(job_id: int, kind: str, name: str) -> BinderError:
    """The error for a name that a running job will give to what it makes."""
    return BinderError(
        f"{kind} '{name}' is being made by job {job_id}",
        hint=f"SHOW JOBS says how far it is; CANCEL JOB {job_id} stops it",
    )


def _outcome(job: BackgroundJob, error: BaseException) -> tuple[str, str]:
    """(state, reason) of a job whose work raised `error`."""
    if isinstance(error, CancelledError):
        said = f"{error.message}; {error.hint}" if error.hint else error.message
        return job.stop_reason or "cancelled", said
    if job.stop_reason is not None:  # what gave up first, as a sandbox that was closed
        return job.stop_reason, f"stopped: {error}"
    if isinstance(error, SommelierError):
        return "failed", error.message
    logger.info("job %d failed", job.id, exc_info=error)
    return "failed", f"{type(error).__name__}: {error}"


def _where(row: Job) -> str:
    return "elsewhere" if row.process is None else f"by process {row.process}"


def _left(until: float | None) -> float | None:
    return None if until is None else max(0.0, until - time.monotonic())
