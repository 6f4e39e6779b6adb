"""Limits of a proportion from counts, beside the exact binomial ones of sommelier.confidence.

Every function takes k successes of n trials, and the risk `alpha` of each end; arrays broadcast.
Source: algorithms.md A.4.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sommelier.errors import AnalysisError

Floats = NDArray[np.float64]
ROUNDING = 1e-9  # relative; a tail this close to alpha keeps its population, which widens the bound


def wilson_limits(k: ArrayLike, n: ArrayLike, alpha: float) -> tuple[Floats, Floats]:
    """(low, high) where the normal score test accepts. NOT a proved bound.

    Asymptotic: covers 93.7 % instead of 95 % at a rate of .2 % and n = 200. No trials: (0, 1).
    Source: Wilson 1927.
    """
    from scipy.special import ndtri

    successes, trials = checked_counts(k, n)
    z = float(-ndtri(alpha))
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = successes / trials
        scale = 1 + z**2 / trials
        centre = (rate + z**2 / (2 * trials)) / scale
        half = z * np.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2)) / scale
    low = np.where(trials == 0, 0.0, np.maximum(centre - half, 0.0))
    high = np.where(trials == 0, 1.0, np.minimum(centre + half, 1.0))
    return low, high


def hypergeometric_limits(
    k: ArrayLike, n: int, population: int, alpha: float
) -> tuple[Floats, Floats]:
    """(low, high) of the proportion in a finite population, n of it drawn WITHOUT replacement.

    Exact, and narrower than Clopper-Pearson by about sqrt(1 - n / population); the whole population
    (n = population) gives the proportion itself. The limits are multiples of 1 / population.
    low is the smallest number K of successes in the population with P(X >= k | K) > alpha.
    Source: Clopper-Pearson inversion of hypergeometric tails (Wright 1991).
    """
    successes, _ = checked_counts(k, n)
    if not 0 <= n <= population or population == 0:
        raise AnalysisError(f"{n} samples cannot be drawn from a population of {population}")
    distinct, where = np.unique(successes, return_inverse=True)
    least = [_fewest(int(one), n, population, alpha) for one in distinct]
    most = [population - _fewest(n - int(one), n, population, alpha) for one in distinct]
    shape = successes.shape
    low = np.asarray(least, dtype=np.float64)[where].reshape(shape) / population
    return low, np.asarray(most, dtype=np.float64)[where].reshape(shape) / population


def checked_counts(k: ArrayLike, n: ArrayLike) -> tuple[Floats, Floats]:
    """Both as float64 arrays of one shape. Raises AnalysisError unless 0 <= k <= n."""
    successes, trials = np.broadcast_arrays(
        np.asarray(k, dtype=np.float64), np.asarray(n, dtype=np.float64)
    )
    if not np.all((successes >= 0) & (successes <= trials)):
        raise AnalysisError("successes must lie between 0 and the number of trials")
    return successes, trials


def _fewest(k: int, n: int, population: int, alpha: float) -> int:
    """The smallest number of successes in the population that makes k of n not too surprising.

    P(X >= k | K) rises with K, so K is found by halving.
    """
    low, high = k, population - (n - k)  # fewer or more contradict what was drawn
    while low < high:
        middle = (low + high) // 2
        if _tail(k, n, population, middle) > alpha * (1 - ROUNDING):
            high = middle
        else:
            low = middle + 1
    return low


def _tail(k: int, n: int, population: int, successes: int) -> float:
    """P(X >= k) for X hypergeometric, from the ratios of neighbouring terms, then normalised."""
    first, last = max(0, n + successes - population), min(n, successes)
    j = np.arange(first, last, dtype=np.float64)
    steps = np.log((successes - j) * (n - j) / ((j + 1) * (population - successes - n + j + 1)))
    logs = np.concatenate(([0.0], np.cumsum(steps)))
    terms = np.exp(logs - logs.max())
    return float(terms[max(k - first, 0) :].sum() / terms.sum())
