"""Cascades that promise nothing: by the share that is sent on, or by a threshold by hand."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np
from numpy.typing import ArrayLike

from sommelier.analysis.cascades.calibration import (
    Calibration,
    Options,
    described,
    ranking,
    route_of,
)
from sommelier.analysis.cascades.members import Member, checked


def escalating(
    members: Sequence[Member],
    losses: Sequence[ArrayLike],
    share: float,
    *,
    options: Options | None = None,
) -> Calibration:
    """The cascade of which each stage sends on at most `share` of the samples that reach it.

    Nothing is promised. Its scores are those that best tell what an answer loses (`ranking`), of
    the samples that reach the stage, or of all where none does. Raises AnalysisError.
    """
    checked(members)
    left = np.arange(len(members[0]))
    chosen = []
    for one, values in zip(members[:-1], losses, strict=True):
        rows = left if len(left) else np.arange(len(one))
        reached = one.rows(rows)
        name, _ = ranking(reached, np.asarray(values, np.float64)[rows], options or Options())[0]
        rising = np.sort(np.where(np.isnan(reached.score(name)), -inf, reached.score(name)))
        threshold = float(rising[min(int(share * len(rising) + 1e-9), len(rising) - 1)])
        chosen.append((name, 1.0, threshold))
        left = left[~(one.score(name)[left] >= threshold)]
    reason = (
        f"each model but the last sends on at most {100 * share:g}% of the samples that reach it;"
        " nothing is promised"
    )
    given = [np.asarray(values, np.float64) for values in losses]
    return described(members, given, route_of(members, chosen), None, reason)


def by_hand(
    members: Sequence[Member], losses: Sequence[ArrayLike], chosen: Sequence[tuple[str, float]]
) -> Calibration:
    """The cascade with these scores and thresholds, of each stage but the last; it promises
    nothing. Raises AnalysisError for a member that has no such score."""
    checked(members)
    given = [np.asarray(values, np.float64) for values in losses]
    route = route_of(members, [(score, 1.0, threshold) for score, threshold in chosen])
    return described(members, given, route, None, "thresholds set by hand; nothing is promised")
