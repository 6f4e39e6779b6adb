"""Limits of the mean of values in [0, 1] by betting against each candidate mean.

A gambler who bets on "the values exceed m" cannot get rich if the mean is m: his capital K(m) is a
nonnegative martingale, and max_t K_t(m) >= 1/alpha has probability at most alpha (Ville). The lower
limit is where he stops getting rich. K falls with m, because both (x - m) and the largest allowed
bet 1/2m fall, so the limit is found by halving and not on a grid; the rejected end is returned.
Source: algorithms.md A.4; Waudby-Smith & Ramdas 2024, "hedged capital" with predictable plug-in.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sommelier.analysis.bounds.means import checked_values
from sommelier.errors import AnalysisError

Floats = NDArray[np.float64]

LARGEST_STAKE = 0.5  # of the capital on one sample; Waudby-Smith & Ramdas recommend 1/2 or 3/4
HALVINGS = 32  # the limits are within 2.4e-10 of the exact ones, on the safe side
BLOCK = 2**19  # numbers worked on at once: several arrays of them fit a cache
ROUNDING = 1e-9  # of a sum of up to a million logarithms


def betting_limits(
    values: ArrayLike, alpha: float, *, rng: np.random.Generator | None = None
) -> tuple[Floats, Floats]:
    """(low, high) of the mean of each row; values (..., n) in [0, 1], `alpha` the risk of each end.

    The samples are bet on in an order drawn by `rng`, the same for all rows (None: as they are,
    for samples that come in random order). Cost: 64 passes over the values. n = 0 gives (0, 1).
    Raises AnalysisError for values outside [0, 1].
    """
    if not 0 < alpha < 1:
        raise AnalysisError(f"alpha {alpha:g} is not strictly between 0 and 1")
    found = checked_values(values)
    count = found.shape[-1]
    if found.size == 0:
        return np.zeros(found.shape[:-1]), np.ones(found.shape[:-1])
    rows = found.reshape(-1, count)
    if rng is not None:
        rows = rows[:, rng.permutation(count)]
    step = max(1, BLOCK // count)
    blocks = [rows[start : start + step] for start in range(0, len(rows), step)]
    low = np.concatenate([_lower(block, alpha) for block in blocks])
    high = np.concatenate([1 - _lower(1 - block, alpha) for block in blocks])
    # both gamblers rich is one of the failures alpha pays for; an empty interval helps nobody
    return (
        np.minimum(low, high).reshape(found.shape[:-1]),
        np.maximum(low, high).reshape(found.shape[:-1]),
    )


def shown_below(values: ArrayLike, limit: float, alpha: float) -> NDArray[np.bool_]:
    """Whether the mean of each row is shown to be below `limit`, in (0, 1), at risk `alpha`.

    values (rows, n) in [0, 1]. True where the upper end of `betting_limits` is at most the limit,
    but for rounding; a 64th of its cost.
    """
    if not (0 < alpha < 1 and 0 < limit < 1):
        raise AnalysisError(f"alpha {alpha:g} and limit {limit:g} lie strictly between 0 and 1")
    room = 1 - checked_values(values)
    if room.shape[-1] == 0:
        return np.zeros(len(room), dtype=np.bool_)
    return _rich(room, _bets(room, alpha), np.full(len(room), 1 - limit), alpha)


def shuffled(counts: dict[float, int], *, seed: int = 0) -> Floats:
    """Samples with these counts per value, float64 (n,), in a random order.

    Counts say all there is to know about independent samples, but a gambler sees one at a time: the
    promise then includes the draw of the order. NOT a proved bound for an order that is the same
    each time the same counts are seen, as here so that answers repeat: few counts are likely at one
    rate, and their orders may all be unlucky (n = 500, rate .89: wrong 14 % of the time, not 5 %).
    """
    samples = np.repeat(list(counts), list(counts.values()))
    order = np.random.default_rng([seed, *counts.values()]).permutation(len(samples))
    return np.asarray(samples[order], dtype=np.float64)


def _lower(x: Floats, alpha: float) -> Floats:
    """Lower limits (rows,) of rows (rows, n), none above the mean but with probability alpha."""
    bets = _bets(x, alpha)
    rejected, accepted = np.zeros(len(x)), np.ones(len(x))  # nobody gets rich on "more than 1"
    for _ in range(HALVINGS):
        middle = (rejected + accepted) / 2
        rich = _rich(x, bets, middle, alpha)
        rejected, accepted = np.where(rich, middle, rejected), np.where(rich, accepted, middle)
    return rejected


def _rich(x: Floats, bets: Floats, mean: Floats, alpha: float) -> NDArray[np.bool_]:
    """Whether who bets that rows (rows, n) exceed `mean` (rows,) ever multiplies his capital by
    1 / alpha."""
    stake = np.minimum(bets, LARGEST_STAKE / mean[:, None])
    stake *= x - mean[:, None]
    capital = np.cumsum(np.log1p(stake, out=stake), axis=1, out=stake).max(axis=1)
    return np.asarray(capital >= np.log(1 / alpha) + ROUNDING)


def _bets(x: Floats, alpha: float) -> Floats:
    """What is bet on each sample, from the variance of the samples before it (rows, n)."""
    count = x.shape[1]
    seen = np.arange(1, count + 1) + 1.0
    mean = (0.5 + np.cumsum(x, axis=1)) / seen
    variance = (0.25 + np.cumsum((x - mean) ** 2, axis=1)) / seen
    before = np.concatenate([np.full((len(x), 1), 0.25), variance[:, :-1]], axis=1)
    return np.asarray(np.sqrt(2 * np.log(1 / alpha) / (count * before)), dtype=np.float64)
