"""Costs read from graphs agree with arithmetic, with published figures and with each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sommelier.analysis.graph import read_model
from sommelier.analysis.profiling import PROFILE_DIMS, StaticProfile, profile
from tests.factories import (
    constant_node_model,
    conv_classifier,
    external_data_model,
    hanging_model,
    if_subgraph_model,
    loop_model,
    mlp_classifier,
    save_model,
    tiny_classifier,
)
from tests.onnx_writer import loop_node

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64

# GMACs, ecosystem.md 2.4: own count = torch's flop_counter on the converted models.
PUBLISHED_GMACS = {
    "bvlc_alexnet": 0.655,
    "densenet121": 2.834,
    "inception_v1": 1.432,
    "inception_v2": 2.019,
    "resnet50": 4.089,
    "shufflenet": 0.125,
    "squeezenet": 0.349,
    "zfnet512": 1.482,
    "vgg19": 19.632,
}
# Weights of the published Caffe models; batch normalisation's four vectors included.
PUBLISHED_PARAMS = {
    "bvlc_alexnet": 60_965_224,
    "squeezenet": 1_235_496,
    "vgg19": 143_667_240,
    "resnet50": 25_610_153,
}


def costs(path: Path, **options: object) -> StaticProfile:
    return profile(read_model(path), **options)  # type: ignore[arg-type]


def run(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[int]],
    outputs: dict[str, list[int]],
    weights: dict[str, np.ndarray] | None = None,
    **options: object,
) -> StaticProfile:
    typed = {name: (FLOAT, shape) for name, shape in inputs.items()}
    given = {name: (FLOAT, shape) for name, shape in outputs.items()}
    return costs(save_model(path, nodes, typed, given, weights, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PUBLISHED_GMACS)
def test_flops_match_published_figures_within_two_percent(name: str) -> None:
    found = costs(LIGHT / f"light_{name}.onnx")
    assert found.flops == pytest.approx(2e9 * PUBLISHED_GMACS[name], rel=0.02)
    assert sum(found.flops_by_operator.values()) == found.flops


@pytest.mark.parametrize("name", PUBLISHED_PARAMS)
def test_params_match_published_figures(name: str) -> None:
    assert costs(LIGHT / f"light_{name}.onnx").params == PUBLISHED_PARAMS[name]


def test_a_classifier_costs_what_arithmetic_says(tmp_path: Path) -> None:
    found = costs(tiny_classifier(tmp_path / "m.onnx", features=7, classes=5))
    assert (found.params, found.weight_bytes, found.layers) == (7 * 5 + 5, 4 * 40, 1)
    assert found.flops == 2 * 7 * 5
    assert found.peak_activation_bytes == 4 * (7 + 5)
    assert found.unknown == ()


def test_costs_grow_with_the_batch_and_weights_do_not(tmp_path: Path) -> None:
    path = conv_classifier(tmp_path / "m.onnx", channels=3, size=8, classes=4, width=5)
    one, eight = costs(path, batch=1), costs(path, batch=8)
    assert one.flops == 2 * (8 * 8 * 5 * 3 * 9 + 5 * 4)
    assert eight.flops == 8 * one.flops
    assert eight.peak_activation_bytes == 8 * (one.peak_activation_bytes or 0)
    assert eight.params == one.params == 5 * 27 + 5 + 5 * 4 + 4


def test_weights_in_constant_nodes_count(tmp_path: Path) -> None:
    stored = costs(tiny_classifier(tmp_path / "a.onnx"))
    inline = costs(constant_node_model(tmp_path / "b.onnx"))
    assert inline.params == stored.params > 0
    assert inline.flops == stored.flops
    assert inline.peak_activation_bytes == stored.peak_activation_bytes


def test_an_if_has_all_weights_and_costs_its_dearer_branch(tmp_path: Path) -> None:
    found = costs(if_subgraph_model(tmp_path / "m.onnx", features=4, narrow=3, wide=5))
    assert found.params == (4 * 3 + 3) + (4 * 5 + 5)
    assert found.flops == 2 * (4 * 5 + 5)
    assert found.layers == 1 + 2 + 2


def test_an_if_whose_condition_is_known_costs_the_branch_it_takes(tmp_path: Path) -> None:
    path = if_subgraph_model(tmp_path / "m.onnx", features=4, narrow=3, wide=5)
    model = read_model(path)
    del model.graph.input[1]
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
    assert profile(model).flops == 2 * (4 * 3 + 3)
    assert profile(model).params == (4 * 3 + 3) + (4 * 5 + 5)


def test_a_scikit_learn_pipeline_has_shapes(tmp_path: Path) -> None:
    ml = "ai.onnx.ml"
    nodes = [
        helper.make_node("Scaler", ["x"], ["s"], domain=ml, offset=[0.0] * 4, scale=[1.0] * 4),
        helper.make_node("MatMul", ["s", "w"], ["y"]),
    ]
    found = run(
        tmp_path / "m.onnx", nodes, {"x": [3, 4]}, {"y": [3, 2]}, {"w": np.ones((4, 2), "f4")},
        opsets={"": 17, ml: 3},
    )  # fmt: skip
    assert (found.flops, found.params) == (2 * 3 * 4 * 2, 4 + 4 + 8)
    assert found.peak_activation_bytes == 4 * (12 + 12)


def test_a_loop_costs_its_body_times_its_trips(tmp_path: Path) -> None:
    found = costs(loop_model(tmp_path / "m.onnx", trips=5, features=4))
    assert found.flops == 5 * 2 * 4 * 4


def test_a_loop_of_unknown_length_has_unknown_flops_and_not_zero(tmp_path: Path) -> None:
    found = costs(loop_model(tmp_path / "m.onnx", trips=None))
    assert found.flops is None
    assert found.vector is None
    assert any("Loop of unknown length" in reason for reason in found.unknown)


def test_an_endless_model_is_profiled_in_no_time(tmp_path: Path) -> None:
    found = costs(hanging_model(tmp_path / "m.onnx"))
    assert found.flops is None  # sines multiply no matrices, but 2**60 rounds of them are not free
    assert any("Loop" in reason for reason in found.unknown)


@pytest.mark.parametrize(
    ("ending", "start", "flops"),
    [
        ([], "", 5 * 2 * 4 * 4),
        ([("Identity", ["yes"])], "", 5 * 2 * 4 * 4),
        ([("Identity", ["go"])], "yes", 5 * 2 * 4 * 4),
        ([("Identity", ["go"])], "no", 0),
        ([("Identity", ["go"])], "asked", None),  # a condition that is an input
        ([("Less", ["i", "limit"])], "", None),  # ends when the input says so
    ],
)
def test_a_count_is_known_only_if_no_condition_can_end_the_loop(
    tmp_path: Path, ending: list[tuple[str, list[str]]], start: str, flops: float | None
) -> None:
    ((op, operands),) = ending or [("Identity", ["go"])]
    body = [
        helper.make_node(op, operands, ["go_on"]),
        helper.make_node("MatMul", ["state", "w"], ["next"]),
    ]
    loop = loop_node("trips", "x", "y", body, [1, 4])
    loop.input[1] = start
    path = save_model(
        tmp_path / "m.onnx",
        [loop],
        {"x": (FLOAT, [1, 4]), "limit": (INT64, []), "asked": (TensorProto.BOOL, [])},
        {"y": (FLOAT, [1, 4])},
        {
            "w": np.eye(4, dtype=np.float32), "trips": np.array(5, np.int64),
            "yes": np.array(True), "no": np.array(False),
        },
    )  # fmt: skip
    assert costs(path).flops == flops


def test_a_scan_costs_its_body_times_the_scanned_length(tmp_path: Path) -> None:
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "w"], ["next"]),
            helper.make_node("Add", ["next", "item"], ["out"]),
        ],
        "body",
        [helper.make_tensor_value_info(n, FLOAT, [1, 4]) for n in ("state", "item")],
        [helper.make_tensor_value_info(n, FLOAT, [1, 4]) for n in ("next", "out")],
    )
    node = helper.make_node("Scan", ["x0", "xs"], ["last", "ys"], body=body, num_scan_inputs=1)
    path = save_model(
        tmp_path / "m.onnx",
        [node],
        {"x0": (FLOAT, [1, 4]), "xs": (FLOAT, [6, 1, 4])},
        {"last": (FLOAT, [1, 4]), "ys": (FLOAT, [6, 1, 4])},
        {"w": np.eye(4, dtype=np.float32)},
    )
    assert costs(path).flops == 6 * 2 * 4 * 4


def test_unknown_operators_make_flops_unknown(tmp_path: Path) -> None:
    node = helper.make_node("SparseAttention", ["x"], ["y"], domain="com.microsoft", name="odd")
    found = run(
        tmp_path / "m.onnx", [node], {"x": [1, 4]}, {"y": [1, 4]},
        opsets={"": 17, "com.microsoft": 1},
    )  # fmt: skip
    assert found.flops is None
    assert found.unknown == ("flops: no count for com.microsoft:SparseAttention 'odd'",)


def test_memory_of_a_chain_is_its_two_largest_neighbours(tmp_path: Path) -> None:
    path = mlp_classifier(tmp_path / "m.onnx", features=10, hidden=(100, 7), classes=3)
    found = costs(path)
    assert found.peak_activation_bytes == 4 * (100 + 100)  # before and after the first Relu
    assert found.sum_activation_bytes == 4 * (100 + 100 + 7 + 7 + 3)


def test_a_residual_keeps_the_skipped_tensor_alive(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Exp", ["a"], ["b"]),
        helper.make_node("Exp", ["b"], ["c"]),
        helper.make_node("Add", ["a", "c"], ["y"]),
    ]
    found = run(tmp_path / "m.onnx", nodes, {"x": [1, 25]}, {"y": [1, 25]})
    assert found.peak_activation_bytes == 4 * 25 * 3  # a, b, c together; then a, c, y


def test_views_take_no_memory(tmp_path: Path) -> None:
    shape = {"s": np.array([5, 5], np.int64)}
    nodes = [
        helper.make_node("Reshape", ["x", "s"], ["v"]),
        helper.make_node("Relu", ["v"], ["y"]),
    ]
    found = run(tmp_path / "m.onnx", nodes, {"x": [1, 25]}, {"y": [5, 5]}, shape)
    assert found.peak_activation_bytes == 4 * 25 * 2


def test_a_quantised_operator_keeps_integers_and_no_floats(tmp_path: Path) -> None:
    """Dequantize, Relu, Quantize run as one operator on bytes."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Relu", ["d"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["q2"]),
        helper.make_node("DequantizeLinear", ["q2", "s", "z"], ["y"]),
    ]
    weights = {"s": np.float32(0.1), "z": np.uint8(0)}
    path = save_model(
        tmp_path / "m.onnx", nodes, {"x": (FLOAT, [1, 100])}, {"y": (FLOAT, [1, 100])}, weights
    )
    assert costs(path).sum_activation_bytes == 100 + 100 + 400


