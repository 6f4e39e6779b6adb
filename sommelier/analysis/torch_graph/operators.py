"""ONNX operator -> what computes it in torch. Each function is differentiable where it can be."""

from __future__ import annotations

from collections.abc import Mapping

from sommelier.analysis.torch_graph import pointwise, shapes, windows
from sommelier.analysis.torch_graph.call import Rule

OPERATORS: Mapping[str, Rule] = {**pointwise.RULES, **shapes.RULES, **windows.RULES}
