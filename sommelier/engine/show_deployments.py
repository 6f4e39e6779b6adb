"""SHOW DEPLOYMENTS, DESCRIBE DEPLOYMENT and EXPLAIN DEPLOY: what was deployed, from the catalog."""

from __future__ import annotations

from dataclasses import asdict
from math import isinf
from typing import TYPE_CHECKING, Any

from sommelier.cascade_records import CascadeStage
from sommelier.deployment_records import (
    DEFAULT_POLICY,
    DeployedModel,
    Deployment,
    ServedFigures,
    promise,
)
from sommelier.engine.deployed_cascades import begins_at
from sommelier.engine.deployment_terms import written_condition
from sommelier.engine.rendering import grid
from sommelier.engine.result import ColumnInfo, Report
from sommelier.units import Dimension, format_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sommelier.engine.session import Session
    from sommelier.grammar import nodes

Facts = list[tuple[str, object]]
Listed = tuple[tuple[ColumnInfo, ...], list[tuple[object, ...]]]

_COLUMNS = (
    ColumnInfo("name"),
    ColumnInfo("kind"),
    ColumnInfo("models"),
    ColumnInfo("promise"),
    ColumnInfo("policy"),
    ColumnInfo("accuracy", Dimension.FRACTION),
    ColumnInfo("served_requests", Dimension.COUNT),
    ColumnInfo("served_p99", Dimension.TIME),
)
_TIMES = {"keep_alive_s": "keep_alive"}  # as USING calls them
_MODEL_HEADS = ("mean", "deviation")
_NAME = 10  # columns before what is told


def deployments(session: Session) -> Listed:
    """All deployments by name. accuracy : of its most accurate model, measured on labels.
    served_requests, served_p99 : what serving measured over all of its models and runs."""
    served: dict[str, list[ServedFigures]] = {}
    for figure in session.catalog.served():
        served.setdefault(figure.deployment, []).append(figure)
    rows: list[tuple[object, ...]] = []
    for found in session.catalog.deployments():
        figures = served.get(found.name, [])
        known = [m.measured for m in found.models if m.measured is not None]
        slowest = [f.p99_ms for f in figures if f.p99_ms is not None]
        rows.append(
            (found.name, found.kind, names(found), promise(found) or None, policy_of(found),
             max(known, default=None), sum(f.requests for f in figures) if figures else None,
             max(slowest, default=None))
        )  # fmt: skip
    return _COLUMNS, rows


def describe(reference: nodes.ModelRef, session: Session) -> Facts:
    """What was deployed, what it promises, each of its models, and what serving measured."""
    found = session.catalog.deployment(reference.name)
    figures = {figure.model_id: figure for figure in session.catalog.served(found.name)}
    made = None if found.created_at is None else f"{found.created_at:%Y-%m-%d %H:%M:%S}"
    return [
        ("name", found.name),
        ("kind", found.kind),
        ("statement", found.statement),
        ("promise", promise(found) or "nothing"),
        ("proved", proved(found)),
        ("policy", policy_of(found)),
        ("fallback", found.fallback),
        ("options", options(found)),
        *((model.name, _known(model, figures.get(model.model_id))) for model in found.models),
        ("escalate", thresholds(found)),
        ("plan", found.plan),
        *(("note", note) for note in found.notes),
        ("created", made),
        ("run", f"db.deploy('{found.name}').infer(inputs), or sommelier serve"),
    ]


def explain(found: Deployment, *, as_json: bool = False) -> Report:
    """What a DEPLOY statement would deploy."""
    data: dict[str, Any] = asdict(found)
    data.pop("created_at")
    data["knobs"] = dict(found.knobs)
    if as_json:
        from sommelier.engine.explain import json_report

        return json_report(data)
    lines = [
        f"{'deploy':<{_NAME}} {found.name}: {found.kind}",
        f"{'promise':<{_NAME}} {promise(found) or 'nothing'}",
        f"{'policy':<{_NAME}} {policy_of(found) or 'none: its models run one after the other'}",
    ]
    told = (
        ("proved", proved(found)),
        ("escalate", thresholds(found)),
        ("fallback", found.fallback),
        ("options", options(found)),
        ("plan", found.plan),
    )
    lines += [f"{name:<{_NAME}} {value}" for name, value in told if value]
    lines += ["", *_table(found.models), ""]
    lines += [f"note: {note}" for note in found.notes]
    return Report(tuple(lines), data)


