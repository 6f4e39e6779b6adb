"""Numbers with their intervals: which bound holds for which figure (algorithms.md A.2, A.4).

A share of samples gets Clopper-Pearson, a mean of graded terms a betting interval; both are
certified. Anything that is not a mean of per-sample terms gets a bootstrap, which is an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sommelier.analysis.bounds import Interval, bootstrap, bound
from sommelier.analysis.quality.measure import Array, Figure, Indices
from sommelier.errors import AnalysisError


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval, NaN where it is unknown. method : of bounds.bound, or 'bca'.

    certified : a theorem says that the interval holds with its confidence.
    """

    value: float
    low: float
    high: float
    method: str
    certified: bool

    @classmethod
    def within(cls, value: float, interval: Interval) -> Estimate:
        """The value in an interval made by `analysis.bounds`."""
        return cls(value, interval.low, interval.high, interval.method, interval.proved)


def share(count: int, samples: int, confidence: float) -> Estimate:
    """The share of samples behind a count, two-sided Clopper-Pearson; NaN of no samples."""
    value = count / samples if samples else float("nan")
    return Estimate.within(value, bound("proportion", count, samples, confidence=confidence))


def mean(terms: Array, confidence: float, *, groups: int = 1) -> Estimate:
    """The mean of i.i.d. terms in [0, 1]; booleans, which are 0 or 1 by definition, are counted.

    Numbers that happen to be 0 and 1 are not: which bound is taken must not depend on the data,
    or the risks of both add up.
    groups : how many such intervals have to hold together (Bonferroni).
    Raises AnalysisError for terms outside [0, 1].
    """
    values = np.asarray(terms)
    value = float(values.mean()) if len(values) else float("nan")
    if values.dtype == np.bool_:
        counted = int(values.sum()), len(values)
        found = bound("proportion", *counted, confidence=confidence, candidates=groups)
    else:
        found = bound("mean", values, confidence=confidence, candidates=groups)
    return Estimate.within(value, found)


def of_figure(figure: Figure, confidence: float) -> Estimate:
    """The figure with its interval: certified for means of terms, else a bootstrap."""
    if figure.terms is not None:
        terms = figure.terms.astype(np.bool_) if figure.counted else figure.terms
        return mean(terms, confidence)
    found = _bootstrap(figure, None, confidence)
    return Estimate.within(figure.value, found)


def difference(reference: Figure, candidate: Figure, confidence: float) -> Estimate:
    """reference - candidate on the same samples, paired.

    Counted terms: CP(b) - CP(c), as COMPARE states it; graded terms: betting on
    (difference + 1) / 2; figures that are no means: a bootstrap that draws the same samples for
    both. Raises AnalysisError for figures of different samples.
    """
    if reference.samples != candidate.samples:
        raise AnalysisError("a paired difference needs figures of the same samples")
    gap = reference.value - candidate.value
    one, other = reference.terms, candidate.terms
    if one is None or other is None:
        return Estimate.within(gap, _bootstrap(reference, candidate, confidence))
    if reference.counted and candidate.counted:
        b, c = int(np.count_nonzero(one > other)), int(np.count_nonzero(other > one))
        n = len(one)
        found = bound("difference", b, c, n, confidence=confidence, method="cp")
        return Estimate.within((b - c) / n, found)
    found = bound("mean", (one - other + 1) / 2, confidence=confidence)
    return Estimate(gap, 2 * found.low - 1, 2 * found.high - 1, found.method, found.proved)


def _bootstrap(reference: Figure, candidate: Figure | None, confidence: float) -> Interval:
    """Of a figure, or of the difference of two on the same resamples; NaN of fewer than two."""
    if reference.samples < 2:
        unknown = float("nan")
        return Interval(unknown, unknown, confidence, "bca", False, reference.samples)

    def statistic(chosen: Indices) -> float:
        other = 0.0 if candidate is None else candidate.resampled(chosen)
        return reference.resampled(chosen) - other

    return bootstrap(statistic, reference.samples, confidence=confidence)
