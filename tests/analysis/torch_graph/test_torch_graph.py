"""ONNX as torch: every operator against ONNX Runtime, gradients against differences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper

from sommelier.analysis.torch_graph import supported_operators, to_torch
from sommelier.errors import AnalysisError
from tests.factories import conv_classifier, mlp_classifier
from tests.onnx_writer import FLOAT, INT64, save_model

Array = NDArray[Any]
BOOL = TensorProto.BOOL
IMAGE, ROW, TIMES = (2, 4, 7, 6), (3, 5), (2, 3, 4)


@dataclass(frozen=True)
class Case:
    """One operator on one input x, with constants and attributes.

    stored : operands after x; None omits one. low : x is drawn from [low, low + 2].
    """

    op: str
    shape: tuple[int, ...] = ROW
    stored: tuple[ArrayLike | None, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    out: int = FLOAT
    low: float = -1.0
    opset: int = 17
    first: bool = True  # whether x is the first operand
    outputs: int = 1
    kind: int = FLOAT


def _f(*shape: int, seed: int = 7) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _i(*values: int) -> Array:
    return np.array(values, np.int64)


def _s(value: float) -> Array:
    return np.array(value, np.float32)


UNARY = ["Abs", "Ceil", "Cos", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish",
         "Identity", "LeakyRelu", "Neg", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin",
         "Softplus", "Softsign", "Tanh", "Celu", "Dropout"]  # fmt: skip
BINARY = ["Add", "Div", "Max", "Mean", "Min", "Mul", "Sub", "Sum"]
COMPARISONS = ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"]
REDUCTIONS = ["ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSumSquare"]
NORMS = (_f(4), _f(4, seed=8), _f(4, seed=9), np.abs(_f(4, seed=10)) + 0.1)
CASES = [
    *(Case(op, low=-2.0) for op in UNARY),
    *(Case(op, low=0.1) for op in ("Log", "Reciprocal", "Sqrt")),
    *(Case(op, stored=(_f(1, 5) + 3,)) for op in BINARY),
    *(Case(op, stored=(np.zeros((3, 1), np.float32),), out=BOOL) for op in COMPARISONS),
    *(Case(op, TIMES, attributes={"axes": [1, -1], "keepdims": 0}) for op in REDUCTIONS),
    Case("ReduceMean", TIMES),
    Case("ReduceSum", TIMES, (_i(-1),)),
    Case("ReduceSum", TIMES, attributes={"noop_with_empty_axes": 1}),
    Case("ReduceMax", TIMES, (_i(0, 2),), opset=18),
    Case("Pow", stored=(_s(2.0),)),
    Case("Mish", low=-2.0, opset=18),
    Case("Gelu", opset=20),
    Case("Gelu", attributes={"approximate": "tanh"}, opset=20),
    Case("Clip", stored=(_s(-0.5), _s(0.25))),
    Case("Clip", stored=(None, _s(0.25))),
    Case("Clip", attributes={"min": -0.5}, opset=6),
    Case("PRelu", IMAGE, (_f(4, 1, 1),)),
    Case("Softmax", TIMES, attributes={"axis": 1}),
    Case("Softmax", TIMES, opset=11),
    Case("LogSoftmax", TIMES),
    Case("LpNormalization", TIMES, attributes={"axis": 1, "p": 1}),
    Case("LRN", IMAGE, attributes={"size": 3, "alpha": 0.5, "bias": 2.0}),
    Case("BatchNormalization", IMAGE, NORMS, {"epsilon": 1e-3}),
    Case("InstanceNormalization", IMAGE, NORMS[:2]),
    Case("LayerNormalization", TIMES, (_f(3, 4), _f(3, 4, seed=8)), {"axis": -2}),
    Case("LayerNormalization", TIMES, (_f(4),)),
    Case("GroupNormalization", IMAGE, NORMS[:2], {"num_groups": 2}, opset=21),
    Case("Gemm", stored=(_f(4, 5), _f(4)), attributes={"transB": 1, "alpha": 0.5, "beta": 2.0}),
    Case("Gemm", stored=(_f(3, 4),), attributes={"transA": 1}),
    Case("MatMul", TIMES, (_f(4, 6),)),
    Case("Not", stored=(), kind=BOOL, out=BOOL),
    *(Case(op, stored=(np.array([[True], [False], [True]]),), kind=BOOL, out=BOOL)
      for op in ("And", "Or")),
    Case("Conv", IMAGE, (_f(6, 2, 3, 2), _f(6)), {"group": 2, "strides": [2, 1],
                                                  "dilations": [1, 2], "pads": [1, 0, 1, 2]}),
    Case("Conv", IMAGE, (_f(3, 4, 3, 3),), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    Case("Conv", IMAGE, (_f(3, 4, 2, 2),), {"auto_pad": "SAME_LOWER"}),
    Case("Conv", TIMES, (_f(3, 3, 2),), {"auto_pad": "VALID"}),
    Case("Conv", (1, 2, 3, 4, 5), (_f(3, 2, 2, 2, 2),), {"pads": [1] * 6}),
    Case("ConvTranspose", IMAGE, (_f(4, 3, 3, 3), _f(6)), {"strides": [2, 2], "group": 2,
         "pads": [1, 0, 0, 1], "output_padding": [1, 1]}),
    Case("MaxPool", IMAGE, attributes={"kernel_shape": [3, 2], "strides": [2, 2],
                                       "pads": [1, 0, 1, 1], "ceil_mode": 1}),
    Case("MaxPool", IMAGE, attributes={"kernel_shape": [2, 2], "dilations": [2, 1]}),
    Case("MaxPool", IMAGE, attributes={"kernel_shape": [2, 2], "strides": [2, 2],
                                       "auto_pad": "SAME_UPPER"}),
    Case("AveragePool", IMAGE, attributes={"kernel_shape": [3, 3], "pads": [1, 0, 1, 1],
                                           "strides": [2, 2]}),
    Case("AveragePool", IMAGE, attributes={"kernel_shape": [3, 3], "pads": [1] * 4,
                                           "count_include_pad": 1}),
    Case("AveragePool", IMAGE, attributes={"kernel_shape": [2, 2], "strides": [2, 2],
                                           "ceil_mode": 1}),
    Case("GlobalAveragePool", IMAGE),
    Case("GlobalMaxPool", IMAGE),
    Case("Pad", IMAGE, (_i(0, 1, 2, 0, 0, 0, 1, 3), _s(2.0))),
    Case("Pad", IMAGE, (_i(0, 0, 1, 2, 0, 0, 3, 1),), {"mode": "reflect"}),
    Case("Pad", IMAGE, (_i(1, 2), _s(0.0), _i(-1)), opset=18),
    Case("Resize", IMAGE, (None, np.array([1, 1, 2, 3], np.float32)),
         {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
    Case("Resize", IMAGE, (None, None, _i(2, 4, 11, 9)), {"mode": "linear"}),
    Case("Resize", IMAGE, (None, None, _i(2, 4, 11, 9)),
         {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
    Case("DepthToSpace", IMAGE, attributes={"blocksize": 2}),
    Case("DepthToSpace", IMAGE, attributes={"blocksize": 2, "mode": "CRD"}),
    Case("SpaceToDepth", (1, 2, 6, 4), attributes={"blocksize": 2}),
    Case("Reshape", TIMES, (_i(0, -1),)),
    Case("Flatten", TIMES, attributes={"axis": 2}),
    Case("Flatten", TIMES, attributes={"axis": -1}),
    Case("Transpose", TIMES, attributes={"perm": [2, 0, 1]}),
    Case("Transpose", TIMES),
    Case("Squeeze", (2, 1, 3, 1), (_i(-1),)),
    Case("Squeeze", (2, 1, 3), opset=11),
    Case("Unsqueeze", TIMES, (_i(0, -1),)),
    Case("Concat", TIMES, (_f(2, 3, 1),), {"axis": -1}),
    Case("Split", TIMES, (_i(1, 3),), {"axis": -1}, outputs=2),
    Case("Split", ROW, attributes={"axis": 1, "num_outputs": 2}, outputs=2, opset=18),
    Case("Slice", TIMES, (_i(3, 1), _i(-100, 3), _i(2, 1), _i(-2, 1))),
    Case("Slice", TIMES, attributes={"starts": [1], "ends": [99], "axes": [-1]}, opset=9),
    Case("Gather", TIMES, (np.array([[0, -1], [1, 1]]),), {"axis": 1}),
    Case("Gather", TIMES, (np.array(-1),), {"axis": 0}),
    Case("Expand", (3, 1), (_i(2, 1, 4),)),
    Case("Tile", ROW, (_i(2, 3),)),
    Case("Where", stored=(np.array([[True], [False], [True]]), _f(3, 5)), first=False),
    Case("Cast", attributes={"to": INT64}, out=INT64, low=1.0),
    Case("CastLike", stored=(_i(1),), out=INT64, low=1.0),
    Case("CumSum", stored=(_i(1),)),
    Case("ArgMax", attributes={"axis": -1, "keepdims": 0}, out=INT64),
    Case("Shape", out=INT64),
    Case("Size", out=INT64),
    Case("OneHot", (4,), (_i(3), np.array([0, 2], np.float32)), {"axis": 0}, kind=INT64),
]  # fmt: skip
REAL = ["cifar10_resnet20", "ic_resnet8", "magika_standard_v2_1", "fsanet-1x1-iter-688590",
        "version-slim-320", "yunet_s_320_320"]  # fmt: skip
ELSEWHERE = {"Constant", "ConstantOfShape", "DequantizeLinear", "Range"}


def _write(path: Path, case: Case) -> Path:
    names = [None if one is None else f"c{i}" for i, one in enumerate(case.stored)]
    operands = [name or "" for name in names]
    operands = ["x", *operands] if case.first else [operands[0], "x", *operands[1:]]
    made = [f"y{i}" for i in range(case.outputs)]
    node = helper.make_node(case.op, operands, made, **case.attributes)
    stored = {n: np.asarray(v) for n, v in zip(names, case.stored, strict=True) if n}
    return save_model(
        path, [node], {"x": (case.kind, list(case.shape))},
        dict.fromkeys(made, (case.out, None)), stored, opsets={"": case.opset},
    )  # fmt: skip


def _input(case: Case) -> Array:
    rng = np.random.default_rng(0)
    if case.kind == BOOL:
        return rng.random(case.shape) < 0.5
    if case.kind == INT64:
        return np.array([0, 2, -1, 1])
    return (rng.random(case.shape) * 2 + case.low).astype(np.float32)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.op}-{sorted(c.attributes)}-{c.opset}")
def test_an_operator_answers_as_in_onnx_runtime(case: Case, tmp_path: Path) -> None:
    path = _write(tmp_path / "one.onnx", case)
    to_torch(path, {"x": _input(case)}, tolerance=1e-5)


def test_every_operator_has_a_case() -> None:
    assert set(supported_operators()) == {case.op for case in CASES} | ELSEWHERE


def test_arithmetic_on_shapes_and_stored_integers_becomes_what_it_means(tmp_path: Path) -> None:
    """Constant, ConstantOfShape, Range, Shape and DequantizeLinear in one graph."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=1),
        # not the product with w itself: ONNX Runtime would round x to integers for it
        helper.make_node("Add", ["w", "w"], ["twice"]),
        helper.make_node("MatMul", ["x", "twice"], ["h"]),
        helper.make_node("Constant", [], ["start"], value_int=0),
        helper.make_node("Constant", [], ["step"], value_int=2),
        helper.make_node("Range", ["start", "width", "step"], ["even"]),
        helper.make_node("Gather", ["h", "even"], ["picked"], axis=1),
        helper.make_node("Add", ["x", "zeros"], ["same"]),
        helper.make_node("Concat", ["picked", "same"], ["y"], axis=1),
    ]
    stored = {
        "q": np.arange(20, dtype=np.int8).reshape(5, 4),
        "s": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
        "z": np.array([1, 2, 3, 4], np.int8),
        "width": np.array(4),
    }
    path = save_model(
        tmp_path / "n.onnx", nodes, {"x": (FLOAT, ["n", 5])}, {"y": (FLOAT, ["n", 7])}, stored
    )
    module = to_torch(path, {"x": _f(3, 5)}, tolerance=1e-6)
    assert module(torch.from_numpy(_f(2, 5))).shape == (2, 7)  # another batch than the checked one


