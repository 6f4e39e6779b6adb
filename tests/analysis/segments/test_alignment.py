from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sommelier.analysis.segments.alignment import common_runs
from sommelier.errors import AnalysisError

symbols = st.lists(st.sampled_from("abc"), max_size=7)


def _best(first: list[str], second: list[str], weights: list[int], penalty: int) -> int:
    """Brute force: the best total by trying to open, continue or skip everywhere."""

    @cache
    def best(i: int, j: int, open_run: bool) -> int:
        if i == len(first) or j == len(second):
            return 0
        found = max(best(i + 1, j, False), best(i, j + 1, False))
        if first[i] == second[j]:
            cost = 0 if open_run else penalty
            found = max(found, weights[i] - cost + best(i + 1, j + 1, True))
        return found

    return best(0, 0, False)


@settings(max_examples=300, deadline=None)
@given(symbols, symbols, st.lists(st.integers(0, 9), min_size=7, max_size=7), st.integers(0, 6))
def test_the_runs_are_common_in_order_and_as_heavy_as_brute_force_finds(
    first: list[str], second: list[str], weights: list[int], penalty: int
) -> None:
    runs = common_runs(first, second, weights[: len(first)], penalty=penalty)
    for i, j, length in runs:
        assert first[i : i + length] == second[j : j + length]
        assert length > 0
    for (i, j, length), (next_i, next_j, _) in pairwise(runs):
        assert i + length <= next_i
        assert j + length <= next_j
    total = sum(sum(weights[i : i + length]) - penalty for i, _, length in runs)
    assert total == _best(first, second, weights, penalty)


def test_a_shorter_stage_leaves_the_last_blocks_of_the_longer_one_unmatched() -> None:
    long, short = (
        ["s", "a", "a", "a", "a", "d", "b", "b", "b", "h"],
        ["s", "a", "a", "d", "b", "b", "h"],
    )
    runs = common_runs(long, short, [10] * len(long), penalty=1)
    assert runs == [(0, 0, 3), (5, 3, 3), (9, 6, 1)]


def test_sequences_too_long_to_compare_are_refused() -> None:
    with pytest.raises(AnalysisError, match="too long to compare"):
        common_runs(["a"] * 10_000, ["a"] * 10_000, [1] * 10_000, penalty=1)
