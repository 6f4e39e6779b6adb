"""Which score to route by, how to temper it, and the thresholds that are not proved.

Source: Geifman & El-Yaniv 2017 (risk-coverage curves), Guo et al. 2017 (temperature), EBJR section
3.1 (density crossing), algorithms.md G.1-G.2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sommelier.analysis.cascades.thresholds import Falling
from sommelier.analysis.probabilities import softmax
from sommelier.errors import AnalysisError

Floats = NDArray[np.float64]

COLDEST, HOTTEST = 1e-2, 1e2  # temperatures that are looked at
HALVINGS = 50
POINTS = 512  # at which two densities are compared
FEWEST = 2  # samples of each kind, for a density


def aurc(scores: ArrayLike, losses: ArrayLike) -> float:
    """Area under the risk-coverage curve: the mean loss of the surest m samples, averaged over m.

    Samples of equal score count with their mean loss, as in the mean over all their orders. A
    NaN score comes last. Lower is better; a score that knows nothing has the mean loss.
    """
    falling, given = Falling.of(scores), np.asarray(losses, dtype=np.float64)
    sizes = np.bincount(falling.place, minlength=falling.groups + 1)
    totals = np.bincount(falling.place, given, falling.groups + 1)
    means = np.divide(totals, sizes, out=np.zeros_like(totals), where=sizes > 0)
    spread = means[np.sort(falling.place)]
    return float((np.cumsum(spread) / np.arange(1, len(spread) + 1)).mean())


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The T in [.01, 100] that makes `labels` likeliest under softmax(logits / T).

    logits (n, classes), labels (n,): true classes, or the teacher's answers where none are known.
    The log-likelihood is concave in 1/T, so its slope is halved to 0 there. Rows with an infinite
    or NaN logit are left out; without any row T = 1.
    """
    values, wanted = np.asarray(logits, np.float64), np.asarray(labels, np.int64)
    usable = np.isfinite(values).all(axis=1) & (wanted >= 0)
    values, wanted = values[usable], wanted[usable]
    if not len(values):
        return 1.0
    values = values - values.max(axis=1, keepdims=True)
    own = values[np.arange(len(values)), wanted].mean()
    low, high = np.log(1 / HOTTEST), np.log(1 / COLDEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        expected = (softmax(values * np.exp(middle)) * values).sum(axis=1).mean()
        low, high = (middle, high) if own > expected else (low, middle)
    return float(np.exp(-(low + high) / 2))


def crossing_threshold(scores: ArrayLike, lost: ArrayLike) -> float:
    """Where the density of the scores that lose nothing overtakes that of those that do.

    lost : bool (n,). EBJR's threshold: kernel densities (Gaussian, Scott's width) of both kinds,
    and of their crossings the last one upwards. It aims at no accuracy and promises none: it
    violated a target of 1 point in 63-80 % of calibrations by energy, and sends on half as many
    inputs again as needed by margin (algorithms.md G.2).
    Raises AnalysisError with fewer than two different scores of either kind.
    """
    values, bad = np.asarray(scores, np.float64), np.asarray(lost, dtype=np.bool_)
    known = np.isfinite(values)
    right, wrong = values[known & ~bad], values[known & bad]
    for found, kind in ((right, "lose nothing"), (wrong, "lose something")):
        if len(np.unique(found)) < FEWEST:
            raise AnalysisError(
                f"{len(found)} samples that {kind} are too few for a density crossing",
                hint="use a threshold with a guarantee, which needs no samples that lose",
            )
    at = np.linspace(values[known].min(), values[known].max(), POINTS)
    ahead = _density(right, at) > _density(wrong, at)
    upwards = np.flatnonzero(~ahead[:-1] & ahead[1:])
    return float(at[upwards[-1] + 1]) if len(upwards) else float(at[0] if ahead[0] else np.inf)


def _density(values: Floats, at: Floats) -> Floats:
    width = values.std(ddof=1) * len(values) ** -0.2
    bells = np.exp(-(((at[:, None] - values[None, :]) / width) ** 2) / 2)
    return np.asarray(bells.mean(axis=1) / width)
