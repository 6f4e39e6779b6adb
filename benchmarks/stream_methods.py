"""Ways to answer a stream within a budget; each gives an Outcome on all but the first period.

Standalone, the best set without links, frame filtering, the MLink paper's greedy choice as printed,
and what Sommelier does: the exact optimum over ridge ensembles, kept until a drift test asks for
another. Frames on which every model runs, to look at the present, count as executions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.stream_links import LinkedStream, Plan
from benchmarks.streams import Rows
from sommelier.analysis.links.drift import DriftTest
from sommelier.analysis.links.ensemble import LinkEnsemble
from sommelier.analysis.links.ensemble_training import TrainedWeights, paper_weights
from sommelier.analysis.links.heads import Head
from sommelier.analysis.links.problem import ActivationProblem, BestLink, Predictor
from sommelier.analysis.links.selection import Method, Selection, select

Array = NDArray[Any]

PROFILE = 0.01  # of the frames run through all models (MLink, "Periodic re-selection")
EVERY = round(1 / PROFILE)  # frames from one that the drift test sees to the next
FRESH, APART = 50, 4  # frames looked at before another choice, and from one of them to the next
ALPHA = 0.05  # of a false alarm


@dataclass(frozen=True, slots=True)
class Budget:
    """At most `share` of what executing all models costs in the metric."""

    metric: str
    share: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """agreement, executed : by frame and model, (n, models). plans : each with the frames it
    answered. choices : made after the first. looking_ms : what a filter takes on each frame."""

    method: str
    agreement: Array
    executed: Array
    plans: Sequence[tuple[Plan, int]]
    choices: int = 0
    looking_ms: float = 0.0

    @property
    def accuracy(self) -> float:
        """The mean over models and frames; 1 for an executed model."""
        return float(self.agreement.mean())

    @property
    def executions(self) -> float:
        """The share of all executions."""
        return float(self.executed.mean())


class Methods:
    """All of them on one stream. Ensembles are made once, whatever the budget: as learned, and as
    judged in each period."""

    def __init__(self, linked: LinkedStream) -> None:
        self.linked = linked
        self.everything = Plan(linked.names, {})
        self._judged: dict[bytes, dict[str, LinkEnsemble]] = {}

    def of(self, budget: Budget) -> Iterator[Outcome]:
        """What every method makes of this budget."""
        yield self.standalone(budget)
        yield self.without_links(budget)
        yield self.paper(budget)
        yield self.paper(budget, ridge=True)
        yield self.static("greedy, once", budget, "greedy")
        yield self.static("exact, once", budget, "exact")
        yield self.watched(budget)
        yield self.each_period("exact, by 1 % of each period", budget, _beginning)
        yield self.each_period("optimum: exact, knowing each period", budget, None)

    @cached_property
    def first(self) -> dict[str, LinkEnsemble]:
        return self.linked.ensembles()

    def judged(self, rows: Rows) -> dict[str, LinkEnsemble]:
        """The ensembles judged on these rows."""
        key = rows.tobytes()
        if key not in self._judged:
            self._judged[key] = self.linked.ensembles(rows)
        return self._judged[key]

    @cached_property
    def weights(self) -> dict[str, TrainedWeights]:
        """The paper's ensembles, of targets with links."""
        linked = self.linked
        return {
            target: paper_weights(linked.answers[target], several, linked.rows)
            for target, several in linked.predicted.items()
            if several
        }

    def all(self) -> Outcome:
        return self._outcome("all models", [(self.linked.later, self.everything)])

    def standalone(self, budget: Budget) -> Outcome:
        """The cheapest models first; the others give no answer."""
        chosen: list[str] = []
        metric, limit = budget.metric, budget.share * self.linked.total(budget.metric)
        for name in sorted(self.linked.names, key=lambda n: self.linked.costs[n][metric]):
            if self.linked.total(metric, [*chosen, name]) <= limit:
                chosen.append(name)
        plan = Plan(tuple(chosen), {})
        return self._outcome("standalone, cheapest first", [(self.linked.later, plan)])

    def without_links(self, budget: Budget) -> Outcome:
        """The best set where every other model is answered by its most frequent answer."""
        known = {name: BestLink({}, one.constant) for name, one in self.first.items()}
        chosen = select(self._problem(known, budget), method="exact")
        plan = self._plan(chosen.activated, {}, self.first)
        return self._outcome("best set without links", [(self.linked.later, plan)])

    def paper(self, budget: Budget, *, ridge: bool = False) -> Outcome:
        """Algorithm 1: models by activation probability, measured on the first 1 % of a period.

        Predicted by the paper's ensembles, or with `ridge` by those of closed form.
        """
        parts, seen = [], []
        for rows in self._periods():
            profile = _beginning(rows)
            plan = self._printed(profile, budget, ridge)
            seen.append(profile)
            parts.append((np.setdiff1d(rows, profile), plan))
        name = "MLink's greedy, ridge ensembles" if ridge else "MLink's greedy, its ensembles"
        return self._outcome(name, parts, np.concatenate(seen), len(parts) - 1)

    def static(self, name: str, budget: Budget, method: Method) -> Outcome:
        """One choice, by the held-out samples of the first period."""
        plan = self._planned(self._chosen(self.first, budget, method), self.first)
        return self._outcome(name, [(self.linked.later, plan)])

    def each_period(
        self, name: str, budget: Budget, seen: Callable[[Rows], Rows] | None
    ) -> Outcome:
        """The optimum by what ensembles are worth on `seen` rows of each period; None: on all of
        them, as nobody can know, so that nothing is run for it."""
        parts, looked = [], [np.empty(0, dtype=np.int64)]
        for rows in self._periods():
            profile = rows if seen is None else seen(rows)
            ensembles = self.judged(profile)
            plan = self._planned(self._chosen(ensembles, budget, "exact"), ensembles)
            looked.extend([] if seen is None else [profile])
            parts.append((rows if seen is None else np.setdiff1d(rows, profile), plan))
        return self._outcome(name, parts, np.concatenate(looked), len(parts) - 1)

    def watched(self, budget: Budget) -> Outcome:
        """The product's: the best choice of `select`, tested for drift on every 100th frame.

        At an alarm FRESH frames are looked at, and the choice made again by these.
        """
        ensembles, choices = self.first, 0
        chosen = self._chosen(ensembles, budget, "auto")
        plan, test = self._planned(chosen, ensembles), DriftTest(chosen.low, alpha=ALPHA)
        parts: list[tuple[list[int], Plan]] = [([], plan)]
        looked: list[int] = []
        fresh: list[int] | None = None
        for place, row in enumerate(self.linked.later.tolist()):
            if place % (EVERY if fresh is None else APART):
                parts[-1][0].append(row)
                continue
            looked.append(row)
            if fresh is None:
                score = self.linked.agreement(plan, np.array([row])).mean()
                fresh = [] if test.update(score).verdict == "reselect" else None
                continue
            fresh.append(row)
            if len(fresh) == FRESH:
                ensembles = self.judged(np.array(fresh))
                chosen = self._chosen(ensembles, budget, "auto")
                plan, test = self._planned(chosen, ensembles), DriftTest(chosen.low, alpha=ALPHA)
                parts.append(([], plan))
                choices, fresh = choices + 1, None
        rows = [(np.array(found, dtype=np.int64), used) for found, used in parts]
        return self._outcome("default: exact, drift test", rows, np.array(looked), choices)

    def promised(self, budget: Budget) -> Selection:
        """What the product says of its choice."""
        return self._chosen(self.first, budget, "auto")

    def _periods(self) -> Iterator[Rows]:
        period = self.linked.stream.period
        return (np.flatnonzero(period == now) for now in range(1, period.max() + 1))

    def _chosen(
        self, ensembles: Mapping[str, LinkEnsemble], budget: Budget, method: Method
    ) -> Selection:
        return select(self._problem(ensembles, budget), method=method)

    def _problem(self, predictors: Mapping[str, Predictor], budget: Budget) -> ActivationProblem:
        limit = budget.share * self.linked.total(budget.metric)
        known = self.linked
        return ActivationProblem.of(
            predictors, known.costs, known.link_costs, {budget.metric: limit}
        )

    def _planned(self, chosen: Selection, ensembles: Mapping[str, LinkEnsemble]) -> Plan:
        return self._plan(chosen.activated, chosen.sources, ensembles)

    def _plan(
        self,
        executed: tuple[str, ...],
        sources: Mapping[str, tuple[str, ...]],
        ensembles: Mapping[str, LinkEnsemble],
    ) -> Plan:
        heads = {
            name: ensembles[name].head(sources.get(name, ()))
            for name in self.linked.names
            if name not in executed
        }
        return Plan(executed, heads)

    def _printed(self, profile: Rows, budget: Budget, ridge: bool) -> Plan:
        linked = self.linked
        own = {name: a.values[profile].argmax(axis=1) for name, a in linked.answers.items()}
        singles = {
            target: {
                source: float((values[profile].argmax(axis=1) == own[target]).mean())
                for source, values in several.items()
            }
            for target, several in linked.predicted.items()
        }
        known = {t: BestLink(singles[t], self.first[t].constant) for t in linked.names}
        executed = select(self._problem(known, budget), method="paper greedy").activated
        heads = {t: self._printed_head(t, executed, ridge) for t in linked.names}
        return Plan(executed, {t: head for t, head in heads.items() if t not in executed})

    def _printed_head(self, target: str, executed: Sequence[str], ridge: bool) -> Head:
        sources = [name for name in executed if name in self.linked.predicted[target]]
        if ridge or not sources:
            return self.first[target].head(sources)
        return self.weights[target].head(sources)

    def _outcome(
        self,
        name: str,
        parts: Sequence[tuple[Rows, Plan]],
        looked: Rows | None = None,
        choices: int = 0,
    ) -> Outcome:
        later, names = self.linked.later, self.linked.names
        agreement, executed = np.ones((2, len(later), len(names)))
        for rows, plan in parts:
            at = np.searchsorted(later, rows)
            agreement[at] = self.linked.agreement(plan, rows)
            executed[at] = [model in plan.executed for model in names]
        plans = [(plan, len(rows)) for rows, plan in parts]
        if looked is not None:
            plans.append((self.everything, len(looked)))
        return Outcome(name, agreement, executed, plans, choices)


def _beginning(rows: Rows) -> Rows:
    """The first 1 % of a period."""
    return rows[: max(1, round(PROFILE * len(rows)))]
