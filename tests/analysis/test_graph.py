"""The graph view sees what is in a file, wherever it is, and refuses what is no graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sommelier.analysis.folding import fold
from sommelier.analysis.graph import Graph, read_model
from sommelier.analysis.signature import bind, input_specs, output_specs
from sommelier.analysis.tracing import trace
from sommelier.errors import RejectedModelError
from sommelier.records import TensorSpec
from tests.factories import (
    if_subgraph_model,
    loop_model,
    mlp_classifier,
    recurrent_state_model,
    save_model,
    sequence_model,
    string_model,
    tiny_classifier,
)

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def graph(path: Path, **options: object) -> Graph:
    return trace(read_model(path), **options)[0]  # type: ignore[arg-type]


def spec(name: str, *shape: int | str | None, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, dtype, tuple(shape))


def test_dynamic_axes_keep_the_name_the_file_gives_them(tmp_path: Path) -> None:
    names = ["N", "?", "unk__126", "p2o.DynamicDimension.0"]
    path = save_model(
        tmp_path / "m.onnx",
        [helper.make_node("Relu", ["x"], ["y"])],
        {"x": (FLOAT, names)},
        {"y": (FLOAT, [None, "", 4, "N"])},
    )
    model = read_model(path)
    assert input_specs(model.graph)[0].shape == tuple(names)
    assert output_specs(model.graph)[0].shape == (None, "", 4, "N")


AXES = [
    ([spec("x", "", 3)], {"x": (2, 3)}, {}),
    ([spec("x", "?", 3)], {"x": (2, 3)}, {}),
    ([spec("x", "unk__126", 3)], {"x": (2, 3)}, {}),
    ([spec("x", "p2o.DynamicDimension.0", 3)], {"x": (2, 3)}, {}),
    ([spec("x", None, 3, None, None)], {"x": (2, 3, 224, 224)}, {"x[2]": 224, "x[3]": 224}),
    ([spec("x", None, None, None, 3)], {"x": (2, 224, 224, 3)}, {"x[1]": 224, "x[2]": 224}),
    ([spec("ids", "N", "T", dtype="int64")], {"ids": (2, 128)}, {"T": 128}),
    ([spec("a", "N", "T"), spec("b", "N", "T")], {"a": (2, 128), "b": (2, 128)}, {"T": 128}),
    ([spec("audio", 1, "n")], {"audio": (1, 16000)}, {"n": 16000}),
    ([spec("x", "N", 4), spec("state", 2, "N", 8)], {"x": (2, 4), "state": (2, 2, 8)}, {}),
    ([spec("x", "N", 4), spec("state", 2, None, 8)], {"x": (2, 4), "state": (2, 2, 8)}, {}),
    ([spec("sr", dtype="int64")], {"sr": ()}, {}),
    ([TensorSpec("x", "float32", None)], {"x": None}, {}),
]


@pytest.mark.parametrize(("specs", "shapes", "assumed"), AXES)
def test_open_axes_are_bound(
    specs: list[TensorSpec], shapes: dict[str, object], assumed: dict[str, int]
) -> None:
    found = bind(specs, batch=2)
    assert found.shapes == shapes
    assert found.assumed == assumed


def test_given_lengths_win_over_customary_ones() -> None:
    specs = [spec("x", "N", "T", None)]
    found = bind(specs, batch=3, dims={"T": 10, "x[2]": 7})
    assert found.shapes == {"x": (3, 10, 7)}
    assert found.assumed == {}


def test_shapes_hidden_behind_arithmetic_are_found(tmp_path: Path) -> None:
    """Shape -> Gather -> Unsqueeze -> Concat -> Reshape, as exporters write x.flatten(1)."""
    node = helper.make_node
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["n"]),
        node("Unsqueeze", ["n", "axis"], ["n1"]),
        node("Concat", ["n1", "rest"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["flat"]),
        node("MatMul", ["flat", "w"], ["y"]),
    ]
    weights = {
        "zero": np.int64(0), "axis": np.array([0], np.int64), "rest": np.array([-1], np.int64),
        "w": np.ones((24, 5), np.float32),
    }  # fmt: skip
    path = save_model(
        tmp_path / "m.onnx", nodes, {"x": (FLOAT, ["N", 2, 3, 4])}, {"y": (FLOAT, None)}, weights
    )
    traced = graph(path, batch=7)
    assert traced.tensor("flat").shape == (7, 24)
    assert traced.tensor("y").shape == (7, 5)


FOLDS = [
    ("Div", [np.array([-7, 7]), np.array([2, 2])], {}, [-3, 3]),
    ("Slice", [np.arange(5), np.array([3]), np.array([-9]), np.array([0]), np.array([-1])], {},
     [3, 2, 1, 0]),
    ("Reshape", [np.arange(6), np.array([0])], {}, [0, 1, 2, 3, 4, 5]),
    ("ReduceProd", [np.array([2, 3, 4])], {"keepdims": 0}, 24),
    ("Range", [np.array(1), np.array(7), np.array(2)], {}, [1, 3, 5]),
    ("Split", [np.arange(5)], {"num_outputs": 2}, [0, 1, 2]),
]  # fmt: skip


@pytest.mark.parametrize(("op", "operands", "attributes", "expected"), FOLDS)
def test_folding_follows_onnx_and_not_numpy(
    op: str, operands: list[np.ndarray], attributes: dict[str, object], expected: object
) -> None:
    values = fold(op, operands, attributes)
    assert values is not None
    assert values[0].tolist() == expected


def test_broken_arithmetic_stays_unknown() -> None:
    assert fold("Div", [np.array([1]), np.array([0])], {}) is None
    assert fold("Sin", [np.array([1.0])], {}) is None


def test_subgraphs_know_the_shapes_around_them(tmp_path: Path) -> None:
    traced = graph(if_subgraph_model(tmp_path / "a.onnx", features=4, narrow=3, wide=5))
    branches = traced.nodes[0].subgraphs
    assert branches["then_branch"].tensor("h3").shape == (1, 3)
    assert branches["else_branch"].tensor("h5").shape == (1, 5)
    assert traced.nodes[0].outer == ("x",)
    looped = graph(loop_model(tmp_path / "b.onnx", features=4))
    assert looped.tensor("y").shape == (1, 4)


def test_a_loop_that_grows_its_state_has_no_known_shape(tmp_path: Path) -> None:
    path = loop_model(tmp_path / "m.onnx", features=4)
    model = onnx.load(str(path))
    body = model.graph.node[0].attribute[0].g
    body.node[1].CopyFrom(helper.make_node("Concat", ["state", "state"], ["next"], axis=1))
    del body.input[2].type.tensor_type.shape.dim[:]
    body.input[2].type.tensor_type.ClearField("shape")
    body.output[1].type.tensor_type.ClearField("shape")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    traced, _ = trace(model)
    assert traced.tensor("y").elements is None


def test_weights_are_found_in_every_place(tmp_path: Path) -> None:
    path = tiny_classifier(tmp_path / "m.onnx")
    model = onnx.load(str(path))
    weights = trace(model)[0].weights
    assert {name: w.origin for name, w in weights.items()} == {
        "w": "initializer",
        "b": "initializer",
    }
    constant = helper.make_node("Constant", [], ["b2"], value_floats=[1.0, 2.0, 3.0])
    model.graph.node.insert(0, constant)
    model.graph.node[1].input[2] = "b2"
    assert trace(model)[0].weights["b2"].origin == "constant"


def test_nodes_out_of_order_are_sorted(tmp_path: Path) -> None:
    model = onnx.load(str(mlp_classifier(tmp_path / "m.onnx")))
    expected = [n.outputs for n in trace(model)[0].nodes]
    reordered = list(reversed(model.graph.node))
    del model.graph.node[:]
    model.graph.node.extend(reordered)
    assert [n.outputs for n in trace(model)[0].nodes] == expected


def broken(tmp_path: Path, nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    path = save_model(tmp_path / "m.onnx", nodes, {"x": (FLOAT, [1])}, {"y": (FLOAT, [1])})
    return onnx.load(str(path))


@pytest.mark.parametrize(
    ("edges", "reason"),
    [
        ([("x+b", "a"), ("a", "b"), ("b", "y")], "form a cycle"),
        ([("x", "a"), ("missing", "y")], "reads 'missing', which nothing makes"),
        ([("x", "y"), ("x", "y")], "the name 'y' is made twice"),
    ],
)
def test_what_is_no_graph_is_refused(
    tmp_path: Path, edges: list[tuple[str, str]], reason: str
) -> None:
    nodes = [helper.make_node("Sum", a.split("+"), [b]) for a, b in edges]
    with pytest.raises(RejectedModelError, match=reason):
        trace(broken(tmp_path, nodes))


def test_data_that_does_not_fit_its_shape_is_refused(tmp_path: Path) -> None:
    model = onnx.load(str(tiny_classifier(tmp_path / "m.onnx")))
    model.graph.initializer[0].dims[0] = 5
    with pytest.raises(RejectedModelError, match="the data of weight 'w' does not fit its shape"):
        trace(model)


def test_an_operator_that_cannot_be_inferred_leaves_the_rest_known(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("NoSuchOperator", ["a"], ["b"]),
        helper.make_node("Exp", ["a"], ["y"]),
    ]
    path = save_model(tmp_path / "m.onnx", nodes, {"x": (FLOAT, [2, 3])}, {"y": (FLOAT, None)})
    traced = graph(path)
    assert traced.tensor("b").shape is None
    assert traced.tensor("y").shape == (2, 3)


def test_stated_shapes_help_where_inference_is_silent(tmp_path: Path) -> None:
    nodes = [helper.make_node("NoSuchOperator", ["x"], ["y"])]
    path = save_model(
        tmp_path / "m.onnx", nodes, {"x": (FLOAT, ["N", 3])}, {"y": (FLOAT, ["N", 9])}
    )
    assert graph(path, batch=4).tensor("y").shape == (4, 9)


def test_four_bit_weights_take_half_a_byte(tmp_path: Path) -> None:
    import ml_dtypes

    weight = numpy_helper.from_array(np.zeros(10, ml_dtypes.int4), "w4")
    model = onnx.load(str(tiny_classifier(tmp_path / "m.onnx")))
    model.graph.initializer.append(weight)
    assert trace(model)[0].weights["w4"].tensor.nbytes == 5


def test_text_and_states_and_scalars_are_read(tmp_path: Path) -> None:
    assert graph(string_model(tmp_path / "a.onnx")).tensor("same").nbytes is None
    state = graph(recurrent_state_model(tmp_path / "b.onnx", width=6), batch=3)
    assert state.tensor("output").shape == (3, 1)
    assert state.tensor("sr").shape == ()
    tokens = graph(sequence_model(tmp_path / "c.onnx", classes=5), batch=2, dims={"T": 9})
    assert tokens.tensor("scores").shape == (2, 9, 5)