def test_gradients_are_those_of_the_network(tmp_path: Path) -> None:
    path = conv_classifier(tmp_path / "net.onnx")
    x = _f(2, 3, 8, 8)
    module = to_torch(path, {"image": x}, trainable=True)
    module.double()
    given = torch.from_numpy(x).double().requires_grad_()
    assert torch.autograd.gradcheck(module, given, eps=1e-6, atol=1e-6)
    module(given).square().sum().backward()
    assert set(module.weights) == {"k", "kb", "w", "b"}
    assert all(one.grad is not None and one.grad.abs().max() > 0 for one in module.parameters())


def test_training_changes_learned_weights_and_not_statistics_or_bounds(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"]),
        helper.make_node("Clip", ["n", "low", "high"], ["y"]),
    ]
    stored = {"k": _f(2, 3, 1, 1), "g": _f(2), "b": _f(2), "m": _f(2), "v": np.ones(2, np.float32),
              "low": _s(0.0), "high": _s(6.0)}  # fmt: skip
    path = save_model(tmp_path / "n.onnx", nodes, {"x": (FLOAT, ["n", 3, 4, 4])},
                      {"y": (FLOAT, None)}, stored)  # fmt: skip
    module = to_torch(path, {"x": _f(2, 3, 4, 4)}, trainable=True)
    assert set(module.weights) == {"k", "g", "b"}
    frozen = to_torch(path, {"x": _f(2, 3, 4, 4)})
    assert not any(one.requires_grad for one in frozen.parameters())


