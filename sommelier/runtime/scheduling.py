"""What happens to a request from its arrival to its answer, without threads and without a clock.

The dispatcher calls this with real time and the simulator with simulated time, so that what is
simulated is what runs. Every method takes the instant `now_ms`; none blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sommelier.errors import BinderError
from sommelier.runtime.policy import (
    NO_MODEL,
    Decision,
    PooledModel,
    PoolState,
    Rejection,
    Request,
    RoutingPolicy,
    fastest,
    ranked,
)
from sommelier.runtime.queueing import QueueRules, RequestQueue
from sommelier.runtime.telemetry import Telemetry

SAFETY_SDS = 2.0  # runtime.md 6: admission counts the mean and two deviations of the fastest model


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """A request whose turn has come: the model that answers it, or why none does."""

    request: Request
    answer: Decision | Rejection
    started_ms: float

    @property
    def waited_ms(self) -> float:
        return self.started_ms - self.request.arrived_ms


class Scheduler:
    """The queue, the pool and the policy of one deployment. Not thread safe.

    servers : how many models run at the same time. `models` may be replaced at any moment; running
    requests are not touched.
    """

    def __init__(
        self,
        policy: RoutingPolicy,
        models: Sequence[PooledModel],
        telemetry: Telemetry,
        *,
        rules: QueueRules | None = None,
        servers: int = 1,
    ) -> None:
        if servers < 1:
            raise BinderError(f"{servers} servers answer nothing", hint="write 1 or more")
        self.policy = policy
        self.telemetry = telemetry
        self.rules = rules or QueueRules()
        self.servers = servers
        self.queue = RequestQueue(self.rules.order)
        self._pool = PoolState(ranked(models), self.queue.waiting, servers, telemetry)
        self._running: dict[Turn, float] = {}

    @property
    def models(self) -> tuple[PooledModel, ...]:
        """Those that may answer, the most accurate first."""
        return self._pool.models

    @models.setter
    def models(self, models: Sequence[PooledModel]) -> None:
        self._pool.models = ranked(models)

    @property
    def idle(self) -> int:
        """Servers that could take a request now."""
        return self.servers - len(self._running)

    def submit(self, request: Request, now_ms: float) -> Rejection | None:
        """Let a request wait, or say why not (429, 503, 504)."""
        refused = self._refusal(request, now_ms)
        if refused is None:
            self.queue.add(request)
        return refused

    def next_turn(self, now_ms: float) -> Turn | None:
        """The next request with its answer; None when no server is idle or nothing waits.

        After a Decision the model is to be run and `finished` to be called; after a Rejection the
        caller is to be told, and the next turn may follow at once.
        """
        if not self.idle or not len(self.queue):
            return None
        request = self.queue.take()
        turn = Turn(request, self._answer(request, now_ms), now_ms)
        if isinstance(turn.answer, Decision):
            expected = turn.answer.expected_ms
            self._running[turn] = now_ms + (expected if expected == expected else 0.0)
        return turn

    def finished(
        self,
        turn: Turn,
        execution_ms: float | None,
        now_ms: float,
        *,
        device: str = "cpu",
        batch: int = 1,
    ) -> None:
        """A server is free again. execution_ms : what the model took; None if it failed or was
        cancelled, which says nothing about its latency. device, batch : where and how it ran."""
        del self._running[turn]
        if execution_ms is not None and isinstance(turn.answer, Decision):
            self.telemetry.record(
                turn.answer.model,
                execution_ms,
                now_ms,
                queue_ms=turn.waited_ms,
                device=device,
                batch=batch,
            )

    def expire(self, now_ms: float) -> list[Turn]:
        """Those whose deadline came while they waited, each with its Rejection (504)."""
        if not self.rules.expire:
            return []
        return [
            Turn(request, _expired(request, now_ms), now_ms)
            for request in self.queue.take_expired(now_ms)
        ]

    def next_timer_ms(self) -> float:
        """When `expire` is to be called next; inf if never."""
        return self.queue.next_expiry_ms() if self.rules.expire else math.inf

    def cancel(self, request: Request) -> bool:
        """Whether the request still waited; it does no longer."""
        return self.queue.remove(request)

    def expected_wait_ms(self, ahead: int, now_ms: float) -> float:
        """How long a request waits behind `ahead` others if the fastest model answers them all, an
        estimate; NaN where no latency is known."""
        if not self.models:
            return math.nan
        quick = fastest(self.models).latency.mean_ms
        if self.idle > ahead:
            return 0.0
        running = sum(max(end - now_ms, 0.0) for end in self._running.values())
        return (running + ahead * quick) / self.servers

    def _answer(self, request: Request, now_ms: float) -> Decision | Rejection:
        if self.rules.expire and request.deadline_ms <= now_ms:
            return _expired(request, now_ms)
        pool = self._pool
        if request.min_accuracy is not None:
            pool = pool.reaching(request.min_accuracy)
        return self.policy.choose(request, pool, now_ms)

    def _refusal(self, request: Request, now_ms: float) -> Rejection | None:
        if not self.models:
            return NO_MODEL
        wanted = request.min_accuracy
        if wanted is not None and not any(model.accuracy >= wanted for model in self.models):
            return Rejection(503, f"no model of this deployment reaches an accuracy of {wanted:g}")
        if self.rules.expire and request.deadline_ms <= now_ms:
            return _expired(request, now_ms)
        if len(self.queue) >= self.rules.limit:
            reason = f"{self.rules.limit} requests wait already, the limit of this deployment"
            return Rejection(429, reason, _or_none(self.expected_wait_ms(1, now_ms)))
        return self._late(request, now_ms) if self.rules.admission else None

    def _late(self, request: Request, now_ms: float) -> Rejection | None:
        """The refusal of a request that would be late whatever is done, by estimate."""
        latency = fastest(self.models).latency
        needed = latency.mean_ms + SAFETY_SDS * latency.std_ms
        ahead = self.queue.ahead_of(request)
        wait = self.expected_wait_ms(ahead, now_ms)
        left = request.deadline_ms - now_ms
        if not wait + needed > left:  # an unknown latency refuses nothing
            return None
        if needed > left:
            return Rejection(
                429, f"{left:.3g} ms are left; the fastest model needs {needed:.3g} ms"
            )
        reason = f"{ahead} requests come before it: {wait:.3g} ms, and {left:.3g} ms are left"
        return Rejection(429, reason, wait + needed - left)


def _expired(request: Request, now_ms: float) -> Rejection:
    waited = now_ms - request.arrived_ms
    return Rejection(504, f"its deadline passed after {waited:.3g} ms of waiting")


def _or_none(value: float) -> float | None:
    return None if value != value else value
