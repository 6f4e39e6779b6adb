"""Thresholds of three models or more that fall together, tested on all samples without a split.

A chain ties the thresholds of all stages to one number u that falls along GRID: stage k keeps what
scores at least 1 - c ** (stages after it) (1 - u), so that with c > 1 the first model must be less
sure than the next one, with c < 1 surer, with c = 1 as sure. Chains were written down before any
sample was seen, so each is a fixed sequence of hypotheses: the first that is wrong passes with
probability at most 1 - confidence, and what comes after it is not tested unless it passes. Lower
thresholds may well lose less, as another stage answers; nothing needs to be monotone.
Source: Angelopoulos et al. 2021, "Learn then Test", fixed-sequence testing.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.bounds.betting import shown_below
from sommelier.analysis.cascades.thresholds import BLOCK, GRID, gain_passes
from sommelier.cascade_records import Loss
from sommelier.confidence import largest_count_upper_below

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

FACTORS = (0.25, 1.0, 4.0)  # c


def thresholds_at(u: float, stages: int, factor: float) -> tuple[float, ...]:
    """Of all stages but the last, `stages` of them; inf for u = inf."""
    return tuple(1 - _scale(k, stages, factor) * (1 - u) for k in range(stages))


def lowest(
    scores: Sequence[Floats],
    losses: Sequence[Floats],
    *,
    factor: float,
    at_most: float,
    confidence: float,
    loss: Loss,
) -> tuple[float, ...]:
    """The last thresholds of a chain before the first whose mean loss is not shown to be at most
    `at_most`; inf for all when the first fails.

    scores, losses : (n,) of every stage but the last.
    """
    begins, ends = _spans(scores, factor)
    if loss == "loss":
        passes = _graded(begins, ends, losses, at_most, 1 - confidence)
    else:
        lost, won = (
            _totals(begins, ends, [np.maximum(sign * one, 0) for one in losses]) for sign in (1, -1)
        )
        samples = len(scores[0])
        if loss == "disagreement":
            passes = lost <= largest_count_upper_below(samples, at_most, 1 - confidence)
        else:
            passes = gain_passes(lost, won, samples, at_most=at_most, confidence=confidence)
    failed = np.flatnonzero(~passes)
    last = (int(failed[0]) if len(failed) else len(GRID)) - 1
    return thresholds_at(float(GRID[last]) if last >= 0 else inf, len(scores), factor)


def _scale(stage: int, stages: int, factor: float) -> float:
    return float(factor ** (stages - 1 - stage))


def _spans(scores: Sequence[Floats], factor: float) -> tuple[list[Floats], list[Floats]]:
    """(begins, ends) by stage, (n,) places in GRID: stage k answers a sample from the place begins
    up to before ends."""
    stages = len(scores)
    first = []
    for k, values in enumerate(scores):
        levels = 1 - _scale(k, stages, factor) * (1 - GRID)
        place = np.searchsorted(-levels, -values, side="left").astype(np.float64)
        first.append(np.where(np.isnan(values), len(GRID), place))
    begins, ends = [], []
    taken = np.full(len(scores[0]), float(len(GRID)))  # from where on an earlier stage answers
    for place in first:
        begins.append(np.minimum(place, taken))
        ends.append(taken)
        taken = np.minimum(taken, place)
    return begins, ends


def _totals(begins: list[Floats], ends: list[Floats], losses: Sequence[Floats]) -> Floats:
    """The sum of whole losses at every place of GRID."""
    change = np.zeros(len(GRID) + 1)
    for begin, end, values in zip(begins, ends, losses, strict=True):
        change += np.bincount(begin.astype(np.int64), values, len(GRID) + 1)
        change -= np.bincount(end.astype(np.int64), values, len(GRID) + 1)
    return np.rint(np.cumsum(change)[:-1])


def _graded(
    begins: list[Floats], ends: list[Floats], losses: Sequence[Floats], at_most: float, risk: float
) -> Mask:
    """Whether each place of GRID is shown to lose little, False from the first that is not on."""
    changes = np.unique(np.concatenate([[0.0], *begins, *ends])).astype(np.int64)
    changes = changes[changes < len(GRID)]
    step = max(1, BLOCK // len(losses[0]))
    passed_before = len(GRID)
    for start in range(0, len(changes), step):
        places = changes[start : start + step, None]
        lost = np.zeros((len(places), len(losses[0])))
        for begin, end, values in zip(begins, ends, losses, strict=True):
            lost += np.where((begin <= places) & (places < end), values, 0.0)
        failed = np.flatnonzero(~shown_below(lost, at_most, risk))
        if len(failed):
            passed_before = int(places[failed[0], 0])
            break
    return np.arange(len(GRID)) < passed_before
