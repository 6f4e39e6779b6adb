"""Where two models part: mean loss per class or slice, with intervals that hold together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sommelier.analysis.quality.estimates import mean
from sommelier.analysis.quality.measure import Array, Losses, same_length
from sommelier.records import NO_ANSWER


@dataclass(frozen=True, slots=True)
class Group:
    """Mean loss of the samples of one group; low, high hold for all groups of a breakdown at once.

    method : 'cp' (Clopper-Pearson) for losses that are 0 or 1 by definition, else 'betting'.
    """

    group: str
    samples: int
    mean: float
    low: float
    high: float
    method: str


def breakdown(
    losses: Losses,
    *,
    by: Array | Sequence[Any],
    names: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> tuple[Group, ...]:
    """Mean loss by group, largest first.

    losses : (n,) in [0, 1]; bool where they are 0 or 1 by definition. by : (n,) class ids or slice
    names; negative ids, NO_ANSWER and None are in no group. names : of integer groups. Each of G
    groups is bounded at 1 - (1 - confidence) / G (Bonferroni), so all intervals hold together with
    `confidence`.
    """
    keys = np.asarray(by)
    same_length(losses, keys)
    known = _known(keys)
    values, groups = np.asarray(losses)[known], keys[known]
    kinds = sorted(set(groups.tolist()))
    rows = []
    for kind in kinds:
        chosen = values[groups == kind]
        found = mean(chosen, confidence, groups=len(kinds))
        title = group_name(kind, names)
        rows.append(Group(title, len(chosen), found.value, found.low, found.high, found.method))
    return tuple(sorted(rows, key=lambda row: -row.mean))


def group_name(group: Any, names: Sequence[str] | None) -> str:
    """A class id by its name where there is one, anything else as it is written."""
    if group == NO_ANSWER:
        return "no answer"
    if names is not None and isinstance(group, int | np.integer) and 0 <= group < len(names):
        return str(names[int(group)])
    return str(group)


def _known(keys: Array) -> Array:
    if keys.dtype.kind in "iu":
        return np.asarray((keys >= 0) & (keys != NO_ANSWER))
    return np.array([key is not None for key in keys.tolist()], dtype=np.bool_)
