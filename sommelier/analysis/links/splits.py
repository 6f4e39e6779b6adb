"""Which samples a link learns from, is tuned on, and is judged on: disjoint, drawn by a seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.links.formats import LinkAnswers
from sommelier.errors import AnalysisError

Indices = NDArray[np.int64]

HELD_OUT = 0.3
VALIDATION = 0.15  # algorithms.md E.1: early stopping on 15 % of the data
LEAST = (8, 4, 8)  # samples to learn from, to tune on, to judge on


@dataclass(frozen=True, slots=True)
class Split:
    """Positions of samples, int64, sorted, disjoint; together they are all samples.

    train : the link's numbers are fitted to them. validation : choices are made on them (when to
    stop, which link of several). held_out : nothing is, so they alone say how good a link is.
    """

    train: Indices
    validation: Indices
    held_out: Indices


def split(
    n: int, seed: int, *, held_out: float = HELD_OUT, validation: float = VALIDATION
) -> Split:
    """A random Split of n samples, the same for the same arguments; both shares are of n.

    Raises AnalysisError for shares that leave nothing, and for fewer samples than `LEAST` in any
    part; the message says how many are needed.
    """
    if not (0 < held_out < 1 and 0 < validation < 1 and held_out + validation < 1):
        raise AnalysisError(
            f"{held_out:g} of the samples held out and {validation:g} for validation",
            hint="both are shares above 0 that leave some samples to learn from",
        )
    judged, tuned = round(n * held_out), round(n * validation)
    parts = (n - judged - tuned, tuned, judged)
    if any(size < least for size, least in zip(parts, LEAST, strict=True)):
        raise AnalysisError(
            f"{n} samples are too few to learn from and to judge by: at least "
            f"{least_samples(held_out, validation)} are needed",
            hint="give more samples",
        )
    order = np.random.default_rng(seed).permutation(n).astype(np.int64)
    cuts = np.split(order, [judged, judged + tuned])
    held, valid, train = (np.sort(part) for part in cuts)
    return Split(train, valid, held)


def least_samples(held_out: float = HELD_OUT, validation: float = VALIDATION) -> int:
    """How many samples always suffice for `split` with these shares."""
    shares = (1 - held_out - validation, validation, held_out)
    # rounding takes less than one sample from any part
    return max(math.ceil((least + 1) / share) for least, share in zip(LEAST, shares, strict=True))


def answered(target: LinkAnswers, split: Split) -> Split:
    """The split without samples that the target has no answer to.

    Raises AnalysisError where nothing is left to learn from or to stop by.
    """
    known = target.answered
    train, validation, held_out = (
        rows[known[rows]] for rows in (split.train, split.validation, split.held_out)
    )
    if not (len(train) and len(validation)):
        raise AnalysisError(
            f"the target answered {len(train)} of {len(split.train)} training samples and "
            f"{len(validation)} of {len(split.validation)} for validation: too few for a link"
        )
    return Split(train, validation, held_out)