def test_unknown_sizes_make_memory_unknown_and_are_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["where"]),
        helper.make_node("Cast", ["where"], ["y"], to=FLOAT),
    ]
    path = save_model(
        tmp_path / "m.onnx", nodes, {"x": (FLOAT, [3, 4])}, {"y": (FLOAT, [2, "found"])}
    )
    found = costs(path)
    assert found.peak_activation_bytes is None
    assert "memory: 2 tensors of unknown size: 'where', 'y'" in found.unknown
    assert found.flops == 0


def test_external_weights_count_without_their_file(tmp_path: Path) -> None:
    path = external_data_model(tmp_path / "m.onnx", features=64, classes=32)
    (tmp_path / "m.onnx.data").unlink()
    found = costs(path)
    assert found.params == 64 * 32 + 32
    assert found.flops == 2 * 64 * 32


def test_sparse_weights_count_what_is_stored(tmp_path: Path) -> None:
    path = tiny_classifier(tmp_path / "m.onnx", features=10, classes=10)
    model = onnx.load(str(path))
    values = numpy_helper.from_array(np.ones(3, np.float32), "w")
    indices = numpy_helper.from_array(np.array([0, 5, 99], np.int64))
    del model.graph.initializer[0]
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [10, 10]))
    found = profile(model)
    assert found.params == 3 + 10
    assert found.weight_bytes == 3 * (4 + 8) + 40
    assert found.flops == 2 * 10 * 10


