"""SIMULATE: a trace of requests replayed through a deployment, before anything is served."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sommelier.connection.naming import underlined
from sommelier.engine.options import bind_options, check_least
from sommelier.engine.result import ColumnInfo, Table
from sommelier.errors import BinderError
from sommelier.grammar import nodes
from sommelier.units import Dimension, format_value

if TYPE_CHECKING:
    from sommelier.connection.connection import Connection
    from sommelier.deployment_records import Deployment
    from sommelier.engine.parameters import Parameters
    from sommelier.runtime.policy import RoutingPolicy
    from sommelier.runtime.simulator import Settings, SimulatedModel, SimulationResult
    from sommelier.runtime.sla import Sla
    from sommelier.runtime.traces import Trace

SIMULATE_OPTIONS: dict[str, Any] = {
    "seed": int,
    "periods": int,
    "policy": str,
    "servers": int,
    "queue": int,
}
"""What USING takes after SIMULATE. policy : instead of the deployment's; 'all' compares them."""

ALL = "all"
_UNSEEN = "no answers of it are stored"
_RIGHT = 6  # the column right_in_time
_LEAST = {"periods": 1, "servers": 1, "queue": 1, "seed": 0}
_MOST_PERIODS = 10_000  # two and a half million requests: a minute a policy
_FILES = (".csv", ".npz", ".npy")
_ARRIVED = "arrived_ms"  # the column or array of a file that holds instants
_COLUMNS = (
    ColumnInfo("policy"),
    ColumnInfo("p50", Dimension.TIME),
    ColumnInfo("p90", Dimension.TIME),
    ColumnInfo("p99", Dimension.TIME),
    ColumnInfo("sla_met", Dimension.FRACTION),
    ColumnInfo("accuracy", Dimension.FRACTION),
    ColumnInfo("right_in_time", Dimension.FRACTION),
    ColumnInfo("refused", Dimension.COUNT),
    ColumnInfo("requests", Dimension.COUNT),
    ColumnInfo("models"),
)


def simulate(
    statement: nodes.Simulate, db: Connection, parameters: Parameters, progress: Any = None
) -> Table:
    """A row a policy: latencies of what was answered, share of all requests in time, mean accuracy
    of who answered, share that was right and in time by those accuracies, who answered how much.

    Deterministic by the seed. Raises UnknownNameError, BinderError for a trace that cannot be read
    and where no latency is known.
    """
    from sommelier.runtime import simulator

    given = bind_options(statement.options, SIMULATE_OPTIONS, parameters)
    check_least(statement.options, given, _LEAST)
    with underlined(statement.span):
        deployment = db.catalog.deployment(statement.name)
    _check(statement, given, deployment)
    with underlined(statement.span):
        models, notes = _models(deployment)
    reference = max(model.service.mean_ms for model in models)
    trace = _trace(statement, given, parameters, reference)
    sla, told = _sla(deployment, reference)
    settings = _settings(deployment, given)
    rows: list[tuple[object, ...]] = []
    policies = list(_policies(deployment, given, statement))
    for done, (name, policy) in enumerate(policies):
        if progress is not None:
            progress("simulate", done, len(policies), name)
        if policy is None:
            result = simulator.simulate_cascade(trace, models, _sent_on(deployment), sla, settings)
        else:
            result = simulator.simulate(trace, policy, models, sla, settings)
        rows.append(_row(name, result))
    if progress is not None:
        progress("simulate", len(policies), len(policies), None)
    rows.sort(key=lambda row: -float(str(row[_RIGHT] or 0.0)))  # the best first
    span = format_value(float(trace.arrived_ms[-1]), Dimension.TIME)
    within = format_value(sla.latency_ms, Dimension.TIME)
    about = f"{len(trace)} requests in {span}; in time is within {within}"
    return Table(f"simulation of {deployment.name}", _COLUMNS, rows, (about, *told, *notes))


# ---- what is simulated


