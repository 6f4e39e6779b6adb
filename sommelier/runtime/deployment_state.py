"""What people and metrics are told of a deployment that runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sommelier.runtime.pool_entries import FAILED

if TYPE_CHECKING:
    from sommelier.runtime.dispatcher import Dispatcher
    from sommelier.runtime.generations import Generation
    from sommelier.runtime.jobs import Counts
    from sommelier.runtime.pool import ModelPool
    from sommelier.runtime.telemetry import Telemetry

Status = Literal["loading", "ready", "failed", "unloaded", "draining", "closed"]


@dataclass(frozen=True, slots=True)
class ServedState:
    """One model of a deployment.

    state, reason : as in ModelState; 'ready' if it may answer now, else why not. mean_ms, p99_ms :
    of what it took for one sample here, NaN before the first; the mean that is planned by until
    then. answered, failed : requests since the start; of a cascade, those of which it answered a
    sample. samples : that it answered.
    """

    name: str
    state: str
    reason: str | None
    accuracy: float | None
    mean_ms: float
    p99_ms: float
    answered: int
    failed: int
    samples: int = 0


@dataclass(frozen=True, slots=True)
class DeploymentState:
    """A deployment at one moment. status : 'ready' where requests are welcome; 'failed' where none
    of its models could be loaded, of a cascade the last one; 'unloaded' by a client. waiting,
    running : requests. answered and below : since the start; promised : of those answered, how many
    had a deadline, the SLA's or their own; late : of these, answered after it; rejected : by status
    (429, 503, 504). thresholds : of a cascade; kept : the inputs each of its stages answered since
    they were set. warnings : one sentence each. catalog_version : it was planned to.
    """

    name: str
    kind: str
    status: Status
    policy: str
    models: tuple[ServedState, ...]
    waiting: int
    running: int
    answered: int
    promised: int
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


def failed(now: Generation, pool: ModelPool) -> bool:
    """Whether no model could be loaded that may answer any request."""
    states = {state.name: state.state for state in pool.states()}
    wanted = list(now.pooled.values())
    if now.cascade is not None:
        wanted = [now.pooled[now.cascade.plan.stages[-1].model]]
    return bool(wanted) and all(states.get(name) == FAILED for name in wanted)


def state_of(
    now: Generation,
    status: Status,
    dispatcher: Dispatcher[Any],
    pool: ModelPool,
    telemetry: Telemetry,
    notices: tuple[str, ...],
) -> DeploymentState:
    """A deployment that runs, as it is now."""
    counts, cascade = dispatcher.counts, now.cascade
    told = () if cascade is None else cascade.warnings
    refused = (dispatcher.refusals,) if dispatcher.refusals else ()
    return DeploymentState(
        name=now.deployment.name,
        kind=now.deployment.kind,
        status=status,
        policy=now.table.policy.name,
        models=served_states(now, pool, counts, telemetry),
        waiting=dispatcher.waiting,
        running=dispatcher.running,
        answered=counts.answered,
        promised=counts.promised,
        late=counts.late,
        failed=counts.failed,
        cancelled=counts.cancelled,
        hedged=counts.hedged,
        rejected=dict(counts.rejected),
        thresholds=() if cascade is None else cascade.thresholds,
        kept=() if cascade is None else cascade.answered,
        warnings=(*told, *refused, *notices),
        catalog_version=now.deployment.catalog_version,
    )


def switch_between(old: Generation, new: Generation, failed: Mapping[str, str]) -> Switch:
    """What one generation has that the other had not."""
    before, after = set(old.pooled.values()), set(new.pooled.values())
    names = {pooled: name for name, pooled in (*old.pooled.items(), *new.pooled.items())}
    return Switch(
        added=tuple(sorted(names[pooled] for pooled in after - before)),
        kept=tuple(sorted(names[pooled] for pooled in after & before)),
        dropped=tuple(sorted(names[pooled] for pooled in before - after)),
        failed=failed,
    )


def served_states(
    now: Generation, pool: ModelPool, counts: Counts, telemetry: Telemetry
) -> tuple[ServedState, ...]:
    """The models of a generation."""
    known = {state.name: state for state in pool.states()}
    accuracies = {model.name: model.measured for model in now.deployment.models}
    found = []
    for name, pooled in now.pooled.items():
        latency = telemetry.estimate(name, device=now.device)
        state = known.get(pooled)  # None once it was let go
        found.append(
            ServedState(
                name=name,
                state="absent" if state is None else state.state,
                reason="it was let go" if state is None else state.reason,
                accuracy=accuracies.get(name),
                mean_ms=latency.sketch.mean if latency.samples else latency.mean_ms,
                p99_ms=latency.sketch.quantile(0.99),
                answered=counts.by_model.get(name, 0),
                failed=counts.failures.get(name, 0),
                samples=counts.samples.get(name, 0),
            )
        )
    return tuple(found)