def test_structural_integers_are_not_parameters(tmp_path: Path) -> None:
    shape = {"s": np.array([1, 2, 2], np.int64)}
    node = helper.make_node("Reshape", ["x", "s"], ["y"])
    assert run(tmp_path / "m.onnx", [node], {"x": [1, 4]}, {"y": [1, 2, 2]}, shape).params == 0


def recurrent(op: str, gates: int, path: Path, hidden: int = 6) -> StaticProfile:
    weights = {
        "w": np.zeros((1, gates * hidden, 5), np.float32),
        "r": np.zeros((1, gates * hidden, hidden), np.float32),
    }
    node = helper.make_node(op, ["x", "w", "r"], ["y"], hidden_size=hidden)
    return run(path, [node], {"x": [7, 2, 5]}, {"y": [7, 1, 2, hidden]}, weights)


@pytest.mark.parametrize(("op", "gates"), [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
def test_recurrent_cells_cost_their_gates_every_step(tmp_path: Path, op: str, gates: int) -> None:
    found = recurrent(op, gates, tmp_path / "m.onnx")
    assert found.flops == 2 * 7 * 2 * gates * 6 * (5 + 6)


EINSUMS = [("bij,bjk->bik", [2, 3, 4], [2, 4, 5], 2 * 3 * 4 * 5), ("...i,ij->...j", [2, 3, 4],
           [4, 6], 2 * 3 * 4 * 6), ("i,j->ij", [3], [4], 12)]  # fmt: skip


@pytest.mark.parametrize(("equation", "a", "b", "macs"), EINSUMS)
def test_einsum_costs_the_product_of_its_indices(
    tmp_path: Path, equation: str, a: list[int], b: list[int], macs: int
) -> None:
    shape = np.einsum(equation, np.zeros(a), np.zeros(b)).shape
    node = helper.make_node("Einsum", ["a", "b"], ["y"], equation=equation)
    found = run(tmp_path / "m.onnx", [node], {"a": a, "b": b}, {"y": list(shape)})
    assert found.flops == 2 * macs


def test_grouped_and_transposed_convolutions(tmp_path: Path) -> None:
    weights = {"w": np.zeros((8, 1, 3, 3), np.float32)}
    depthwise = helper.make_node("Conv", ["x", "w"], ["y"], group=8, pads=[1] * 4)
    found = run(tmp_path / "a.onnx", [depthwise], {"x": [1, 8, 5, 5]}, {"y": [1, 8, 5, 5]}, weights)
    assert found.flops == 2 * 8 * 25 * 9
    weights = {"w": np.zeros((8, 4, 2, 2), np.float32)}
    up = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])
    found = run(tmp_path / "b.onnx", [up], {"x": [1, 8, 5, 5]}, {"y": [1, 4, 10, 10]}, weights)
    assert found.flops == 2 * 8 * 25 * 4 * 4


