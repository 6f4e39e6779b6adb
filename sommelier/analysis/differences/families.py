"""What an operator is, whichever file wrote it: families, and operators that only carry values on.

A quantised convolution, a fused one and a plain one are one family; layout, type and form changes
are no layers at all.
"""

from __future__ import annotations

from sommelier.analysis.graph import Graph, Node
from sommelier.analysis.segments.canonical import RESHAPES, canonical

CARRIERS = RESHAPES | {
    "Transpose", "Cast", "CastLike", "Identity", "Dropout", "QuantizeLinear", "DequantizeLinear",
    "DynamicQuantizeLinear",
}  # fmt: skip
"""Operators whose first output holds their first input's values, in another form or precision."""

ACTIVATIONS = frozenset(
    {"Clip", "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "Elu", "Selu", "Celu", "Gelu", "HardSigmoid",
     "HardSwish", "Softplus", "Softsign", "Mish", "ThresholdedRelu", "Erf", "QuickGelu", "FastGelu",
     "BiasGelu", "Swish"}
)  # fmt: skip
FOLLOWING = ACTIVATIONS | {"Add", "Sub", "Mul", "Div", "BatchNormalization"}
"""Operators that belong to the layer before them where all but one operand are constants."""

_SAME = {
    "ConvInteger": "Conv", "FusedConv": "Conv", "NhwcFusedConv": "Conv", "NhwcConv": "Conv",
    "MatMul": "Linear", "Gemm": "Linear", "MatMulInteger": "Linear", "FusedMatMul": "Linear",
    "FusedGemm": "Linear", "DynamicQuantizeMatMul": "Linear", "MatMulIntegerToFloat": "Linear",
    "MatMulNBits": "Linear", "QGemm": "Linear", "TransposeMatMul": "Linear", "Sum": "Add",
}  # fmt: skip
_WORDS = {"Clip": "Relu"}


def family(node: Node, graph: Graph) -> str:
    """The operator in one word: 'Conv' for Conv, QLinearConv, ConvInteger and FusedConv alike."""
    op = node.op.removeprefix("QLinear") if node.op.startswith("QLinear") else node.op
    if op == node.op and not node.domain:
        op = canonical(node, graph).op
    elif op in ("GlobalAveragePool", "AveragePool"):
        shape = graph.tensor(node.outputs[0]).shape
        op = "ReduceMean" if shape and all(d == 1 for d in shape[2:]) else "AveragePool"
    return _SAME.get(op, op)


def word(node: Node, graph: Graph) -> str:
    """How a report calls the operator: 'Relu' for Clip from 0 on, 'QLinearConv', 'FusedConv+Relu'.

    Quantised forms keep their names, since people look for them in the file.
    """
    fused = str(node.attributes.get("activation") or "")
    own = node.op
    if own == "Clip" and (bounds := dict(canonical(node, graph).settings)).get("min") == "0.0":
        own = "Relu6" if bounds.get("max") == "6.0" else "Relu"
    return f"{own}+{fused}" if fused and node.domain else own