def test_a_part_of_the_graph_runs_alone(tmp_path: Path) -> None:
    path = mlp_classifier(tmp_path / "net.onnx", hidden=(6, 5))
    x = _f(3, 4)
    module = to_torch(path, {"x": x})
    whole = module.tensors({"x": torch.from_numpy(x)}, ["h0", "r1", "logits"])
    part = module.tensors({"h0": whole["h0"]}, ["r1", "logits"])
    assert torch.equal(part["r1"], whole["r1"])
    assert torch.equal(part["logits"], whole["logits"])
    with pytest.raises(AnalysisError, match="tensor 'x' is needed for h0"):
        module.tensors({"r1": whole["r1"]}, ["h0"])


def test_unsupported_operators_are_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("NonZero", ["d"], ["y"]),
    ]
    path = save_model(
        tmp_path / "n.onnx", nodes, {"x": (FLOAT, [3])}, {"y": (INT64, None)},
        {"s": _s(0.1), "z": np.uint8(0)},
    )  # fmt: skip
    with pytest.raises(AnalysisError, match="NonZero, QuantizeLinear"):
        to_torch(path, {"x": _f(3)})


def test_a_module_that_answers_otherwise_is_not_handed_out(tmp_path: Path) -> None:
    """round_prefer_ceil is no nearest mode that torch has: the check finds out."""
    case = Case("Resize", (1, 1, 4, 4), (None, None, _i(1, 1, 7, 7)),
                {"coordinate_transformation_mode": "half_pixel",
                 "nearest_mode": "round_prefer_ceil"})  # fmt: skip
    with pytest.raises(AnalysisError, match="differs from ONNX Runtime"):
        to_torch(_write(tmp_path / "n.onnx", case), {"x": _input(case)})


@pytest.mark.zoo
@pytest.mark.parametrize("name", REAL)
def test_real_models_answer_as_in_onnx_runtime(name: str, zoo: Path) -> None:
    path = zoo / "onnx" / f"{name}.onnx"
    model = onnx.load(path)
    stored = {one.name for one in model.graph.initializer}
    value = next(one for one in model.graph.input if one.name not in stored)
    shape = [d.dim_value or 2 for d in value.type.tensor_type.shape.dim]
    integers = value.type.tensor_type.elem_type == TensorProto.INT32
    x = (
        np.random.default_rng(0).integers(0, 256, shape).astype(np.int32)
        if integers
        else _f(*shape)
    )
    to_torch(path, {value.name: x})
