"""Activation memory by liveness: which intermediate tensors are alive at the same time.

A tensor lives from the operator that makes it to the last one that reads it, in execution order
(algorithms.md D.1). Views (Reshape and its like) share their source's bytes. Around quantised
operators the float tensors never exist: runtimes fuse `Dequantize -> operator -> Quantize`, so
they count as the integers they come from or become. No other buffer is reused in place, and the
runtime's workspace is not included: an estimate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sommelier.analysis.graph import Graph, Node
from sommelier.analysis.tracing import chosen_branch

VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
"""Operators that move nothing: they only describe the same bytes anew."""
CLAMPS = frozenset({"Relu", "Clip"})  # done by the range of the integers they are quantised to
EXAMPLES = 3  # tensors of unknown size that a message names


@dataclass(frozen=True, slots=True)
class ActivationMemory:
    """Bytes; None when a tensor's size is unknown, and then `unknown` says which."""

    peak: int | None
    total: int | None
    unknown: tuple[str, ...] = ()


def activation_memory(graph: Graph, generated: frozenset[str] = frozenset()) -> ActivationMemory:
    """Peak of live tensors (inputs and outputs included) and sum of all operators' outputs.

    generated : outputs that stand for weights and therefore are not activations.
    """
    lost: list[str] = []
    peak, total = _measure(graph, generated, lost)
    if not lost:
        return ActivationMemory(peak, total)
    names = ", ".join(f"'{name}'" for name in lost[:EXAMPLES])
    return ActivationMemory(None, None, (f"memory: {len(lost)} tensors of unknown size: {names}",))


def _measure(graph: Graph, generated: frozenset[str], lost: list[str]) -> tuple[int, int]:
    buffers = _buffers(graph)
    last = _last_reads(graph, buffers)
    sizes: dict[str, int] = {}

    def born(name: str) -> int:
        """Bytes of a buffer that starts to live; weights and unread unknowns count nothing."""
        name = buffers.get(name, name)
        if not name or name in sizes or name in graph.weights or name in generated:
            return 0
        size = graph.tensor(name).nbytes
        if size is None:
            if name in last:
                lost.append(name)
            return 0
        sizes[name] = size
        return size

    live = sum(born(name) for name in graph.inputs)
    peak, total = live, 0
    dying: dict[int, list[str]] = {}
    for name, position in last.items():
        dying.setdefault(position, []).append(name)
    for i, node in enumerate(graph.nodes):
        made = sum(born(name) for name in node.outputs)
        inner_peak, inner_total = _inside(node, graph, generated, lost)
        live += made
        total += made + inner_total
        peak = max(peak, live + inner_peak)
        unread = [name for name in node.outputs if buffers.get(name, name) not in last]
        live -= sum(sizes.pop(name, 0) for name in (*dying.get(i, ()), *unread))
    return peak, total


def _inside(
    node: Node, graph: Graph, generated: frozenset[str], lost: list[str]
) -> tuple[int, int]:
    """What the subgraphs add while the node runs: the larger branch, one turn of a loop."""
    taken = chosen_branch(node.op, node.inputs, graph.values)
    bodies = [body for name, body in node.subgraphs.items() if taken in (None, name)]
    measured = [_measure(body, generated, lost) for body in bodies]
    return max((m[0] for m in measured), default=0), max((m[1] for m in measured), default=0)


def _last_reads(graph: Graph, buffers: Mapping[str, str]) -> dict[str, int]:
    """Position of the last operator reading each buffer; the graph's outputs live to the end."""
    last: dict[str, int] = {}
    for i, node in enumerate(graph.nodes):
        for name in (*node.inputs, *node.outer):
            if name:
                last[buffers.get(name, name)] = i
    last.update((buffers.get(name, name), len(graph.nodes)) for name in graph.outputs)
    return last


def _buffers(graph: Graph) -> dict[str, str]:
    """For tensors without bytes of their own: the tensor whose bytes they are."""
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in (*node.inputs, *node.outer):
            readers.setdefault(name, []).append(node)
    shared: dict[str, str] = {}
    for node in reversed(graph.nodes):  # what becomes an integer tensor is that tensor
        reader = readers.get(node.outputs[0], [])
        if len(reader) == 1 and node.outputs[0] not in graph.outputs:
            made = reader[0].outputs[0]
            if reader[0].op == "QuantizeLinear":
                shared[node.outputs[0]] = made
            elif reader[0].op in CLAMPS and made in shared:
                shared[node.outputs[0]] = shared[made]
    for node in graph.nodes:  # what is read from another tensor is that tensor
        out = node.outputs[0]
        view = node.op in VIEWS or (node.op == "DequantizeLinear" and out not in graph.outputs)
        if view and out not in shared and node.inputs:
            shared[out] = shared.get(node.inputs[0], node.inputs[0])
    return shared
