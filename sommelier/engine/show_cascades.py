"""SHOW CASCADES, DESCRIBE CASCADE and EXPLAIN CASCADE: who answers what, and what was proved."""

from __future__ import annotations

from dataclasses import asdict
from math import isinf
from typing import TYPE_CHECKING, Any

from sommelier.engine.explain import json_report
from sommelier.engine.options import bind_options
from sommelier.engine.parameters import Parameters
from sommelier.engine.rendering import grid
from sommelier.engine.result import ColumnInfo, Report
from sommelier.grammar import nodes
from sommelier.units import Dimension, format_value

if TYPE_CHECKING:
    from sommelier.cascade_records import CascadeMember, CascadeStage, KeptCascade
    from sommelier.engine.session import Session

Facts = list[tuple[str, object]]
_SHARE = Dimension.FRACTION
_COLUMNS = (
    ColumnInfo("name"),
    ColumnInfo("models"),
    ColumnInfo("promise"),
    ColumnInfo("at_most", _SHARE),
    ColumnInfo("confidence", _SHARE),
    ColumnInfo("answered", _SHARE),
    ColumnInfo("flops", Dimension.FLOPS),
    ColumnInfo("flops_share", _SHARE),
    ColumnInfo("dataset"),
    ColumnInfo("samples", Dimension.COUNT),
    ColumnInfo("state"),
)
_NAME = 10  # columns before what is told
_BARE = "the last answers what is left"
_MEANING = (
    "shares and accuracies are estimates, of the samples; an input pays for every model up to the"
    " one that answers it"
)


def cascades(session: Session) -> tuple[tuple[ColumnInfo, ...], list[tuple[object, ...]]]:
    """Every cascade by name; answered : what the models before the last answer, an estimate."""
    rows: list[tuple[object, ...]] = []
    for kept in session.catalog.cascades():
        promise = kept.plan.promise
        shares = [one.answered for one in kept.members[:-1]]
        rows.append((
            kept.name, " -> ".join(kept.names), promise and promise.loss,
            promise and promise.at_most, promise and promise.confidence,
            None if None in shares else sum(share for share in shares if share is not None),
            kept.flops, kept.flops_share, kept.dataset, promise.samples if promise else None,
            "current" if kept.stale is None else "stale",
        ))  # fmt: skip
    return _COLUMNS, rows


def describe(reference: nodes.ModelRef, session: Session) -> Facts:
    """One cascade: its models in turn, its promise, what it costs, and how it is run."""
    kept = session.catalog.cascade(reference.name)
    made = None if kept.created_at is None else f"{kept.created_at:%Y-%m-%d %H:%M:%S}"
    use: Facts = [
        ("run", f"db.cascade('{kept.name}').run(items)"),
        ("serve", f"DEPLOY CASCADE {kept.name} AS name"),
    ]
    if kept.stale is not None:
        use = [("make anew", kept.statement)]
    return [
        ("name", kept.name),
        ("state", "current" if kept.stale is None else f"stale: {kept.stale}"),
        *(
            (stage.model, _told(stage, one))
            for stage, one in zip(kept.plan.stages, kept.members, strict=True)
        ),
        ("promise", _promise(kept)),
        ("loss", _loss(kept)),
        ("cost", _cost(kept)),
        ("data", _data(kept)),
        *(("note", note) for note in kept.notes),
        ("statement", kept.statement),
        ("created", made),
        *use,
    ]


def explain_cascade(
    statement: nodes.ExplainCascade, session: Session, parameters: Parameters
) -> Report:
    """When each model's answer stands, which scores were compared and why the one was taken.

    Raises UnknownNameError with the nearest names.
    """
    from sommelier.engine.names import unknown

    options = bind_options(statement.options, {"format": ("text", "json")}, parameters)
    names = session.catalog.cascade_names()
    if statement.name not in names:
        raise unknown("cascade", statement.name, names, statement.span)
    kept = session.catalog.cascade(statement.name)
    lines = [f"{'cascade':<{_NAME}}{kept.name}: {' -> '.join(kept.names)}"]
    if kept.stale is not None:
        lines.append(f"{'stale':<{_NAME}}{kept.stale}; {kept.statement}")
    lines += [f"{'promise':<{_NAME}}{_promise(kept)}", "", *_stages(kept), _MEANING, ""]
    facts = (("loss", _loss(kept)), ("cost", _cost(kept)), ("data", _data(kept)))
    lines += [f"{name:<{_NAME}}{value}" for name, value in facts if value is not None]
    lines += _scores(kept)
    lines += [f"note: {note}" for note in kept.notes]
    report = Report(tuple(lines), _as_data(kept))
    return json_report(report.data) if options.get("format") == "json" else report


