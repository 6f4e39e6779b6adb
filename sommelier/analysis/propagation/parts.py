"""How a fused operator is written as the operators it is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from sommelier.analysis.onnx_types import attribute_value
from sommelier.analysis.propagation.extension import FLOAT

if TYPE_CHECKING:
    from onnx import NodeProto


class NotCoveredError(Exception):
    """A form of the operator that is not taken apart: it stays whole, and has no rule."""


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


Shapes = Callable[[str], "tuple[int, ...]"]
Expansion = Callable[[Parts, Shapes], None]
