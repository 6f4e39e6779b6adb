"""What K datasets say about a new one: "independent of the validation dataset", taken literally.

A bound from one dataset speaks of inputs drawn like its own. Between real datasets the rate itself
moves: the minima that Sommelier's Table 1 reports have probability 6e-5 under one population. With
a spread of 1 point between sets, pooling all samples covers a new set 68 % of the time instead of
95 %. Here the dataset is the sample. Source: algorithms.md A.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from sommelier.analysis.bounds.dispatch import bound
from sommelier.analysis.bounds.intervals import Interval, risk_of, sided
from sommelier.errors import AnalysisError


@dataclass(frozen=True, slots=True)
class AcrossDatasets:
    """Lower bounds of a rate (agreement, accuracy), per dataset and for a dataset not seen yet.

    sets : Clopper-Pearson, each at the confidence asked for, about its own dataset.
    minimum : the smallest observed rate. A new dataset, exchangeable with these, is observed below
    it with probability at most 1 / (K + 1): its confidence is K / (K + 1), whatever was asked for.
    prediction : mean - t s sqrt(1 + 1/K) of the observed rates, right if they are normal, and so
    not proved; None for a single dataset.
    """

    sets: tuple[Interval, ...]
    minimum: Interval
    prediction: Interval | None

    @property
    def reaches(self) -> bool:
        """Whether there are enough datasets for `minimum` to hold at the confidence asked for."""
        return self.minimum.confidence >= self.sets[0].confidence


def across_datasets(
    successes: Sequence[int], samples: Sequence[int], *, confidence: float = 0.95
) -> AcrossDatasets:
    """The three statements from the counts per dataset; sets of similar size, drawn alike.

    minimum and prediction speak of the rate that would be observed on a new set of such a size.
    Raises AnalysisError without datasets or for an empty one.
    """
    if not successes or len(successes) != len(samples) or min(samples) < 1:
        raise AnalysisError(
            f"{len(successes)} counts of {len(samples)} datasets: a statement about a new dataset "
            "needs at least one dataset, and samples in each"
        )
    pairs = list(zip(successes, samples, strict=True))
    sets = tuple(
        bound("proportion", k, n, confidence=confidence, method="cp", side="lower")
        for k, n in pairs
    )
    rates = np.array([k / n for k, n in pairs])
    count = len(rates)
    minimum = Interval(float(rates.min()), 1.0, count / (count + 1), "minimum", True, count)
    return AcrossDatasets(sets, minimum, _prediction(rates, confidence))


def _prediction(rates: np.ndarray, confidence: float) -> Interval | None:
    count = len(rates)
    if count < 2:
        return None
    from scipy.special import stdtrit

    quantile = float(stdtrit(count - 1, 1 - risk_of(confidence, "lower").end))
    low = rates.mean() - quantile * rates.std(ddof=1) * sqrt(1 + 1 / count)
    ends = sided(float(low), 1.0, "lower")
    return Interval(*ends, confidence, "t-prediction", False, count)
