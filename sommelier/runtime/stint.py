"""A model that was chosen answers requests of several clients for a moment, by one decision.

To decide about a request, to lease its model and to keep the books costs as much as a quick model
takes: what a model's weights have driven out of the processor's caches comes back for each of these
steps. So requests that meet are decided about together, and where there is nothing to choose (one
model, no SLA) those that come right behind them go on with the same decision, for STINT_MS at
most, and only while nobody else waits and the deployment is as it was.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from sommelier.errors import SommelierError
from sommelier.runtime.answers import Answer
from sommelier.runtime.jobs import Job, Outcome, SharedRun, Told, job_of, run_model
from sommelier.runtime.policy import Decision
from sommelier.runtime.predictor import Cancellation
from sommelier.runtime.scheduling import Turn

Array = NDArray[Any]
logger = logging.getLogger(__name__)

STINT_MS = 100.0  # until its answers are counted and a model is chosen anew


class Books(Protocol):
    """Who let a stint begin: the dispatcher."""

    def goes_on(self, job: Job) -> bool: ...

    def conclude(
        self, turn: Turn, outcome: Outcome | Exception | None, took_ms: float
    ) -> object: ...

    def abandon(self, turn: Turn) -> None: ...

    def cancel(self, job: Job) -> None: ...


class Stint:
    """To be ended soon by who opened it: a server of the deployment is busy until then, and its
    model stays loaded. For one thread, but for `cancel`. steady : further requests may follow.
    decision : which model answers, and why."""

    __slots__ = ("_books", "_cancellation", "_clock", "_job", "_model", "_shared",
                 "_turn", "_until_ms", "decision", "ended", "steady")  # fmt: skip

    def __init__(self, turn: Turn, model: Any, books: Books, *, steady: bool) -> None:
        """model : of the turn's decision, leased."""
        self._turn, self._model, self._books = turn, model, books
        job = self._job = job_of(turn.request)
        assert job.shared is not None, "requests of several clients"
        assert isinstance(turn.answer, Decision), "a model was chosen"
        self.decision = turn.answer
        self._shared = job.shared
        self._clock = job.shared.clock
        self._cancellation: Cancellation | None = None
        self._until_ms = self._clock() + STINT_MS
        self.steady = steady
        self.ended = False

    @property
    def open(self) -> bool:
        """Whether further requests may go on with it."""
        job = self._job
        if self.ended or job.settled or not self.steady:
            return False
        return self._clock() < self._until_ms and self._books.goes_on(job)

    @property
    def joins(self) -> bool:
        """Whether requests share a run."""
        return bool(self._model.joins)

    @property
    def runs(self) -> Sequence[SharedRun]:
        """Those that ended."""
        return self._shared.runs

    def answer(self, each: Told, requests: Sequence[dict[str, Any]] | None = None) -> None:
        """Answer the requests that it was opened for, or further ones whose tensors have the same
        names, types and shapes. each : called for each of them, in order, as soon as it has its
        answer. Where a run fails the stint is over, and those who were not told are to be asked
        alone."""
        job, shared = self._job, self._shared
        shared.come(each, requests)
        if self._cancellation is None:
            self._cancellation = Cancellation()
            job.runs.append(self._cancellation)
        try:
            outcome = run_model(
                job.table, job, self.decision.model, self._model, self._cancellation
            )
        except BaseException:
            self._release()
            self._books.abandon(self._turn)
            raise
        finally:
            shared.went()
        if isinstance(outcome, Exception):
            if not isinstance(outcome, SommelierError):
                logger.error("requests are answered one by one", exc_info=outcome)
            self.end(outcome)

    def as_answer(self, outputs: Mapping[str, Array], queue_ms: float, infer_ms: float) -> Answer:
        """What `each` gets, as any other answer. It does not know its samples."""
        job, decision = self._job, self.decision
        return Answer(
            outputs, decision.model, decision, queue_ms, infer_ms, queue_ms + infer_ms,
            job.table.deployment, job.note,
        )  # fmt: skip

    def end(self, outcome: Outcome | Exception | None = None) -> None:
        """Its server is free, its model may go; nothing happens the second time. outcome : an error
        of its last run."""
        if not self.ended:
            self._release()
            took_ms = sum([run[3] for run in self.runs])
            self._books.conclude(self._turn, outcome or Outcome({}), took_ms)

    def cancel(self) -> None:
        """The run of this moment ends early; from any thread."""
        self._books.cancel(self._job)

    def _release(self) -> None:
        self.ended, self._model = True, None
        self._job.table.view.release(self.decision.model, max(self._shared.told, 1))
