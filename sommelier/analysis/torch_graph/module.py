"""The torch module: an ONNX graph run operator by operator, from any tensor to any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from sommelier.analysis.graph import Node, opset_imports, ordered_nodes
from sommelier.analysis.onnx_types import attribute_value
from sommelier.analysis.torch_graph.call import Call
from sommelier.analysis.torch_graph.operators import OPERATORS
from sommelier.errors import AnalysisError, first_line

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

LEARNED: Mapping[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (0, 1),
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "PRelu": (1,),
    "Add": (0, 1),
    "Mul": (0, 1),
    "Gather": (0,),
}
"""Operands that training changes; other stored numbers (bounds, statistics, scales) stay."""


class TorchGraph(nn.Module):
    """An ONNX graph in single precision. Tensors keep the names of the file.

    weights : initializer -> parameter, those that training may change. inputs, outputs : names in
    order. Samples are independent of each other as far as they are in the file.
    """

    def __init__(self, model: ModelProto, *, trainable: bool = False) -> None:
        super().__init__()
        stored = {tensor.name: tensor for tensor in model.graph.initializer}
        given = [value.name for value in model.graph.input if value.name not in stored]
        self.inputs = tuple(given)
        self.outputs = tuple(value.name for value in model.graph.output)
        nodes = [_node(n) for n in ordered_nodes(model.graph, [*given, *stored])]
        _refuse_unknown(nodes, bool(model.graph.sparse_initializer))
        self.opset = opset_imports(model)[""]
        self._constants: dict[str, Tensor] = {}
        self._slots: dict[str, str] = {}
        self._register(stored, nodes, trainable)
        self.nodes = self._folded(nodes)
        self._makers = {name: i for i, n in enumerate(self.nodes) for name in n.outputs if name}
        self._plans: dict[tuple[frozenset[str], tuple[str, ...]], tuple[_Turn, ...]] = {}

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        return {name: self.get_parameter(slot) for name, slot in self._slots.items()}

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The outputs, in the file's order; one tensor when there is one."""
        found = self.tensors(dict(zip(self.inputs, inputs, strict=True)), self.outputs)
        answers = tuple(found[name] for name in self.outputs)
        return answers[0] if len(answers) == 1 else answers

    def tensors(self, given: Mapping[str, Tensor], wanted: Sequence[str]) -> dict[str, Tensor]:
        """Tensors of the graph computed from others; only the operators between them are run.

        Raises AnalysisError when `given` does not decide them.
        """
        key = (frozenset(given), tuple(wanted))
        if key not in self._plans:
            self._plans[key] = self._plan(*key)
        values = dict(given)
        for turn in self._plans[key]:
            node = turn.node
            operands = [self._value(name, values) for name in node.inputs]
            values.update(self._run(node, operands))
            for name in turn.last_uses:
                values.pop(name, None)
        return {name: values[name] if name in values else self._known(name) for name in wanted}

    def _run(self, node: Node, operands: Sequence[Tensor | None]) -> dict[str, Tensor]:
        try:
            made = OPERATORS[node.op](Call(operands, node.attributes, self.opset))
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            first = first_line(error)[:200]
            raise AnalysisError(
                f"{node.op} '{node.name or node.outputs[0]}' cannot be run in torch: {first}"
            ) from error
        results = (made,) if isinstance(made, Tensor) else made
        return {n: v for n, v in zip(node.outputs, results, strict=False) if n}

    def _value(self, name: str, values: Mapping[str, Tensor]) -> Tensor | None:
        if not name:
            return None
        return values[name] if name in values else self._known(name)

    def _known(self, name: str) -> Tensor:
        slot = self._slots.get(name)
        return self._constants[name] if slot is None else self.get_parameter(slot)

    def _register(
        self, stored: Mapping[str, TensorProto], nodes: Sequence[Node], trainable: bool
    ) -> None:
        learned = {
            name
            for node in nodes
            for position, name in enumerate(node.inputs)
            if position in LEARNED.get(node.op, ())
        }
        for i, (name, proto) in enumerate(stored.items()):
            value = _tensor(proto)
            if name in learned and value.is_floating_point():
                self._slots[name] = f"weight_{i}"
                self.register_parameter(f"weight_{i}", nn.Parameter(value, trainable))
            else:
                self._constants[name] = value

    def _folded(self, nodes: Sequence[Node]) -> tuple[Node, ...]:
        """The operators that depend on an input or a weight; the others are computed now."""
        kept = []
        for node in nodes:
            if all(not name or name in self._constants for name in node.inputs):
                operands = [self._constants[n] if n else None for n in node.inputs]
                self._constants.update(self._run(node, operands))
            else:
                kept.append(node)
        return tuple(kept)

    def _plan(self, given: frozenset[str], wanted: tuple[str, ...]) -> tuple[_Turn, ...]:
        needed: set[int] = set()
        waiting = [name for name in wanted if name not in given]
        while waiting:
            name = waiting.pop()
            if not name or name in given or name in self._constants or name in self._slots:
                continue
            if name not in self._makers:
                raise AnalysisError(
                    f"tensor '{name}' is needed for {', '.join(wanted)}, and nothing makes it",
                    hint=f"give it; given were {', '.join(sorted(given))}",
                )
            if self._makers[name] not in needed:
                needed.add(self._makers[name])
                waiting.extend(self.nodes[self._makers[name]].inputs)
        turns: list[_Turn] = []
        kept = set(wanted)
        for i in sorted(needed, reverse=True):
            node = self.nodes[i]
            last = {name for name in (*node.inputs, *node.outputs) if name} - kept
            kept |= last
            turns.append(_Turn(node, tuple(last)))
        return tuple(reversed(turns))

    def _apply(self, fn: Any, recurse: bool = True) -> TorchGraph:
        """Moves the real constants with the parameters; integers are shapes and stay at hand."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch states no types here
        self._constants = {
            name: fn(value) if value.is_floating_point() else value
            for name, value in self._constants.items()
        }
        return self


class _Turn:
    """An operator to run, and the tensors that nobody reads after it."""

    __slots__ = ("last_uses", "node")

    def __init__(self, node: Node, last_uses: tuple[str, ...]) -> None:
        self.node, self.last_uses = node, last_uses


def _node(proto: NodeProto) -> Node:
    attributes = {a.name: attribute_value(a) for a in proto.attribute}
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    return Node(
        proto.op_type, domain, proto.name, tuple(proto.input), tuple(proto.output), attributes
    )


def _refuse_unknown(nodes: Sequence[Node], sparse: bool) -> None:
    unknown = sorted({n.title for n in nodes if n.domain or n.op not in OPERATORS})
    if sparse:
        unknown.append("sparse initializers")
    if unknown:
        raise AnalysisError(
            f"not supported by the conversion to torch: {', '.join(unknown)}",
            hint=f"supported are {', '.join(sorted(OPERATORS))}",
        )


def _tensor(proto: TensorProto) -> Tensor:
    from onnx import numpy_helper

    array = np.asarray(numpy_helper.to_array(proto))
    if array.dtype.kind == "V":  # bfloat16 and float8 of ml_dtypes
        array = array.astype(np.float32)
    found = torch.from_numpy(np.array(array))
    return found.to(torch.get_default_dtype()) if found.is_floating_point() else found
