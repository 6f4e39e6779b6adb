"""units.py: the only place that reads or prints a unit."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sommelier.units import SPELLINGS, Dimension, UnitError, format_value, parse, to_base


@pytest.mark.parametrize(
    ("text", "dimension", "expected"),
    [
        ("200 MB", Dimension.BYTES, 2e8),
        ("200MiB", Dimension.BYTES, 200 * 2**20),
        ("1 B", Dimension.BYTES, 1),
        ("7B", Dimension.COUNT, 7e9),
        ("25m", Dimension.COUNT, 25e6),
        ("50 GFLOPs", Dimension.FLOPS, 5e10),
        ("1 GMACs", Dimension.FLOPS, 2e9),
        ("30 ms", Dimension.TIME, 30),
        ("2s", Dimension.TIME, 2000),
        ("5 us", Dimension.TIME, 0.005),
        ("80%", Dimension.FRACTION, 0.8),
        ("2 J", Dimension.ENERGY, 2),
        ("100 qps", Dimension.RATE, 100),
    ],
)
def test_quantities_become_base_units(text: str, dimension: Dimension, expected: float) -> None:
    assert parse(text, dimension) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dimension", [Dimension.BYTES, Dimension.FLOPS, Dimension.TIME])
def test_a_bare_number_on_a_dimensioned_metric_asks_200_what(dimension: Dimension) -> None:
    with pytest.raises(UnitError, match="200 what"):
        parse("200", dimension)


def test_a_unit_of_another_dimension_is_named_in_the_error() -> None:
    with pytest.raises(UnitError, match="'MB' measures bytes, but flops is asked for") as caught:
        to_base(5, "MB", Dimension.FLOPS)
    assert "GFLOPs" in str(caught.value.hint)


def test_an_unknown_unit_is_not_a_unit() -> None:
    with pytest.raises(UnitError, match="'parsecs' is not a unit"):
        to_base(5, "parsecs", Dimension.TIME)


@pytest.mark.parametrize("dimension", list(Dimension))
def test_every_offered_spelling_is_accepted(dimension: Dimension) -> None:
    for unit in SPELLINGS[dimension]:
        assert to_base(1, unit, dimension) > 0


@given(
    value=st.floats(1e-2, 1e14),
    dimension=st.sampled_from([Dimension.BYTES, Dimension.FLOPS, Dimension.TIME, Dimension.COUNT]),
)
def test_a_printed_value_reads_back_within_its_three_digits(
    value: float, dimension: Dimension
) -> None:
    if dimension in (Dimension.BYTES, Dimension.FLOPS, Dimension.COUNT):
        value = max(1.0, value)
    printed = format_value(value, dimension)
    assert parse(printed, dimension) == pytest.approx(value, rel=6e-3)


def test_unknown_is_printed_as_null_never_as_zero() -> None:
    assert format_value(None, Dimension.BYTES) == "NULL"
    assert format_value(math.nan, Dimension.TIME) == "NULL"
    assert format_value(0.0, Dimension.BYTES) == "0"
