"""Floating-point operations of one operator, 2 x multiply-accumulates; None when unknown.

The count of published figures: convolutions, matrix products, recurrent cells and attention.
Additions of biases, activations, normalisation and pooling count nothing, as there.
"""
# ruff: noqa: ARG001 -- all rules share one signature; each uses the part it needs

from __future__ import annotations

import math
from collections.abc import Callable

from sommelier.analysis.graph import Graph, Node, Tensor

Rule = Callable[[Node, list[Tensor], Tensor], "float | None"]

WITHOUT_MACS = frozenset(
    {
        "BiasAdd", "BiasDropout", "BiasGelu", "BiasSoftmax", "BiasSplitGelu", "DequantizeLinear",
        "DynamicQuantizeLinear", "EmbedLayerNormalization", "FastGelu", "GatherBlockQuantized",
        "Gelu", "GroupNorm", "LayerNormalization", "NhwcMaxPool", "QLinearAdd",
        "QLinearAveragePool", "QLinearConcat", "QLinearGlobalAveragePool", "QLinearLeakyRelu",
        "QLinearMul", "QLinearReduceMean", "QLinearSigmoid", "QLinearSoftmax", "QLinearWhere",
        "QuantizeLinear", "QuickGelu", "RotaryEmbedding", "SimplifiedLayerNormalization",
        "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "Trilu", "Unique",
    }
)  # fmt: skip
"""Operators of com.microsoft that multiply no matrices."""

UNCOUNTED = frozenset({"CausalConvWithState", "FlexAttention", "LinearAttention", "Gradient"})
"""Standard operators that do multiply, but for which there is no rule here."""


def node_flops(node: Node, graph: Graph) -> float | None:
    """FLOPs of one run of an operator without subgraphs; None when they cannot be computed."""
    rule = _RULES.get(node.op)
    if rule is None:
        if node.domain.startswith("com.microsoft") and node.op not in WITHOUT_MACS:
            return None
        return None if node.op in UNCOUNTED else 0.0
    inputs = [graph.tensor(name) for name in node.inputs]
    try:
        macs = rule(node, inputs, graph.tensor(node.outputs[0]))
    except (IndexError, KeyError, ValueError, ZeroDivisionError):
        return None  # operands the rule needs are missing
    return None if macs is None else 2.0 * macs


def has_macs(op: str) -> bool:
    """Whether the operator multiplies and accumulates."""
    return op in _RULES or op in UNCOUNTED


def _times(*factors: float | None) -> float | None:
    """The product, None when any factor is unknown."""
    product = 1.0
    for factor in factors:
        if factor is None:
            return None
        product *= factor
    return product


def _dims(tensor: Tensor) -> tuple[int | None, ...]:
    """The axes; raises IndexError through its use when the rank is unknown."""
    return tensor.shape if tensor.shape is not None else ()


def _convolution(weight: int) -> Rule:
    """Output elements x weights of one output channel."""

    def rule(node: Node, inputs: list[Tensor], output: Tensor) -> float | None:
        per_channel = Tensor(1, _dims(inputs[weight])[1:] if inputs[weight].shape else None)
        return _times(output.elements, per_channel.elements)

    return rule


def _transposed(node: Node, inputs: list[Tensor], output: Tensor) -> float | None:
    """Every input element meets every weight of its channel once."""
    per_channel = Tensor(1, _dims(inputs[1])[1:] if inputs[1].shape else None)
    return _times(inputs[0].elements, per_channel.elements)


def _gemm(node: Node, inputs: list[Tensor], output: Tensor) -> float | None:
    rows, columns = _dims(inputs[0])[0], _dims(inputs[0])[1]
    inner = rows if node.attributes.get("transA", 0) else columns
    return _times(output.elements, inner)


def _matmul(node: Node, inputs: list[Tensor], output: Tensor) -> float | None:
    a = _dims(inputs[0])
    inner = a[-2] if node.attributes.get("transA", 0) and len(a) > 1 else a[-1]
    return _times(output.elements, inner)


def _few_bits(node: Node, inputs: list[Tensor], output: Tensor) -> float | None:
    return _times(inputs[0].elements, node.attributes["N"])


def _einsum(node: Node, inputs: list[Tensor], output: Tensor) -> float | None:
    """The product of all index lengths, once per contraction of two operands."""
    if len(inputs) < 2:
        return 0.0
    text = str(node.attributes["equation"]).replace(" ", "").split("->")[0]
    lengths: dict[str, int | None] = {}
    for term, tensor in zip(text.split(","), inputs, strict=True):
        axes = _dims(tensor)
        if tensor.shape is None:
            return None
        if "..." in term:
            head, tail = term.split("...")
            spread = len(axes) - len(head) - len(tail)
            names = [*head, *(f"...{spread - i}" for i in range(spread)), *tail]
        else:
            names = list(term)
        for name, length in zip(names, axes, strict=True):
            if lengths.get(name) in (None, 1):
                lengths[name] = length
    return _times(len(inputs) - 1, *lengths.values())


