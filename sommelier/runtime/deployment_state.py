"""What people and metrics are told of a deployment that runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from sommelier.runtime.generations import Generation
    from sommelier.runtime.jobs import Counts
    from sommelier.runtime.pool import ModelPool
    from sommelier.runtime.telemetry import Telemetry

Status = Literal["loading", "ready", "draining", "closed"]


@dataclass(frozen=True, slots=True)
class ServedState:
    """One model of a deployment.

    state, reason : as in ModelState; 'ready' if it may answer now, else why not. mean_ms, p99_ms :
    of one sample, NaN while unknown. answered, failed : requests since the start.
    """

    name: str
    state: str
    reason: str | None
    accuracy: float | None
    mean_ms: float
    p99_ms: float
    answered: int
    failed: int


@dataclass(frozen=True, slots=True)
class DeploymentState:
    """A deployment at one moment. waiting, running : requests. answered and below : since the
    start; late : answered after their deadline; rejected : by status (429, 503, 504). thresholds :
    of a cascade; kept : the inputs each of its stages answered since they were set. warnings : one
    sentence each. catalog_version : it was planned to.
    """

    name: str
    kind: str
    status: Status
    policy: str
    models: tuple[ServedState, ...]
    waiting: int
    running: int
    answered: int
    late: int
    failed: int
    cancelled: int
    hedged: int
    rejected: Mapping[int, int]
    thresholds: tuple[float, ...]
    kept: tuple[int, ...]
    warnings: tuple[str, ...]
    catalog_version: int


@dataclass(frozen=True, slots=True)
class Switch:
    """What a switch changed: names of models. failed : why new ones could not be loaded (yet)."""

    added: tuple[str, ...]
    kept: tuple[str, ...]
    dropped: tuple[str, ...]
    failed: Mapping[str, str]


def served_states(
    now: Generation, pool: ModelPool, counts: Counts, telemetry: Telemetry
) -> tuple[ServedState, ...]:
    """The models of a generation."""
    known = {state.name: state for state in pool.states()}
    accuracies = {model.name: model.measured for model in now.deployment.models}
    found = []
    for name, pooled in now.pooled.items():
        latency = telemetry.estimate(name, device=pool.settings.device)
        state = known.get(pooled)  # None once it was let go
        found.append(
            ServedState(
                name=name,
                state="absent" if state is None else state.state,
                reason="it was let go" if state is None else state.reason,
                accuracy=accuracies.get(name),
                mean_ms=latency.mean_ms,
                p99_ms=latency.sketch.quantile(0.99),
                answered=counts.by_model.get(name, 0),
                failed=counts.failures.get(name, 0),
            )
        )
    return tuple(found)
