"""A confidence sequence for a proportion, and deciding about a threshold with as few samples.

The intervals of all n hold together with probability 1 - alpha, so one may look after every sample
and stop when one likes; a stored (k, n) can be asked for another confidence later.
Source: algorithms.md A.4; Robbins 1970, mixture of likelihood ratios over Beta(1/2, 1/2).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from math import ceil, lgamma, log
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sommelier.analysis.bounds.intervals import Interval, risk_of
from sommelier.analysis.bounds.proportions import checked_counts
from sommelier.errors import AnalysisError

Floats = NDArray[np.float64]

GROWTH = 1.05  # look again when the samples grew by this factor: algorithms.md A.4
HALVINGS = 60


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a proportion reaches a threshold.

    verdict : 'above' (at least the threshold), 'below', or 'undecided' when the samples ran out.
    interval : two-sided and anytime-valid; its `samples` were used, `successes` among them.
    """

    verdict: Literal["above", "below", "undecided"]
    samples: int
    successes: int
    interval: Interval


def anytime_limits(k: ArrayLike, n: ArrayLike, alpha: float) -> tuple[Floats, Floats]:
    """(low, high) of the proportion behind k of n at any stopping time, for all n at once.

    {p: ln B(k + 1/2, n - k + 1/2) - ln B(1/2, 1/2) - k ln p - (n - k) ln(1 - p) < ln(1/alpha)}.
    `alpha` is the risk of both ends together. No trials: (0, 1).
    """
    if not 0 < alpha < 1:
        raise AnalysisError(f"alpha {alpha:g} is not strictly between 0 and 1")
    successes, trials = checked_counts(k, n)
    low = _lower(successes, trials, alpha)
    return low, np.asarray(1 - _lower(trials - successes, trials, alpha))


def decide(
    stream: Iterable[bool | np.bool_],
    threshold: float,
    *,
    confidence: float = 0.95,
    limit: int | None = None,
) -> Decision:
    """Whether the proportion of true samples is at least `threshold`, from a stream read lazily.

    stream : independent samples, e.g. whether two models agree; it is read up to n_t =
    ceil(1.05 n_{t-1}) samples at a time and no further than needed (or `limit`). A wrong verdict
    has probability at most 1 - confidence however long it takes.
    """
    alpha = risk_of(confidence).alpha
    if not 0 < threshold < 1:
        raise AnalysisError(f"threshold {threshold:g} is not strictly between 0 and 1")
    samples = iter(stream) if limit is None else islice(stream, limit)
    n = k = 0
    target = 1
    verdict: Literal["above", "below", "undecided"] = "undecided"
    while verdict == "undecided":
        seen = [bool(sample) for sample in islice(samples, target - n)]
        n, k = n + len(seen), k + sum(seen)
        if n and _evidence_against(threshold, k, n) >= log(1 / alpha):
            verdict = "above" if k > threshold * n else "below"
        if n < target:
            break
        target = ceil(GROWTH * n)
    low, high = anytime_limits(k, n, alpha)
    return Decision(
        verdict, n, k, Interval(float(low), float(high), confidence, "anytime", True, n)
    )


def _evidence_against(p: float, k: int, n: int) -> float:
    """Logarithm of the mixture's capital against the proportion p after k of n."""
    mixture = lgamma(k + 0.5) + lgamma(n - k + 0.5) - lgamma(n + 1) - 2 * lgamma(0.5)
    return mixture - k * log(p) - (n - k) * log(1 - p)


def _lower(k: Floats, n: Floats, alpha: float) -> Floats:
    """The root below k / n by halving (the evidence falls there); the rejected end is returned."""
    from scipy.special import betaln, xlog1py, xlogy

    mixture = betaln(k + 0.5, n - k + 0.5) - betaln(0.5, 0.5)
    rejected = np.zeros(k.shape)
    accepted = np.divide(k, n, out=np.zeros(k.shape), where=n > 0)
    for _ in range(HALVINGS):
        middle = (rejected + accepted) / 2
        surprising = mixture - xlogy(k, middle) - xlog1py(n - k, -middle) >= np.log(1 / alpha)
        rejected = np.where(surprising, middle, rejected)
        accepted = np.where(surprising, accepted, middle)
    return rejected
