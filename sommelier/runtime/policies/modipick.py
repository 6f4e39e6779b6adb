"""ModiPick: a base model, a set worth exploring around it, and a draw by utility.

Source: ModiPick 3.3 (equations 2 to 4); algorithms.md H.1 defines what the paper leaves open:
no time left, no base model, an empty set, a mean at the soft limit, an unknown deviation.
"""

# ruff: noqa: ARG002 -- the three draws share one signature; each uses the part it needs

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random

from sommelier.errors import BinderError
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

THRESHOLD_MS = 20.0
POLE = 1e-3  # of the hard limit: the least distance to the soft limit in equation 3

NO_TIME = "the budget of {budget} leaves no time to choose"
NO_BASE = "no model fits in {budget} with its deviation"
NO_LIMIT = "without a deadline: the most accurate"


@dataclass(slots=True)
class ModiPick:
    """Draws from the eligible models by utility (equation 4).

    threshold_ms : between hard and soft limit; the larger, the less profiles are trusted.
    queue_aware : the hard limit is the time left until the deadline. As published (False) it is
    what the network left of the SLA, however long the request has waited since.
    """

    threshold_ms: float = THRESHOLD_MS
    queue_aware: bool = False
    seed: int = 0
    name: str = field(default="modipick", init=False)
    _random: Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.threshold_ms < math.inf:
            raise BinderError(
                f"threshold_ms is {self.threshold_ms:g}", hint="write a time of 0 ms or more"
            )
        self._random = Random(self.seed)
        if self.queue_aware:
            self.name += "_queue_aware"

    def choose(self, request: Request, pool: PoolState, now_ms: float) -> Decision | Rejection:
        models = pool.models
        if not models:
            return NO_MODEL
        since = now_ms if self.queue_aware else request.arrived_ms
        hard = request.deadline_ms - since
        soft = hard - self.threshold_ms
        if soft <= 0:
            return _quickest(self.name, NO_TIME, hard, pool)
        base = _base(models, hard, soft)
        if base is None:
            return _quickest(self.name, NO_BASE, hard, pool)
        if hard == math.inf:
            return decision(self.name, NO_LIMIT, base, hard, pool)
        model, rule = self._among(_eligible(models, base, hard, soft) or [base], hard, soft)
        return decision(self.name, rule, model, hard, pool)

    def _among(
        self, eligible: list[PooledModel], hard: float, soft: float
    ) -> tuple[PooledModel, str]:
        if len(eligible) == 1:
            return eligible[0], "the only one eligible within {budget}"
        utilities = [_utility(model, hard, soft) for model in eligible]
        drawn = self._random.random() * sum(utilities)
        for model, utility in zip(eligible, utilities, strict=True):
            drawn -= utility
            if drawn < 0:
                return model, "drawn by utility from those eligible within {budget}"
        return eligible[0], "of those eligible within {budget} the most accurate"


@dataclass(slots=True)
class RelatedRandom(ModiPick):
    """Any of the eligible models, all alike. Source: ModiPick 4.4."""

    name: str = field(default="related_random", init=False)

    def _among(
        self, eligible: list[PooledModel], hard: float, soft: float
    ) -> tuple[PooledModel, str]:
        model = eligible[int(self._random.random() * len(eligible))]
        return model, "drawn at random from those eligible within {budget}"


@dataclass(slots=True)
class RelatedAccurate(ModiPick):
    """The most accurate of the eligible models. Source: ModiPick 4.4."""

    name: str = field(default="related_accurate", init=False)

    def _among(
        self, eligible: list[PooledModel], hard: float, soft: float
    ) -> tuple[PooledModel, str]:
        return eligible[0], "the most accurate of those eligible within {budget}"


def _quickest(policy: str, rule: str, hard: float, pool: PoolState) -> Decision:
    quick = fastest(pool.models)
    return decision(policy, as_fastest(rule, quick, pool.models), quick, hard, pool)


def _base(models: tuple[PooledModel, ...], hard: float, soft: float) -> PooledModel | None:
    """Stage 1, equation 2. The first that fits, for the most accurate comes first."""
    for model in models:
        mean, std = model.latency.mean_ms, model.latency.std_ms
        if mean + std < hard and mean - std < soft:
            return model
    return None


def _eligible(
    models: tuple[PooledModel, ...], base: PooledModel, hard: float, soft: float
) -> list[PooledModel]:
    """Stage 2: means around the soft limit, as far from it as the base model and its deviation."""
    reach = abs(base.latency.mean_ms - soft) + base.latency.std_ms
    return [
        model
        for model in models
        if abs(model.latency.mean_ms - soft) <= reach
        and model.latency.mean_ms + model.latency.std_ms < hard
    ]


def _utility(model: PooledModel, hard: float, soft: float) -> float:
    """Stage 3, equation 3, with its pole at a mean equal to the soft limit cut off. An unknown
    accuracy counts as none."""
    mean, std = model.latency.mean_ms, model.latency.std_ms
    if model.accuracy != model.accuracy:
        return 0.0
    return model.accuracy * (hard - mean - std) / max(abs(soft - mean), std, POLE * hard)
