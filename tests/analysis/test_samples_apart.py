"""Whether a graph keeps samples apart: what is proved is tried beside neighbours of other sizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import NodeProto, TensorProto, helper

from sommelier.analysis.samples_apart import why_samples_meet
from tests.onnx_writer import FLOAT, save_model

F = 6
ROW, MAP = ["N", F], ["N", 2, 4, 4]
rng = np.random.default_rng(4)


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return rng.normal(size=shape).astype(np.float32)


def whole(*numbers: int) -> np.ndarray[Any, Any]:
    return np.array(numbers, np.int64)


def node(op: str, inputs: str = "x", outputs: str = "y", **attributes: Any) -> NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


Case = tuple[list[NodeProto], list[Any], dict[str, np.ndarray[Any, Any]]]

KEPT: Mapping[str, Case] = {
    "dense": ([node("Gemm", "x w b")], ROW, {"w": floats(F, 3), "b": floats(3)}),
    "matmul": ([node("MatMul", "x w")], ROW, {"w": floats(F, 3)}),
    "each by itself": (
        [node("Transpose", "x", "t", perm=[0, 1, 3, 2]), node("MatMul", "x t")], MAP, {},
    ),
    "convolution": ([node("Conv", "x w", pads=[1] * 4)], MAP, {"w": floats(3, 2, 3, 3)}),
    "pool": ([node("MaxPool", kernel_shape=[2, 2])], MAP, {}),
    "norm": (
        [node("BatchNormalization", "x s b m v")],
        MAP,
        {"s": floats(2), "b": floats(2), "m": floats(2), "v": np.ones(2, np.float32)},
    ),
    "layer norm": ([node("LayerNormalization", "x s")], ROW, {"s": floats(F)}),
    "softmax": ([node("Softmax", axis=1)], ROW, {}),
    "mean of places": ([node("ReduceMean", "x axes", keepdims=0)], MAP, {"axes": whole(2, -1)}),
    "largest": ([node("ReduceMax", "x axes", "m"), node("Div", "x m")], ROW, {"axes": whole(1)}),
    "beside": ([node("Add", "x b"), ], ROW, {"b": floats(1, F)}),
    "where": (
        [node("Greater", "x zero", "c"), node("Where", "c x zero")], ROW,
        {"zero": np.zeros(1, np.float32)},
    ),
    "reshaped": ([node("Reshape", "x s", "r"), node("Softmax", "r")], MAP, {"s": whole(0, 2, -1)}),
    "reshaped by its own length": (
        [
            node("Shape", "x", "all"),
            node("Gather", "all first", "n"),
            node("Concat", "n rest", "s", axis=0),
            node("Reshape", "x s"),
        ],
        MAP,
        {"first": whole(0), "rest": whole(-1)},
    ),
    "divided by its width": (
        [
            node("Shape", "x", "all"),
            node("Gather", "all second", "w"),
            node("Cast", "w", "f", to=FLOAT),
            node("Div", "x f"),
        ],
        ROW,
        {"second": whole(1)},
    ),
    "sliced": (
        [node("Slice", "x a b axes")], ROW, {"a": whole(1), "b": whole(4), "axes": whole(1)},
    ),
    "padded": ([node("Pad", "x p")], ROW, {"p": whole(0, 1, 0, 2)}),
    "joined": ([node("Relu", "x", "r"), node("Concat", "x r", axis=-1)], ROW, {}),
    "flat": ([node("Flatten")], MAP, {}),
    "running sum": ([node("CumSum", "x axis")], ROW, {"axis": np.array(1, np.int64)}),
    "best": ([node("TopK", "x k", "y i")], ROW, {"k": whole(2)}),
    "chosen": ([node("Gather", "x i", axis=1)], ROW, {"i": whole(3, 0)}),
}  # fmt: skip

MIXED: Mapping[str, Case] = {
    "largest of all": ([node("ReduceMax", "x", "m"), node("Div", "x m")], ROW, {}),
    "mean of samples": ([node("ReduceMean", "x a", "m"), node("Sub", "x m")], ROW, {"a": whole(0)}),
    "quantised by the range": (
        [node("DynamicQuantizeLinear", "x", "q s z"), node("DequantizeLinear", "q s z")], ROW, {},
    ),
    "softmax over samples": ([node("Softmax", axis=0)], ROW, {}),
    "samples against samples": (
        [node("Transpose", "x", "t", perm=[1, 0]), node("MatMul", "x t", "p"),
         node("MatMul", "p x")],
        ROW, {},
    ),
    "rows of several": ([node("Reshape", "x s")], ROW, {"s": whole(-1, 3)}),
    "divided by their number": (
        [
            node("Shape", "x", "all"),
            node("Gather", "all first", "n"),
            node("Cast", "n", "f", to=FLOAT),
            node("Div", "x f"),
        ],
        ROW,
        {"first": whole(0)},
    ),
    "places in all": ([node("MaxPool", "x", "m y", kernel_shape=[2, 2])], MAP, {}),
    "trained": (
        [node("BatchNormalization", "x s b m v", "y rm rv", training_mode=1)],
        MAP,
        {"s": floats(2), "b": floats(2), "m": floats(2), "v": np.ones(2, np.float32)},
    ),
    "dropped": ([node("Dropout", "x r t")], ROW,
                {"r": np.array(0.5, np.float32), "t": np.array(True)}),
    "drawn": ([node("RandomNormalLike", "x", "n"), node("Add", "x n")], ROW, {}),
    "padded samples": ([node("Pad", "x p", "q"), node("Slice", "q a b axes")], ROW,
                       {"p": whole(1, 0, 0, 0), "a": whole(0), "b": whole(-1), "axes": whole(0)}),
    "running over samples": ([node("CumSum", "x axis")], ROW, {"axis": np.array(0, np.int64)}),
    "the first of them": (
        [node("Slice", "x a b axes", "f"), node("Sub", "x f")], ROW,
        {"a": whole(0), "b": whole(1), "axes": whole(0)},
    ),
}  # fmt: skip


def written(path: Path, case: Case) -> Path:
    nodes, shape, used = case
    kind = TensorProto.INT64 if "m y" in " ".join(nodes[-1].output) else FLOAT
    return save_model(
        path, nodes, {"x": (FLOAT, shape)}, {"y": (kind, None)}, used, opsets={"": 18}
    )


@pytest.mark.parametrize("name", KEPT)
def test_what_is_proved_holds_beside_any_neighbour(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", KEPT[name])
    assert why_samples_meet(onnx.load(path)) is None
    session = onnxruntime.InferenceSession(path)
    shape = KEPT[name][1][1:]
    x = floats(3, *shape) * np.array([1, 300, 1e-3], np.float32).reshape(3, *[1] * len(shape))
    together = session.run(["y"], {"x": x})[0]
    for i in range(3):
        alone = session.run(["y"], {"x": x[i : i + 1]})[0]
        np.testing.assert_allclose(together[i : i + 1], alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", MIXED)
def test_what_may_mix_samples_is_not_proved(name: str, tmp_path: Path) -> None:
    reason = why_samples_meet(onnx.load(written(tmp_path / "m.onnx", MIXED[name])))
    assert reason is not None
    assert "samples" in reason


def test_a_model_of_one_sample_has_no_axis_of_them(tmp_path: Path) -> None:
    case = ([node("Relu")], [1, F], dict[str, np.ndarray[Any, Any]]())
    assert why_samples_meet(onnx.load(written(tmp_path / "m.onnx", case))) is not None
