"""Columns of text in little memory against plain lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sommelier.storage.words import LOOKED_AT, Words

FEW = st.sampled_from(["vision", "text", None, "ä", ""])
MANY = st.text(max_size=4) | st.none()


@given(
    values=st.lists(FEW, max_size=60) | st.lists(MANY, max_size=60),
    more=st.lists(FEW | MANY, max_size=5),
)
def test_words_are_the_list_they_were_made_from(values: list, more: list) -> None:
    words = Words(values)
    longer = words.followed_by(more)
    assert longer.objects().tolist() == values + more
    assert (len(words), words.objects().tolist()) == (len(values), values)
    some = np.arange(len(values))[::-2]
    assert words[some].tolist() == [values[row] for row in some.tolist()]


def test_columns_that_repeat_late_or_stop_repeating_are_whole() -> None:
    late = [f"n{i}" for i in range(LOOKED_AT)] + ["same"] * 2_000
    early = ["same"] * LOOKED_AT + [f"n{i}" for i in range(700)]
    for values in (late, early):
        assert Words(values).objects().tolist() == values


@pytest.mark.parametrize("values", [[f"model_{i}" for i in range(2_000)], ["vision", "text"] * 900])
def test_a_column_takes_less_than_objects_would(values: list[str]) -> None:
    assert Words(values).nbytes < 20 * len(values)
