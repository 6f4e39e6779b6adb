"""What one comparison says about another: bounds by the triangle inequality (Sommelier 5.2).

With d the share of samples on which two models answer differently,
|d(X,Y) - d(Y,Z)| <= d(X,Z) <= d(X,Y) + d(Y,Z). It holds exactly on one common probe set, and for
the population when the probe sets differ, provided that "same class" means the same in all three
comparisons and that all probe sets sample one population (algorithms.md C.1).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from sommelier.confidence import clopper_pearson


@dataclass(frozen=True, slots=True)
class TransitiveBounds:
    """Bounds on the agreement of models that share no probe set with the reference.

    rows : model rows, best `low` first. low, high : (n,) tightest over the intermediates, computed
    from the observed shares; they are estimates until `interval` puts confidence on them.
    low_legs, high_legs : int64 (n, 4) = agreements and samples of (reference, intermediate), then
    of (intermediate, candidate), for the intermediate that gave low, and the one that gave high.
    low_via, high_via : (n,) rows of those intermediates. intermediates : how many could have been
    tried, those left out because of their counts included; choosing the best of them is what
    `interval` pays for.
    """

    rows: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    low_legs: NDArray[np.int64]
    high_legs: NDArray[np.int64]
    low_via: NDArray[np.int64]
    high_via: NDArray[np.int64]
    intermediates: int

    def taken(self, at: NDArray[np.int64]) -> TransitiveBounds:
        """The bounds of the rows at these positions."""
        arrays = [f.name for f in fields(self) if f.name != "intermediates"]
        return replace(self, **{name: getattr(self, name)[at] for name in arrays})

    def interval(self, confidence: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(low, high) that hold together, per row, with probability >= `confidence`.

        Each of the 2 x intermediates legs gets a Clopper-Pearson interval at
        alpha / (2 x intermediates), two-sided, so that the choice of intermediate is paid for: all
        intervals of all intermediates hold together, whichever were looked at.
        """
        leg = 1 - (1 - confidence) / (2 * max(1, self.intermediates))
        low_1, _ = clopper_pearson(self.low_legs[:, 0], self.low_legs[:, 1], leg)
        low_2, _ = clopper_pearson(self.low_legs[:, 2], self.low_legs[:, 3], leg)
        a_low, a_high = clopper_pearson(self.high_legs[:, 0], self.high_legs[:, 1], leg)
        b_low, b_high = clopper_pearson(self.high_legs[:, 2], self.high_legs[:, 3], leg)
        gap = np.maximum(np.maximum(a_low - b_high, b_low - a_high), 0.0)
        return np.maximum(low_1 + low_2 - 1, 0.0), 1 - gap


@dataclass(frozen=True, slots=True)
class Leg:
    """An intermediate: its agreement with the reference, and with candidates on another probe set.

    row : the intermediate's. agreements of samples : with the reference. rows, counts : candidates
    and their agreements with the intermediate, of `candidate_samples`.
    """

    row: int
    agreements: int
    samples: int
    rows: NDArray[np.int64]
    counts: NDArray[np.int64]
    candidate_samples: int


def transitive_bounds(legs: list[Leg], considered: int) -> TransitiveBounds | None:
    """The tightest bounds over all legs, for every candidate that one of them reaches.

    considered : the intermediates that the legs were chosen from by their counts; at least as many
    as there are legs.
    """
    legs = [leg for leg in legs if len(leg.rows)]
    if not legs:
        return None
    rows = np.unique(np.concatenate([leg.rows for leg in legs]))
    low, high = np.full(len(rows), -np.inf), np.full(len(rows), np.inf)
    low_legs = np.zeros((len(rows), 4), dtype=np.int64)
    high_legs = np.zeros((len(rows), 4), dtype=np.int64)
    low_via, high_via = np.full((2, len(rows)), -1, dtype=np.int64)
    for leg in legs:
        at = np.searchsorted(rows, leg.rows)
        near = leg.agreements / leg.samples
        far = leg.counts / leg.candidate_samples
        numbers = np.empty((len(at), 4), dtype=np.int64)
        numbers[:, :2] = leg.agreements, leg.samples
        numbers[:, 2], numbers[:, 3] = leg.counts, leg.candidate_samples
        lower, upper = near + far - 1, 1 - np.abs(near - far)
        better = lower > low[at]
        low[at[better]], low_legs[at[better]] = lower[better], numbers[better]
        low_via[at[better]] = leg.row
        better = upper < high[at]
        high[at[better]], high_legs[at[better]] = upper[better], numbers[better]
        high_via[at[better]] = leg.row
    order = np.lexsort((rows, -low))
    return TransitiveBounds(
        rows[order], np.maximum(low, 0.0)[order], high[order], low_legs[order], high_legs[order],
        low_via[order], high_via[order], max(considered, len(legs)),
    )  # fmt: skip
