"""Exact binomial confidence: Clopper-Pearson bounds, their inverse, and paired differences.

Source: algorithms.md A.4 (fixed pair of models, n i.i.d. probes). Every bound here is exact for
all n and p (coverage is never below its nominal level), at the price of being slightly wide.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sommelier.errors import AnalysisError

Floats = NDArray[np.float64]
Side = Literal["lower", "upper", "two"]

FEW = 16  # the first bounds of a process are solved here: scipy.special takes 0.1 s to import


def clopper_pearson(
    k: ArrayLike, n: ArrayLike, confidence: float, *, side: Side = "two"
) -> tuple[Floats, Floats]:
    """(low, high) of the proportion behind k successes in n trials; arrays of the broadcast shape.

    side 'lower' answers (bound, 1), 'upper' (0, bound), 'two' spends (1 - confidence) / 2 on each
    end. No trials (n = 0) give (0, 1).
    """
    alpha = 1.0 - _probability(confidence, "confidence")
    if side == "lower":
        low = lower_bound(k, n, alpha)
        return low, np.ones_like(low)
    if side == "upper":
        high = upper_bound(k, n, alpha)
        return np.zeros_like(high), high
    return lower_bound(k, n, alpha / 2), upper_bound(k, n, alpha / 2)


def lower_bound(k: ArrayLike, n: ArrayLike, alpha: ArrayLike) -> Floats:
    """One-sided lower bound: exceeds the true proportion with probability at most `alpha`.

    k = n gives alpha ** (1 / n), k = 0 gives 0.
    """
    return _lower(*_checked(k, n, alpha))


def upper_bound(k: ArrayLike, n: ArrayLike, alpha: ArrayLike) -> Floats:
    """One-sided upper bound: falls below the true proportion with probability at most `alpha`.

    k = 0 gives 1 - alpha ** (1 / n), k = n gives 1.
    """
    successes, trials, level = _checked(k, n, alpha)
    return 1.0 - _lower(trials - successes, trials, level)


@lru_cache(maxsize=256)  # a question asks for the same few while it filters and while it explains
def smallest_count(n: int, threshold: float, alpha: float) -> int:
    """The fewest successes in n trials whose `lower_bound` reaches `threshold`; n + 1 if none do.

    lower_bound(k) >= t exactly when P(Bin(n, t) >= k) <= alpha, so one binomial tail of n + 1
    terms answers it (25 us at n = 2 000, without scipy).
    """
    _probability(alpha, "alpha")
    if n < 0:
        raise AnalysisError(f"{n} trials: a count of trials is 0 or more")
    if threshold <= 0:
        return 0
    if threshold >= 1 or n == 0:
        return n + 1
    tail = np.cumsum(_binomial_pmf(n, threshold)[::-1])[::-1]  # tail[k] = P(Bin >= k), falling
    return int(np.count_nonzero(tail > alpha))


def largest_count_upper_below(n: int, threshold: float, alpha: float) -> int:
    """The most successes in n trials whose `upper_bound` is at most `threshold`; -1 if none are.

    With zero successes allowed to settle it, n has to be at least ln(alpha) / ln(1 - threshold).
    """
    return n - smallest_count(n, 1.0 - threshold, alpha)


def paired_difference(b: int, c: int, n: int, confidence: float) -> tuple[float, float, float]:
    """(difference, low, high) of accuracy(reference) - accuracy(candidate) on the same n items.

    b : items only the reference gets right, c : only the candidate. The interval is
    CP(b) - CP(c) with a quarter of alpha on each of the four ends: certified, and 3-5 times
    narrower than two unpaired intervals because items both get right or wrong do not count.
    """
    alpha = 1.0 - _probability(confidence, "confidence")
    if n <= 0:
        raise AnalysisError("a paired difference needs at least one item both models answered")
    lows = lower_bound([b, c], n, alpha / 4)
    highs = upper_bound([b, c], n, alpha / 4)
    return (b - c) / n, float(lows[0] - highs[1]), float(highs[0] - lows[1])


@lru_cache(maxsize=FEW)
def _solved(k: float, n: float, alpha: float) -> float:
    """`lower_bound` of one count: the p with P(Bin(n, p) >= k) = alpha, by bisected Newton steps.

    The derivative of that tail is n P(Bin(n - 1, p) = k - 1).
    """
    if k == 0:
        return 0.0
    low, high, p = 0.0, k / n, k / n * 0.9
    for _ in range(100):
        tail = float(_binomial_pmf(int(n), p)[int(k) :].sum())
        low, high = (p, high) if tail < alpha else (low, p)
        slope = n * float(_binomial_pmf(int(n) - 1, p)[int(k) - 1])
        step = p - (tail - alpha) / slope if slope > 0 else -1.0
        moved = step if low < step < high else (low + high) / 2
        if abs(moved - p) <= 1e-15 + 1e-14 * p:
            return moved
        p = moved
    return p


def _binomial_pmf(n: int, p: float) -> Floats:
    """P(Bin(n, p) = k) for k = 0..n, normalised, so that constant factors do not matter."""
    logs = _log_choose(n) + np.arange(n + 1) * (np.log(p) - np.log1p(-p))
    terms = np.exp(logs - logs.max())
    return np.asarray(terms / terms.sum(), dtype=np.float64)


@lru_cache(maxsize=16)
def _log_choose(n: int) -> Floats:
    """ln C(n, k) for k = 0..n."""
    k = np.arange(n, dtype=np.float64)
    return np.concatenate(([0.0], np.cumsum(np.log((n - k) / (k + 1)))))


def _lower(successes: Floats, trials: Floats, level: Floats) -> Floats:
    """`lower_bound` of arguments that make sense."""
    if "scipy.special" not in sys.modules:
        counts = np.broadcast_arrays(successes, trials, level)
        if _solved.cache_info().misses + counts[0].size <= FEW:
            found = [_solved(*one) for one in zip(*(c.ravel() for c in counts), strict=True)]
            return np.array(found, dtype=np.float64).reshape(counts[0].shape)
    from scipy.special import betaincinv

    bound = betaincinv(np.maximum(successes, 1.0), trials - successes + 1.0, level)
    return np.asarray(np.where(successes == 0, 0.0, bound), dtype=np.float64)


def _checked(k: ArrayLike, n: ArrayLike, alpha: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """The three arguments as arrays; raises AnalysisError when they make no sense together."""
    successes, trials, level = (np.asarray(x, dtype=np.float64) for x in (k, n, alpha))
    if (successes < 0).any() or (successes > trials).any():
        raise AnalysisError("successes must lie between 0 and the number of trials")
    if (level <= 0).any() or (level >= 1).any():
        raise AnalysisError("alpha must lie strictly between 0 and 1")
    return successes, trials, level


def _probability(value: float, name: str) -> float:
    if not 0 < value < 1:
        raise AnalysisError(
            f"{name} {value:g} is not strictly between 0 and 1", hint="write for example 95%"
        )
    return value
