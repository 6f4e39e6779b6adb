"""An abs-graph as plain data that is kept, and as text, for EXPLAIN FUSION. Light to import."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sommelier.units import Dimension, format_value

if TYPE_CHECKING:
    from sommelier.analysis.fusion.abs_graph import AbsGraph, Adapter

Place = tuple[int, int]  # task, place of a block in its model


def as_json(graph: AbsGraph) -> str:
    """The graph with the sizes of its blocks, as FusedModel.graph keeps it.

    nodes : parents before children; `parent` is null for what reads the models' input. `makes` :
    shape of a block's features. `adapter` : what stands before a block that reads other features
    than in its own model.
    """
    nodes = [
        {
            "task": node.task_id,
            "op": node.op_id,
            "kind": node.op_type,
            "parent": node.parent,
            "makes": node.output_shape,
            "params": node.capacity,
            "flops": node.flops,
            "adapter": _adapter(graph.adapters.get(node.id)),
        }
        for node in graph.nodes.values()
    ]
    return json.dumps(
        {
            "tasks": graph.tasks,
            "nodes": nodes,
            "params": graph.params,
            "shared": graph.capacity.shared,
            "flops": graph.flops,
        }
    )


def _adapter(adapter: Adapter | None) -> dict[str, Any] | None:
    if adapter is None:
        return None
    reads, as_ = adapter.source.shape, adapter.target.shape
    return {"reads": reads, "as": as_, "folded": adapter.folded, "params": adapter.capacity}


def drawn(graph: AbsGraph | str) -> str:
    """The tree, one line a run of blocks; branches are indented below what they share.

    graph : or what `as_json` made of one. A line tells the blocks (task, places), whose features
    they are, their sizes, and the adapter that stands before the first one.
    """
    tree = _Tree(json.loads(graph if isinstance(graph, str) else as_json(graph)))
    lines = ["input"]
    for node in tree.children.get(None, ()):
        _branch(tree, node, "  ", lines)
    whole = tree.content
    params, shared = (format_value(whole[name], Dimension.COUNT) for name in ("params", "shared"))
    flops = format_value(whole["flops"], Dimension.FLOPS)
    lines.append(f"{params} parameters ({shared} shared), {flops}")
    return "\n".join(lines)


@dataclass(frozen=True)
class _Tree:
    """What `as_json` wrote. nodes : by place."""

    content: Mapping[str, Any]

    @cached_property
    def nodes(self) -> Mapping[Place, Mapping[str, Any]]:
        return {(node["task"], node["op"]): node for node in self.content["nodes"]}

    @cached_property
    def children(self) -> Mapping[Place | None, Sequence[Place]]:
        found: defaultdict[Place | None, list[Place]] = defaultdict(list)
        for place in sorted(self.nodes):
            parent = self.nodes[place]["parent"]
            found[None if parent is None else (parent[0], parent[1])].append(place)
        return dict(found)

    @cached_property
    def users(self) -> Mapping[Place, set[int]]:
        """By block, the tasks whose last block depends on it."""
        last = {task: (task, op) for task, op in sorted(self.nodes)}
        found: defaultdict[Place, set[int]] = defaultdict(set)
        for task, head in last.items():
            place: Place | None = head
            while place is not None:
                found[place].add(task)
                parent = self.nodes[place]["parent"]
                place = None if parent is None else (parent[0], parent[1])
        return found


def _branch(tree: _Tree, first: Place, indent: str, lines: list[str]) -> None:
    run = [first]
    while True:
        below = tree.children.get(run[-1], ())
        if len(below) != 1 or tree.nodes[below[0]]["adapter"] or below[0][0] != first[0]:
            break
        run.append(below[0])
    lines.append(indent + _line(tree, run))
    for node in below:
        _branch(tree, node, indent + "  ", lines)


def _line(tree: _Tree, run: Sequence[Place]) -> str:
    first, last = run[0], run[-1]
    tasks = tree.content["tasks"]
    places = str(first[1]) if first == last else f"{first[1]}-{last[1]}"
    users = ", ".join(tasks[task] for task in sorted(tree.users[first]))
    shapes = (tree.nodes[place]["makes"] for place in (first, last))
    ends = " .. ".join(dict.fromkeys(_shape(shape) for shape in shapes))
    kinds = ", ".join(dict.fromkeys(tree.nodes[place]["kind"] for place in run))
    owner = tasks[first[0]]
    used = "" if users == owner else f" for {users}"
    return f"{owner} {places} ({kinds}) -> {ends}{used}{_reads(tree.nodes[first]['adapter'])}"


def _reads(adapter: Mapping[str, Any] | None) -> str:
    if adapter is None:
        return ""
    sides = f"{_shape(adapter['reads'])} as {_shape(adapter['as'])}"
    return f" [reads {sides}, {'folded' if adapter['folded'] else 'by a map of its own'}]"


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
