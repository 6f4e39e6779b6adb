"""A worker: a process that does tasks of a catalog on a server, one at a time, beside others."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

from sommelier.connection.agreement_edges import edges_of
from sommelier.connection.analyzing_later import no_workers
from sommelier.errors import LeaseLostError, SommelierError, StorageError
from sommelier.storage.tasks import COMPARISON, DONE_BEFORE, HeldTasks

if TYPE_CHECKING:
    from sommelier.analysis.leased_work import LeasedWork
    from sommelier.connection.connection import Connection
    from sommelier.records import AnalysisTask
    from sommelier.storage.postgres_leases import Leases

logger = logging.getLogger(__name__)

BEAT_S = 2.0  # how often a lease is renewed, and the most that a cancellation waits
LOOK_S = 0.5  # how often one who has nothing to do looks
AGAIN_S = 2.0  # after the server could not be reached
GRACE_S = 30.0  # how long a task may go on after the worker was told to end


class Worker:
    """Does tasks until it is told to stop. Its connection is for nothing else meanwhile.

    device : 'cpu', or 'cuda:0' for tasks that need that one as well. name : None: host and process.
    Raises StorageError for a DuckDB file or one that is read-only, AnalysisError for a device that
    is not there.
    """

    def __init__(
        self,
        db: Connection,
        *,
        device: str = "cpu",
        name: str | None = None,
        lease_s: float | None = None,
        grace_s: float = GRACE_S,
    ) -> None:
        from sommelier.analysis.computing import check_device
        from sommelier.analysis.frozen_plans import device_name
        from sommelier.analysis.workers import Rooms

        if not db.catalog.database.has_workers:
            raise no_workers(db.path)
        if db.read_only:
            raise StorageError("a worker writes what it finds, and this connection is read-only")
        device = device_name(device)
        if device != "cpu":
            check_device(device)
        from sommelier.storage.postgres_leases import LEASE_S, leases_of

        self._db = db
        self._lease_s = lease_s or LEASE_S
        self._leases: Leases = leases_of(
            db.catalog, name=name, device=device, lease_s=self._lease_s
        )
        self._queue = HeldTasks(db.catalog, self._leases.holder)
        self._rooms = Rooms(db.catalog, db.artifacts, db.sketches, self._queue)
        self._grace_s = grace_s
        self._work: LeasedWork | None = None
        self._held: AnalysisTask | None = None
        self._lost = False  # the task that it is at
        self._stops = 0  # plain numbers: a signal handler may come in between anywhere
        self._stop_at = float("inf")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="leases", daemon=True)

    @property
    def name(self) -> str:
        return self._leases.name

    def run(self, *, once: bool = False) -> Counter[str]:
        """What it did, by state, once it was told to stop; once: or when nothing is left to take.

        A server that cannot be reached is waited for, but not with `once`: StorageError.
        """
        self._enter()
        try:
            while not self._stops:
                try:
                    found = self.step()
                except StorageError as error:
                    if once:
                        raise
                    logger.warning("%s", error.message)
                    self._sleep(AGAIN_S)
                    continue
                if not found:
                    if once:
                        break
                    self._sleep(LOOK_S)
            return self._did()
        finally:
            self.close()

    def step(self, *, job_id: int | None = None, key: str | None = None) -> bool:
        """Do the next task, or that one; whether there was one to take. Raises StorageError."""
        self._enter()
        task = self._leases.claim(job_id=job_id, key=key)
        if task is None:
            self._leases.end_jobs()
            return False
        started = time.monotonic()
        self._do(task)
        logger.info("%s of job %d: %.1f s", task.key, task.job_id, time.monotonic() - started)
        self._leases.end_jobs()
        return True

    def stop(self) -> None:
        """Take no more tasks, and give back the one that runs when the grace is over; a second call
        gives it back now. From any thread or signal handler."""
        if not self._stops:
            self._stop_at = time.monotonic() + self._grace_s
        self._stops += 1

    def close(self) -> None:
        """Be seen as gone. A second call does nothing."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        work, self._work = self._work, None
        try:
            if work is not None:
                work.close()
        finally:
            self._leases.leave()

    # ---- one task

    def _do(self, task: AnalysisTask) -> None:
        self._lost, self._held = False, task
        try:
            if self._queue.is_done(task.key):
                self._queue.finish(task, "skipped", DONE_BEFORE)
            elif task.aspect == COMPARISON:
                self._compare(task)
            else:
                self._measure(task)
            if self._gives_up() or (self._work is not None and self._work.stopped):
                self._leases.give_back(task, "given back by the worker", counts=False)
        except LeaseLostError as error:
            logger.info("%s", error.message)
        except Exception as error:  # nothing may end a worker but its own end
            said = error.message if isinstance(error, SommelierError) else repr(error)
            logger.warning("%s: %s", task.key, said, exc_info=not isinstance(error, SommelierError))
            self._leases.give_back(task, said, counts=True)
        finally:
            self._held = None

    def _measure(self, task: AnalysisTask) -> None:
        from sommelier.analysis.quiet_machine import machine_turn

        work = self._work_at(task.job_id)
        with machine_turn(alone=task.aspect == "latency", gives_up=self._gives_up) as there:
            if there:
                work.do(task)

    def _compare(self, task: AnalysisTask) -> None:
        """What the statement itself does at its end where it is waited for."""
        probe_set_ids = self._work_at(task.job_id).probe_set_ids
        ended = self._queue.tasks(task.job_id)
        found = list(
            edges_of(self._db.session, probe_set_ids, ended, lambda *_: None, self._gives_up)
        )
        if self._gives_up():
            return
        with self._db.catalog.transaction():
            for probe_set_id, edges in found:
                self._db.catalog.replace_edges(probe_set_id, edges)
            self._queue.finish(task, "done")

    def _work_at(self, job_id: int) -> LeasedWork:
        from sommelier.analysis.leased_work import LeasedWork

        if self._work is None or self._work.job_id != job_id:
            if self._work is not None:
                self._work.close()
                self._work = None
            plan = self._queue.plan_of(job_id)
            assert plan is not None, "only such jobs are claimed"
            self._work = LeasedWork(self._rooms, self._queue.job(job_id), plan)
        return self._work

    # ---- beside it

    def _enter(self) -> None:
        if not self._thread.is_alive() and not self._ended.is_set():
            self._leases.forget_the_gone()
            self._leases.enter()
            self._thread.start()

    def _beat(self) -> None:
        """Renew what it has, and stop what is not its own any more, until it ends."""
        while not self._ended.wait(min(BEAT_S, self._lease_s / 4)):
            held = self._held
            try:
                self._leases.enter()
                if held is not None and not self._leases.renew(held) and self._held is held:
                    self._lost = True
            except StorageError as error:
                logger.debug("%s", error.message)
            work = self._work
            if held is not None and self._held is held and work is not None and self._gives_up():
                work.stop()

    def _gives_up(self) -> bool:
        """Whether what runs is to end without a finding."""
        return self._lost or self._stops > 1 or time.monotonic() > self._stop_at

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stops and time.monotonic() < until:
            time.sleep(0.05)

    def _did(self) -> Counter[str]:
        found = self._db.catalog.database.rows(
            "SELECT state, count(*) FROM store.tasks WHERE holder = ?"
            " AND state IN ('done', 'failed', 'skipped') GROUP BY state",
            [self._leases.holder],
        )
        return Counter(dict(found))
