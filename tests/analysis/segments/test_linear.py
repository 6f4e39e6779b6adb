from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper, version_converter

from sommelier.analysis.segments import common_segments, describe, linearise, normal_form
from sommelier.analysis.segments.linear import Region
from tests.analysis.segments.nets import WIDTH, Builder, random_dag, residual_net


def _text(model: ModelProto) -> str:
    form = normal_form(model)
    return describe(linearise(form), form)


def test_every_residual_block_is_a_branch_beside_a_skip() -> None:
    text = _text(residual_net([2, 2], 0))
    block = "{Conv.Relu.Conv|skip} Add Relu"
    assert text == (
        f"Conv Relu {block} {block} {{Conv.Relu.Conv|Conv}} Add Relu {block} "
        "GlobalAveragePool Flatten Gemm"
    )


def test_an_inception_block_is_branches_side_by_side() -> None:
    net = Builder(0)
    x = net.add("Relu", [net.conv("x", 3, 4)])
    pooled = net.add("MaxPool", [x], kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1])
    middle = net.conv(net.add("Relu", [net.conv(x, 4, 4, kernel=1)]), 4, 4)
    parts = [net.conv(x, 4, 4, kernel=1), middle, net.conv(pooled, 4, 4, kernel=1)]
    joined = net.add("Relu", [net.add("Concat", parts, axis=1)])
    text = _text(net.model([joined], ("N", 3, 8, 8)))
    assert text == "Conv Relu {Conv.Relu.Conv|MaxPool.Conv|Conv} Concat Relu"


def test_blocks_within_blocks_are_sequences_within_branches() -> None:
    net = Builder(0)
    a = net.gemm("x")
    b = net.gemm(a)
    inner = net.add("Add", [net.add("Tanh", [net.gemm(b)]), b])
    out = net.add("Add", [net.gemm(inner), a])
    text = _text(net.model([out]))
    assert text == "Gemm {Gemm.{Gemm.Tanh|skip}.Add.Gemm|skip} Add"


def test_a_region_that_is_not_series_parallel_keeps_the_chains_inside_it() -> None:
    net = Builder(0)
    a = net.add("Tanh", ["x"])
    left, right = net.gemm(net.gemm(a)), net.gemm(a)
    crossed = net.add("Add", [left, right])
    out = net.add(
        "Add", [net.add("Mul", [crossed, left]), net.gemm(net.add("Sub", [crossed, right]))]
    )
    form = normal_form(net.model([out]))
    sequence = linearise(form)
    assert describe(sequence, form) == "Tanh {<7 operators>} Add"
    region = sequence.items[1]
    assert isinstance(region, Region)
    chains = [describe(chain, form) for chain in region.branches[0].inner]
    assert "Gemm Gemm" in chains
    assert "Sub Gemm" in chains


def test_two_heads_are_two_branches_at_the_end() -> None:
    net = Builder(0)
    trunk = net.add("Relu", [net.gemm("x")])
    first, second = net.add("Softmax", [net.gemm(trunk)]), net.gemm(trunk, WIDTH, 2)
    assert _text(net.model([first, second])) == "Gemm Relu {Gemm.Softmax|Gemm}"


def test_shape_arithmetic_and_no_ops_are_no_operators() -> None:
    net = Builder(0)
    net.weights["axis"], net.weights["minus"] = _ints(0), _ints(-1)
    x = net.add("Identity", [net.conv("x", 3, 4)])
    x = net.add("Dropout", [net.add("Relu", [x])])
    batch = net.add("Gather", [net.add("Shape", [x]), "axis"], axis=0)
    shape = net.add("Concat", [batch, "minus"], axis=0)
    out = net.gemm(net.add("Reshape", [x, shape]), 4 * 8 * 8, 3)
    assert _text(net.model([out], ("N", 3, 8, 8))) == "Conv Relu Reshape Gemm"


def test_batch_normalization_and_bias_belong_to_their_operator() -> None:
    net = Builder(0)
    conv = net.add("Conv", ["x", net.weight(4, 3, 3, 3)], pads=[1] * 4)
    names = [net.weight(4) for _ in range(3)]
    net.weights["variance"] = abs(net.weights[net.weight(4)]) + 0.5
    norm = net.add("BatchNormalization", [conv, *names, "variance"])
    flat = net.add("Flatten", [net.add("Relu", [norm])])
    out = net.add("Add", [net.weight(5), net.add("MatMul", [flat, net.weight(256, 5)])])
    form = normal_form(net.model([out], ("N", 3, 8, 8)))
    assert describe(linearise(form), form) == "Conv Relu Flatten MatMul"
    assert [len(operator.nodes) for operator in form.operators] == [2, 1, 1, 2]


