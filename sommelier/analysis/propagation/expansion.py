"""Fused and integer operators as the operators they are made of.

The propagation walks through the parts. The host itself is run as it is: the parts only stand
beside it, for the tensors between them, so nothing is claimed about other arithmetic than its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from sommelier.analysis.onnx_types import attribute_value
from sommelier.analysis.propagation.extension import FLOAT

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

MICROSOFT = "com.microsoft"


class Parts:
    """Writes the parts of one operator. Names are the operator's first output and a number."""

    def __init__(self, node: NodeProto) -> None:
        self.node = node
        self.written: list[NodeProto] = []
        self.attributes = {a.name: attribute_value(a) for a in node.attribute}
        self._base = next(name for name in node.output if name)

    def input(self, operand: int) -> str:
        """The operand's name, '' where it is not given."""
        return self.node.input[operand] if operand < len(self.node.input) else ""

    def add(self, op: str, inputs: list[str], *, domain: str = "", **attributes: Any) -> str:
        """The output of another part."""
        from onnx import helper

        name = f"{self._base}/part{len(self.written)}"
        made = helper.make_node(op, inputs, [name], name=name, domain=domain, **attributes)
        self.written.append(made)
        return name

    def constant(self, values: Any, kind: type = np.float32) -> str:
        """A constant part."""
        from onnx import numpy_helper

        return self.add("Constant", [], value=numpy_helper.from_array(np.asarray(values, kind)))

    def finish(self, tensor: str, output: int = 0) -> None:
        """Let the part that makes `tensor` make the operator's output instead."""
        for node in self.written:
            for field in (node.input, node.output):
                for i, name in enumerate(field):
                    if name == tensor:
                        field[i] = self.node.output[output]

    def dequantised(
        self, tensor: str, scale: str, zero: str, *, channels: int | None = None
    ) -> str:
        """(tensor - zero) scale. channels : axes after the first, for one scale a channel of it."""
        steps = self.add("Cast", [tensor], to=FLOAT)
        if zero:
            offset = self._channelwise(self.add("Cast", [zero], to=FLOAT), channels)
            steps = self.add("Sub", [steps, offset])
        return self.add("Mul", [steps, self._channelwise(scale, channels)])

    def _channelwise(self, tensor: str, channels: int | None) -> str:
        if channels is None:
            return tensor
        return self.add("Reshape", [tensor, self.constant([-1] + [1] * channels, np.int64)])

    def quantise(self, tensor: str, scale: str, zero: str) -> None:
        """End with QuantizeLinear."""
        inputs = [tensor, scale, zero] if zero else [tensor, scale]
        self.finish(self.add("QuantizeLinear", inputs))


Ranks = Callable[[str], "int | None"]
Expansion = Callable[[Parts, Ranks], None]


def expanded(model: ModelProto) -> tuple[ModelProto, list[Any]]:
    """The model with fused operators taken apart, and the parts to stand beside the model."""
    if not any(_title(node) in EXPANSIONS for node in model.graph.node):
        return model, []
    from onnx import ModelProto

    from sommelier.analysis.tracing import trace

    graph, _ = trace(model)

    def rank(name: str) -> int | None:
        shape = graph.tensor(name).shape
        return None if shape is None else len(shape)

    flat = ModelProto()
    flat.CopyFrom(model)
    del flat.graph.node[:]
    sides: list[Any] = []
    for node in model.graph.node:
        parts = _parts(node, rank)
        flat.graph.node.extend([node] if parts is None else parts)
        sides.extend(() if parts is None else _beside(parts, set(node.output)))
    return flat, sides


def _title(node: NodeProto) -> str:
    return f"{node.domain}:{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type


def _parts(node: NodeProto, rank: Ranks) -> list[NodeProto] | None:
    expansion = EXPANSIONS.get(_title(node))
    if expansion is None:
        return None
    parts = Parts(node)
    try:
        expansion(parts, rank)
    except _NotCoveredError:
        return None  # it stays as it is, and has no rule
    return parts.written


def _beside(parts: list[NodeProto], outputs: set[str]) -> list[NodeProto]:
    """The parts with the operator's own outputs under other names."""
    from onnx import NodeProto

    renamed = []
    for part in parts:
        made = NodeProto()
        made.CopyFrom(part)
        for i, name in enumerate(made.output):
            if name in outputs:
                made.output[i] = f"{name}/apart"
        renamed.append(made)
    return renamed


