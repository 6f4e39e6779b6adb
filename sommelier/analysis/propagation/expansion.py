"""Fused and integer operators as the operators they are made of.

The propagation walks through the parts. The host itself is run as it is: the parts only stand
beside it, for the tensors between them, so nothing is claimed about other arithmetic than its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sommelier.analysis.propagation.contraction import einsum
from sommelier.analysis.propagation.fused import (
    MICROSOFT,
    POOL,
    bias_add,
    biased,
    embeddings,
    fused_conv,
    fused_gemm,
    fused_matmul,
    quantised_concat,
    quantised_conv,
    quantised_pair,
    quantised_single,
    skip_norm,
)
from sommelier.analysis.propagation.fused_attention import attention, multi_head, self_attention
from sommelier.analysis.propagation.parts import Expansion, NotCoveredError, Parts, Shapes

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

EXPANSIONS: dict[str, Expansion] = {
    "Attention": attention,
    "Einsum": einsum,
    f"{MICROSOFT}:MultiHeadAttention": multi_head,
    f"{MICROSOFT}:Attention": self_attention,
    f"{MICROSOFT}:FusedConv": fused_conv,
    f"{MICROSOFT}:FusedGemm": fused_gemm,
    f"{MICROSOFT}:FusedMatMul": fused_matmul,
    f"{MICROSOFT}:BiasGelu": biased("Gelu"),
    f"{MICROSOFT}:FastGelu": biased("Gelu"),
    f"{MICROSOFT}:BiasAdd": bias_add,
    f"{MICROSOFT}:SkipLayerNormalization": skip_norm("LayerNormalization", 4),
    f"{MICROSOFT}:SkipSimplifiedLayerNormalization": skip_norm("SimplifiedLayerNormalization", 3),
    f"{MICROSOFT}:EmbedLayerNormalization": embeddings,
    "QLinearConv": quantised_conv,
    "QLinearMatMul": quantised_pair("MatMul"),
    f"{MICROSOFT}:QLinearAdd": quantised_pair("Add"),
    f"{MICROSOFT}:QLinearMul": quantised_pair("Mul"),
    f"{MICROSOFT}:QLinearSigmoid": quantised_single("Sigmoid"),
    f"{MICROSOFT}:QLinearLeakyRelu": quantised_single("LeakyRelu", "alpha"),
    f"{MICROSOFT}:QLinearGlobalAveragePool": quantised_single("GlobalAveragePool"),
    f"{MICROSOFT}:QLinearAveragePool": quantised_single("AveragePool", *POOL),
    f"{MICROSOFT}:QLinearConcat": quantised_concat,
}
"""By the operator's title: what writes its parts."""


def expanded(model: ModelProto) -> tuple[ModelProto, list[Any]]:
    """The model with fused operators taken apart, and the parts to stand beside the model."""
    if not any(_title(node) in EXPANSIONS for node in model.graph.node):
        return model, []
    from onnx import ModelProto

    from sommelier.analysis.tracing import trace

    graph, _ = trace(model)

    def shape(name: str) -> tuple[int, ...]:
        found = graph.tensor(name).shape
        if found is None or None in found:
            raise NotCoveredError
        return tuple(size for size in found if size is not None)

    flat = ModelProto()
    flat.CopyFrom(model)
    del flat.graph.node[:]
    sides: list[Any] = []
    for node in model.graph.node:
        parts = _parts(node, shape)
        flat.graph.node.extend([node] if parts is None else parts)
        sides.extend(() if parts is None else _beside(parts, set(node.output)))
    return flat, sides


def _title(node: NodeProto) -> str:
    return f"{node.domain}:{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type


def _parts(node: NodeProto, shape: Shapes) -> list[NodeProto] | None:
    expansion = EXPANSIONS.get(_title(node))
    if expansion is None:
        return None
    parts = Parts(node)
    try:
        expansion(parts, shape)
    except NotCoveredError:
        return None
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