def test_runtime_extensions_have_shapes_and_flops(tmp_path: Path) -> None:
    """A quantised linear layer as ONNX Runtime writes it, then its own Gelu and MatMul."""
    node, ms = helper.make_node, "com.microsoft"
    nodes = [
        node("DynamicQuantizeMatMul", ["x", "w8", "s", "z"], ["a"], domain=ms),
        node("Gelu", ["a"], ["b"], domain=ms),
        node("FusedMatMul", ["b", "v"], ["y"], domain=ms, transB=1),
    ]
    weights = {
        "w8": np.zeros((4, 6), np.uint8), "s": np.float32(1), "z": np.uint8(0),
        "v": np.zeros((3, 6), np.float32),
    }  # fmt: skip
    opsets = {"": 17, ms: 1}
    found = run(tmp_path / "m.onnx", nodes, {"x": [2, 4]}, {"y": [2, 3]}, weights, opsets=opsets)
    assert found.flops == 2 * 2 * (4 * 6 + 6 * 3)
    assert found.peak_activation_bytes == 4 * (12 + 12)
    assert found.unknown == ()


def test_functions_are_expanded(tmp_path: Path) -> None:
    function = helper.make_function(
        "local", "Twice", ["a", "w"], ["c"],
        [helper.make_node("MatMul", [a, "w"], [b]) for a, b in ("ab", "bc")],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    nodes = [
        helper.make_node("Twice", ["x", "w"], ["h"], domain="local"),
        helper.make_node("Twice", ["h", "w"], ["y"], domain="local"),
    ]
    found = run(
        tmp_path / "m.onnx", nodes, {"x": [1, 4]}, {"y": [1, 4]}, {"w": np.eye(4, dtype="f4")},
        opsets={"": 17, "local": 1}, functions=[function],
    )  # fmt: skip
    assert found.flops == 4 * 2 * 16
    assert found.params == 16


def test_profile_vectors_are_shares_and_alike_for_alike_networks(tmp_path: Path) -> None:
    def vector(path: Path) -> np.ndarray:
        found = costs(path).vector
        assert found is not None
        return found

    small = vector(conv_classifier(tmp_path / "a.onnx", size=8, width=4))
    large = vector(conv_classifier(tmp_path / "b.onnx", size=8, width=6))
    other = vector(mlp_classifier(tmp_path / "c.onnx"))
    for v in (small, large, other):
        assert v.shape == (PROFILE_DIMS,) == (48,)
        assert np.all(v >= 0)
        assert np.allclose(v.reshape(2, -1).sum(axis=1), 1.0)
    assert np.minimum(small, large).sum() > 1.5 > np.minimum(small, other).sum()
