"""Why models are not compared with a reference, and how many for each reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from sommelier.storage.probe_roster import Roster

NO_ANSWERS = "not analysed for equivalence"
OTHER_PROBES = "analysed on other probe sets only"
Told = tuple[Roster, tuple[str | None, ...]]
"""A roster and, for each of its groups, why its models do not compare; None: they do."""


def reasons_counted(
    rosters: Iterable[Roster], told: Sequence[Told], compared: NDArray[np.bool_]
) -> dict[str, int]:
    """Reason -> number of models that are not `compared`, a truth value a model row. rosters : all
    there are. told : those the reference answered, best first.

    Of several reasons a model has the one of the best probe set it shares with the reference.
    """
    words = [NO_ANSWERS, OTHER_PROBES]
    why = np.zeros(len(compared), dtype=np.int32)  # places in `words`
    for roster in rosters:
        why[roster.rows] = 1
    for roster, reasons in reversed(told):
        codes = np.full(len(reasons), -1, dtype=np.int32)
        for group, reason in enumerate(reasons):
            if reason is not None:
                codes[group] = len(words)
                words.append(reason)
        of_row = codes[roster.group]
        why[roster.rows[of_row >= 0]] = of_row[of_row >= 0]
    counts: dict[str, int] = {}
    found, first, number = np.unique(why[~compared], return_index=True, return_counts=True)
    for place in np.argsort(first).tolist():
        word = words[found[place]]
        counts[word] = counts.get(word, 0) + int(number[place])
    return counts