class _NotCoveredError(Exception):
    """A form of the operator that is not taken apart."""


def _activated(parts: Parts, tensor: str) -> str:
    """The activation that a fused convolution or product ends with."""
    kind = parts.attributes.get("activation")
    named = [parts.attributes.get(f"activation_{k}") for k in ("alpha", "beta")]  # FusedGemm's
    given = parts.attributes.get("activation_params") or [v for v in named if v is not None]
    stated = [float(v) for v in given]
    if kind is None or kind == "":
        return tensor
    if kind in ("Relu", "Sigmoid", "Tanh"):
        return parts.add(kind, [tensor])
    if kind == "LeakyRelu":
        return parts.add(kind, [tensor], alpha=stated[0] if stated else 0.01)
    if kind == "Clip" and len(stated) == 2:
        low, high = (parts.constant(value) for value in stated)
        return parts.add("Clip", [tensor, low, high])
    if kind == "HardSigmoid" and len(stated) == 2:
        return parts.add(kind, [tensor], alpha=stated[0], beta=stated[1])
    raise _NotCoveredError


def _standard(parts: Parts, *names: str) -> dict[str, Any]:
    """The attributes the standard operator shares."""
    return {name: parts.attributes[name] for name in names if name in parts.attributes}


CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


def _fused_conv(parts: Parts, _: Ranks) -> None:
    inputs = [parts.input(i) for i in range(3) if parts.input(i)]
    value = parts.add("Conv", inputs, **_standard(parts, *CONV))
    if parts.input(3):
        value = parts.add("Add", [value, parts.input(3)])
    parts.finish(_activated(parts, value))


def _fused_gemm(parts: Parts, _: Ranks) -> None:
    inputs = [parts.input(i) for i in range(3) if parts.input(i)]
    value = parts.add("Gemm", inputs, **_standard(parts, "alpha", "beta", "transA", "transB"))
    parts.finish(_activated(parts, value))


def _fused_matmul(parts: Parts, rank: Ranks) -> None:
    if parts.attributes.get("transBatchA") or parts.attributes.get("transBatchB"):
        raise _NotCoveredError
    operands = []
    for i, name in enumerate(("transA", "transB")):
        operand, axes = parts.input(i), rank(parts.input(i))
        if parts.attributes.get(name) and axes != 1:
            if axes is None:
                raise _NotCoveredError
            operand = parts.add("Transpose", [operand], perm=[*range(axes - 2), axes - 1, axes - 2])
        operands.append(operand)
    product = parts.add("MatMul", operands)
    alpha = float(parts.attributes.get("alpha", 1.0))
    parts.finish(parts.add("Mul", [product, parts.constant(alpha)]))


def _biased(op: str) -> Expansion:
    def expand(parts: Parts, _: Ranks) -> None:
        value = parts.input(0)
        if parts.input(1):
            value = parts.add("Add", [value, parts.input(1)])
        parts.finish(parts.add(op, [value], domain=MICROSOFT))

    return expand


def _bias_add(parts: Parts, _: Ranks) -> None:
    value = parts.add("Add", [parts.input(0), parts.input(1)])
    parts.finish(parts.add("Add", [value, parts.input(2)]))


def _skip_norm(op: str, bias: int) -> Expansion:
    """A sum, then a normalisation. bias : its operand, behind those of the normalisation."""

    def expand(parts: Parts, _: Ranks) -> None:
        value = parts.add("Add", [parts.input(0), parts.input(1)])
        if parts.input(bias):
            value = parts.add("Add", [value, parts.input(bias)])
        weights = [parts.input(i) for i in range(2, bias) if parts.input(i)]
        epsilon = float(parts.attributes.get("epsilon", 1e-12))
        made = parts.add(op, [value, *weights], axis=-1, epsilon=epsilon)
        parts.finish(made)
        if len(parts.node.output) > 3 and parts.node.output[3]:
            parts.finish(value, 3)

    return expand


