"""Intervals for numbers that are no mean over samples: mAP, F1 and mIoU over a dataset.

No finite-sample bound of this package applies to them, so these are estimates and say so. The
certified alternative is the mean of the per-sample version. Source: algorithms.md A.2; Efron 1987.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.bounds.intervals import Interval, risk_of
from sommelier.confidence import Side
from sommelier.errors import AnalysisError

RESAMPLES = 2000  # algorithms.md A.2
ALTERNATIVES: dict[Side, Literal["two-sided", "less", "greater"]] = {
    "two": "two-sided",
    "lower": "greater",
    "upper": "less",
}


def bootstrap(
    statistic: Callable[[NDArray[np.intp]], float],
    samples: int,
    *,
    confidence: float = 0.95,
    side: Side = "two",
    resamples: int = RESAMPLES,
    rng: np.random.Generator | None = None,
) -> Interval:
    """The BCa interval of `statistic`, computed from the positions (n,) of the samples to take.

    An estimate (`proved` False), with infinite ends where none was asked for. NaN where resampling
    says nothing, for example when every resample gives the same value. Cost: resamples + samples
    calls. Raises AnalysisError for fewer than two samples.
    """
    risk_of(confidence, side)
    if samples < 2:
        raise AnalysisError(f"{samples} samples cannot be resampled; at least two are needed")
    from scipy import stats

    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # answered as NaN
        found = stats.bootstrap(
            (np.arange(samples),),
            lambda chosen: float(statistic(chosen)),
            vectorized=False,
            method="BCa",
            confidence_level=confidence,
            alternative=ALTERNATIVES[side],
            n_resamples=resamples,
            rng=rng or np.random.default_rng(0),
        ).confidence_interval
    return Interval(float(found.low), float(found.high), confidence, "bca", False, samples)
