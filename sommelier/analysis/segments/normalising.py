"""Bringing a graph to its normal form (normal_form.py), node by node."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sommelier.analysis.fingerprint import graph_digest
from sommelier.analysis.graph import Graph, Node, read_named, without_functions
from sommelier.analysis.segments.affine import Affine, Slot, absorb
from sommelier.analysis.segments.canonical import (
    ANY_SIZE,
    ARITHMETIC,
    COMMUTATIVE,
    RESHAPES,
    canonical,
)
from sommelier.analysis.segments.constants import Constants
from sommelier.analysis.segments.normal_form import QUANTISERS, NormalForm, Operator, digest
from sommelier.analysis.tracing import trace
from sommelier.errors import AnalysisError

if TYPE_CHECKING:
    from onnx import ModelProto

MAX_OPERATORS = 20_000


def load(model: ModelProto | Path | str) -> ModelProto:
    """The model with its weights in memory, external ones included, and its functions expanded.

    Raises RejectedModelError for a file that is no model, or external data outside its folder.
    """
    if isinstance(model, (str, Path)):
        from onnx.external_data_helper import load_external_data_for_model

        from sommelier.storage.external_data import files_of

        path = Path(model)
        model = read_named(path)
        if files_of(model, path.parent):
            load_external_data_for_model(model, str(path.parent))
    return without_functions(model)


def normal_form(
    model: ModelProto | Path | str,
    *,
    dims: Mapping[str, int] | None = None,
    drop_quantisation: bool = False,
    any_size: bool = False,
) -> NormalForm:
    """The model's normal form at batch 1.

    dims : lengths of open axes, as in `tracing.trace`. drop_quantisation : take pairs of
    QuantizeLinear and DequantizeLinear on activations for no-ops, to compare with a float model.
    any_size : symbols tell sizes of activations only relative to the input's, to compare with a
    model for inputs of another size.
    Raises RejectedModelError for a broken graph, AnalysisError for one of more than 20 000 nodes.
    """
    proto = load(model)
    if len(proto.graph.node) > MAX_OPERATORS:
        raise AnalysisError(
            f"its graph has {len(proto.graph.node)} operators; segments are searched in graphs of "
            f"at most {MAX_OPERATORS}"
        )
    graph, _ = trace(proto, batch=1, dims=dims)
    return _Builder(proto, graph, drop_quantisation, any_size).build()


class _Builder:
    """Takes a traced graph node by node."""

    def __init__(
        self, model: ModelProto, graph: Graph, drop_quantisation: bool, any_size: bool
    ) -> None:
        self.model, self.graph = model, graph
        self.constants = Constants(model, graph)
        self.drop, self.any_size = drop_quantisation, any_size
        self.side = max(
            (d or 1 for n in graph.inputs for d in graph.tensor(n).shape or ()), default=1
        )
        self.aliases: dict[str, str] = {}
        self.quantised: set[int] = set()
        self.makers = {name: i for i, n in enumerate(graph.nodes) for name in n.outputs if name}

    def build(self) -> NormalForm:
        kept = [i for i, node in enumerate(self.graph.nodes) if not self._vanishes(node)]
        outputs = tuple(self._name(name) for name in self.graph.outputs)
        alive = self._alive(kept, outputs)
        self.readers: defaultdict[str, list[int]] = defaultdict(list)
        for i in alive:
            for name in self._reads(self.graph.nodes[i]):
                self.readers[name].append(i)
        sole = {n: r[0] for n, r in self.readers.items() if len(r) == 1 and n not in outputs}
        taken: set[int] = set()
        operators = []
        for i in alive:
            if i not in taken:
                operators.append(self._operator(i, frozenset(outputs), sole))
                taken.update(operators[-1].nodes)
        operators.sort(key=lambda operator: operator.nodes[-1])
        return NormalForm(
            self.model, self.graph, self.constants, tuple(operators), self.graph.inputs,
            outputs, self.aliases, frozenset(self.quantised),
        )  # fmt: skip

    def _name(self, tensor: str) -> str:
        return self.aliases.get(tensor, tensor)

    def _reads(self, node: Node) -> tuple[str, ...]:
        """Data the node reads, in order; subgraphs' captures after its own inputs."""
        names = (self._name(name) for name in (*node.inputs, *node.outer) if name)
        return tuple(name for name in names if name not in self.constants)

    def _vanishes(self, node: Node) -> bool:
        """Whether the node is no operator: a constant, or a no-op, whose output is its input."""
        if all(not name or name in self.constants for name in node.outputs):
            return True
        source = self._unchanged(node)
        if source is None:
            return False
        self.aliases[node.outputs[0]] = self._name(source)
        return True

    def _unchanged(self, node: Node) -> str | None:
        """The operand a no-op hands on."""
        if node.domain or not node.inputs or not node.inputs[0] or node.inputs[0] in self.constants:
            return self._dequantised(node)
        first, made = self.graph.tensor(node.inputs[0]), self.graph.tensor(node.outputs[0])
        same = None not in (first.shape or (None,)) and first.shape == made.shape
        others = any(name and self.readers_of(name) for name in node.outputs[1:])
        if node.op == "Identity":
            return node.inputs[0]
        if node.op == "Dropout" and not others and not self._trains(node):
            return node.inputs[0]
        if node.op == "Cast" and first.dtype and first.dtype == made.dtype:
            return node.inputs[0]
        if node.op in RESHAPES and same:
            return node.inputs[0]
        if node.op in ("Concat", "Sum", "Mean", "Max", "Min") and len(node.inputs) == 1:
            return node.inputs[0]
        return self._dequantised(node)

    def readers_of(self, name: str) -> bool:
        """Whether any node or answer of the file takes the name."""
        return name in self.graph.outputs or any(
            name in node.inputs or name in node.outer for node in self.graph.nodes
        )

    def _trains(self, node: Node) -> bool:
        mode = node.inputs[2] if len(node.inputs) > 2 else ""
        value = self.graph.values.get(mode)
        return bool(mode) and (value is None or bool(value.any()))

    def _dequantised(self, node: Node) -> str | None:
        """What was quantised just before, where such pairs are dropped."""
        if node.op not in QUANTISERS or self._name(node.inputs[0]) in self.constants:
            return None
        if node.op == "DequantizeLinear":
            self.quantised.add(self.graph.tensor(node.inputs[0]).dtype)
        maker = self.makers.get(node.inputs[0])
        before = None if maker is None else self.graph.nodes[maker]
        if not self.drop or node.op != "DequantizeLinear" or before is None:
            return None
        return before.inputs[0] if before.op == "QuantizeLinear" else None

    def _alive(self, kept: list[int], outputs: tuple[str, ...]) -> list[int]:
        """Nodes an answer depends on, in order."""
        wanted = set(outputs)
        alive = []
        for i in reversed(kept):
            node = self.graph.nodes[i]
            if any(name in wanted for name in node.outputs):
                alive.append(i)
                wanted.update(self._reads(node))
        return alive[::-1]

    def _operator(
        self, position: int, outputs: frozenset[str], sole_reader: Mapping[str, int]
    ) -> Operator:
        """sole_reader : tensors that one node and nothing else reads -> that node."""
        node = self.graph.nodes[position]
        affine = absorb(position, self.graph, self.constants, sole_reader)
        data = self._reads(node)
        nodes: tuple[int, ...] = (position,)
        if affine is None:
            slots, symbol, commutative = self._plain(position)
        else:
            slots, nodes, commutative = affine.slots, affine.nodes, False
            symbol = self._affine_symbol(affine, data)
        last = self.graph.nodes[nodes[-1]]
        used = tuple(n for n in last.outputs if n and (n in outputs or n in self.readers))
        return Operator(node.title, nodes, data, used, slots, affine, commutative, symbol)

    def _affine_symbol(self, affine: Affine, data: tuple[str, ...]) -> str:
        last = self.graph.nodes[affine.nodes[-1]]
        settings = () if affine.kind == "Linear" else canonical(
            self.graph.nodes[affine.nodes[0]], self.graph).settings  # fmt: skip
        return digest(
            affine.kind, settings, affine.weight_kind(self.constants), affine.has_bias,
            self._kinds(data, relative=True), self._kinds(last.outputs[:1], relative=True),
        )  # fmt: skip

    def _plain(self, position: int) -> tuple[tuple[Slot, ...], str, bool]:
        """(learned constants, symbol, whether the order of its data means nothing)."""
        node = self.graph.nodes[position]
        spelled = canonical(node, self.graph)
        relative = node.op in ANY_SIZE
        slots: list[Slot] = []
        operands: list[object] = []
        for i, name in enumerate(node.inputs):
            if not name or (i in spelled.consumed and name in self.constants):
                operands.append(None if not name else "setting")
            elif self._name(name) not in self.constants:
                operands.append(("data", self._kinds((self._name(name),), relative=relative)))
            elif self._learns(node, name):
                slots.append(Slot(position, i, name))
                operands.append(("weight", self.constants.dtype_and_shape(name)))
            else:
                operands.append(("value", self.constants.digest(name)))
        while operands and operands[-1] in (None, "setting"):
            operands.pop()  # omitted and moved operands at the end are no difference
        commutative = node.op in COMMUTATIVE and not node.domain
        if commutative:
            operands.sort(key=repr)
        made = self._kinds(tuple(n for n in node.outputs if n), relative=relative)
        symbol = digest(spelled.op, spelled.settings, operands, made, self._bodies(node))
        return tuple(slots), symbol, commutative

    def _learns(self, node: Node, name: str) -> bool:
        """Whether a constant operand is a weight; scalars of formulas, axes and indices are not."""
        from onnx import TensorProto

        if not self.constants.learned(name) or node.subgraphs:
            return False
        dtype, shape = self.constants.dtype_and_shape(name)
        whole = (TensorProto.INT64, TensorProto.UINT64, TensorProto.BOOL, TensorProto.STRING,
                 TensorProto.UINT32, TensorProto.INT32)  # fmt: skip
        if dtype in whole:
            return dtype == TensorProto.INT32 and "Linear" in node.op  # quantised bias
        one = shape is not None and None not in shape and all(d == 1 for d in shape)
        return not (one and node.op in ARITHMETIC and not node.domain)

    def _bodies(self, node: Node) -> object:
        """If, Loop and Scan by their bodies' structure and the content of the weights in them."""
        if not node.subgraphs:
            return None
        outer = {
            name: f"constant {self.constants.digest(name)}" if name in self.constants
            else f"outer {i}"
            for i, name in enumerate(node.outer)
        }  # fmt: skip
        bodies = []
        for key, body in sorted(node.subgraphs.items()):
            inside = Constants(self.model, body)
            contents = sorted(inside.digest(w.name) for w in body.all_weights() if w.proto)
            bodies.append((key, graph_digest(body, outer), contents))
        return [*sorted(outer.values()), *bodies]

    def _kinds(self, names: tuple[str, ...], *, relative: bool) -> list[tuple[int, object]]:
        """Element types with shapes; where only relative sizes count, with the number of axes and
        how often the sides of an image were halved."""
        found = [self.graph.tensor(name) for name in names]
        if not relative or not self.any_size:
            return [(t.dtype, t.shape) for t in found]
        kinds: list[tuple[int, object]] = []
        for tensor in found:
            shape = tensor.shape or ()
            longest = max((d or 1 for d in shape[2:]), default=1) if len(shape) > 3 else None
            halved = None if longest is None else round(math.log2(self.side / max(longest, 1)))
            kinds.append((tensor.dtype, (tensor.shape and len(shape), halved)))
        return kinds
