"""Whole networks: random ones, tight examples, what cannot be bounded, balls of inputs."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from sommelier.analysis.propagation import propagate
from sommelier.analysis.propagation.rules.normalisation import steepness
from sommelier.errors import AnalysisError
from tests.analysis.propagation.operator_cases import _f, ints, operator
from tests.analysis.propagation.random_networks import random_network
from tests.analysis.propagation.twins import (
    Host,
    assert_bounded,
    distances,
    perturbed,
    run_all,
    shifted,
)
from tests.onnx_writer import with_weights

TRIALS = 300
NIGHTLY_TRIALS = 10_000


def _trial(seed):
    rng = np.random.default_rng(seed)
    host = random_network(rng)
    twin = perturbed(host.weights, 10 ** rng.uniform(-4, 0), rng)
    some = {name: value for name, value in twin.items() if rng.random() < 0.5}
    result, _ = assert_bounded(host, some)
    assert not result.unbounded


@pytest.mark.parametrize("block", range(10))
def test_no_tensor_of_a_random_network_moves_further_than_its_bound(block):
    for seed in range(block * TRIALS // 10, (block + 1) * TRIALS // 10):
        _trial(seed)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(100))
def test_no_tensor_of_ten_thousand_random_networks_moves_further_than_its_bound(block):
    for seed in range(block * NIGHTLY_TRIALS // 100, (block + 1) * NIGHTLY_TRIALS // 100):
        _trial(seed + TRIALS)


def _spike(shape, place, size=1.0):
    shift = np.zeros((1, *shape), np.float32)
    shift[(0, *place)] = size
    return {"x0_shift": shift}


@pytest.mark.parametrize(("kernel", "stride", "factor"), [(3, 2, 2.0), (3, 1, 3.0), (2, 2, 1.0)])
def test_a_spike_under_a_max_pool_reaches_the_bound(kernel, stride, factor):
    rng = np.random.default_rng(0)
    host = operator(rng, "MaxPool", (1, 9, 9), kernel_shape=[kernel] * 2, strides=[stride] * 2)
    host.inputs["x0"][:] = 0
    result, ratios = assert_bounded(host, _spike((1, 9, 9), (0, 4, 4)))
    np.testing.assert_allclose(result.deltas["y"], factor, rtol=1e-5)
    assert np.all(ratios["y"] <= 1 / 0.9)


def test_all_ones_under_a_kernel_of_ones_come_near_its_norm():
    rng = np.random.default_rng(0)
    host = operator(rng, "Conv", (1, 16, 16), fixed={"w": np.ones((1, 1, 3, 3), np.float32)},
                    pads=[1] * 4)  # fmt: skip
    # the top singular vector of a band of ones is a half sine along each axis
    sine = np.sin(np.pi * np.arange(1, 17) / 17)
    wave = (sine[:, None] * sine[None, :]).astype(np.float32)[None, None]
    result, _ = assert_bounded(host, {"x0_shift": wave})
    measured = distances(host.model(), {"x0_shift": wave}, host.inputs)["y"][0]
    np.testing.assert_allclose(measured / np.linalg.norm(wave), 8.80, atol=0.1)
    assert np.all(measured >= 0.9 * result.deltas["y"])


def _direction():
    """A shift along which a linear operator reaches its norm."""
    rng = np.random.default_rng(0)
    even = np.ones((1, 2, 12, 12), np.float32)
    half = np.cos((np.arange(64) + 0.5) * np.pi / 129).astype(np.float32)
    scales = {"s": np.array([1, 1, 2, 2], np.float32)}
    return {
        "ReduceMean": (operator(rng, "ReduceMean", (2, 12, 12), axes=[1, 2, 3]), even),
        "ReduceSum": (operator(rng, "ReduceSum", (2, 12, 12), fixed={"a": ints(1, 2, 3)}), even),
        "ReduceL1": (operator(rng, "ReduceL1", (2, 12, 12), axes=[1, 2, 3]), even),
        "GlobalAveragePool": (operator(rng, "GlobalAveragePool", (2, 12, 12)), even),
        "GlobalLpPool": (operator(rng, "GlobalLpPool", (2, 12, 12), p=1), even),
        "AveragePool": (operator(rng, "AveragePool", (2, 12, 12), kernel_shape=[3, 3],
                                 pads=[1] * 4), even),
        "LpPool": (operator(rng, "LpPool", (2, 12, 12), kernel_shape=[2, 2], strides=[2, 2]), even),
        "Resize nearest": (operator(rng, "Resize", (2, 12, 12), fixed=scales,
                                    operands=["x0", "", "s"]), even),
        "Resize linear": (operator(rng, "Resize", (2, 12, 12), fixed=scales, mode="linear",
                                   operands=["x0", "", "s"]), even),
        "CumSum": (operator(rng, "CumSum", (64,), fixed={"a": np.array(1, np.int64)}), half[None]),
        "Expand": (operator(rng, "Expand", (1, 12), fixed={"s": ints(1, 5, 12)}), even[:, 0, :1]),
    }  # fmt: skip


@pytest.mark.parametrize("op", sorted(_direction()))
def test_the_right_direction_reaches_the_bound_of_a_linear_operator(op):
    host, shift = _direction()[op]
    host.inputs["x0"][:] = 0
    _, ratios = assert_bounded(host, {"x0_shift": shift})
    assert np.all(ratios["y"] <= 1 / 0.9)


def _concentrated():
    """A change of one element, where the operator is steepest in it."""
    rng = np.random.default_rng(0)
    row = [1, 1, 1, 6]
    return {
        "ReduceMax": (operator(rng, "ReduceMax", row[1:], axes=[3]), 5.0, 1.0),
        "ReduceMin": (operator(rng, "ReduceMin", row[1:], axes=[3]), -5.0, -1.0),
        "ReduceL2": (operator(rng, "ReduceL2", row[1:], axes=[3]), 5.0, 1.0),
        "ReduceLogSumExp": (operator(rng, "ReduceLogSumExp", row[1:], axes=[3]), 30.0, 1.0),
        "ReduceSumSquare": (operator(rng, "ReduceSumSquare", row[1:], axes=[3]), 5.0, 1.0),
        "GlobalMaxPool": (operator(rng, "GlobalMaxPool", row[1:]), 5.0, 1.0),
        "Exp": (operator(rng, "Exp", row[1:]), 3.0, 0.1),
        "Sinh": (operator(rng, "Sinh", row[1:]), 3.0, 0.1),
        "Softplus": (operator(rng, "Softplus", row[1:]), 9.0, 1.0),
        "Slice": (operator(rng, "Slice", row[1:], fixed={"a": ints(0), "b": ints(2), "c": ints(3)}),
                  0.0, 1.0),
        "Log": (operator(rng, "Log", row[1:]), -0.9, -0.01),
        "Reciprocal": (operator(rng, "Reciprocal", row[1:]), -0.9, -0.005),
    }  # fmt: skip


@pytest.mark.parametrize("op", sorted(_concentrated()))
def test_a_change_where_the_operator_is_steepest_reaches_the_bound(op):
    host, place, step = _concentrated()[op]
    host.inputs["x0"][:] = 1.0 if op in ("Log", "Reciprocal") else 0.0
    host.inputs["x0"][..., 0] += place
    shift = np.zeros((1, 1, 1, 6), np.float32)
    shift[..., 0] = step
    _, ratios = assert_bounded(host, {"x0_shift": shift})
    assert np.all(ratios["y"] <= 1 / 0.9)


@pytest.mark.parametrize(("op", "gates", "gate"), [("RNN", 1, 0), ("LSTM", 4, 3), ("GRU", 3, 2)])
def test_one_step_through_one_gate_reaches_the_bound_of_a_recurrent_operator(op, gates, gate):
    w = np.zeros((1, gates, 5, 5), np.float32)
    w[0, gate] = np.eye(5)
    node, moved, weights = shifted("x", (1, 5))
    nodes = [
        node, helper.make_node("Transpose", [moved], ["t"], perm=[1, 0, 2]),
        helper.make_node(op, ["t", "w", "r"], ["y"], hidden_size=5),
    ]  # fmt: skip
    fixed = {"w": w.reshape(1, -1, 5), "r": np.zeros((1, 5 * gates, 5), np.float32)}
    host = Host(nodes, weights, {"x": np.zeros((1, 1, 5), np.float32)}, fixed)
    _, ratios = assert_bounded(host, {"x_shift": np.full((1, 1, 5), 1e-2, np.float32)})
    assert np.all(ratios["y"] <= 1 / 0.9)


def test_softmax_reaches_its_slope_between_two_equal_classes_and_log_softmax_behind_a_winner():
    host = operator(np.random.default_rng(0), "Softmax", (2,), axis=-1)
    host.inputs["x0"][:] = 0
    _, ratios = assert_bounded(host, {"x0_shift": np.array([[1e-2, -1e-2]], np.float32)})
    assert np.all(ratios["y"] <= 1 / 0.9)
    host = operator(np.random.default_rng(0), "LogSoftmax", (10,), axis=-1)
    host.inputs["x0"][:] = np.r_[20.0, np.zeros(9)]
    _, ratios = assert_bounded(host, {"x0_shift": np.eye(1, 10, dtype=np.float32)})
    assert np.all(ratios["y"] <= 1.06)  # sqrt(10) against sqrt(9)


@pytest.mark.parametrize(
    ("op", "at", "slope", "options"),
    [
        ("Gelu", 1.4142, 1.1289, {"opset": 20}),
        ("HardSwish", 2.99, 1.5, {}),
        ("Sigmoid", 0.0, 0.25, {}),
        ("Erf", 0.0, 1.1284, {}),
        ("Mish", 1.4906, 1.0885, {"opset": 18}),
        ("Selu", -0.001, 1.7581, {}),
        ("Softsign", 0.0, 1.0, {}),
    ],
)
def test_an_activation_reaches_its_steepest_slope(op, at, slope, options):
    rng = np.random.default_rng(0)
    host = operator(rng, op, (6,), **options)
    host.inputs["x0"][:] = at
    result, ratios = assert_bounded(host, {"x0_shift": np.full((1, 6), -1e-3, np.float32)})
    np.testing.assert_allclose(result.deltas["y"] / result.deltas["x0_moved"], slope, rtol=1e-3)
    assert np.all(ratios["y"] <= 1 / 0.9)


def test_layer_normalisation_near_a_constant_row_reaches_1_over_root_eps():
    rng = np.random.default_rng(0)
    host = operator(rng, "LayerNormalization", (32,), fixed={"g": np.ones(32, np.float32)},
                    axis=-1)  # fmt: skip
    host.inputs["x0"][:] = 0
    shift = 1e-4 * np.where(np.arange(32) % 2, 1.0, -1.0).astype(np.float32)[None]
    result, ratios = assert_bounded(host, {"x0_shift": shift})
    np.testing.assert_allclose(result.deltas["y"] / result.deltas["x0_moved"], 316.2, rtol=0.01)
    assert np.all(ratios["y"] <= 1 / 0.9)


def test_a_normalised_row_is_bounded_by_the_exact_supremum():
    """Against a search over twins at a given distance, in the plane both rows span."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        sigma, floor = 10 ** rng.uniform(-1, 1), 10 ** rng.uniform(-3, -1)
        if floor > sigma:
            continue
        distance = sigma * 10 ** rng.uniform(-2, 0.5)
        length = np.sqrt(sigma**2 - floor**2)
        angles = np.linspace(0, 2 * np.pi, 2001)
        found = 0.0
        for radius in np.linspace(distance / 50, distance, 50):
            x = np.array([length + radius * np.cos(angles), radius * np.sin(angles)])
            twin = np.sqrt((x**2).sum(0) + floor**2)
            apart = np.hypot(x[0] / twin - length / sigma, x[1] / twin)
            found = max(found, float((apart / radius).max()))
        bound = float(steepness(np.array([distance]), np.array([sigma]), floor)[0])
        assert found <= bound * (1 + 1e-9)
        if distance < 0.5 * sigma:
            assert found >= 0.9 * bound


