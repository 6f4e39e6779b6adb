"""Sorting rows by several keys, and taking only the first few without sorting the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SortKey:
    """values(rows) -> one number per row, NaN where unknown. nulls_first : where those go."""

    values: Callable[[Rows], NDArray[Any]]
    descending: bool = False
    nulls_first: bool = False

    def ascending(self, rows: Rows) -> Floats:
        """The key as numbers that sort upwards, unknown ones at their end."""
        values = np.asarray(self.values(rows), dtype=np.float64)
        if self.descending:
            values = -values
        unknown = np.isnan(values)
        if unknown.any():
            values = np.where(unknown, -np.inf if self.nulls_first else np.inf, values)
        return values


def ordered(rows: Rows, keys: Sequence[SortKey], keep: int | None = None) -> Rows:
    """The rows in order, ties by row number; only the first `keep` of them if given.

    With `keep` the first key is partitioned, and further keys are read only for rows that tie at
    the edge: 10 of 100 000 rows cost one partition, not a sort.
    """
    if keep is not None and keep < len(rows):
        rows = _first(rows, keys, keep)
    if len(rows) < 2:
        return rows
    columns = [rows, *(key.ascending(rows) for key in reversed(keys))]
    return rows[np.lexsort(columns)]


def _first(rows: Rows, keys: Sequence[SortKey], keep: int) -> Rows:
    """Some order of the first `keep` rows."""
    if keep <= 0:
        return rows[:0]
    if not keys:
        return np.sort(rows)[:keep]
    values = keys[0].ascending(rows)
    edge = np.partition(values, keep - 1)[keep - 1]
    better, tied = rows[values < edge], rows[values == edge]
    missing = keep - len(better)
    if missing < len(tied):
        tied = _first(tied, keys[1:], missing)
    return np.concatenate([better, tied])


def pareto_front(costs: Floats) -> NDArray[np.bool_]:
    """Which rows no other row beats: at least as good on every axis and better on one.

    costs : (n, axes), lower is better, no NaN. Exact; equal rows stay together. Rows are sorted
    by their first axes, then each is compared with the front found so far: O(n x front).
    """
    n = len(costs)
    front = np.zeros(n, dtype=bool)
    if n == 0:
        return front
    distinct, inverse = np.unique(costs, axis=0, return_inverse=True)
    best = np.empty((0, costs.shape[1]))
    kept = np.zeros(len(distinct), dtype=bool)
    for start in range(0, len(distinct), _BLOCK):
        block = distinct[start : start + _BLOCK]
        alive = ~_dominated(block, best)
        at = np.flatnonzero(alive)
        at = at[~_dominated(block[at], block[at])]
        kept[start + at] = True
        best = np.concatenate([best, block[at]])
    front[:] = kept[inverse.reshape(-1)]
    return front


_BLOCK = 512  # rows compared with the front at once: bounds the memory, not the answer


def _dominated(rows: Floats, by: Floats) -> NDArray[np.bool_]:
    """Which rows some row of `by` beats. np.unique sorted them, so no later row can beat."""
    if not len(by) or not len(rows):
        return np.zeros(len(rows), dtype=bool)
    no_worse = np.ones((len(rows), len(by)), dtype=bool)
    better = np.zeros((len(rows), len(by)), dtype=bool)
    for axis in range(rows.shape[1]):
        no_worse &= by[None, :, axis] <= rows[:, None, axis]
        better |= by[None, :, axis] < rows[:, None, axis]
    return np.asarray((no_worse & better).any(axis=1))
