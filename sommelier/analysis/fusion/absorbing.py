"""Which operators of a block can take a map of its entry's channels into their weights (F.3).

A channel map S before a block and the block's first linear operators W become W' = W o S, when all
that reads the entry is such an operator, or moves and averages positions and then meets one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sommelier.analysis.fusion.batch_axis import Factor, moved_axis, regrouped
from sommelier.analysis.fusion.blocks import Absorber, Features
from sommelier.analysis.fusion.preparing import is_weight
from sommelier.analysis.graph import Graph, Node
from sommelier.analysis.segments.canonical import RESHAPES

KEEPS_CHANNELS = frozenset(
    {"GlobalAveragePool", "AveragePool", "ReduceMean", "ReduceSum", "Transpose", "Slice", "Pad",
     "Gather"}
) | RESHAPES  # fmt: skip
"""Operators that are the same linear map for every channel when they leave their axis alone."""

KEEPS_SHIFTS = (
    frozenset({"GlobalAveragePool", "ReduceMean", "Transpose", "Slice", "Gather"}) | RESHAPES
)
"""Those that hand on a shift of a channel as it is."""


def absorbers(
    graph: Graph, nodes: Sequence[int], entry: str, features: Features
) -> tuple[Absorber, ...]:
    """The operators that read the entry; () when one of its readers cannot take the map."""
    if features.channel_axis is None:
        return ()
    inside = [(i, graph.nodes[i]) for i in nodes]
    found: list[Absorber] = []
    start = _Way(entry, Factor(features.channel_axis + 1, 1), True, ())
    waiting = [start]
    while waiting:
        way = waiting.pop()
        for i, node in inside:
            if way.name not in node.inputs:
                continue
            if node.op in KEEPS_CHANNELS and node.inputs[0] == way.name:
                longer = _along(node, graph, way, features.channels)
                if longer is None:
                    return ()
                waiting.append(longer)
                continue
            taking = _absorber(i, node, graph, way, features.channels)
            if taking is None:
                return ()
            found.append(taking)
    weights = [a.weight for a in found]
    read = [name for _, node in inside for name in node.inputs if name in weights]
    return tuple(found) if len(set(weights)) == len(read) else ()


@dataclass(frozen=True, slots=True)
class _Way:
    """From the entry to a tensor. shifts : a shift of a channel arrives as it is. targets : lengths
    in targets of Reshape that count the channels."""

    name: str
    factor: Factor
    shifts: bool
    targets: tuple[tuple[str, int], ...]


def _along(node: Node, graph: Graph, way: _Way, channels: int) -> _Way | None:
    """The way past an operator that works alike on all channels; None if it does not."""
    source, made = graph.tensor(node.inputs[0]).shape, graph.tensor(node.outputs[0]).shape
    if source is None or made is None or None in source or None in made:
        return None
    sides, after = [d or 1 for d in source], [d or 1 for d in made]
    factor, targets = _place(node, graph, way.factor, channels, sides, after), way.targets
    if factor is None:
        return None
    if node.op == "Reshape":
        target = graph.weights.get(node.inputs[1])
        if target is None:
            return None
        if graph.values[node.inputs[1]][factor.axis] > 0:
            targets = (*targets, (node.inputs[1], factor.axis))
    return _Way(node.outputs[0], factor, way.shifts and node.op in KEEPS_SHIFTS, targets)


def _place(
    node: Node, graph: Graph, factor: Factor, channels: int, sides: list[int], after: list[int]
) -> Factor | None:
    """Where the channels are after the operator."""
    if node.op in RESHAPES:
        return regrouped(factor, channels, sides, after)
    if "Pool" in node.op:
        return factor if factor.axis == 1 else None
    if node.op == "Pad" and node.attributes.get("mode", "constant") != "constant":
        return None
    axis = moved_axis(node, graph, factor.axis, len(sides))
    if axis is None or axis >= len(after) or after[axis] != sides[factor.axis]:
        return None
    return Factor(axis, factor.before)


def _absorber(i: int, node: Node, graph: Graph, way: _Way, channels: int) -> Absorber | None:
    if node.domain or len(node.inputs) < 2 or node.inputs[0] != way.name:
        return None
    weight, source, factor = node.inputs[1], graph.tensor(way.name).shape or (), way.factor
    shape = graph.tensor(weight).shape or ()
    if not is_weight(graph, weight):
        return None
    if node.op == "Conv" and factor.axis == 1 and int(node.attributes.get("group", 1)) == 1:
        axis = 1
    elif node.op == "MatMul" and len(shape) == 2 and factor.axis == len(source) - 1:
        axis = 0
    elif node.op == "Gemm" and factor.axis == 1 and not node.attributes.get("transA", 0):
        axis = 1 if node.attributes.get("transB", 0) else 0
    else:
        return None
    length = shape[axis] or 0
    after = length // (factor.before * channels)
    bias = _bias(node, graph) if way.shifts else None
    return Absorber(i, weight, bias, axis, factor.before, after, way.targets)


def _bias(node: Node, graph: Graph) -> str | None:
    """The bias that can take a shift of what the operator reads."""
    if len(node.inputs) < 3 or not is_weight(graph, node.inputs[2]):
        return None
    if node.op == "Gemm":
        plain = all(float(node.attributes.get(key, 1.0)) == 1.0 for key in ("alpha", "beta"))
        return (
            node.inputs[2] if plain and len(graph.tensor(node.inputs[2]).shape or ()) == 1 else None
        )
    padded = any(node.attributes.get("pads") or ()) or str(
        node.attributes.get("auto_pad", "NOTSET")
    ).startswith("SAME")
    return None if padded else node.inputs[2]
