"""EXPLAIN of SELECT LINKS and SELECT PLAN: what is asked in absolute numbers, and the choices."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sommelier.engine import wording
from sommelier.engine.activation import PlanQuestion, bind_plan, choose
from sommelier.engine.activation_table import METHODS, share
from sommelier.engine.explain import json_report
from sommelier.engine.names import few
from sommelier.engine.parameters import Supplied, as_parameters
from sommelier.engine.plan import OrderKey, TextColumn, conjuncts
from sommelier.engine.rendering import grid
from sommelier.engine.result import Report, Table
from sommelier.engine.select_links import LinksPlan, bind_links, select_links
from sommelier.engine.show_links import amounts
from sommelier.grammar import nodes
from sommelier.metrics import METRICS
from sommelier.units import format_value

if TYPE_CHECKING:
    from sommelier.analysis.links.selection import Method, Selection
    from sommelier.engine.session import Session

_LEGEND = (
    "P1: how well the others are predicted from a model, mean over them; P2: how well it is"
    " predicted from them; P = (1 + P1 - P2) / (w cost), the paper's activation probability"
)
_BEST = 12  # links that are listed; SELECT LINKS has all
_CHOICES: tuple[tuple[Method, str], ...] = (
    ("paper greedy", "the paper's greedy"),
    ("greedy", "greedy, repaired"),
    ("auto", ""),
)


def explain_linked(
    question: nodes.SelectLinks | nodes.SelectPlan | nodes.SelectFusions,
    session: Session,
    parameters: Supplied = None,
    *,
    analyze: bool = False,
    as_json: bool = False,
) -> Report:
    """The question with every bound in absolute numbers; of a plan also what it is chosen by.

    analyze : how many links were found too, and how long it took.
    """
    known = as_parameters(parameters)
    started = time.perf_counter()
    if isinstance(question, nodes.SelectPlan):
        report = _plan_report(bind_plan(question, session, known))
    elif isinstance(question, nodes.SelectFusions):
        raise TypeError("SelectFusions is no question about links")
    else:
        report = _links_report(bind_links(question, session, known), len(session.facts.links()))
        if analyze:
            report = _with_rows(report, select_links(question, session, known))
    known.check_all_used()
    if analyze:
        took = (time.perf_counter() - started) * 1e3
        data = {**report.data, "timing_ms": round(took, 4)}
        report = Report((*report.lines, f"time: {took:.3f} ms"), data)
    return json_report(report.data) if as_json else report


def _with_rows(report: Report, found: Table) -> Report:
    notes = tuple(f"note: {note}" for note in found.notes)
    data = {**report.data, "rows": len(found), "notes": list(found.notes)}
    return Report((*report.lines, f"{'rows':<8} {len(found)}", *notes), data)


def _links_report(bound: LinksPlan, count: int) -> Report:
    stages: list[tuple[str, list[str]]] = [("source", [f"all {count} links"])]
    if bound.where is not None:
        first, *others = (wording.condition_text(part) for part in conjuncts(bound.where))
        stages.append(("where", [first, *(f"AND {part}" for part in others)]))
    names = ", ".join(column.name for column in bound.columns)
    if bound.distinct:
        stages.append(("distinct", [names]))
    stages.append(("order", [wording.order_text((*bound.order, OrderKey(TextColumn("name"))))]))
    if bound.limit is not None or bound.offset:
        most = "all" if bound.limit is None else str(bound.limit)
        since = f" from row {bound.offset + 1}" if bound.offset else ""
        stages.append(("limit", [most + since]))
    stages.append(("columns", [names]))
    lines = (
        f"{name if place == 0 else '':<8} {detail}"
        for name, details in stages
        for place, detail in enumerate(details)
    )
    data = {"plan": [{"stage": name, "detail": details} for name, details in stages]}
    return Report(tuple(lines), data)


def _plan_report(question: PlanQuestion) -> Report:
    from sommelier.analysis.links.selection import select

    problem, objective = question.problem, question.objective
    best = choose(question)
    choices: dict[Method, Selection] = {
        method: select(problem, objective, method=method, upper=best.upper)
        for method, _ in _CHOICES
        if method != "auto"
    }
    choices["auto"] = best
    models, links = _models(question), _links(question)
    notes = list(dict.fromkeys((*question.notes, *choices["auto"].notes)))
    lines = [
        f"budget   {amounts({limit.metric: limit.most for limit in question.limits})}",
        f"aim      the highest mean {question.objective} of the answers",
        "",
        *_model_lines(question, models),
        _LEGEND,
        "",
        *_link_lines(links),
        "",
        *_choice_lines(choices),
        *(f"note: {note}" for note in notes),
    ]
    data = {
        "budget": {limit.metric: limit.most for limit in question.limits},
        "objective": question.objective,
        "models": models,
        "links": links,
        "choices": {method: _chosen(found) for method, found in choices.items()},
        "notes": notes,
    }
    return Report(tuple(lines), data)


def _models(question: PlanQuestion) -> list[dict[str, Any]]:
    """Each model's activation probability and its parts, with its costs."""
    from sommelier.analysis.links.greedy import LEAST_SHARE, activation_probability

    problem = question.problem
    others = max(len(problem) - 1, 1)
    off = np.where(np.eye(len(problem), dtype=bool), 0.0, problem.singles)
    probability = activation_probability(problem.singles, np.maximum(problem.shares, LEAST_SHARE))
    return [
        {
            "model": model.name,
            "P": float(probability[place]),
            "P1": float(off[place].sum() / others),
            "P2": float(off[:, place].sum() / others),
            "cost": {limit.metric: float(limit.costs[place]) for limit in question.limits},
        }
        for place, model in enumerate(question.models)
    ]


