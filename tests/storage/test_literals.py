"""No character of a value is read as SQL."""

from __future__ import annotations

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sommelier.storage.literals import bind

pytestmark = pytest.mark.duckdb("values in DuckDB's texts")

CONNECTION = duckdb.connect(":memory:")
VALUES = st.one_of(st.none(), st.booleans(), st.integers(-(2**62), 2**62), st.text())


@given(st.lists(VALUES, min_size=1, max_size=4))
def test_every_value_comes_back_as_it_went_in(values: list[object]) -> None:
    sql = bind("SELECT " + ", ".join("?" for _ in values), values)
    assert CONNECTION.execute(sql).fetchone() == tuple(values)


@given(st.lists(st.text(), max_size=5))
def test_every_list_comes_back_as_it_went_in(values: list[str]) -> None:
    sql = bind("SELECT ?::VARCHAR[]", [values])
    assert CONNECTION.execute(sql).fetchone() == (values,)


@given(st.text())
def test_the_text_of_a_statement_does_not_depend_on_what_a_string_contains(value: str) -> None:
    digits = bind("?", [value]).removeprefix("decode(unhex('").removesuffix("'))")
    assert set(digits) <= set("0123456789abcdef")


def test_a_value_too_many_or_of_another_kind_is_an_error() -> None:
    for values in ([], [1, 2]):
        with pytest.raises(ValueError):
            bind("SELECT ?", values)
    with pytest.raises(TypeError, match="a bytes cannot be"):
        bind("SELECT ?", [b"x"])