def _check(statement: nodes.Simulate, given: Mapping[str, Any], deployment: Deployment) -> None:
    """Raises BinderError for options that mean nothing of this deployment, or no end."""
    spans = {option.name.lower(): option.span for option in statement.options}
    if deployment.kind != "models" and given.get("policy") is not None:
        raise BinderError(
            f"a {deployment.kind} says itself which models run",
            span=spans["policy"],
            hint="leave out policy",
        )
    if (given.get("periods") or 1) > _MOST_PERIODS:
        raise BinderError(
            f"option periods must be at most {_MOST_PERIODS}",
            span=spans["periods"],
            hint="a longer trace may be a file of instants",
        )


def _models(deployment: Deployment) -> tuple[list[SimulatedModel], tuple[str, ...]]:
    """The models that have a latency; a plan is one model that takes what its models take together,
    and of a cascade none may be missing."""
    from sommelier.runtime.simulator import Given, SimulatedModel, Together

    known = [model for model in deployment.models if model.mean_ms is not None]
    unknown = [model.name for model in deployment.models if model.mean_ms is None]
    whole = deployment.kind != "models"
    if not known or (whole and unknown):
        raise BinderError(
            f"the latency of {', '.join(unknown[:5])} is unknown, so nothing can be simulated",
            hint=f"ANALYZE {', '.join(unknown[:5])} FOR LATENCY; then DEPLOY OR REPLACE",
        )
    notes: tuple[str, ...] = ()
    if unknown:
        notes = (f"without {', '.join(unknown[:5])}, whose latency is unknown",)
    found = []
    for model in known:
        accuracy = float("nan") if model.accuracy is None else model.accuracy
        service = Given(model.mean_ms or 0.0, model.std_ms or 0.0)
        found.append(SimulatedModel(model.name, accuracy, service))
    if deployment.kind == "plan":
        services = tuple(model.service for model in found)
        name = ", ".join(model.name for model in found)
        found = [SimulatedModel(name, float("nan"), Together(services))]
    cascade = deployment.cascade
    if cascade is not None:
        # the accuracy of what a stage keeps is not that of the model
        found = [replace(model, accuracy=float("nan")) for model in found]
        if deployment.escalate_at_most is None:
            unseen = [stage.model for stage in cascade.stages[:-1] if not stage.quantiles]
            notes += tuple(f"{name} is taken to send everything on: {_UNSEEN}" for name in unseen)
    return found, notes


def _sent_on(deployment: Deployment) -> tuple[float, ...]:
    """The share of its inputs that each stage of a cascade sends on, of its calibration samples,
    and at most what it may; 1 where that is unknown."""
    assert deployment.cascade is not None, "asked of cascades only"
    most = 1.0 if deployment.escalate_at_most is None else deployment.escalate_at_most
    found = []
    for stage in deployment.cascade.stages[:-1]:
        below = sum(1 for value in stage.quantiles if value < stage.threshold)
        found.append(min(below / len(stage.quantiles) if stage.quantiles else 1.0, most))
    return tuple(found)


def _sla(deployment: Deployment, reference_ms: float) -> tuple[Sla, tuple[str, ...]]:
    from sommelier.runtime.sla import Sla
    from sommelier.runtime.traces import BURST_SLA

    if deployment.sla_ms is not None:
        return Sla(deployment.sla_ms, deployment.quantile), ()
    ms = BURST_SLA * reference_ms
    note = f"no latency is promised: {BURST_SLA:g} times the slowest model is taken"
    return Sla(ms), (note,)


def _settings(deployment: Deployment, given: Mapping[str, Any]) -> Settings:
    """As the product serves: with admission, and without answers that come too late."""
    from sommelier.runtime.queueing import QueueRules
    from sommelier.runtime.simulator import Settings

    options, rules = deployment.options, QueueRules()
    if (limit := given.get("queue") or options.queue) is not None:
        rules = replace(rules, limit=limit)
    if options.order is not None:
        rules = replace(rules, order="fifo" if options.order == "fifo" else "edf")
    if options.admission is not None:
        rules = replace(rules, admission=options.admission)
    servers = given.get("servers") or options.servers or 1
    timed = [model.name for model in deployment.models if model.mean_ms is not None]
    fallback = deployment.fallback if deployment.fallback in timed else None
    return Settings(servers, rules, given.get("seed") or 0, fallback)


