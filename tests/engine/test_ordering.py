"""Top rows without a sort, Pareto fronts, PICK: against plain sorting and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sommelier.engine.ordering import SortKey, ordered, pareto_front
from sommelier.engine.plan import PickPlan
from sommelier.engine.selection import pick_rows

NAN = float("nan")
values = st.lists(st.sampled_from([NAN, 0.0, 1.0, 2.0, 3.0]), min_size=1, max_size=40)


def key(column: list[float], *, descending: bool = False, nulls_first: bool = False) -> SortKey:
    array = np.array(column)
    return SortKey(lambda rows: array[rows], descending, nulls_first)


def plain_order(columns: list[tuple[list[float], bool, bool]]) -> list[int]:
    def rank(row: int) -> tuple[object, ...]:
        parts: list[object] = []
        for column, descending, nulls_first in columns:
            value = column[row]
            unknown = value != value
            place = (-1 if nulls_first else 1) if unknown else 0
            parts += [place, 0.0 if unknown else -value if descending else value]
        return (*parts, row)

    return sorted(range(len(columns[0][0])), key=rank)


@given(values, st.booleans(), st.booleans(), st.integers(0, 45))
def test_the_first_rows_are_those_of_a_full_sort(
    column: list[float], descending: bool, nulls_first: bool, keep: int
) -> None:
    second = [float(i % 3) for i in range(len(column))]
    keys = [key(column, descending=descending, nulls_first=nulls_first), key(second)]
    expected = plain_order([(column, descending, nulls_first), (second, False, False)])
    rows = np.arange(len(column))
    assert ordered(rows, keys).tolist() == expected
    assert ordered(rows, keys, keep).tolist() == expected[:keep]


def test_further_keys_are_read_for_rows_that_tie_only() -> None:
    read: list[int] = []

    def second(rows: np.ndarray) -> np.ndarray:
        read.append(len(rows))
        return rows.astype(float)

    first = np.r_[np.zeros(3), np.ones(997)]
    rows = np.arange(1000)
    ordered(rows, [SortKey(lambda r: first[r]), SortKey(second)], 2)
    assert max(read) == 3


@given(st.integers(0, 60), st.integers(1, 4), st.integers(0, 10_000))
def test_the_front_is_what_no_row_beats(count: int, axes: int, seed: int) -> None:
    costs = np.random.default_rng(seed).integers(0, 5, size=(count, axes)).astype(float)
    front = pareto_front(costs)
    for row in range(count):
        beaten = ((costs <= costs[row]).all(axis=1) & (costs < costs[row]).any(axis=1)).any()
        assert front[row] == (not beaten)


def test_a_front_of_many_blocks_equals_that_of_one() -> None:
    costs = np.random.default_rng(0).random((3000, 3))
    front = pareto_front(costs)
    kept = costs[front]
    for row in np.flatnonzero(~front)[::50]:
        assert ((kept <= costs[row]).all(axis=1) & (kept < costs[row]).any(axis=1)).any()


def pick(kind: str, top: int | None, seed: int = 0) -> PickPlan:
    return PickPlan(kind, (), top, kind, seed)


def test_pick_leaves_out_what_is_unknown_and_counts_it() -> None:
    column = [3.0, NAN, 1.0, 2.0]
    rows, unknown = pick_rows(pick("best", 2), np.arange(4), [key(column)], [])
    assert (rows.tolist(), unknown) == ([2, 3], [1])


def test_pick_random_is_repeatable_and_without_replacement() -> None:
    first, _ = pick_rows(pick("random", 5, seed=7), np.arange(20), [], [])
    again, _ = pick_rows(pick("random", 5, seed=7), np.arange(20), [], [])
    other, _ = pick_rows(pick("random", 5, seed=8), np.arange(20), [], [])
    assert first.tolist() == again.tolist() != other.tolist()
    assert len(set(first.tolist())) == 5


@pytest.mark.parametrize("top", [None, 1])
def test_the_pareto_front_is_ordered_by_its_axes(top: int | None) -> None:
    memory, error = [1.0, 2.0, 3.0, 3.0], [3.0, 2.0, 1.0, 2.5]
    rows, _ = pick_rows(pick("pareto", top), np.arange(4), [key(memory), key(error)], [])
    assert rows.tolist() == [0, 1, 2][:top]
