"""An activation plan as a table: what happens to each model, what the plan is worth and costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sommelier.engine.result import ColumnInfo, Table
from sommelier.link_records import ActivationPlan, PlannedModel
from sommelier.metrics import METRICS
from sommelier.units import Dimension, format_value

_SHARE = Dimension.FRACTION
_COLUMNS = (
    ColumnInfo("model"),
    ColumnInfo("action"),
    ColumnInfo("from"),
    ColumnInfo("accuracy", _SHARE),
    ColumnInfo("low", _SHARE),
    ColumnInfo("high", _SHARE),
    ColumnInfo("skill", _SHARE),
)


def plan_table(plan: ActivationPlan, costs: Sequence[Mapping[str, float]] | None = None) -> Table:
    """A row for each model: execute, predict, constant, or no answer; the plan in the notes.

    accuracy : share of answers, or quality in [0, 1], that is the model's own; 100% when executed.
    costs : by model what it costs of each metric of the budget, its links' where it is predicted;
    then there are columns of them.
    """
    metrics = tuple(plan.budget) if costs is not None else ()
    names = {model.model_id: model.name for model in plan.models}
    rows: list[tuple[object, ...]] = []
    for place, model in enumerate(plan.models):
        spent = () if costs is None else tuple(costs[place].get(metric) for metric in metrics)
        sources = ", ".join(names.get(id_, id_) for id_ in model.source_ids) or None
        worth = (model.performance, model.low, model.high, model.skill)
        rows.append((model.name, action(model), sources, *worth, *spent))
    columns = (*_COLUMNS, *(ColumnInfo(m, METRICS[m].dimension) for m in metrics))
    return Table("plan", columns, rows, (*plan_summary(plan), *plan.notes))


def action(model: PlannedModel) -> str:
    """What happens to a model of a plan."""
    if model.executed:
        return "execute"
    if model.source_ids:
        return "predict"
    return "no answer" if model.performance is None else "constant"


def plan_summary(plan: ActivationPlan) -> tuple[str, ...]:
    """What a plan is worth, what it costs, how it was found, and on what that rests."""
    return (_worth(plan), *(_cost(plan, metric) for metric in plan.budget), _method(plan))


def _worth(plan: ActivationPlan) -> str:
    interval = ", its interval is unknown"
    if plan.low is not None and plan.high is not None:
        kind = "proved" if plan.proved else "an estimate"
        interval = (
            f" [{share(plan.low)}, {share(plan.high)}] at {plan.confidence * 100:g}% confidence,"
            f" {kind}, corrected for the choice"
        )
    skill = "" if plan.skill is None else f"; skill {share(plan.skill)}"
    return f"expected output accuracy {share(plan.accuracy)}{interval}{skill}"


def _cost(plan: ActivationPlan, metric: str) -> str:
    dimension = METRICS[metric].dimension
    cost, most, total = (
        format_value(values.get(metric), dimension)
        for values in (plan.cost, plan.budget, plan.total)
    )
    part = ""
    if plan.total.get(metric):
        part = f" ({plan.cost[metric] / plan.total[metric]:.0%})"
    return (
        f"{metric} {cost} of {most} allowed; executing all {len(plan.models)} takes {total}{part}"
    )


def _method(plan: ActivationPlan) -> str:
    aim = f"the most {plan.objective}" if plan.objective == "skill" else "the most accurate"
    sets = f"{plan.considered} sets of models" if plan.considered != 1 else "one set of models"
    found = f"{METHODS.get(plan.method, plan.method)} over {sets}"
    if plan.gap is None or plan.upper is None:
        return f"{found}: how far {aim} is from the optimum is unknown"
    if plan.gap <= ROUNDING:
        return f"{found}: the optimum, no plan has {plan.objective} above {share(plan.upper)}"
    return (
        f"{found}: at most {plan.gap * 100:.2g} percentage points below the optimum,"
        f" no plan has {plan.objective} above {share(plan.upper)}"
    )


METHODS = {"exact": "enumeration", "milp": "integer program"}
ROUNDING = 1e-9


def share(value: float | None) -> str:
    """A fraction as a person reads it: 93.1%."""
    return "unknown" if value is None else f"{value:.1%}"
