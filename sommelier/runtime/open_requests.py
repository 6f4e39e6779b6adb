"""The requests of a deployment that have no answer yet: what becomes of each, without threads.

The caller holds the lock; nothing here blocks, and no model runs.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError as TicketCancelledError
from dataclasses import replace
from typing import Any

from sommelier.errors import CancelledError, RejectedError
from sommelier.runtime.answers import Answer
from sommelier.runtime.batching import LONGEST_MS, SLOWEST_MS
from sommelier.runtime.hedging import hedge_at_ms, second_choice
from sommelier.runtime.jobs import (
    ANSWERED,
    Counts,
    Job,
    Outcome,
    Shared,
    Table,
    answer_of,
    error_of,
    job_of,
)
from sommelier.runtime.learning import learn_from
from sommelier.runtime.loading import Loading, decide
from sommelier.runtime.policy import Decision, Rejection, Request
from sommelier.runtime.scheduling import Scheduler, Turn
from sommelier.runtime.telemetry import Telemetry, size_class

logger = logging.getLogger(__name__)

ATTEMPTS = 2  # models that are asked when one fails


class OpenRequests:
    """Accepts, decides, concludes. count : requests that were accepted and not let go of yet.

    refusing : why no further ones are accepted; None if they are. closed : nor those that are held.
    """

    def __init__(
        self,
        table: Table[Any],
        telemetry: Telemetry,
        clock: Callable[[], float],
        told: Callable[[str, str | None], None],
    ) -> None:
        """told : as of Loading."""
        self.table = table
        self.counts = Counts()
        self.count = 0
        self.refusing: str | None = None
        self.closed = False
        self.loading = Loading(table.view, told)
        self.scheduler = Scheduler(
            table.policy, table.models, telemetry, rules=table.rules, servers=table.servers,
            fallback=table.fallback, device=table.device,
        )  # fmt: skip
        self._clock = clock
        self._hedges: deque[Turn] = deque()

    def accept(self, job: Job) -> None:
        """Let it wait. Raises RejectedError."""
        now = self._clock()
        self._admit(job, now)
        self.scheduler.requeue(job.request)
        job.awaited()
        self._accepted(job, now)

    def begin(self, job: Job, at_most_ms: float) -> Turn | None:
        """The turn of a request that need not wait: nobody else does, a server is idle, its model
        is loaded and takes at most so long, on average or usually, for inputs as large. None, and
        nothing has happened, if not.

        Raises RejectedError.
        """
        scheduler, now = self.scheduler, job.request.arrived_ms + job.queue_ms
        if scheduler.queue.waiting or not scheduler.idle:
            return None
        if job.promised and now >= job.request.deadline_ms:
            return None  # it waited until then
        self._admit(job, now)
        found = decide(scheduler, self.loading, self.table, job.request, now)
        if found is None or self._too_slow(found[0], job, at_most_ms):
            return None
        job.brief = job.shared is not None or at_most_ms < math.inf
        self._accepted(job, now)
        return self._start(job, found, now)

    def goes_on(self, job: Job) -> bool:
        """Whether what comes behind a request that runs may be answered as it is: nobody waits, and
        nothing was loaded, switched or refused since. Needs no lock: the next time is soon
        enough."""
        if self.table is not job.table or self.refusing is not None:
            return False
        if job.shared is not None and job.shared.epoch != self.loading.epoch:
            return False
        return not len(self.scheduler.queue)

    def next(self, only: Job | None = None) -> Turn | None:
        """The next turn that can begin, of all requests or of one."""
        if self._hedges and only is None:
            return self._hedges.popleft()
        scheduler, loading, now = self.scheduler, self.loading, self._clock()

        def ready(request: Request) -> bool:
            job = job_of(request)
            return job.held != loading.epoch and (only is None or only is job)

        while (request := scheduler.take(ready)) is not None:
            job = job_of(request)
            found = decide(scheduler, loading, self.table, request, now)
            if found is None:
                job.held = loading.epoch
                scheduler.requeue(request)
            else:
                return self._start(job, found, now)
        return None

    def settle(self, job: Job) -> bool:
        """Whether it had no answer yet. It has one now: it waits no longer and its runs end."""
        if job.settled:
            return False
        job.settled = True
        if job.waits:
            self.scheduler.cancel(job.request)
        job.request = ANSWERED
        for run in job.runs:
            run.cancel()
        return True

    def settle_all(self) -> list[Job]:
        """All that had no answer yet."""
        requests = [turn.request for turn in self.scheduler.turns]
        jobs = {job_of(request) for request in (*requests, *self.scheduler.queue.waiting)}
        for job in jobs:
            job.awaited()
        return [job for job in jobs if self.settle(job)]

    def finished(
        self, turn: Turn, outcome: Outcome | Exception | None, took_ms: float
    ) -> Answer | Exception | None:
        """What to tell the caller after a run; None: nothing, or not yet."""
        job, now, decision = job_of(turn.request), self._clock(), turn.answer
        assert isinstance(decision, Decision), "a model ran"
        if job.shared is not None:
            self._shared_ended(turn, decision, job.shared, outcome, now)
        else:
            samples = turn.request.samples
            learned = took_ms if self._tells(decision.model, samples, outcome, took_ms) else None
            self.scheduler.finished(turn, learned, now, queue_ms=job.queue_ms)
        job.infer_ms += took_ms
        if job.settled:
            return None
        if isinstance(outcome, Exception):
            return self._after_failure(job, turn.request, decision.model, outcome)
        job.run_ended(turn.request.samples, took_ms, outcome)
        if outcome is None:
            self._again(job, replace(turn.request, samples=job.left), now)
            return None
        if job.shared is None:  # others were quick before, or they would not have been put together
            if (size := job.inputs.size) and took_ms <= SLOWEST_MS:
                sizes = self.scheduler.telemetry.quick_sizes
                sizes[decision.model] = max(size, sizes.get(decision.model, 0.0))
            deadline_ms = turn.request.deadline_ms
            by_model = outcome.by_model(decision.model, job.inputs.samples)
            self.counts.answered_by(by_model, 1, deadline_ms, now > deadline_ms)
        self.settle(job)
        return answer_of(job, turn, decision, outcome, now)

    def _shared_ended(
        self, turn: Turn, decision: Decision, shared: Shared,
        outcome: Outcome | Exception | None, now_ms: float,
    ) -> None:  # fmt: skip
        """Requests that were decided about together have their answers, all or some."""
        scheduler, model = self.scheduler, decision.model
        scheduler.finished(turn, None, now_ms)
        if shared.told:
            answered = {model: sum([samples for samples, *_ in shared.runs])}
            self.counts.answered_by(answered, shared.told, shared.deadline_ms, shared.late)
        learn_from(shared, model, scheduler, now_ms)
        if isinstance(outcome, Exception):
            took_ms, samples = now_ms - shared.began_ms, shared.running
            if self._tells(decision.model, samples, outcome, took_ms):
                scheduler.learn(model, took_ms, now_ms, size_class(samples), requests=0)
        if shared.in_turn:  # what is believed of all follows what each takes
            scheduler.believed_ms(model, turn.request.samples)

    def abandoned(self, turn: Turn) -> bool:
        """The thread that ran it was interrupted; whether nobody had its answer yet."""
        self.scheduler.finished(turn, None, self._clock())
        left = self.settle(job_of(turn.request))
        self.counts.cancelled += left
        return left

    def lost(self, turn: Turn) -> Exception | None:
        """The model was unloaded between the decision and the run: another decision. As of
        `finished`."""
        now, job = self._clock(), job_of(turn.request)
        self.scheduler.finished(turn, None, now)
        self.loading.refresh()
        self.look_again()
        if job.settled or self._runs(job):
            return None
        if job.brief:
            return self._given_back(job)
        self._again(job, turn.request, now)
        return None

    def refused(self, job: Job, rejection: Rejection) -> Exception | None:
        """What to tell the caller of a request that nobody answers; None: nothing any more."""
        if not self.settle(job):
            return None
        if job.errors:
            self.counts.failed += 1
            return job.errors[0]
        self._count_refusal(job, rejection.status)
        return error_of(rejection)

    def switch(self, table: Table[Any]) -> None:
        """Go on by another table, from the next decision on."""
        self.table = table
        self.loading.follow(table.view)
        self.scheduler.device = table.device
        self.scheduler.reconfigure(
            table.policy, table.models, table.rules,
            servers=table.servers, fallback=table.fallback,
        )  # fmt: skip
        self.look_again()

    def look_again(self) -> None:
        """Which models may be chosen."""
        self.scheduler.models = self.loading.usable(self.table.models, self._clock())

    def most_together(self, most: int, *, in_turn: bool) -> int:
        """How many samples, at most so many, take at most LONGEST_MS, by what is believed of the
        models that are quick; 1 where none is. in_turn : each has a run of its own."""
        scheduler, quick = self.scheduler, False
        for name in self.loading.loaded:
            usual_ms = scheduler.estimate(name).usual_ms
            if not usual_ms <= SLOWEST_MS:
                continue
            quick = True
            if in_turn:
                most = min(most, int(LONGEST_MS / usual_ms))
                continue
            while most > 1 and not scheduler.believed_ms(name, most) <= LONGEST_MS:
                most = size_class(most) // 2
        return most if quick else 1

    def next_timer_ms(self) -> float:
        """When a request expires, or a model that was refused may be asked for again."""
        at = min(self.scheduler.next_timer_ms(), self.loading.next_retry_ms())
        for turn in self.scheduler.turns:
            job = job_of(turn.request)
            if job.ends_ms < at and not job.settled:
                at = job.ends_ms
        return at

    def overdue(self, now_ms: float) -> list[tuple[Job, Exception]]:
        """Requests whose deadline came while a model ran, and what to tell their callers; the runs
        end at their next operators."""
        found: list[tuple[Job, Exception]] = []
        for turn in self.scheduler.turns:
            job = job_of(turn.request)
            if job.ends_ms <= now_ms and isinstance(turn.answer, Decision) and self.settle(job):
                job.awaited()
                self.counts.refused(504)
                ran_ms, given_ms = now_ms - turn.started_ms, job.ends_ms - turn.request.arrived_ms
                told = (
                    f"its deadline passed after {turn.answer.model} ran for {ran_ms:.3g} ms;"
                    f" {given_ms:.3g} ms were given"
                )
                found.append((job, RejectedError(told, status=504)))
        return found

    def hedge(self) -> float:
        """Ask second models where it is time; when it is time again."""
        now, at = self._clock(), math.inf
        for turn in self.scheduler.turns if self.table.hedge else ():
            job, due = job_of(turn.request), hedge_at_ms(turn)
            if job.hedged or job.settled or job.shared is not None:
                continue
            if due > now:
                at = min(at, due)
                continue
            job.hedged = True
            job.awaited()
            choice = second_choice(turn, self.scheduler, self.loading.loaded, now)
            if choice is not None:
                self.counts.hedged += 1
                self._hedges.append(self.scheduler.start(turn.request, choice, now))
        return at

    def _admit(self, job: Job, now_ms: float) -> None:
        """Raises RejectedError for a request that is not to wait, CancelledError for one that was
        given up before it came."""
        if job.settled:
            raise TicketCancelledError
        if self.refusing is not None and (self.closed or not job.promised):
            self._count_refusal(job, 503)
            raise RejectedError(self.refusing, status=503)
        refused = self.scheduler.refusal(job.request, now_ms)
        if refused is not None:
            self._count_refusal(job, refused.status)
            raise error_of(refused)

    def _count_refusal(self, job: Job, status: int) -> None:
        """Not of several that were put together: each is asked alone then, and may be answered."""
        if job.shared is None:
            self.counts.refused(status)

    def _accepted(self, job: Job, now_ms: float) -> None:
        job.accepted, job.since_ms = True, now_ms
        self.count += 1

    def _too_slow(self, answer: Decision | Rejection, job: Job, at_most_ms: float) -> bool:
        """Where the machine is shared, means are too large; True where nothing is known. How long
        a model takes says nothing of inputs larger than those it was quick for."""
        if at_most_ms == math.inf or isinstance(answer, Rejection):
            return False
        size = job.inputs.size
        if size and size > self.scheduler.telemetry.quick_sizes.get(answer.model, 0.0):
            return True
        samples = job.request.samples
        if job.shared is not None and job.shared.in_turn:
            usual = [self.scheduler.usual_ms(answer.model, i.samples) for i in job.shared.inputs]
            return not sum(usual) <= at_most_ms
        if answer.expected_ms <= at_most_ms:
            return False
        return not self.scheduler.estimate(answer.model, samples).usual_ms <= at_most_ms

    def _start(self, job: Job, found: tuple[Decision | Rejection, str], now_ms: float) -> Turn:
        """The turn of a request that waits no longer."""
        answer, job.note = found
        job.queue_ms += now_ms - job.since_ms
        job.waits, job.table = False, self.table
        if job.shared is not None:
            job.shared.epoch = self.loading.epoch
        return self.scheduler.start(job.request, answer, now_ms)

    def _tells(
        self, model: str, samples: int, outcome: Outcome | Exception | None, took_ms: float
    ) -> bool:
        """Whether a run says something of its model's latency. One that was ended early took at
        least so long: that is learned where it is more than was believed, or a model that is always
        ended would seem quick for ever."""
        if not isinstance(outcome, CancelledError):
            return not isinstance(outcome, Exception)
        return took_ms > self.scheduler.estimate(model, samples).mean_ms

    def _again(self, job: Job, request: Request, now_ms: float) -> None:
        """It waits for its next model, which another thread may run."""
        job.awaited()
        job.request, job.since_ms, job.waits = request, now_ms, True
        self.scheduler.requeue(request)

    def _after_failure(
        self, job: Job, request: Request, model: str, error: Exception
    ) -> Exception | None:
        """Another model is asked, once; else the caller is told of the first failure. Of several
        that were put together each is to be asked alone first, by the same model."""
        if job.shared is not None:
            return self._given_back(job)
        excluded = request.excluded | {model}
        left = {other.name for other in self.scheduler.models} | {self.scheduler.fallback}
        others = len(job.errors) + 1 < ATTEMPTS and bool(left - excluded - {None})
        if others and job.brief and not self._runs(job):
            return self._given_back(job)  # another model may take any time
        self.counts.failed_in(model)
        job.errors.append(error)
        if self._runs(job):
            return None  # the second model that was asked may still answer
        if others:
            logger.info("%s failed, another model is asked: %s", model, error)
            self._again(job, replace(request, excluded=excluded), self._clock())
            return None
        self.settle(job)
        self.counts.failed += 1
        return job.errors[0]

    def _given_back(self, job: Job) -> Exception:
        """It has no answer, and is asked otherwise."""
        self.settle(job)
        return TicketCancelledError()

    def _runs(self, job: Job) -> bool:
        """Whether a model runs for it at this moment."""
        return any(turn.request.payload is job for turn in self.scheduler.turns)
