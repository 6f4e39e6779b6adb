from __future__ import annotations

from itertools import pairwise

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sommelier.analysis.segments.dominators import DominatorTree, single_entry_chains


def _random_dag(seed: int, nodes: int, density: float) -> list[tuple[int, int]]:
    """Edges of a DAG on 0..nodes-1 in topological order; 0 reaches all, all reach nodes - 1."""
    rng = np.random.default_rng(seed)
    edges = {(i, j) for i in range(nodes) for j in range(i + 1, nodes) if rng.random() < density}
    for i in range(1, nodes):
        edges.add((int(rng.integers(0, i)), i))
    for i in range(nodes - 1):
        edges.add((i, int(rng.integers(i + 1, nodes))))
    return sorted(edges)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 25), st.floats(0.0, 0.4))
def test_immediate_dominators_are_those_of_networkx(seed: int, nodes: int, density: float) -> None:
    edges = _random_dag(seed, nodes, density)
    before = {j: [i for i, k in edges if k == j] for j in range(nodes)}
    tree = DominatorTree.of(range(1, nodes), 0, before.__getitem__)
    graph = networkx.DiGraph(edges)
    expected = dict(networkx.immediate_dominators(graph, 0))
    expected[0] = 0
    assert tree.parent == expected
    for above in range(nodes):
        without = graph.copy()
        without.remove_node(above)
        for below in range(nodes):
            if above in (0, below):
                reached = False
            else:
                reached = below != 0 and networkx.has_path(without, 0, below)
                reached = reached or below == 0
            assert tree.dominates(above, below) == (not reached)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 18), st.floats(0.0, 0.4))
def test_chains_part_the_nodes_and_enclose_single_entry_single_exit_regions(
    seed: int, nodes: int, density: float
) -> None:
    edges = _random_dag(seed, nodes, density)
    graph = networkx.DiGraph(edges)
    inner = list(range(1, nodes - 1))
    before = {j: [i for i, k in edges if k == j] for j in range(nodes)}
    after = {i: [k for j, k in edges if j == i] for i in range(nodes)}
    chains = single_entry_chains(inner, before, after, 0, nodes - 1)
    assert sorted(v for chain in chains for v in chain) == inner
    for chain in chains:
        for a, b in pairwise(chain):
            paths = list(networkx.all_simple_paths(graph, 0, nodes - 1))
            assert all((a in path) == (b in path) for path in paths)


def test_a_long_chain_with_long_skips_takes_no_quadratic_time() -> None:
    count = 200_000
    before = {i: [i - 1, max(0, i - 1000), 0] if i > 1 else [0] for i in range(1, count)}
    tree = DominatorTree.of(range(1, count), 0, before.__getitem__)
    assert tree.parent[count - 1] == 0


@pytest.mark.parametrize("node", [5, -7])
def test_an_unreached_node_has_no_path_and_dominates_nothing(node: int) -> None:
    tree = DominatorTree.of([1], 0, lambda _: [0])
    assert tree.path_from_root(node) == []
    assert not tree.dominates(node, 1)
