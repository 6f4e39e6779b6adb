"""What a notebook shows of a deployment, a cascade and a plan that run here: small tables."""

from __future__ import annotations

from collections.abc import Mapping
from math import isinf, isnan
from typing import TYPE_CHECKING

from sommelier.deployment_records import promise
from sommelier.metrics import METRICS
from sommelier.notebook_tables import Bar, Head, bars_of, html_facts, html_table
from sommelier.units import Dimension, format_value

if TYPE_CHECKING:
    from sommelier.cascade_records import CascadePlan, CascadeStage
    from sommelier.deployment_records import Deployment
    from sommelier.link_records import ActivationPlan
    from sommelier.runtime.deployment_state import DeploymentState

_SHARE, _TIME = Dimension.FRACTION, Dimension.TIME
_SERVED = (
    Head("model"), Head("state"), Head("accuracy", _SHARE), Head("of what"),
    Head("answered", Dimension.COUNT), Head("mean", _TIME), Head("p99", _TIME),
)  # fmt: skip
_STAGES = (Head("model"), Head("its answer stands where"), Head("flops", Dimension.FLOPS))
_PLANNED = (
    Head("model"), Head("action"), Head("from"), Head("accuracy", _SHARE), Head("low", _SHARE),
    Head("high", _SHARE),
)  # fmt: skip


def deployment_line(deployment: Deployment, status: str) -> str:
    """The deployment in one line."""
    models = ", ".join(model.name for model in deployment.models)
    promised = promise(deployment) or "nothing"
    what = f"{deployment.kind} of {models}; promises {promised}"
    return f"<RunningDeployment {deployment.name} ({status}): {what}>"


def deployment_html(deployment: Deployment, state: DeploymentState) -> str:
    """What it promises, how it keeps it so far, and each of its models."""
    facts: list[tuple[str, object]] = [
        ("kind", state.kind),
        ("status", state.status),
        ("promise", promise(deployment) or "nothing"),
        ("policy", state.policy),
        ("answered", f"{state.answered} requests since it was started in this process"),
        ("in time", _in_time(state)),
        ("refused", ", ".join(f"{n} with {why}" for why, n in state.rejected.items()) or None),
        ("failed", state.failed or None),
    ]
    bars = {}
    if state.promised:
        kept = state.promised - state.late
        bars[5] = Bar(kept / state.promised, f"{kept} of {state.promised} in time")
    bases = {model.name: model.basis for model in deployment.models}
    rows = [
        (one.name, one.state if one.reason is None else f"{one.state}: {one.reason}",
         one.accuracy, bases.get(one.name), one.answered, _known(one.mean_ms), _known(one.p99_ms))
        for one in state.models
    ]  # fmt: skip
    shares, _ = bars_of(_SERVED, rows)
    for place, one in enumerate(state.models):
        if state.answered:
            told = f"{one.answered} of {state.answered} requests"
            shares[place, 4] = Bar(one.answered / state.answered, told)
    notes = ["mean, p99: of one sample, measured here; before its first the mean it is planned by"]
    title = f"Deployment {state.name}"
    return html_facts(title, facts, bars) + html_table(
        _SERVED, rows, notes=[*notes, *state.warnings, *deployment.notes], bars=shares
    )


def cascade_html(plan: CascadePlan) -> str:
    """When each model's answer stands, and what was proved."""
    rows = [(stage.model, _stands(stage), stage.flops) for stage in plan.stages]
    last = plan.stages[-1]
    known = {} if last.flops is None else {2: last.flops}
    bars, under = bars_of(_STAGES, rows, known, last.model)
    told = plan.reason or "nothing is said of its thresholds"
    if plan.promise is None:
        told += "; nothing was proved"
    return html_table(_STAGES, rows, notes=[told], bars=bars, under=under)


def plan_html(plan: ActivationPlan) -> str:
    """Which models run, what the others are predicted from, what that is worth and costs."""
    names = {model.model_id: model.name for model in plan.models}
    rows = [
        (one.name, "execute" if one.executed else "predict" if one.source_ids else "constant",
         ", ".join(names.get(id_, id_) for id_ in one.source_ids) or "", one.performance, one.low,
         one.high)
        for one in plan.models
    ]  # fmt: skip
    bars, _ = bars_of(_PLANNED, rows)
    notes = [f"expected accuracy {_share(plan.accuracy)}{_interval(plan)}"]
    notes += [_cost(metric, plan) for metric in plan.budget]
    return html_table(_PLANNED, rows, notes=[*notes, *plan.notes], bars=bars)


# ---- words


def _in_time(state: DeploymentState) -> str | None:
    if not state.promised:
        return None
    kept = state.promised - state.late
    return f"{kept} of {state.promised} answers with a deadline, {_share(kept / state.promised)}"


def _stands(stage: CascadeStage) -> str:
    if stage.score is None:
        return "always: it answers what is left"
    if isinf(stage.threshold):
        return "never" if stage.threshold > 0 else f"{stage.score} is known"
    return f"{stage.score} >= {stage.threshold:.4g}"


def _interval(plan: ActivationPlan) -> str:
    if plan.low is None or plan.high is None:
        return ", its interval is unknown"
    kind = "proved" if plan.proved else "an estimate"
    spread = f"[{_share(plan.low)}, {_share(plan.high)}]"
    return f" {spread} at {_share(plan.confidence)} confidence, {kind}"


def _cost(metric: str, plan: ActivationPlan) -> str:
    def told(amounts: Mapping[str, float]) -> str:
        return format_value(amounts.get(metric), METRICS[metric].dimension)

    return (
        f"{metric} {told(plan.cost)} of {told(plan.budget)} allowed; all models {told(plan.total)}"
    )


def _share(value: float) -> str:
    return format_value(value, _SHARE)


def _known(value: float) -> float | None:
    return None if isnan(value) else value
