"""Operators that are taken apart, and patterns that are bounded as one."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from sommelier.analysis.propagation import propagate
from sommelier.analysis.propagation.expansion import EXPANSIONS
from tests.analysis.propagation.operator_cases import _f, ints, operator
from tests.analysis.propagation.twins import Host, assert_bounded, perturbed, shifted

MICROSOFT = "com.microsoft"
ONE, ZERO = np.array(0.04, np.float32), np.array(2, np.uint8)


def _bytes(rng, *shape):
    return rng.integers(0, 255, shape).astype(np.uint8)


def _quantised_input(rng, *shapes):
    """Inputs that are moved and quantised; their names, the nodes, the weights."""
    nodes, inputs, weights, names = [], {}, {}, []
    for i, shape in enumerate(shapes):
        node, moved, weight = shifted(f"x{i}", shape)
        nodes += [node, helper.make_node("QuantizeLinear", [moved, "s", "z"], [f"q{i}"])]
        inputs[f"x{i}"] = _f(rng, 3, *shape)
        weights |= weight
        names.append(f"q{i}")
    return nodes, inputs, weights, names


def _integer_host(
    rng, op, shapes, operands, *, more=None, fixed=None, domain=MICROSOFT, **attributes
):
    nodes, inputs, weights, _ = _quantised_input(rng, *shapes)
    nodes.append(helper.make_node(op, operands, ["y"], domain=domain, **attributes))
    known = {"s": ONE, "z": ZERO, "s2": np.array(0.1, np.float32), **(fixed or {})}
    opsets = {"": 17, MICROSOFT: 1}
    return Host(nodes, {**weights, **(more or {})}, inputs, known, ["y"], opsets)


def _qconv(rng):
    return _integer_host(
        rng, "QLinearConv", [(3, 6, 6)], ["q0", "s", "z", "w", "ws", "wz", "s2", "z", "b"],
        more={"ws": np.abs(_f(rng, 4)) * 0.02 + 0.01}, domain="",
        fixed={"w": _bytes(rng, 4, 3, 3, 3), "wz": np.full(4, 128, np.uint8),
               "b": rng.integers(-50, 50, 4).astype(np.int32)},
    )  # fmt: skip


def _qmatmul(rng):
    return _integer_host(
        rng, "QLinearMatMul", [(4, 6)], ["q0", "s", "z", "w", "ws", "wz", "s2", "z"], domain="",
        more={"ws": np.array(0.01, np.float32)},
        fixed={"w": _bytes(rng, 6, 5), "wz": np.array(128, np.uint8)},
    )  # fmt: skip


def _pair(op):
    return lambda rng: _integer_host(
        rng, op, [(4, 6), (4, 6)], ["q0", "s", "z", "q1", "s", "z", "s2", "z"]
    )


def _single(op, shape, **attributes):
    return lambda rng: _integer_host(rng, op, [shape], ["q0", "s", "z", "s2", "z"], **attributes)


def _fused_conv(rng):
    weights = {"w": _f(rng, 4, 3, 3, 3), "b": _f(rng, 4)}
    last = str(rng.choice(["Relu", "Tanh", "Sigmoid"]))
    return operator(rng, "FusedConv", (3, 6, 6), weights=weights, domain=MICROSOFT, pads=[1] * 4,
                    activation=last)  # fmt: skip


def _skip(op):
    def case(rng):
        weights = {"g": _f(rng, 6), "b": _f(rng, 6), "bias": _f(rng, 6)}
        if "Simplified" in op:
            del weights["b"]
        return operator(rng, op, (4, 6), (4, 6), weights=weights, domain=MICROSOFT, epsilon=1e-5)

    return case


def _embeddings(rng):
    node = helper.make_node(
        "EmbedLayerNormalization",
        ["ids", "segments", "words", "positions", "kinds", "g", "b", "", "places"],
        ["y", ""], domain=MICROSOFT, epsilon=1e-5,
    )  # fmt: skip
    weights = {"words": _f(rng, 20, 6), "positions": _f(rng, 9, 6), "kinds": _f(rng, 2, 6),
               "g": _f(rng, 6), "b": _f(rng, 6)}  # fmt: skip
    inputs = {
        "ids": rng.integers(0, 20, (3, 5)).astype(np.int32),
        "segments": rng.integers(0, 2, (3, 5)).astype(np.int32),
        "places": np.tile(np.arange(5, dtype=np.int32), (3, 1)),
    }
    return Host([node], weights, inputs, outputs=["y"], opsets={"": 17, MICROSOFT: 1})


def _attention(rng):
    kind = int(rng.integers(0, 3))
    if kind == 0:
        return operator(rng, "Attention", (2, 5, 4), (2, 5, 4), (2, 5, 4), opset=23,
                        is_causal=int(rng.integers(0, 2)))  # fmt: skip
    if kind == 1:
        mask = {"m": np.where(rng.random((5, 6)) < 0.3, -1e4, 0.0).astype(np.float32)}
        return operator(rng, "Attention", (5, 8), (6, 8), (6, 8), fixed=mask, opset=23,
                        q_num_heads=2, kv_num_heads=2)  # fmt: skip
    return operator(rng, "Attention", (5, 8), (6, 8), (6, 8), opset=23, q_num_heads=4,
                    kv_num_heads=4, scale=0.3)  # fmt: skip


def _einsum(rng):
    if rng.integers(0, 2):
        return operator(rng, "Einsum", (5, 6), weights={"w": _f(rng, 6, 3, 4)},
                        equation="btd,dhe->bhte")  # fmt: skip
    return operator(rng, "Einsum", (2, 5, 4), (2, 6, 4), equation="bhqd, bhkd -> bhqk")


FUSED = {
    "Einsum": _einsum,
    "Attention": _attention,
    f"{MICROSOFT}:MultiHeadAttention": lambda r: operator(
        r, "MultiHeadAttention", (5, 8), (6, 8), (6, 8), num_heads=2, domain=MICROSOFT),
    f"{MICROSOFT}:Attention": lambda r: operator(
        r, "Attention", (5, 8), weights={"w": _f(r, 8, 24) / 2, "b": _f(r, 24)}, num_heads=2,
        unidirectional=int(r.integers(0, 2)), domain=MICROSOFT),
    f"{MICROSOFT}:FusedConv": _fused_conv,
    f"{MICROSOFT}:FusedGemm": lambda r: operator(
        r, "FusedGemm", (6,), weights={"w": _f(r, 5, 6), "b": _f(r, 5)}, transB=1, alpha=0.5,
        activation="LeakyRelu", activation_alpha=0.1, domain=MICROSOFT),
    f"{MICROSOFT}:FusedMatMul": lambda r: operator(
        r, "FusedMatMul", (4, 6), (4, 6), transB=1, alpha=0.5, domain=MICROSOFT),
    f"{MICROSOFT}:BiasGelu": lambda r: operator(
        r, "BiasGelu", (4, 6), weights={"b": _f(r, 6)}, domain=MICROSOFT),
    f"{MICROSOFT}:FastGelu": lambda r: operator(
        r, "FastGelu", (4, 6), weights={"b": _f(r, 6)}, domain=MICROSOFT),
    f"{MICROSOFT}:SkipLayerNormalization": _skip("SkipLayerNormalization"),
    f"{MICROSOFT}:SkipSimplifiedLayerNormalization": _skip("SkipSimplifiedLayerNormalization"),
    f"{MICROSOFT}:EmbedLayerNormalization": _embeddings,
    "QLinearConv": _qconv,
    "QLinearMatMul": _qmatmul,
    f"{MICROSOFT}:QLinearAdd": _pair("QLinearAdd"),
    f"{MICROSOFT}:QLinearMul": _pair("QLinearMul"),
    f"{MICROSOFT}:QLinearSigmoid": _single("QLinearSigmoid", (4, 6)),
    f"{MICROSOFT}:QLinearLeakyRelu": _single("QLinearLeakyRelu", (4, 6), alpha=0.1),
    f"{MICROSOFT}:QLinearGlobalAveragePool": _single("QLinearGlobalAveragePool", (3, 4, 4)),
    f"{MICROSOFT}:QLinearAveragePool": _single(
        "QLinearAveragePool", (3, 6, 6), kernel_shape=[2, 2]),
    f"{MICROSOFT}:QLinearConcat": lambda r: _integer_host(
        r, "QLinearConcat", [(4, 6), (4, 6)], ["s2", "z", "q0", "s", "z", "q1", "s", "z"], axis=1),
}  # fmt: skip


@pytest.mark.parametrize("op", sorted(FUSED))
def test_a_fused_operator_is_bounded_through_its_parts(op):
    rng = np.random.default_rng(sum(map(ord, op)))
    for _ in range(4):
        host = FUSED[op](rng)
        twin = perturbed(host.weights, 10 ** rng.uniform(-3, 0), rng)
        result, _ = assert_bounded(host, twin)
        assert not result.unbounded
        assert np.isfinite(result.deltas["y"]).all()


def test_every_expansion_is_exercised():
    # ONNX Runtime on the CPU has no kernel for BiasAdd
    assert set(FUSED) | {f"{MICROSOFT}:BiasAdd"} == set(EXPANSIONS)


def _written(nodes, fixed, rng, shape=(4, 6)):
    first, moved, weights = shifted("x", shape)
    nodes = [first, *(helper.make_node(op, [moved if i == "x" else i for i in ins], [out], **a)
                      for op, ins, out, a in nodes)]  # fmt: skip
    return Host(nodes, weights, {"x": _f(rng, 3, *shape)}, fixed, [nodes[-1].output[0]])


def _scalar(value):
    return np.array(value, np.float32)


def gelu(rng):
    return _written(
        [("Div", ["x", "root"], "a", {}), ("Erf", ["a"], "e", {}), ("Add", ["e", "one"], "g", {}),
         ("Mul", ["x", "g"], "p", {}), ("Mul", ["p", "half"], "y", {})],
        {"root": _scalar(2**0.5), "one": _scalar(1), "half": _scalar(0.5)}, rng,
    )  # fmt: skip


def gelu_tanh(rng):
    return _written(
        [("Pow", ["x", "three"], "c", {}), ("Mul", ["c", "k"], "d", {}),
         ("Add", ["x", "d"], "e", {}), ("Mul", ["e", "r"], "f", {}), ("Tanh", ["f"], "t", {}),
         ("Add", ["t", "one"], "g", {}), ("Mul", ["x", "g"], "p", {}),
         ("Mul", ["p", "half"], "y", {})],
        {"three": _scalar(3), "k": _scalar(0.044715), "r": _scalar((2 / np.pi) ** 0.5),
         "one": _scalar(1), "half": _scalar(0.5)}, rng,
    )  # fmt: skip


def silu(rng):
    return _written([("Sigmoid", ["x"], "s", {}), ("Mul", ["x", "s"], "y", {})], {}, rng)


def mish(rng):
    return _written(
        [("Softplus", ["x"], "s", {}), ("Tanh", ["s"], "t", {}), ("Mul", ["x", "t"], "y", {})],
        {}, rng,
    )  # fmt: skip


def hard_swish(rng):
    return _written(
        [("Add", ["x", "three"], "a", {}), ("Clip", ["a", "zero", "six"], "c", {}),
         ("Mul", ["x", "c"], "m", {}), ("Div", ["m", "six"], "y", {})],
        {"three": _scalar(3), "zero": _scalar(0), "six": _scalar(6)}, rng,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "slope"),
    [(gelu, 1.129), (gelu_tanh, 1.129), (silu, 1.0998), (mish, 1.0885), (hard_swish, 1.5)],
)
def test_an_activation_written_out_has_the_slope_of_the_whole(pattern, slope):
    rng = np.random.default_rng(3)
    host = pattern(rng)
    for scale in (1e-3, 0.1, 3.0):
        twin = {"x_shift": (scale * rng.standard_normal((1, 4, 6))).astype(np.float32)}
        result, _ = assert_bounded(host, twin)
        assert np.all(result.deltas["y"] <= 1.04 * slope * result.deltas["x_moved"])
    wide = {"x_shift": np.full((1, 4, 6), 100.0, np.float32)}
    result, _ = assert_bounded(host, wide)
    np.testing.assert_allclose(result.deltas["y"], slope * result.deltas["x_moved"], rtol=0.04)


def test_layer_normalisation_written_out_is_bounded_like_the_operator():
    rng = np.random.default_rng(4)
    host = _written(
        [("ReduceMean", ["x"], "m", {"axes": [-1]}), ("Sub", ["x", "m"], "d", {}),
         ("Pow", ["d", "two"], "q", {}), ("ReduceMean", ["q"], "v", {"axes": [-1]}),
         ("Add", ["v", "eps"], "w", {}), ("Sqrt", ["w"], "s", {}), ("Div", ["d", "s"], "n", {}),
         ("Mul", ["n", "g"], "o", {}), ("Add", ["o", "b"], "y", {})],
        {"two": _scalar(2), "eps": _scalar(1e-5)}, rng,
    )  # fmt: skip
    host.weights |= {"g": _f(rng, 6), "b": _f(rng, 6)}
    node = helper.make_node("LayerNormalization", ["x_moved", "g", "b"], ["y"], axis=-1)
    whole = Host([host.nodes[0], node], host.weights, host.inputs, {}, ["y"])
    for scale in (1e-3, 0.1, 10.0):
        twin = perturbed(host.weights, scale, rng)
        written, _ = assert_bounded(host, twin)
        fused = propagate(whole.model(), twin, host.inputs)
        np.testing.assert_allclose(written.deltas["n"] <= 2 * np.sqrt(4 * 6), True)
        assert np.all(written.deltas["y"] <= 2.5 * fused.deltas["y"])


def test_a_convolution_and_its_normalisation_are_bounded_as_one():
    rng = np.random.default_rng(5)
    node, moved, weights = shifted("x", (3, 6, 6))
    scale = np.array([10.0, 0.1, 1.0], np.float32)
    kernel = _f(rng, 3, 3, 1, 1) / scale[:, None, None, None]
    weights |= {"w": kernel, "g": scale, "b": _f(rng, 3), "m": _f(rng, 3)}
    weights["v"] = np.ones(3, np.float32)
    host = Host(
        [node, helper.make_node("Conv", [moved, "w"], ["c"]),
         helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["y"])],
        weights, {"x": _f(rng, 2, 3, 6, 6)},
    )  # fmt: skip
    result, _ = assert_bounded(host, {"x_shift": _f(rng, 1, 3, 6, 6)})
    apart = np.linalg.norm(kernel.reshape(3, 3), 2) * scale.max()
    assert np.all(result.deltas["y"] < 0.1 * apart * result.deltas["x_moved"])
    assert_bounded(host, perturbed(weights, 0.05, rng) | {"v": weights["v"] * np.float32(1.3)})


def test_a_shape_that_is_read_from_the_data_does_not_stop_a_bound():
    rng = np.random.default_rng(6)
    node, moved, weights = shifted("x", (4, 6))
    nodes = [
        node, helper.make_node("Shape", [moved], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["count"]),
        helper.make_node("Concat", ["count", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", [moved, "target"], ["y"]),
    ]  # fmt: skip
    host = Host(nodes, weights, {"x": _f(rng, 3, 4, 6)}, {"zero": ints(0), "rest": ints(24)}, ["y"])
    result, ratios = assert_bounded(host, perturbed(weights, 0.1, rng))
    np.testing.assert_allclose(ratios["y"], 1.0, rtol=1e-5)
    assert not result.unbounded
