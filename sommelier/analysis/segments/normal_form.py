"""The normal form of a graph, in which two models are compared (algorithms.md B.1 step 0).

It is a *view*: every operator of it remembers the nodes of the file it stands for, and every
weight the tensor it comes from. Nothing is rewritten, so what is found in the view is carried out
on the original graph, which therefore stays loadable in its own opset. In the view

- what never depends on the inputs is no operator (shape arithmetic, dequantised weights),
- Identity, Dropout, and Cast or Reshape that change nothing are gone,
- Conv with its bias and BatchNormalization is one operator, and so are MatMul and its bias.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from sommelier.analysis.flops import node_flops
from sommelier.analysis.graph import Graph
from sommelier.analysis.segments.affine import Affine, Slot
from sommelier.analysis.segments.constants import Constants

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

QUANTISERS = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True, slots=True)
class Operator:
    """One computation step. op : the operator as the file calls it, for people.

    nodes : positions in `graph.nodes`; the last makes the outputs. inputs : data it reads, names
    after no-ops are taken away; a commutative operator's order means nothing. slots : the learned
    constants it reads, in order. symbol : equal for equal computations up to the weights' values.
    """

    op: str
    nodes: tuple[int, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    slots: tuple[Slot, ...]
    affine: Affine | None
    commutative: bool
    symbol: str


@dataclass(frozen=True)
class NormalForm:
    """A model's operators in topological order. Tensor names are those of the file.

    readers : by tensor, positions of the operators that read it; -1 stands for the model's answer.
    makers : by tensor, the position of the operator that makes it. quantised : element types that
    activations are quantised to; empty for a float model.
    """

    model: ModelProto
    graph: Graph
    constants: Constants
    operators: tuple[Operator, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    aliases: Mapping[str, str]
    quantised: frozenset[int]

    @cached_property
    def protos(self) -> dict[str, NodeProto]:
        """The file's node behind every tensor."""
        return {name: node for node in self.model.graph.node for name in node.output if name}

    @cached_property
    def makers(self) -> dict[str, int]:
        return {name: i for i, o in enumerate(self.operators) for name in o.outputs}

    @cached_property
    def readers(self) -> dict[str, tuple[int, ...]]:
        found: defaultdict[str, list[int]] = defaultdict(list)
        for i, operator in enumerate(self.operators):
            for name in dict.fromkeys(operator.inputs):
                found[name].append(i)
        for name in dict.fromkeys(self.outputs):
            found[name].append(-1)
        return {name: tuple(places) for name, places in found.items()}

    @cached_property
    def flops(self) -> tuple[float | None, ...]:
        """FLOPs of every operator; None where they cannot be computed."""
        return tuple(self._flops(operator) for operator in self.operators)

    @cached_property
    def params(self) -> tuple[int, ...]:
        """Stored elements of the learned weights of every operator."""
        return tuple(
            sum(self._stored(leaf) for leaf in self.leaves(operator)) for operator in self.operators
        )

    def leaves(self, operator: Operator) -> tuple[str, ...]:
        """Names of the stored weights the operator learns from, each once."""
        found: dict[str, None] = {}
        for slot in operator.slots:
            found.update(dict.fromkeys(self.constants.leaves(slot.tensor)))
        return tuple(found)

    def canonical_name(self, tensor: str) -> str:
        """The name after no-ops are taken away."""
        return self.aliases.get(tensor, tensor)

    def kind(self, tensor: str) -> tuple[int, tuple[int | None, ...] | None]:
        """Element type, and shape at batch 1."""
        found = self.graph.tensor(tensor)
        return found.dtype, found.shape

    def title(self, operator: Operator) -> str:
        """The operator's name in the file, or what it makes where the file names no nodes."""
        node = self.graph.nodes[operator.nodes[-1]]
        return node.name or node.outputs[0]

    def titles(self, operator: Operator) -> tuple[str, ...]:
        """The names of all its nodes."""
        nodes = (self.graph.nodes[i] for i in operator.nodes)
        return tuple(node.name or node.outputs[0] for node in nodes)

    def _flops(self, operator: Operator) -> float | None:
        total = 0.0
        for i in operator.nodes:
            node = self.graph.nodes[i]
            found = None if node.subgraphs else node_flops(node, self.graph)
            if found is None:
                return None
            total += found
        return total

    def _stored(self, leaf: str) -> int:
        weight = self.graph.weights.get(leaf)
        return 0 if weight is None else weight.stored


def digest(*parts: object) -> str:
    """A short content hash of printable parts."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=12).hexdigest()
