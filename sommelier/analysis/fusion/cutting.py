"""Cutting a prepared model at single tensors: spine, runs between cut points, blocks of runs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from sommelier.analysis.flops import node_flops
from sommelier.analysis.fusion.absorbing import absorbers
from sommelier.analysis.fusion.blocks import Block, Blocks, Features, OpType
from sommelier.analysis.fusion.preparing import is_weight
from sommelier.analysis.graph import Graph, Node
from sommelier.analysis.segments.dominators import DominatorTree
from sommelier.analysis.tracing import trace
from sommelier.errors import AnalysisError

if TYPE_CHECKING:
    from onnx import ModelProto

SOURCE, SINK = -1, -2
LEARNED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Gather", "Einsum"})
"""Operators that mix features by weights; what only scales and shifts belongs to the one before."""

FIRST = frozenset(
    {"Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization", "GroupNormalization",
     "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "LRN"}
)  # fmt: skip
LAST = frozenset({"MatMul", "Gemm", "LayerNormalization"})
"""Operators that say which axis of what they read or make holds the channels."""


def cut(model: ModelProto) -> Blocks:
    """The blocks of a prepared model. Raises AnalysisError when nothing in it is learned."""
    return _Cutter(model).blocks()


@dataclass(frozen=True, slots=True)
class _Run:
    """Operators between two cut points. exit : '' at the end of the model."""

    nodes: tuple[int, ...]
    exit: str
    learned: bool


class _Cutter:
    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.graph, _ = trace(model, batch=1)
        self.many, _ = trace(model, batch=2)
        self.makers = {o: i for i, n in enumerate(self.graph.nodes) for o in n.outputs if o}
        self.readers: defaultdict[str, list[int]] = defaultdict(list)
        for i, node in enumerate(self.graph.nodes):
            for name in dict.fromkeys(node.inputs):
                self.readers[name].append(i)
        self.side = self._side()

    def blocks(self) -> Blocks:
        groups = self._grouped(self._runs())
        found: list[Block] = []
        for i, runs in enumerate(groups):
            entry = groups[i - 1][-1].exit if i else self._sole_input(groups[0])
            found.append(self._block(i, runs, entry, last=i == len(groups) - 1))
        inputs = {
            name: (self.graph.tensor(name).dtype, self._sides(name)) for name in self.graph.inputs
        }
        return Blocks(
            self.model, self.graph, tuple(found), tuple(sorted(self.side)), inputs,
            self.graph.outputs,
        )  # fmt: skip

    def _side(self) -> set[int]:
        """Operators that read inputs only and hold no weight."""
        free = {*self.graph.inputs, *self.graph.weights}
        found = set()
        for i, node in enumerate(self.graph.nodes):
            names = [name for name in node.inputs if name]
            if all(name in free for name in names) and not self._weights(node):
                found.add(i)
                free.update(node.outputs)
        return found

    def _runs(self) -> list[_Run]:
        inner = [i for i in range(len(self.graph.nodes)) if i not in self.side]
        ends = [self.makers[name] for name in self.graph.outputs if name in self.makers]

        def predecessors(node: int) -> list[int]:
            if node == SINK:
                return ends
            names = self.graph.nodes[node].inputs
            found = {self.makers[n] for n in names if n in self.makers} - self.side
            return sorted(found) or [SOURCE]

        tree = DominatorTree.of([*inner, SINK], SOURCE, predecessors)
        runs: list[_Run] = []
        waiting: list[int] = []
        spine = set(tree.path_from_root(SINK)[1:-1])
        for i in inner:
            waiting.append(i)
            exit_ = self._cut_point(i) if i in spine else None
            if exit_ is not None:
                runs.append(self._run(waiting, exit_))
                waiting = []
        if waiting:
            runs.append(self._run(waiting, ""))
        return runs

    def _run(self, nodes: Sequence[int], exit_: str) -> _Run:
        return _Run(tuple(nodes), exit_, any(self._mixes(self.graph.nodes[i]) for i in nodes))

    def _cut_point(self, spine: int) -> str | None:
        """The one tensor that everything after a spine operator depends on."""
        from onnx import TensorProto

        read = [name for name in self.graph.nodes[spine].outputs if self.readers.get(name)]
        if len(read) != 1 or read[0] in self.graph.outputs:
            return None
        one, two = self.graph.tensor(read[0]), self.many.tensor(read[0]).shape
        if one.dtype != TensorProto.FLOAT or one.shape is None or None in one.shape:
            return None
        batched = len(one.shape) > 1 and two == (2, *one.shape[1:])
        return read[0] if batched else None

    def _grouped(self, runs: list[_Run]) -> list[list[_Run]]:
        """Runs of one block each: a learned one, and those around it that are not."""
        learned = [i for i, run in enumerate(runs) if run.learned]
        if not learned:
            raise AnalysisError("cannot be fused: none of its operators has weights")
        starts = [0]
        for before, after in pairwise(learned):
            starts.append(self._start(runs, before, after))
        return [runs[a:b] for a, b in zip(starts, [*starts[1:], len(runs)], strict=True)]

    def _start(self, runs: Sequence[_Run], before: int, after: int) -> int:
        """Where the block of run `after` begins: at the first run that makes a vector of a map."""
        positions = math.prod(self._features(runs[before].exit).sides)
        for i in range(before + 1, after):
            features = self._features(runs[i].exit)
            if positions > 1 and features.positions == 1:
                return i
            if not features.sides and self._features(runs[before].exit).sides:
                return i
        return after

    def _block(self, op_id: int, runs: Sequence[_Run], entry: str, *, last: bool) -> Block:
        nodes = tuple(i for run in runs for i in run.nodes)
        exit_ = "" if last else runs[-1].exit
        weights = dict.fromkeys(w for i in nodes for w in self._weights(self.graph.nodes[i]))
        found = Block(
            op_id, "Head" if last else self._op_type(nodes), "" if not op_id else entry, exit_,
            nodes, self._takes(entry), self._makes(exit_),
            sum(self.graph.weights[w].stored for w in weights),
            sum(self._flops(i) for i in nodes),
        )  # fmt: skip
        taking = absorbers(self.graph, nodes, entry, found.takes) if entry else ()
        return replace(
            found,
            entry=entry,
            absorbers=taking,
            entry_capacity=sum(self.graph.weights[a.weight].stored for a in taking),
            entry_flops=sum(self._flops(a.node) for a in taking),
        )

    def _sole_input(self, first: Sequence[_Run]) -> str:
        """The model's input where the first block reads it as it is; '' otherwise."""
        from onnx import TensorProto

        if len(self.graph.inputs) != 1 or self.side:
            return ""
        name = self.graph.inputs[0]
        inside = {i for run in first for i in run.nodes}
        real = self.graph.tensor(name).dtype == TensorProto.FLOAT
        return name if real and set(self.readers[name]) <= inside else ""

    def _takes(self, entry: str) -> Features:
        if entry:
            return self._features(entry)
        return Features(self._sides(self.graph.inputs[0]), None)

    def _makes(self, exit_: str) -> Features:
        return (
            self._features(exit_) if exit_ else Features(self._sides(self.graph.outputs[0]), None)
        )

    def _features(self, name: str) -> Features:
        shape = self._sides(name)
        return Features(shape, self._channel_axis(name, len(shape)) if shape else None)

    def _channel_axis(self, name: str, rank: int) -> int:
        """By the first operator after the tensor that says it, then by the last one before it."""
        if rank == 1:
            return 0
        shape = self.graph.tensor(name).shape
        waiting, seen = list(self.readers[name]), set()
        while waiting:
            i = waiting.pop(0)
            node = self.graph.nodes[i]
            if node.op in FIRST or node.op in LAST:
                return 0 if node.op in FIRST else rank - 1
            for out in node.outputs:
                if out not in seen and self.graph.tensor(out).shape == shape:
                    seen.add(out)
                    waiting += self.readers[out]
        maker = self.makers.get(name)
        while maker is not None:
            node = self.graph.nodes[maker]
            if node.op in FIRST or node.op in LAST:
                return 0 if node.op in FIRST else rank - 1
            data = (n for n in node.inputs if self.graph.tensor(n).shape == shape)
            maker = next((self.makers[n] for n in data if n in self.makers), None)
        return 0 if rank > 2 else rank - 1

    def _op_type(self, nodes: Sequence[int]) -> OpType:
        inside = [self.graph.nodes[i] for i in nodes]
        mixing = [n for n in inside if self._mixes(n)]
        products = [n for n in inside if n.op == "MatMul" and not self._weights(n)]
        if products and any(n.op == "Softmax" for n in inside):
            return "Attention"
        if all(n.op == "Gather" for n in mixing):
            return "Embedding"
        if len(mixing) == 1:
            return "Conv" if "Conv" in mixing[0].op else "Linear"
        return (
            "Residual" if any(n.op == "Add" and not self._weights(n) for n in inside) else "Region"
        )

    def _mixes(self, node: Node) -> bool:
        if node.op not in LEARNED:
            return False
        weights = self._weights(node)
        return weights[:1] == [node.inputs[0]] if node.op == "Gather" else bool(weights)

    def _weights(self, node: Node) -> list[str]:
        return [name for name in node.inputs if is_weight(self.graph, name)]

    def _flops(self, i: int) -> float:
        node = self.graph.nodes[i]
        found = node_flops(node, self.graph)
        if found is None:
            raise AnalysisError(
                f"cannot be fused: the cost of {node.title} '{node.name}' is unknown"
            )
        return found

    def _sides(self, name: str) -> tuple[int, ...]:
        return tuple(d or 1 for d in (self.graph.tensor(name).shape or ())[1:])


def weights_of(graph: Graph, nodes: Sequence[int]) -> tuple[str, ...]:
    """Names of the weights that these operators read, in order, each once."""
    names = (name for i in nodes for name in graph.nodes[i].inputs)
    return tuple(dict.fromkeys(name for name in names if is_weight(graph, name)))
