"""Which policy should be the default: candidates over bursts, disturbances and queues."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.report import Cell, table
from benchmarks.sla_cases import CANDIDATES, Case, Effort, disturbed, evaluate, queueing
from benchmarks.switching import Contender, given_ladder
from sommelier.runtime import traces
from sommelier.runtime.policies import DEFAULT
from sommelier.runtime.queueing import QueueRules
from sommelier.runtime.simulator import Settings, simulate

LOADS = ((0.4, 2.5), (0.4, 1.2), (0.3, 2.0), (0.6, 4.0), (1.2, 1.2))  # calm and burst, per S
KEPT = 99.9  # % of a burst's requests that a default has to answer on time


def report(effort: Effort) -> dict[str, float]:
    """Print every candidate's figures; return how far the default is behind the best, in points of
    effective accuracy, over those that keep the SLA in all bursts."""
    rows: list[tuple[Cell, ...]] = []
    scores: dict[str, float] = {}
    for label, (policy, knobs) in CANDIDATES.items():
        bursts = np.array([_burst(policy, knobs, load, effort) for load in LOADS])
        slow = _mean(disturbed(), policy, knobs, effort)
        queue = _mean(queueing(), policy, knobs, effort)
        ours = _mean(queueing(rules=QueueRules()), policy, knobs, effort)
        attained, burst_accuracy, p90 = bursts[:, 0].min(), bursts[:, 1].mean(), bursts[0, 2]
        total = float(np.mean([burst_accuracy, slow[1], queue[1], ours[1]]))
        if attained >= KEPT:
            scores[label] = total
        shown = (f"{a:.1f} / {e:.2f}" for a, e in (slow, queue, ours))
        rows.append((label, f"{attained:.2f} / {burst_accuracy:.2f}", p90, *shown, f"{total:.2f}"))
    header = ("policy", "bursts: least on time / effective", "p90 / S", "disturbed", "one server",
              "our queue", "mean effective")  # fmt: skip
    print(table("candidates for the default, % on time / right and on time", header, rows))
    return {"default_behind": max(scores.values()) - scores.get(DEFAULT, 0.0)}


def _burst(
    policy: str, knobs: Mapping[str, Any], load: tuple[float, float], effort: Effort
) -> tuple[float, float, float]:
    """Attainment and effective accuracy in %, and p90 in units of S."""
    ladder = given_ladder()
    periods = max(effort.requests // 500, 2)
    trace = traces.burst_v1(ladder.reference_ms, periods=periods, base=load[0], burst=load[1])
    threshold = 0.5 if policy.startswith("modipick") else None
    made = Contender(policy, knobs, threshold=threshold).policy_for(ladder.sla)
    result = simulate(trace, made, ladder.models, ladder.sla, Settings(seed=effort.seed))
    return (
        100 * result.attainment,
        100 * result.effective_accuracy,
        result.latency_quantile(0.9) / ladder.reference_ms,
    )


def _mean(
    cases: tuple[Case, ...], policy: str, knobs: Mapping[str, Any], effort: Effort
) -> tuple[float, float]:
    points = [evaluate(case, policy, effort, knobs) for case in cases]
    attainment = float(np.mean([point.attainment for point in points]))
    return attainment, float(np.mean([point.effective for point in points]))
