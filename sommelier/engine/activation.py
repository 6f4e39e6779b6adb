"""SELECT PLAN: which models of a group to execute under a budget, and which to predict from them.

The question is bound here and posed to analysis.links.selection; no model runs. Source: MLink,
equation (1); algorithms.md E.3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sommelier.engine.activation_budget import Group, Limit, bind_budget
from sommelier.engine.activation_links import Linked, linked_group
from sommelier.engine.activation_table import plan_table
from sommelier.engine.model_group import group_of
from sommelier.engine.options import PLAN_OPTIONS, bind_options
from sommelier.engine.parameters import Parameters
from sommelier.engine.plan import ModelReference
from sommelier.engine.result import Table
from sommelier.engine.scope import Scope
from sommelier.errors import BinderError
from sommelier.grammar import nodes
from sommelier.link_records import ActivationPlan, ModelLink, PlannedModel
from sommelier.storage.rows import known

if TYPE_CHECKING:
    from sommelier.analysis.links.problem import ActivationProblem, Objective
    from sommelier.analysis.links.profiles import Profile
    from sommelier.analysis.links.selection import PredictedModel, Selection
    from sommelier.engine.session import Session

_LINK_COSTS = {
    "memory": "memory", "measured_memory": "memory", "size": "size", "params": "params",
    "flops": "flops", "latency": "latency_ms",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PlanQuestion:
    """A bound SELECT PLAN. problem : names are those of `models`, in their order."""

    models: tuple[ModelReference, ...]
    limits: tuple[Limit, ...]
    linked: Linked
    problem: ActivationProblem
    objective: Objective
    confidence: float
    notes: tuple[str, ...]


def activation_plan(
    statement: nodes.SelectPlan,
    session: Session,
    parameters: Parameters,
    *,
    profile: Profile | None = None,
) -> ActivationPlan:
    """The best plan of the group within the budget. Cost: seconds for 12 models; see `select`.

    profile : recent inputs by which links are judged instead of the samples held out from them.
    Raises BinderError for a budget or option that does not fit and for costs that are unknown,
    UnknownNameError for models, pools and devices there are not, AnalysisError when nothing fits.
    """
    question = bind_plan(statement, session, parameters, profile=profile)
    return chosen_plan(question, choose(question))


def answer_plan(statement: nodes.SelectPlan, session: Session, parameters: Parameters) -> Table:
    """The rows of SELECT PLAN: the plan with what each model costs. Raises as `activation_plan`."""
    question = bind_plan(statement, session, parameters)
    plan = chosen_plan(question, choose(question))
    return plan_table(plan, member_costs(question, plan))


def bind_plan(
    statement: nodes.SelectPlan,
    session: Session,
    parameters: Parameters,
    *,
    profile: Profile | None = None,
) -> PlanQuestion:
    """The question of a SELECT PLAN, before it is answered. Raises as `activation_plan`."""
    options = bind_options(statement.options, PLAN_OPTIONS, parameters)
    _check_pick(statement.pick)
    scope = _scope(statement, session, parameters)
    models = group_of(statement, session, scope)
    limits = bind_budget(statement.on, Group(models, session.world), scope)
    confidence = scope.options.confidence
    linked = linked_group(models, session, scope, confidence=confidence, profile=profile)
    return PlanQuestion(
        models,
        limits,
        linked,
        _problem(models, limits, linked),
        options.get("objective") or "accuracy",
        confidence,
        (*scope.notes, *linked.notes, *_cost_notes(limits, linked)),
    )


def choose(question: PlanQuestion) -> Selection:
    """The best plan: the optimum where it can be had, else one with a bound of it."""
    from sommelier.analysis.links.selection import select

    return select(question.problem, question.objective)


def chosen_plan(question: PlanQuestion, selection: Selection) -> ActivationPlan:
    """The plan as a value that can be kept and run, of what was selected."""
    predicted = {model.name: model for model in selection.predicted}
    return ActivationPlan(
        models=tuple(
            _executed(model)
            if model.name not in predicted
            else _predicted(model, predicted[model.name], question.linked)
            for model in question.models
        ),
        objective=selection.objective,
        budget={limit.metric: limit.most for limit in question.limits},
        cost=dict(selection.cost),
        total=dict(selection.total),
        accuracy=selection.accuracy,
        low=known(selection.low),
        high=known(selection.high),
        proved=selection.proved,
        confidence=question.confidence,
        skill=known(selection.skill),
        upper=known(selection.upper),
        gap=known(selection.gap),
        method=selection.method,
        considered=selection.considered,
        notes=tuple(dict.fromkeys((*question.notes, *selection.notes))),
        probe_set_id=question.linked.probe_set_id,
        samples=question.linked.held_out,
    )


def member_costs(question: PlanQuestion, plan: ActivationPlan) -> tuple[Mapping[str, float], ...]:
    """What each model of a plan costs by metric: itself when it is executed, else its links."""
    found = []
    for place, model in enumerate(plan.models):
        links = [question.linked.links[source, model.model_id] for source in model.source_ids]
        found.append(
            {
                limit.metric: float(limit.costs[place])
                if model.executed
                else sum(_link_cost(link, limit.metric) for link in links)
                for limit in question.limits
            }
        )
    return tuple(found)


# ---- binding


def _scope(statement: nodes.SelectPlan, session: Session, parameters: Parameters) -> Scope:
    """Names and options as SELECT MODELS has them."""
    shared = tuple(o for o in statement.options if o.name.lower() != "objective")
    return session.scope(nodes.Select(options=shared), parameters)


def _check_pick(pick: nodes.Pick | None) -> None:
    if pick is None or (pick.kind == "accurate" and pick.top is None):
        return
    raise BinderError(
        "a plan has one aim: the most accurate answers within its budget",
        span=pick.span,
        hint="write PICK MOST ACCURATE, or USING objective = 'skill' for what is gained over"
        " constant answers; costs are limited with ON",
    )


def _problem(
    models: Sequence[ModelReference], limits: Sequence[Limit], linked: Linked
) -> ActivationProblem:
    from sommelier.analysis.links.problem import ActivationProblem

    names = linked.names
    return ActivationProblem.of(
        linked.predictors,
        {
            model.name: {limit.metric: float(limit.costs[place]) for limit in limits}
            for place, model in enumerate(models)
        },
        {
            (names[source], names[target]): {
                limit.metric: _link_cost(link, limit.metric) for limit in limits
            }
            for (source, target), link in linked.links.items()
        },
        {limit.metric: limit.allowed for limit in limits},
    )


def _link_cost(link: ModelLink, metric: str) -> float:
    """What running a link costs, NaN where it is unknown."""
    found: Any = getattr(link, _LINK_COSTS[metric]) if metric in _LINK_COSTS else None
    return math.nan if found is None else float(found)


def _cost_notes(limits: Sequence[Limit], linked: Linked) -> list[str]:
    """Where a link's cost is not quite what the models' is."""
    notes = []
    for limit in limits if linked.links else ():
        key = limit.column.key
        if key.metric == "measured_memory":
            notes.append("measured_memory of links is not measured: their memory counts")
        elif key.metric == "energy":
            notes.append("the energy of links is unknown, so none is used")
        elif key.metric == "latency" and key.percentile not in (None, 50):
            notes.append(f"latency of links is known at p50 only, not at p{key.percentile}")
    return notes


# ---- answering


def _executed(model: ModelReference) -> PlannedModel:
    return PlannedModel(model.id, model.name, True, performance=1.0, low=1.0, high=1.0, skill=1.0)


def _predicted(model: ModelReference, found: PredictedModel, linked: Linked) -> PlannedModel:
    """A model that is not executed; the head names its sources by their ids."""
    ensemble = linked.ensemble(model.name)
    head: str | None = None
    ids: tuple[str, ...] = ()
    if ensemble is not None:
        by_name = {name: id_ for id_, name in linked.names.items()}
        given = ensemble.head(found.sources)
        ids = tuple(by_name[name] for name in given.sources)
        head = replace(given, sources=ids).to_json()
    score = found.score
    return PlannedModel(
        model.id, model.name, False, ids,
        tuple(linked.links[source, model.id].id for source in ids), head,
        performance=found.performance if found.answered else None,
        low=None if score is None else known(score.low),
        high=None if score is None else known(score.high),
        skill=known(found.skill) if found.answered else None,
    )  # fmt: skip
