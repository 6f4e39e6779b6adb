"""Whether a fine-tuning will reach what it has to: its curve of scores, carried on.

A power law with a margin by default; the paper's extrapolation by its rate of convergence is kept
by name, and tells where its formula is not defined. On 2 000 noisy curves (500 samples, epoch 8
from the first 4) the paper's is off by more than 5 pp in 65 %, the power law in 6 %. Asked at every
epoch of 35, with a margin of 1 / sqrt(samples) alone it gave up 13 % of those that would have come
within reach (25 % at 5 000 samples); with the curve's own uncertainty added, 3 % (6 %).
Source: paper 001, section 5.1; algorithms.md F.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, inf, isnan, log, sqrt
from typing import Literal

import numpy as np

from sommelier.errors import AnalysisError

Predictor = Literal["power law", "convergence rate"]
Case = Literal[
    "fitted",  # nothing unusual
    "falling",  # the scores do not rise; the best so far is the prediction
    "accelerating",  # the last steps grow: no law of diminishing returns yet, all is possible
    "plateau",  # the last two scores are equal: no logarithm of their difference
    "no rate",  # neighbouring differences are equal or zero: the rate is 0/0 or x/0
    "oscillating",  # differences change their sign, which the rate does not see
    "diverging",  # the carried-on curve leaves [0, 1]
]

RATES = np.linspace(0.1, 3.0, 30)  # exponents tried; algorithms.md F.4
NEEDED = 4  # scores; the paper's formula takes four, and three parameters fit any three


@dataclass(frozen=True, slots=True)
class Prediction:
    """The score a curve will have. score : in [0, 1], always a number, an estimate.

    margin : what it may be too low by when it is used to give up. case : how it came about; with
    any but 'fitted' the formula itself had no answer, or none to trust.
    """

    score: float
    margin: float
    case: Case

    @property
    def highest(self) -> float:
        return self.score + self.margin


def predict(
    points: Sequence[tuple[int, float]], at: int, *, samples: int, method: Predictor = "power law"
) -> Prediction | None:
    """The score at epoch `at`; None with fewer than NEEDED points, which say nothing.

    points : (epoch, score in [0, 1]), epochs ascending, trained ones only: the score before
    training is no point of the curve, nor is a score that is NaN. samples : the scores are
    means over so many.
    Raises AnalysisError for epochs or scores that are no curve, or a method that is unknown.
    """
    points = [(epoch, score) for epoch, score in points if not isnan(score)]
    _check(points, at)
    if method not in METHODS:
        raise AnalysisError(
            f"there is no predictor '{method}'", hint=f"one of {', '.join(METHODS)}"
        )
    if len(points) < NEEDED:
        return None
    return METHODS[method](points, at, samples)


def _power_law(points: Sequence[tuple[int, float]], at: int, samples: int) -> Prediction:
    """A - B (1 + x)^-c by least squares, B >= 0, c from RATES; not below the best score so far.

    The margin is 1 / sqrt(samples), two standard deviations of a score of one half, and how much
    higher a curve ends that explains the scores as well within the noise of one of them.
    """
    epochs, scores = (np.array(side, dtype=np.float64) for side in zip(*points, strict=True))
    slopes = np.diff(scores[-3:]) / np.diff(epochs[-3:])
    if slopes[-1] > slopes[0] > 0 and scores[-1] - scores[0] > 2 / sqrt(samples):
        return Prediction(float(scores.max()), 1.0, "accelerating")
    shape = -((1 + epochs) ** -RATES[:, None])  # (rates, points)
    centred = shape - shape.mean(axis=1, keepdims=True)
    height = centred @ (scores - scores.mean()) / (centred**2).sum(axis=1)
    limit = scores.mean() - height * shape.mean(axis=1)
    errors = ((limit[:, None] + height[:, None] * shape - scores) ** 2).sum(axis=1)
    errors = np.where(height >= 0, errors, inf)
    best, margin = float(scores.max()), 1 / sqrt(samples)
    if not np.isfinite(errors).any():
        return Prediction(best, margin, "falling")
    ends = np.clip(limit - height * (1 + at) ** -RATES, best, 1.0)
    noise = max(scores.mean() * (1 - scores.mean()), 1 / samples) / samples
    found = float(ends[errors.argmin()])
    highest = float(ends[errors <= errors.min() + noise].max())
    return Prediction(found, margin + highest - found, "fitted")


def _convergence_rate(points: Sequence[tuple[int, float]], at: int, _: int) -> Prediction:
    """log d[k+1] = log d[k] + rate (log d[k] - log d[k-1]) of the differences d, added up.

    The last difference gives the direction. Scores are taken as equally far apart in epochs, as the
    paper measures them. No margin: the paper has none.
    """
    (epochs, scores) = zip(*points[-NEEDED:], strict=True)
    steps = [b - a for a, b in pairwise(scores)]
    sizes = [abs(step) for step in steps]
    last = float(scores[-1])
    if sizes[-1] == 0:
        return Prediction(last, 0.0, "plateau")
    if 0 in sizes or log(sizes[0]) == log(sizes[1]):
        return Prediction(last, 0.0, "no rate")
    ahead = round((at - epochs[-1]) * (NEEDED - 1) / (epochs[-1] - epochs[0]))
    found = last + (1 if steps[-1] > 0 else -1) * _carried_on([log(s) for s in sizes], ahead)
    if not 0 <= found <= 1:
        return Prediction(min(max(found, 0.0), 1.0), 0.0, "diverging")
    turns = any(a * b < 0 for a, b in pairwise(steps))
    return Prediction(found, 0.0, "oscillating" if turns else "fitted")


def _carried_on(logs: Sequence[float], ahead: int) -> float:
    """The sum of the next `ahead` differences; infinite once one is larger than any score."""
    before, now = logs[-2:]
    rate = (now - before) / (before - logs[-3])
    total = 0.0
    for _ in range(ahead):
        before, now = now, now + rate * (now - before)
        if now == -inf:
            break
        if not now < 0:  # a step of 1 or more, or no number
            return inf
        total += exp(now)
    return total


def _check(points: Sequence[tuple[int, float]], at: int) -> None:
    epochs = [epoch for epoch, _ in points]
    if any(a >= b for a, b in pairwise(epochs)) or any(e < 1 for e in epochs):
        raise AnalysisError(f"epochs {epochs} of a curve: they start at 1 and rise")
    if not all(0 <= score <= 1 for _, score in points):
        raise AnalysisError("the scores of a curve lie in [0, 1]")
    if epochs and at < epochs[-1]:
        raise AnalysisError(f"epoch {at} is behind the last one measured, {epochs[-1]}")


METHODS = {"power law": _power_law, "convergence rate": _convergence_rate}
