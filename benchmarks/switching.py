"""How much lower is the tail if the model is switched per request? Sommelier, Fig. 9(c).

    python -m benchmarks.switching --quick
    python -m benchmarks.switching real     # ONNX Runtime sessions, about 40 s a policy

The load is burst-v1: calm and bursts by turns, in units of the service time S of the largest of
four equivalent models; the SLA is 5 S. `sim` replays it through the scheduler that serves, `real`
through the same scheduler, worker threads and ONNX Runtime sessions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.report import arguments, conclude, table
from sommelier.runtime import traces
from sommelier.runtime.policies import DEFAULT, routing_policy
from sommelier.runtime.policy import RoutingPolicy
from sommelier.runtime.queueing import QueueRules
from sommelier.runtime.simulator import (
    LATE_RATHER_THAN_NEVER,
    Given,
    Settings,
    SimulatedModel,
    SimulationResult,
    simulate,
)
from sommelier.runtime.sla import Sla

REFERENCE_MS = 24.8  # S of runtime.md 6; only ratios matter
CV = 0.04  # deviation of an execution time / mean, as measured there
MODELS = (("xl", 1.0, 0.95), ("l", 0.247, 0.94), ("m", 0.084, 0.925), ("s", 0.014, 0.90))

LEAST_FACTOR = 20.0
LEAST_SLA = 0.999
MOST_LOSS = 0.006


@dataclass(frozen=True, slots=True)
class Ladder:
    """Equivalent models and S, the time of the most accurate one, in ms."""

    models: tuple[SimulatedModel, ...]
    reference_ms: float

    @property
    def sla(self) -> Sla:
        return Sla(traces.BURST_SLA * self.reference_ms, quantile=LEAST_SLA)


@dataclass(frozen=True, slots=True)
class Contender:
    """A policy with its knobs on so many servers. threshold : ModiPick's, as a share of the SLA."""

    policy: str
    knobs: Mapping[str, Any] = field(default_factory=dict)
    servers: int = 1
    threshold: float | None = None

    def policy_for(self, sla: Sla) -> RoutingPolicy:
        """A new policy."""
        knobs = dict(self.knobs)
        if self.threshold is not None:
            knobs["threshold_ms"] = self.threshold * sla.latency_ms
        return routing_policy(self.policy, **knobs)


OURS = f"default: {DEFAULT}"
CONTENDERS: Mapping[str, Contender] = {
    "fixed": Contender("fixed"),
    "fixed, two servers": Contender("fixed", servers=2),
    "ModiPick as published": Contender("modipick", threshold=0.5),  # runtime.md 6
    "ModiPick, queue-aware": Contender("modipick_queue_aware", threshold=0.5),
    "balanced": Contender("balanced"),
    "balanced, headroom .4": Contender("balanced", {"headroom": 0.4}),
    "drift plus penalty": Contender("drift_plus_penalty"),
    "chance, time not shared": Contender("chance_constrained", {"shared": False}),
    OURS: Contender(DEFAULT),
    f"{DEFAULT}, two servers": Contender(DEFAULT, servers=2),
}


def main() -> None:
    parser = arguments("Tail latency under bursts, with one model and with four")
    parser.add_argument("mode", nargs="?", choices=("sim", "real"), default="sim")
    parser.add_argument("--periods", type=int, help="of 300 S; 20 (quick: 6), real 6 (quick: 2)")
    options = parser.parse_args()
    real = options.mode == "real"
    periods = options.periods or {(0, 0): 20, (0, 1): 6, (1, 0): 6, (1, 1): 2}[real, options.quick]
    if real:
        from benchmarks.switching_real import measured

        found = measured(periods, options.seed)
    else:
        found = simulated(given_ladder(), periods, options.seed)
        product = simulated(given_ladder(), periods, options.seed, rules=QueueRules())
        print_results("our queue: earliest deadline first, admission, expiry", product)
        print_results(f"burst-v1, {periods} periods", found)
    figures = compared(found["fixed"], found[OURS])
    conclude(figures, options.json, missed=misses(figures))


def given_ladder() -> Ladder:
    """The four models of runtime.md 6: their costs and accuracies."""
    models = (
        SimulatedModel(name, accuracy, Given(cost * REFERENCE_MS, CV * cost * REFERENCE_MS))
        for name, cost, accuracy in MODELS
    )
    return Ladder(tuple(models), REFERENCE_MS)


def simulated(
    ladder: Ladder, periods: int, seed: int, *, rules: QueueRules = LATE_RATHER_THAN_NEVER
) -> dict[str, SimulationResult]:
    """Every policy on the same requests and execution times."""
    trace = burst(ladder, periods, seed)
    return {
        label: simulate(
            trace,
            contender.policy_for(ladder.sla),
            ladder.models,
            ladder.sla,
            Settings(contender.servers, rules, seed),
        )
        for label, contender in CONTENDERS.items()
    }


def burst(ladder: Ladder, periods: int, seed: int) -> traces.Trace:
    """burst-v1 in the ladder's unit; the seed 0 is that of runtime.md."""
    return traces.burst_v1(ladder.reference_ms, periods=periods, seed=traces.BURST_SEED + seed)


def print_results(title: str, found: Mapping[str, SimulationResult]) -> None:
    """A row for each policy; latencies in units of S."""
    unit = next(iter(found.values())).sla.latency_ms / traces.BURST_SLA
    base = found["fixed"]
    rows = [
        (
            label,
            result.latency_quantile(0.5) / unit,
            result.latency_quantile(0.9) / unit,
            f"x{base.latency_quantile(0.9) / result.latency_quantile(0.9):.1f}",
            result.latency_quantile(0.99) / unit,
            f"{100 * result.attainment:.2f}",
            f"{result.accuracy:.4f}",
            f"{100 * (1 - result.accuracy / base.accuracy):.2f}",
            " ".join(f"{share:.2f}" for share in result.shares.values()),
            " ".join(f"{status}: {n}" for status, n in result.rejections.items()),
        )
        for label, result in found.items()
    ]
    header = ("policy", "p50 / S", "p90 / S", "p90", "p99 / S", "SLA met %", "accuracy", "loss %",
              "shares", "rejected")  # fmt: skip
    print(table(f"{title}: S = {unit:.2f} ms, {len(base)} requests", header, rows))


def compared(fixed: SimulationResult, switched: SimulationResult) -> dict[str, float]:
    """The figures of the gate. accuracy_loss : relative to the fixed model's."""
    return {
        "p90_factor": fixed.latency_quantile(0.9) / switched.latency_quantile(0.9),
        "sla_met": switched.attainment,
        "accuracy_loss": 1 - switched.accuracy / fixed.accuracy,
    }


def misses(figures: Mapping[str, float]) -> list[str]:
    """What was expected and is not so."""
    expected = {
        "p90 at least 20 times lower than with a fixed model": (
            figures["p90_factor"] >= LEAST_FACTOR
        ),
        "99.9 % within the SLA": figures["sla_met"] >= LEAST_SLA,
        "at most .6 % of the accuracy lost": figures["accuracy_loss"] <= MOST_LOSS,
    }
    return [line for line, held in expected.items() if not held]


if __name__ == "__main__":
    main()
