"""Dominators of an acyclic graph in one pass, and what they say about single entries and exits.

Cooper, Harvey and Kennedy, "A simple, fast dominance algorithm" (2001): on nodes in topological
order one pass suffices. Their walk to the common dominator is made by jump pointers, so that a
hostile graph costs O(edges log nodes) and not O(nodes squared).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

Edges = Callable[[int], Iterable[int]]


class DominatorTree:
    """Immediate dominators of the nodes that `root` reaches; grown in topological order."""

    def __init__(self, root: int) -> None:
        self.root = root
        self.parent: dict[int, int] = {root: root}
        self._depth: dict[int, int] = {root: 0}
        self._jump: dict[int, int] = {root: root}

    @classmethod
    def of(cls, order: Sequence[int], root: int, predecessors: Edges) -> DominatorTree:
        """The tree of `order`, which is topological and leaves out the root."""
        tree = cls(root)
        for node in order:
            known = [p for p in predecessors(node) if p in tree.parent]
            if known:
                tree._add(node, tree.common(known))
        return tree

    def common(self, nodes: Sequence[int]) -> int:
        """The lowest node that dominates all of them."""
        found = nodes[0]
        for node in nodes[1:]:
            found = self._meet(found, node)
        return found

    def dominates(self, above: int, below: int) -> bool:
        """Whether every path from the root to `below` passes `above`; a node dominates itself."""
        if above not in self.parent or below not in self.parent:
            return False
        return self._ancestor(below, self._depth[above]) == above

    def path_from_root(self, node: int) -> list[int]:
        """The dominators of `node`, the root first, the node itself last; [] if not reached."""
        if node not in self.parent:
            return []
        path = [node]
        while path[-1] != self.root:
            path.append(self.parent[path[-1]])
        return path[::-1]

    def _add(self, node: int, parent: int) -> None:
        jump, depth = self._jump, self._depth
        self.parent[node] = parent
        depth[node] = depth[parent] + 1
        above = jump[parent]
        even = depth[parent] - depth[above] == depth[above] - depth[jump[above]]
        jump[node] = jump[above] if even else parent

    def _ancestor(self, node: int, depth: int) -> int:
        while self._depth[node] > depth:
            far = self._jump[node]
            node = far if self._depth[far] >= depth else self.parent[node]
        return node

    def _meet(self, a: int, b: int) -> int:
        depth = min(self._depth[a], self._depth[b])
        a, b = self._ancestor(a, depth), self._ancestor(b, depth)
        while a != b:
            if self._jump[a] != self._jump[b]:
                a, b = self._jump[a], self._jump[b]
            else:
                a, b = self.parent[a], self.parent[b]
        return a


def single_entry_chains(
    nodes: Sequence[int],
    predecessors: Mapping[int, Sequence[int]],
    successors: Mapping[int, Sequence[int]],
    source: int,
    sink: int,
) -> list[list[int]]:
    """Chains v0, v1, ... where v0 is on every path to v1 and v1 on every path from v0, and so on.

    Between neighbours of a chain lies a region with one entry and one exit. Every node is in
    exactly one chain; chains come in order of their first nodes. nodes : in topological order;
    edges to `source` and `sink` are part of the maps.
    """
    order = list(nodes)
    before = DominatorTree.of([*order, sink], source, lambda v: predecessors.get(v, ()))
    after = DominatorTree.of(order[::-1], sink, lambda v: successors.get(v, ()))
    following: dict[int, int] = {}
    for node in order:
        target = after.parent.get(node, sink)
        if target != sink and before.dominates(node, target):
            following[node] = target
    heads = set(order) - set(following.values())
    chains = []
    for node in order:
        if node in heads:
            chain = [node]
            while chain[-1] in following:
                chain.append(following[chain[-1]])
            chains.append(chain)
    return chains
