"""Thresholds of all stages at once: which stage answers, and a list from cautious to bold to test.

Source: Angelopoulos et al. 2021, "Learn then Test", split fixed-sequence testing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.bounds.betting import shown_below
from sommelier.analysis.cascades.thresholds import gain_passes
from sommelier.cascade_records import Loss
from sommelier.confidence import largest_count_upper_below

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Thresholds = tuple[float, ...]

COMBINATIONS = 2_000  # of thresholds that are looked at
MOST = 200  # thresholds of one stage

_Part = tuple[Floats, float, float, Thresholds]  # who reaches the next stage, loss, cost, so far


@dataclass(frozen=True, slots=True)
class Route:
    """The scores (n,), their names, temperatures and thresholds, of every stage but the last.

    flops : of all stages.
    """

    scores: tuple[Floats, ...] = field(repr=False)
    names: tuple[str, ...]
    temperatures: tuple[float, ...]
    thresholds: Thresholds
    flops: tuple[float | None, ...]

    @property
    def costs(self) -> tuple[float, ...]:
        """FLOPs of the stages; where some are unknown, reaching the last model is the cost."""
        if any(cost is None for cost in self.flops):
            return (*(0.0 for _ in self.scores), 1.0)
        return tuple(float(cost) for cost in self.flops if cost is not None)

    @property
    def cost(self) -> float:
        """The mean cost of an input with these thresholds."""
        return float(np.cumsum(self.costs)[answering(self.scores, self.thresholds)].mean())


def answering(scores: Sequence[Floats], thresholds: Sequence[float]) -> Indices:
    """The stage (n,) that answers each input: the first whose score reaches its threshold."""
    stage = np.full(len(scores[0]), len(scores), dtype=np.int64)
    for k in reversed(range(len(scores))):
        stage[scores[k] >= thresholds[k]] = k
    return stage


def shares(stage: Indices, stages: int) -> tuple[float, ...]:
    """The share of inputs that each stage answers."""
    return tuple((np.bincount(stage, minlength=stages) / len(stage)).tolist())


def path(route: Route, losses: Sequence[Floats]) -> list[Thresholds]:
    """Thresholds of which none loses more and costs more than another, the least loss first.

    All combinations of quantiles of the scores are looked at (at most 2 000); the first of the list
    is the most cautious one.
    """
    count = min(MOST, max(2, int(COMBINATIONS ** (1 / len(route.scores)))))
    levels = [_levels(scores, count) for scores in route.scores]
    found = _combined(route, levels, losses)
    found.sort(key=lambda one: (one[0], one[1]))
    front: list[Thresholds] = []
    cheapest = inf
    for _, cost, thresholds in found:
        if cost < cheapest:
            front.append(thresholds)
            cheapest = cost
    return front


def passing(
    route: Route,
    losses: Sequence[Floats],
    listed: Sequence[Thresholds],
    at_most: float,
    confidence: float,
    loss: Loss,
) -> Thresholds:
    """The last of the list before the first whose mean loss is not shown to be at most `at_most`.

    The list was made without these samples. inf for all stages when the first fails.
    """
    accepted: Thresholds = (inf,) * len(route.scores)
    samples = len(route.scores[0])
    allowed = largest_count_upper_below(samples, at_most, 1 - confidence)
    for thresholds in listed:
        stage = answering(route.scores, thresholds)
        lost = np.zeros(samples)
        for k, values in enumerate(losses):
            lost[stage == k] = values[stage == k]
        if loss == "disagreement":
            passes = lost.sum() <= allowed
        elif loss == "accuracy drop":
            counts = [(lost > 0).sum()], [(lost < 0).sum()]
            passes = gain_passes(*counts, samples, at_most=at_most, confidence=confidence)[0]
        else:
            passes = shown_below(lost[None], at_most, 1 - confidence)[0]
        if not passes:
            break
        accepted = thresholds
    return accepted


def _levels(scores: Floats, count: int) -> Floats:
    """Thresholds from inf down to -inf, between them quantiles of the scores."""
    known = scores[np.isfinite(scores)]
    if not len(known):
        return np.array([inf, -inf])
    inner = np.quantile(known, np.linspace(1, 0, count), method="higher")
    return np.unique(np.concatenate([[inf], inner, [-inf]]))[::-1]


def _combined(
    route: Route, levels: Sequence[Floats], losses: Sequence[Floats]
) -> list[tuple[float, float, Thresholds]]:
    """(mean loss, cost, thresholds) of every combination of levels."""
    samples, last = len(route.scores[0]), len(route.scores) - 1
    costs = route.costs
    begun: list[_Part] = [(np.ones(samples), 0.0, costs[0], ())]
    for k, scores in enumerate(route.scores):
        kept = (scores[None, :] >= levels[k][:, None]).astype(np.float64)  # (levels, n)
        grown: list[_Part] = []
        for reach, lost, cost, chosen in begun:
            more = kept @ (reach * losses[k]) / samples
            share = (reach.sum() - kept @ reach) / samples
            grown += [
                (
                    reach if k == last else reach * (1 - kept[i]),
                    lost + more[i],
                    cost + share[i] * costs[k + 1],
                    (*chosen, float(threshold)),
                )
                for i, threshold in enumerate(levels[k])
            ]
        begun = grown
    return [(lost, cost, chosen) for _, lost, cost, chosen in begun]
