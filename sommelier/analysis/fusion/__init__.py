"""Fusion: several trained models for the same input become one that shares computation (GMorph).

Usable as a library, without a database: `linearised` cuts a model into blocks, `AbsGraph.original`
puts several models side by side as one tree whose mutations let blocks share features,
`FusedModule` is the tree as a torch module, and `to_onnx` writes that as one model. torch and
onnxruntime are loaded by what needs them only. Source: GMorph; algorithms.md F.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sommelier.analysis.fusion.abs_graph import (
        AbsGraph,
        AbsNode,
        Adapter,
        Capacity,
        MutationKind,
        NodeId,
        Pair,
    )
    from sommelier.analysis.fusion.blocks import (
        Block,
        Blocks,
        Features,
        linearised,
        linearised_together,
    )
    from sommelier.analysis.fusion.drawing import drawn
    from sommelier.analysis.fusion.generator import to_onnx
    from sommelier.analysis.fusion.module import FusedModule

_HOMES = {
    "AbsGraph": "abs_graph",
    "AbsNode": "abs_graph",
    "Adapter": "abs_graph",
    "Block": "blocks",
    "Blocks": "blocks",
    "Capacity": "abs_graph",
    "Features": "blocks",
    "FusedModule": "module",
    "MutationKind": "abs_graph",
    "NodeId": "abs_graph",
    "Pair": "abs_graph",
    "drawn": "drawing",
    "linearised": "blocks",
    "linearised_together": "blocks",
    "to_onnx": "generator",
}
__all__ = [
    "AbsGraph",
    "AbsNode",
    "Adapter",
    "Block",
    "Blocks",
    "Capacity",
    "Features",
    "FusedModule",
    "MutationKind",
    "NodeId",
    "Pair",
    "drawn",
    "linearised",
    "linearised_together",
    "to_onnx",
]


def __getattr__(name: str) -> Any:
    """Loads a name with what it needs on first use."""
    if name in _HOMES:
        return getattr(import_module(f"sommelier.analysis.fusion.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'sommelier.analysis.fusion' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