def test_a_tensor_the_change_does_not_reach_has_a_bound_of_zero():
    rng = np.random.default_rng(0)
    w = {"w1": _f(rng, 4, 4), "w2": _f(rng, 4, 4)}
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]), helper.make_node("Hardmax", ["a"], ["h"]),
        helper.make_node("MatMul", ["a", "w2"], ["b"]), helper.make_node("Add", ["b", "h"], ["c"]),
    ]  # fmt: skip
    host = Host(nodes, w, {"x": _f(rng, 5, 4)})
    result, _ = assert_bounded(host, {"w2": w["w2"] + np.float32(0.1)})
    assert not np.any(result.deltas["a"])
    assert not np.any(result.deltas["h"])
    assert np.all(result.deltas["b"] > 0)
    assert not result.unbounded
    same, _ = assert_bounded(host, dict(w))
    assert not any(np.any(delta) for delta in same.deltas.values())


def test_a_change_of_biases_alone_has_a_bound_above_zero_and_exact_at_the_first_layer():
    rng = np.random.default_rng(0)
    host = operator(rng, "Conv", (2, 6, 6), weights={"w": _f(rng, 3, 2, 3, 3), "b": _f(rng, 3)})
    result, ratios = assert_bounded(host, {"b": host.weights["b"] + np.float32(0.3)})
    assert np.all(result.deltas["y"] > 0)
    np.testing.assert_allclose(ratios["y"], 1.0, rtol=1e-4)


