"""What a model costs, read from its graph: weights, FLOPs, activation memory, and where they go.

Nothing is executed. What cannot be computed is None and named in `unknown`; it is never 0.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.flops import has_macs, node_flops
from sommelier.analysis.graph import Graph, Node, Weight
from sommelier.analysis.liveness import VIEWS, activation_memory
from sommelier.analysis.tracing import chosen_branch, trace, trip_count

if TYPE_CHECKING:
    from onnx import ModelProto

FAMILIES = ("convolution", "depthwise", "matrix", "elementwise", "reduction", "movement")
DEPTH_BINS = 4
PROFILE_DIMS = 2 * len(FAMILIES) * DEPTH_BINS

_CONVOLUTIONS = frozenset(
    {"Conv", "ConvInteger", "ConvTranspose", "DeformConv", "FusedConv", "NhwcFusedConv",
     "QLinearConv"}
)  # fmt: skip
_REDUCTIONS = frozenset(
    {
        "AveragePool", "MaxPool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool",
        "QLinearAveragePool", "QLinearGlobalAveragePool", "NhwcMaxPool", "Softmax", "LogSoftmax",
        "QLinearSoftmax", "BiasSoftmax", "ArgMax", "ArgMin", "TopK", "LRN", "CumSum",
        "BatchNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization",
        "RMSNormalization", "LpNormalization", "MeanVarianceNormalization",
        "SkipLayerNormalization", "SimplifiedLayerNormalization", "NonMaxSuppression",
        "SkipSimplifiedLayerNormalization", "EmbedLayerNormalization", "RoiAlign", "MaxRoiPool",
    }
)  # fmt: skip
_MOVEMENTS = frozenset(
    {
        "Reshape", "Transpose", "Concat", "Split", "Slice", "Gather", "GatherElements", "GatherND",
        "Squeeze", "Unsqueeze", "Flatten", "Expand", "Tile", "Pad", "Identity", "Resize",
        "Upsample", "DepthToSpace", "SpaceToDepth", "Scatter", "ScatterElements", "ScatterND",
        "Shape", "Size", "Cast", "CastLike", "QuantizeLinear", "DequantizeLinear",
        "DynamicQuantizeLinear", "ConstantOfShape", "Range", "Dropout", "QLinearConcat", "OneHot",
        "ReverseSequence", "Compress", "NonZero", "Unique", "Trilu", "EyeLike",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class StaticProfile:
    """Costs of one run at the batch and input size it was asked for. None means unknown.

    params counts stored weights; flops are 2 x MACs; peak_activation_bytes is the most that is
    alive at once in execution order, sum_activation_bytes all intermediate tensors together (the
    paper's memory). vector : float64 (PROFILE_DIMS,), FLOPs then bytes, by family and depth.
    assumed : lengths chosen for axes the file leaves open.
    """

    params: int
    weight_bytes: int
    flops: float | None
    peak_activation_bytes: int | None
    sum_activation_bytes: int | None
    layers: int
    flops_by_operator: Mapping[str, float]
    vector: NDArray[np.float64] | None
    unknown: tuple[str, ...] = ()
    assumed: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeCost:
    """One operator that runs `repeats` times. work : FLOPs, or one per element it computes."""

    node: Node
    graph: Graph
    flops: float | None
    work: float | None
    nbytes: float | None
    repeats: int | None
    depth: float  # place on the longest path from the inputs, 0..1


def profile(
    model: ModelProto, *, batch: int = 1, dims: Mapping[str, int] | None = None
) -> StaticProfile:
    """The costs of a model at a batch size; `dims` gives lengths for other open axes.

    Raises RejectedModelError if the graph is malformed.
    """
    graph, binding = trace(model, batch=batch, dims=dims)
    return profile_graph(graph, assumed=binding.assumed)


def profile_graph(graph: Graph, *, assumed: Mapping[str, int] | None = None) -> StaticProfile:
    """The costs of a traced graph."""
    weights = list(parameters(graph))
    costs = list(node_costs(graph))
    by_operator, unknown = _flops_by_operator(costs)
    memory = activation_memory(graph, frozenset(w.name for w in weights if w.proto is None))
    flops = None if unknown else float(sum(by_operator.values()))
    return StaticProfile(
        params=sum(w.stored for w in weights),
        weight_bytes=sum(_weight_bytes(w) for w in weights),
        flops=flops,
        peak_activation_bytes=memory.peak,
        sum_activation_bytes=memory.total,
        layers=sum(1 for _ in graph.walk()),
        flops_by_operator=by_operator,
        vector=None if flops is None else _vector(costs),
        unknown=(*unknown, *memory.unknown),
        assumed=dict(assumed or {}),
    )


def parameters(graph: Graph) -> Iterator[Weight]:
    """The learned tensors: floats and quantised integers, wherever they are stored.

    Shapes, axes and index lists (int64, bool, int32 that nobody dequantises) are structure, not
    weights. A float tensor that ConstantOfShape fills from a stored shape is a weight the file
    abbreviates, unless it is all zeros (an initial state).
    """
    from onnx import TensorProto

    structure = {TensorProto.INT64, TensorProto.UINT64, TensorProto.BOOL, TensorProto.STRING,
                 TensorProto.UINT32, TensorProto.INT32}  # fmt: skip
    dequantised = {
        name
        for _, node in graph.walk()
        for op, at in (("DequantizeLinear", 0), ("QLinearConv", 8), ("QGemm", 2))
        if node.op == op and at < len(node.inputs)
        for name in (node.inputs[at],)
    }
    seen: set[int] = set()
    for weight in graph.all_weights():
        if id(weight) in seen:
            continue  # an Identity's second name for the same tensor
        seen.add(id(weight))
        if weight.tensor.dtype not in structure or weight.name in dequantised:
            yield weight
    yield from _generated(graph)


def node_costs(
    graph: Graph, *, repeats: int | None = 1, place: float | None = None
) -> Iterator[NodeCost]:
    """The operators that run, each with its cost; of an If the branch that costs most
    (or the one it takes, where its condition is known).

    repeats is None inside a Loop whose trip count is only known at run time.
    """
    depths = _depths(graph)
    deepest = max(depths.values(), default=0) + 1
    for i, node in enumerate(graph.nodes):
        where = depths[i] / deepest if place is None else place
        if not node.subgraphs:
            yield _node_cost(node, graph, repeats, where)
            continue
        taken = chosen_branch(node.op, node.inputs, graph.values)
        bodies = [g for name, g in node.subgraphs.items() if taken in (None, name)]
        inner = [
            list(node_costs(g, repeats=_repeats(node, graph, repeats), place=where))
            for g in bodies or node.subgraphs.values()
        ]
        yield from max(inner, key=_branch_weight)


def _node_cost(node: Node, graph: Graph, repeats: int | None, where: float) -> NodeCost:
    flops = node_flops(node, graph)
    sizes = [graph.tensor(n).nbytes for n in (*node.inputs, *node.outputs[:1]) if n]
    nbytes = None if None in sizes else float(sum(s for s in sizes if s is not None))
    return NodeCost(node, graph, flops, _work(node, graph, flops), nbytes, repeats, where)


def _work(node: Node, graph: Graph, flops: float | None) -> float | None:
    if has_macs(node.op):
        return flops
    if node.op in VIEWS or node.op in ("Shape", "Size"):
        return 0.0
    names = node.inputs[:1] + node.outputs[:1] if family(node, graph) == "reduction" else (
        node.outputs[:1])  # fmt: skip
    sizes = [graph.tensor(name).elements for name in names if name]
    known = [size for size in sizes if size is not None]
    return float(max(known)) if known and len(known) == len(sizes) else None


def _repeats(node: Node, graph: Graph, outer: int | None) -> int | None:
    times: int | None = 1
    if node.op == "Loop":
        times = trip_count(node.inputs, node.subgraphs["body"], graph.values)
    elif node.op == "Scan":
        scanned = int(node.attributes.get("num_scan_inputs", 1))
        shape = graph.tensor(node.inputs[-scanned]).shape
        axes = node.attributes.get("scan_input_axes") or [0]
        times = None if not shape else shape[axes[0]]
    return None if times is None or outer is None else times * outer


def _branch_weight(costs: list[NodeCost]) -> tuple[bool, float]:
    """Branches with unknown costs first, so that an If never hides them."""
    return (
        any(c.flops is None for c in costs),
        sum((c.flops or 0.0) * (c.repeats or 1) for c in costs),
    )


def _flops_by_operator(costs: list[NodeCost]) -> tuple[dict[str, float], tuple[str, ...]]:
    totals: defaultdict[str, float] = defaultdict(float)
    unknown: dict[str, None] = {}
    for cost in costs:
        title = cost.node.title
        if cost.flops is None:
            unknown[f"flops: no count for {title} '{cost.node.name}'"] = None
        elif cost.flops and cost.repeats is None:
            unknown[f"flops: {title} is in a Loop of unknown length"] = None
        elif cost.flops:
            totals[title] += cost.flops * (cost.repeats or 0)
    if not unknown and not totals and any(c.work and c.repeats != 1 for c in costs):
        unknown["flops: it computes in a Loop or Scan, but nothing that is counted"] = None
    return dict(totals), tuple(unknown)


def family(node: Node, graph: Graph) -> str:
    """One of FAMILIES."""
    if node.op in _CONVOLUTIONS:
        weight = graph.tensor(node.inputs[3 if node.op == "QLinearConv" else 1]).shape
        grouped = int(node.attributes.get("group", 1)) > 1
        return "depthwise" if grouped and weight and weight[1] == 1 else "convolution"
    if has_macs(node.op):
        return "matrix"
    if node.op in _REDUCTIONS or node.op.startswith("Reduce"):
        return "reduction"
    return "movement" if node.op in _MOVEMENTS else "elementwise"


def _vector(costs: list[NodeCost]) -> NDArray[np.float64] | None:
    """Shares of work and of bytes by family and depth, (PROFILE_DIMS,); None if nothing counts."""
    table = np.zeros((2, len(FAMILIES), DEPTH_BINS))
    for cost in costs:
        row = FAMILIES.index(family(cost.node, cost.graph))
        column = min(DEPTH_BINS - 1, int(cost.depth * DEPTH_BINS))
        times = 1 if cost.repeats is None else cost.repeats
        table[0, row, column] += (cost.work or 0.0) * times
        if cost.node.op not in VIEWS:
            table[1, row, column] += (cost.nbytes or 0.0) * times
    sums = table.sum(axis=(1, 2), keepdims=True)
    if not sums.any():
        return None
    shares: NDArray[np.float64] = table / np.where(sums > 0, sums, 1.0)
    return shares.ravel()


def _depths(graph: Graph) -> dict[int, int]:
    """Length of the longest path from the inputs to each node, by its position."""
    levels: dict[str, int] = {}
    depths = {}
    for i, node in enumerate(graph.nodes):
        depth = max((levels.get(n, 0) for n in (*node.inputs, *node.outer)), default=0)
        depths[i] = depth
        levels.update((name, depth + 1) for name in node.outputs)
    return depths


def _generated(graph: Graph) -> Iterator[Weight]:
    from onnx import TensorProto, numpy_helper

    floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
    for inside, node in graph.walk():
        if node.op != "ConstantOfShape" or node.inputs[0] not in inside.weights:
            continue
        tensor, fill = inside.tensor(node.outputs[0]), node.attributes.get("value")
        if tensor.dtype not in floats or not tensor.elements or fill is None:
            continue
        if np.any(numpy_helper.to_array(fill)):
            yield Weight(node.outputs[0], tensor, "generated", tensor.elements)


def _weight_bytes(weight: Weight) -> int:
    """Stored bytes: a sparse tensor keeps its values and an int64 index for each."""
    size = weight.tensor.nbytes or 0
    if weight.origin != "sparse":
        return size
    total = max(1, weight.tensor.elements or 1)
    return math.ceil(size * weight.stored / total) + 8 * weight.stored
