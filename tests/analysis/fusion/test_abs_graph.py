"""Abs-graphs: pairs by counting, mutations against the definition, random sequences of them."""

from __future__ import annotations

import json
import random

import pytest

from sommelier.analysis.fusion import (
    AbsGraph,
    Block,
    Blocks,
    Features,
    MutationKind,
    NodeId,
    Pair,
    as_json,
    drawn,
)
from sommelier.errors import AnalysisError
from tests.analysis.fusion.models import in_blocks


def _graph(family: str) -> AbsGraph:
    return AbsGraph.original(in_blocks(family))


def _id(text: str) -> NodeId:
    task, place = text.split(".")
    return NodeId(int(task), int(place))


def _pair(host: str, guest: str) -> Pair:
    return Pair(_id(host), _id(guest))


def _depends(graph: AbsGraph, node: NodeId) -> set[NodeId]:
    """A block with all it depends on, followed edge by edge."""
    found = set()
    current: NodeId | None = node
    while current is not None:
        assert current not in found, "a cycle"
        found.add(current)
        current = graph.parents[current]
    return found


def test_the_three_digit_nets_have_159_valid_pairs_of_which_63_are_similar() -> None:
    graph = _graph("digits")
    valid, similar = (graph.input_shareable_pairs(similar=s) for s in (False, True))
    assert (len(valid), len(similar)) == (159, 63)
    assert sum(graph.kind(pair) == MutationKind.IN_BRANCH for pair in similar) == 9
    assert all(pair.host.op_id > 0 for pair in valid)
    assert set(similar) <= set(valid)


def test_pairs_are_exactly_those_of_the_definition() -> None:
    graph = _graph("digits").mutate(_pair("0.2", "1.2"))
    nodes, found = list(graph.nodes), set(graph.input_shareable_pairs(similar=False))
    for n in nodes:
        for m in nodes:
            reads, takes = graph.reads(n).shape, graph.blocks[m].input_shape
            valid = (
                graph.parents[n] is not None
                and graph.parents[n] != graph.parents[m]
                and m not in _depends(graph, n)
                and len(reads) == len(takes)
            )
            assert (Pair(n, m) in found) == valid
    for pair in graph.input_shareable_pairs():
        shapes = zip(
            graph.reads(pair.host).shape, graph.blocks[pair.guest].input_shape, strict=True
        )
        assert any(a == b for a, b in shapes)


def test_the_five_mutations_of_the_paper_are_one_step() -> None:
    graph = _graph("digits")
    cases = {
        _pair("0.1", "0.3"): (MutationKind.IN_BRANCH, {"0.1", "0.2"}),
        _pair("0.2", "1.2"): (MutationKind.LEFT_HOST, {"1.0", "1.1"}),
        _pair("1.2", "0.2"): (MutationKind.RIGHT_HOST, {"0.0", "0.1"}),
        _pair("0.1", "1.3"): (MutationKind.LEFT_HOST_SHORTER, {"1.0", "1.1", "1.2"}),
        _pair("2.1", "1.3"): (MutationKind.RIGHT_HOST_SHORTER, {"1.0", "1.1", "1.2"}),
    }
    for pair, (kind, gone) in cases.items():
        made = graph.mutate(pair)
        assert graph.kind(pair) == kind
        assert {str(n) for n in set(graph.parents) - set(made.parents)} == gone
        assert made.parents[pair.guest] == graph.parents[pair.host]
        assert pair.guest in made.children[graph.parents[pair.host]]
    assert graph == _graph("digits")


def test_guest_blocks_that_another_task_needs_stay() -> None:
    shared = _graph("digits").mutate(_pair("0.2", "1.2"))  # task 1 uses blocks 0 and 1 of task 0
    made = shared.mutate(_pair("2.1", "0.2"))  # task 0 leaves them for task 2's first block
    assert {NodeId(0, 0), NodeId(0, 1)} <= set(made.parents)
    assert made.users[NodeId(0, 1)] == {1}


