"""What a tensor of integers stands for: real value = (q - zero point) * scale.

The scale is stated where the tensor is made (QuantizeLinear, QLinearConv, ...), or where it is
read (DequantizeLinear), or it is that of the tensor it was cut, moved or pooled from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.graph import Graph, Node
from sommelier.analysis.segments.constants import Constants

Array = NDArray[Any]

KEEPING = frozenset(
    {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "MaxPool", "Identity", "Slice",
     "Gather", "Pad", "Concat", "Split", "Expand", "Tile", "Clip", "Relu", "DepthToSpace",
     "SpaceToDepth", "Resize", "GlobalMaxPool"}
)  # fmt: skip
_BIAS_AFTER = {"QGemm": (7, 8)}
_FIRST = frozenset({"QLinearConcat"})
_DEEPEST = 64


@dataclass(frozen=True, slots=True)
class Scale:
    """scale : float64, one number or one a channel along `axis`; zero : of the same form."""

    scale: NDArray[np.float64]
    zero: NDArray[np.float64]
    axis: int = 1

    @property
    def step(self) -> float:
        """The largest distance between two neighbouring values."""
        return float(self.scale.max())

    def real(self, values: Array) -> NDArray[np.float64]:
        """The numbers an integer tensor stands for."""
        return (values.astype(np.float64) - self._spread(self.zero, values)) * self._spread(
            self.scale, values
        )

    def _spread(self, number: NDArray[np.float64], values: Array) -> NDArray[np.float64]:
        if number.size == 1:
            return number.reshape(())
        axis = self.axis % values.ndim
        return number.reshape([-1 if i == axis else 1 for i in range(values.ndim)])


class Scales:
    """The scales of a graph's integer tensors."""

    def __init__(self, graph: Graph, constants: Constants) -> None:
        self._graph, self._constants = graph, constants
        self._makers = {name: node for node in graph.nodes for name in node.outputs if name}
        self._readers: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for name in node.inputs:
                self._readers.setdefault(name, []).append(node)

    def of(self, tensor: str) -> Scale | None:
        """The tensor's scale; None for tensors of real numbers and where the file does not say."""
        return self._made(tensor, 0) or self._read(tensor, 0)

    def _made(self, tensor: str, depth: int) -> Scale | None:
        node = self._makers.get(tensor)
        if node is None or depth > _DEEPEST:
            return None
        if node.op == "QuantizeLinear":
            return self._stated(node, 1, 2)
        if node.op.startswith("QLinear") or node.op == "QGemm":
            if node.op in _FIRST:
                return self._stated(node, 0, 1)
            places = _BIAS_AFTER.get(node.op, {"QLinearConv": (6, 7)}.get(node.op))
            count = len(node.inputs)
            return self._stated(node, *(places or (count - 2, count - 1)))
        if node.op in KEEPING and node.inputs:
            return self.of(node.inputs[0]) if depth == 0 else self._made(node.inputs[0], depth + 1)
        return None

    def _read(self, tensor: str, depth: int) -> Scale | None:
        for node in self._readers.get(tensor, ()):
            if node.op == "DequantizeLinear" and node.inputs[0] == tensor:
                return self._stated(node, 1, 2)
            if node.op.startswith("QLinear") and node.inputs[0] == tensor and len(node.inputs) > 2:
                return None if node.op in _FIRST else self._stated(node, 1, 2)
            if node.op in KEEPING and node.inputs[0] == tensor and depth < _DEEPEST:
                found = self._read(node.outputs[0], depth + 1)
                if found is not None:
                    return found
        return None

    def _stated(self, node: Node, scale: int, zero: int) -> Scale | None:
        names = node.inputs
        if scale >= len(names) or names[scale] not in self._constants:
            return None
        step = np.asarray(self._constants.array(names[scale]), np.float64)
        offset = np.zeros_like(step)
        if zero < len(names) and names[zero]:
            if names[zero] not in self._constants:
                return None
            offset = np.asarray(self._constants.array(names[zero]), np.float64)
        return Scale(step, offset, _axis(node.attributes))


def _axis(attributes: Mapping[str, Any]) -> int:
    return int(attributes.get("axis", 1))
