"""Asking a second model when the first one takes unusually long and nobody waits."""

from __future__ import annotations

import math
from collections.abc import Collection

from sommelier.runtime.policy import Decision, fastest
from sommelier.runtime.scheduling import Scheduler, Turn

LONG_SDS = 3.0  # a run is unusual so many deviations behind the mean ...
LONG_SHARE = 0.5  # ... and at least by half of the mean, however steady a model seems
SAFETY_SDS = 2.0  # as for admission


def hedge_at_ms(turn: Turn) -> float:
    """When a run becomes unusually long; inf where nothing is known of its model."""
    answer = turn.answer
    if not isinstance(answer, Decision) or answer.expected_ms != answer.expected_ms:
        return math.inf
    extra = max(LONG_SDS * answer.deviation_ms, LONG_SHARE * answer.expected_ms)
    return turn.started_ms + answer.expected_ms + extra


def second_choice(
    turn: Turn, scheduler: Scheduler, loaded: Collection[str], now_ms: float
) -> Decision | None:
    """The fastest other model, if a server is idle, nobody waits and it would be in time."""
    request = turn.request
    if not scheduler.idle or len(scheduler.queue) or not isinstance(turn.answer, Decision):
        return None
    least = -math.inf if request.min_accuracy is None else request.min_accuracy
    others = [
        model
        for model in scheduler.models
        if model.name in loaded
        and model.name not in (turn.answer.model, *request.excluded)
        and (model.accuracy >= least or request.min_accuracy is None)
    ]
    if not others:
        return None
    quick = fastest(others)
    latency = scheduler.estimate(quick.name, request.samples)
    left = request.deadline_ms - now_ms
    if not latency.mean_ms + SAFETY_SDS * latency.std_ms <= left:
        return None
    rule = f"{turn.answer.model} takes longer than usual, and {{model}} was faster"
    return Decision(quick.name, "hedge", rule, latency.mean_ms, latency.std_ms, left, 0)
