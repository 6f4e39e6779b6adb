"""Which models of a deployment are loaded, on the way, or refused: what a dispatcher may choose."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from typing import Any

from sommelier.errors import first_line
from sommelier.runtime.jobs import Models, Table
from sommelier.runtime.policy import Decision, PooledModel, Rejection, Request
from sommelier.runtime.scheduling import Scheduler

RETRY_MS = 2_000.0  # a model that could not be loaded is not considered for so long


class Loading:
    """Guarded by the dispatcher's lock.

    epoch : grows whenever something changed, so that who waits for a model looks again.
    """

    def __init__(self, view: Models[Any], told: Callable[[str, str | None], None]) -> None:
        """told : (name, why it failed or None) when a model that was asked for is loaded or not; in
        a thread that loads, or at once."""
        self._view = view
        self._told = told
        self._asked: set[str] = set()
        self._refused: dict[str, tuple[str, float]] = {}  # why, and until when
        self.loaded: frozenset[str] = frozenset(view.ready())
        self.epoch = 0

    def refresh(self) -> None:
        """Look again which models are loaded."""
        self.loaded = frozenset(self._view.ready())
        self.epoch += 1

    def follow(self, view: Models[Any]) -> None:
        """Go on with the models of another table."""
        self._view = view
        self._asked.clear()
        self._refused.clear()
        self.refresh()

    def ask(self, name: str) -> bool:
        """Let a model be loaded, unless it is on its way; True if that ended at once."""
        before = self.epoch
        if name not in self._asked:
            self._asked.add(name)
            self._view.request(name).add_done_callback(lambda done: self._ended(name, done))
        return self.epoch != before

    def ended(self, name: str, why: str | None, now_ms: float) -> None:
        """What `told` was told."""
        self._asked.discard(name)
        if why is not None:
            self._refused[name] = (why, now_ms + RETRY_MS)
        self.refresh()

    def usable(self, models: Sequence[PooledModel], now_ms: float) -> tuple[PooledModel, ...]:
        """Those that are loaded or may be."""
        for name, (_, until) in tuple(self._refused.items()):
            if name in self.loaded or until <= now_ms:
                del self._refused[name]
        return tuple(model for model in models if model.name not in self._refused)

    def next_retry_ms(self) -> float:
        """When a model that was refused may be asked for again; inf if none was."""
        return min((until for _, until in self._refused.values()), default=math.inf)

    def retry_in_ms(self, now_ms: float) -> float | None:
        """In how long it is worth to ask again; None if no model was refused."""
        at = self.next_retry_ms()
        return None if at == math.inf else max(at - now_ms, 0.0)

    def why_refused(self, name: str) -> str | None:
        """Why a model cannot be loaded; None if nothing is known against it."""
        return self._refused[name][0] if name in self._refused else None

    @property
    def refusals(self) -> str:
        """Which models could not be loaded and why; '' if none."""
        return "; ".join(f"{name}: {why}" for name, (why, _) in self._refused.items())

    def _ended(self, name: str, done: Future[None]) -> None:
        try:
            error = done.exception()
        except CancelledError:
            self._told(name, "the pool was closed")
        else:
            self._told(name, None if error is None else first_line(error))


def decide(
    scheduler: Scheduler, loading: Loading, table: Table[Any], request: Request, now_ms: float
) -> tuple[Decision | Rejection, str] | None:
    """(the answer to a request, what else to say of it); None: it waits for a model to be loaded.

    The policy chooses among all models. One that is not loaded is asked for, and meanwhile a
    stand-in answers, or whom the policy chooses among those that are loaded.
    """
    answer = scheduler.answer(request, now_ms)
    while isinstance(answer, Decision) and answer.model not in loading.loaded:
        if (why := loading.why_refused(answer.model)) is not None:  # the fallback: nobody is left
            return Rejection(503, f"{answer.model}: {why}", loading.retry_in_ms(now_ms)), ""
        if not loading.ask(answer.model):
            return _meanwhile(scheduler, loading, table, answer, request, now_ms)
        answer = scheduler.answer(request, now_ms)
    if isinstance(answer, Rejection) and answer.status == 503 and loading.refusals:
        reason = f"{answer.reason} ({loading.refusals})"
        answer = Rejection(503, reason, loading.retry_in_ms(now_ms))
    return answer, ""


def _meanwhile(
    scheduler: Scheduler,
    loading: Loading,
    table: Table[Any],
    wanted: Decision,
    request: Request,
    now_ms: float,
) -> tuple[Decision, str] | None:
    """Who answers while the model that was wanted is being loaded."""
    absent = wanted.model
    if request.min_accuracy is None:
        for name in table.stand_ins.get(absent, ()):
            if name in loading.loaded and name not in request.excluded:
                estimate = scheduler.estimate(name, request.samples)
                stood_in = replace(
                    wanted, model=name, expected_ms=estimate.mean_ms, deviation_ms=estimate.std_ms
                )
                return stood_in, f"{absent} is being loaded and {name} stands in for it"
    second = scheduler.answer(request, now_ms, among=loading.loaded)
    if isinstance(second, Decision) and second.model in loading.loaded:
        return second, f"{absent} is being loaded"
    return None