def _discrete():
    rng = np.random.default_rng(0)
    return {
        "ArgMax": operator(rng, "ArgMax", (4, 3), axis=1),
        "ThresholdedRelu": operator(rng, "ThresholdedRelu", (4, 3), alpha=0.5),
        "Sign": operator(rng, "Sign", (4, 3)),
        "Greater": operator(rng, "Greater", (4, 3), fixed={"z": np.array(0, np.float32)}),
        "Hardmax": operator(rng, "Hardmax", (4, 3)),
        "NonZero": operator(rng, "NonZero", (4, 3)),
        "Cast": operator(rng, "Cast", (4, 3), to=7),
        "Shrink": operator(rng, "Shrink", (4, 3), bias=0.0),
        "DynamicQuantizeLinear": operator(rng, "DynamicQuantizeLinear", (4, 3), outputs=3),
    }


@pytest.mark.parametrize("op", sorted(_discrete()))
def test_what_decides_discretely_is_unbounded_with_its_name(op):
    host = _discrete()[op]
    twin = perturbed(host.weights, 0.1, np.random.default_rng(0))
    result = propagate(host.model(), twin, host.inputs)
    assert [name.split(" ")[0] for name in result.unbounded] == [op]
    assert "'op'" in next(iter(result.unbounded))
    assert np.all(np.isinf(result.deltas["y"]))


