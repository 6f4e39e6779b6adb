"""Abs-graphs: several models as one tree of blocks, and the mutations that let them share features.

One step is enough for all five mutations of the paper: the guest block m reads what the host block
n reads, and blocks that no head depends on any more are gone. Source: GMorph 4.1 to 4.3, with the
corrections of algorithms.md F.2 (guest blocks that another task still needs stay).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from sommelier.analysis.fusion.blocks import Block, Blocks, Features, OpType
from sommelier.analysis.fusion.inputs import shared_inputs
from sommelier.analysis.fusion.rescale import cost_of
from sommelier.errors import AnalysisError


class NodeId(NamedTuple):
    """A block by the task it comes from and its place there."""

    task_id: int
    op_id: int

    def __str__(self) -> str:
        return f"{self.task_id}.{self.op_id}"


class Pair(NamedTuple):
    """(n, m): the guest m is to read the input features of the host n."""

    host: NodeId
    guest: NodeId


class MutationKind(StrEnum):
    """The paper's five mutations (Figure 5): 1 in-branch, 2 to 5 cross-branch.

    The host's task is the left one in 2 and 4, the right one in 3 and 5; in 4 and 5 the guest's
    task loses blocks (m.op_id > n.op_id).
    """

    IN_BRANCH = "in-branch"
    LEFT_HOST = "cross-branch, left host"
    RIGHT_HOST = "cross-branch, right host"
    LEFT_HOST_SHORTER = "cross-branch, left host, shorter guest"
    RIGHT_HOST_SHORTER = "cross-branch, right host, shorter guest"


@dataclass(frozen=True, slots=True)
class AbsNode:
    """A block in the tree. input_shape : of the features it was made for, which an adapter makes
    of what its parent gives. capacity and flops : of the block without adapters.

    parent : None when it reads the models' input. children : in order.
    """

    task_id: int
    op_id: int
    op_type: OpType
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    capacity: int
    flops: float
    parent: NodeId | None
    children: tuple[NodeId, ...]

    @property
    def id(self) -> NodeId:
        return NodeId(self.task_id, self.op_id)


@dataclass(frozen=True, slots=True)
class Adapter:
    """What a block needs before it to read the features of another parent than its own.

    resized : sides differ. folded : the map of channels is taken into the block's first operators.
    capacity, flops : what the block and its adapter have more than the block alone; negative when
    it is folded and the host has fewer channels.
    """

    source: Features
    target: Features
    folded: bool
    capacity: int
    flops: float

    @property
    def resized(self) -> bool:
        return self.source.sides != self.target.sides


@dataclass(frozen=True, slots=True)
class Capacity:
    """Numbers of weights of blocks, adapters left out. per_task : of all blocks a task uses.

    specific : of those that only that task uses. shared : of those that several use.
    """

    total: int
    per_task: tuple[int, ...]
    specific: tuple[int, ...]
    shared: int

    def more_aggressive(self, other: Capacity) -> bool:
        """Whether this one shares more: less in total, for no task more in all or of its own, and
        no less shared (GMorph 5.1, all four conditions)."""
        return (
            self.total < other.total
            and all(a <= b for a, b in zip(self.per_task, other.per_task, strict=True))
            and all(a <= b for a, b in zip(self.specific, other.specific, strict=True))
            and self.shared >= other.shared
        )


@dataclass(frozen=True, eq=False)
class AbsGraph:
    """A tree of blocks, never changed. tasks : names, by task id. blocks : those of the original
    models. parents : of every block that is left; None stands for the models' input.

    Graphs with equal signatures are equal.
    """

    tasks: tuple[str, ...]
    blocks: Mapping[NodeId, Block] = field(repr=False)
    parents: Mapping[NodeId, NodeId | None]

    @classmethod
    def original(cls, models: Mapping[str, Blocks]) -> AbsGraph:
        """The models side by side, nothing shared. models : task -> its model in blocks.

        Raises AnalysisError when their inputs differ. Equal preprocessing is the caller's to see.
        """
        shared_inputs(models)
        blocks = {
            NodeId(task, block.op_id): block
            for task, whole in enumerate(models.values())
            for block in whole.blocks
        }
        parents = {n: NodeId(n.task_id, n.op_id - 1) if n.op_id else None for n in blocks}
        return cls(tuple(models), blocks, parents)

    @cached_property
    def heads(self) -> tuple[NodeId, ...]:
        """The last block of every task; mutations leave them all."""
        last: dict[int, int] = {}
        for node in self.blocks:
            last[node.task_id] = max(node.op_id, last.get(node.task_id, 0))
        return tuple(NodeId(task, last[task]) for task in range(len(self.tasks)))

    @cached_property
    def children(self) -> Mapping[NodeId | None, tuple[NodeId, ...]]:
        """By parent, in order of tasks and places; those of None read the models' input."""
        found: defaultdict[NodeId | None, list[NodeId]] = defaultdict(list)
        for node in sorted(self.parents):
            found[self.parents[node]].append(node)
        return {parent: tuple(below) for parent, below in found.items()}

    @cached_property
    def nodes(self) -> Mapping[NodeId, AbsNode]:
        """All blocks that are left, parents before children, one branch after the other: so, run in
        this order, the fewest features are alive at once."""
        found = {}
        waiting = list(self.children.get(None, ()))
        while waiting:
            node = waiting.pop(0)
            block, below = self.blocks[node], self.children.get(node, ())
            found[node] = AbsNode(
                *node, block.op_type, block.input_shape, block.output_shape, block.capacity,
                block.flops, self.parents[node], below,
            )  # fmt: skip
            waiting[:0] = below
        return found

    @cached_property
    def shapes(self) -> Mapping[tuple[int, ...], tuple[NodeId, ...]]:
        """The shape dictionary: by shape of features, the blocks made for them."""
        found: defaultdict[tuple[int, ...], list[NodeId]] = defaultdict(list)
        for node in self.nodes.values():
            found[node.input_shape].append(node.id)
        return {shape: tuple(nodes) for shape, nodes in found.items()}

    @cached_property
    def signature(self) -> str:
        """Equal for equal trees of equal blocks."""
        edges = [
            (*n, self.parents[n], self.blocks[n].op_type, self.blocks[n].nodes)
            for n in sorted(self.parents)
        ]
        return hashlib.blake2b(repr((self.tasks, edges)).encode(), digest_size=12).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AbsGraph) and self.signature == other.signature

    def __hash__(self) -> int:
        return hash(self.signature)

    def ancestors(self, node: NodeId) -> tuple[NodeId, ...]:
        """The blocks before it, the nearest first."""
        found = []
        parent = self.parents[node]
        while parent is not None:
            found.append(parent)
            parent = self.parents[parent]
        return tuple(found)

    def reads(self, node: NodeId) -> Features:
        """The features its parent gives it; of the models' input for a first block."""
        parent = self.parents[node]
        return self.blocks[node].takes if parent is None else self.blocks[parent].makes

    def input_shareable_pairs(self, *, similar: bool = True) -> tuple[Pair, ...]:
        """All valid pairs, in order. similar : only those with at least one equal dimension."""
        nodes = sorted(self.parents)
        pairs = (Pair(n, m) for n in nodes for m in nodes if self._problem(n, m) is None)
        return tuple(p for p in pairs if not similar or self._similar(p))

    def mutate(self, pair: Pair) -> AbsGraph:
        """The graph in which the pair's guest reads what its host reads.

        Raises AnalysisError for a pair that is not valid.
        """
        problem = self._problem(*pair)
        if problem is not None:
            raise AnalysisError(
                f"block {pair.guest} cannot read the input of block {pair.host}: {problem}",
                hint="choose one of input_shareable_pairs(similar=False)",
            )
        parents = {**self.parents, pair.guest: self.parents[pair.host]}
        alive: set[NodeId] = set()
        for head in self.heads:
            node: NodeId | None = head
            while node is not None and node not in alive:
                alive.add(node)
                node = parents[node]
        kept = {node: parent for node, parent in parents.items() if node in alive}
        return AbsGraph(self.tasks, self.blocks, kept)

    def mutation_pass(self, pairs: Sequence[Pair]) -> tuple[AbsGraph, tuple[Pair, ...]]:
        """(graph, applied): the pairs one after the other, without those that earlier ones made
        impossible (GMorph 4.3.3)."""
        graph, applied = self, []
        for pair in pairs:
            if graph._problem(*pair) is None:
                graph = graph.mutate(pair)
                applied.append(pair)
        return graph, tuple(applied)

    def kind(self, pair: Pair) -> MutationKind:
        """Which of the paper's mutations the pair is. In-branch: the host is before the guest."""
        n, m = pair
        if n in self.ancestors(m):
            return MutationKind.IN_BRANCH
        left, shorter = n.task_id <= m.task_id, m.op_id > n.op_id
        if shorter:
            return MutationKind.LEFT_HOST_SHORTER if left else MutationKind.RIGHT_HOST_SHORTER
        return MutationKind.LEFT_HOST if left else MutationKind.RIGHT_HOST

    def adapter(self, node: NodeId) -> Adapter | None:
        """What stands before a block; None where it reads what it read in its own model."""
        parent = self.parents[node]
        if parent is None or parent == NodeId(node.task_id, node.op_id - 1):
            return None
        block, source = self.blocks[node], self.blocks[parent].makes
        folded = bool(block.absorbers)
        weights, flops = cost_of(source, block.takes, folded=folded)
        if folded:
            share = source.channels / block.takes.channels - 1
            weights += round(share * block.entry_capacity)
            flops += share * block.entry_flops
        return Adapter(source, block.takes, folded, weights, flops)

    @cached_property
    def adapters(self) -> Mapping[NodeId, Adapter]:
        """Of all blocks that need one."""
        found = {node: self.adapter(node) for node in self.parents}
        return {node: adapter for node, adapter in found.items() if adapter is not None}

    @cached_property
    def flops(self) -> float:
        """2 x MACs of one sample, adapters included."""
        blocks = sum(self.blocks[node].flops for node in self.parents)
        return blocks + sum(adapter.flops for adapter in self.adapters.values())

    @cached_property
    def params(self) -> int:
        """Stored weights, adapters included."""
        return self.capacity.total + sum(adapter.capacity for adapter in self.adapters.values())

    @cached_property
    def users(self) -> Mapping[NodeId, frozenset[int]]:
        """By block, the tasks whose heads depend on it."""
        found: defaultdict[NodeId, set[int]] = defaultdict(set)
        for head in self.heads:
            for node in (head, *self.ancestors(head)):
                found[node].add(head.task_id)
        return {node: frozenset(tasks) for node, tasks in found.items()}

    @cached_property
    def capacity(self) -> Capacity:
        """Weights of blocks: in total, per task, task-specific and shared."""

        def weights(nodes: Iterable[NodeId]) -> int:
            return sum(self.blocks[node].capacity for node in nodes)

        tasks = range(len(self.tasks))
        return Capacity(
            weights(self.users),
            tuple(weights(n for n, used in self.users.items() if t in used) for t in tasks),
            tuple(weights(n for n, used in self.users.items() if used == {t}) for t in tasks),
            weights(n for n, used in self.users.items() if len(used) > 1),
        )

    def edges(self) -> list[list[int]]:
        """The tree as plain numbers: [task, op, parent's task, parent's op], the parent -1, -1 for
        the models' input. `with_edges` brings it back."""
        return [[*n, *(self.parents[n] or (-1, -1))] for n in sorted(self.parents)]

    def with_edges(self, edges: Iterable[Sequence[int]]) -> AbsGraph:
        """Another tree of the same blocks, as `edges` gave it."""
        parents = {NodeId(t, o): None if p < 0 else NodeId(p, q) for t, o, p, q in edges}
        graph = AbsGraph(self.tasks, self.blocks, parents)
        known = set(parents) <= set(self.blocks) and set(graph.heads) <= set(parents)
        if not known or set(graph.nodes) != set(parents):
            raise AnalysisError("these edges are not a tree of these models' blocks")
        return graph

    def _problem(self, n: NodeId, m: NodeId) -> str | None:
        """Why m cannot read the input of n; None when it can."""
        if n not in self.parents or m not in self.parents:
            return "one of them is not in the graph"
        if self.parents[n] == self.parents[m]:
            return "they read the same features already"
        if self.parents[n] is None:
            return f"{n} reads the models' input"
        if m in self.ancestors(n):
            return f"{n} depends on {m}"
        takes = self.blocks[m].takes
        if not self.reads(n).convertible(takes):
            return f"features {list(self.reads(n).shape)} cannot become {list(takes.shape)}"
        return None

    def _similar(self, pair: Pair) -> bool:
        return self.reads(pair.host).similar(self.blocks[pair.guest].takes)
