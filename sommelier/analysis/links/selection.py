"""Which models to execute under budgets, which to predict, and how good the answers then are.

Source: algorithms.md E.3; MLink, equation (1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sommelier.analysis.links import exact as exactly
from sommelier.analysis.links import milp as program
from sommelier.analysis.links.allocation import Allocation, Found, fits
from sommelier.analysis.links.greedy import (
    activation_probability,
    greedy,
    knapsack_bound,
    paper_greedy,
)
from sommelier.analysis.links.problem import (
    OBJECTIVES,
    ActivationProblem,
    Objective,
    amount,
)
from sommelier.analysis.links.scoring import Score, skill
from sommelier.errors import AnalysisError

__all__ = [
    "ActivationProblem",
    "Method",
    "PredictedModel",
    "Selection",
    "activation_probability",
    "select",
]

Method = Literal["auto", "exact", "milp", "greedy", "paper greedy"]


@dataclass(frozen=True, slots=True)
class PredictedModel:
    """A model that is not executed: from which executed ones it is predicted, and how well.

    sources : none where its constant answer does best, or where it has no links and gives no answer
    (`answered` False; its performance then counts 0). score : its interval holds for all models of
    the plan at once; None where the predictor has none.
    """

    name: str
    sources: tuple[str, ...]
    performance: float
    skill: float
    answered: bool
    score: Score | None


@dataclass(frozen=True, slots=True)
class Selection:
    """A plan: models to execute, models to predict, and what is known of it.

    accuracy, skill : means over the models, 1 for executed ones; skill leaves out models whose own
    answer is always the same. low, high : of the accuracy, corrected for every head that any plan
    could have been composed of; NaN where unknown; proved : all its parts are proved bounds.
    value : the objective. upper : no plan exceeds it; gap = upper - value, 0 for an optimum; both
    NaN for a plan that exceeds a budget (`feasible` False). cost, total : by metric, of the plan
    with its links, and of executing every model. considered : sets of models that were compared.
    """

    activated: tuple[str, ...]
    predicted: tuple[PredictedModel, ...]
    objective: Objective
    value: float
    accuracy: float
    low: float
    high: float
    proved: bool
    skill: float
    upper: float
    gap: float
    cost: Mapping[str, float]
    total: Mapping[str, float]
    feasible: bool
    method: str
    considered: int
    notes: tuple[str, ...]

    @property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """By predicted model, what it is predicted from."""
        return {model.name: model.sources for model in self.predicted}


def select(
    problem: ActivationProblem,
    objective: Objective = "accuracy",
    *,
    method: Method = "auto",
    upper: float = math.nan,
) -> Selection:
    """The plan of the highest objective under the budgets.

    method 'auto' : exact with up to 12 models that fit the budgets alone, milp with up to 80,
    greedy beyond; the others are for comparison. upper : what no plan exceeds, where that is known
    from another method; a greedy one has to solve for it. Raises AnalysisError for an unknown
    objective or method.
    """
    if objective not in OBJECTIVES:
        raise AnalysisError(
            f"there is no objective {objective!r}", hint=f"one of {', '.join(OBJECTIVES)}"
        )
    if method not in ("auto", *METHODS):
        raise AnalysisError(
            f"there is no method {method!r}", hint=f"one of auto, {', '.join(METHODS)}"
        )
    name = _usual(problem) if method == "auto" else method
    found = METHODS[name](problem, objective)
    if math.isnan(found.upper) and fits(problem, found.best.cost):
        bound = upper_bound(problem, objective) if math.isnan(upper) else upper
        found = Found(found.best, max(bound, found.best.value), found.considered)
    return _selection(problem, found, objective, name)


def upper_bound(problem: ActivationProblem, objective: Objective) -> float:
    """The optimum where it can be had, else a bound that no plan exceeds."""
    usual = _usual(problem)
    if usual == "greedy":
        return knapsack_bound(problem, objective)
    return METHODS[usual](problem, objective).upper


METHODS: Mapping[str, Callable[[ActivationProblem, Objective], Found]] = {
    "exact": exactly.exact,
    "milp": program.milp,
    "greedy": greedy,
    "paper greedy": paper_greedy,
}


def _usual(problem: ActivationProblem) -> str:
    if len(problem.candidates) <= exactly.MOST:
        return "exact"
    return "milp" if len(problem) <= program.MOST else "greedy"


def _selection(
    problem: ActivationProblem, found: Found, objective: Objective, method: str
) -> Selection:
    best = found.best
    feasible = fits(problem, best.cost)
    predicted = tuple(
        _predicted(problem, best, j) for j in range(len(problem)) if j not in best.activated
    )
    low, high, proved = _interval(problem, predicted)
    skills = [s for s in (_own_skills(problem, best, predicted)) if not math.isnan(s)]
    metrics = tuple(problem.budgets)
    return Selection(
        activated=tuple(problem.names[i] for i in best.activated),
        predicted=predicted,
        objective=objective,
        value=best.value,
        accuracy=(len(best.activated) + sum(m.performance for m in predicted)) / len(problem),
        low=low,
        high=high,
        proved=proved,
        skill=float(np.mean(skills)) if skills else math.nan,
        upper=found.upper if feasible else math.nan,
        gap=found.upper - best.value if feasible else math.nan,
        cost=dict(zip(metrics, best.cost.tolist(), strict=True)),
        total=dict(zip(metrics, problem.total.tolist(), strict=True)),
        feasible=feasible,
        method=method,
        considered=found.considered,
        notes=(*problem.notes, *_remarks(problem, best, predicted)),
    )


def _predicted(problem: ActivationProblem, best: Allocation, j: int) -> PredictedModel:
    sources = tuple(problem.names[i] for i in best.sources[j])
    predictor = problem.predictors[j]
    if predictor is None:
        return PredictedModel(problem.names[j], (), 0.0, 0.0, False, None)
    worth = predictor.performance(sources)
    gained = skill(worth, predictor.constant)
    asked = predictor.score(sources, candidates=problem.statements)
    return PredictedModel(problem.names[j], sources, worth, gained, True, asked)


def _own_skills(
    problem: ActivationProblem, best: Allocation, predicted: tuple[PredictedModel, ...]
) -> list[float]:
    executed = [1.0 if problem.constants[i] < 1 else math.nan for i in best.activated]
    return [*executed, *(model.skill for model in predicted)]


def _interval(
    problem: ActivationProblem, predicted: tuple[PredictedModel, ...]
) -> tuple[float, float, bool]:
    """The mean of the models' intervals; those hold at once, so theirs does too."""
    answered = [model for model in predicted if model.answered]
    scores = [model.score for model in answered if model.score is not None]
    if len(scores) < len(answered):
        return math.nan, math.nan, False
    sure = len(problem) - len(predicted)
    low = (sure + sum(score.low for score in scores)) / len(problem)
    high = (sure + sum(score.high for score in scores)) / len(problem)
    return low, high, all(score.proved for score in scores)


def _remarks(
    problem: ActivationProblem, best: Allocation, predicted: tuple[PredictedModel, ...]
) -> list[str]:
    over = [
        f"over the budget: {amount(metric, float(value))} with its links, of "
        f"{amount(metric, problem.budgets[metric])}"
        for metric, value, limit in zip(problem.budgets, best.cost, problem.limits, strict=True)
        if value > limit * (1 + 1e-12)
    ]
    silent = [model.name for model in predicted if not model.answered]
    if silent:
        over.append(f"no answer from {', '.join(silent)}: not executed, and there is no link to it")
    return over