def test_a_condition_on_activations_is_unbounded_and_a_gate_behind_it_bounds_again():
    rng = np.random.default_rng(0)
    host = operator(rng, "Greater", (4,), fixed={"z": np.array(0, np.float32)})
    nodes = [*host.nodes, helper.make_node("Where", ["y", "x0_moved", "z"], ["w"], name="pick"),
             helper.make_node("Sigmoid", ["w"], ["s"])]  # fmt: skip
    chain = Host(nodes, host.weights, host.inputs, host.fixed, ["s"])
    result, _ = assert_bounded(chain, perturbed(host.weights, 0.1, rng))
    assert list(result.unbounded) == ["Greater 'op'", "Where 'pick'"]
    np.testing.assert_allclose(result.deltas["s"], 2.0)  # sqrt(4) elements of width 1


def test_a_divisor_that_may_reach_zero_is_unbounded_on_those_samples_only():
    host = operator(np.random.default_rng(0), "Div", (3,), (3,))
    host.inputs["x1"] = np.array([[1, 2, 3], [0.1, 2, 3], [5, 5, 5]], np.float32)
    shift = {"x1_shift": np.full((1, 3), 0.2, np.float32)}
    result = propagate(host.model(), shift, host.inputs)
    np.testing.assert_array_equal(np.isinf(result.deltas["y"]), [False, True, False])
    assert "1 of 3 samples" in result.unbounded["Div 'op'"]


