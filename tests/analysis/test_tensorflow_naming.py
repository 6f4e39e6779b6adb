"""Inputs and outputs of a converted model are called as the original's, whatever is inside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from sommelier.analysis.conversion.tensorflow_names import finish
from sommelier.errors import RejectedModelError

N4 = ["batch__7", 4]


def branching(path: Path) -> Path:
    """tf_in -> tf_out = x > 0 ? 2 x : -x by sum, with branches that use the graph's values.

    Inside, values are called 'x' and 'y', as a model's input and output may be.
    """

    def branch(name: str, operator: str, inputs: list[str]) -> onnx.GraphProto:
        answer = helper.make_tensor_value_info(name, TensorProto.FLOAT, N4)
        nodes = [
            helper.make_node("Identity", ["y"], [f"{name}_kept"]),
            helper.make_node(operator, inputs, [name]),
        ]
        return helper.make_graph(nodes, name, [], [answer])

    nodes = [
        helper.make_node("Identity", ["tf_in"], ["y"]),
        helper.make_node("ReduceSum", ["y"], ["x"], keepdims=0),
        helper.make_node("Greater", ["x", "zero"], ["positive"]),
        helper.make_node(
            "If",
            ["positive"],
            ["tf_out"],
            then_branch=branch("twice", "Add", ["tf_in", "y"]),
            else_branch=branch("minus", "Neg", ["tf_in"]),
        ),
    ]
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("tf_in", TensorProto.FLOAT, N4)],
        [helper.make_tensor_value_info("tf_out", TensorProto.FLOAT, N4)],
        [zero],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


@pytest.mark.parametrize(("given", "made"), [("x", "y"), ("y", "x"), ("twice", "zero")])
def test_names_are_the_models_own_though_values_inside_are_called_so(
    tmp_path: Path, given: str, made: str
) -> None:
    path = branching(tmp_path / "m.onnx")
    assert finish(path, [given], [made]) == (given,)
    session = onnxruntime.InferenceSession(str(path))
    assert [node.name for node in session.get_inputs()] == [given]
    assert [node.name for node in session.get_outputs()] == [made]
    assert session.get_inputs()[0].shape == ["N", 4]
    for sign in (1, -1):
        x = np.full((2, 4), sign, np.float32)
        (answer,) = session.run(None, {given: x})
        np.testing.assert_array_equal(answer, 2 * x if sign > 0 else -x)


def test_an_output_that_would_be_called_as_the_input_is_numbered(tmp_path: Path) -> None:
    path = branching(tmp_path / "m.onnx")
    assert finish(path, ["x"], ["x"]) == ("x",)
    session = onnxruntime.InferenceSession(str(path))
    assert [node.name for node in session.get_inputs()] == ["x"]
    assert [node.name for node in session.get_outputs()] == ["x_1"]


def test_an_operator_that_onnx_lacks_is_named_also_where_it_is_in_a_branch(tmp_path: Path) -> None:
    path = branching(tmp_path / "m.onnx")
    model = onnx.load(path)
    branches = next(node for node in model.graph.node if node.op_type == "If")
    branches.attribute[0].g.node[0].op_type = "StringLength"
    onnx.save(model, path)
    with pytest.raises(RejectedModelError, match="ONNX has nothing for StringLength"):
        finish(path, ["a"], ["b"])
