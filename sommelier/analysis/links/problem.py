"""Which models to execute and which to predict under budgets: the question, in numbers.

Equation (1) of the MLink paper with several budgets at once: a plan executes a set A of models and
predicts every other one by the ensemble of its links from A; where those links cost more than is
left, by one of them or by its constant answer. Source: algorithms.md E.3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.links.scoring import Score, skill
from sommelier.errors import AnalysisError
from sommelier.metrics import METRICS
from sommelier.units import format_value

Floats = NDArray[np.float64]
Objective = Literal["accuracy", "skill"]
OBJECTIVES: tuple[Objective, ...] = ("accuracy", "skill")

ROUNDING = 1 + 1e-12  # a sum of costs may exceed a budget that equals it by this factor


class Predictor(Protocol):
    """What selection asks of the links to one target; LinkEnsemble is one."""

    @property
    def sources(self) -> tuple[str, ...]: ...
    @property
    def stackable(self) -> tuple[str, ...]: ...
    @property
    def constant(self) -> float: ...
    @property
    def heads(self) -> int: ...
    def single(self, source: str) -> float: ...
    def performance(self, subset: Iterable[str]) -> float: ...
    def used(self, subset: Iterable[str]) -> tuple[str, ...]: ...
    def ceiling(self) -> float: ...
    def score(self, subset: Iterable[str], *, candidates: int | None = None) -> Score | None: ...


@dataclass(frozen=True, slots=True)
class BestLink:
    """A Predictor of which only single links are known: the best one speaks for a subset.

    The dominance case of the paper. singles : held-out performance by source.
    """

    singles: Mapping[str, float]
    constant: float

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(sorted(self.singles))

    @property
    def stackable(self) -> tuple[str, ...]:
        return ()

    @property
    def heads(self) -> int:
        return 1 + len(self.singles)

    def single(self, source: str) -> float:
        return self.singles[source]

    def performance(self, subset: Iterable[str]) -> float:
        return max([self.constant, *(self.singles[name] for name in subset)])

    def used(self, subset: Iterable[str]) -> tuple[str, ...]:
        best = max(sorted(subset), key=self.singles.__getitem__, default=None)
        return () if best is None or self.singles[best] <= self.constant else (best,)

    def ceiling(self) -> float:
        return self.performance(self.singles)

    def score(self, subset: Iterable[str], *, candidates: int | None = None) -> None:
        del subset, candidates  # no samples, no interval


@dataclass(frozen=True)
class ActivationProblem:
    """Models, what they and their links cost, and the budgets.

    predictors : by model, the links to it, or None where it can only be executed. costs : (models,
    metrics), link_costs : (source, target, metrics), both in base units, NaN where unknown: such a
    model is not executed, such a link not run. budgets : by metric, in the order of the columns.
    Raises AnalysisError for shapes that do not fit, and for budgets below any plan's cost.
    """

    names: tuple[str, ...]
    predictors: tuple[Predictor | None, ...]
    costs: Floats
    link_costs: Floats
    budgets: Mapping[str, float]
    notes: tuple[str, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        _check_shapes(self)
        _check_budgets(self)
        object.__setattr__(self, "notes", tuple(_notes(self)))

    @classmethod
    def of(
        cls,
        predictors: Mapping[str, Predictor | None],
        costs: Mapping[str, Mapping[str, float]],
        link_costs: Mapping[tuple[str, str], Mapping[str, float]],
        budgets: Mapping[str, float],
    ) -> ActivationProblem:
        """The problem of models given by name.

        costs : model to metric to amount. link_costs : (source, target) to metric to amount. What
        is missing there is unknown.
        """
        names, metrics = tuple(predictors), tuple(budgets)
        unknown: Mapping[str, float] = {}
        return cls(
            names,
            tuple(predictors.values()),
            _table([costs.get(n, unknown) for n in names], metrics),
            np.array(
                [_table([link_costs.get((a, b), unknown) for b in names], metrics) for a in names]
            ),
            dict(budgets),
        )

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """Where each model stands in `names`."""
        return {name: i for i, name in enumerate(self.names)}

    @cached_property
    def limits(self) -> Floats:
        """The budgets, (metrics,)."""
        return np.array(list(self.budgets.values()), dtype=np.float64)

    @cached_property
    def candidates(self) -> tuple[int, ...]:
        """Positions of the models that fit the budgets on their own."""
        fits = (self.costs <= self.limits * ROUNDING).all(axis=1)  # NaN does not
        return tuple(int(i) for i in np.flatnonzero(fits))

    @cached_property
    def linked(self) -> NDArray[np.bool_]:
        """(source, target): a link of known costs whose source fits the budgets."""
        found = np.zeros((len(self), len(self)), dtype=np.bool_)
        for j, predictor in enumerate(self.predictors):
            for i in self.candidates:
                found[i, j] = (
                    i != j and predictor is not None and self.names[i] in predictor.sources
                )
        return np.asarray(found & np.isfinite(self.link_costs).all(axis=2))

    @cached_property
    def constants(self) -> Floats:
        """Performance (models,) of each model's constant answer; 0 where it gives no answer."""
        return np.array([0.0 if p is None else p.constant for p in self.predictors])

    @cached_property
    def stackable(self) -> tuple[frozenset[int], ...]:
        """By target, the models whose usable links are combined."""
        found = []
        for j, predictor in enumerate(self.predictors):
            names = () if predictor is None else predictor.stackable
            at = (self.positions[name] for name in names if name in self.positions)
            found.append(frozenset(i for i in at if self.linked[i, j]))
        return tuple(found)

    @cached_property
    def singles(self) -> Floats:
        """Performance (source, target) of each link, usable or not; without one the constant's."""
        found = np.tile(self.constants, (len(self), 1))
        for j, predictor in enumerate(self.predictors):
            for source in () if predictor is None else predictor.sources:
                if predictor is not None and source in self.positions:
                    found[self.positions[source], j] = predictor.single(source)
        return found

    @cached_property
    def shares(self) -> Floats:
        """What executing a model takes of the budget it takes most of, (models,)."""
        of = np.divide(
            self.costs, self.limits, out=np.zeros_like(self.costs), where=self.limits > 0
        )
        return np.asarray(of.max(axis=1))

    @property
    def total(self) -> Floats:
        """What executing every model costs, (metrics,); NaN where one is unknown."""
        return np.asarray(self.costs.sum(axis=0))

    @property
    def statements(self) -> int:
        """How many heads plans are composed of; an interval of any plan is corrected for all."""
        return sum(p.heads for p in self.predictors if p is not None)

    def performance(self, sources: Sequence[int], target: int) -> float:
        """Held-out performance of the target's ensemble of links from exactly these models."""
        if self.predictors[target] is None:
            return 0.0
        return self._predictor(target).performance(self.names[i] for i in sources)

    def used(self, sources: Sequence[int], target: int) -> tuple[int, ...]:
        """The models whose links that ensemble runs."""
        if not sources:
            return ()
        names = self._predictor(target).used(self.names[i] for i in sources)
        return tuple(sorted(self.positions[name] for name in names))

    def worth(self, performance: float, target: int, objective: Objective) -> float:
        """What an answer of this performance counts, 1 being the model's own.

        Skill of a target that always answers the same: there is nothing to gain or to lose, 1.
        """
        if objective == "accuracy":
            return performance
        found = skill(performance, float(self.constants[target]))
        return 1.0 if math.isnan(found) else found

    def _predictor(self, target: int) -> Predictor:
        found = self.predictors[target]
        if found is None:
            raise AnalysisError(f"there is no link to {self.names[target]}")
        return found


