"""Which model answers a request: what a policy sees, what it says, and the protocol between.

Instants and durations are ms of one monotonic clock. Policies run once per request: plain Python,
a few microseconds, no numpy. What is made anew for every request, here and elsewhere in serving, is
not frozen: to make a frozen record takes three times as long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from string import Formatter
from typing import Protocol

from sommelier.runtime.telemetry import LatencyEstimate, Telemetry


@dataclass(slots=True, eq=False)
class Request:
    """One input to be answered. Two requests are equal only if they are the same object.

    deadline_ms : when the answer must leave; inf without an SLA. priority : smaller is served
    first. min_accuracy : in [0, 1]; only models known to reach it may answer. payload : the inputs,
    which no policy looks at. samples : in them. excluded : names of models that may not answer.
    wished : the request itself asks for min_accuracy, so that it binds the fallback too, which
    need not keep what the deployment promises.
    """

    arrived_ms: float
    deadline_ms: float = math.inf
    priority: int = 0
    min_accuracy: float | None = None
    payload: object = None
    samples: int = 1
    excluded: frozenset[str] = frozenset()
    wished: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class PooledModel:
    """A model that may answer. accuracy : on the deployment's task, in [0, 1]; NaN unknown."""

    name: str
    accuracy: float
    latency: LatencyEstimate


def ranked(models: Iterable[PooledModel]) -> tuple[PooledModel, ...]:
    """The most accurate first, of equals the faster; unknown accuracies last."""
    return tuple(
        sorted(models, key=lambda model: (-_or(model.accuracy, -1.0), _or_inf(model), model.name))
    )


@dataclass(slots=True)
class PoolState:
    """What a deployment looks like at the moment of a decision.

    models : loaded ones in the order of `ranked`. waiting : requests behind the one that is to be
    served, the next first. servers : how many models run at the same time.
    """

    models: tuple[PooledModel, ...]
    waiting: Sequence[Request] = ()
    servers: int = 1
    telemetry: Telemetry = field(default_factory=Telemetry)

    def reaching(self, accuracy: float) -> PoolState:
        """The same with only the models that are known to be this accurate."""
        return replace(self, models=tuple(m for m in self.models if m.accuracy >= accuracy))

    def only(self, names: Collection[str]) -> PoolState:
        """The same with only these models."""
        return replace(self, models=tuple(m for m in self.models if m.name in names))

    def without(self, names: Collection[str]) -> PoolState:
        """The same without these models."""
        return replace(self, models=tuple(m for m in self.models if m.name not in names))


@dataclass(slots=True)
class Decision:
    """The model that answers, and why.

    expected_ms : its mean execution time, deviation_ms its deviation; NaN unknown. budget_ms : the
    time the policy gave it. probability : estimated P(execution <= budget); NaN where the policy
    does not ask. waiting : requests behind. rule : the reason as a template; `reason` fills it in.
    """

    model: str
    policy: str
    rule: str
    expected_ms: float
    deviation_ms: float
    budget_ms: float
    waiting: int
    probability: float = math.nan

    @property
    def reason(self) -> str:
        """Why, in words; made when asked for, not while the request waits."""
        return "".join(text + told(self) for text, told in _parts(self.rule))


_TOLD: Mapping[str | None, Callable[[Decision], str]] = {
    None: lambda _: "",
    "model": lambda d: d.model,
    "mean": lambda d: f"{d.expected_ms:.3g} ms",
    "bound": lambda d: f"{d.expected_ms + 2 * d.deviation_ms:.3g} ms",
    "budget": lambda d: "no deadline" if d.budget_ms == math.inf else f"{d.budget_ms:.3g} ms",
    "waiting": lambda d: str(d.waiting),
    "probability": lambda d: f"{d.probability:.1%}",
}


@lru_cache(maxsize=256)
def _parts(rule: str) -> tuple[tuple[str, Callable[[Decision], str]], ...]:
    """Texts of a template, each with what follows it."""
    return tuple((text, _TOLD[name]) for text, name, _, _ in Formatter().parse(rule))


@dataclass(frozen=True, slots=True)
class Rejection:
    """A request that no model answers, and why.

    status : as in HTTP; 429 too many requests, 503 nothing to answer with, 504 too late.
    retry_after_ms : when it may be accepted; None where waiting would not help or is not known.
    """

    status: int
    reason: str
    retry_after_ms: float | None = None


class RoutingPolicy(Protocol):
    """Chooses a model of the pool for a request, or says why none.

    Every policy is deterministic: the same seed and the same questions give the same answers. A
    model without a known latency is chosen only where none is known, or by a policy that does not
    look at latency.
    """

    @property
    def name(self) -> str:
        """As in ROUTE BY."""
        ...

    def choose(self, request: Request, pool: PoolState, now_ms: float) -> Decision | Rejection: ...


NO_MODEL = Rejection(503, "no model is loaded that may answer")


def as_fastest(rule: str, quick: PooledModel, models: Sequence[PooledModel]) -> str:
    """A rule that ends in naming what `fastest` found, with what is known of its being that."""
    if quick.latency.mean_ms != quick.latency.mean_ms:
        return f"{rule}: the least accurate, which may be the fastest, for no latency is known yet"
    if any(model.latency.mean_ms != model.latency.mean_ms for model in models):
        return f"{rule}: the fastest of those whose latency is known"
    return f"{rule}: the fastest"


def fastest(models: Sequence[PooledModel]) -> PooledModel:
    """The model of the smallest mean; where no latency is known, the least accurate, which is the
    best guess at the smallest."""
    best = models[-1]
    least = math.inf
    for model in models:
        if model.latency.mean_ms < least:  # False for an unknown one
            best, least = model, model.latency.mean_ms
    return best


def decision(
    policy: str,
    rule: str,
    model: PooledModel,
    budget_ms: float,
    pool: PoolState,
    probability: float = math.nan,
) -> Decision:
    """What every policy returns for the model it chose."""
    latency = model.latency
    return Decision(
        model.name,
        policy,
        rule,
        latency.mean_ms,
        latency.std_ms,
        budget_ms,
        len(pool.waiting),
        probability,
    )


def _or(value: float, unknown: float) -> float:
    return unknown if value != value else value


def _or_inf(model: PooledModel) -> float:
    return _or(model.latency.mean_ms, math.inf)
