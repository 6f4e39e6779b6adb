"""Limits of accuracy(reference) - accuracy(candidate) on the same labelled samples.

b : samples only the reference gets right, c : only the candidate, of n. Samples that both get right
or both wrong do not widen the interval, which is worth a factor of 3 to 5 over two unpaired ones.
`alpha` is the risk of each end; limits lie in [-1, 1]. Source: algorithms.md A.4.
"""

from __future__ import annotations

from math import sqrt

from sommelier.analysis.bounds.betting import betting_limits, shuffled
from sommelier.confidence import paired_difference
from sommelier.errors import AnalysisError

HALVINGS = 60


def paired_cp_limits(b: int, c: int, n: int, alpha: float) -> tuple[float, float]:
    """Clopper-Pearson of b minus Clopper-Pearson of c, each at half the risk of an end. Proved."""
    _check(b, c, n)
    _, low, high = paired_difference(b, c, n, 1 - 2 * alpha)
    return low, high


def paired_betting_limits(b: int, c: int, n: int, alpha: float) -> tuple[float, float]:
    """Betting on the differences 1, -1 and 0, about 20 % narrower. NOT proved: see `shuffled`."""
    _check(b, c, n)
    halves = shuffled({1.0: b, 0.0: c, 0.5: n - b - c})  # (difference + 1) / 2
    low, high = betting_limits(halves, alpha)
    return 2 * float(low) - 1, 2 * float(high) - 1


def tango_limits(b: int, c: int, n: int, alpha: float) -> tuple[float, float]:
    """Where the score test for paired proportions accepts. NOT a proved bound: for display.

    Asymptotic; measured coverage 94.4-95.7 % for 95 %. Source: Tango 1998.
    """
    from scipy.special import ndtri

    _check(b, c, n)
    z = float(-ndtri(alpha))
    return _tango_lower(b, c, n, z), -_tango_lower(c, b, n, z)


def _tango_lower(b: int, c: int, n: int, z: float) -> float:
    """The difference below (b - c) / n whose score is z; the score falls with the difference."""
    low, high = -1.0, (b - c) / n
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _score(b, c, n, middle) >= z else (low, middle)
    return low


def _score(b: int, c: int, n: int, difference: float) -> float:
    """(b - c - n d) over its standard deviation at the likeliest rate of c given d."""
    linear = -b - c + (2 * n - b + c) * difference
    constant = -c * difference * (1 - difference)
    rate = (sqrt(max(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = n * (2 * rate + difference * (1 - difference))
    excess = b - c - n * difference
    return excess / sqrt(variance) if variance > 0 else float("inf") * (excess > 0)


def _check(b: int, c: int, n: int) -> None:
    if n <= 0 or b < 0 or c < 0 or b + c > n:
        raise AnalysisError(
            f"{b} samples that only the reference gets right and {c} that only the candidate does "
            f"are not counts of {n} samples"
        )