def amount(metric: str, value: float) -> str:
    """A cost as a person writes it, with the metric's name."""
    known = METRICS.get(metric)
    text = f"{value:g}" if known is None else format_value(value, known.dimension)
    return f"{metric} {text}"


def _table(rows: Sequence[Mapping[str, float]], metrics: Sequence[str]) -> Floats:
    found = [[_number(row.get(metric)) for metric in metrics] for row in rows]
    return np.array(found, dtype=np.float64).reshape(len(rows), len(metrics))


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _check_shapes(problem: ActivationProblem) -> None:
    k, m = len(problem.names), len(problem.budgets)
    shapes = len(problem.predictors), problem.costs.shape, problem.link_costs.shape
    if not k or not m or shapes != (k, (k, m), (k, k, m)):
        raise AnalysisError(
            f"{k} models and {m} budgets, but {shapes[0]} predictors, costs of shape {shapes[1]} "
            f"and link costs of shape {shapes[2]}",
            hint="give at least one model and one budget: (models, metrics), (models, models, "
            "metrics)",
        )
    if len(set(problem.names)) < k:
        raise AnalysisError("two models of one name in a plan", hint="name each model once")
    if (problem.costs < 0).any() or (problem.link_costs < 0).any():
        raise AnalysisError("a cost below 0 is no cost")


def _check_budgets(problem: ActivationProblem) -> None:
    wrong = [m for m, value in problem.budgets.items() if not value >= 0]
    if wrong:
        raise AnalysisError(
            f"no plan fits {amount(wrong[0], problem.budgets[wrong[0]])}: {_cheapest(problem)}",
            hint="a budget is an amount of 0 or more",
        )
    if not problem.candidates and all(p is None for p in problem.predictors):
        raise AnalysisError(
            f"no model fits {_asked(problem)} and no link exists: {_cheapest(problem)}",
            hint="raise the budget",
        )


def _notes(problem: ActivationProblem) -> Iterable[str]:
    """What the plan leaves out, and why."""
    metrics = list(problem.budgets)
    for name, row in zip(problem.names, problem.costs, strict=True):
        unknown = [m for m, value in zip(metrics, row, strict=True) if np.isnan(value)]
        if unknown:
            yield f"{name} is not executed: its {' and '.join(unknown)} is unknown"
    for j, predictor in enumerate(problem.predictors):
        for source in () if predictor is None else predictor.sources:
            if source not in problem.positions:
                continue
            row = problem.link_costs[problem.positions[source], j]
            unknown = [m for m, value in zip(metrics, row, strict=True) if np.isnan(value)]
            if unknown:
                yield (
                    f"the link from {source} to {problem.names[j]} is left out: its "
                    f"{' and '.join(unknown)} is unknown"
                )
    if not problem.candidates:
        yield (
            f"useless: no model fits {_asked(problem)}, every answer is a constant; "
            f"{_cheapest(problem)}"
        )


def _asked(problem: ActivationProblem) -> str:
    return " and ".join(amount(metric, value) for metric, value in problem.budgets.items())


def _cheapest(problem: ActivationProblem) -> str:
    """The model that comes nearest to fitting, and what it costs."""
    known = np.flatnonzero(np.isfinite(problem.costs).all(axis=1))
    if not len(known):
        return "the cost of no model is known"
    limits = np.array([max(value, 0.0) or 0.0 for value in problem.budgets.values()])
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = np.nan_to_num(problem.costs[known] / limits, nan=0.0, posinf=np.inf).max(axis=1)
    nearest = known[np.lexsort((problem.costs[known].sum(axis=1), excess))[0]]
    costs = [
        amount(metric, value)
        for metric, value in zip(problem.budgets, problem.costs[nearest], strict=True)
    ]
    return f"the cheapest, {problem.names[nearest]}, needs {' and '.join(costs)}"
