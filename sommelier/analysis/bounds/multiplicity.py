"""Statements about many candidates: the best of 200 looks better than it is.

The winner of 200 models that all disagree on 5 % of inputs shows 3.2 % on 1 000 probes, and its own
95 % bound holds .1 % of the time. Source: algorithms.md A.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil, log
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sommelier.analysis.bounds.dispatch import bound
from sommelier.analysis.bounds.intervals import Interval, risk_of
from sommelier.analysis.bounds.proportions import checked_counts
from sommelier.confidence import smallest_count
from sommelier.errors import AnalysisError

Floats = NDArray[np.float64]
Correction = Literal["none", "bonferroni", "holm", "bh", "by"]
CORRECTIONS: tuple[Correction, ...] = ("none", "bonferroni", "holm", "bh", "by")


class Verdict(StrEnum):
    """Whether a candidate was shown to reach a threshold.

    FAILS : it was not, and other answers on as many samples would have been. UNDECIDABLE : nothing
    it could have answered on so few samples would have been enough, and they do not refute it.
    """

    PASSES = "passes"
    FAILS = "fails"
    UNDECIDABLE = "undecidable"


@dataclass(frozen=True, slots=True)
class Winner:
    """One of the best on half A.

    ranked_by : its rate there, which flatters it. interval : from half B, for all winners at once.
    """

    candidate: int
    ranked_by: float
    interval: Interval


def p_values(k: ArrayLike, n: ArrayLike, threshold: float) -> Floats:
    """P(Bin(n, threshold) >= k): the exact p-value against "the rate is below the threshold"."""
    from scipy.special import betainc

    _check_threshold(threshold)
    successes, trials = checked_counts(k, n)
    tail = betainc(np.maximum(successes, 1.0), trials - successes + 1.0, threshold)
    return np.asarray(np.where(successes == 0, 1.0, tail), dtype=np.float64)


def adjusted(p: ArrayLike, correction: Correction) -> Floats:
    """p-values (K,) such that those <= alpha may be rejected together, in the order given.

    'bonferroni', 'holm' : the probability of one false statement or more is at most alpha. 'bh' :
    the expected share of false ones among those made is, for independent (or PRDS) p-values.
    'by' : the same under any dependence, as between candidates that answered the same probes.
    Source: Holm 1979; Benjamini & Hochberg 1995; Benjamini & Yekutieli 2001.
    """
    values = np.asarray(p, dtype=np.float64)
    count = len(values)
    if correction not in CORRECTIONS:
        raise AnalysisError(
            f"there is no correction {correction!r}", hint=f"one of {', '.join(CORRECTIONS)}"
        )
    if correction == "none" or not count:
        return values
    if correction == "bonferroni":
        return np.minimum(values * count, 1.0)
    order = np.argsort(values, kind="stable")
    ranked, ranks = values[order], np.arange(1, count + 1)
    if correction == "holm":
        stepped = np.maximum.accumulate(ranked * (count - ranks + 1))
    else:
        stepped = np.minimum.accumulate((ranked * (count / ranks))[::-1])[::-1]
        stepped = stepped * (_harmonic(count) if correction == "by" else 1.0)
    result = np.empty(count)
    result[order] = np.minimum(stepped, 1.0)
    return result


def judge(
    k: Sequence[int] | NDArray[np.integer],
    n: int,
    threshold: float,
    *,
    correction: Correction = "holm",
    confidence: float = 0.95,
) -> tuple[Verdict, ...]:
    """Which candidates reach the threshold, having k of n successes each."""
    alpha = risk_of(confidence).alpha
    counts = np.asarray(k)
    passes = adjusted(p_values(counts, n, threshold), correction) <= alpha
    perfect = float(adjusted(np.full(max(len(counts), 1), threshold**n), correction).max())
    decidable = perfect <= alpha
    refuted_below = n - smallest_count(n, 1 - threshold, alpha)  # P(Bin(n, t) <= this) <= alpha
    verdicts = []
    for passed, count in zip(passes, counts, strict=True):
        if passed:
            verdicts.append(Verdict.PASSES)
        elif decidable or count <= refuted_below:
            verdicts.append(Verdict.FAILS)
        else:
            verdicts.append(Verdict.UNDECIDABLE)
    return tuple(verdicts)


def samples_needed(threshold: float, *, confidence: float = 0.95, candidates: int = 1) -> int:
    """The fewest samples on which success at all of them shows a rate of at least `threshold`."""
    _check_threshold(threshold)
    alpha = risk_of(confidence, candidates=candidates).alpha
    return ceil(log(alpha) / log(threshold) * (1 - 1e-12))


def split(
    succeeded: NDArray[np.bool_],
    winners: int,
    *,
    confidence: float = 0.95,
    rng: np.random.Generator,
) -> tuple[Winner, ...]:
    """The `winners` best candidates on a random half A, bounded from below on half B.

    succeeded : (candidates, n). Half B knows nothing of the choice, so that the price is that of
    `winners` statements and not of all candidates: worth it where they are a small share.
    Raises AnalysisError with fewer than two samples or candidates than winners.
    """
    candidates, count = succeeded.shape
    if not 1 <= winners <= candidates or count < 2:
        raise AnalysisError(
            f"{winners} winners of {candidates} candidates on {count} samples: a split needs two "
            "samples, and from one winner to as many as there are candidates"
        )
    order = rng.permutation(count)
    first, second = order[: count // 2], order[count // 2 :]
    rates = succeeded[:, first].mean(axis=1)
    best = np.argsort(-rates, kind="stable")[:winners]
    return tuple(
        Winner(
            int(one),
            float(rates[one]),
            bound(
                "proportion",
                int(np.count_nonzero(succeeded[one, second])),
                len(second),
                confidence=confidence,
                side="lower",
                candidates=winners,
            ),
        )
        for one in best
    )


def _harmonic(count: int) -> float:
    return float(np.sum(1 / np.arange(1, count + 1)))


def _check_threshold(threshold: float) -> None:
    if not 0 < threshold < 1:
        raise AnalysisError(f"threshold {threshold:g} is not strictly between 0 and 1")
