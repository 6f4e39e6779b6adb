"""Graphs that were made to break a reader: refused in a sentence, or read in reasonable time."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from sommelier.analysis.segments import (
    build_twin,
    common_segments,
    describe,
    linearise,
    normal_form,
    segment_sketch,
)
from sommelier.errors import AnalysisError, RejectedModelError
from tests.analysis.segments.nets import WIDTH, Builder, images, residual_net, run


def _graph(nodes: list[onnx.NodeProto], output: str = "y") -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "hostile",
        [helper.make_tensor_value_info("x", 1, ["N", WIDTH])],
        [helper.make_tensor_value_info(output, 1, None)],
        [numpy_helper.from_array(np.ones((WIDTH, WIDTH), np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _broken() -> dict[str, ModelProto]:
    node = helper.make_node
    return {
        "a cycle": _graph([node("Add", ["x", "y"], ["z"]), node("Relu", ["z"], ["y"])]),
        "what nothing makes": _graph([node("Relu", ["nowhere"], ["y"])]),
        "a name made twice": _graph([node("Relu", ["x"], ["y"]), node("Tanh", ["x"], ["y"])]),
    }


@pytest.mark.parametrize("kind", _broken())
def test_broken_graphs_are_rejected(kind: str) -> None:
    for action in (linearise_of, segment_sketch):
        with pytest.raises(RejectedModelError):
            action(_broken()[kind])
    with pytest.raises(RejectedModelError):
        common_segments(_broken()[kind], residual_net([1, 1], 0))


def linearise_of(model: ModelProto) -> str:
    form = normal_form(model)
    return describe(linearise(form), form)


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3], pads=[1, 1, 1]),
        helper.make_node("Gemm", ["x", "w"], ["y"], alpha=0.0),
        helper.make_node("Transpose", ["x"], ["y"], perm=[7, 7, 7]),
        helper.make_node("ReduceMean", ["x"], ["y"], axes=[99]),
        helper.make_node("Clip", ["x", "x", "x"], ["y"]),
        helper.make_node("Slice", ["x", "w", "w"], ["y"]),
        helper.make_node("Softmax", ["x"], ["y"], axis=-77),
        helper.make_node("Unheard", ["x", "", "w"], ["y"], domain="of"),
        helper.make_node("Dropout", ["x"], ["y", "mask"]),
        helper.make_node("BatchNormalization", ["x", "w"], ["y"]),
        helper.make_node("Relu", [], ["y"]),
        helper.make_node("RandomNormal", [], ["y"], shape=[2]),
    ],
    ids=lambda node: node.op_type,
)
def test_senseless_operators_are_compared_as_they_are(node: onnx.NodeProto) -> None:
    model = _graph([node, helper.make_node("Relu", ["y"], ["out"])], "out")
    assert linearise_of(model).endswith(("Relu", "Dropout"))
    common_segments(model, model)


def test_a_model_that_answers_its_input_or_a_constant_has_no_segments() -> None:
    for source in ("x", "w"):
        model = _graph([helper.make_node("Identity", [source], ["y"])])
        assert common_segments(model, model) == ()


def test_dead_operators_are_no_part_of_any_segment() -> None:
    net = Builder(0)
    hidden = net.gemm("x")
    net.gemm(hidden)
    model = net.model([net.gemm(net.add("Relu", [hidden]))])
    assert linearise_of(model) == "Gemm Relu Gemm"


def test_deep_nesting_and_long_chains_are_read_in_seconds() -> None:
    net = Builder(0)
    x = net.add("Tanh", ["x"])
    starts = [x := net.add("Tanh", [x]) for _ in range(400)]
    for start in reversed(starts):  # each skip encloses all that come before it
        x = net.add("Add", [x, start])
    nested = net.model([x])
    net = Builder(0)
    x = "x"
    for _ in range(6_000):
        x = net.add("Tanh", [x])
    started = time.perf_counter()
    linearise_of(nested)
    linearise_of(net.model([x]))
    assert time.perf_counter() - started < 30


def test_too_many_operators_are_refused() -> None:
    nodes = [helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(20_001)]
    nodes[0].input[0] = "x"
    with pytest.raises(AnalysisError, match="20001 operators"):
        normal_form(_graph(nodes, "t20001"))


def test_external_data_is_read_beside_the_file_and_nowhere_else(tmp_path: Path) -> None:
    model = residual_net([1, 1], 0)
    path = tmp_path / "model.onnx"
    onnx.save_model(model, path, save_as_external_data=True, size_threshold=0, location="w.bin")
    donor = residual_net([1, 1], 1)
    twin = build_twin(path, donor, common_segments(path, donor))
    np.testing.assert_array_equal(run(twin, images(2))[0], run(donor, images(2))[0])
    outside = onnx.load(path, load_external_data=False)
    for tensor in outside.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../w.bin"
    path.write_bytes(outside.SerializeToString())
    with pytest.raises(RejectedModelError, match="outside the model's folder"):
        common_segments(path, donor)


def test_a_model_given_without_its_external_data_is_refused_with_the_way_out(
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save_model(residual_net([1, 1], 0), path, save_as_external_data=True, size_threshold=0)
    bare = onnx.load(path, load_external_data=False)
    with pytest.raises(AnalysisError, match="lies in another file") as caught:
        common_segments(bare, bare)
    assert "give the model's path" in str(caught.value.hint)
