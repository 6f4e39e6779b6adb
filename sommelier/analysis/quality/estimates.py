"""Numbers with their intervals: which method holds for which figure (algorithms.md A.2, A.4).

A share of samples gets Clopper-Pearson, a mean of graded terms a betting interval; both are
certified. Anything that is not a mean of per-sample terms gets a bootstrap, which is an estimate.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sommelier.analysis.bounds.betting import betting_limits
from sommelier.analysis.quality.measure import Array, Figure, Indices
from sommelier.confidence import clopper_pearson, paired_difference
from sommelier.errors import AnalysisError

RESAMPLES = 2000  # algorithms.md A.2
CLOPPER_PEARSON = "clopper-pearson"
PAIRED = "paired clopper-pearson"
BETTING = "betting"
BOOTSTRAP = "bootstrap"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval. method 'bootstrap' proves nothing; the other methods do."""

    value: float
    low: float
    high: float
    method: str = CLOPPER_PEARSON

    @property
    def certified(self) -> bool:
        """Whether the interval holds with its confidence for every distribution of samples."""
        return self.method != BOOTSTRAP


def share(count: int, samples: int, confidence: float) -> Estimate:
    """The share of samples behind a count, two-sided Clopper-Pearson; NaN of no samples."""
    low, high = clopper_pearson(count, samples, confidence)
    value = count / samples if samples else float("nan")
    return Estimate(value, float(low), float(high))


def mean(terms: Array, confidence: float) -> Estimate:
    """The mean of i.i.d. terms in [0, 1]; terms of only 0 and 1 are counted as a share."""
    values = np.asarray(terms, dtype=np.float64)
    if np.any(~((values >= 0) & (values <= 1))):
        raise AnalysisError("terms must lie in [0, 1] for their mean to be bounded")
    if np.all((values == 0) | (values == 1)):
        return share(int(values.sum()), len(values), confidence)
    order = np.random.default_rng(0)  # of the bets; the promise includes this draw
    low, high = betting_limits(values, (1 - confidence) / 2, rng=order)
    return Estimate(float(values.mean()), float(low), float(high), BETTING)


def of_figure(figure: Figure, confidence: float) -> Estimate:
    """The figure with its interval: certified for means of terms, else a bootstrap."""
    if figure.terms is not None:
        return mean(figure.terms, confidence)
    low, high = _bootstrap(figure.samples, figure.resampled, confidence)
    return Estimate(figure.value, low, high, BOOTSTRAP)


def difference(reference: Figure, candidate: Figure, confidence: float) -> Estimate:
    """reference - candidate on the same samples, paired.

    Terms of 0 and 1: CP(b) - CP(c), exact; graded terms: betting on (difference + 1) / 2; figures
    that are no means: a bootstrap that draws the same samples for both.
    """
    if reference.samples != candidate.samples:
        raise AnalysisError("a paired difference needs figures of the same samples")
    if reference.terms is None or candidate.terms is None:
        return _resampled_difference(reference, candidate, confidence)
    one, other = reference.terms, candidate.terms
    if np.all(np.isin(one, (0, 1)) & np.isin(other, (0, 1))):
        only = int(np.count_nonzero(one > other)), int(np.count_nonzero(other > one))
        return Estimate(*paired_difference(*only, len(one), confidence), PAIRED)
    found = mean((one - other + 1) / 2, confidence)
    value, low, high = (2 * v - 1 for v in (found.value, found.low, found.high))
    return Estimate(value, low, high, BETTING)


def _resampled_difference(reference: Figure, candidate: Figure, confidence: float) -> Estimate:
    def gap(chosen: Indices) -> float:
        return reference.resampled(chosen) - candidate.resampled(chosen)

    low, high = _bootstrap(reference.samples, gap, confidence)
    return Estimate(reference.value - candidate.value, low, high, BOOTSTRAP)


def _bootstrap(
    samples: int, statistic: Callable[[Indices], float], confidence: float
) -> tuple[float, float]:
    """BCa interval of a statistic of sample positions (Efron 1987); NaN where it has none.

    The figure is computed RESAMPLES + `samples` times. A statistic that does not change when
    samples are left out (every answer right) has no BCa interval.
    """
    from scipy.stats import bootstrap

    if samples < 2:
        return float("nan"), float("nan")
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore")  # scipy warns of a degenerate statistic; NaN says so too
        found = bootstrap(
            (np.arange(samples),),
            statistic,
            n_resamples=RESAMPLES,
            confidence_level=confidence,
            vectorized=False,
            method="BCa",
            rng=np.random.default_rng(0),
        )
    low, high = found.confidence_interval
    return float(low), float(high)
