"""EXPLAIN FUSION: what a fused model shares, what each task lost, what it costs, how it was found.

From the catalog alone; searches that run, failed or found nothing are told as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from sommelier.engine.explain import json_report
from sommelier.engine.fusion_trace import trace_lines
from sommelier.engine.names import unknown
from sommelier.engine.options import bind_options
from sommelier.engine.parameters import Parameters
from sommelier.engine.rendering import grid
from sommelier.engine.result import Report
from sommelier.errors import BinderError, UnknownNameError
from sommelier.grammar import nodes
from sommelier.grammar.builder import model_name
from sommelier.units import Dimension, format_value

if TYPE_CHECKING:
    from sommelier.engine.session import Session
    from sommelier.fusion_records import FusedModel, FusionStep, FusionTask

PROMISES = {
    "search": "blocks are shared, and were trained to answer what the models answered",
    "merged weights": "weights of one architecture are averaged after alignment, nothing was"
    " trained: what it loses is known only because it was measured",
    "equal layers": "layers that were equal already are kept once: the same answers in less memory,"
    " and no promise about time",
}
STATES = {
    "searching": "the search runs: SHOW JOBS tells how far it is, CANCEL JOB stops it",
    "interrupted": "what was found so far is kept, and the same statement goes on with it",
    "cancelled": "it was stopped; the same statement goes on with it",
}
_COSTS = (
    ("latency", "latency_ms", Dimension.TIME),
    ("flops", "flops", Dimension.FLOPS),
    ("memory", "memory", Dimension.BYTES),
    ("params", "params", Dimension.COUNT),
)
_ELSEWHERE = ("device", "probe_set_id", "replaced", "samples")  # not told here
_NAME = 10  # columns before what is told


def explain_fusion(
    statement: nodes.ExplainFusion, session: Session, parameters: Parameters
) -> Report:
    """All that is known of one fusion, in words; `data` has the same in base units, with all steps.

    Raises UnknownNameError for a name that no fusion has, BinderError for options but the format.
    """
    options = bind_options(statement.options, {"format": ("text", "json")}, parameters)
    found = _found(statement, session, parameters)
    fusion, others = found[0], found[1:]
    steps = session.catalog.fusion_steps(fusion.id)
    lines = [
        *_head(fusion),
        *_shared(fusion),
        "",
        *_task_lines(fusion),
        *_cost_lines(fusion),
        "",
        *_told("data", _data(fusion)),
        *_told("search", _search(fusion)),
        *trace_lines(steps, fusion.name, fused=_searched(fusion)),
    ]
    for other in others:
        why = f": {other.reason}" if other.reason else ""
        lines.append(f"note: another search of this name is '{other.state}'{why}")
    report = Report(tuple(lines), _as_data(fusion, steps))
    return json_report(report.data) if options.get("format") == "json" else report


# ---- which one


def fusions_named(name: str, session: Session) -> list[FusedModel]:
    """The fusions of that name, that which led to a model first. Raises UnknownNameError."""
    return _named(nodes.ModelRef(*model_name(name)), session)


def _found(
    statement: nodes.ExplainFusion, session: Session, parameters: Parameters
) -> list[FusedModel]:
    """The fusions of that name, that which led to a model first. A name@version, an alias and an id
    stand for the model they stand for elsewhere."""
    node = parameters.literal(statement.model)
    span = getattr(node, "span", None)
    if isinstance(node, nodes.Text):
        node = nodes.ModelRef(*model_name(node.value), span=span)
    elif isinstance(node, nodes.Column):
        node = nodes.ModelRef(node.name, span=span)
    if not isinstance(node, nodes.ModelRef):
        raise BinderError("a fused model is named here", span=span)
    return _named(node, session)


def _named(node: nodes.ModelRef, session: Session) -> list[FusedModel]:
    span = node.span
    found = session.catalog.fusions(name=node.name) if node.version is None else []
    if found:
        return found
    names = session.catalog.fusion_names()
    try:
        record = session.facts.model(node.name, node.version)
    except UnknownNameError:
        raise unknown("fusion", node.name, names, span) from None
    found = session.catalog.fusions(model_id=record.id)
    if not found:
        known = (
            f"fusions: {', '.join(names)}" if names else "there is no fusion in the database yet"
        )
        raise UnknownNameError(f"{record.name} was not made by fusion", span=span, hint=known)
    return found


# ---- what it is


def _head(fusion: FusedModel) -> list[str]:
    tasks = ", ".join(task.name for task in fusion.tasks)
    made = "" if fusion.created_at is None else f", {fusion.created_at:%Y-%m-%d %H:%M:%S}"
    state = fusion.state
    if fusion.stale is not None:
        state = f"stale: {fusion.stale}; what its tasks lost was measured against another model"
    lines = _told("fusion", f"{fusion.name}, of {tasks}{made}") + _told("state", state)
    if fusion.reason:
        lines += _told("reason", fusion.reason)
    if fusion.state in STATES:
        lines += _told("", STATES[fusion.state])
    if fusion.method is not None:
        promise = PROMISES.get(fusion.method)
        lines += _told("method", f"{fusion.method}: {promise}" if promise else fusion.method)
    return lines


def _shared(fusion: FusedModel) -> list[str]:
    """The tree of blocks."""
    if fusion.graph is None:
        return []
    from sommelier.analysis.fusion.drawing import drawn

    legend = "blocks count from 0 in each model; a branch reads what stands above it"
    return [
        "",
        *_told("shared", legend),
        *(f"  {line}" for line in drawn(fusion.graph).split("\n")),
    ]


# ---- what it lost and what it costs


def _task_lines(fusion: FusedModel) -> list[str]:
    if all(task.drop is None for task in fusion.tasks):
        return ["what the tasks lose is not known"]
    heads = ["task", "measure", "model", "loses", "interval", "samples"]
    return [*grid(heads, [_task(task) for task in fusion.tasks]), *_intervals(fusion)]


def _task(task: FusionTask) -> list[str]:
    interval = "unknown"
    if task.drop_low is not None and task.drop_high is not None:
        kind = "proved" if task.proved else "an estimate"
        interval = f"[{_percent(task.drop_low)}, {_percent(task.drop_high)}], {kind}"
    return [
        task.name,
        task.metric or "unknown",
        _percent(task.baseline),
        _percent(task.drop),
        interval,
        str(task.samples) if task.samples else "",
    ]


def _intervals(fusion: FusedModel) -> list[str]:
    """What the figures of the tasks mean."""
    lines = []
    if any(task.samples for task in fusion.tasks):
        at = "" if fusion.confidence is None else f" at {_percent(fusion.confidence)} confidence"
        lines.append(
            f"each interval holds for its task{at}, on samples that no training and no search"
            " saw; a negative loss is a gain"
        )
    if fusion.drop_threshold is not None:
        lines.append(f"each task may lose {_percent(fusion.drop_threshold)}")
    if any(task.metric == "agreement" for task in fusion.tasks):
        lines.append("agreement is with the model's own answers: an accuracy falls by no more")
    return lines


def _cost_lines(fusion: FusedModel) -> list[str]:
    """What the fused model costs beside the models one after the other."""
    rows = []
    for name, field, dimension in _COSTS:
        own, base = getattr(fusion, field), getattr(fusion, f"base_{field}")
        if own is None and base is None:
            continue
        part = ""
        if own is not None and base:
            part = _percent(own / base) + (
                f", {base / own:.3g}x as fast" if name == "latency" else ""
            )
        device = f" on '{fusion.device}'" if name == "latency" and fusion.device else ""
        rows.append(
            [name + device, format_value(own, dimension), format_value(base, dimension), part]
        )
    if not any(getattr(fusion, field) is not None for _, field, _ in _COSTS):
        return []
    return ["", *grid(["cost", "fused", "models together", "share"], rows)]


# ---- how it was found


def _data(fusion: FusedModel) -> str:
    if fusion.dataset is None:
        return "none"
    counts = (fusion.training, fusion.selection, fusion.held_out)
    if not any(counts):
        return f"'{fusion.dataset}'"
    return (
        f"'{fusion.dataset}': {counts[0]} samples trained on, {counts[1]} chosen by,"
        f" {counts[2]} others measured on"
    )


def _searched(fusion: FusedModel) -> bool:
    """Whether a search ended with a model."""
    return fusion.model_id is not None and fusion.method == "search"


def _search(fusion: FusedModel) -> str:
    told = []
    if fusion.evaluations:
        count = "1 candidate" if fusion.evaluations == 1 else f"{fusion.evaluations} candidates"
        told.append(f"{count} {'trained' if fusion.method == 'search' else 'tried'}")
    if fusion.elapsed_ms:
        most = fusion.budget_ms
        allowed = "" if most is None else f" of {format_value(most, Dimension.TIME)}"
        told.append(f"{format_value(fusion.elapsed_ms, Dimension.TIME)}{allowed}")
    told.append(f"seed {fusion.seed}")
    if fusion.job_id is not None:
        told.append(f"job {fusion.job_id}")
    return ", ".join([*told, *(f"{name} {text}" for name, text in _options(fusion).items())])


def _options(fusion: FusedModel) -> dict[str, str]:
    """The options that were stated and are not told elsewhere."""
    found: dict[str, Any] = json.loads(fusion.options or "{}")
    limits = [_limit(limit) for limit in found.pop("limits", None) or ()]
    told = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in found.items()
        if name not in _ELSEWHERE and value not in (None, False, "auto", fusion.method)
    }
    return told | ({"ON": " AND ".join(limits)} if limits else {})


def _limit(limit: Mapping[str, Any]) -> str:
    """As ON says it; of : a model, None for all together."""
    dimension = next(dimension for name, _, dimension in _COSTS if name == limit["metric"])
    most = format_value(limit["most"], dimension if limit["absolute"] else Dimension.FRACTION)
    whose = "" if limit["of"] is None else f" OF {limit['of']}"
    return f"{limit['metric']} {'<' if limit['strict'] else '<='} {most}{whose}"


def _as_data(fusion: FusedModel, steps: Sequence[FusionStep]) -> dict[str, Any]:
    """The record with its JSON read, and every step."""
    values = asdict(replace(fusion, graph=None, options=None))
    made = fusion.created_at
    return {
        **values,
        "created_at": None if made is None else made.isoformat(),
        "graph": None if fusion.graph is None else json.loads(fusion.graph),
        "options": json.loads(fusion.options or "{}"),
        "steps": [asdict(step) for step in steps],
    }


def _told(name: str, text: str) -> list[str]:
    """A line 'name  text'."""
    return [f"{name:<{_NAME}}{text}"]


def _percent(value: float | None) -> str:
    return "unknown" if value is None else format_value(value, Dimension.FRACTION)
