"""What other policies are measured against: one model, greedy choices, and chance."""

# ruff: noqa: ARG002 -- all policies share one signature; each uses the part it needs

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random

from sommelier.runtime.policy import (
    NO_MODEL,
    Decision,
    PoolState,
    Rejection,
    Request,
    as_fastest,
    decision,
    fastest,
)


@dataclass(slots=True)
class Fixed:
    """Always the same model: `model`, by default the most accurate."""

    model: str | None = None
    name: str = field(default="fixed", init=False)

    def choose(self, request: Request, pool: PoolState, now_ms: float) -> Decision | Rejection:
        left = request.deadline_ms - now_ms
        for candidate in pool.models:
            if self.model is None or candidate.name == self.model:
                return decision(self.name, "this deployment always uses it", candidate, left, pool)
        if not pool.models:
            return NO_MODEL
        wanted = request.min_accuracy
        less = "" if wanted is None else f", or does not reach an accuracy of {wanted:g}"
        return Rejection(503, f"'{self.model}' is not loaded{less}")


@dataclass(slots=True)
class StaticGreedy:
    """The most accurate model whose profiled mean is at most `sla_ms`, whatever happens at run
    time; the fastest where none is. Source: ModiPick 3.2.1."""

    sla_ms: float = math.inf
    name: str = field(default="static_greedy", init=False)

    def choose(self, request: Request, pool: PoolState, now_ms: float) -> Decision | Rejection:
        if not pool.models:
            return NO_MODEL
        for model in pool.models:
            if model.latency.profiled_ms <= self.sla_ms:
                rule = "the most accurate whose profiled mean is within the SLA of {budget}"
                return decision(self.name, rule, model, self.sla_ms, pool)
        quick = fastest(pool.models)
        rule = as_fastest("no model was profiled within the SLA of {budget}", quick, pool.models)
        return decision(self.name, rule, quick, self.sla_ms, pool)


@dataclass(slots=True)
class DynamicGreedy:
    """The most accurate model whose mean is within the request's budget, else the fastest.

    The budget is what the network left (equation 1); time spent in the queue is not subtracted.
    Source: ModiPick 3.2.2.
    """

    name: str = field(default="dynamic_greedy", init=False)

    def choose(self, request: Request, pool: PoolState, now_ms: float) -> Decision | Rejection:
        if not pool.models:
            return NO_MODEL
        budget = request.deadline_ms - request.arrived_ms
        for model in pool.models:
            if model.latency.mean_ms <= budget:
                rule = "the most accurate whose mean ({mean}) is within the budget of {budget}"
                return decision(self.name, rule, model, budget, pool)
        quick = fastest(pool.models)
        rule = as_fastest("no mean is within the budget of {budget}", quick, pool.models)
        return decision(self.name, rule, quick, budget, pool)


@dataclass(slots=True)
class PureRandom:
    """Any model, all alike. Source: ModiPick 4.4."""

    seed: int = 0
    name: str = field(default="pure_random", init=False)
    _random: Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._random = Random(self.seed)

    def choose(self, request: Request, pool: PoolState, now_ms: float) -> Decision | Rejection:
        if not pool.models:
            return NO_MODEL
        model = pool.models[int(self._random.random() * len(pool.models))]
        return decision(self.name, "drawn at random", model, request.deadline_ms - now_ms, pool)
