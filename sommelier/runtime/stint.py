"""A model that was chosen answers requests of several clients for a moment, by one decision.

To decide about a request, to lease its model and to keep the books costs as much as a quick model
takes: what a model's weights have driven out of the processor's caches comes back for each of these
steps. So requests that meet are decided about together, and where there is nothing to choose (one
model, no SLA) those that come right behind them go on with the same decision, for LONGEST_MS at
most, and only while nobody else waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sommelier.runtime.answers import Answer
from sommelier.runtime.batching import LONGEST_MS
from sommelier.runtime.interface import alike
from sommelier.runtime.jobs import Job, Outcome, SharedRun, job_of, run_model
from sommelier.runtime.policy import Decision
from sommelier.runtime.scheduling import Turn


class Books(Protocol):
    """Who let a stint begin: the dispatcher."""

    @property
    def waiting(self) -> int: ...

    def conclude(
        self, turn: Turn, outcome: Outcome | Exception | None, took_ms: float
    ) -> object: ...

    def abandon(self, turn: Turn) -> None: ...

    def cancel(self, job: Job) -> None: ...


class Stint:
    """To be ended soon by who opened it: a server of the deployment is busy until then, and its
    model stays loaded. For one thread, but for `cancel`. steady : further requests may follow."""

    __slots__ = ("_books", "_busy_ms", "_clock", "_first", "_job", "_model", "_turn", "_until_ms",
                 "ended", "steady")  # fmt: skip

    def __init__(self, turn: Turn, model: Any, books: Books, *, steady: bool) -> None:
        """model : of the turn's decision, leased."""
        self._turn, self._model, self._books = turn, model, books
        job = self._job = job_of(turn.request)
        assert job.shared is not None, "requests of several clients"
        self._clock = job.shared.clock
        self._first = job.shared.inputs[0]
        self._until_ms = self._clock() + LONGEST_MS
        self._busy_ms = 0.0
        self.steady = steady
        self.ended = False

    @property
    def open(self) -> bool:
        """Whether further requests may go on with it."""
        if self.ended or self._job.settled or not self.steady:
            return False
        return not self._books.waiting and self._clock() < self._until_ms

    @property
    def decision(self) -> Decision:
        """Which model answers, and why."""
        found = self._turn.answer
        assert isinstance(found, Decision), "a model was chosen"
        return found

    @property
    def runs(self) -> Sequence[SharedRun]:
        """Those that ended."""
        assert self._job.shared is not None
        return self._job.shared.runs

    def answer(
        self, each: Callable[[Answer], None], requests: Sequence[dict[str, Any]] | None = None
    ) -> None:
        """Answer the requests that it was opened for, or further ones that are alike. each : gets
        their answers, in order, each as soon as it is there. Where a run fails the stint is over,
        and those who were not told are to be asked alone."""
        job = self._job
        assert job.shared is not None
        inputs = None if requests is None else alike(self._first, requests)
        job.shared.come(each, inputs)
        began = self._clock()
        try:
            outcome = run_model(job.table, job, self.decision.model, self._model)
        except BaseException:
            self._release()
            self._books.abandon(self._turn)
            raise
        self._busy_ms += self._clock() - began
        if isinstance(outcome, Exception):
            self.end(outcome)

    def end(self, outcome: Outcome | Exception | None = None) -> None:
        """Its server is free, its model may go; nothing happens the second time. outcome : an error
        of its last run."""
        if not self.ended:
            self._release()
            self._books.conclude(self._turn, outcome or Outcome({}), self._busy_ms)

    def cancel(self) -> None:
        """The run of this moment ends early; from any thread."""
        self._books.cancel(self._job)

    def _release(self) -> None:
        self.ended, self._model = True, None
        self._job.table.view.release(self.decision.model)
