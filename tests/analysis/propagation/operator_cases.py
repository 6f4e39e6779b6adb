"""One small network for every operator that has a rule: the operator behind a disturbed input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.analysis.propagation.twins import Host, shifted

Array = NDArray[Any]
Rng = np.random.Generator
SAMPLES = 3


def _f(rng: Rng, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def operator(
    rng: Rng,
    op: str,
    *shapes: Sequence[int],
    weights: dict[str, Array] | None = None,
    fixed: dict[str, Array] | None = None,
    operands: Sequence[str] | None = None,
    outputs: int = 1,
    opset: int = 17,
    domain: str = "",
    positive: bool = False,
    scale: float = 1.0,
    **attributes: Any,
) -> Host:
    """Inputs x0, x1, ... of these shapes (without batch), each moved, then the operator.

    operands : names in order; 'x0' stands for the moved input. Weights and fixed come after the
    inputs where it is not given.
    """
    weights, fixed = weights or {}, fixed or {}
    nodes, inputs, moves, names = [], {}, {}, {}
    for i, shape in enumerate(shapes):
        node, moved, weight = shifted(f"x{i}", shape)
        nodes.append(node)
        values = scale * _f(rng, SAMPLES, *shape)
        inputs[f"x{i}"] = np.abs(values) + 1 if positive else values
        moves |= weight
        names[f"x{i}"] = moved
    given = operands or [*names, *weights, *fixed]
    made = ["y", *(f"y{k}" for k in range(1, outputs))]
    inputs_of = [names.get(name, name) for name in given]
    nodes.append(helper.make_node(op, inputs_of, made, name="op", domain=domain, **attributes))
    opsets = {"": opset} | ({domain: 1} if domain else {})
    return Host(nodes, {**moves, **weights}, inputs, fixed, made, opsets)


Case = Callable[[Rng], Host]


def ints(*values: Any) -> Array:
    return np.array(values, np.int64)


def _conv(rng: Rng) -> Host:
    groups = int(rng.choice([1, 2]))
    stride, dilation = int(rng.integers(1, 3)), int(rng.integers(1, 3))
    kernel = int(rng.integers(1, 4))
    return operator(
        rng, "Conv", (4, 9, 8),
        weights={"w": _f(rng, 6, 4 // groups, kernel, kernel), "b": _f(rng, 6)},
        group=groups, strides=[stride] * 2, dilations=[dilation] * 2, pads=[1, 0, 1, 2],
    )  # fmt: skip


def _conv_transpose(rng: Rng) -> Host:
    return operator(
        rng, "ConvTranspose", (4, 5, 5), weights={"w": _f(rng, 4, 3, 3, 3), "b": _f(rng, 3)},
        strides=[int(rng.integers(1, 3))] * 2, pads=[1] * 4,
    )  # fmt: skip


def _gemm(rng: Rng) -> Host:
    turned = int(rng.integers(0, 2))
    w = _f(rng, 5, 6) if turned else _f(rng, 6, 5)
    return operator(rng, "Gemm", (6,), weights={"w": w, "b": _f(rng, 5)}, transB=turned, alpha=0.7,
                    beta=1.3)  # fmt: skip


def _matmul(rng: Rng) -> Host:
    kind = rng.integers(0, 4)
    if kind == 0:
        return operator(rng, "MatMul", (2, 4, 5), (2, 5, 3))
    if kind == 1:
        return operator(rng, "MatMul", (4, 5), weights={"w": _f(rng, 3, 5, 6)})
    if kind == 2:
        return operator(rng, "MatMul", (5, 4), weights={"w": _f(rng, 6, 5)}, operands=["w", "x0"])
    return operator(rng, "MatMul", (4, 5), weights={"w": _f(rng, 5, 6)})


def _batch_norm(rng: Rng) -> Host:
    weights = {"g": _f(rng, 4), "b": _f(rng, 4), "m": _f(rng, 4)}
    weights["v"] = np.abs(_f(rng, 4)) + 2
    return operator(rng, "BatchNormalization", (4, 5, 5), weights=weights)


def _norm(op: str, width: int, **attributes: Any) -> Case:
    def case(rng: Rng) -> Host:
        weights = {"g": _f(rng, width), "b": _f(rng, width)}
        if "RMS" in op or "Simplified" in op:
            del weights["b"]
        return operator(rng, op, (4, 3, 6), weights=weights, scale=10 ** rng.uniform(-3, 1),
                        **attributes)  # fmt: skip

    return case


def _recurrent(op: str, gates: int) -> Case:
    def case(rng: Rng) -> Host:
        hidden, width, steps = 5, 4, 6
        kind = str(rng.choice(["forward", "reverse", "bidirectional"]))
        dirs = 2 if kind == "bidirectional" else 1
        weights = {
            "w": 0.5 * _f(rng, dirs, gates * hidden, width),
            "r": 0.3 * _f(rng, dirs, gates * hidden, hidden),
            "b": 0.2 * _f(rng, dirs, 2 * gates * hidden),
        }
        attributes: dict[str, Any] = {"hidden_size": hidden, "direction": kind}
        if op == "GRU":
            attributes["linear_before_reset"] = int(rng.integers(0, 2))
        host = operator(rng, op, (steps, width), weights=weights,
                        outputs=3 if op == "LSTM" else 2, **attributes)  # fmt: skip
        turn = helper.make_node("Transpose", ["x0_moved"], ["time_first"], perm=[1, 0, 2])
        nodes = [host.nodes[0], turn, host.nodes[1]]
        nodes[2].input[0] = "time_first"
        return Host(nodes, host.weights, host.inputs, host.fixed, host.outputs, host.opsets)

    return case


def _quantised(op: str) -> Case:
    def case(rng: Rng) -> Host:
        quantise = {"s": np.array(0.05, np.float32)}
        host = operator(rng, "QuantizeLinear", (4, 5), weights=quantise,
                        fixed={"z": np.array(3, np.int8)})  # fmt: skip
        if op == "DequantizeLinear":
            back = helper.make_node(op, ["y", "s2", "z"], ["back"], name="back")
            host.nodes = [*host.nodes, back]
            host.outputs = ["back"]
            host.weights["s2"] = np.array(0.07, np.float32)
        return host

    return case


def _unary(op: str, **options: Any) -> Case:
    return lambda rng: operator(rng, op, (4, 6), **options)


def _slopes(rng: Rng) -> Host:
    return operator(rng, "PRelu", (4, 5), weights={"slope": _f(rng, 4, 1)})


def _gelu(rng: Rng) -> Host:
    return operator(rng, "Gelu", (4, 6), opset=20, approximate=str(rng.choice(["none", "tanh"])))


def _pool(op: str, **options: Any) -> Case:
    def case(rng: Rng) -> Host:
        kernel, stride = int(rng.integers(1, 4)), int(rng.integers(1, 4))
        pads = [min(1, kernel - 1)] * 4
        return operator(rng, op, (3, 8, 9), kernel_shape=[kernel] * 2, strides=[stride] * 2,
                        pads=pads, **options)  # fmt: skip

    return case


def _dilated_pool(rng: Rng) -> Host:
    return operator(rng, "MaxPool", (2, 13, 13), kernel_shape=[3, 3], strides=[2, 2],
                    dilations=[2, 2], pads=[1] * 4)  # fmt: skip


def _average_pool(rng: Rng) -> Host:
    return _pool("AveragePool", count_include_pad=int(rng.integers(0, 2)))(rng)


def _resize(rng: Rng) -> Host:
    mode = str(rng.choice(["nearest", "linear", "cubic"]))
    up = [1.0, 1.0, *rng.choice([0.5, 1.5, 2.0], 2)]
    return operator(
        rng, "Resize", (2, 6, 5), mode=mode, operands=["x0", "", "scales"],
        fixed={"scales": np.array(up, np.float32)},
        coordinate_transformation_mode=str(rng.choice(["half_pixel", "asymmetric",
                                                       "align_corners"])),
    )  # fmt: skip


def _pad(rng: Rng) -> Host:
    mode = str(rng.choice(["constant", "reflect", "edge"]))
    return operator(rng, "Pad", (2, 5, 6), fixed={"p": ints(0, 0, 2, 1, 0, 0, 1, 2)}, mode=mode)


def _reduce(op: str, **options: Any) -> Case:
    return lambda rng: operator(rng, op, (3, 4, 5), axes=[1, 3], keepdims=int(rng.integers(0, 2)),
                                **options)  # fmt: skip


def _broadcast(op: str, **options: Any) -> Case:
    def case(rng: Rng) -> Host:
        kind = rng.integers(0, 3)
        if kind == 0:
            weight = _f(rng, 3, 1)
            weight = np.abs(weight) + 1 if op == "Div" else weight
            return operator(rng, op, (3, 4), weights={"w": weight}, **options)
        second = [(3, 4), (3, 1)][int(kind) - 1]
        return operator(rng, op, (3, 4), second, **options)

    return case


def _where(rng: Rng) -> Host:
    condition = rng.random((3, 4)) < 0.5
    return operator(rng, "Where", (3, 4), (3, 1), fixed={"c": condition},
                    operands=["c", "x0", "x1"])  # fmt: skip


def _gather(rng: Rng) -> Host:
    if rng.integers(0, 2):
        return Host(
            [helper.make_node("Gather", ["table", "ids"], ["y"])],
            {"table": _f(rng, 9, 4)}, {"ids": rng.integers(0, 9, (SAMPLES, 5))}, outputs=["y"],
        )  # fmt: skip
    return operator(rng, "Gather", (6, 3), fixed={"i": ints(0, 2, 2, -1, 5)}, axis=1)


def _one_hot(rng: Rng) -> Host:
    node = helper.make_node("OneHot", ["ids", "depth", "values"], ["y"])
    return Host([node], {"values": np.array([0.1, 1.0], np.float32)},
                {"ids": rng.integers(0, 7, (SAMPLES, 4))}, {"depth": ints(7)}, ["y"])  # fmt: skip


def _rotary(rng: Rng) -> Host:
    angle = rng.uniform(0, 3, (8, 2)).astype(np.float32)
    return operator(
        rng, "RotaryEmbedding", (3, 5, 4), domain="com.microsoft",
        operands=["x0", "p", "cos", "sin"],
        fixed={"p": ints(0), "cos": np.cos(angle), "sin": np.sin(angle)},
    )  # fmt: skip


def _scatter_nd(rng: Rng) -> Host:
    return operator(rng, "ScatterND", (5, 3), (2, 3), fixed={"i": ints([[0, 1], [0, 3]])[0][None]},
                    operands=["x0", "i", "x1"])  # fmt: skip


def _scatter_elements(rng: Rng) -> Host:
    return operator(rng, "ScatterElements", (5, 3), (2, 3), axis=1, operands=["x0", "i", "x1"],
                    fixed={"i": ints([[0, 1, 2], [3, 4, 0]])})  # fmt: skip


def _shape_only(op: str) -> Case:
    def case(rng: Rng) -> Host:
        return operator(rng, op, (3, 4))

    return case


def _constant_of_shape(rng: Rng) -> Host:
    host = operator(rng, "Shape", (3, 4))
    made = helper.make_node("ConstantOfShape", ["y"], ["filled"])
    return Host([*host.nodes, made], host.weights, host.inputs, outputs=["filled"])


def _moves() -> dict[str, Case]:
    return {
        "Split": lambda r: operator(r, "Split", (6, 4), fixed={"s": ints(2, 4)}, axis=1, outputs=2),
        "Slice": lambda r: operator(r, "Slice", (6, 4), fixed={"a": ints(1), "b": ints(5),
                                                               "c": ints(1), "d": ints(2)}),
        "Squeeze": lambda r: operator(r, "Squeeze", (1, 4), fixed={"a": ints(1)}),
        "Unsqueeze": lambda r: operator(r, "Unsqueeze", (3, 4), fixed={"a": ints(2)}),
        "Flatten": lambda r: operator(r, "Flatten", (3, 4)),
        "Reshape": lambda r: operator(r, "Reshape", (3, 4), fixed={"s": ints(-1, 6)}),
        "Transpose": lambda r: operator(r, "Transpose", (3, 4), perm=[0, 2, 1]),
        "DepthToSpace": lambda r: operator(r, "DepthToSpace", (4, 3, 3), blocksize=2),
        "SpaceToDepth": lambda r: operator(r, "SpaceToDepth", (4, 4, 4), blocksize=2),
        "Trilu": lambda r: operator(r, "Trilu", (4, 4)),
        "com.microsoft:Trilu": lambda r: operator(r, "Trilu", (4, 4), domain="com.microsoft"),
        "ReverseSequence": lambda r: operator(r, "ReverseSequence", (4, 3), fixed={"l": ints(3)},
                                              batch_axis=0, time_axis=1),
        "Compress": lambda r: operator(r, "Compress", (4, 3), axis=1,
                                       fixed={"c": np.array([True, False, True, True])}),
        "CenterCropPad": lambda r: operator(r, "CenterCropPad", (5, 4), fixed={"s": ints(3, 6)},
                                            axes=[1, 2], opset=18),
        "Cast": lambda r: operator(r, "Cast", (4, 3), to=TensorProto.DOUBLE),
        "CastLike": lambda r: operator(r, "CastLike", (4, 3),
                                       fixed={"like": np.zeros(1, np.float64)}),
        "Expand": lambda r: operator(r, "Expand", (1, 3), fixed={"s": ints(1, 4, 3)}),
        "Tile": lambda r: operator(r, "Tile", (2, 3), fixed={"s": ints(1, 4, 2)}),
        "Concat": lambda r: operator(r, "Concat", (2, 3), (4, 3), axis=1),
        "Pad": _pad,
        "TopK": lambda r: operator(r, "TopK", (3, 7), fixed={"k": ints(3)}, outputs=2),
        "GatherElements": lambda r: operator(r, "GatherElements", (5, 3), axis=1,
                                             fixed={"i": r.integers(0, 5, (1, 4, 3))}),
        "GatherND": lambda r: operator(r, "GatherND", (5, 3),
                                       fixed={"i": np.concatenate(
                                           [np.zeros((6, 1), np.int64), r.integers(0, 5, (6, 1))],
                                           axis=1)}),
        "ScatterND": _scatter_nd,
        "ScatterElements": _scatter_elements,
        "OneHot": _one_hot,
        "com.microsoft:RotaryEmbedding": _rotary,
        "Shape": _shape_only("Shape"),
        "Size": _shape_only("Size"),
        "ConstantOfShape": _constant_of_shape,
        "Gather": _gather,
    }  # fmt: skip


def _activations() -> dict[str, Case]:
    plain = (
        "Relu", "Identity", "Softplus", "Abs", "Neg", "Dropout", "Tanh", "Softsign", "Sin", "Cos",
        "Atan", "Asinh", "LeakyRelu", "Sigmoid", "HardSigmoid", "Erf", "HardSwish", "Elu", "Celu",
        "Selu", "Exp", "Sinh", "Floor", "Ceil", "Round",
    )  # fmt: skip
    microsoft = ("Gelu", "QuickGelu")
    return {
        **{op: _unary(op) for op in plain},
        **{f"com.microsoft:{op}": _unary(op, domain="com.microsoft") for op in microsoft},
        "Mish": _unary("Mish", opset=18),
        "Gelu": _gelu,
        "Clip": lambda r: operator(r, "Clip", (4, 6), weights={
            "lo": np.array(-0.5, np.float32), "hi": np.array(2.0, np.float32)}),
        "PRelu": _slopes,
        "ThresholdedRelu": _unary("ThresholdedRelu", alpha=0.0),
        "Shrink": _unary("Shrink", bias=0.3, lambd=0.3),
        "Log": _unary("Log", positive=True),
        "Sqrt": _unary("Sqrt", positive=True),
        "Reciprocal": _unary("Reciprocal", positive=True),
        "Pow": lambda r: operator(r, "Pow", (4, 6), positive=True, fixed={
            "e": np.array(r.choice([0.5, 1.0, 2.0, 3.0, -1.0, 1.7]), np.float32)}),
    }  # fmt: skip


def _normalisations() -> dict[str, Case]:
    return {
        "BatchNormalization": _batch_norm,
        "LayerNormalization": _norm("LayerNormalization", 6, axis=-1),
        "RMSNormalization": _norm("RMSNormalization", 6, axis=-1, opset=23),
        "SimplifiedLayerNormalization": _norm("SimplifiedLayerNormalization", 6, axis=-1),
        "InstanceNormalization": _norm("InstanceNormalization", 4),
        "GroupNormalization": _norm("GroupNormalization", 4, num_groups=2, opset=21),
        "MeanVarianceNormalization": lambda r: operator(
            r, "MeanVarianceNormalization", (3, 4, 4), scale=10 ** r.uniform(-2, 1)),
        "LpNormalization": lambda r: operator(
            r, "LpNormalization", (4, 5), axis=int(r.choice([1, -1])), p=2),
        "LRN": lambda r: operator(r, "LRN", (6, 3, 3), size=5, alpha=0.1, beta=0.75, bias=1.5),
    }  # fmt: skip


def _pools() -> dict[str, Case]:
    return {
        "MaxPool": lambda r: (_pool("MaxPool") if r.integers(0, 2) else _dilated_pool)(r),
        "AveragePool": _average_pool,
        "LpPool": _pool("LpPool", p=2),
        "GlobalAveragePool": _unary4("GlobalAveragePool"),
        "GlobalMaxPool": _unary4("GlobalMaxPool"),
        "GlobalLpPool": _unary4("GlobalLpPool", p=2),
        "ReduceSum": lambda r: operator(r, "ReduceSum", (3, 4, 5), fixed={"a": ints(1, 3)}),
        **{
            op: _reduce(op)
            for op in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2",
                       "ReduceLogSumExp", "ReduceSumSquare")
        },
        "CumSum": lambda r: operator(r, "CumSum", (8, 3), fixed={"a": np.array(1, np.int64)},
                                     exclusive=int(r.integers(0, 2)),
                                     reverse=int(r.integers(0, 2))),
        "Resize": _resize,
        "Upsample": lambda r: operator(r, "Upsample", (2, 5, 4), opset=9, mode="nearest",
                                       fixed={"s": np.array([1, 1, 2, 3], np.float32)}),
        "Softmax": _unary("Softmax", axis=-1),
        "LogSoftmax": _unary("LogSoftmax", axis=-1),
    }  # fmt: skip


def _unary4(op: str, **options: Any) -> Case:
    return lambda rng: operator(rng, op, (3, 4, 5), **options)


CASES: dict[str, Case] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    **_normalisations(),
    **_activations(),
    **_pools(),
    **_moves(),
    **{op: _broadcast(op) for op in ("Add", "Sub", "Sum", "Mean", "Max", "Min", "Mul")},
    "Div": _broadcast("Div", positive=True),
    "Where": _where,
    "LSTM": _recurrent("LSTM", 4),
    "GRU": _recurrent("GRU", 3),
    "RNN": _recurrent("RNN", 1),
    "QuantizeLinear": _quantised("QuantizeLinear"),
    "DequantizeLinear": _quantised("DequantizeLinear"),
}
