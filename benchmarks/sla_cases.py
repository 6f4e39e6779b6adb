"""The situations in which policies are compared: ModiPick's, disturbed ones, and queues.

Table 2, the network and the figures are ModiPick's; the disturbed and the queueing cases are those
of algorithms.md H.3 and H.4. All times in ms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from sommelier.runtime import traces
from sommelier.runtime.policies import DEFAULT, routing_policy
from sommelier.runtime.queueing import QueueRules
from sommelier.runtime.simulator import (
    LATE_RATHER_THAN_NEVER,
    Disturbed,
    Given,
    Settings,
    SimulatedModel,
    simulate,
)
from sommelier.runtime.sla import Sla
from sommelier.runtime.traces import Network

TABLE_2 = (  # name, top-1 %, mean, deviation
    ("SqueezeNet", 49.0, 4.91, 0.06),
    ("MobileNetV1 0.25", 49.7, 3.21, 0.08),
    ("MobileNetV1 0.5", 63.2, 4.21, 0.06),
    ("DenseNet", 64.2, 25.49, 0.14),
    ("MobileNetV1 0.75", 68.3, 4.67, 0.07),
    ("MobileNetV1 1.0", 71.0, 5.43, 0.11),
    ("NasNet Mobile", 73.9, 21.18, 0.17),
    ("InceptionResNetV2", 77.5, 50.85, 0.33),
    ("InceptionV3", 77.9, 31.11, 0.19),
    ("InceptionV4", 80.1, 59.21, 0.22),
    ("NasNet Large", 82.6, 112.61, 0.36),
)
FICTIONAL = ("NasNet Fictional", 50.0, 112.61, 0.36)
CAMPUS = Network(57.87, 30.78)
THRESHOLD_MS = 20.0  # T_threshold
APART_MS = 3_000.0  # between requests that shall not meet

SLAS = (30, 60, 90, 115, 150, 200, 250, 300)
CVS = (0.0, 0.25, 0.5, 0.74, 1.0)
FIG_9_SLAS = (100, 150, 200, 250, 300)
DISTURBED_SLAS = (100, 150, 200, 250, 300)
RATES = (5, 10, 20, 40, 80, 120)  # requests/s
QUEUE_SLA = 250.0

BASELINES = (
    "static_greedy", "dynamic_greedy", "modipick", "related_accurate", "related_random",
    "pure_random",
)  # fmt: skip
CANDIDATES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "balanced": ("balanced", {}),
    "balanced, headroom .8": ("balanced", {"headroom": 0.8}),
    "chance_constrained": ("chance_constrained", {}),
    "the same, sla_prob .95": ("chance_constrained", {"sla_prob": 0.95}),
    "the same, time not shared": ("chance_constrained", {"shared": False}),
    "the same, accuracy x chance": ("chance_constrained", {"sla_prob": 1.0}),
    "the same, no draws": ("chance_constrained", {"thompson": False}),
    "drift_plus_penalty": ("drift_plus_penalty", {}),
    "the same, penalty 5": ("drift_plus_penalty", {"penalty": 5.0}),
    "modipick_queue_aware": ("modipick_queue_aware", {}),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One situation. rate : requests/s; None, they never meet. rules : of the queue."""

    group: str
    label: str
    sla_ms: float
    network: Network
    models: tuple[SimulatedModel, ...]
    rate: float | None = None
    rules: QueueRules = LATE_RATHER_THAN_NEVER


@dataclass(frozen=True, slots=True)
class Point:
    """What a policy reaches in a case, in % but for latency (ms). effective : right and on time.
    shares : of answered requests, by model."""

    attainment: float
    accuracy: float
    effective: float
    latency: float
    shares: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Effort:
    """Requests a run, and independent runs of a case."""

    requests: int
    runs: int
    seed: int = 0


def evaluate(
    case: Case, policy: str, effort: Effort, knobs: Mapping[str, Any] | None = None
) -> Point:
    """The mean of all runs. Run k has the same requests and execution times for every policy."""
    found = []
    for run in range(effort.seed, effort.seed + effort.runs):
        n = effort.requests
        apart = case.rate is None
        sent = (
            traces.constant(n, APART_MS) if apart else traces.poisson(n, 1e3 / case.rate, seed=run)
        )
        result = simulate(
            case.network.over(sent, seed=run),
            routing_policy(policy, **_knobs(case, policy, knobs or {}, run)),
            case.models,
            Sla(case.sla_ms),
            Settings(rules=case.rules, seed=run),
        )
        found.append(result)
    return Point(
        attainment=100 * float(np.mean([result.attainment for result in found])),
        accuracy=100 * float(np.mean([result.accuracy for result in found])),
        effective=100 * float(np.mean([result.effective_accuracy for result in found])),
        latency=float(np.mean([np.nanmean(result.latency_ms) for result in found])),
        shares={
            name: float(np.mean([result.shares[name] for result in found]))
            for name in found[0].models
        },
    )


def _knobs(case: Case, policy: str, knobs: Mapping[str, Any], seed: int) -> dict[str, Any]:
    made = dict(knobs)
    if policy == "static_greedy":
        made["sla_ms"] = case.sla_ms
    if policy.startswith(("modipick", "related")):
        made["threshold_ms"] = THRESHOLD_MS
    if policy in ("modipick", "related_accurate", "related_random", "pure_random", DEFAULT):
        made["seed"] = seed
    return made


@cache
def table_2(*, cv: float | None = None, fictional: bool = False) -> tuple[SimulatedModel, ...]:
    """The models of Table 2, with its normal times or log-normal ones of this deviation / mean."""
    rows = (*TABLE_2, FICTIONAL) if fictional else TABLE_2
    return tuple(
        SimulatedModel(
            name,
            accuracy / 100,
            Given(mean, std, "normal") if cv is None else Given(mean, cv * mean),
        )
        for name, accuracy, mean, std in rows
    )


def figure_6() -> tuple[Case, ...]:
    """Every SLA on the campus network."""
    return tuple(Case("Fig. 6, SLA ms", str(sla), sla, CAMPUS, table_2()) for sla in SLAS)


def figure_7() -> tuple[Case, ...]:
    """A network of 50 ms in the mean and of growing variability, at two SLAs."""
    return tuple(
        Case(f"Fig. 7, SLA {sla} ms, CV", f"{cv:g}", sla, Network(50.0, 50.0 * cv), table_2())
        for sla in (100, 250)
        for cv in CVS
    )


def figure_9() -> tuple[Case, ...]:
    """With a model as slow as the best and far less accurate."""
    models = table_2(fictional=True)
    return tuple(
        Case("Fig. 9, SLA ms", str(sla), sla, Network(50.0, 25.0), models) for sla in FIG_9_SLAS
    )


def disturbed() -> tuple[Case, ...]:
    """Deviations of 15 %, stragglers, slow-downs that come and go, learned while serving."""
    models = tuple(replace(model, service=Disturbed(model.service)) for model in table_2(cv=0.15))
    return tuple(Case("disturbed, SLA ms", str(sla), sla, CAMPUS, models) for sla in DISTURBED_SLAS)


def queueing(*, rules: QueueRules = LATE_RATHER_THAN_NEVER) -> tuple[Case, ...]:
    """One server and Poisson arrivals; NasNet Large alone bears 8.9 requests/s."""
    group = "one server, requests/s" if rules == LATE_RATHER_THAN_NEVER else "the same, our queue"
    return tuple(
        Case(group, str(rate), QUEUE_SLA, CAMPUS, table_2(cv=0.1), rate, rules) for rate in RATES
    )
