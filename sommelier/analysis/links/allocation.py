"""What a set of executed models is worth: each other model's best ensemble that is affordable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.links.problem import ROUNDING, ActivationProblem, Objective

Floats = NDArray[np.float64]

TIE = 1e-12  # values this close are equal
MAX_LABELS = 5000  # partial choices kept at once where links compete for a budget


@dataclass(frozen=True, slots=True)
class Option:
    """One way to predict a model: from `sources`, at a cost (metrics,)."""

    worth: float
    cost: Floats
    sources: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Allocation:
    """A plan: models executed, and for each model the sources it is predicted from.

    sources : by model; empty for executed ones and for constant answers. value : the objective, the
    mean over models. bound : nothing that executes the same models exceeds it. cost : (metrics,).
    """

    activated: tuple[int, ...]
    sources: tuple[tuple[int, ...], ...]
    value: float
    bound: float
    cost: Floats


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found. upper : no plan exceeds it; NaN where the search proves nothing.

    considered : how many sets of executed models it compared.
    """

    best: Allocation
    upper: float
    considered: int


def allocate(
    problem: ActivationProblem,
    activated: Sequence[int],
    objective: Objective,
    *,
    within: bool = True,
    above: float = -np.inf,
) -> Allocation | None:
    """The best plan that executes these models; None when they do not fit the budgets, or when no
    such plan is worth `above`.

    Each other model takes the ensemble of all its usable links from them. Only where that exceeds a
    budget do links compete: then each model takes that ensemble, one link or its constant answer,
    in the best way of all (exact unless more than MAX_LABELS partial ones are incomparable).
    within False: budgets are ignored, as the paper's greedy choice ignores links.
    """
    chosen = tuple(sorted(activated))
    base = problem.costs[list(chosen)].sum(axis=0)
    if within and not fits(problem, base):
        return None
    others = [j for j in range(len(problem)) if j not in set(chosen)]
    wanted = [_full(problem, chosen, j, objective) for j in others]
    cost = base + sum((option.cost for option in wanted), np.zeros_like(base))
    value = (len(chosen) + sum(option.worth for option in wanted)) / len(problem)
    if value < above:
        return None
    if not within or fits(problem, cost):
        return _allocation(problem, chosen, dict(zip(others, wanted, strict=True)), value)
    options = [
        _undominated([full, *_smaller(problem, chosen, j, objective)])
        for j, full in zip(others, wanted, strict=True)
    ]
    picked, exact = _affordable(problem, base, options)
    found = _allocation(problem, chosen, dict(zip(others, picked, strict=True)), value)
    if exact:
        return Allocation(found.activated, found.sources, found.value, found.value, found.cost)
    return found


def better(one: Allocation, other: Allocation | None) -> bool:
    """Whether one plan is worth more, or as much at a lower cost."""
    if other is None or abs(one.value - other.value) > TIE:
        return other is None or one.value > other.value
    return float(one.cost.sum()) < float(other.cost.sum())


def fits(problem: ActivationProblem, cost: Floats) -> bool:
    """Whether a cost (metrics,) is within every budget."""
    return bool((cost <= problem.limits * ROUNDING).all())


def _full(
    problem: ActivationProblem, chosen: tuple[int, ...], j: int, objective: Objective
) -> Option:
    """The ensemble of all usable links from the chosen models."""
    usable = [i for i in chosen if problem.linked[i, j]]
    return _option(problem, usable, j, objective)


def _smaller(
    problem: ActivationProblem, chosen: tuple[int, ...], j: int, objective: Objective
) -> list[Option]:
    stacked = [i for i in chosen if i in problem.stackable[j]]
    singles = ([i] for i in chosen if problem.linked[i, j])
    return [_option(problem, one, j, objective) for one in ([], *singles, stacked)]


def _option(
    problem: ActivationProblem, sources: Sequence[int], j: int, objective: Objective
) -> Option:
    used = problem.used(sources, j)
    worth = problem.worth(problem.performance(sources, j), j, objective)
    return Option(worth, problem.link_costs[list(used), j].sum(axis=0), used)


def _undominated(options: list[Option]) -> list[Option]:
    """Those that no other option beats in worth at no higher cost."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda o: (-o.worth, float(o.cost.sum()))):
        if not any((other.cost <= option.cost).all() for other in kept):
            kept.append(option)
    return kept


def _affordable(
    problem: ActivationProblem, base: Floats, options: list[list[Option]]
) -> tuple[list[Option], bool]:
    """The best affordable choice of one option for each model, and whether it is surely the best.

    Partial choices (labels) grow model by model; those that no completion can afford or that
    another one dominates are dropped.
    """
    worths, costs = np.zeros(1), base[None].copy()
    parents: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []
    exact = True
    for several in options:
        worth = np.add.outer(worths, [o.worth for o in several])
        cost = costs[:, None] + np.array([o.cost for o in several])[None]
        possible = (cost <= problem.limits * ROUNDING).all(axis=2)
        label, option = np.nonzero(possible)
        worth, cost = worth[label, option], cost[label, option]
        kept = _front(worth, cost)
        if len(kept) > MAX_LABELS:
            kept, exact = kept[:MAX_LABELS], False
        worths, costs = worth[kept], cost[kept]
        parents.append((label[kept], option[kept]))
    at, picked = int(np.argmax(worths)), []
    for several, (label, option) in zip(reversed(options), reversed(parents), strict=True):
        picked.append(several[int(option[at])])
        at = int(label[at])
    return picked[::-1], exact


def _front(worth: Floats, cost: Floats) -> NDArray[np.intp]:
    """Positions of undominated labels, the most worthy first. worth (labels,), cost (labels, m)."""
    order = np.lexsort((cost.sum(axis=1), -worth))
    if cost.shape[1] == 1:
        sums = cost[order, 0]
        least = np.minimum.accumulate(np.r_[np.inf, sums[:-1]])
        return np.asarray(order[sums < least], dtype=np.intp)
    kept: list[int] = []
    costs = np.empty((0, cost.shape[1]))
    for position in order:
        if not (costs <= cost[position]).all(axis=1).any():
            kept.append(int(position))
            costs = np.vstack([costs, cost[position]])
        if len(kept) > MAX_LABELS:
            break
    return np.array(kept, dtype=np.intp)


def _allocation(
    problem: ActivationProblem, chosen: tuple[int, ...], options: dict[int, Option], bound: float
) -> Allocation:
    sources = tuple(options[j].sources if j in options else () for j in range(len(problem)))
    cost = problem.costs[list(chosen)].sum(axis=0)
    cost = cost + sum((option.cost for option in options.values()), np.zeros_like(cost))
    value = (len(chosen) + sum(option.worth for option in options.values())) / len(problem)
    return Allocation(chosen, sources, value, bound, cost)
