"""Hidden units can be put in any order, and what has an order is left alone."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper

from sommelier.analysis.fusion.hidden_units import Axis, Place, Walk, hidden_units, untied
from sommelier.analysis.fusion.unit_rules import _blocks, _placed
from sommelier.analysis.segments.normalising import normal_form
from tests.analysis.fusion.permuting import FAMILIES, answers, exported, inputs_of, shuffled
from tests.factories import mlp_classifier
from tests.onnx_writer import FLOAT, save_model

RNG = np.random.default_rng(0)
IMAGES = (FLOAT, ["N", 3, 8, 8])


@pytest.mark.parametrize("family", FAMILIES)
def test_any_order_of_the_units_gives_the_same_answers(family: str) -> None:
    for exporter in ("torchscript", "dynamo") if family in ("resnet", "vit") else ("torchscript",):
        model = exported(family, 0, exporter=exporter)  # type: ignore[arg-type]  # an exporter
        truth, made = (answers(m, inputs_of(family))[0] for m in (model, shuffled(model, 1)))
        assert np.abs(truth - made).max() <= 1e-5 * np.abs(truth).max()
        assert sum(units.size for units in hidden_units(normal_form(untied(model)))) >= 36


def test_the_hidden_layers_of_an_mlp_are_its_units(tmp_path: Path) -> None:
    model = mlp_classifier(tmp_path / "m", features=4, hidden=(16, 8), classes=3)
    first, second = hidden_units(normal_form(model))
    assert (first.size, second.size) == (16, 8)
    places = {(place.tensor, place.axis) for place in first.weights}
    assert places == {("w0", 1), ("b0", 0), ("w1", 0)}
    assert {(p.tensor, p.axis) for p in second.weights} == {("w1", 1), ("b1", 0), ("w2", 0)}
    assert [place.tensor for place in first.made] == ["h0"]


def _conv(name: str, source: str, weight: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, weight], [name], **attributes)


def _kernel(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def _model(folder: Path, nodes: list[onnx.NodeProto], weights: dict, output: Any) -> ModelProto:
    path = save_model(folder / "m", nodes, {"x": IMAGES}, {"y": (FLOAT, output)}, weights)
    return onnx.load(path)


def test_channels_that_are_concatenated_stay_in_place(tmp_path: Path) -> None:
    nodes = [
        _conv("a", "x", "k1"),
        _conv("b", "x", "k2"),
        helper.make_node("Concat", ["a", "b"], ["c"], axis=1),
        _conv("d", "c", "k3"),
        _conv("y", "d", "k4"),
    ]
    kernels = {"k1": (4, 3, 1, 1), "k2": (4, 3, 1, 1), "k3": (6, 8, 1, 1), "k4": (2, 6, 1, 1)}
    weights = {name: _kernel(*shape) for name, shape in kernels.items()}
    [units] = hidden_units(normal_form(_model(tmp_path, nodes, weights, ["N", 2, 8, 8])))
    assert {(place.tensor, place.axis) for place in units.weights} == {("k3", 0), ("k4", 1)}


def test_both_ends_of_a_skip_move_together(tmp_path: Path) -> None:
    nodes = [
        _conv("a", "x", "k1"),
        _conv("b", "a", "k2"),
        helper.make_node("Add", ["a", "b"], ["c"]),
        _conv("y", "c", "k3"),
    ]
    weights = {"k1": _kernel(4, 3, 1, 1), "k2": _kernel(4, 4, 1, 1), "k3": _kernel(2, 4, 1, 1)}
    [units] = hidden_units(normal_form(_model(tmp_path, nodes, weights, ["N", 2, 8, 8])))
    places = {(place.tensor, place.axis) for place in units.weights}
    assert places == {("k1", 0), ("k2", 0), ("k2", 1), ("k3", 1)}


@pytest.mark.parametrize("op", ["LRN", "CumSum"])
def test_what_an_unknown_operator_reads_stays_in_place(op: str, tmp_path: Path) -> None:
    inputs = ["a", "axis"] if op == "CumSum" else ["a"]
    settings: dict[str, Any] = {} if op == "CumSum" else {"size": 3}
    nodes = [_conv("a", "x", "k1"), helper.make_node(op, inputs, ["b"], **settings),
             _conv("y", "b", "k2")]  # fmt: skip
    weights = {"k1": _kernel(4, 3, 1, 1), "k2": _kernel(2, 4, 1, 1), "axis": np.array(1)}
    model = _model(tmp_path, nodes, weights, ["N", 2, 8, 8])
    assert hidden_units(normal_form(model)) == ()


def test_a_weight_that_is_also_read_as_a_whole_is_moved_only_once_it_is_copied(
    tmp_path: Path,
) -> None:
    nodes = [
        _conv("a", "x", "k1"),
        _conv("b", "a", "k2"),
        helper.make_node("ReduceSum", ["k2"], ["s"], keepdims=0),
        helper.make_node("CumSum", ["k1", "axis"], ["order"]),
        helper.make_node("ReduceSum", ["order"], ["t"], keepdims=0),
        helper.make_node("Mul", ["s", "t"], ["st"]),
        helper.make_node("Add", ["b", "st"], ["y"]),
    ]
    weights = {"k1": _kernel(4, 3, 1, 1), "k2": _kernel(2, 4, 1, 1), "axis": np.array(0)}
    model = _model(tmp_path, nodes, weights, ["N", 2, 8, 8])
    assert hidden_units(normal_form(model)) == ()
    inputs = [RNG.normal(size=(2, 3, 8, 8)).astype(np.float32)]
    assert hidden_units(normal_form(untied(model))) != ()
    assert np.allclose(answers(model, inputs)[0], answers(shuffled(model, 3), inputs)[0], atol=1e-4)


SIDES = st.sampled_from([1, 2, 3, 4, 6])


@settings(max_examples=300)
@given(st.lists(SIDES, min_size=1, max_size=4), st.data())
def test_units_are_followed_through_every_reshape_that_keeps_them_on_one_axis(
    before: list[int], data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(before) - 1))
    size = before[place]
    assume(size > 1)
    after = _regrouped(prod(before), data)
    ids = np.arange(size).reshape([-1 if i == place else 1 for i in range(len(before))])
    ids = np.broadcast_to(ids, before).reshape(after)
    found = None
    for ours, theirs in _blocks(before, after):
        if place in ours:
            i = ours.index(place)
            outer, inner = prod(before[k] for k in ours[:i]), prod(before[k] for k in ours[i + 1 :])
            found = _placed(_Sized(size), Axis(0, outer, inner), after, theirs)  # type: ignore[arg-type]  # knows sizes
    varying = [i for i, side in enumerate(after) if side > 1 and _varies(ids, i)]
    if found is None:
        assert len(varying) > 1
        return
    axis, layout = found
    assert set(varying) <= {axis}
    line = ids[tuple(slice(None) if i == axis else 0 for i in range(len(after)))]
    expected = np.broadcast_to(
        np.arange(size)[None, :, None], (layout.outer, size, layout.inner)
    ).ravel()
    assert np.array_equal(line, expected)


class _Sized(Walk):
    """Knows how many units there are, and no graph."""

    def __init__(self, size: int) -> None:
        self._one = size

    def size(self, axis: Axis) -> int:
        return self._one


def _regrouped(elements: int, data: st.DataObject) -> list[int]:
    """A shape of so many elements."""
    sides = []
    while elements > 1:
        side = data.draw(st.sampled_from([d for d in range(2, elements + 1) if not elements % d]))
        sides.append(side)
        elements //= side
    return sides or [1]


def _varies(ids: np.ndarray, axis: int) -> bool:
    return bool((np.diff(ids, axis=axis) != 0).any())


def test_a_place_tells_units_apart_in_flattened_features() -> None:
    array = np.arange(24).reshape(2, 12)
    place = Place("w", 1, 2, 3)  # (outer 2, units 2, inner 3)
    assert place.by_unit(array, 2).tolist()[0] == [0, 1, 2, 6, 7, 8, 12, 13, 14, 18, 19, 20]
    swapped = place.permuted(array, np.array([1, 0]))
    assert swapped[0].tolist() == [3, 4, 5, 0, 1, 2, 9, 10, 11, 6, 7, 8]
    assert np.array_equal(place.permuted(swapped, np.array([1, 0])), array)
