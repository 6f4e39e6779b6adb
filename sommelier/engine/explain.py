"""EXPLAIN: the plan as a pipeline in words; with ANALYZE also what each stage did."""

from __future__ import annotations

from math import isinf
from typing import Any

from sommelier.engine import wording
from sommelier.engine.outputs import default_order
from sommelier.engine.plan import Condition, LogicalPlan, OrderKey, SourcePlan, conjuncts
from sommelier.engine.rendering import grid
from sommelier.engine.result import ColumnInfo, Report, Table
from sommelier.engine.state import StageReport
from sommelier.notebook_tables import Bar
from sommelier.units import Dimension

Described = list[tuple[str, list[str]]]


def explain_plan(plan: LogicalPlan, *, as_json: bool = False) -> Report:
    """What would be done, in order, with every bound in absolute numbers."""
    data = plan_data(plan)
    if as_json:
        return json_report(data)
    lines = (*plan_lines(plan), *(f"note: {note}" for note in plan.notes))
    return Report(lines, data, _plan_table(plan))


def explain_analyzed(
    plan: LogicalPlan,
    stages: tuple[StageReport, ...],
    notes: tuple[str, ...],
    timing: dict[str, float],
    *,
    as_json: bool = False,
) -> Report:
    """What was done: rows in and out, rows that could not be decided, and time, by stage."""
    data = plan_data(plan)
    data["notes"] = list(notes)
    data["timing_ms"] = {name: round(took, 4) for name, took in timing.items()}
    data["stages"] = [
        {
            "name": s.name,
            "detail": s.detail,
            "rows_in": s.rows_in,
            "rows_out": s.rows_out,
            "unknown": s.unknown,
            "milliseconds": round(s.milliseconds, 4),
        }
        for s in stages
    ]
    if as_json:
        return json_report(data)
    rows = [
        [
            s.name,
            str(s.rows_in),
            str(s.rows_out),
            str(s.unknown) if s.unknown else "",
            f"{s.milliseconds:.3f} ms",
            s.detail,
        ]
        for s in stages
    ]
    table = grid(["stage", "in", "out", "unknown", "time", "what"], rows)
    phases = ", ".join(f"{name} {took:.3f} ms" for name, took in timing.items())
    told = [f"columns: {_columns(plan)}", f"time: {phases}", *(f"note: {note}" for note in notes)]
    return Report((*table, *told), data, _stage_table(stages, tuple(told)))


def _stage_table(stages: tuple[StageReport, ...], told: tuple[str, ...]) -> Table:
    """As a notebook shows it; bars: how many of all models are left."""
    kinds = (None, Dimension.NUMBER, Dimension.NUMBER, Dimension.NUMBER, Dimension.TIME, None)
    columns = tuple(map(ColumnInfo, ("stage", "in", "out", "unknown", "time", "what"), kinds))
    rows: list[tuple[object, ...]] = [
        (s.name, s.rows_in, s.rows_out, s.unknown, s.milliseconds, s.detail) for s in stages
    ]
    every = stages[0].rows_in if stages else 0
    bars = {
        (place, 2): Bar(s.rows_out / every, f"{s.rows_out} of {every} models")
        for place, s in enumerate(stages)
        if every
    }
    return Table("stages", columns, rows, told, bars=bars)


def _plan_table(plan: LogicalPlan) -> Table:
    """As a notebook shows it: a row for each condition or choice."""
    columns = (ColumnInfo("stage"), ColumnInfo("what"))
    rows: list[tuple[object, ...]] = list(_plan_rows(plan))
    return Table("plan", columns, rows, tuple(f"note: {note}" for note in plan.notes))


def _plan_rows(plan: LogicalPlan, depth: int = 0) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, details in describe_stages(plan):
        rows += [("│ " * depth + name, detail) for detail in details]
        if name == "source":
            inner = (one.plan for one in plan.sources if one.plan is not None)
            rows += [row for one in inner for row in _plan_rows(one, depth + 1)]
    return [*rows, ("│ " * depth + "columns", _columns(plan))]


