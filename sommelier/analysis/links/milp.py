"""The best plan of up to 80 models by mixed-integer linear programming (HiGHS through scipy).

Every way to predict a model is a column: its constant answer, each single link, and each
combination of the few links that are combined, which is open only to the set of executed models
that has exactly those of them. So the program is the whole question and its optimum that of
`exact`; where only single links are known it is the dominance surrogate of algorithms.md E.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.links.allocation import Found, allocate
from sommelier.analysis.links.greedy import greedy, knapsack_bound
from sommelier.analysis.links.problem import ROUNDING, ActivationProblem, Objective

Floats = NDArray[np.float64]

MOST = 80
SECONDS = 20.0
GAP = 1e-6  # relative; the bound that comes back accounts for it
NEAR = 2e-6  # of the bound: as good as optimal


@dataclass(frozen=True, slots=True)
class Column:
    """One way to predict a model. exact : open only when no other stackable source is executed."""

    target: int
    sources: tuple[int, ...]
    used: tuple[int, ...]
    worth: float
    exact: bool


def milp(problem: ActivationProblem, objective: Objective, *, seconds: float = SECONDS) -> Found:
    """The best plan found, and a bound of any: the solver's own, or `knapsack_bound`.

    The ways to predict may first be mixed in fractions, which is twice as fast and as a rule
    changes nothing; where links compete for a budget it does, and the whole program is solved. Each
    takes `seconds` at most; then `upper` may exceed the value, and a greedy plan may be the best.
    """
    columns = [column for j in range(len(problem)) for column in _columns(problem, j, objective)]
    mixed = _solved(problem, objective, columns, seconds=seconds, whole=False)
    if mixed is not None and mixed.upper - mixed.best.value <= NEAR:
        return mixed
    whole = _solved(problem, objective, columns, seconds=seconds, whole=True)
    found = [one for one in (mixed, whole) if one is not None]
    uppers = [one.upper for one in found] or [knapsack_bound(problem, objective)]
    if whole is None or whole.upper - whole.best.value > NEAR:
        found.append(greedy(problem, objective))
    best = max((one.best for one in found), key=lambda plan: plan.value)
    return Found(best, max(best.value, min(uppers)), sum(one.considered for one in found))


def _solved(
    problem: ActivationProblem,
    objective: Objective,
    columns: list[Column],
    *,
    seconds: float,
    whole: bool,
) -> Found | None:
    """The plan and the bound of one program; None when the solver comes to no plan in time."""
    from scipy.optimize import Bounds
    from scipy.optimize import milp as solve

    k, size = len(problem), len(problem) + len(columns)
    top = np.ones(size)
    top[[i for i in range(k) if i not in problem.candidates]] = 0.0
    found: Any = solve(
        -np.concatenate([np.ones(k), [column.worth for column in columns]]),
        constraints=_constraints(problem, columns),
        integrality=np.repeat(np.array([1, int(whole)], dtype=np.int8), [k, len(columns)]),
        bounds=Bounds(0, top),
        options={"time_limit": seconds, "mip_rel_gap": GAP},
    )
    if found.x is None:
        return None
    best = allocate(problem, [int(i) for i in np.flatnonzero(found.x[:k] > 0.5)], objective)
    if best is None:  # a budget exceeded by the solver's tolerance
        return None
    upper = max(best.value, -float(found.mip_dual_bound) / k)
    return Found(best, upper, max(1, int(found.mip_node_count or 0)))


def _columns(problem: ActivationProblem, j: int, objective: Objective) -> Iterator[Column]:
    """Every way to predict model j that may be worth its cost."""
    constant = problem.worth(problem.performance((), j), j, objective)
    yield Column(j, (), (), constant, False)
    linked = [i for i in problem.candidates if problem.linked[i, j]]
    for i in linked:
        worth = problem.worth(problem.performance((i,), j), j, objective)
        if worth > constant:
            yield Column(j, (i,), (i,), worth, False)
    for sources in _combinations(problem, linked, j):
        used = problem.used(sources, j)
        if len(used) > 1:  # otherwise one of the columns above says it
            worth = problem.worth(problem.performance(sources, j), j, objective)
            yield Column(j, sources, used, worth, True)


def _combinations(
    problem: ActivationProblem, linked: list[int], j: int
) -> Iterator[tuple[int, ...]]:
    """Sets of two or more stackable sources of model j that fit the budgets together."""
    among = [i for i in linked if i in problem.stackable[j]]
    for size in range(2, len(among) + 1):
        for sources in combinations(among, size):
            if (problem.costs[list(sources)].sum(axis=0) <= problem.limits * ROUNDING).all():
                yield sources


def _constraints(problem: ActivationProblem, columns: list[Column]) -> Any:
    """Rows of the program; variables are the k models, then the columns."""
    from scipy.optimize import LinearConstraint
    from scipy.sparse import coo_array

    rows = _Rows()
    k = len(problem)
    for j in range(k):  # a model is executed or predicted in one way
        rows.add(
            [(j, 1.0), *((k + c, 1.0) for c, at in enumerate(columns) if at.target == j)], 1, 1
        )
    using: dict[tuple[int, int], list[int]] = {}
    for c, column in enumerate(columns):
        for i in column.sources:
            using.setdefault((i, column.target), []).append(c)
    for (i, _), several in using.items():  # from executed models only
        rows.add([(i, -1.0), *((k + c, 1.0) for c in several)], -np.inf, 0)
    for i, several in _closed(problem, columns):  # and from all of those that are combined
        rows.add([(i, 1.0), *((k + c, 1.0) for c in several)], -np.inf, 1)
    for m, limit in enumerate(problem.limits):
        own = [(i, float(problem.costs[i, m])) for i in problem.candidates]
        links = (
            (k + c, float(problem.link_costs[list(at.used), at.target, m].sum()))
            for c, at in enumerate(columns)
        )
        rows.add([*own, *(entry for entry in links if entry[1])], -np.inf, float(limit))
    shape = (len(rows.low), k + len(columns))
    matrix = coo_array((rows.values, (rows.rows, rows.columns)), shape=shape).tocsr()
    return LinearConstraint(matrix, np.array(rows.low), np.array(rows.high))


def _closed(problem: ActivationProblem, columns: list[Column]) -> Iterator[tuple[int, list[int]]]:
    """For each model and stackable source of it: the combinations closed once it is executed."""
    by_target: dict[int, list[int]] = {}
    for c, column in enumerate(columns):
        if column.exact:
            by_target.setdefault(column.target, []).append(c)
    for j, several in by_target.items():
        for i in sorted(problem.stackable[j]):
            without = [c for c in several if i not in columns[c].sources]
            if without:
                yield i, without


class _Rows:
    """A sparse matrix in the making, with the limits of its rows."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.columns: list[int] = []
        self.values: list[float] = []
        self.low: list[float] = []
        self.high: list[float] = []

    def add(self, entries: list[tuple[int, float]], low: float, high: float) -> None:
        self.rows.extend([len(self.low)] * len(entries))
        self.columns.extend(at for at, _ in entries)
        self.values.extend(value for _, value in entries)
        self.low.append(low)
        self.high.append(high)
