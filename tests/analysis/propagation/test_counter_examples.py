"""Small graphs on which a rule once promised less change than there was, held to the truth."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from sommelier.analysis.propagation import propagate
from tests.analysis.propagation.operator_cases import ints, operator
from tests.analysis.propagation.twins import Host, assert_bounded, distances

SEED = 0


def _one(shape, place):
    moved = np.zeros((1, *shape), np.float32)
    moved[(0, *place)] = 1
    return {"x0_shift": moved}


@pytest.mark.parametrize("coordinates", ["asymmetric", "half_pixel"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_an_axis_that_keeps_its_size_is_resampled_where_its_scale_is_not_one(mode, coordinates):
    rng = np.random.default_rng(SEED)
    floor = {"nearest_mode": "floor"} if mode == "nearest" else {}
    host = operator(
        rng, "Resize", (1, 3, 4), mode=mode, operands=["x0", "", "scales"],
        fixed={"scales": np.array([1, 1, 1.3, 2], np.float32)},
        coordinate_transformation_mode=coordinates, **floor,
    )  # fmt: skip
    for row in range(3):
        assert_bounded(host, _one((1, 3, 4), (0, row)))


def test_scales_that_keep_an_aspect_ratio_are_not_those_of_the_sizes():
    rng = np.random.default_rng(SEED)
    host = operator(
        rng, "Resize", (1, 3, 4), opset=18, operands=["x0", "", "", "sizes"], mode="linear",
        fixed={"sizes": ints(7, 7)}, axes=[2, 3], keep_aspect_ratio_policy="not_larger",
    )  # fmt: skip
    assert propagate(host.model(), _one((1, 3, 4), (0, 1)), host.inputs).unbounded


def test_what_negative_pads_cut_off_makes_room_for_another_filler():
    rng = np.random.default_rng(SEED)
    host = operator(
        rng, "Pad", (2, 5, 6), weights={"c": np.array(0, np.float32)},
        fixed={"p": ints(0, 0, -2, 0, 0, 0, 2, 0)}, operands=["x0", "p", "c"],
    )  # fmt: skip
    result, _ = assert_bounded(host, {"c": np.array(3, np.float32)})
    np.testing.assert_allclose(result.deltas["y"], 3 * np.sqrt(2 * 2 * 6), rtol=1e-5)


def test_the_order_of_unsorted_top_values_is_not_bounded():
    rng = np.random.default_rng(SEED)
    host = operator(rng, "TopK", (40,), fixed={"k": ints(5)}, outputs=2, sorted=0)
    result = propagate(host.model(), _one((40,), (0,)), host.inputs)
    assert np.all(np.isinf(result.deltas["y"]))


def test_shrinking_with_a_negative_threshold_jumps():
    rng = np.random.default_rng(SEED)
    host = operator(rng, "Shrink", (4,), lambd=-1.0, bias=-1.0)
    host.inputs["x0"][:] = 0.99
    assert_bounded(host, {"x0_shift": np.full((1, 4), 0.02, np.float32)})


def test_an_index_that_moves_in_a_ball_may_take_another_row_of_the_table():
    nodes = [
        helper.make_node("ArgMax", ["x"], ["i"], axis=1, keepdims=0),
        helper.make_node("Gather", ["t", "i"], ["y"]),
    ]
    table = np.zeros((2, 3), np.float32)
    host = Host(nodes, {"t": table}, {"x": np.array([[1, 0.9]], np.float32)})
    donor = {"t": table + np.array([[0], [5]], np.float32)}
    result = propagate(host.model(), donor, host.inputs, mode="static", radius=1.0)
    within = {"x": np.array([[0.7, 0.9]], np.float32)}
    measured = distances(host.model(), donor, within)["y"][0]
    assert measured[0] > 8
    assert np.all(result.deltas["y"] >= measured)
    exact = propagate(host.model(), donor, host.inputs)  # at the sample itself row 0 is taken
    assert exact.deltas["y"][0] == 0


def _steps(*tail):
    """A moved input as uint8, then operators on these numbers up to 'y'."""
    nodes = [
        helper.make_node("Add", ["x", "s"], ["m"]),
        helper.make_node("QuantizeLinear", ["m", "one", "zero"], ["u"]),
        *tail,
    ]
    return Host(
        nodes, {"s": np.zeros((1, 4), np.float32)}, {"x": np.full((1, 4), 127, np.float32)},
        {"one": np.float32(1), "zero": np.uint8(0), "seven": np.full(1, 7, np.int32)},
    )  # fmt: skip


def test_integers_that_wrap_around_or_are_divided_are_not_bounded():
    def cast(name, kind, out):
        return helper.make_node("Cast", [name], [out], to=kind)

    wrapped = _steps(cast("u", 3, "b"), cast("b", 1, "y"))
    divided = _steps(
        cast("u", 6, "i"), helper.make_node("Div", ["i", "seven"], ["q"]), cast("q", 1, "y")
    )
    for host in (wrapped, divided):
        assert_bounded(host, {"s": np.full((1, 4), 1, np.float32)})
    kept = _steps(cast("u", 6, "i"), cast("i", 1, "y"))
    result, _ = assert_bounded(kept, {"s": np.full((1, 4), 1, np.float32)})
    assert np.all(np.isfinite(result.deltas["y"]))


def _answers(nodes, weights, x, logits):
    """A host that moves its input and answers with the largest of `logits`."""
    first = helper.make_node("Add", ["x", "s"], ["z"])
    return Host([first, *nodes], {"s": np.zeros((1, 2), np.float32), **weights}, {"x": x},
                outputs=[logits])  # fmt: skip


def test_a_saturated_sigmoid_may_answer_otherwise_than_its_logits():
    x = np.array([[18, 25]], np.float32)
    host = _answers([helper.make_node("Sigmoid", ["z"], ["y"])], {}, x, "y")
    donor = {"s": np.array([[-4, 0]], np.float32)}
    result, _ = assert_bounded(host, donor)
    assert not result.certified_unchanged("y").any()  # both are 1 in the host, one in the twin


def test_a_softmax_over_another_axis_does_not_keep_the_order_along_the_last():
    nodes = [
        helper.make_node("Mul", ["z", "w"], ["m"]),
        helper.make_node("Softmax", ["m"], ["y"], axis=1),
    ]
    columns = np.array([[[1], [1.02]]], np.float32)  # (1, 2, 1): rows of the softmax
    host = Host(
        [helper.make_node("Add", ["x", "s"], ["z"]), *nodes],
        {"s": np.zeros((1, 1, 2), np.float32)}, {"x": np.array([[[1, 2]]], np.float32)},
        {"w": columns}, ["y"],
    )  # fmt: skip
    donor = {"s": np.array([[[0, -0.3]]], np.float32)}
    result, _ = assert_bounded(host, donor)
    logits = result.flips.values.keys()
    assert set(logits) == {"y"}  # and not what the softmax was made from


def test_rows_of_a_head_that_nearly_agree_are_not_taken_for_equal():
    width = 2000
    row = np.full(width, 1e3, np.float32)
    other = row.copy()
    other[0] = np.nextafter(row[0], np.float32(2e3))
    nodes = [helper.make_node("Gemm", ["z", "w", "b"], ["y"], transB=1)]
    host = Host(
        [helper.make_node("Add", ["x", "s"], ["z"]), *nodes],
        {"s": np.zeros((1, width), np.float32)}, {"x": np.zeros((1, width), np.float32)},
        {"w": np.stack([row, other]), "b": np.array([0.03, 0], np.float32)}, ["y"],
    )  # fmt: skip
    step = float(other[0]) - 1e3
    moved = np.zeros((1, width), np.float32)
    moved[0, :2] = 0.06 / step, -0.06 / step  # the second class overtakes by 0.03
    result = propagate(host.model(), {"s": moved}, host.inputs)
    assert not result.certified_unchanged("y").any()


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
def test_negative_pads_cut_before_others_copy(mode):
    rng = np.random.default_rng(SEED)
    host = operator(rng, "Pad", (1, 3, 4), opset=19, fixed={"p": ints(0, 0, -1, 0, 0, 0, 1, 0)},
                    mode=mode)  # fmt: skip
    for row in range(3):
        assert_bounded(host, _one((1, 3, 4), (0, row)))