def plan_lines(plan: LogicalPlan, indent: str = "") -> list[str]:
    """The stages as a tree: each line is a stage, inner queries are indented under it."""
    lines: list[str] = []
    for name, details in describe_stages(plan):
        for number, detail in enumerate(details):
            head = name if number == 0 else ""
            lines.append(f"{indent}{head:<8} {detail}".rstrip())
        if name == "source":
            for source in plan.sources:
                if source.plan is not None:
                    lines += plan_lines(source.plan, indent + "   │ ")
    lines.append(f"{indent}{'columns':<8} {_columns(plan)}")
    return lines


def describe_stages(plan: LogicalPlan) -> Described:
    """(stage, its conditions or choices in words), in the order they run."""
    source = wording.source_text(plan.sources)
    if plan.including:
        source += f", and what {' and '.join(plan.including)} propose"
    found: Described = [("source", [source])]
    if plan.where is not None:
        found.append(("where", _conditions(plan.where)))
    if plan.on is not None:
        found.append(("on", _conditions(plan.on)))
    if plan.corr is not None:
        found.append(("corr", _corr(plan)))
    if plan.having is not None:
        found.append(("having", _conditions(plan.having)))
    if plan.distinct:
        found.append(("distinct", [_columns(plan)]))
    if plan.pick is not None:
        found.append(("pick", [wording.pick_text(plan.pick)]))
    if plan.pick is None or plan.order:
        found.append(("order", [wording.order_text(_order(plan))]))
    if plan.limit is not None or plan.offset:
        limit = "all" if plan.limit is None else str(plan.limit)
        found.append(("limit", [limit + (f" from row {plan.offset + 1}" if plan.offset else "")]))
    return found


def _conditions(condition: Condition) -> list[str]:
    parts = conjuncts(condition)
    return [
        ("" if number == 0 else "AND ") + wording.condition_text(part)
        for number, part in enumerate(parts)
    ]


def _corr(plan: LogicalPlan) -> list[str]:
    corr = plan.corr
    assert corr is not None
    lines = [wording.corr_text(corr)]
    lines.append(wording.statement_text(corr))
    if corr.mode != "sketch":
        lines.append(f"index: {corr.mode}")
    if corr.possible:
        lines.append("with models whose interval straddles the threshold (certainty)")
    if corr.include_reference:
        lines.append("the reference itself is included")
    else:
        names = "reference itself is" if len(corr.references) == 1 else "references are"
        lines.append(f"the {names} left out (USING include_reference=true keeps)")
    return lines


def _order(plan: LogicalPlan) -> tuple[OrderKey, ...]:
    from sommelier.engine.executor import MEMORY

    return plan.order or default_order(plan.corr is not None, MEMORY)


def _columns(plan: LogicalPlan) -> str:
    return ", ".join(column.name for column in plan.columns)


def plan_data(plan: LogicalPlan) -> dict[str, Any]:
    """The plan as plain data, for EXPLAIN (format = json)."""
    return {
        "plan": [{"stage": name, "detail": details} for name, details in describe_stages(plan)],
        "sources": [_source_data(source) for source in plan.sources],
        "columns": [
            {"name": column.name, "dimension": d.value if (d := column.value.dimension) else None}
            for column in plan.columns
        ],
        "notes": list(plan.notes),
    }


def _source_data(source: SourcePlan) -> dict[str, Any]:
    inner = plan_data(source.plan) if source.plan is not None else None
    return {"kind": source.kind, "name": source.name, "query": inner}


def json_report(data: dict[str, Any]) -> Report:
    """The data as indented JSON; infinite numbers, which it has not, are texts."""
    import json

    text = json.dumps(_finite(data), indent=2, ensure_ascii=False)
    return Report(tuple(text.splitlines()), data)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and isinf(value):
        return str(value)
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value
