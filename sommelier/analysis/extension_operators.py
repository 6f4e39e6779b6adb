"""Output shapes of ONNX Runtime's own operators (domain com.microsoft), which onnx does not know.

Most of them are a standard operator with scales, zero points or an activation added, so the shape
is that of the standard operator on some of the operands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Shape = tuple[int | None, ...]
Shapes = Sequence["Shape | None"]
Attributes = Mapping[str, Any]

FLOAT = 1  # onnx.TensorProto.FLOAT, spelled out because this table must not import onnx

TWINS: dict[str, tuple[str, tuple[int, ...]]] = {
    "FusedConv": ("Conv", (0, 1, 2)),
    "FusedGemm": ("Gemm", (0, 1, 2)),
    "QGemm": ("Gemm", (0, 3)),
    "GemmFastGelu": ("MatMul", (0, 1)),
    "DynamicQuantizeMatMul": ("MatMul", (0, 1)),
    "MatMulIntegerToFloat": ("MatMul", (0, 1)),
    "MatMulInteger16": ("MatMul", (0, 1)),
    "QLinearAdd": ("Add", (0, 3)),
    "QLinearMul": ("Mul", (0, 3)),
    "QLinearAveragePool": ("AveragePool", (0,)),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,)),
    "BiasGelu": ("Add", (0, 1)),
    "BiasAdd": ("Add", (0, 2)),
    "QLinearReduceMean": ("ReduceMean", (0,)),
}
"""Operator -> (standard operator of the same output shape, operands it takes)."""

SAME_AS_FIRST = frozenset(
    {
        "Gelu", "FastGelu", "QuickGelu", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax",
        "LayerNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization", "RotaryEmbedding", "BiasSoftmax", "BiasDropout",
        "QuantizeLinear", "DequantizeLinear", "GroupNorm", "Trilu", "BiasSplitGelu",
    }
)  # fmt: skip
"""Operators whose first output has the shape of their first operand."""

ELEMENT_TYPES: dict[str, int] = {
    "MatMulIntegerToFloat": FLOAT,
    "DequantizeLinear": FLOAT,
    "DynamicQuantizeMatMul": FLOAT,
    "MatMulInteger16": 6,
}
"""Element type of the output where it differs from the first operand's."""


def shape_of(op: str, shapes: Shapes, attributes: Attributes) -> Shape | None:
    """Shape of the first output for operators with a rule of their own; None when unknown."""
    rule = _RULES.get(op)
    if rule is None:
        return None
    try:
        return rule(shapes, attributes)
    except (IndexError, TypeError):
        return None  # an operand of unknown shape


def has_rule(op: str) -> bool:
    """Whether `shape_of` knows the operator."""
    return op in _RULES


def _number(attributes: Attributes, name: str, default: int = 0) -> int:
    return int(attributes.get(name, default))


def _fused_matmul(shapes: Shapes, attributes: Attributes) -> Shape | None:
    a, b = shapes[0], shapes[1]
    if a is None or b is None or _number(attributes, "transBatchA"):
        return None
    rows = a[-1] if _number(attributes, "transA") else a[-2]
    columns = b[-2] if _number(attributes, "transB") else b[-1]
    return (*(a if len(a) >= len(b) else b)[:-2], rows, columns)


def _attention(shapes: Shapes, attributes: Attributes) -> Shape | None:
    x, w = shapes[0], shapes[1]
    if x is None or w is None or w[1] is None:
        return None
    sizes = attributes.get("qkv_hidden_sizes")
    return (x[0], x[1], int(sizes[2]) if sizes else w[1] // 3)


def _multi_head(shapes: Shapes, _: Attributes) -> Shape | None:
    query, value = shapes[0], shapes[2] or shapes[0]
    if query is None or value is None or len(query) != 3 or len(value) != 3:
        return None
    return (query[0], query[1], value[2])


def _embed(shapes: Shapes, _: Attributes) -> Shape | None:
    ids, table = shapes[0], shapes[2]
    return None if ids is None or table is None else (ids[0], ids[1], table[1])


def _few_bits(shapes: Shapes, attributes: Attributes) -> Shape | None:
    a = shapes[0]
    return None if a is None else (*a[:-1], _number(attributes, "N"))


def _quantised_lstm(shapes: Shapes, attributes: Attributes) -> Shape | None:
    x, w = shapes[0], shapes[1]
    if x is None or w is None:
        return None
    return (x[0], w[0], x[1], _number(attributes, "hidden_size"))


def _quantised_concat(shapes: Shapes, attributes: Attributes) -> Shape | None:
    parts = shapes[2::3]  # scale, zero point, then (tensor, scale, zero point) each
    first = parts[0]
    axis = _number(attributes, "axis")
    lengths = [None if part is None else part[axis] for part in parts]
    if first is None or None in lengths:
        return None
    joined = list(first)
    joined[axis] = sum(length for length in lengths if length is not None)
    return tuple(joined)


_RULES: dict[str, Callable[[Shapes, Attributes], Shape | None]] = {
    "FusedMatMul": _fused_matmul,
    "Attention": _attention,
    "QAttention": _attention,
    "MultiHeadAttention": _multi_head,
    "GroupQueryAttention": lambda shapes, _: shapes[0],
    "EmbedLayerNormalization": _embed,
    "MatMulNBits": _few_bits,
    "MatMulBnb4": _few_bits,
    "DynamicQuantizeLSTM": _quantised_lstm,
    "QLinearConcat": _quantised_concat,
}