def _embeddings(parts: Parts, _: Ranks) -> None:
    """The words', positions' and segments' rows, their sum, normalised."""
    if not parts.input(8) or len([n for n in parts.node.output if n]) > 1:
        raise _NotCoveredError
    value = parts.add("Gather", [parts.input(2), parts.input(0)])
    value = parts.add("Add", [value, parts.add("Gather", [parts.input(3), parts.input(8)])])
    if parts.input(1) and parts.input(4):
        value = parts.add("Add", [value, parts.add("Gather", [parts.input(4), parts.input(1)])])
    epsilon = float(parts.attributes.get("epsilon", 1e-12))
    weights = [parts.input(5), parts.input(6)]
    parts.finish(parts.add("LayerNormalization", [value, *weights], axis=-1, epsilon=epsilon))


def _quantised_conv(parts: Parts, rank: Ranks) -> None:
    axes = rank(parts.input(3))
    if axes is None:
        raise _NotCoveredError
    channels = None if rank(parts.input(4)) == 0 else axes - 1
    x = parts.dequantised(*(parts.input(i) for i in (0, 1, 2)))
    w = parts.dequantised(*(parts.input(i) for i in (3, 4, 5)), channels=channels)
    inputs = [x, w]
    if parts.input(8):
        scale = parts.add("Mul", [parts.input(1), parts.input(4)])
        whole = parts.add("Cast", [parts.input(8)], to=FLOAT)
        inputs.append(parts.add("Mul", [whole, scale]))
    value = parts.add("Conv", inputs, **_standard(parts, *CONV))
    parts.quantise(value, parts.input(6), parts.input(7))


def _quantised_pair(op: str) -> Expansion:
    """An operator on two quantised operands."""

    def expand(parts: Parts, rank: Ranks) -> None:
        if any(rank(parts.input(i)) != 0 and op == "MatMul" for i in (1, 4)):
            raise _NotCoveredError  # one scale a row or column
        left, right = (
            parts.dequantised(*(parts.input(i) for i in range(k, k + 3))) for k in (0, 3)
        )
        parts.quantise(parts.add(op, [left, right]), parts.input(6), parts.input(7))

    return expand


def _quantised_single(op: str, *names: str) -> Expansion:
    """An operator on one quantised operand, which shares some attributes with it."""

    def expand(parts: Parts, _: Ranks) -> None:
        if parts.attributes.get("channels_last"):
            raise _NotCoveredError
        value = parts.dequantised(*(parts.input(i) for i in range(3)))
        value = parts.add(op, [value], **_standard(parts, *names))
        parts.quantise(value, parts.input(3), parts.input(4))

    return expand


def _quantised_concat(parts: Parts, _: Ranks) -> None:
    count = (len(parts.node.input) - 2) // 3
    values = [
        parts.dequantised(*(parts.input(2 + 3 * k + i) for i in range(3))) for k in range(count)
    ]
    joined = parts.add("Concat", values, axis=parts.attributes["axis"])
    parts.quantise(joined, parts.input(0), parts.input(1))


POOL = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")

EXPANSIONS: dict[str, Expansion] = {
    f"{MICROSOFT}:FusedConv": _fused_conv,
    f"{MICROSOFT}:FusedGemm": _fused_gemm,
    f"{MICROSOFT}:FusedMatMul": _fused_matmul,
    f"{MICROSOFT}:BiasGelu": _biased("Gelu"),
    f"{MICROSOFT}:FastGelu": _biased("Gelu"),
    f"{MICROSOFT}:BiasAdd": _bias_add,
    f"{MICROSOFT}:SkipLayerNormalization": _skip_norm("LayerNormalization", 4),
    f"{MICROSOFT}:SkipSimplifiedLayerNormalization": _skip_norm("SimplifiedLayerNormalization", 3),
    f"{MICROSOFT}:EmbedLayerNormalization": _embeddings,
    "QLinearConv": _quantised_conv,
    "QLinearMatMul": _quantised_pair("MatMul"),
    f"{MICROSOFT}:QLinearAdd": _quantised_pair("Add"),
    f"{MICROSOFT}:QLinearMul": _quantised_pair("Mul"),
    f"{MICROSOFT}:QLinearSigmoid": _quantised_single("Sigmoid"),
    f"{MICROSOFT}:QLinearLeakyRelu": _quantised_single("LeakyRelu", "alpha"),
    f"{MICROSOFT}:QLinearGlobalAveragePool": _quantised_single("GlobalAveragePool"),
    f"{MICROSOFT}:QLinearAveragePool": _quantised_single("AveragePool", *POOL),
    f"{MICROSOFT}:QLinearConcat": _quantised_concat,
}
"""By the operator's title: what writes its parts."""
