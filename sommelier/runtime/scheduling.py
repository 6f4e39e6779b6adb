"""What happens to a request from its arrival to its answer, without threads and without a clock.

The dispatcher calls this with real time and the simulator with simulated time, so that what is
simulated is what runs. Every method takes the instant `now_ms`; none blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
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
from sommelier.runtime.telemetry import LatencyEstimate, Telemetry, size_class

PROBE_MS = 10.0  # an estimate that was not tested for so long refuses nobody who is alone ...
PROBE_RUNS = 5.0  # ... nor before as many times the mean, so that trying takes a sixth of the time,
SPELL_RUNS = 1.0  # and half of it while the model may be slow for a moment only
SAFETY_SDS = 2.0  # runtime.md 6: admission counts the mean and two deviations of the fastest model


@dataclass(slots=True, eq=False)
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

    servers : how many models run at the same time. fallback : the model that answers where the
    policy finds none. `models` may be replaced at any moment, and `reconfigure` replaces the rest;
    running requests are not touched.
    """

    def __init__(
        self,
        policy: RoutingPolicy,
        models: Sequence[PooledModel],
        telemetry: Telemetry,
        *,
        rules: QueueRules | None = None,
        servers: int = 1,
        fallback: str | None = None,
        device: str = "cpu",
    ) -> None:
        self.telemetry = telemetry
        self.device = device
        self.queue = RequestQueue()
        self._running: dict[Turn, float] = {}
        self.reconfigure(policy, models, rules or QueueRules(), servers=servers, fallback=fallback)

    def reconfigure(
        self,
        policy: RoutingPolicy,
        models: Sequence[PooledModel],
        rules: QueueRules,
        *,
        servers: int,
        fallback: str | None = None,
    ) -> None:
        """Go on with other models, another policy and other rules: who waits keeps waiting, who
        runs keeps running. More than a new limit allows may wait; fewer servers are busy longer."""
        if servers < 1:
            raise BinderError(f"{servers} servers answer nothing", hint="write 1 or more")
        waiting, self.queue = self.queue.waiting, RequestQueue(rules.order)
        for request in waiting:
            self.queue.add(request)
        self.policy = policy
        self.rules = rules
        self.servers = servers
        self.fallback = fallback
        self._accuracies = {model.name: model.accuracy for model in models}
        self._by_size: dict[int, PoolState] = {}
        self.models = tuple(models)

    @property
    def models(self) -> tuple[PooledModel, ...]:
        """Those that may answer, the most accurate first."""
        return self._pool.models

    @models.setter
    def models(self, models: Sequence[PooledModel]) -> None:
        self._pool = self._state(models)
        self._by_size.clear()

    @property
    def idle(self) -> int:
        """Servers that could take a request now."""
        idle = self.servers - len(self._running)
        return idle if idle > 0 else 0

    @property
    def running(self) -> int:
        """Requests that are being answered."""
        return len(self._running)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Those of the requests that are being answered, the oldest first."""
        return tuple(self._running)

    def estimate(self, model: str, samples: int = 1) -> LatencyEstimate:
        """What is believed of a model's time for so many samples."""
        return self.telemetry.estimate(model, device=self.device, batch=size_class(samples))

    def believed_ms(self, model: str, samples: int) -> float:
        """How long so many samples take, tried or not, on average or usually: the longer one; NaN
        where nothing is known."""
        found = self.telemetry.expected(model, samples, device=self.device)
        return max(found.mean_ms, found.usual_ms)

    def usual_ms(self, model: str, samples: int) -> float:
        """How long so many samples usually take, tried or not; NaN where nothing is known."""
        return self.telemetry.expected(model, samples, device=self.device).usual_ms

    def submit(self, request: Request, now_ms: float) -> Rejection | None:
        """Let a request wait, or say why not (429, 503, 504)."""
        refused = self.refusal(request, now_ms)
        if refused is None:
            self.queue.add(request)
        return refused

    def next_turn(self, now_ms: float) -> Turn | None:
        """The next request with its answer; None when no server is idle or nothing waits.

        After a Decision the model is to be run and `finished` to be called; after a Rejection the
        caller is to be told, and the next turn may follow at once.
        """
        request = self.take()
        return (
            None if request is None else self.start(request, self.answer(request, now_ms), now_ms)
        )

    def take(self, ready: Callable[[Request], bool] | None = None) -> Request | None:
        """The next request, which waits no longer; None when no server is idle or nothing waits.

        ready : whether a request's turn may come now; those before it that are not keep waiting.
        """
        if not self.idle or not len(self.queue):
            return None
        return self.queue.take() if ready is None else self.queue.take_ready(ready)

    def answer(
        self, request: Request, now_ms: float, among: Collection[str] | None = None
    ) -> Decision | Rejection:
        """The model that answers a request, or why none does. among : only these; None: all."""
        if self.rules.expire and request.deadline_ms <= now_ms:
            return _expired(request, now_ms)
        pool = self._pool_for(request)
        if among is not None:
            pool = pool.only(among)
        found = self.policy.choose(request, pool, now_ms)
        if found is NO_MODEL and request.min_accuracy is not None and self.models:
            found = Rejection(503, f"no model is loaded that {_reaches(request.min_accuracy)}")
        last = self.fallback
        if isinstance(found, Decision) or last is None or last in request.excluded:
            return found
        if not self._may_resort(last, request):
            return found
        return self._resort(last, found, request, now_ms)

    def start(self, request: Request, answer: Decision | Rejection, now_ms: float) -> Turn:
        """The turn of a request that was taken; after a Decision a server is busy with it."""
        turn = Turn(request, answer, now_ms)
        if isinstance(answer, Decision):
            expected = answer.expected_ms
            self._running[turn] = now_ms + (expected if expected == expected else 0.0)
        return turn

    def requeue(self, request: Request) -> None:
        """Let a request that was accepted wait again, at the place of its arrival, for a model that
        is being loaded or the next one of several. It is not refused: limits are for new ones."""
        self.queue.add(request)

    def finished(
        self,
        turn: Turn,
        execution_ms: float | None,
        now_ms: float,
        *,
        device: str | None = None,
        batch: int | None = None,
        queue_ms: float | None = None,
        requests: int = 1,
    ) -> None:
        """A server is free again. execution_ms : what the model took; None if it failed or was
        cancelled, which says nothing about its latency. device, batch : where and how it ran, if
        not on the scheduler's device with the request's samples. queue_ms : how long it waited, if
        not since it arrived. requests : of clients, that shared the run."""
        del self._running[turn]
        if execution_ms is not None and isinstance(turn.answer, Decision):
            self.telemetry.record(
                turn.answer.model,
                execution_ms,
                now_ms,
                queue_ms=turn.waited_ms if queue_ms is None else queue_ms,
                device=device or self.device,
                batch=batch or size_class(turn.request.samples),
                requests=requests,
            )

    def learn(
        self, model: str, execution_ms: float, now_ms: float, batch: int, *,
        queue_ms: float = 0.0, requests: int = 1,
    ) -> None:  # fmt: skip
        """A run of a turn that is finished, beside what that was told; as there."""
        self.telemetry.record(
            model, execution_ms, now_ms, queue_ms=queue_ms,
            device=self.device, batch=batch, requests=requests,
        )  # fmt: skip

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

    def _state(self, models: Sequence[PooledModel]) -> PoolState:
        return PoolState(ranked(models), self.queue.waiting, self.servers, self.telemetry)

    def _pool_for(self, request: Request) -> PoolState:
        """The models that may answer it, with what they take for so many samples."""
        pool = self._sized(request.samples)
        if request.min_accuracy is not None:
            pool = pool.reaching(request.min_accuracy)
        return pool.without(request.excluded) if request.excluded else pool

    def _sized(self, samples: int) -> PoolState:
        """The pool as requests of several samples see it. Until it was tried, a model is believed
        to take as long as for each sample alone: on a CPU batches gain little (runtime.md 1.4)."""
        if samples == 1:
            return self._pool
        size = size_class(samples)
        found = self._by_size.get(size)
        if found is None:
            found = self._by_size[size] = self._state([self._batched(m, size) for m in self.models])
        return found

    def _batched(self, model: PooledModel, size: int) -> PooledModel:
        latency = self.telemetry.expected(model.name, size, device=self.device, one=model.latency)
        return PooledModel(model.name, model.accuracy, latency)

    def _resort(self, name: str, found: Rejection, request: Request, now_ms: float) -> Decision:
        """The fallback model, where the policy found none."""
        latency = self.estimate(name, request.samples)
        rule = f"{{model}} is the fallback: {found.reason.replace('{', '{{').replace('}', '}}')}"
        left = request.deadline_ms - now_ms
        waiting = len(self.queue)
        return Decision(name, "fallback", rule, latency.mean_ms, latency.std_ms, left, waiting)

    def _may_resort(self, fallback: str, request: Request) -> bool:
        """Whether the fallback is as accurate as the request itself asks for. One that is none of
        the models, of which nothing is known, may answer anything."""
        if not request.wished or request.min_accuracy is None:
            return True
        accuracy = self._accuracies.get(fallback)
        return accuracy is None or accuracy >= request.min_accuracy

    def refusal(self, request: Request, now_ms: float) -> Rejection | None:
        """Why a request may not wait (429, 503, 504); None if it may."""
        if self.fallback is None or not self._may_resort(self.fallback, request):
            if not self.models:
                return NO_MODEL
            wanted = request.min_accuracy
            if wanted is not None and not any(model.accuracy >= wanted for model in self.models):
                return Rejection(503, f"no model of this deployment {_reaches(wanted)}")
        if self.rules.expire and request.deadline_ms <= now_ms:
            return _expired(request, now_ms)
        if len(self.queue.waiting) >= self.rules.limit:
            reason = f"{self.rules.limit} requests wait already, the limit of this deployment"
            return Rejection(429, reason, _or_none(self.expected_wait_ms(1, now_ms)))
        if request.deadline_ms == math.inf or not self.rules.admission or not self.models:
            return None
        return self._late(request, now_ms)

    def _is_guess(self, latency: LatencyEstimate, request: Request, now_ms: float) -> bool:
        """Whether what is believed of a latency should be tried again. What was measured before
        serving, of one sample, is no guess."""
        if not latency.samples:
            return request.samples > 1
        runs = SPELL_RUNS if latency.in_spell else PROBE_RUNS
        return latency.age_ms(now_ms) > max(PROBE_MS, runs * latency.mean_ms)

    def _late(self, request: Request, now_ms: float) -> Rejection | None:
        """The refusal of a request that would be late whatever is done, by estimate.

        Now and then one is let in nevertheless, if that costs nobody anything: a model that was
        slow for a while would never be run again, and so never be seen to have recovered.
        """
        latency = fastest(self._sized(request.samples).models).latency
        if self.idle and not len(self.queue) and self._is_guess(latency, request, now_ms):
            return None
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
    waited, given = now_ms - request.arrived_ms, request.deadline_ms - request.arrived_ms
    told = f"its deadline passed after {waited:.3g} ms of waiting; {given:.3g} ms were given"
    return Rejection(504, told)


def _reaches(accuracy: float) -> str:
    return f"reaches an accuracy of {accuracy:g}"


def _or_none(value: float) -> float | None:
    return None if value != value else value
