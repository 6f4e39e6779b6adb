"""Is another choice of models needed? A test that may be looked at after every sample.

A plan was chosen because predicted answers agreed with the models' own to some degree. In use a
small share of the inputs (MLink: 1 %) runs through all models; each gives a score in [0, 1]. A
gambler bets that the scores fell, one for each moment at which they may have begun to, so that a
long quiet time costs nothing but a logarithm. His capital is a nonnegative supermartingale as long
as the mean is what was promised, so that it ever reaches 1 / alpha with probability at most alpha
(Ville), however often one looks. Source: algorithms.md E.3 and A.4; Shin, Ramdas & Rinaldo 2024
(e-detectors; here with weights that sum to 1, which bounds the probability of any false alarm).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sommelier.errors import AnalysisError

Floats = NDArray[np.float64]
Verdict = Literal["keep", "reselect"]

# of the largest bet that cannot ruin: drops of a few hundredths up to the collapse of a link
STAKES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
LARGEST = 1e300  # a capital that need not grow further
LATENESS = 1.1  # the n-th sample starts a gambler with capital in proportion to n ** -1.1


@dataclass(frozen=True, slots=True)
class DriftState:
    """verdict : 'reselect' from the first alarm on. evidence : the capital, at most 1 / alpha with
    probability 1 - alpha while nothing changes. samples : seen. mean : of them, NaN of none."""

    verdict: Verdict
    evidence: float
    samples: int
    mean: float


class DriftTest:
    """Whether the mean of a stream of scores is below expected - margin.

    False alarms: with probability at most `alpha` over the whole stream, as long as each score's
    mean, given those before, is at least expected - margin. Give the lower limit of the plan's
    accuracy as `expected`, and the chance that this limit is wrong adds to alpha; a plan's point
    estimate is flattered by having been chosen.
    Delay, measured: of six models four are predicted, .9 is promised, alpha is .05; after 500 quiet
    samples the median alarm comes 11 samples after a drop to .6, 22 to .75, 53 to .82 and 160 to
    .86; after none 7, 13, 32 and 90.
    """

    def __init__(self, expected: float, *, alpha: float = 0.05, margin: float = 0.0) -> None:
        """expected : mean score the plan promises, in [0, 1]. margin : how much less is tolerated,
        at least what switching costs (`switching_margin`).

        Raises AnalysisError for numbers outside their range.
        """
        if not (0 <= expected <= 1 and 0 <= margin <= 1 and 0 < alpha < 1):
            raise AnalysisError(
                f"a drift test of mean {expected:g}, margin {margin:g}, alpha {alpha:g}",
                hint="the mean and the margin lie in [0, 1], alpha between them",
            )
        self.promised = max(expected - margin, 0.0)
        self.alpha = alpha
        self._bets = [stake / max(1.0 - self.promised, 1e-9) for stake in STAKES]
        self._running = [0.0 for _ in STAKES]  # capital of all gamblers that started, by stake
        self._idle = 1.0  # of those that did not
        self._samples, self._sum, self._alarm = 0, 0.0, False

    @property
    def state(self) -> DriftState:
        """What is known now."""
        mean = self._sum / self._samples if self._samples else float("nan")
        verdict: Verdict = "reselect" if self._alarm else "keep"
        return DriftState(verdict, self._capital, self._samples, mean)

    def update(self, scores: ArrayLike) -> DriftState:
        """The state after more scores (n,) in the order they came, each in [0, 1].

        A score: the share of the models whose predicted answer agrees with their own on an input,
        or `paired` scores. A NaN is left out. Raises AnalysisError for scores outside [0, 1].
        """
        found = np.atleast_1d(np.asarray(scores, dtype=np.float64))
        found = found[~np.isnan(found)]
        if ((found < 0) | (found > 1)).any():
            raise AnalysisError("a score of drift lies in [0, 1]", hint="scale it, or clip it")
        for score in found.tolist():
            self._take(score)
        return self.state

    @property
    def _capital(self) -> float:
        return sum(self._running) / len(STAKES) + self._idle

    def _take(self, score: float) -> None:
        self._samples += 1
        self._sum += score
        waiting = (self._samples + 1) ** (1 - LATENESS)  # the share that starts later
        starting, fall = self._idle - waiting, self.promised - score
        self._idle = waiting
        self._running = [
            min((capital + starting) * max(1.0 + bet * fall, 0.0), LARGEST)
            for capital, bet in zip(self._running, self._bets, strict=True)
        ]
        self._alarm = self._alarm or self._capital >= 1 / self.alpha


def paired(current: ArrayLike, challenger: ArrayLike) -> Floats:
    """Scores (n,) by which `DriftTest(0.5)` asks whether another plan became better.

    (1 + current - challenger) / 2, from both plans' scores in [0, 1] on the same inputs: the mean
    is .5 while they are as good. A margin of m tolerates a challenger better by 2 m.
    """
    one, other = np.asarray(current, np.float64), np.asarray(challenger, np.float64)
    if one.shape != other.shape:
        raise AnalysisError(f"paired scores of shapes {one.shape} and {other.shape}")
    return np.asarray((1 + one - other) / 2)


def switching_margin(lost_inputs: float, period: float) -> float:
    """The drop that is not worth a switch: inputs without an answer while models are loaded, as a
    share of the inputs of a period, at most 1.

    Raises AnalysisError unless both are numbers, the period above 0.
    """
    if not (isfinite(lost_inputs) and isfinite(period) and lost_inputs >= 0 and period > 0):
        raise AnalysisError(
            f"{lost_inputs:g} inputs lost in a period of {period:g}",
            hint="count both in inputs; a period has at least one",
        )
    return min(lost_inputs / period, 1.0)