@pytest.mark.parametrize("seed", range(12))
def test_in_a_ball_of_inputs_the_bound_holds_for_every_input_of_it(seed):
    rng = np.random.default_rng(seed)
    host = random_network(rng)
    while any(node.op_type in ("LSTM", "GRU", "RNN") for node in host.nodes):
        host = random_network(rng)
    twin = perturbed(host.weights, 0.05, rng)
    radius, model = 0.5, host.model()
    ball = propagate(model, twin, host.inputs, mode="static", radius=radius)
    probe = propagate(model, twin, host.inputs)
    for _ in range(5):
        step = rng.standard_normal(host.inputs["x"].shape)
        norms = np.linalg.norm(step.reshape(len(step), -1), axis=1)
        step *= radius / norms.reshape(-1, *[1] * (step.ndim - 1))
        moved = {"x": (host.inputs["x"] + step).astype(np.float32)}
        for name, (apart, rounding) in distances(model, twin, moved).items():
            assert np.all(apart <= ball.deltas[name] + rounding), name
            assert np.all(probe.deltas[name] <= ball.deltas[name] * (1 + 1e-9)), name


def test_a_ball_of_radius_zero_is_its_centre():
    rng = np.random.default_rng(2)
    host = operator(rng, "Conv", (2, 6, 6), weights={"w": _f(rng, 3, 2, 3, 3), "b": _f(rng, 3)})
    twin = perturbed(host.weights, 0.1, rng)
    probe = propagate(host.model(), twin, host.inputs)
    ball = propagate(host.model(), twin, host.inputs, mode="static", radius=0.0)
    np.testing.assert_allclose(ball.deltas["y"], probe.deltas["y"])


def _classifier(rng, *, head="Gemm", softmax=True):
    weights = {"w1": _f(rng, 8, 8) / 3, "w2": _f(rng, 8, 4), "b2": _f(rng, 4)}
    last = (
        [helper.make_node("Gemm", ["r", "w2", "b2"], ["logits"])]
        if head == "Gemm"
        else [helper.make_node("MatMul", ["r", "w2"], ["m"]),
              helper.make_node("Add", ["m", "b2"], ["logits"])]
    )  # fmt: skip
    nodes = [helper.make_node("MatMul", ["x", "w1"], ["h"]), helper.make_node("Relu", ["h"], ["r"])]
    ends = [helper.make_node("Softmax", ["logits"], ["p"])] if softmax else []
    return Host([*nodes, *last, *ends], weights, {"x": _f(rng, 100, 8)})


@pytest.mark.parametrize("head", ["Gemm", "MatMul"])
def test_a_certified_answer_never_changes_and_some_answers_are_certified(head):
    certified = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        host = _classifier(rng, head=head)
        twin = perturbed(host.weights, 10 ** rng.uniform(-3, -0.5), rng)
        result = propagate(host.model(), twin, host.inputs)
        sure = result.certified_unchanged("p")
        a = [r["p"].argmax() for r in run_all(host.model(), host.inputs)]
        b = [r["p"].argmax() for r in run_all(with_weights(host.model(), twin), host.inputs)]
        assert not np.any(sure & (np.array(a) != np.array(b)))
        certified += int(sure.sum())
        assert np.all(result.certified_unchanged("logits") <= sure)
    assert certified > 500


