"""Pairs that are answered are in every best alignment: checked by trying all of them."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from sommelier.analysis.differences.alignment import certain_pairs


def all_alignments(scores):
    """Every set of pairs in order with its total."""
    n, m = scores.shape
    for size in range(min(n, m) + 1):
        for rows in combinations(range(n), size):
            for columns in combinations(range(m), size):
                pairs = tuple(zip(rows, columns, strict=True))
                if all(scores[p] > 0 for p in pairs):
                    yield pairs, sum(int(scores[p]) for p in pairs)


@pytest.mark.parametrize("seed", range(60))
def test_certain_pairs_are_those_of_all_best_alignments(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, size=rng.integers(1, 6, 2)).astype(np.int64)
    found = list(all_alignments(scores))
    best = max(total for _, total in found)
    common = set.intersection(*(set(pairs) for pairs, total in found if total == best))
    assert certain_pairs(scores) == sorted(common)


def test_more_equal_blocks_than_partners_are_left_alone():
    scores = np.zeros((5, 4), np.int64)
    scores[0, 0] = scores[4, 3] = 9
    scores[1:4, 1:3] = 3
    assert certain_pairs(scores) == [(0, 0), (4, 3)]
