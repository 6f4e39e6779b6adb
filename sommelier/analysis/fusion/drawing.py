"""An abs-graph as text, for EXPLAIN FUSION."""

from __future__ import annotations

from sommelier.analysis.fusion.abs_graph import AbsGraph, NodeId
from sommelier.units import Dimension, format_value


def drawn(graph: AbsGraph) -> str:
    """The tree, one line a run of blocks; branches are indented below what they share.

    A line tells the blocks (task.places), whose features they are, their sizes, and the adapter
    that stands before the first one.
    """
    lines = ["input"]
    for node in graph.children.get(None, ()):
        _branch(graph, node, "  ", lines)
    total = graph.capacity
    params, shared = (format_value(n, Dimension.COUNT) for n in (graph.params, total.shared))
    flops = format_value(graph.flops, Dimension.FLOPS)
    lines.append(f"{params} parameters ({shared} shared), {flops}")
    return "\n".join(lines)


def _branch(graph: AbsGraph, first: NodeId, indent: str, lines: list[str]) -> None:
    run = [first]
    while True:
        below = graph.children.get(run[-1], ())
        if len(below) != 1 or below[0] in graph.adapters or below[0].task_id != first.task_id:
            break
        run.append(below[0])
    lines.append(indent + _line(graph, run))
    for node in below:
        _branch(graph, node, indent + "  ", lines)


def _line(graph: AbsGraph, run: list[NodeId]) -> str:
    first, last = run[0], run[-1]
    places = str(first.op_id) if first == last else f"{first.op_id}-{last.op_id}"
    users = ", ".join(graph.tasks[task] for task in sorted(graph.users[first]))
    shapes = (graph.blocks[node].output_shape for node in (first, last))
    ends = " .. ".join(dict.fromkeys(_shape(shape) for shape in shapes))
    kinds = ", ".join(dict.fromkeys(graph.blocks[node].op_type for node in run))
    owner = graph.tasks[first.task_id]
    used = "" if users == owner else f" for {users}"
    return f"{owner} {places} ({kinds}) -> {ends}{used}{_adapter(graph, first)}"


def _adapter(graph: AbsGraph, node: NodeId) -> str:
    adapter = graph.adapters.get(node)
    if adapter is None:
        return ""
    sides = f"{_shape(adapter.source.shape)} as {_shape(adapter.target.shape)}"
    return f" [reads {sides}, {'folded' if adapter.folded else 'by a map of its own'}]"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
