"""Parts of fused and of quantised operators; each function writes those of one kind."""

from __future__ import annotations

from typing import Any

from sommelier.analysis.propagation.extension import FLOAT
from sommelier.analysis.propagation.parts import Expansion, NotCoveredError, Parts, Shapes

MICROSOFT = "com.microsoft"


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
    raise NotCoveredError


def _standard(parts: Parts, *names: str) -> dict[str, Any]:
    """The attributes the standard operator shares."""
    return {name: parts.attributes[name] for name in names if name in parts.attributes}


CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


def fused_conv(parts: Parts, _: Shapes) -> None:
    inputs = [parts.input(i) for i in range(3) if parts.input(i)]
    value = parts.add("Conv", inputs, **_standard(parts, *CONV))
    if parts.input(3):
        value = parts.add("Add", [value, parts.input(3)])
    parts.finish(_activated(parts, value))


def fused_gemm(parts: Parts, _: Shapes) -> None:
    inputs = [parts.input(i) for i in range(3) if parts.input(i)]
    value = parts.add("Gemm", inputs, **_standard(parts, "alpha", "beta", "transA", "transB"))
    parts.finish(_activated(parts, value))


def fused_matmul(parts: Parts, shape: Shapes) -> None:
    if parts.attributes.get("transBatchA") or parts.attributes.get("transBatchB"):
        raise NotCoveredError
    operands = []
    for i, name in enumerate(("transA", "transB")):
        operand, axes = parts.input(i), len(shape(parts.input(i)))
        if parts.attributes.get(name) and axes != 1:
            operand = parts.add("Transpose", [operand], perm=[*range(axes - 2), axes - 1, axes - 2])
        operands.append(operand)
    product = parts.add("MatMul", operands)
    alpha = float(parts.attributes.get("alpha", 1.0))
    parts.finish(parts.add("Mul", [product, parts.constant(alpha)]))


def biased(op: str) -> Expansion:
    def expand(parts: Parts, _: Shapes) -> None:
        value = parts.input(0)
        if parts.input(1):
            value = parts.add("Add", [value, parts.input(1)])
        parts.finish(parts.add(op, [value], domain=MICROSOFT))

    return expand


def bias_add(parts: Parts, _: Shapes) -> None:
    value = parts.add("Add", [parts.input(0), parts.input(1)])
    parts.finish(parts.add("Add", [value, parts.input(2)]))


def skip_norm(op: str, bias: int) -> Expansion:
    """A sum, then a normalisation. bias : its operand, behind those of the normalisation."""

    def expand(parts: Parts, _: Shapes) -> None:
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


def embeddings(parts: Parts, _: Shapes) -> None:
    """The words', positions' and segments' rows, their sum, normalised."""
    if not parts.input(8) or len([n for n in parts.node.output if n]) > 1:
        raise NotCoveredError
    value = parts.add("Gather", [parts.input(2), parts.input(0)])
    value = parts.add("Add", [value, parts.add("Gather", [parts.input(3), parts.input(8)])])
    if parts.input(1) and parts.input(4):
        value = parts.add("Add", [value, parts.add("Gather", [parts.input(4), parts.input(1)])])
    epsilon = float(parts.attributes.get("epsilon", 1e-12))
    weights = [parts.input(5), parts.input(6)]
    parts.finish(parts.add("LayerNormalization", [value, *weights], axis=-1, epsilon=epsilon))


def quantised_conv(parts: Parts, shape: Shapes) -> None:
    channels = len(shape(parts.input(3))) - 1 if shape(parts.input(4)) else None
    x = parts.dequantised(*(parts.input(i) for i in (0, 1, 2)))
    w = parts.dequantised(*(parts.input(i) for i in (3, 4, 5)), channels=channels)
    inputs = [x, w]
    if parts.input(8):
        scale = parts.add("Mul", [parts.input(1), parts.input(4)])
        whole = parts.add("Cast", [parts.input(8)], to=FLOAT)
        inputs.append(parts.add("Mul", [whole, scale]))
    value = parts.add("Conv", inputs, **_standard(parts, *CONV))
    parts.quantise(value, parts.input(6), parts.input(7))


def quantised_pair(op: str) -> Expansion:
    """An operator on two quantised operands."""

    def expand(parts: Parts, shape: Shapes) -> None:
        if op == "MatMul" and any(shape(parts.input(i)) for i in (1, 4)):
            raise NotCoveredError  # one scale a row or column
        left, right = (
            parts.dequantised(*(parts.input(i) for i in range(k, k + 3))) for k in (0, 3)
        )
        parts.quantise(parts.add(op, [left, right]), parts.input(6), parts.input(7))

    return expand


def quantised_single(op: str, *names: str) -> Expansion:
    """An operator on one quantised operand, which shares some attributes with it."""

    def expand(parts: Parts, _: Shapes) -> None:
        if parts.attributes.get("channels_last"):
            raise NotCoveredError
        value = parts.dequantised(*(parts.input(i) for i in range(3)))
        value = parts.add(op, [value], **_standard(parts, *names))
        parts.quantise(value, parts.input(3), parts.input(4))

    return expand


def quantised_concat(parts: Parts, _: Shapes) -> None:
    count = (len(parts.node.input) - 2) // 3
    values = [
        parts.dequantised(*(parts.input(2 + 3 * k + i) for i in range(3))) for k in range(count)
    ]
    joined = parts.add("Concat", values, axis=parts.attributes["axis"])
    parts.quantise(joined, parts.input(0), parts.input(1))


POOL = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")