def names(found: Deployment) -> str:
    """The models in one line; of a cascade in the order they are asked."""
    arrow = " -> " if found.kind == "cascade" else ", "
    return arrow.join(model.name for model in found.models)


def policy_of(found: Deployment) -> str | None:
    """The policy with its knobs, the default where none is named; None where there is no choice."""
    if found.kind != "models":
        return None
    told = [] if found.policy else ["the default"]
    told += [f"{name} = {value}" for name, value in found.knobs.items()]
    return (found.policy or DEFAULT_POLICY) + (f" ({', '.join(told)})" if told else "")


def options(found: Deployment) -> str | None:
    """What USING says, in one line; None for nothing."""
    given = asdict(found.options)
    given.pop("memory_bytes")
    told = [f"{_TIMES.get(k, k)} = {_plain(k, v)}" for k, v in given.items() if v is not None]
    return ", ".join(told) or None


def _plain(name: str, value: object) -> str:
    return f"{value:g} s" if name == "keep_alive_s" and isinstance(value, float) else str(value)


def thresholds(found: Deployment) -> str | None:
    """When each model of a cascade sends an input on; None of another kind."""
    if found.cascade is None:
        return None
    share = found.escalate_at_most
    begin = found.cascade.thresholds if share is None else begins_at(found.cascade, share)
    told = ", ".join(_when(*one) for one in zip(found.cascade.stages, begin, strict=False))
    if share is None:
        return told
    at_most = format_value(share, Dimension.FRACTION)
    return f"at most {at_most} of what each model is asked; at first {told}"


def _when(stage: CascadeStage, threshold: float) -> str:
    if isinf(threshold):
        return f"{stage.model} {'always' if threshold > 0 else 'never'}"
    return f"{stage.model} where {written_condition(str(stage.score), threshold)}"


def proved(found: Deployment) -> str | None:
    """What was proved of a cascade; None of another kind."""
    if found.cascade is None:
        return None
    promise, share = found.cascade.promise, found.escalate_at_most
    if promise is None:
        return "nothing"
    loss = f"{promise.loss} of at most {_share(promise.at_most)}"
    told = f"{loss} with confidence {_share(promise.confidence)}"
    if found.fallback not in (None, found.cascade.stages[-1].model):
        told += f", but for what {found.fallback} answers as the fallback"
    if share is None:
        return told
    if begins_at(found.cascade, share) != found.cascade.thresholds:
        return "nothing"
    return f"{told}, while no threshold is lower than was proved"


def _known(model: DeployedModel, served: ServedFigures | None) -> str:
    """One model in one line."""
    parts = ["accuracy unknown" if model.accuracy is None else f"{_share(model.accuracy)}"]
    if model.basis is not None:
        parts[0] += f" {model.basis}"
    if model.mean_ms is None:
        parts.append("never timed")
    else:
        spread = "" if model.std_ms is None else f" ± {_ms(model.std_ms)}"
        parts.append(f"{_ms(model.mean_ms)}{spread}")
    if served is not None:
        parts.append(
            f"served {served.requests} requests, {_ms(served.mean_ms)} each, p99"
            f" {_ms(served.p99_ms)}, waited {_ms(served.queue_ms)}"
        )
    return "; ".join(parts)


def _table(models: Sequence[DeployedModel]) -> Iterable[str]:
    rows = [
        (model.name, _share(model.accuracy), _ms(model.mean_ms), _ms(model.std_ms))
        for model in models
    ]
    bases = {model.basis for model in models if model.basis is not None}
    weighed = bases.pop() if len(bases) == 1 else "accuracy"
    return grid(("model", weighed, *_MODEL_HEADS), rows)


def _ms(value: float | None) -> str:
    return "unknown" if value is None else format_value(value, Dimension.TIME)


def _share(value: float | None) -> str:
    return "unknown" if value is None else format_value(value, Dimension.FRACTION)
