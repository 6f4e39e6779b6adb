"""Common contiguous runs of two sequences, in order: an affine-gap dynamic programme.

algorithms.md B.1 step 4. Contiguity is required because a run is swapped as a whole; the paper's
"longest common sequence" leaves open whether it may have holes. O(len(a) * len(b)) steps, by rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sommelier.errors import AnalysisError

MAX_CELLS = 50_000_000
_NEVER = -(2**62)


def common_runs(
    first: Sequence[str], second: Sequence[str], weights: Sequence[int], *, penalty: int
) -> list[tuple[int, int, int]]:
    """(start in first, start in second, length) of the runs of greatest total weight, in order.

    weights : of the items of `first`, >= 0, integers so that ties are exact. penalty : what opening
    a run costs. Of equally good answers the one that matches early items first.

    >>> common_runs("stem a a a head".split(), "stem a a head".split(), [9, 1, 1, 1, 9], penalty=1)
    [(0, 0, 3), (4, 3, 1)]
    """
    n, m = len(first), len(second)
    if n * m > MAX_CELLS:
        raise AnalysisError(f"sequences of {n} and {m} operators are too long to compare")
    numbers = {symbol: i for i, symbol in enumerate(dict.fromkeys((*first, *second)))}
    other = np.array([numbers[symbol] for symbol in second], np.int64)
    total = np.zeros((n + 1, m + 1), np.int64)  # best of the prefixes
    matched = np.zeros((n + 1, m + 1), np.bool_)  # whether that best ends with a matched pair
    continued = np.zeros((n + 1, m + 1), np.bool_)  # whether that pair continues a run
    ending = np.full(m + 1, _NEVER, np.int64)  # best that ends with the pair (i, j)
    for i in range(1, n + 1):
        same = other == numbers[first[i - 1]]
        opened = total[i - 1, :-1] - penalty
        goes_on = ending[:-1] > opened
        pair = np.where(goes_on, ending[:-1], opened) + weights[i - 1]
        ending = np.concatenate([[_NEVER], np.where(same, pair, _NEVER)])
        continued[i, 1:] = goes_on & same
        best = np.maximum(total[i - 1], ending)
        total[i] = np.maximum.accumulate(best)
        before = np.concatenate([[_NEVER], total[i, :-1]])
        matched[i] = (ending > total[i - 1]) & (ending > before)
    return _backtrack(total, matched, continued)


def _backtrack(
    total: NDArray[np.int64], matched: NDArray[np.bool_], continued: NDArray[np.bool_]
) -> list[tuple[int, int, int]]:
    i, j = total.shape[0] - 1, total.shape[1] - 1
    runs = []
    while i > 0 and j > 0:
        if not matched[i, j]:
            i, j = (i - 1, j) if total[i - 1, j] == total[i, j] else (i, j - 1)
            continue
        end = i
        while continued[i, j]:
            i, j = i - 1, j - 1
        i, j = i - 1, j - 1
        runs.append((i, j, end - i))
    return runs[::-1]
