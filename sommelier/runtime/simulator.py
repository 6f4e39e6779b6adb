"""A deployment replayed on a trace, event by event, through the scheduler that serves for real.

Source: runtime.md 6 (burst-v1), algorithms.md H.2 to H.4.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sommelier.runtime.policy import Decision, PooledModel, Request, RoutingPolicy
from sommelier.runtime.queueing import QueueRules
from sommelier.runtime.scheduling import SAFETY_SDS, Scheduler, Turn
from sommelier.runtime.simulated_stages import InTurn
from sommelier.runtime.sla import Sla
from sommelier.runtime.telemetry import Telemetry
from sommelier.runtime.traces import Trace, lognormal

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LATE_RATHER_THAN_NEVER = QueueRules(limit=10**9, order="fifo", admission=False, expire=False)
SHORTEST_MS = 1e-3


class ServiceTimes(Protocol):
    """How long a model runs."""

    def draw(self, n: int, rng: np.random.Generator) -> Floats:
        """n execution times in the order of requests, in ms."""
        ...

    @property
    def mean_ms(self) -> float: ...

    @property
    def std_ms(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Measured:
    """Resampled from measured times; `times_ms` : (m,)."""

    times_ms: Floats

    def draw(self, n: int, rng: np.random.Generator) -> Floats:
        return rng.choice(self.times_ms, n)

    @property
    def mean_ms(self) -> float:
        return float(self.times_ms.mean())

    @property
    def std_ms(self) -> float:
        return float(self.times_ms.std())


@dataclass(frozen=True, slots=True)
class Given:
    """With a mean and a deviation. kind : lognormal, normal, exponential or constant."""

    mean_ms: float
    std_ms: float = 0.0
    kind: str = "lognormal"

    def draw(self, n: int, rng: np.random.Generator) -> Floats:
        if self.kind == "exponential":
            return rng.exponential(self.mean_ms, n)
        if self.std_ms == 0:
            return np.full(n, self.mean_ms)
        if self.kind == "normal":
            return np.maximum(rng.normal(self.mean_ms, self.std_ms, n), SHORTEST_MS)
        return lognormal(self.mean_ms, self.std_ms, n, rng)


@dataclass(frozen=True, slots=True)
class Disturbed:
    """Times of `calm` with stragglers, and with slow-downs that come and go.

    Lengths are in requests to the deployment: a model is `slow_factor` times slower for about
    `slow_for` of them, after about `slow_every`. Source: algorithms.md H.3.
    """

    calm: ServiceTimes
    stragglers: float = 0.01
    straggler_factor: float = 3.0
    slow_factor: float = 4.0
    slow_every: float = 3000.0
    slow_for: float = 600.0

    def draw(self, n: int, rng: np.random.Generator) -> Floats:
        factor = np.ones(n)
        at = int(rng.exponential(self.slow_every))
        while at < n:
            end = at + int(rng.exponential(self.slow_for))
            factor[at:end] = self.slow_factor
            at = end + int(rng.exponential(self.slow_every))
        odd = np.where(rng.random(n) < self.stragglers, self.straggler_factor, 1.0)
        return self.calm.draw(n, rng) * factor * odd

    @property
    def mean_ms(self) -> float:
        return self.calm.mean_ms

    @property
    def std_ms(self) -> float:
        return self.calm.std_ms


@dataclass(frozen=True, slots=True)
class Together:
    """Models that all run for each request, one after the other, as one."""

    services: tuple[ServiceTimes, ...]

    def draw(self, n: int, rng: np.random.Generator) -> Floats:
        total = np.zeros(n)
        for service in self.services:
            total += service.draw(n, rng)
        return total

    @property
    def mean_ms(self) -> float:
        return sum(service.mean_ms for service in self.services)

    @property
    def std_ms(self) -> float:
        return math.hypot(*(service.std_ms for service in self.services))


@dataclass(frozen=True, slots=True)
class SimulatedModel:
    """A model of the pool. accuracy : in [0, 1]. The policy begins with mean and deviation of
    `service`, without what disturbs it."""

    name: str
    accuracy: float
    service: ServiceTimes


def profiled(models: Sequence[SimulatedModel], telemetry: Telemetry) -> list[PooledModel]:
    """The models as a policy knows them before any has answered."""
    return [
        PooledModel(
            model.name,
            model.accuracy,
            telemetry.profile(model.name, model.service.mean_ms, model.service.std_ms),
        )
        for model in models
    ]


@dataclass(frozen=True, slots=True)
class Settings:
    """servers : models that run at the same time. fallback : name of one of them, as the scheduler
    has it; of a cascade the stage whose answers stand where the next one would be too late.

    The same seed draws the same execution time for the same request and model, whatever the policy:
    policies are compared on equal luck.
    """

    servers: int = 1
    rules: QueueRules = LATE_RATHER_THAN_NEVER
    seed: int = 0
    fallback: str | None = None


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """What became of each request, in the order of arrival.

    models, accuracies : of the pool. chosen : int64 (n,) position in `models`, -1 rejected.
    latency_ms : float64 (n,) from sending to receiving, NaN rejected. status : int64 (n,) 200 or
    that of the rejection. waits_ms : float64 (n,) in the queue, NaN rejected.
    """

    policy: str
    sla: Sla
    models: tuple[str, ...]
    accuracies: Floats
    chosen: Ints
    latency_ms: Floats
    waits_ms: Floats
    status: Ints

    def __len__(self) -> int:
        return len(self.chosen)

    def latency_quantile(self, q: float) -> float:
        """Of answered requests, in ms; NaN if there is none."""
        answered = self.latency_ms[self.chosen >= 0]
        return float(np.quantile(answered, q)) if len(answered) else math.nan

    @property
    def attainment(self) -> float:
        """Share of all requests that were answered within the SLA; a rejection is late."""
        return self.sla.attainment(self.latency_ms.tolist())

    @property
    def accuracy(self) -> float:
        """Mean accuracy of the models that answered, NaN if none did."""
        answered = self.chosen[self.chosen >= 0]
        return float(self.accuracies[answered].mean()) if len(answered) else math.nan

    @property
    def effective_accuracy(self) -> float:
        """Share of all requests answered right and on time, by the accuracy of their models."""
        if not len(self):
            return math.nan
        on_time = self.latency_ms <= self.sla.latency_ms  # NaN is not
        return float(self.accuracies[self.chosen[on_time]].sum() / len(self))

    @property
    def shares(self) -> Mapping[str, float]:
        """By model, of answered requests."""
        answered = self.chosen[self.chosen >= 0]
        counts = np.bincount(answered, minlength=len(self.models)) / max(len(answered), 1)
        return dict(zip(self.models, counts.tolist(), strict=True))

    @property
    def rejections(self) -> Mapping[int, int]:
        """How many were rejected, by status."""
        refused = self.status[self.status != 200]
        statuses, counts = np.unique(refused, return_counts=True)
        return dict(zip(statuses.tolist(), counts.tolist(), strict=True))


def simulate(
    trace: Trace,
    policy: RoutingPolicy,
    models: Sequence[SimulatedModel],
    sla: Sla,
    settings: Settings | None = None,
) -> SimulationResult:
    """What the policy makes of the trace. About 20 microseconds a request.

    A request's deadline assumes that its answer takes as long as it took itself (equation 1 of
    ModiPick). Deterministic by the seeds of the settings, the trace and the policy.
    """
    settings = settings or Settings()
    return _Replay(trace, policy, models, sla, settings).run()


def simulate_cascade(
    trace: Trace,
    stages: Sequence[SimulatedModel],
    sent_on: Sequence[float],
    sla: Sla,
    settings: Settings | None = None,
) -> SimulationResult:
    """The same of models that are asked in turn: each is a turn of its own in the queue, as in
    runtime.staging.

    sent_on : the share of what it is asked, in [0, 1], that each stage but the last sends on; who
    is sent on is independent of all else. The model of an answer is the last that was asked.
    """
    settings = settings or Settings()
    stream = np.random.SeedSequence(settings.seed).spawn(len(stages) + 1)[-1]  # others: _Replay
    names = [stage.name for stage in stages]
    in_turn = InTurn(names, sent_on, len(trace), np.random.default_rng(stream))
    return _Replay(trace, in_turn, stages, sla, settings, in_turn).run()


class _Replay:
    """One simulation: the scheduler, what is running, and what became of each request."""

    def __init__(
        self,
        trace: Trace,
        policy: RoutingPolicy,
        models: Sequence[SimulatedModel],
        sla: Sla,
        settings: Settings,
        in_turn: InTurn | None = None,
    ) -> None:
        self.trace, self.sla, self.models = trace, sla, tuple(models)
        self.place = {model.name: at for at, model in enumerate(self.models)}
        streams = np.random.SeedSequence(settings.seed).spawn(len(self.models))
        self.times = [
            model.service.draw(len(trace), np.random.default_rng(stream)).tolist()
            for model, stream in zip(self.models, streams, strict=True)
        ]
        telemetry = Telemetry()
        self.scheduler = Scheduler(
            policy, profiled(self.models, telemetry), telemetry,
            rules=settings.rules, servers=settings.servers, fallback=settings.fallback,
        )  # fmt: skip
        self.in_turn = in_turn
        n = len(trace)
        self.chosen = [-1] * n
        self.done_ms = [math.nan] * n
        self.waits_ms = [math.nan] * n
        self.status = [200] * n
        self.running: list[tuple[float, int, Turn]] = []

    def run(self) -> SimulationResult:
        """Event by event: what ends frees its server before what comes at the same instant."""
        scheduler, running = self.scheduler, self.running
        inputs = self.trace.input_ms.tolist()
        for index, now in enumerate(self.trace.arrived_ms.tolist()):
            self._until(now)
            deadline = self.sla.deadline_ms(now, inputs[index])
            refused = scheduler.submit(Request(now, deadline, payload=index), now)
            if refused is not None:
                self.status[index] = refused.status
            self._start(now)
        self._until(math.inf)
        assert not running
        return self._result()

    def _until(self, instant: float) -> None:
        """Let everything end or expire that does so up to this instant."""
        scheduler, running = self.scheduler, self.running
        while True:
            end = running[0][0] if running else math.inf
            timer = scheduler.next_timer_ms()
            now = min(end, timer)
            if now > instant or now == math.inf:
                return
            if end <= timer:
                _, _, turn = heapq.heappop(running)
                scheduler.finished(turn, end - turn.started_ms, end)
                self._sent_on(turn, end)
            for expired in scheduler.expire(now):
                self._refuse(expired)
            self._start(now)

    def _start(self, now: float) -> None:
        while (turn := self.scheduler.next_turn(now)) is not None:
            if not isinstance(turn.answer, Decision):
                self._refuse(turn)
                continue
            index = turn.request.payload
            assert isinstance(index, int)
            place = self.place[turn.answer.model]
            self.waits_ms[index] = self._waited(turn, index)
            self.chosen[index] = place
            self.done_ms[index] = now + self.times[place][index]
            heapq.heappush(self.running, (self.done_ms[index], index, turn))

    def _sent_on(self, turn: Turn, now: float) -> None:
        """After a stage of a cascade: who is sent on waits for the next one, unless the stage is
        the fallback and the next one would be too late."""
        index = turn.request.payload
        assert isinstance(index, int)
        following = None if self.in_turn is None else self.in_turn.following(index)
        if self.in_turn is None or following is None:
            return
        assert isinstance(turn.answer, Decision)
        if turn.answer.model == self.scheduler.fallback:
            latency = self.scheduler.estimate(following)
            if latency.mean_ms + SAFETY_SDS * latency.std_ms > turn.request.deadline_ms - now:
                return
        self.in_turn.advance(index)
        self.scheduler.requeue(turn.request)

    def _waited(self, turn: Turn, index: int) -> float:
        """In the queue until now, before all of its stages."""
        if self.chosen[index] < 0:
            return turn.waited_ms
        return self.waits_ms[index] + turn.started_ms - self.done_ms[index]

    def _refuse(self, turn: Turn) -> None:
        index = turn.request.payload
        assert isinstance(index, int)
        assert not isinstance(turn.answer, Decision)
        self.status[index] = turn.answer.status
        self.chosen[index], self.done_ms[index], self.waits_ms[index] = -1, math.nan, math.nan

    def _result(self) -> SimulationResult:
        trace = self.trace
        latency = np.array(self.done_ms) - trace.arrived_ms + trace.input_ms + trace.output_ms
        return SimulationResult(
            policy=self.scheduler.policy.name,
            sla=self.sla,
            models=tuple(model.name for model in self.models),
            accuracies=np.array([model.accuracy for model in self.models]),
            chosen=np.array(self.chosen, np.int64),
            latency_ms=latency,
            waits_ms=np.array(self.waits_ms),
            status=np.array(self.status, np.int64),
        )
