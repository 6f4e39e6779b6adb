"""The best plan of all, by looking at every set of models that fits the budgets.

With k models there are up to 2^k sets: 4 096 of 12, a few seconds with real ensembles. Source:
algorithms.md E.3.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.links.allocation import TIE, Allocation, Found, allocate, better, fits
from sommelier.analysis.links.problem import ActivationProblem, Objective

Floats = NDArray[np.float64]

MOST = 12  # models that fit the budgets on their own


def exact(problem: ActivationProblem, objective: Objective) -> Found:
    """The optimum. `upper` equals its value but in the rare case `allocate` names."""
    best: Allocation | None = None
    upper, considered = 0.0, 0
    for chosen in affordable_sets(problem):
        considered += 1
        least = -1.0 if best is None else best.value - TIE
        found = allocate(problem, chosen, objective, above=least)
        if found is None:
            continue
        upper = max(upper, found.bound)
        if better(found, best):
            best = found
    assert best is not None  # the empty set fits every budget
    return Found(best, max(upper, best.value), considered)


def affordable_sets(problem: ActivationProblem) -> Iterator[tuple[int, ...]]:
    """Every set of models whose own costs fit the budgets, the empty one first."""
    waiting: list[tuple[tuple[int, ...], int, Floats]] = [((), 0, np.zeros(len(problem.limits)))]
    while waiting:
        chosen, start, cost = waiting.pop()
        yield chosen
        for at in range(start, len(problem.candidates)):
            i = problem.candidates[at]
            more = cost + problem.costs[i]
            if fits(problem, more):
                waiting.append(((*chosen, i), at + 1, more))
