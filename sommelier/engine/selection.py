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
) -> tuple[Rows, int]:
    """(the chosen rows, best first; how many were left out because a key is unknown)."""
    if pick.kind == "random":
        size = len(rows) if pick.top is None else min(pick.top, len(rows))
        chosen = np.random.default_rng(pick.seed).choice(len(rows), size=size, replace=False)
        return rows[chosen], 0
    known = np.ones(len(rows), dtype=bool)
    for key in keys:
        known &= ~np.isnan(np.asarray(key.values(rows), dtype=np.float64))
    candidates = rows[known]
    unknown = len(rows) - len(candidates)
    if pick.kind == "pareto":
        candidates = candidates[pareto_front(_costs(candidates, keys))]
    return ordered(candidates, [*keys, *ties], pick.top), unknown


def _costs(rows: Rows, keys: Sequence[SortKey]) -> NDArray[np.float64]:
    """(rows, axes), lower is better."""
    if not keys:
        return np.zeros((len(rows), 1))
    return np.stack([key.ascending(rows) for key in keys], axis=1)