def _policies(
    deployment: Deployment, given: Mapping[str, Any], statement: nodes.Simulate
) -> Iterator[tuple[str, RoutingPolicy | None]]:
    """Fresh policies by name: the deployment's, another one, or all; None for a cascade."""
    from sommelier.runtime.policies import DEFAULT, POLICIES, knobs_of, routing_policy

    own = deployment.policy or DEFAULT
    asked = given.get("policy") or own
    if deployment.kind != "models":
        yield "in turn", None if deployment.cascade is not None else routing_policy("fixed")
        return
    for name in POLICIES if asked == ALL else (asked,):
        known = knobs_of(name) if name in POLICIES else ()
        promised = {"sla_ms": deployment.sla_ms, "sla_prob": deployment.quantile % 1 or None}
        knobs: dict[str, Any] = {k: v for k, v in promised.items() if k in known and v is not None}
        knobs |= deployment.knobs if name == own else {}
        span = next((o.span for o in statement.options if o.name.lower() == "policy"), None)
        with underlined(span):
            yield name, routing_policy(name, **knobs)


# ---- the trace


def _trace(
    statement: nodes.Simulate, given: Mapping[str, Any], values: Parameters, reference_ms: float
) -> Trace:
    """By name, or from a file of instants in ms. Raises BinderError, UnknownNameError."""
    from sommelier.runtime.traces import BURST_SEED, PERIODS, named
    from sommelier.runtime.traces import given as as_trace

    named_or_file = str(values.text(statement.trace))
    with underlined(statement.span):
        if Path(named_or_file).suffix.lower() in _FILES:
            trace = as_trace(_arrivals(Path(named_or_file).expanduser()))
            if not len(trace):
                raise BinderError(f"'{named_or_file}' holds no instants")
            return replace(trace, arrived_ms=trace.arrived_ms - trace.arrived_ms[0])
        seed = BURST_SEED if given.get("seed") is None else given["seed"]
        return named(
            named_or_file, reference_ms, periods=given.get("periods") or PERIODS, seed=seed
        )


def _arrivals(path: Path) -> Any:
    """The instants of a file: the column or array 'arrived_ms', else the first or only one."""
    import numpy as np

    try:
        if path.suffix.lower() == ".csv":
            return _column(path.read_text(encoding="utf-8").splitlines(), path)
        found = np.load(path, allow_pickle=False)
        if path.suffix.lower() == ".npy":
            return found
        names = list(found)
        if _ARRIVED not in names and len(names) != 1:
            raise BinderError(
                f"'{path}' holds {', '.join(names) or 'nothing'}, and no array '{_ARRIVED}'"
            )
        return found[_ARRIVED if _ARRIVED in names else names[0]]
    except (OSError, ValueError) as error:
        raise BinderError(
            f"the trace '{path}' cannot be read: {error}",
            hint="a CSV, NPZ or NPY file of the instants, in ms, at which requests come",
        ) from error


def _column(lines: list[str], path: Path) -> list[float]:
    """Raises ValueError for a cell that is no number."""
    import csv

    rows = [row for row in csv.reader(lines) if row]
    place = 0
    if rows and not _is_number(rows[0][0]):
        heads = [head.strip().lower() for head in rows.pop(0)]
        place = heads.index(_ARRIVED) if _ARRIVED in heads else 0
    if any(place >= len(row) for row in rows):
        raise ValueError(f"a line of {path.name} is shorter than its head")
    return [float(row[place]) for row in rows]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# ---- what came of it


def _row(policy: str, result: SimulationResult) -> tuple[object, ...]:
    shares = sorted(result.shares.items(), key=lambda pair: -pair[1])
    told = ", ".join(
        f"{name} {format_value(share, Dimension.FRACTION)}" for name, share in shares if share
    )
    return (
        policy,
        *(_known(result.latency_quantile(q)) for q in (0.5, 0.9, 0.99)),
        _known(result.attainment),
        _known(result.accuracy),
        _known(result.effective_accuracy),
        sum(result.rejections.values()),
        len(result),
        told or None,
    )


def _known(value: float) -> float | None:
    return None if value != value else value
