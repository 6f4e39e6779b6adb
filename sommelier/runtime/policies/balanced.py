"""`balanced`: the time that is left is shared with those who wait."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from sommelier.errors import BinderError
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

DEVIATIONS = 2.0  # runtime.md 6: a model fits if its mean and two deviations do

FITS = "the most accurate that fits ({bound}) in {budget}, its share with {waiting} waiting"
NONE_FITS = "none fits in {budget}, its share with {waiting} waiting"


def shared_ms(
    request: Request, pool: PoolState, now_ms: float, *, headroom: float, quick_ms: float
) -> float:
    """How long the request may run if all behind it run as long and none is to be late.

    The least over itself and the j-th behind it (from 1) of its slack / (1 + j / servers), where
    the slack is what is left of `headroom` times its budget. quick_ms : what the fastest model
    takes. Requests that would be late even so are left out but for that time, and the search ends
    once the share is below it, where its exact value no longer matters. Source: runtime.md 6.
    """
    arrived = request.arrived_ms
    share = (request.deadline_ms - arrived) * headroom + arrived - now_ms
    rounds, step, lost = 1.0, 1.0 / pool.servers, 0.0
    for behind in pool.waiting:
        deadline, arrived = behind.deadline_ms, behind.arrived_ms
        if deadline - now_ms < quick_ms:
            lost += quick_ms * step
            continue
        rounds += step
        slack = ((deadline - arrived) * headroom + arrived - now_ms - lost) / rounds
        if slack < share:
            share = slack
            if share < quick_ms:
                break
    return share


def checked_headroom(headroom: float) -> None:
    """Raises BinderError unless it is a share in (0, 1]."""
    if not 0 < headroom <= 1:
        raise BinderError(
            f"headroom is {headroom:g}", hint="write the share of the SLA to spend, 0 to 100 %"
        )


@dataclass(slots=True)
class Balanced:
    """The most accurate model that fits in this request's share of the time, else the fastest.

    headroom : share of the SLA that may be spent; less is faster and less accurate. deviations :
    how many are added to a model's mean.
    """

    headroom: float = 1.0
    deviations: float = DEVIATIONS
    name: str = field(default="balanced", init=False)

    def __post_init__(self) -> None:
        checked_headroom(self.headroom)
        if not 0 <= self.deviations < math.inf:
            raise BinderError(f"deviations is {self.deviations:g}", hint="write 0 or more")

    def choose(self, request: Request, pool: PoolState, now_ms: float) -> Decision | Rejection:
        if not pool.models:
            return NO_MODEL
        quick = fastest(pool.models)
        share = shared_ms(
            request, pool, now_ms, headroom=self.headroom, quick_ms=quick.latency.mean_ms
        )
        for model in pool.models:
            if model.latency.mean_ms + self.deviations * model.latency.std_ms <= share:
                return decision(self.name, FITS, model, share, pool)
        rule = as_fastest(NONE_FITS, quick, pool.models)
        return decision(self.name, rule, quick, share, pool)