@pytest.mark.parametrize("opset", [9, 11, 13, 18, 21])
def test_symbols_are_equal_across_opsets_names_and_stated_defaults(opset: int) -> None:
    model = residual_net([1, 1], 0, opset=9)
    other = residual_net([1, 1], 7, opset=9, names="other")
    for node in other.graph.node:
        if node.op_type == "Conv":
            node.attribute.append(helper.make_attribute("group", 1))
            node.attribute.append(helper.make_attribute("dilations", [1, 1]))
        if node.op_type == "Gemm":
            node.attribute.append(helper.make_attribute("alpha", 1.0))
        if node.op_type == "Flatten":
            node.attribute.append(helper.make_attribute("axis", 1))
    other = version_converter.convert_version(other, opset)
    assert linearise(normal_form(model)).symbol == linearise(normal_form(other)).symbol


def test_same_padding_and_its_numbers_are_one_spelling() -> None:
    symbols = set()
    for stated in ({"auto_pad": "SAME_UPPER"}, {"pads": [0, 0, 1, 1]}, {"pads": [1, 1, 0, 0]}):
        net = Builder(0)
        out = net.add("Conv", ["x", net.weight(4, 3, 3, 3)], strides=[2, 2], **stated)
        symbols.add(normal_form(net.model([out], (1, 3, 8, 8))).operators[0].symbol)
    assert len(symbols) == 2


def test_values_of_scalars_are_structure_and_values_of_weights_are_not() -> None:
    def symbol(factor: float, seed: int) -> str:
        net = Builder(seed)
        net.weights["factor"] = _ints(1).astype("float32") * factor
        out = net.add("Mul", [net.gemm("x"), "factor"])
        return linearise(normal_form(net.model([out]))).symbol

    assert symbol(2.0, 0) == symbol(2.0, 1)
    assert symbol(2.0, 0) != symbol(3.0, 0)


def test_the_order_of_a_subtractions_branches_matters_to_segments() -> None:
    def model(swapped: bool) -> ModelProto:
        net = Builder(0)
        trunk = net.add("Tanh", ["x"])
        sides = [net.gemm(net.gemm(trunk)), net.add("Relu", [trunk])]
        return net.model([net.add("Exp", [net.add("Sub", sides[::-1] if swapped else sides)])])

    same = common_segments(model(False), model(False), kinds=["common"], split="run")
    other = common_segments(model(False), model(True), kinds=["common"], split="run")
    assert [s.operators for s in same] == [6]
    assert [s.operators for s in other] == [2]


@pytest.mark.parametrize("seed", range(40))
def test_linearising_keeps_every_operator_once(seed: int) -> None:
    form = normal_form(random_dag(seed, 0, operators=25))
    sequence = linearise(form)
    assert sequence.operators == tuple(range(len(form.operators)))
    for inner in sequence.nested():
        inside = [o for item in inner.items for o in item.operators]
        assert len(set(inside)) == len(inside)


def test_a_loop_is_one_operator_whose_body_counts() -> None:
    def model(op: str) -> ModelProto:
        body = helper.make_graph(
            [
                helper.make_node("Identity", ["go"], ["go_on"]),
                helper.make_node(op, ["s"], ["next"]),
            ],
            "body",
            [helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
             helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
             helper.make_tensor_value_info("s", onnx.TensorProto.FLOAT, ["N", WIDTH])],
            [helper.make_tensor_value_info("go_on", onnx.TensorProto.BOOL, []),
             helper.make_tensor_value_info("next", onnx.TensorProto.FLOAT, ["N", WIDTH])],
        )  # fmt: skip
        net = Builder(0)
        net.weights["trips"] = _ints(3)[0]
        out = net.add("Loop", ["trips", "", net.gemm("x")], body=body)
        return net.model([net.gemm(out)])

    assert _text(model("Tanh")) == "Gemm Loop Gemm"
    symbols = [linearise(normal_form(model(op))).symbol for op in ("Tanh", "Tanh", "Relu")]
    assert symbols[0] == symbols[1]
    assert symbols[0] != symbols[2]


def _ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)
