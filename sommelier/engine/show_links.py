"""SHOW LINKS and SHOW PLANS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sommelier.engine.parameters import Parameters
from sommelier.engine.result import ColumnInfo, Table
from sommelier.grammar import nodes
from sommelier.metrics import METRICS
from sommelier.units import Dimension, format_value

if TYPE_CHECKING:
    from sommelier.engine.session import Session

_PLAN_COLUMNS = (
    ColumnInfo("name"),
    ColumnInfo("models", Dimension.COUNT),
    ColumnInfo("executed", Dimension.COUNT),
    ColumnInfo("accuracy", Dimension.FRACTION),
    ColumnInfo("low", Dimension.FRACTION),
    ColumnInfo("high", Dimension.FRACTION),
    ColumnInfo("skill", Dimension.FRACTION),
    ColumnInfo("budget"),
    ColumnInfo("cost"),
    ColumnInfo("state"),
    ColumnInfo("reason"),
)


def links(statement: nodes.Show, session: Session, parameters: Parameters) -> Table:
    """SHOW LINKS is a SELECT LINKS; links are listed by name."""
    from sommelier.engine.select_links import select_links

    question = nodes.SelectLinks(where=narrowed(statement), limit=statement.limit)
    return select_links(question, session, parameters)


def narrowed(statement: nodes.Show) -> nodes.Expression | None:
    """LIKE and WHERE of a SHOW as one condition."""
    conditions: list[nodes.Expression] = []
    if statement.like is not None:
        like = statement.like
        pattern = like if isinstance(like, nodes.Parameter) else nodes.Text(like)
        conditions.append(nodes.Like("ilike", nodes.Column("name"), pattern))
    if statement.where is not None:
        conditions.append(statement.where)
    if len(conditions) > 1:
        return nodes.And(tuple(conditions))
    return conditions[0] if conditions else None


def plans(session: Session) -> tuple[tuple[ColumnInfo, ...], list[tuple[object, ...]]]:
    """Saved plans by name; a stale one is kept with the reason, and is not used."""
    rows: list[tuple[object, ...]] = []
    for saved in session.catalog.plans():
        plan = saved.plan
        state = "current" if saved.stale is None else "stale"
        rows.append(
            (saved.name, len(plan.models), len(plan.executed), plan.accuracy, plan.low, plan.high,
             plan.skill, amounts(plan.budget), amounts(plan.cost), state, saved.stale)
        )  # fmt: skip
    return _PLAN_COLUMNS, rows


def amounts(values: Mapping[str, float]) -> str:
    """Costs in one line.

    >>> amounts({"memory": 5e6, "latency": 12.5})
    'memory 5 MB, latency 12.5 ms'
    """
    return ", ".join(
        f"{metric} {format_value(value, METRICS[metric].dimension)}"
        for metric, value in values.items()
    )
