"""Policies that weigh accuracy by the chance to be on time.

Source: algorithms.md H.3 (chance constraint, Thompson sampling) and H.4 (drift plus penalty).
Probabilities are estimates: log-normal latencies, by the posterior of `LatencyEstimate`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random

from sommelier.errors import BinderError
from sommelier.runtime.policies.balanced import checked_headroom, shared_ms
from sommelier.runtime.policy import (
    NO_MODEL,
    Decision,
    PooledModel,
    PoolState,
    Rejection,
    Request,
    as_fastest,
    decision,
    fastest,
)
from sommelier.runtime.telemetry import normal_cdf

# Measured (docs/benchmarks.md): .95, .99 and 1 have equally many right and on time, .99 half a
# point more on time than .95. algorithms.md H.3 gives .85 to .95, for requests that do not wait.
SLA_PROB = 0.99
HOPELESS = 1e-3  # algorithms.md H.3: below it no model counts as able to be on time
PENALTY = 0.24  # algorithms.md H.4's V = 15 ms s, in units of its SLA of 250 ms squared
DRIFT_HOPELESS = 0.05  # algorithms.md H.4

SURE = (
    "the most accurate that is on time with probability {probability}, in {budget} with {waiting}"
    " waiting"
)
LIKELY = "the best accuracy times chance ({probability}) in {budget} with {waiting} waiting"
LATE = "no model is likely to take less than {budget}"
NO_LATENCY = "no latency is known yet: the least accurate, which may be the fastest"
PRICED = (
    "the best accuracy times chance ({probability}) in {budget}, less what its {mean} cost others"
)


def _checked_share(knob: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise BinderError(f"{knob} is {value:g}", hint="write a share between 0 and 100 %")


@dataclass(slots=True)
class ChanceConstrained:
    """The most accurate model that is on time with `sla_prob`; where none is, the one with the
    best accuracy times chance; where none has a chance, the fastest.

    sla_prob : 1 leaves only accuracy times chance. thompson : believe a draw from what is known of
    each mean, so that a model that was slow once is tried again. shared : the time is this
    request's share with those who wait, as in `balanced`; otherwise all that is left of its own.
    reject_below : where the best chance is less, reject instead of answering late. headroom : as
    in `balanced`.
    """

    sla_prob: float = SLA_PROB
    thompson: bool = True
    shared: bool = True
    headroom: float = 1.0
    reject_below: float = 0.0
    seed: int = 0
    name: str = field(default="chance_constrained", init=False)
    _random: Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _checked_share("sla_prob", self.sla_prob)
        _checked_share("reject_below", self.reject_below)
        checked_headroom(self.headroom)
        self._random = Random(self.seed)

    def choose(self, request: Request, pool: PoolState, now_ms: float) -> Decision | Rejection:
        if not pool.models:
            return NO_MODEL
        quick = fastest(pool.models)
        if self.shared:
            budget = shared_ms(
                request, pool, now_ms, headroom=self.headroom, quick_ms=quick.latency.mean_ms
            )
        else:
            arrived = request.arrived_ms
            budget = (request.deadline_ms - arrived) * self.headroom + arrived - now_ms
        if budget <= 0:
            return self._hopeless(quick, budget, pool, 0.0)
        if budget == math.inf and self.sla_prob < 1:
            known = (m for m in pool.models if m.latency.mean_ms == m.latency.mean_ms)
            model = next(known, None)
            if model is not None:  # every chance is 1, whatever is drawn
                return decision(self.name, SURE, model, budget, pool, 1.0)
        model, probability, sure = self._best(pool, math.log(budget))
        if model is None or min(probability, model.latency.probability(budget)) < HOPELESS:
            # a draw misled, for better or worse, or there is no chance: by what is known, then
            model = max(pool.models, key=lambda m: _known(m.latency.probability(budget)))
            probability, sure = _known(model.latency.probability(budget)), False
        if probability < max(HOPELESS, self.reject_below):
            return self._hopeless(quick, budget, pool, max(probability, 0.0))
        return decision(self.name, SURE if sure else LIKELY, model, budget, pool, probability)

    def _best(self, pool: PoolState, log_budget: float) -> tuple[PooledModel | None, float, bool]:
        """The choice, its chance, and whether that satisfies the constraint."""
        best, chance, most = None, 0.0, -1.0
        gauss = self._random.gauss if self.thompson else None
        observations = pool.telemetry.observations
        enough = self.sla_prob if self.sla_prob < 1 else math.inf
        for model in pool.models:
            latency = model.latency
            mean = latency.log_mean
            if gauss is not None:
                mean += gauss(0.0, 1.0) * latency.uncertainty(observations)
            probability = normal_cdf((log_budget - mean) / latency.log_std)
            if probability >= enough:
                return model, probability, True
            worth = _worth(model) * probability
            if worth > most:
                best, chance, most = model, probability, worth
        return best, chance, False

    def _hopeless(
        self, quick: PooledModel, budget: float, pool: PoolState, probability: float
    ) -> Decision | Rejection:
        if self.reject_below:
            return Rejection(504, f"no model is likely to answer within {budget:.3g} ms")
        known = quick.latency.mean_ms == quick.latency.mean_ms
        rule = as_fastest(LATE, quick, pool.models) if known else NO_LATENCY
        return decision(self.name, rule, quick, budget, pool, probability)


@dataclass(slots=True)
class DriftPlusPenalty:
    """The model of the best accuracy times chance, less what its time costs those who wait.

    The price of time grows with the backlog: score = A P - (W / SLA) (mean / SLA) / penalty, where
    W is how long the request has waited: first come first, the backlog that it found. penalty : V
    of the literature (Neely 2010) without unit; more weighs accuracy higher and lets the queue grow
    longer. reject_below : below this chance a request is rejected rather than answered late.
    """

    penalty: float = PENALTY
    reject_below: float = DRIFT_HOPELESS
    name: str = field(default="drift_plus_penalty", init=False)

    def __post_init__(self) -> None:
        _checked_share("reject_below", self.reject_below)
        if not 0 < self.penalty < math.inf:
            raise BinderError(f"penalty is {self.penalty:g}", hint="write a number above 0")

    def choose(self, request: Request, pool: PoolState, now_ms: float) -> Decision | Rejection:
        if not pool.models:
            return NO_MODEL
        budget = request.deadline_ms - now_ms
        sla = request.deadline_ms - request.arrived_ms
        price = self._price(request, pool, now_ms, sla)
        best, chance, most = None, 0.0, -math.inf
        log_budget = math.log(budget) if budget > 0 else -math.inf
        for model in pool.models:
            latency = model.latency
            probability = normal_cdf((log_budget - latency.log_mean) / latency.log_std)
            score = _worth(model) * probability - price * latency.mean_ms
            if score > most and probability >= HOPELESS:
                best, chance, most = model, probability, score
        if best is None or chance < self.reject_below:
            return self._hopeless(budget, pool, chance)
        return decision(self.name, PRICED, best, budget, pool, chance)

    def _price(self, request: Request, pool: PoolState, now_ms: float, sla: float) -> float:
        """Of one ms, in accuracy."""
        if not 0 < sla < math.inf:
            return 0.0
        backlog = (now_ms - request.arrived_ms) / pool.servers
        return max(backlog, 0.0) / sla / sla / self.penalty

    def _hopeless(self, budget: float, pool: PoolState, chance: float) -> Decision | Rejection:
        quick = fastest(pool.models)
        if quick.latency.mean_ms != quick.latency.mean_ms:
            return decision(self.name, NO_LATENCY, quick, budget, pool)
        if self.reject_below:
            return Rejection(504, f"no model is likely to answer within {budget:.3g} ms")
        rule = as_fastest(LATE, quick, pool.models)
        return decision(self.name, rule, quick, budget, pool, chance)


def _worth(model: PooledModel) -> float:
    """Its accuracy; an unknown one is worth nothing."""
    return model.accuracy if model.accuracy == model.accuracy else 0.0


def _known(probability: float) -> float:
    return -1.0 if probability != probability else probability
