"""Two sequences aligned so that nothing is guessed: only pairs that every best alignment has.

Needleman-Wunsch without a price for gaps, forwards and backwards. In ten equal blocks against eight
many alignments are equally good; none of their pairs is in all of them, and none is answered.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sommelier.errors import AnalysisError

Scores = NDArray[np.int64]
MAX_CELLS = 50_000_000


def certain_pairs(scores: Scores) -> list[tuple[int, int]]:
    """(i, j) of all pairs that are in every alignment of greatest total score, ascending.

    scores : int64 (n, m), the worth of aligning i with j; 0 or less where they cannot be.
    O(n m). Raises AnalysisError for more than 50 million cells.

    >>> certain_pairs(np.array([[5, 0, 0], [0, 2, 2], [0, 0, 0]]))
    [(0, 0)]
    """
    n, m = scores.shape
    if n * m > MAX_CELLS:
        raise AnalysisError(f"models of {n} and {m} layers are too long to align")
    ahead = _prefixes(scores)
    behind = _prefixes(scores[::-1, ::-1])[::-1, ::-1]  # [i, j] : best of what begins there
    total = ahead[n, m]
    through = ahead[:-1, :-1] + scores + behind[1:, 1:]
    best = (through == total) & (scores > 0)
    left_out = (ahead[:-1] + behind[1:]).max(axis=1) == total  # some best alignment skips i
    single = (best.sum(axis=1) == 1) & ~left_out
    return [(int(i), int(np.argmax(best[i]))) for i in np.flatnonzero(single)]


def _prefixes(scores: Scores) -> Scores:
    """[i, j] : the greatest total of the first i against the first j."""
    n, m = scores.shape
    best = np.zeros((n + 1, m + 1), np.int64)
    for i in range(n):
        taken = best[i, :-1] + np.where(scores[i] > 0, scores[i], 0)
        best[i + 1, 1:] = np.maximum.accumulate(np.maximum(taken, best[i, 1:]))
    return best
