"""What an abs-graph will cost, without building it: FLOPs, weights, memory and latency.

FLOPs and weights are exact. Memory is an estimate by liveness of what blocks hand on; latency is
one from a table of operator times, or else from the measured latency of the original models, whose
blocks are taken to need time as they need FLOPs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from sommelier.analysis.fusion.abs_graph import AbsGraph, NodeId
from sommelier.analysis.fusion.blocks import Block, Blocks
from sommelier.analysis.liveness import activation_memory
from sommelier.analysis.profiling import node_costs
from sommelier.errors import AnalysisError

if TYPE_CHECKING:
    from sommelier.analysis.operators import OperatorTable

Basis = Literal["operator table", "measured originals", "FLOPs"]

FLOAT_BYTES = 4  # of a weight and of a feature


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run at batch 1. latency_ms, memory_bytes : estimates, None when unknown.

    memory : weights and the most that is alive of features at once.
    """

    flops: float
    params: int
    memory_bytes: float | None
    latency_ms: float | None


@dataclass(frozen=True)
class CostModel:
    """Costs of all graphs of the same models. basis : what latencies come from.

    block_ms : of the blocks; empty when nothing is known about latency. adapter_ms : per FLOP.
    """

    original: AbsGraph
    basis: Basis
    peaks: Mapping[NodeId, int | None] = field(repr=False)
    block_ms: Mapping[NodeId, float] = field(default_factory=dict, repr=False)
    adapter_ms: float = 0.0

    @classmethod
    def of(
        cls,
        models: Mapping[str, Blocks],
        *,
        table: OperatorTable | None = None,
        latencies_ms: Mapping[str, float] | None = None,
    ) -> CostModel:
        """From the best that is known: the table, else the originals' latencies by task, else only
        FLOPs. Raises AnalysisError for a task without a latency where others have one."""
        original = AbsGraph.original(models)
        blocks = list(models.values())
        peaks = {
            node: _peak(blocks[node.task_id], block) for node, block in original.blocks.items()
        }
        if table is not None:
            times = _table_ms(blocks, table)
            basis: Basis = "operator table"
        elif latencies_ms is not None:
            times, basis = _scaled_ms(original, latencies_ms), "measured originals"
        else:
            return cls(original, "FLOPs", peaks)
        rate = sum(times.values()) / max(original.flops, 1.0)
        return cls(original, basis, peaks, times, rate)

    def cost(self, graph: AbsGraph) -> Cost:
        """The predicted cost of a graph of these models."""
        peak = self._peak(graph)
        memory = None if peak is None else float(peak + FLOAT_BYTES * graph.params)
        return Cost(graph.flops, graph.params, memory, self._latency_ms(graph))

    def share(self, graph: AbsGraph) -> float:
        """Predicted latency relative to the originals one after the other; of FLOPs when no
        latency is known. What a search makes small."""
        if not self.block_ms:
            return graph.flops / max(self.original.flops, 1.0)
        return (self._latency_ms(graph) or 0.0) / max(sum(self.block_ms.values()), 1e-12)

    def relative(self, graph: AbsGraph) -> tuple[float, float | None]:
        """FLOPs and memory relative to the originals; None for a memory that is unknown."""
        cost, whole = self.cost(graph), self.cost(self.original)
        memory = None
        if cost.memory_bytes is not None and whole.memory_bytes:
            memory = cost.memory_bytes / whole.memory_bytes
        return cost.flops / max(whole.flops, 1.0), memory

    def _latency_ms(self, graph: AbsGraph) -> float | None:
        if not self.block_ms:
            return None
        total = sum(self.block_ms[node] for node in graph.parents)
        for node, adapter in graph.adapters.items():
            # a folded map makes the block's first operators narrower or wider; never free
            change = self.adapter_ms * adapter.flops
            total += max(change, -self.block_ms[node])
        return total

    def _peak(self, graph: AbsGraph) -> int | None:
        """The most bytes alive: features that others still read, and a block's inside."""
        order = list(graph.nodes)  # branch after branch, as they run
        last = {node: i for i, child in enumerate(order) if (node := graph.parents[child])}
        highest = 0
        for i, node in enumerate(order):
            inside = self.peaks[node]
            if inside is None:
                return None
            parent = graph.parents[node]
            alive = {n for n in order[:i] if last.get(n, -1) >= i and n != parent}
            highest = max(highest, inside + sum(_bytes(graph.blocks[n]) for n in alive))
        return highest


def _bytes(block: Block) -> int:
    return FLOAT_BYTES * block.makes.channels * block.makes.positions


def _peak(blocks: Blocks, block: Block) -> int | None:
    """Activation memory of one block alone, its entry and exit included."""
    graph = blocks.graph
    inside = replace(
        graph,
        nodes=tuple(graph.nodes[i] for i in block.nodes),
        inputs=(block.entry,) if block.entry else tuple(blocks.inputs),
        outputs=(block.exit,) if block.exit else blocks.outputs,
    )
    return activation_memory(inside).peak


def _table_ms(blocks: list[Blocks], table: OperatorTable) -> dict[NodeId, float]:
    from sommelier.analysis.operators import cost_ms

    found: dict[NodeId, float] = {}
    for task, whole in enumerate(blocks):
        times = {id(cost.node): cost_ms(cost, table)[0] for cost in node_costs(whole.graph)}
        for block in whole.blocks:
            inside = (whole.graph.nodes[i] for i in block.nodes)
            found[NodeId(task, block.op_id)] = sum(times.get(id(node), 0.0) for node in inside)
    return found


def _scaled_ms(original: AbsGraph, latencies_ms: Mapping[str, float]) -> dict[NodeId, float]:
    missing = [task for task in original.tasks if task not in latencies_ms]
    if missing:
        raise AnalysisError(
            f"the latency of {', '.join(missing)} is unknown", hint="measure all models, or none"
        )
    flops = [0.0] * len(original.tasks)
    for node, block in original.blocks.items():
        flops[node.task_id] += block.flops
    rates = [
        latencies_ms[task] / max(total, 1.0)
        for task, total in zip(original.tasks, flops, strict=True)
    ]
    return {node: rates[node.task_id] * block.flops for node, block in original.blocks.items()}
