"""Worker threads that answer the requests of a deployment, and a timer that refuses late ones.

    submit --admission--> queue --a server is idle--> policy --> model --> ticket
                            |__ its deadline comes: 504

One lock guards what is known of requests; models run outside it, in a worker or in the caller's own
thread.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Generic

from sommelier.errors import RejectedError, UnknownNameError
from sommelier.runtime.answers import Answer, Ticket
from sommelier.runtime.jobs import Counts, Held, Job, Outcome, P, Table, job_of, now_ms, run_model
from sommelier.runtime.open_requests import OpenRequests
from sommelier.runtime.policy import PooledModel, Rejection
from sommelier.runtime.scheduling import Turn
from sommelier.runtime.stint import Stint
from sommelier.runtime.telemetry import Telemetry

logger = logging.getLogger(__name__)

LONGEST_WAIT_MS = 3_600_000.0  # of the timer; a condition does not wait for years
CLOSE_S = 10.0  # how long closing waits for runs that were cancelled


class Dispatcher(Generic[P]):
    """Answers requests by a table of models. Safe for threads; `close` ends it.

    Callbacks of tickets run in its threads and should be short."""

    def __init__(
        self, table: Table[P], telemetry: Telemetry, *, clock: Callable[[], float] = now_ms
    ) -> None:
        # the conditions' own way in is twice as long, and each request goes in three times
        lock = self._lock = threading.RLock()
        self._changed = threading.Condition(lock)  # a request, a model or a server may be taken
        self._timing = threading.Condition(lock)  # the timer is to look again
        self._quiet = threading.Condition(lock)  # every request has its answer
        self._clock = clock
        self._requests = OpenRequests(table, telemetry, clock, self._loading_ended)
        self.goes_on = self._requests.goes_on  # a method of ours would be a call more
        self._closed, self._draining, self._wakes_ms = False, 0, math.inf
        self._workers: list[threading.Thread] = []
        self._hire(table.servers)
        self._timer = threading.Thread(target=self._keep_time, daemon=True)
        self._timer.start()

    @property
    def counts(self) -> Counts:
        """What became of requests."""
        return self._requests.counts

    @property
    def waiting(self) -> int:
        """Requests that wait for a server."""
        return len(self._requests.scheduler.queue)

    @property
    def running(self) -> int:
        """Servers that are busy."""
        return self._requests.scheduler.running

    @property
    def engaged(self) -> bool:
        """Whether a request would have to wait for others now."""
        scheduler = self._requests.scheduler
        return not scheduler.idle or bool(scheduler.queue.waiting)

    def most_together(self, most: int, *, in_turn: bool) -> int:
        """As of OpenRequests."""
        with self._lock:
            return self._requests.most_together(most, in_turn=in_turn)

    @property
    def loaded(self) -> frozenset[str]:
        """Names of the models that may answer now."""
        return self._requests.loading.loaded

    @property
    def models(self) -> tuple[PooledModel, ...]:
        """That are loaded or may be, the most accurate first."""
        return self._requests.scheduler.models

    @property
    def refusals(self) -> str:
        """Why models could not be loaded; '' if all could."""
        return self._requests.loading.refusals

    def submit(self, job: Job) -> Ticket:
        """Let a request wait for its answer. Raises RejectedError when it is refused."""
        with self._changed:
            self._requests.accept(job)
            ticket = job.awaited()
            self._call()
        return ticket

    def answer(self, job: Job, *, at_most_ms: float = math.inf) -> Answer | Ticket | None:
        """The same in the caller's own thread, which saves two changes of threads: if nothing
        waits, a server is idle, and the model is loaded and takes at most so long, on average or
        usually. None, and nothing has happened, if not. A ticket where another thread has to go on.

        Raises RejectedError, what the model raises, and CancelledError once `job.cancel` ended it,
        or where a time is given and another model is to be asked (by `submit`).
        """
        requests = self._requests
        with self._lock:
            turn = requests.begin(job, at_most_ms)
            if turn is None:
                return None
            if requests.table.hedge or job.ends_ms < self._wakes_ms:
                self._timing.notify()
        while turn is not None:
            result = self._serve(turn, here=True)
            if isinstance(result, Answer):
                return result
            if result is not None:
                try:
                    raise result
                finally:
                    del result, job  # else the error's traceback has itself, and the inputs
            with self._lock:
                turn = None if job.settled else requests.next(job)
                if len(requests.scheduler.queue):
                    self._call()  # who came meanwhile, and this one for its next model
        if job.ticket is None:
            raise CancelledError
        return job.ticket

    def open_stint(self, job: Job, at_most_ms: float, *, steady: Table[P] | None) -> Stint | None:
        """What is to answer requests of several clients now; None as of `answer`, and nothing has
        happened. steady : by this table further ones may follow. Raises RejectedError."""
        with self._lock:
            turn = self._requests.begin(job, at_most_ms)
        if turn is None:
            return None
        if isinstance(turn.answer, Rejection):
            refusal = self._refused(job, turn.answer, here=True)
            assert refusal is not None, "nobody else knows of it"
            raise refusal
        model = self._acquired(turn, turn.answer.model)
        if model is None:
            self._lost(turn, here=True)
            return None
        return Stint(turn, model, self, steady=job.table is steady)

    def hold(self) -> Held | None:
        """One that has to wait for others now, and is to be asked again soon rather than to stand
        among them: accepted, as far as `drain` and `refuse` go, until `let_go`. None: it cannot."""
        with self._lock:
            if self._requests.refusing is not None or not self.engaged:
                return None
            self._requests.count += 1
        return Held(self._clock())

    def let_go(self) -> None:
        """A request that was held, or accepted, has its answer, or is asked again."""
        with self._changed:
            self._gone()

    def cancel(self, job: Job) -> None:
        """Forget a request; a run of it ends before its next operator."""
        with self._changed:
            if not self._requests.settle(job) or not job.accepted:
                return
            self._requests.counts.cancelled += not job.brief  # which is asked otherwise
        self._given_up(job)

    def warm(self, names: tuple[str, ...]) -> None:
        """Let these models be loaded."""
        with self._changed:
            for name in names:
                self._requests.loading.ask(name)

    def forget(self, name: str) -> None:
        """Another model has this name from now on."""
        with self._lock:
            self._requests.scheduler.telemetry.forget(name)

    def refresh(self) -> None:
        """Models were loaded or unloaded: look who may answer now."""
        with self._changed:
            self._requests.loading.refresh()
            self._look_again()

    def switch(self, table: Table[P]) -> None:
        """Go on by another table, from the next decision on. Who waits keeps waiting and gets a
        model of the new one; runs are not disturbed."""
        with self._changed:
            self._requests.switch(table)
            self._look_again()
            self._hire(table.servers)

    def refuse(self, reason: str | None) -> None:
        """Accept no further requests: 503. What was accepted is answered. None: accept them."""
        with self._changed:
            self._requests.refusing = reason

    def drain(self, timeout_s: float | None = None) -> int:
        """Wait until every accepted request has its answer; the number of those that have not."""
        with self._changed:
            self._draining += 1  # a notice that nobody waits for costs a microsecond
            self._quiet.wait_for(lambda: self._requests.count == 0, timeout_s)
            self._draining -= 1
            return self._requests.count

    def close(self) -> None:
        """Refuse what waits or runs (503), cancel the runs, end the threads."""
        reason = "the deployment was closed"
        with self._changed:
            self._requests.refusing, self._requests.closed, self._closed = reason, True, True
            left = self._requests.settle_all()
            for job in left:
                if job.shared is None:  # each of those is asked alone
                    self._requests.counts.refused(503)
            self._changed.notify_all()
            self._timing.notify_all()
        for job in left:
            self._deliver(job, RejectedError(reason, status=503))
        until = self._clock() + CLOSE_S * 1e3
        for thread in (*self._workers, self._timer):
            if thread is not threading.current_thread():
                thread.join(max(until - self._clock(), 0.0) / 1e3)
        if any(worker.is_alive() for worker in self._workers):
            logger.warning("a run has not ended yet, though it was cancelled")

    # ---- with the lock

    def _call(self) -> None:
        """Wake who has to do with a request that waits."""
        if self._requests.scheduler.idle:
            self._changed.notify()
        self._call_timer()

    def _call_timer(self) -> None:
        if self._requests.table.hedge or self._requests.next_timer_ms() < self._wakes_ms:
            self._timing.notify()

    def _look_again(self) -> None:
        self._requests.look_again()
        self._changed.notify_all()
        self._timing.notify()

    def _loading_ended(self, name: str, why: str | None) -> None:
        with self._changed:
            self._requests.loading.ended(name, why, self._clock())
            self._look_again()

    def _hire(self, servers: int) -> None:
        while len(self._workers) < servers:
            worker = threading.Thread(target=self._work, daemon=True)
            self._workers.append(worker)
            worker.start()

    def _gone(self) -> None:
        """One request less has no answer."""
        self._requests.count -= 1
        if self._draining and not self._requests.count:
            self._quiet.notify_all()

    # ---- without the lock

    def _work(self) -> None:
        """A worker: one turn after the other."""
        while True:
            with self._changed:
                while (turn := self._requests.next()) is None:
                    if self._closed:
                        return
                    self._changed.wait()
                self._call_timer()
            result = self._serve(turn)
            if result is not None:
                self._deliver(job_of(turn.request), result)
            del result  # the next one may be long in coming

    def _serve(self, turn: Turn, *, here: bool = False) -> Answer | Exception | None:
        """Run the model of a turn: what who waits is to get; None: nothing, or not yet.

        here : who waits gets it from this thread, so nothing is left of the request.
        """
        job, answer = job_of(turn.request), turn.answer
        if isinstance(answer, Rejection):
            return self._refused(job, answer, here=here)
        table: Table[P] = job.table
        model = self._acquired(turn, answer.model)
        if model is None:
            return self._lost(turn, here=here)
        began = self._clock()
        try:
            outcome = run_model(table, job, answer.model, model)
        except BaseException:
            self.abandon(turn)
            raise
        finally:
            del model  # before its lease ends
            table.view.release(answer.model)
        return self.conclude(turn, outcome, self._clock() - began, here=here)

    def _acquired(self, turn: Turn, name: str) -> P | None:
        try:
            model: P | None = job_of(turn.request).table.view.acquire(name)
        except UnknownNameError:  # the deployment has switched to others since it was chosen
            return None
        return model

    def _lost(self, turn: Turn, *, here: bool) -> Exception | None:
        """The model is not there any more; as of `_serve`."""
        with self._lock:
            lost = self._requests.lost(turn)
            if here and lost is not None:
                self._gone()
            self._look_again()
        return lost

    def conclude(
        self,
        turn: Turn,
        outcome: Outcome | Exception | None,
        took_ms: float,
        *,
        here: bool = True,
    ) -> Answer | Exception | None:
        """A run is over; as of `_serve`."""
        with self._lock:
            result = self._requests.finished(turn, outcome, took_ms)
            if here and result is not None:
                self._gone()
                if self._requests.scheduler.queue.waiting:
                    self._call()  # who came meanwhile
        return result

    def abandon(self, turn: Turn) -> None:
        """An interrupt, of the caller whose thread this is: its server is free again."""
        job = job_of(turn.request)
        with self._changed:
            left = self._requests.abandoned(turn)
            self._call()
        if left:
            self._given_up(job)

    def _refused(self, job: Job, rejection: Rejection, *, here: bool) -> Exception | None:
        with self._changed:
            error = self._requests.refused(job, rejection)
            if here and error is not None:
                self._gone()
        return error

    def _deliver(self, job: Job, result: Answer | Exception) -> None:
        """Give a settled request what it waits for, unless it was cancelled in between."""
        ticket = job.awaited()
        if ticket.set_running_or_notify_cancel():
            if isinstance(result, Answer):
                ticket.set_result(result)
            else:
                ticket.set_exception(result)
        ticket.forget()
        self.let_go()

    def _given_up(self, job: Job) -> None:
        """Nobody answers it any more: tell who waits, if anybody does."""
        if job.ticket is not None:
            job.ticket.given_up()
        self.let_go()

    def _keep_time(self) -> None:
        """The timer: deadlines of who waits, second models, models that may be asked for again."""
        while True:
            with self._changed:
                if self._closed:
                    return
                now = self._clock()
                if self._requests.loading.next_retry_ms() <= now:
                    self._look_again()
                expired = self._requests.scheduler.expire(now)
                overdue = self._requests.overdue(now)
                if not (expired or overdue):
                    hedge_ms = self._requests.hedge()
                    self._changed.notify()
                    self._wakes_ms = min(hedge_ms, self._requests.next_timer_ms())
                    left = min(self._wakes_ms - now, LONGEST_WAIT_MS)
                    self._timing.wait(max(left, 0.0) / 1e3)
            self._tell_late(overdue, expired)

    def _tell_late(self, overdue: list[tuple[Job, Exception]], expired: list[Turn]) -> None:
        for job, error in overdue:
            self._deliver(job, error)
        for turn in expired:
            assert isinstance(turn.answer, Rejection), "it expired"
            job = job_of(turn.request)
            refusal = self._refused(job, turn.answer, here=False)
            if refusal is not None:
                self._deliver(job, refusal)
