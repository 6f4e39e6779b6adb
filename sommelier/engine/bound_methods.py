"""How a count of agreements becomes a lower bound: Clopper-Pearson unless the question says else.

Each is a function of sommelier.analysis.bounds over arrays of counts. 'observed' is what
generalization = off asks for: no bound at all. 'spectral' says nothing about a pair of models, so
that no row has an equivalence. docs/bounds.md says what each assumes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sommelier.confidence import lower_bound, upper_bound

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
Limits = tuple[Floats, Floats]

MOST_SAMPLES = 2**20  # beyond which nobody is told how many probes are needed
BETS_AT_ONCE = 2**20  # float64 numbers in memory


@dataclass(frozen=True, slots=True)
class BoundMethod:
    """limits : (counts, samples, alpha) -> (low, high), each end wrong with probability <= alpha.

    proved : a theorem says so for every number of samples. nested : a smaller alpha never gives a
    higher low end, which stepwise corrections need. strict : more agreements always give a higher
    low end, so that agreements sort as bounds do.
    """

    name: str
    limits: Callable[[Counts, int, float], Limits]
    proved: bool = True
    nested: bool = True
    strict: bool = False

    @property
    def bounds(self) -> bool:
        """Whether there are bounds at all."""
        return self.limits not in (_observed, _nothing)

    @property
    def counts(self) -> bool:
        """Whether the bound is made from a count of agreements."""
        return self.bounds and self.limits is not _of_datasets


def limits_by_count(method: BoundMethod, counts: Counts, samples: int, alpha: float) -> Limits:
    """The limits of each count; equal counts are computed once."""
    if not len(counts):
        return np.empty(0), np.empty(0)
    distinct, inverse = np.unique(counts, return_inverse=True)
    low, high = method.limits(distinct, samples, alpha)
    return low[inverse], high[inverse]


def _cp(counts: Counts, samples: int, alpha: float) -> Limits:
    return lower_bound(counts, samples, alpha), upper_bound(counts, samples, alpha)


def _observed(counts: Counts, samples: int, _alpha: float) -> Limits:
    rates = counts / max(1, samples)
    return rates, rates.copy()


def _nothing(counts: Counts, _samples: int, _alpha: float) -> Limits:
    return np.full(len(counts), np.nan), np.full(len(counts), np.nan)


def _of_datasets(_counts: Counts, _samples: int, _alpha: float) -> Limits:
    raise TypeError("a bound about a new dataset is made from datasets, not from one count")


def _betting(counts: Counts, samples: int, alpha: float) -> Limits:
    from sommelier.analysis.bounds.betting import betting_limits, shuffled

    low, high = np.empty(len(counts)), np.empty(len(counts))
    step = max(1, BETS_AT_ONCE // max(1, samples))
    for start in range(0, len(counts), step):
        block = slice(start, start + step)
        orders = [shuffled({1.0: k, 0.0: samples - k}) for k in counts[block].tolist()]
        low[block], high[block] = betting_limits(np.stack(orders), alpha)
    return low, high


def _anytime(counts: Counts, samples: int, alpha: float) -> Limits:
    from sommelier.analysis.bounds.anytime import anytime_limits

    return anytime_limits(counts, samples, alpha)


def _wilson(counts: Counts, samples: int, alpha: float) -> Limits:
    from sommelier.analysis.bounds.proportions import wilson_limits

    return wilson_limits(counts, samples, alpha)


def _hoeffding(counts: Counts, samples: int, alpha: float) -> Limits:
    from sommelier.analysis.bounds.means import hoeffding_limits

    return hoeffding_limits(counts / max(1, samples), samples, alpha)


def _bernstein(counts: Counts, samples: int, alpha: float) -> Limits:
    from sommelier.analysis.bounds.means import bernstein_limits

    rates = counts / max(1, samples)
    variance = rates * (1 - rates) * samples / max(1, samples - 1)
    return bernstein_limits(rates, variance, samples, alpha)


CP = BoundMethod("cp", _cp, strict=True)
METHODS = {
    method.name: method
    for method in (
        CP,
        # counts tell no order to bet in (analysis.bounds); what is staked depends on alpha
        BoundMethod("betting", _betting, proved=False, nested=False),
        BoundMethod("anytime", _anytime),
        BoundMethod("wilson", _wilson, proved=False),
        BoundMethod("hoeffding", _hoeffding),
        BoundMethod("bernstein", _bernstein),
        BoundMethod("observed", _observed, proved=False, strict=True),
        BoundMethod("spectral", _nothing, proved=False, strict=True),
        BoundMethod("minimum", _of_datasets),
        BoundMethod("prediction", _of_datasets, proved=False),
    )
}
"""By name; 'auto' is Clopper-Pearson."""


def samples_needed(threshold: float, alpha: float, method: BoundMethod = CP) -> int | None:
    """The fewest probes that can show `threshold`, all of them agreeing; None if none can.

    >>> samples_needed(0.99, 0.05), samples_needed(0.95, 0.05), samples_needed(1.0, 0.05)
    (299, 59, None)
    """
    if not 0 < threshold < 1:
        return None if threshold >= 1 else 0
    if method is CP:
        return math.ceil(math.log(alpha) / math.log(threshold) - 1e-9)
    few, enough = 0, 1
    while not _shows(method, enough, threshold, alpha):
        few, enough = enough, 2 * enough
        if enough > MOST_SAMPLES:
            return None
    while enough - few > 1:
        middle = (few + enough) // 2
        shown = _shows(method, middle, threshold, alpha)
        few, enough = (few, middle) if shown else (middle, enough)
    return enough


def _shows(method: BoundMethod, samples: int, threshold: float, alpha: float) -> bool:
    """Whether `samples` agreements of as many reach the threshold."""
    low, _ = method.limits(np.array([samples]), samples, alpha)
    return bool(low[0] >= threshold)
