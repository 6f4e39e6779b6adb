"""Hashes ignore what does not make another model, and notice what does."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from sommelier.analysis import fingerprint as fp
from sommelier.analysis.graph import read_model
from sommelier.analysis.tracing import trace
from tests.factories import (
    constant_node_model,
    external_data_model,
    if_subgraph_model,
    mlp_classifier,
    tiny_classifier,
)


def hashes(model: ModelProto, folder: Path = Path()) -> tuple[str, str]:
    graph, _ = trace(model)
    return fp.graph_hash(graph), fp.weight_hash(graph, folder)


@pytest.fixture
def model(tmp_path: Path) -> ModelProto:
    return onnx.load(str(mlp_classifier(tmp_path / "m.onnx", hidden=(6, 5))))


def rename_everything(model: ModelProto) -> None:
    def new(name: str) -> str:
        return f"other/{name}:0" if name else ""

    for node in model.graph.node:
        node.name = "renamed"
        node.input[:] = [new(n) for n in node.input]
        node.output[:] = [new(n) for n in node.output]
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = new(value.name)
    model.graph.name = "other"


def other_producer(model: ModelProto) -> None:
    model.producer_name, model.producer_version, model.doc_string = "tf2onnx", "9", "hello"


def shuffle_nodes(model: ModelProto) -> None:
    nodes = list(reversed(model.graph.node))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def shuffle_weights(model: ModelProto) -> None:
    weights = list(reversed(model.graph.initializer))
    del model.graph.initializer[:]
    model.graph.initializer.extend(weights)


def typed_storage(model: ModelProto) -> None:
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).ravel().tolist()
        tensor.ClearField("raw_data")
        tensor.float_data.extend(values)


def explicit_defaults(model: ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Gemm":
            node.attribute.append(helper.make_attribute("alpha", 1.0))
            node.attribute.append(helper.make_attribute("transA", 0))


def fixed_batch(model: ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].Clear()
        value.type.tensor_type.shape.dim[0].dim_value = 1


def weights_in_constants(model: ModelProto) -> None:
    for tensor in model.graph.initializer:
        model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    del model.graph.initializer[:]


def identities(model: ModelProto) -> None:
    last = model.graph.node[-1]
    model.graph.node.insert(0, helper.make_node("Identity", [last.input[1]], ["alias"]))
    model.graph.node[-1].input[1] = "alias"


NO_CHANGE = [
    rename_everything,
    other_producer,
    shuffle_nodes,
    shuffle_weights,
    typed_storage,
    explicit_defaults,
    fixed_batch,
    weights_in_constants,
    identities,
]


@pytest.mark.parametrize("change", NO_CHANGE)
def test_a_re_export_has_the_same_hashes(
    model: ModelProto, change: Callable[[ModelProto], None]
) -> None:
    before = hashes(copy.deepcopy(model))
    change(model)
    assert hashes(model) == before


def test_other_weights_change_the_weight_hash_only(tmp_path: Path) -> None:
    a = hashes(onnx.load(str(mlp_classifier(tmp_path / "a.onnx", seed=0))))
    b = hashes(onnx.load(str(mlp_classifier(tmp_path / "b.onnx", seed=1))))
    assert a[0] == b[0]
    assert a[1] != b[1]


def change_operator(model: ModelProto) -> None:
    model.graph.node[1].op_type = "Tanh"


def change_attribute(model: ModelProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("alpha", 0.5))


def skip_a_layer(model: ModelProto) -> None:
    node = helper.make_node("Add", [model.graph.node[1].output[0]] * 2, ["twice"])
    model.graph.node.insert(2, node)
    model.graph.node[3].input[0] = "twice"


@pytest.mark.parametrize("change", [change_operator, change_attribute, skip_a_layer])
def test_another_structure_changes_the_graph_hash_only(
    model: ModelProto, change: Callable[[ModelProto], None]
) -> None:
    before = hashes(copy.deepcopy(model))
    change(model)
    after = hashes(model)
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_other_widths_are_another_graph(tmp_path: Path) -> None:
    a = hashes(onnx.load(str(mlp_classifier(tmp_path / "a.onnx", hidden=(6, 5)))))
    b = hashes(onnx.load(str(mlp_classifier(tmp_path / "b.onnx", hidden=(5, 6)))))
    assert a[0] != b[0]


def test_equal_branches_wired_differently_are_told_apart(tmp_path: Path) -> None:
    """f(a) + f(a) against f(a) + f(b) with a and b alike: only the readers differ."""

    def build(second: str) -> ModelProto:
        node = helper.make_node
        nodes = [
            node("Relu", ["x"], ["a"]), node("Relu", ["x"], ["b"]),
            node("Exp", ["a"], ["p"]), node("Exp", [second], ["q"]),
            node("Add", ["p", "q"], ["y"]), node("Add", ["a", "b"], ["z"]),
        ]  # fmt: skip
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            nodes, "g", [value("x", 1, [1, 2])], [value("y", 1, [1, 2]), value("z", 1, [1, 2])]
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])

    assert hashes(build("a"))[0] != hashes(build("b"))[0]


def test_external_and_inline_storage_have_equal_hashes(tmp_path: Path) -> None:
    inline = tiny_classifier(tmp_path / "a.onnx", features=64, classes=32)
    split = external_data_model(tmp_path / "b.onnx", features=64, classes=32)
    assert hashes(read_model(inline)) == hashes(read_model(split), tmp_path)


def test_constants_and_initializers_have_equal_hashes(tmp_path: Path) -> None:
    a = hashes(read_model(tiny_classifier(tmp_path / "a.onnx")))
    assert a == hashes(read_model(constant_node_model(tmp_path / "b.onnx")))


def test_swapped_branches_of_an_if_are_another_graph(tmp_path: Path) -> None:
    a = hashes(read_model(if_subgraph_model(tmp_path / "a.onnx", narrow=3, wide=5)))
    b = hashes(read_model(if_subgraph_model(tmp_path / "b.onnx", narrow=5, wide=3)))
    assert a[0] != b[0]
    assert a[1] == b[1]


def test_the_content_fingerprint_is_sha256_of_the_bytes(tmp_path: Path) -> None:
    path = tiny_classifier(tmp_path / "m.onnx")
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert fp.content_fingerprint(path) == f"sha256:{expected}"


def test_the_content_fingerprint_covers_external_data(tmp_path: Path) -> None:
    path = external_data_model(tmp_path / "m.onnx")
    data = tmp_path / "m.onnx.data"
    before = fp.content_fingerprint(path, [data])
    changed = bytearray(data.read_bytes())
    changed[-1] ^= 1
    data.write_bytes(bytes(changed))
    assert fp.content_fingerprint(path, [data]) != before
    assert fp.content_fingerprint(path) != before


def test_four_bit_weights_hash_alike_however_stored(tmp_path: Path) -> None:
    import ml_dtypes

    array = np.array([1, -2, 3, 4, 5], ml_dtypes.int4)
    raw = numpy_helper.from_array(array, "w4")
    typed = onnx.TensorProto(name="w4", data_type=raw.data_type, dims=[5])
    typed.int32_data.extend(raw.raw_data)
    found = set()
    for tensor in (raw, typed):
        model = onnx.load(str(tiny_classifier(tmp_path / "m.onnx")))
        model.graph.initializer.append(tensor)
        found.add(hashes(model)[1])
    assert len(found) == 1
