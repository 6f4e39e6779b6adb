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
    return _sorted(rows, keys)


def _sorted(rows: Rows, keys: Sequence[SortKey]) -> Rows:
    """All rows in order; a key is read only for rows that tie on those before it."""
    rows = np.sort(rows)
    tied = np.arange(len(rows))  # places whose rows tie with a neighbour's
    group = np.zeros(len(rows), dtype=np.int64)  # of each tied place, ascending
    for key in keys:
        if len(tied) < 2:
            break
        values = key.ascending(rows[tied])
        order = np.lexsort((values, group))  # stable: equal rows stay in row order
        rows[tied], values = rows[tied[order]], values[order]
        first = np.ones(len(tied) + 1, dtype=bool)  # of its group; one more for the end
        first[1:-1] = (values[1:] != values[:-1]) | (group[1:] != group[:-1])
        still = ~(first[:-1] & first[1:])
        if not still.any():
            break
        tied, group = tied[still], np.cumsum(first[:-1])[still]
    return rows


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
    by their axes, so that none is beaten by a later one: each is compared with the front so far.
    """
    at = _hardly_beaten(costs)
    at = at[np.lexsort(costs[at].T[::-1])]
    rows = costs[at]
    kept = np.zeros(len(rows), dtype=bool)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        alive = np.flatnonzero(~_beaten(block, rows[:start][kept[:start]]))
        alive = alive[~_beaten(block[alive], block[alive])]
        kept[start + alive] = True
    front = np.zeros(len(costs), dtype=bool)
    front[at[kept]] = True
    return front


def _hardly_beaten(costs: Floats) -> Rows:
    """The rows that a few good ones do not beat: most of the others go before any sorting."""
    left = np.arange(len(costs))
    if len(costs) <= _BLOCK or not np.isfinite(costs).all():
        return left
    scale = costs.std(axis=0)
    scaled = (costs - costs.min(axis=0)) / np.where(scale > 0, scale, 1.0)
    axes = costs.shape[1]
    for weights in (np.ones(axes), *(np.eye(axes) + 0.2), *(np.eye(axes) + 0.02)):
        best = left[np.argmin(scaled[left] @ weights)]
        left = left[~_beaten(costs[left], costs[best : best + 1])]
    return left


_BLOCK = 512  # rows compared with the front at once: bounds the memory, not the answer


def _beaten(rows: Floats, by: Floats) -> NDArray[np.bool_]:
    """Which rows some row of `by` beats: no worse on any axis, better on one."""
    if not len(by) or not len(rows):
        return np.zeros(len(rows), dtype=bool)
    no_worse = np.ones((len(rows), len(by)), dtype=bool)
    better = np.zeros((len(rows), len(by)), dtype=bool)
    for axis in range(rows.shape[1]):
        no_worse &= by[None, :, axis] <= rows[:, None, axis]
        better |= by[None, :, axis] < rows[:, None, axis]
    return np.asarray((no_worse & better).any(axis=1))
