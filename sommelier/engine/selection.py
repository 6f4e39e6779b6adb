"""PICK: the best few by a key, the Pareto front, or a seeded random choice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sommelier.engine.ordering import SortKey, ordered, pareto_front
from sommelier.engine.plan import PickPlan

Rows = NDArray[np.int64]


def pick_rows(
    pick: PickPlan, rows: Rows, keys: Sequence[SortKey], ties: Sequence[SortKey]
) -> tuple[Rows, list[int]]:
    """(the chosen rows, best first; for how many rows each key is unknown, so left out)."""
    if pick.kind == "random":
        size = len(rows) if pick.top is None else min(pick.top, len(rows))
        chosen = np.random.default_rng(pick.seed).choice(len(rows), size=size, replace=False)
        return rows[chosen], []
    missing = [np.isnan(np.asarray(key.values(rows), dtype=np.float64)) for key in keys]
    candidates = rows[~np.logical_or.reduce(missing)] if missing else rows
    unknown = [int(np.count_nonzero(mask)) for mask in missing]
    if pick.kind == "pareto":
        candidates = candidates[pareto_front(_costs(candidates, keys))]
    return ordered(candidates, [*keys, *ties], pick.top), unknown


def _costs(rows: Rows, keys: Sequence[SortKey]) -> NDArray[np.float64]:
    """(rows, axes), lower is better."""
    if not keys:
        return np.zeros((len(rows), 1))
    return np.stack([key.ascending(rows) for key in keys], axis=1)