@pytest.mark.parametrize("family", ["digits", "vgg", "cnn", "vit", "bert"])
def test_random_sequences_of_mutations_keep_a_valid_tree(family: str) -> None:
    original = _graph(family)
    for seed in range(40):
        rng, graph = random.Random(seed), original
        for _ in range(rng.randrange(1, 12)):
            pairs = graph.input_shareable_pairs(similar=rng.random() < 0.7)
            if not pairs:
                break
            pair = rng.choice(pairs)
            before, graph = graph, graph.mutate(pair)
            _check_tree(graph, original)
            assert set(graph.parents) <= set(before.parents)
            assert graph.capacity.total <= before.capacity.total
            assert graph.with_edges(graph.edges()) == graph


def _check_tree(graph: AbsGraph, original: AbsGraph) -> None:
    """Heads reachable, nothing else alive, shapes that fit with the adapters there are."""
    alive = set().union(*(_depends(graph, head) for head in graph.heads))
    assert alive == set(graph.parents) == set(graph.nodes)
    assert graph.heads == original.heads
    for node, parent in graph.parents.items():
        reads, takes = graph.reads(node), graph.blocks[node].takes
        at_home = parent is None or (parent.task_id, parent.op_id + 1) == tuple(node)
        adapter = graph.adapters.get(node)
        assert (adapter is None) == at_home
        assert parent is None or reads.shape == graph.blocks[parent].output_shape
        if adapter is None:
            assert reads.shape == takes.shape
        else:
            assert (adapter.source, adapter.target) == (reads, takes)
            assert len(reads.shape) == len(takes.shape)


def test_capacity_is_counted_by_who_uses_a_block() -> None:
    graph = _graph("digits").mutate(_pair("0.3", "1.3")).mutate(_pair("0.1", "2.1"))
    sizes = {node: graph.blocks[node].capacity for node in graph.parents}
    used = [_depends(graph, head) for head in graph.heads]
    found = graph.capacity
    assert found.total == sum(sizes.values())
    assert found.per_task == tuple(sum(sizes[n] for n in nodes) for nodes in used)
    several = [n for n in sizes if sum(n in nodes for nodes in used) > 1]
    assert found.shared == sum(sizes[n] for n in several)
    assert found.total == found.shared + sum(found.specific)


def test_sharing_more_is_more_aggressive_in_all_four_ways() -> None:
    graph = _graph("digits")
    less, more = graph.mutate(_pair("1.1", "0.1")), graph.mutate(_pair("1.3", "0.3"))
    larger, other = graph.mutate(_pair("0.3", "1.3")), graph.mutate(_pair("0.3", "0.4"))
    assert more.capacity.more_aggressive(less.capacity)
    assert not less.capacity.more_aggressive(more.capacity)
    assert not less.capacity.more_aggressive(less.capacity)
    assert not other.capacity.more_aggressive(less.capacity)  # it shares nothing
    assert not larger.capacity.more_aggressive(less.capacity)  # task 1 uses larger blocks


def test_the_order_of_independent_mutations_does_not_matter() -> None:
    graph = _graph("digits")
    first, second = _pair("0.2", "1.2"), _pair("0.1", "2.1")
    one, two = graph.mutate(first).mutate(second), graph.mutate(second).mutate(first)
    assert one == two
    assert one.signature == two.signature
    assert len({one, two, graph}) == 2


def test_a_pass_leaves_out_pairs_that_became_impossible() -> None:
    graph = _graph("digits")
    pairs = [_pair("0.2", "1.2"), _pair("1.1", "2.1"), _pair("0.1", "2.1")]
    made, applied = graph.mutation_pass(pairs)
    assert applied == (pairs[0], pairs[2])  # block 1.1 is gone after the first
    assert made == graph.mutate(pairs[0]).mutate(pairs[2])


@pytest.mark.parametrize(
    ("host", "guest", "reason"),
    [
        ("0.3", "0.1", "depends on"),
        ("0.0", "1.2", "reads the models' input"),
        ("0.2", "0.2", "the same features already"),
        ("0.2", "1.9", "not in the graph"),
    ],
)
def test_pairs_that_are_not_valid_are_refused(host: str, guest: str, reason: str) -> None:
    with pytest.raises(AnalysisError, match=reason):
        _graph("digits").mutate(_pair(host, guest))


