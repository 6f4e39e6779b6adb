"""A deployment made ready to run: its models in the pool, its policy, what it does with a model.

Each switch makes a new generation; requests that the one before began are ended by it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any

from sommelier.deployment_records import DeployedModel, Deployment
from sommelier.errors import SommelierError, first_line
from sommelier.runtime.answering import ModelAnswering, PlanAnswering, PlanView, PoolView
from sommelier.runtime.cascade import Cascade
from sommelier.runtime.collaborate import CollaborativePlan
from sommelier.runtime.interface import Given, Inputs, Interface, Signature
from sommelier.runtime.jobs import Table, now_ms
from sommelier.runtime.policies import DEFAULT, POLICIES, knobs_of, routing_policy
from sommelier.runtime.policy import PooledModel, RoutingPolicy
from sommelier.runtime.pool import ModelPool
from sommelier.runtime.pool_entries import Budget
from sommelier.runtime.queueing import QUEUE_LIMIT, QueueRules
from sommelier.runtime.session_cache import ServedModel
from sommelier.runtime.staging import CascadeAnswering, CascadePolicy
from sommelier.runtime.telemetry import Telemetry

LOOK_S = 0.1  # how often a switch looks whether it was closed meanwhile
SAFETY_SDS = 2.0  # a model is in time if its mean and two deviations are


@dataclass(frozen=True, slots=True, eq=False)
class Generation:
    """pooled : names in the pool by those of the deployment. device : where its models run."""

    deployment: Deployment
    table: Table[Any]
    interface: Interface
    pooled: Mapping[str, str] = field(default_factory=dict)
    cascade: Cascade | None = None
    plan: CollaborativePlan | None = None
    device: str = "cpu"

    @property
    def ready(self) -> bool:
        """Whether a model that may answer any request is loaded."""
        loaded = frozenset(self.table.view.ready())
        if self.cascade is not None:
            return self.cascade.plan.stages[-1].model in loaded
        return bool(loaded)

    @property
    def warm(self) -> tuple[str, ...]:
        """Names of the models that are to be loaded before there are requests."""
        return tuple(self.pooled)[: self.deployment.options.warm]

    def receive(self, given: Given, outputs: tuple[str, ...] | None) -> Inputs:
        """What a request brings. Raises InputError."""
        if self.plan is not None:
            return PlanAnswering().receive(self.plan, given, outputs)
        return self.interface.receive(given, outputs)


def generation(
    deployment: Deployment,
    models: Mapping[str, ServedModel],
    pool: ModelPool,
    telemetry: Telemetry,
    plan: CollaborativePlan | None = None,
    *,
    clock: Callable[[], float] = now_ms,
    budget: Budget | None = None,
) -> Generation:
    """The deployment with its models retained in the pool, none of them loaded yet. budget : what
    they may take.

    Raises SommelierError where a model, a cascade or a plan is missing, BinderError for a policy.
    """
    if deployment.kind == "plan":
        return _of_plan(deployment, telemetry, plan)
    names = _names(deployment, models)
    _check_files(deployment, names, models)
    cascade = _cascade(deployment)
    interface = Interface(names, Signature.declared(models[names[0]], pool.settings.batch))
    device = deployment.options.device or pool.settings.device
    pooled = {name: pool.retain(models[name], device=device, budget=budget) for name in names}
    in_time = _InTime(telemetry, device, clock)
    table = Table(
        deployment.name,
        _policy(deployment, cascade),
        tuple(_pooled_model(model, telemetry, device) for model in deployment.models),
        PoolView(pool, pooled),
        _answering(deployment, interface, cascade, in_time),
        _rules(deployment),
        deployment.options.servers or 1,
        deployment.fallback,
        {m.name: tuple(s for s in m.stand_ins if s in pooled) for m in deployment.models},
        hedge=bool(deployment.options.hedge) and cascade is None,
        device=device,
    )
    return Generation(deployment, table, interface, pooled, cascade, device=device)


def _answering(
    deployment: Deployment, interface: Interface, cascade: Cascade | None, in_time: _InTime
) -> Any:
    if cascade is None:
        return ModelAnswering(interface)
    return CascadeAnswering(cascade, interface, fallback=deployment.fallback, in_time=in_time)


def loaded(
    new: Generation, pool: ModelPool, timeout_s: float, given_up: Callable[[], bool]
) -> Mapping[str, str]:
    """Load the models of a generation; why each that is not loaded is not."""
    asked: dict[str, Future[None]] = {name: pool.request(new.pooled[name]) for name in new.warm}
    until = time.monotonic() + timeout_s
    while not given_up() and time.monotonic() < until:
        if not wait(asked.values(), LOOK_S).not_done:
            break
    missing = {}
    for name, future in asked.items():
        error = future.exception() if future.done() else TimeoutError("it is not loaded yet")
        if error is not None:
            missing[name] = first_line(error)
    return missing


def _check_files(
    deployment: Deployment, names: Sequence[str], models: Mapping[str, ServedModel]
) -> None:
    missing = [name for name in names if name not in models]
    if missing or not deployment.models:
        raise SommelierError(
            f"deployment {deployment.name} has no file of {', '.join(missing) or 'any model'}",
            hint=f"given are {', '.join(models) or 'none'}",
        )


def _names(deployment: Deployment, models: Mapping[str, ServedModel]) -> tuple[str, ...]:
    """Of all that may answer: the models, the fallback, stand-ins of which there is a file."""
    own = [model.name for model in deployment.models]
    others = [deployment.fallback] if deployment.fallback else []
    others += [name for model in deployment.models for name in model.stand_ins if name in models]
    return tuple(dict.fromkeys([*own, *others]))


@dataclass(frozen=True, slots=True)
class _InTime:
    """Whether a model is likely to answer so many samples before a deadline."""

    telemetry: Telemetry
    device: str
    clock: Callable[[], float]

    def __call__(self, model: str, samples: int, deadline_ms: float) -> bool:
        latency = self.telemetry.expected(model, samples, device=self.device)
        needed = latency.mean_ms + SAFETY_SDS * latency.std_ms
        return not needed > deadline_ms - self.clock()  # True of an unknown one


def _of_plan(
    deployment: Deployment, telemetry: Telemetry, plan: CollaborativePlan | None
) -> Generation:
    """One server: the sessions of a plan are not for several threads."""
    if plan is None:
        raise SommelierError(
            f"deployment {deployment.name} is without its plan '{deployment.plan}'"
        )
    name = deployment.plan or deployment.name
    model = PooledModel(name, plan.plan.accuracy, telemetry.estimate(name))
    table = Table(
        deployment.name, routing_policy("fixed", model=name), (model,), PlanView(name, plan),
        PlanAnswering(), _rules(deployment),
    )  # fmt: skip
    return Generation(deployment, table, Interface(()), plan=plan)


def _cascade(deployment: Deployment) -> Cascade | None:
    if deployment.kind != "cascade":
        return None
    if deployment.cascade is None:
        raise SommelierError(f"deployment {deployment.name} is without its cascade")
    return Cascade(deployment.cascade, at_most=deployment.escalate_at_most)


def _policy(deployment: Deployment, cascade: Cascade | None) -> RoutingPolicy:
    """What was promised sets the knobs that the statement did not: AT p99 what the default policy
    is to reach, the SLA what those that look at it once are to meet."""
    if cascade is not None:
        return CascadePolicy(cascade, {one.name: one.accuracy for one in deployment.models})
    name = deployment.policy or DEFAULT
    promised: dict[str, Any] = {}
    if deployment.sla_ms is not None:
        promised["sla_ms"] = deployment.sla_ms
        if deployment.quantile < 1:
            promised["sla_prob"] = deployment.quantile
    known = knobs_of(name) if name in POLICIES else ()
    knobs = {knob: value for knob, value in promised.items() if knob in known}
    return routing_policy(name, **{**knobs, **deployment.knobs})


def _rules(deployment: Deployment) -> QueueRules:
    options = deployment.options
    return QueueRules(
        limit=QUEUE_LIMIT if options.queue is None else options.queue,
        order="fifo" if options.order == "fifo" else "edf",
        admission=options.admission is not False,
    )


def _pooled_model(model: DeployedModel, telemetry: Telemetry, device: str) -> PooledModel:
    """With what serving has learned of it, else with its profile."""
    latency = telemetry.estimate(model.name, device=device)
    if latency.mean_ms != latency.mean_ms:
        latency = telemetry.profile(model.name, model.mean_ms, model.std_ms, device=device)
    accuracy = math.nan if model.accuracy is None else model.accuracy
    return PooledModel(model.name, accuracy, latency)