def test_comparing_pairs_of_classes_certifies_more_than_the_l2_margin():
    rng = np.random.default_rng(3)
    gemm = _classifier(rng, softmax=False)
    product = Host(_classifier(rng, head="MatMul", softmax=False).nodes, gemm.weights, gemm.inputs)
    twin = perturbed(gemm.weights, 0.03, rng)
    pairs = propagate(gemm.model(), twin, gemm.inputs).certified_unchanged("logits")
    plain = propagate(product.model(), twin, product.inputs).certified_unchanged("logits")
    assert np.all(plain <= pairs)
    assert pairs.sum() > plain.sum()


def test_a_weight_that_is_made_from_weights_is_seen_before_and_after():
    rng = np.random.default_rng(4)
    nodes = [
        helper.make_node("Mul", ["v", "g"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["w"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    weights = {"v": _f(rng, 5, 4), "g": _f(rng, 5, 1)}
    host = Host(nodes, weights, {"x": _f(rng, 3, 4)})
    _, ratios = assert_bounded(host, perturbed(weights, 0.1, rng))
    np.testing.assert_allclose(ratios["y"], 1.0, rtol=1e-4)


def test_names_shapes_and_radii_that_do_not_fit_are_errors():
    rng = np.random.default_rng(5)
    host = operator(rng, "Gemm", (6,), weights={"w": _f(rng, 6, 5), "b": _f(rng, 5)})
    model = host.model()
    with pytest.raises(AnalysisError, match="no weight 'v'"):
        propagate(model, {"v": _f(rng, 2)}, host.inputs)
    with pytest.raises(AnalysisError, match=r"shape \[6, 5\] in the host and \[5, 6\]"):
        propagate(model, {"w": _f(rng, 5, 6)}, host.inputs)
    with pytest.raises(AnalysisError, match="not finite"):
        propagate(model, {"b": np.full(5, np.nan)}, host.inputs)
    with pytest.raises(AnalysisError, match="inputs are"):
        propagate(model, {}, {"z": host.inputs["x0"]})
    with pytest.raises(AnalysisError, match="needs a radius"):
        propagate(model, {}, host.inputs, mode="static")
    with pytest.raises(AnalysisError, match="no margins"):
        propagate(model, {}, host.inputs).certified_unchanged("x0_moved")


def test_weights_in_another_element_type_are_measured_in_float32():
    rng = np.random.default_rng(6)
    for kind in (np.float16, np.float64):
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
        host = Host([node], {"w": _f(rng, 6, 4).astype(kind)}, {"x": _f(rng, 3, 6).astype(kind)})
        twin = perturbed(host.weights, 0.5, rng)
        result = propagate(host.model(), twin, host.inputs)
        exact = host.inputs["x"].astype(float) @ (twin["w"].astype(float) - host.weights["w"])
        np.testing.assert_allclose(result.deltas["y"], np.linalg.norm(exact, axis=1), rtol=1e-3)


def test_large_weights_are_shared_with_the_runtime():
    rng = np.random.default_rng(7)
    host = operator(rng, "Gemm", (300,), weights={"w": _f(rng, 300, 200), "b": _f(rng, 200)})
    _, ratios = assert_bounded(host, {"w": host.weights["w"] + np.float32(0.01)})
    np.testing.assert_allclose(ratios["y"], 1.0, rtol=1e-3)


def test_every_part_of_a_split_is_bounded():
    rng = np.random.default_rng(8)
    host = operator(rng, "Split", (6, 4), fixed={"s": ints(1, 2, 3)}, axis=1, outputs=3)
    result, _ = assert_bounded(host, perturbed(host.weights, 0.1, rng))
    assert all(np.isfinite(result.deltas[name]).all() for name in ("y", "y1", "y2"))
