"""Limits of the mean of independent values in [0, 1] from their mean and variance alone.

Valid for every distribution on [0, 1] and every n, and two to five times wider than betting.
`alpha` is the risk of each end. Source: algorithms.md A.4.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sommelier.errors import AnalysisError

Floats = NDArray[np.float64]


def hoeffding_limits(mean: ArrayLike, n: int, alpha: float) -> tuple[Floats, Floats]:
    """mean -+ sqrt(ln(1/alpha) / 2n), within [0, 1]. Source: Hoeffding 1963."""
    half = np.sqrt(np.log(1 / alpha) / (2 * n)) if n else np.inf
    return _around(mean, half)


def bernstein_limits(
    mean: ArrayLike, variance: ArrayLike, n: int, alpha: float
) -> tuple[Floats, Floats]:
    """mean -+ sqrt(2 v L / n) + 7 L / 3(n - 1) with L = ln(2/alpha), within [0, 1].

    variance : of the sample, divided by n - 1. Fewer than two samples say nothing: (0, 1).
    Source: Maurer & Pontil 2009, theorem 4.
    """
    if n < 2:
        return _around(mean, np.inf)
    log = np.log(2 / alpha)
    spread = np.sqrt(2 * np.asarray(variance, dtype=np.float64) * log / n)
    return _around(mean, spread + 7 * log / (3 * (n - 1)))


def checked_values(values: ArrayLike) -> Floats:
    """The values as float64 (..., n). Raises AnalysisError unless all of them lie in [0, 1]."""
    found = np.asarray(values, dtype=np.float64)
    if found.ndim == 0:
        raise AnalysisError("a mean is bounded from the values of its samples, not from a number")
    outside = int(np.count_nonzero(~((found >= 0) & (found <= 1))))
    if outside:
        raise AnalysisError(
            f"{outside} of {found.size} values are NaN or outside [0, 1]",
            hint="scale the loss, or clip it at its stated maximum",
        )
    return found


def _around(mean: ArrayLike, half: Floats | float) -> tuple[Floats, Floats]:
    centre = np.asarray(mean, dtype=np.float64)
    low, high = np.clip(centre - half, 0.0, 1.0), np.clip(centre + half, 0.0, 1.0)
    return np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
