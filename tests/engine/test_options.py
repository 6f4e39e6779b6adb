"""USING options, settings and parameters become Python values, or errors that say what would."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sommelier.engine.options import SELECT_OPTIONS, Many, bind_options, bind_value
from sommelier.engine.parameters import BoundNumber, Parameters
from sommelier.engine.session import Session
from sommelier.errors import BinderError, ParameterError, Span
from sommelier.grammar import nodes
from sommelier.units import Dimension
from tests.engine.conftest import Ask

SPAN = Span(1, 5, 4, 9)


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (nodes.Percent(0.99), Dimension.FRACTION, 0.99),
        (nodes.Number(0.99), Dimension.FRACTION, 0.99),
        (nodes.Quantity(2, "GiB"), Dimension.BYTES, 2.0 * 2**30),
        (nodes.Text("30 ms"), Dimension.TIME, 30.0),
        (nodes.Quantity(20, "min"), Dimension.TIME, 1_200_000.0),
        (nodes.Number(8), int, 8),
        (nodes.Quantity(2, "k"), int, 2000),
        (nodes.Number(0.5), float, 0.5),
        (nodes.Text("cpu"), str, "cpu"),
        (nodes.ModelRef("a", "2"), str, "a@2"),
        (nodes.Boolean(True), bool, True),
        (nodes.Text("false"), bool, False),
        (nodes.Text("NONE"), ("auto", "none"), "none"),
        (nodes.Null(), int, None),
        ((nodes.Text("a"), nodes.Text("b")), Many(str), ["a", "b"]),
        (nodes.Text("a"), Many(str), ["a"]),
        (nodes.Parameter("x"), int, 3),
    ],
)
def test_values_take_the_kind_the_schema_asks_for(value: Any, kind: Any, expected: Any) -> None:
    bound = bind_value(value, kind, {"x": 3})
    assert bound == expected
    assert type(bound) is type(expected)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (nodes.Number(200), Dimension.BYTES, "option x: 200 what? MB?"),
        (nodes.Quantity(2, "ms"), Dimension.BYTES, "option x: 'ms' measures time, but bytes"),
        (nodes.Percent(0.5), Dimension.BYTES, "option x: 50% is a fraction"),
        (nodes.Number(1.5), int, "option x takes a whole number"),
        (nodes.Text("maybe"), bool, "option x takes true or false"),
        (nodes.Text("fdr"), ("auto", "none"), "option x takes one of auto, none"),
        ((nodes.Number(1), nodes.Number(2)), int, "option x takes a whole number"),
        (nodes.Boolean(True), str, "option x takes a text"),
    ],
)
def test_a_value_of_the_wrong_kind_says_what_is_taken(value: Any, kind: Any, message: str) -> None:
    with pytest.raises(BinderError) as caught:
        bind_value(value, kind, name="x")
    assert caught.value.message.startswith(message)


def test_an_unknown_option_lists_the_others_and_the_nearest() -> None:
    options = (nodes.Option("devise", nodes.Text("cpu"), span=SPAN),)
    with pytest.raises(BinderError) as caught:
        bind_options(options, SELECT_OPTIONS)
    error = caught.value
    assert error.suggestions == ("device",)
    assert error.expected == tuple(sorted(SELECT_OPTIONS))
    assert error.span == SPAN


def test_an_option_given_twice_is_refused() -> None:
    options = (nodes.Option("batch", nodes.Number(1)), nodes.Option("BATCH", nodes.Number(2)))
    with pytest.raises(BinderError, match="given twice"):
        bind_options(options, SELECT_OPTIONS)


def test_a_missing_parameter_names_those_given() -> None:
    with pytest.raises(ParameterError) as caught:
        Parameters({"reff": "a"})[nodes.Parameter("ref", span=SPAN)]
    assert caught.value.suggestions == ("$reff",)
    assert caught.value.hint == "given: $reff"
    assert caught.value.span == SPAN


def test_an_unused_parameter_is_an_error() -> None:
    parameters = Parameters([1, 2])
    assert parameters[nodes.Parameter("?1")] == 1
    with pytest.raises(ParameterError, match=r"does not use parameter \$2"):
        parameters.check_all_used()


def test_positions_and_names_reach_the_same_literals() -> None:
    assert Parameters(["a"]).literal(nodes.Parameter("1")) == nodes.Text("a")
    assert Parameters({"$n": True}).literal(nodes.Parameter("n")) == nodes.Boolean(True)
    assert Parameters({"n": None}).literal(nodes.Parameter("n")) == nodes.Null()
    listed = Parameters({"n": [1, "b"]}).literal(nodes.Parameter("n"))
    assert listed == (BoundNumber(1.0), nodes.Text("b"))


NAN = float("nan")


@pytest.mark.parametrize(
    "clause",
    ["ON memory < $x", "WHERE accuracy >= $x", "CORR resnet50 >= $x", "LIMIT $x",
     "WHERE params IN ($x)", "ON params BETWEEN 1 AND $x"],
)  # fmt: skip
@pytest.mark.parametrize("value", [NAN, np.float64("nan"), np.float32("nan")])
def test_nan_as_parameter_is_refused(ask: Ask, clause: str, value: Any) -> None:
    with pytest.raises(ParameterError, match="parameter \\$x is NaN"):
        ask(f"SELECT MODELS name {clause}", {"x": value})


@pytest.mark.parametrize(
    "bound", [nodes.Number(NAN), nodes.Quantity(NAN, "MB"), nodes.Percent(NAN), nodes.Times(NAN),
              nodes.Negative(nodes.Quantity(NAN, "MB"))],
)  # fmt: skip
def test_nan_in_a_query_built_by_hand_is_refused(shelf: Session, bound: nodes.Expression) -> None:
    reference = nodes.Corr(nodes.ModelRef("resnet50"))
    on = nodes.Comparison("<", nodes.Column("memory"), bound)
    with pytest.raises(BinderError, match="NaN"):
        shelf.run(nodes.Select(corr=reference, on=on))
    if isinstance(bound, nodes.Number | nodes.Percent):
        corr = replace(reference, conditions=(nodes.CorrCondition("equivalence", ">=", bound),))
        with pytest.raises(BinderError, match="NaN"):
            shelf.run(nodes.Select(corr=corr))