# ---- parts


def _promise(kept: KeptCascade) -> str:
    return (
        kept.plan.reason
        if kept.stale is None
        else f"{kept.plan.reason}, of the models as they were"
    )


def _told(stage: CascadeStage, one: CascadeMember) -> str:
    when = _BARE if stage.score is None else f"answers where {stands_where(stage)}"
    return when if one.answered is None else f"{when}: {_percent(one.answered)} of the inputs"


def stands_where(stage: CascadeStage) -> str:
    """The condition under which the answers of a stage before the last stand."""
    if isinf(stage.threshold):
        return "never" if stage.threshold > 0 else f"{stage.score} is known"
    warmth = "" if stage.temperature == 1 else f" at temperature {stage.temperature:.3g}"
    return f"{stage.score} >= {stage.threshold:.4g}{warmth}"


def _stages(kept: KeptCascade) -> list[str]:
    rows = [
        [
            stage.model,
            "what is left" if stage.score is None else stands_where(stage),
            _percent(one.answered),
            _percent(one.accuracy),
            "unknown" if stage.flops is None else format_value(stage.flops, Dimension.FLOPS),
        ]
        for stage, one in zip(kept.plan.stages, kept.members, strict=True)
    ]
    return grid(["model", "answers where", "share", "accuracy alone", "flops"], rows)


def _loss(kept: KeptCascade) -> str | None:
    promise = kept.plan.promise
    if kept.loss is None or promise is None:
        return None
    return (
        f"{_percent(kept.loss)} {promise.loss} on the samples (an estimate); at most"
        f" {_percent(promise.at_most)} with confidence {_percent(promise.confidence)} (proved)"
    )


def _cost(kept: KeptCascade) -> str | None:
    if kept.flops is None or kept.flops_share is None:
        return None
    return (
        f"{format_value(kept.flops, Dimension.FLOPS)} an input on average,"
        f" {_percent(kept.flops_share)} of {kept.names[-1]} (estimates)"
    )


def _data(kept: KeptCascade) -> str | None:
    if kept.dataset is None or kept.plan.promise is None:
        return None
    return f"{kept.plan.promise.samples} samples of '{kept.dataset}'; seed {kept.seed}"


def _scores(kept: KeptCascade) -> list[str]:
    """How well each score tells a model's losses, and why the one of the plan was taken."""
    lines: list[str] = []
    for stage, one in zip(kept.plan.stages, kept.members, strict=True):
        if not one.ranking:
            continue
        ranked = ", ".join(f"{name} {_area(area)}" for name, area in one.ranking)
        lines.append(f"{'scores':<{_NAME}}{stage.model}: {ranked}")
    if not lines:
        return []
    compared = len(kept.members[0].ranking)
    lines.append(
        f"{'':<{_NAME}}area under the risk-coverage curve, the smaller the better it tells what"
        " is lost"
    )
    taken = kept.plan.stages[0].score
    if compared > 1:
        chosen = "keeps most inputs" if len(kept.members) == 2 else "costs least"
        lines.append(
            f"{'':<{_NAME}}{taken} was taken: of {compared} scores it {chosen} within the promise,"
            " which holds for all of them at once"
        )
    return ["", *lines]


def _area(value: float) -> str:
    return f"{value:.4f}"


def _percent(value: float | None) -> str:
    return "unknown" if value is None else format_value(value, _SHARE)


def _as_data(kept: KeptCascade) -> dict[str, Any]:
    made = kept.created_at
    return {**asdict(kept), "created_at": None if made is None else made.isoformat()}
