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


@dataclass(frozen=True, slots=True)
class Branch:
    """A run of blocks, one after the other, of one model, that reads what its parent makes.

    parent : the place of the run it reads among the others, None for the models' input. users :
    the models whose answers depend on it. reads : the adapter before it, in words, '' for none.
    """

    owner: str
    blocks: str
    kinds: tuple[str, ...]
    makes: str
    users: tuple[str, ...]
    reads: str
    parent: int | None
    depth: int
    params: float
    flops: float

    @property
    def shared(self) -> bool:
        """Whether several models need it."""
        return len(self.users) > 1


def branches(graph: str) -> tuple[Branch, ...]:
    """The tree of what `as_json` made, parents before children."""
    tree = _Tree(json.loads(graph))
    found: list[Branch] = []
    for node in tree.children.get(None, ()):
        _branch(tree, node, None, found)
    return tuple(found)


def drawn(graph: AbsGraph | str) -> str:
    """The tree, one line a run of blocks; branches are indented below what they share.

    graph : or what `as_json` made of one. A line tells the blocks (task, places), whose features
    they are, their sizes, and the adapter that stands before the first one.
    """
    written = graph if isinstance(graph, str) else as_json(graph)
    lines = ["input", *(f"{'  ' * branch.depth}{_line(branch)}" for branch in branches(written))]
    whole = json.loads(written)
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


def _branch(tree: _Tree, first: Place, parent: int | None, found: list[Branch]) -> None:
    run = [first]
    while True:
        below = tree.children.get(run[-1], ())
        if len(below) != 1 or tree.nodes[below[0]]["adapter"] or below[0][0] != first[0]:
            break
        run.append(below[0])
    own = len(found)
    depth = 1 if parent is None else found[parent].depth + 1
    found.append(_run(tree, run, parent, depth))
    for node in below:
        _branch(tree, node, own, found)


def _run(tree: _Tree, run: Sequence[Place], parent: int | None, depth: int) -> Branch:
    first, last = run[0], run[-1]
    nodes = [tree.nodes[place] for place in run]
    tasks = tree.content["tasks"]
    return Branch(
        owner=tasks[first[0]],
        blocks=str(first[1]) if first == last else f"{first[1]}-{last[1]}",
        kinds=tuple(dict.fromkeys(node["kind"] for node in nodes)),
        makes=" .. ".join(dict.fromkeys(_shape(nodes[end]["makes"]) for end in (0, -1))),
        users=tuple(tasks[task] for task in sorted(tree.users[first])),
        reads=_reads(nodes[0]["adapter"]),
        parent=parent,
        depth=depth,
        params=sum(node["params"] for node in nodes),
        flops=sum(node["flops"] for node in nodes),
    )


def _line(branch: Branch) -> str:
    used = "" if branch.users == (branch.owner,) else f" for {', '.join(branch.users)}"
    reads = f" [{branch.reads}]" if branch.reads else ""
    kinds = ", ".join(branch.kinds)
    return f"{branch.owner} {branch.blocks} ({kinds}) -> {branch.makes}{used}{reads}"


def _reads(adapter: Mapping[str, Any] | None) -> str:
    if adapter is None:
        return ""
    sides = f"{_shape(adapter['reads'])} as {_shape(adapter['as'])}"
    return f"reads {sides}, {'folded' if adapter['folded'] else 'by a map of its own'}"


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