def test_the_shape_dictionary_tells_which_blocks_take_which_features() -> None:
    graph = _graph("digits")
    assert {str(n) for n in graph.shapes[(24, 16, 16)]} == {"0.1"}
    assert {str(n) for n in graph.shapes[(1, 16, 16)]} == {"0.0", "1.0", "2.0"}
    assert sum(map(len, graph.shapes.values())) == len(graph.nodes) == 16


def test_models_of_other_inputs_are_refused() -> None:
    models = {"digit": in_blocks("digits")["digit0"], "vgg": in_blocks("vgg")["a"]}
    with pytest.raises(AnalysisError, match=r"'vgg' takes float32\[3, 16, 16\]"):
        AbsGraph.original(models)


def test_vectors_maps_and_tokens_are_not_exchanged() -> None:
    graph = AbsGraph.original(
        {"vit": in_blocks("vit")["a"], "vgg": in_blocks("vgg")["b"]}
    )  # patches and maps
    for pair in graph.input_shareable_pairs(similar=False):
        reads, takes = graph.reads(pair.host), graph.blocks[pair.guest].takes
        assert len(reads.shape) == len(takes.shape)
        assert reads.channel_axis == takes.channel_axis


def test_edges_of_another_forest_are_refused() -> None:
    graph = _graph("digits")
    edges = [edge for edge in graph.edges() if edge[:2] != [0, 1]]
    with pytest.raises(AnalysisError, match="not a tree"):
        graph.with_edges(edges)


def test_a_graph_is_drawn_as_a_tree() -> None:
    graph = _graph("digits").mutate(_pair("0.2", "1.3"))
    assert drawn(_graph("digits")).count("\n") == 4
    assert drawn(graph).splitlines() == [
        "input",
        "  digit0 0-1 (Conv) -> 24x16x16 .. 24x8x8 for digit0, digit1",
        "    digit0 2-5 (Conv, Head) -> 48x8x8 .. 10",
        "    digit1 3-5 (Conv, Head) -> 32x4x4 .. 2 [reads 24x8x8 as 32x8x8, folded]",
        "  digit2 0-3 (Conv, Head) -> 24x8x8 .. 2",
        "107K parameters (5.45K shared), 10.4 MFLOPs",
    ]


def test_a_graph_that_was_kept_as_json_is_drawn_as_before() -> None:
    graph = _graph("digits").mutate(_pair("0.2", "1.3")).mutate(_pair("0.1", "0.3"))
    content = json.loads(as_json(graph))
    assert drawn(as_json(graph)) == drawn(graph)
    assert content["tasks"] == list(graph.tasks)
    adapters = sum(n["adapter"]["params"] for n in content["nodes"] if n["adapter"])
    assert sum(n["params"] for n in content["nodes"]) + adapters == graph.params
    met: set[tuple[int, int]] = set()
    for node in content["nodes"]:
        assert node["parent"] is None or tuple(node["parent"]) in met
        met.add((node["task"], node["op"]))


def test_features_are_similar_when_one_dimension_is_the_same() -> None:
    a = Features((16, 8, 8), 0)
    assert a.similar(Features((16, 4, 4), 0))
    assert a.similar(Features((32, 8, 4), 0))
    assert not a.similar(Features((8, 16, 16), 0))
    assert not a.convertible(Features((64, 16), 1))
    assert not a.convertible(Features((16, 8, 8), None))


def test_a_block_alone_is_a_graph_without_pairs() -> None:
    features = Features((4,), 0)
    block = Block(0, "Head", "x", "", (0,), features, Features((2,), None), 10, 16.0)
    models = {
        task: Blocks(None, None, (block,), (), {"x": (1, (4,))}, ("y",))  # type: ignore[arg-type]  # sizes only
        for task in ("a", "b")
    }
    graph = AbsGraph.original(models)
    assert graph.input_shareable_pairs(similar=False) == ()
    assert graph.flops == 32.0
