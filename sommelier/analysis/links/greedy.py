"""Greedy choices of the models to execute: the paper's as printed, and repaired ones.

What is wrong with the printed one (algorithms.md E.3): it stops at the first model that does not
fit, does not count the links, and does not see that two models tell the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sommelier.analysis.links.allocation import TIE, Allocation, Found, allocate, better
from sommelier.analysis.links.problem import ROUNDING, ActivationProblem, Objective
from sommelier.errors import AnalysisError

Floats = NDArray[np.float64]

LEAST_SHARE = 1e-12  # of a budget: a free model comes first, but its rate is a number
LOOKED_AT = 8  # models a step tries, those whose single links promise the most


def activation_probability(performance: ArrayLike, costs: ArrayLike) -> Floats:
    """P_i = (1 + P1_i - P2_i) / (w c_i) of each model, (k,), in [0, 1]; w = 2 / min c.

    performance : p(g_ij), (source, target), its diagonal ignored. P1 is the mean of a model's links
    to all others, P2 of all others' to it. costs : c_i > 0, (k,). Source: MLink, "Activation
    probability". Raises AnalysisError for costs that are not positive.
    """
    p, c = np.asarray(performance, dtype=np.float64), np.asarray(costs, dtype=np.float64)
    if not len(c) or not (c > 0).all():
        raise AnalysisError("the activation probability divides by the costs, which must be > 0")
    off = np.where(np.eye(len(c), dtype=bool), 0.0, p)
    others = max(len(c) - 1, 1)
    gain = 1 + off.sum(axis=1) / others - off.sum(axis=0) / others
    return np.asarray(gain / (2 / c.min() * c))


def paper_greedy(problem: ActivationProblem, objective: Objective) -> Found:
    """Algorithm 1, line 5, as printed: by activation probability until one does not fit.

    Links are not counted, so that the plan may exceed the budget. A missing link performs like the
    constant answer. With several budgets c_i is the largest share a model takes of one.
    """
    chosen: list[int] = []
    left = problem.limits * ROUNDING
    for i in _by_probability(problem, range(len(problem))):
        if not (problem.costs[i] <= left).all():
            break
        chosen.append(i)
        left = left - problem.costs[i]
    found = allocate(problem, chosen, objective, within=False)
    assert found is not None  # budgets are ignored
    return Found(found, float("nan"), len(chosen) + 1)


def greedy(problem: ActivationProblem, objective: Objective) -> Found:
    """The best of three repaired choices, links counted.

    By activation probability, leaving out what does not fit or does not help; by the objective's
    gain; by its gain for each share of the budget.
    """
    tried = [
        _in_order(problem, objective),
        _by_gain(problem, objective, np.ones(len(problem))),
        _by_gain(problem, objective, 1 / np.maximum(problem.shares, LEAST_SHARE)),
    ]
    best = tried[0][0]
    for allocation, _ in tried[1:]:
        if better(allocation, best):
            best = allocation
    return Found(best, float("nan"), sum(count for _, count in tried))


def knapsack_bound(problem: ActivationProblem, objective: Objective) -> float:
    """What no plan exceeds: every model predicted as well as any of its ensembles ever does, and
    the budgets spent on fractions of models. The least over the budgets. Cost: `ceiling` of all.
    """
    caps = np.array([_cap(problem, j, objective) for j in range(len(problem))])
    gains = np.maximum(1 - caps, 0.0)
    among = list(problem.candidates)
    bounds = [
        float(caps.sum()) + _filled(gains[among], problem.costs[among, m], limit)
        for m, limit in enumerate(problem.limits)
    ]
    return min(1.0, min(bounds) / len(problem))


def _by_probability(problem: ActivationProblem, among: Sequence[int]) -> list[int]:
    """Models in falling order of activation probability; a free one comes first."""
    at = [i for i in among if np.isfinite(problem.shares[i])]
    if not at:
        return []
    shares = np.maximum(problem.shares[at], LEAST_SHARE)
    known = activation_probability(problem.singles[np.ix_(at, at)], shares)
    return [at[position] for position in np.argsort(-known, kind="stable")]


def _in_order(problem: ActivationProblem, objective: Objective) -> tuple[Allocation, int]:
    best = _start(problem, objective)
    order = _by_probability(problem, problem.candidates)
    for i in order:
        found = allocate(problem, (*best.activated, i), objective)
        if found is not None and found.value > best.value + TIE:
            best = found
    return best, len(order) + 1


def _by_gain(
    problem: ActivationProblem, objective: Objective, rate: Floats
) -> tuple[Allocation, int]:
    """Adds the model whose gain times its rate (models,) is largest, while there is a gain."""
    best, considered = _start(problem, objective), 1
    while True:
        tried: list[tuple[float, Allocation]] = []
        for i in _promising(problem, best, objective, rate):
            found = allocate(problem, (*best.activated, i), objective)
            considered += 1
            if found is not None and found.value > best.value + TIE:
                tried.append(((found.value - best.value) * float(rate[i]), found))
        if not tried:
            return best, considered
        best = max(tried, key=lambda one: one[0])[1]


def _promising(
    problem: ActivationProblem,
    best: Allocation,
    objective: Objective,
    rate: Floats,
) -> list[int]:
    """The models that would gain most if the best single link spoke for an ensemble."""
    chosen = list(best.activated)
    spent = problem.costs[chosen].sum(axis=0)
    open_ = [
        i
        for i in problem.candidates
        if i not in best.activated and (spent + problem.costs[i] <= problem.limits * ROUNDING).all()
    ]
    worths = _worths(problem, objective)
    reached = (
        worths[chosen].max(axis=0) if chosen else _worth_of(problem, problem.constants, objective)
    )
    reached[chosen] = 1.0
    gains = np.maximum(worths[open_] - reached, 0.0)
    gains[np.arange(len(open_)), open_] = 1 - reached[open_]
    merits = gains.sum(axis=1) * rate[open_]
    return [open_[at] for at in np.argsort(-merits, kind="stable")[:LOOKED_AT]]


def _worths(problem: ActivationProblem, objective: Objective) -> Floats:
    best = np.where(
        problem.linked, np.maximum(problem.singles, problem.constants), problem.constants
    )
    return np.array([_worth_of(problem, row, objective) for row in best])


def _worth_of(problem: ActivationProblem, row: Floats, objective: Objective) -> Floats:
    return np.array([problem.worth(float(p), j, objective) for j, p in enumerate(row)])


def _start(problem: ActivationProblem, objective: Objective) -> Allocation:
    found = allocate(problem, (), objective)
    assert found is not None  # nothing fits every budget
    return found


def _cap(problem: ActivationProblem, j: int, objective: Objective) -> float:
    predictor = problem.predictors[j]
    return problem.worth(0.0 if predictor is None else predictor.ceiling(), j, objective)


def _filled(gains: Floats, costs: Floats, limit: float) -> float:
    """The fractional knapsack: most valuable per cost first, the last one cut."""
    order = np.argsort(-gains / np.maximum(costs, 1e-300), kind="stable")
    before = np.concatenate([[0.0], np.cumsum(costs[order])[:-1]]) if len(order) else np.zeros(0)
    room = np.clip(limit * ROUNDING - before, 0.0, None)
    part = np.divide(room, costs[order], out=np.ones_like(room), where=costs[order] > 0)
    return float((gains[order] * np.minimum(part, 1.0)).sum())
