"""The lowest threshold of a score whose risk is proved, from n samples; scores and losses in.

The risk of a threshold t is the mean, over all inputs, of what is lost on those that are kept
(score >= t). Three proofs, each for independent samples and wrong with probability at most 1 -
confidence:

`kept_within`, losses of 0 or 1. The risk can only grow as t falls, and so can the number k(t) of
losses among the kept samples. Let t* be the largest threshold with a risk of at least `at_most`.
A threshold that is too low lies at or below t*, so k there is at least k(t*), which is binomial
with a rate of at least `at_most`: it is at most `largest_count_upper_below` with probability at
most 1 - confidence. So ANY threshold with at most that many losses may be used, also one that was
chosen by looking at them, without a grid and without a correction.

`gained_within`, losses of -1, 0 and 1 (what the last model gets right and the student wrong, and
the reverse), and `graded_within`, losses in [0, 1]: fixed-sequence testing. GRID was written down
before any sample was seen; its thresholds are tested from the most cautious on, until one fails.
The first of them that is too low passes with probability at most 1 - confidence, and none below it
is tested unless it passes; the risk need not be monotone.
Source: algorithms.md G.2; Angelopoulos et al. 2021, "Learn then Test", fixed-sequence testing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import inf

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sommelier.analysis.bounds.betting import shown_below
from sommelier.analysis.bounds.multiplicity import samples_needed
from sommelier.confidence import largest_count_upper_below, lower_bound, upper_bound
from sommelier.errors import AnalysisError

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

LOSSES_SHARE = 0.75  # of the risk, for what is lost; the rest for what is won: algorithms.md G.2
BLOCK = 2**19  # numbers worked on at once

_SIZES = np.geomspace(1e-12, 1e6, 2_000)
GRID: Floats = np.unique(np.concatenate([-_SIZES, _SIZES, 1 - _SIZES, [-inf, 0.0, 1.0]]))[::-1]
"""Thresholds of any score, falling, in steps of 2 % of the distance to 0 or 1, where they crowd."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """A threshold and the share of all samples that it keeps; inf keeps none, -inf all that have a
    score. lost : sum of the losses among them divided by all samples, an estimate of the risk."""

    value: float
    kept: float
    lost: float


NONE = Threshold(inf, 0.0, 0.0)


def kept_within(
    scores: ArrayLike, lost: ArrayLike, *, at_most: float, confidence: float
) -> Threshold:
    """The lowest threshold with P(kept and lost) <= at_most, with probability `confidence`.

    scores (n,), NaN is never kept; lost : bool (n,). inf where n is below `samples_needed`.
    """
    _check(at_most, confidence)
    falling = Falling.of(scores)
    counts = falling.sums(lost)
    allowed = largest_count_upper_below(falling.samples, at_most, 1 - confidence)
    return falling.keeping(int(np.searchsorted(counts, allowed, side="right")), counts)


def gained_within(
    scores: ArrayLike, change: ArrayLike, *, at_most: float, confidence: float
) -> Threshold:
    """The lowest threshold of GRID with a proved E[change of the kept] <= at_most.

    change : in {-1, 0, 1} (n,): 1 where only the last model is right, -1 where only the student.
    The rate of 1 is bounded from above at 3/4 of the risk, that of -1 from below at a quarter.
    """
    _check(at_most, confidence)
    falling = Falling.of(scores)
    changes = np.asarray(change, dtype=np.int64)
    lost, won = falling.sums(changes > 0), falling.sums(changes < 0)
    none = np.zeros(1, dtype=np.int64)  # what keeps no sample may keep others, and is tested too
    passes = gain_passes(
        np.append(none, lost), np.append(none, won), falling.samples,
        at_most=at_most, confidence=confidence,
    )  # fmt: skip
    return falling.followed(passes, lost - won)


def gain_passes(
    lost: ArrayLike, won: ArrayLike, samples: int, *, at_most: float, confidence: float
) -> NDArray[np.bool_]:
    """Whether lost / n - won / n is shown to be at most `at_most` by each pair of counts alone."""
    most, least = _tables(samples, 1 - confidence)
    return np.asarray(most[_index(lost)] - least[_index(won)] <= at_most)


def graded_within(
    scores: ArrayLike, losses: ArrayLike, *, at_most: float, confidence: float
) -> Threshold:
    """The lowest threshold of GRID with a proved E[loss of the kept] <= at_most.

    losses : in [0, 1] (n,), as 1 - F1 of two sets of boxes, or an error cut off at a stated size.
    Proved by betting on the samples in their order, which must not depend on their values.
    """
    _check(at_most, confidence)
    falling, values = Falling.of(scores), np.asarray(losses, dtype=np.float64)
    passes = np.zeros(falling.groups + 1, dtype=np.bool_)
    for block in _blocks(np.unique(falling.on_grid()), falling.samples):
        kept = falling.place[None, :] < block[:, None]
        passes[block] = shown_below(np.where(kept, values, 0.0), at_most, 1 - confidence)
        if not passes[block].all():
            break
    return falling.followed(passes, falling.sums(np.where(np.isnan(scores), 0.0, values)))


def needed(at_most: float, confidence: float, *, loss: str = "disagreement") -> int:
    """The fewest samples that let any threshold pass, if nothing at all is lost on them."""
    _check(at_most, confidence)
    if loss == "loss":
        return _bets_needed(at_most, 1 - confidence)
    risk = (1 - confidence) * (LOSSES_SHARE if loss == "accuracy drop" else 1.0)
    return samples_needed(1 - at_most, confidence=1 - risk)


@dataclass(frozen=True, slots=True)
class Falling:
    """Samples in groups of equal score, the surest first.

    values : the scores of the groups (g,). ends : samples kept with each group (g,). place : the
    group of each sample (n,), g of those without a score.
    """

    values: Floats
    ends: Counts
    place: Counts

    @classmethod
    def of(cls, scores: ArrayLike) -> Falling:
        """The groups of these scores (n,)."""
        given = np.asarray(scores, dtype=np.float64)
        if given.ndim != 1 or not len(given):
            raise AnalysisError(f"scores of shape {list(given.shape)}, where (n,) are needed")
        values, place = np.unique(-given, return_inverse=True)  # NaN is last, and one group
        count = len(values) - int(np.isnan(values[-1]))
        sizes = np.bincount(place, minlength=count)[:count]
        return cls(-values[:count], np.cumsum(sizes), place.astype(np.int64))

    @property
    def samples(self) -> int:
        return len(self.place)

    @property
    def groups(self) -> int:
        return len(self.values)

    def sums(self, losses: ArrayLike) -> Floats:
        """Sums (g,) of values (n,) over the samples kept with each group."""
        weights = np.asarray(losses, dtype=np.float64)
        return np.cumsum(np.bincount(self.place, weights, self.groups + 1)[: self.groups])

    def on_grid(self) -> Counts:
        """How many groups each threshold of GRID keeps, rising (len(GRID),)."""
        return np.searchsorted(-self.values, -GRID, side="right")

    def keeping(self, groups: int, lost: Floats) -> Threshold:
        """A threshold that keeps this many groups, -inf for all. lost (g,) : sums.

        It lies half-way to the next group, as a rounding elsewhere must not lose a whole group.
        """
        if groups in (0, self.groups):
            return self._threshold(groups, lost, -inf)
        last, following = self.values[groups - 1], self.values[groups]
        middle = last + (following - last) / 2 if np.isfinite(last - following) else last
        return self._threshold(groups, lost, float(middle))

    def followed(self, passes: NDArray[np.bool_], lost: Floats) -> Threshold:
        """The lowest of GRID before the first that fails. passes (g + 1,) : by number of groups."""
        tested = self.on_grid()
        failed = np.flatnonzero(~passes[tested])
        last = (int(failed[0]) if len(failed) else len(tested)) - 1
        return NONE if last < 0 else self._threshold(int(tested[last]), lost, float(GRID[last]))

    def _threshold(self, groups: int, lost: Floats, value: float) -> Threshold:
        if groups == 0:
            return NONE
        kept, sums = float(self.ends[groups - 1]), float(lost[groups - 1])
        return Threshold(value, kept / self.samples, sums / self.samples)


@lru_cache(maxsize=8)
def _tables(samples: int, risk: float) -> tuple[Floats, Floats]:
    """Upper bounds of 0..n losses and lower bounds of 0..n gains, (n + 1,) each."""
    counts = np.arange(samples + 1)
    most = upper_bound(counts, samples, LOSSES_SHARE * risk)
    return most, lower_bound(counts, samples, (1 - LOSSES_SHARE) * risk)


def _index(counts: ArrayLike) -> Counts:
    return np.asarray(counts, dtype=np.int64)


def _blocks(groups: Counts, samples: int) -> Iterator[Counts]:
    step = max(1, BLOCK // max(samples, 1))
    for start in range(0, len(groups), step):
        yield groups[start : start + step]


@lru_cache(maxsize=32)
def _bets_needed(at_most: float, risk: float) -> int:
    """The fewest samples without any loss that the gambler of `graded_within` gets rich on."""

    def enough(samples: int) -> bool:
        return bool(shown_below(np.zeros((1, samples)), at_most, risk)[0])

    most = 1
    while not enough(most):
        most *= 2
    least = most // 2
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if enough(middle) else (middle, most)
    return most


def _check(at_most: float, confidence: float) -> None:
    if not (0 < at_most < 1 and 0 < confidence < 1):
        raise AnalysisError(
            f"a loss of at most {at_most:g} with confidence {confidence:g} cannot be promised",
            hint="both lie strictly between 0 and 1, as in WITHIN 1% ... CONFIDENCE 95%",
        )