def _links(question: PlanQuestion) -> list[dict[str, Any]]:
    found = question.linked.links.values()
    return [
        {"name": link.name, "performance": link.performance, "skill": link.skill}
        for link in sorted(found, key=lambda link: link.name)
    ]


def _link_lines(links: list[dict[str, Any]]) -> list[str]:
    """The best of them, and how many more there are."""
    best = sorted(links, key=lambda link: -(link["performance"] or 0.0))[:_BEST]
    lines = [f"link     {link['name']}: {share(link['performance'])}" for link in best]
    if len(links) > len(best):
        lines.append(f"         and {len(links) - len(best)} more: SELECT LINKS lists them")
    return lines


def _model_lines(question: PlanQuestion, models: list[dict[str, Any]]) -> list[str]:
    metrics = [limit.metric for limit in question.limits]
    rows = [
        [
            model["model"],
            *(f"{model[name]:.3f}" for name in ("P", "P1", "P2")),
            *(format_value(model["cost"][m], METRICS[m].dimension) for m in metrics),
        ]
        for model in sorted(models, key=lambda model: -model["P"])
    ]
    return grid(["model", "P", "P1", "P2", *metrics], rows)


def _choice_lines(choices: Mapping[Method, Selection]) -> list[str]:
    rows = []
    for method, name in _CHOICES:
        found = choices[method]
        rows.append(
            [
                name or _best_name(found),
                share(found.accuracy),
                share(found.skill) if found.skill == found.skill else "unknown",
                amounts(found.cost) + ("" if found.feasible else " (over the budget)"),
                few(found.activated) or "nothing",
            ]
        )
    return grid(["choice", "accuracy", "skill", "cost with links", "executes"], rows)


def _best_name(found: Selection) -> str:
    method = METHODS.get(found.method, found.method)
    if found.gap <= 1e-9:
        return f"optimum ({method})"
    return f"best found ({method}), at most {found.gap * 100:.2g} points below the optimum"


def _chosen(found: Selection) -> dict[str, Any]:
    return {
        "executes": list(found.activated),
        "predicts": {name: list(sources) for name, sources in found.sources.items()},
        "accuracy": found.accuracy,
        "skill": None if found.skill != found.skill else found.skill,
        "cost": dict(found.cost),
        "feasible": found.feasible,
        "considered": found.considered,
    }