def _recurrent(node: Node, inputs: list[Tensor], output: Tensor) -> float | None:
    """Steps x batch x (weights of the gates), all directions: W and R hold one row per gate."""
    x = _dims(inputs[0])
    return _times(x[0], x[1], (_sum(inputs[1].elements, inputs[2].elements)))


def _sum(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a + b


def _attention(node: Node, inputs: list[Tensor], output: Tensor) -> float | None:
    """ai.onnx Attention: scores (queries x keys) and their weighted sum of values, every head."""
    q, k, v = (_dims(t) for t in inputs[:3])
    past = _dims(inputs[4])[2] if len(inputs) > 4 and inputs[4].shape else 0
    if len(q) == 4:
        keys = _sum(k[2], past)
        return _times(q[0], q[1], q[2], keys, _sum(q[3], v[3]))
    keys = _sum(k[1], past)
    heads, kv_heads = node.attributes["q_num_heads"], node.attributes["kv_num_heads"]
    values = None if v[2] is None else v[2] // kv_heads * heads
    return _times(q[0], q[1], keys, _sum(q[2], values))


def _projected_attention(node: Node, inputs: list[Tensor], output: Tensor) -> float | None:
    """com.microsoft Attention: the projection to Q, K, V, then attention over the sequence."""
    x, w = _dims(inputs[0]), _dims(inputs[1])
    projection = _times(x[0], x[1], x[2], w[1])
    scores = _times(2, x[0], x[1], x[1], None if w[1] is None else w[1] // 3)
    return None if projection is None or scores is None else projection + scores


def _multi_head(node: Node, inputs: list[Tensor], output: Tensor) -> float | None:
    q, k, v = (_dims(t) for t in inputs[:3])
    return _times(q[0], q[1], k[1], _sum(q[2], v[2]))


def _grouped_query(node: Node, inputs: list[Tensor], output: Tensor) -> float | None:
    q = _dims(inputs[0])
    past = _dims(inputs[3])[2] if len(inputs) > 3 and inputs[3].shape else 0
    return _times(2, q[0], q[1], _sum(q[1], past), q[2])


def _linear_model(node: Node, inputs: list[Tensor], output: Tensor) -> float | None:
    rows = 1 if len(_dims(inputs[0])) < 2 else _dims(inputs[0])[0]
    return _times(rows, len(node.attributes.get("coefficients", ())))


def _support_vectors(node: Node, inputs: list[Tensor], output: Tensor) -> float | None:
    rows = 1 if len(_dims(inputs[0])) < 2 else _dims(inputs[0])[0]
    vectors = len(node.attributes.get("support_vectors", ()))
    return _times(rows, vectors + len(node.attributes.get("coefficients", ())))


def _fourier(node: Node, inputs: list[Tensor], output: Tensor) -> float | None:
    """5 n log2 n operations of a fast transform of n complex numbers (the customary count)."""
    axis = int(node.attributes.get("axis", -2))
    length = _dims(output)[axis] if node.op == "DFT" else _dims(output)[-2]
    if length is None or output.elements is None:
        return None
    if node.op == "STFT":  # one-sided answers keep half of the frame
        length = length * 2 - 2 if node.attributes.get("onesided", 1) else length
    return output.elements / 2 * 2.5 * math.log2(max(length, 2))


_RULES: dict[str, Rule] = {
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "DeformConv": _convolution(1),
    "FusedConv": _convolution(1),
    "NhwcFusedConv": _convolution(1),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _transposed,
    "ConvTransposeWithDynamicPads": _transposed,
    "Gemm": _gemm,
    "FusedGemm": _gemm,
    "QGemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
    "FusedMatMul": _matmul,
    "TransposeMatMul": _matmul,
    "DynamicQuantizeMatMul": _matmul,
    "MatMulIntegerToFloat": _matmul,
    "MatMulInteger16": _matmul,
    "GemmFastGelu": _matmul,
    "MatMulNBits": _few_bits,
    "MatMulBnb4": _few_bits,
    "Einsum": _einsum,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "DynamicQuantizeLSTM": _recurrent,
    "Attention": lambda node, inputs, output: (_projected_attention if node.domain else _attention)(
        node, inputs, output
    ),
    "QAttention": _projected_attention,
    "MultiHeadAttention": _multi_head,
    "GroupQueryAttention": _grouped_query,
    "LinearClassifier": _linear_model,
    "LinearRegressor": _linear_model,
    "SVMClassifier": _support_vectors,
    "SVMRegressor": _support_vectors,
    "DFT": _fourier,
    "STFT": _fourier,
}
