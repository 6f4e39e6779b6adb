"""What each operator does to units along the axes of what it reads (hidden_units.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from sommelier.analysis.fusion.hidden_units import Axis, Walk
from sommelier.analysis.graph import Node
from sommelier.analysis.segments.canonical import RESHAPES

Rule = Callable[[Walk, Node], bool]

ONE_BY_ONE = (
    "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Gelu", "Erf", "Exp", "Log", "Clip", "HardSwish",
    "HardSigmoid", "Elu", "Selu", "Celu", "Softplus", "Softsign", "Mish", "Identity", "Dropout",
    "Cast", "Sqrt", "Reciprocal", "Abs", "Neg", "ThresholdedRelu",
)  # fmt: skip
"""The result of an element depends on that element; other operands are single numbers."""

BROADCAST = ("Add", "Sub", "Mul", "Div", "Pow", "Sum", "Mean", "Max", "Min", "PRelu", "Where")
OVER_AXES = (
    "Softmax", "LogSoftmax", "LpNormalization", "ReduceMean", "ReduceSum", "ReduceMax",
    "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceProd",
)  # fmt: skip
"""The order of the elements they add up does not matter, as far as rounding allows."""

WINDOWS = (
    "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "Resize", "Upsample",
    "Pad",
)  # fmt: skip


def follow(walk: Walk, node: Node) -> None:
    """Gives the node's outputs their units, or pins what it reads."""
    rule = None if node.domain or node.subgraphs else RULES.get(node.op)
    known = all(walk.shape(name) is not None for name in (*node.inputs, node.outputs[0]) if name)
    plain = node.op == "Split" or not any(node.outputs[1:])
    if rule is None or not known or not plain or not rule(walk, node):
        walk.fix(node)


def _conv(walk: Walk, node: Node) -> bool:
    data, weight = node.inputs[:2]
    if walk.constant(data) or not walk.constant(weight):
        return False
    channels, *sides = walk.axes(data)[1:]
    shape, groups = walk.shape(weight) or (), int(node.attributes.get("group", 1))
    walk.pin(sides)
    rest: list[Axis | None] = [None] * (len(shape) - 2)
    made: Axis | None
    if groups == 1:
        made = walk.new(shape[0])
        walk.reads(weight, [made, channels, *rest])
    elif groups == shape[0] and shape[1] == 1:
        made = channels  # one filter a channel
        walk.reads(weight, [made, None, *rest])
    else:
        return False
    for bias in node.inputs[2:]:
        if bias:
            walk.reads(bias, [made])
    walk.gives(node.outputs[0], [None, made, *rest], made=1)
    return True


def _gemm(walk: Walk, node: Node) -> bool:
    data, weight, *bias = node.inputs
    if walk.constant(data) or not walk.constant(weight) or node.attributes.get("transA", 0):
        return False
    if any(name and not walk.constant(name) for name in bias):
        return False
    transposed = bool(node.attributes.get("transB", 0))
    made = walk.new((walk.shape(weight) or ())[0 if transposed else 1])
    ends = [made, walk.axes(data)[1]] if transposed else [walk.axes(data)[1], made]
    walk.reads(weight, ends)
    for name in bias:
        _reads_broadcast(walk, name, [None, made])
    walk.gives(node.outputs[0], [walk.axes(data)[0], made], made=1)
    return True


def _matmul(walk: Walk, node: Node) -> bool:
    first, second = node.inputs
    if walk.constant(first):
        return False
    ours = walk.axes(first)
    if walk.constant(second):
        shape = walk.shape(second) or ()
        if len(shape) != 2:
            return False
        made = walk.new(shape[1])
        walk.reads(second, [ours[-1], made])
        walk.gives(node.outputs[0], [*ours[:-1], made], made=len(ours) - 1)
        return True
    theirs = walk.axes(second)
    if len(ours) != len(theirs) or len(ours) < 2:
        return False
    walk.same([ours[-1], theirs[-2]])  # summed over: any order, but the same
    stacked = _broadcast(walk, [first, second], len(ours))[:-2]
    walk.gives(node.outputs[0], [*stacked, ours[-2], theirs[-1]])
    return True


def _per_channel(walk: Walk, node: Node) -> bool:
    """BatchNormalization, InstanceNormalization: numbers per channel, which is axis 1."""
    if walk.constant(node.inputs[0]) or not all(map(walk.constant, node.inputs[1:])):
        return False
    axes = walk.axes(node.inputs[0])
    walk.pin(axes[2:])
    for name in node.inputs[1:]:
        walk.reads(name, [axes[1]])
    walk.gives(node.outputs[0], axes)
    return True


def _layer_norm(walk: Walk, node: Node) -> bool:
    if walk.constant(node.inputs[0]):
        return False
    axes = walk.axes(node.inputs[0])
    for name in node.inputs[1:]:
        if name and not walk.constant(name):
            return False
        if name:
            _reads_broadcast(walk, name, axes)
    walk.gives(node.outputs[0], axes)
    return True


def _one_by_one(walk: Walk, node: Node) -> bool:
    if any(name and prod(walk.shape(name) or ()) != 1 for name in node.inputs[1:]):
        return False
    walk.gives(node.outputs[0], walk.axes(node.inputs[0]))
    return True


def _elementwise(walk: Walk, node: Node) -> bool:
    rank = len(walk.shape(node.outputs[0]) or ())
    data = [name for name in node.inputs if not walk.constant(name)]
    axes = _broadcast(walk, data, rank)
    for name in node.inputs:
        if walk.constant(name):
            _reads_broadcast(walk, name, axes)
    walk.gives(node.outputs[0], axes)
    return True


def _broadcast(walk: Walk, names: Sequence[str], rank: int) -> list[Axis | None]:
    """The axes of what tensors give together; where several have a length, they move alike."""
    found: list[Axis | None] = []
    for back in range(rank, 0, -1):
        long = [
            walk.axes(name)[-back]
            for name in names
            if len(walk.shape(name) or ()) >= back and (walk.shape(name) or ())[-back] > 1
        ]
        found.append(walk.same(long) if long else None)
    return found


def _reads_broadcast(walk: Walk, weight: str, axes: Sequence[Axis | None]) -> None:
    """A constant that is laid over axes, the last ones first; a single number fits any units."""
    shape = walk.shape(weight) or ()
    over = axes[len(axes) - len(shape) :] if len(shape) <= len(axes) else [None] * len(shape)
    for i, (side, axis) in enumerate(zip(shape, over, strict=True)):
        if side > 1:
            walk.reads_axis(weight, i, axis)


def _over_axes(walk: Walk, node: Node) -> bool:
    axes, shape = walk.axes(node.inputs[0]), walk.shape(node.outputs[0])
    if shape is None or any(not walk.setting(name) for name in node.inputs[1:] if name):
        return False
    before = walk.shape(node.inputs[0]) or ()
    if len(shape) == len(before):
        kept = [axis if side > 1 else None for axis, side in zip(axes, shape, strict=True)]
    else:
        gone = _reduced(walk, node, len(before))
        if gone is None:
            return False
        kept = [axis for i, axis in enumerate(axes) if i not in gone]
    walk.gives(node.outputs[0], kept)
    return True


def _reduced(walk: Walk, node: Node, rank: int) -> set[int] | None:
    """The axes a reduction takes away; None where they are not known."""
    stated = node.attributes.get("axes")
    if len(node.inputs) > 1 and node.inputs[1]:
        stated = walk.form.graph.values.get(node.inputs[1])
        if stated is None:
            return None
    if stated is None:
        return set(range(rank))
    return {int(axis) % rank for axis in np.asarray(stated).ravel()}


def _window(walk: Walk, node: Node) -> bool:
    """Works on the sides of each channel by itself."""
    before, after = walk.shape(node.inputs[0]) or (), walk.shape(node.outputs[0])
    if walk.constant(node.inputs[0]) or after is None or before[:2] != after[:2]:
        return False
    if any(name and not walk.setting(name) for name in node.inputs[1:]):
        return False
    if node.op == "Pad" and not _pads_sides(walk, node, len(before)):
        return False
    axes = walk.axes(node.inputs[0])
    walk.pin(axes[2:])
    walk.gives(node.outputs[0], [*axes[:2], *[None] * (len(after) - 2)])
    return True


def _pads_sides(walk: Walk, node: Node, rank: int) -> bool:
    """Whether nothing is added or cut along batch and channels, not even as much at both ends."""
    pads = node.attributes.get("pads")
    if len(node.inputs) > 1:
        pads = walk.form.graph.values.get(node.inputs[1])
    if pads is None or (len(node.inputs) > 3 and node.inputs[3]):
        return False
    widths = np.asarray(pads).reshape(2, rank)
    return not widths[:, :2].any()


def _transpose(walk: Walk, node: Node) -> bool:
    axes = walk.axes(node.inputs[0])
    order = node.attributes.get("perm") or range(len(axes))[::-1]
    walk.gives(node.outputs[0], [axes[int(i)] for i in order])
    return True


def _reshape(walk: Walk, node: Node) -> bool:
    before, after = walk.shape(node.inputs[0]), walk.shape(node.outputs[0])
    if before is None or after is None or 0 in before:
        return False
    axes: list[Axis | None] = [None] * len(after)
    for ours, theirs in _blocks(before, after):
        moving = [i for i in ours if walk.axes(node.inputs[0])[i] is not None]
        if not moving:
            continue
        axis = walk.axes(node.inputs[0])[moving[0]]
        found = None
        if axis is not None and len(moving) == 1:
            place = ours.index(moving[0])
            outer = axis.outer * prod(before[i] for i in ours[:place])
            inner = axis.inner * prod(before[i] for i in ours[place + 1 :])
            found = _placed(walk, Axis(axis.group, outer, inner), after, theirs)
        if found is None:
            walk.pin([walk.axes(node.inputs[0])[i] for i in moving])
        else:
            axes[found[0]] = found[1]
    walk.gives(node.outputs[0], axes)
    return True


def _blocks(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The shortest runs of axes on both sides with as many elements: what a reshape mixes."""
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        ours: list[int] = []
        theirs: list[int] = []
        left = right = 1
        while not (ours and theirs and left == right):
            if i < len(before) and (left <= right or j == len(after)):
                ours.append(i)
                left *= before[i]
                i += 1
            elif j < len(after):
                theirs.append(j)
                right *= after[j]
                j += 1
            else:
                break
        found.append((ours, theirs))
    return found


def _placed(
    walk: Walk, axis: Axis, after: Sequence[int], theirs: Sequence[int]
) -> tuple[int, Axis] | None:
    """Where units that lie as (outer, units, inner) in a block come to lie after a reshape; None
    where their numbers are spread over several axes."""
    size, before = walk.size(axis), 1
    for j in theirs:
        behind = prod(after[k] for k in theirs if k > j)
        outer, rest = divmod(axis.outer, before)
        inner, rest_inner = divmod(axis.inner, behind)
        if not rest and not rest_inner and outer * size * inner == after[j]:
            return j, Axis(axis.group, outer, inner)
        before *= after[j]
    return None


def _gather(walk: Walk, node: Node) -> bool:
    data, indices = node.inputs
    shape, places = walk.shape(data) or (), walk.shape(indices) or ()
    axis = int(node.attributes.get("axis", 0)) % len(shape)
    if walk.constant(data):
        if axis or len(shape) != 2:
            return False
        made = walk.new(shape[1])  # an embedding
        walk.pin(walk.axes(indices))
        walk.reads(data, [None, made])
        walk.gives(node.outputs[0], [*[None] * len(places), made], made=len(places))
        return True
    axes = walk.axes(data)
    walk.pin([axes[axis]])
    if not walk.setting(indices):
        walk.pin(walk.axes(indices))
    walk.gives(node.outputs[0], [*axes[:axis], *[None] * len(places), *axes[axis + 1 :]])
    return True


def _concat(walk: Walk, node: Node) -> bool:
    """Along the tokens of a sequence, say; channels that are put side by side stay in place."""
    rank = len(walk.shape(node.outputs[0]) or ())
    along = int(node.attributes["axis"]) % rank
    data = [name for name in node.inputs if not walk.constant(name)]
    axes = [
        None if i == along else walk.same([walk.axes(name)[i] for name in data])
        for i in range(rank)
    ]
    walk.pin([walk.axes(name)[along] for name in data])
    for name in node.inputs:
        if walk.constant(name):
            walk.reads(name, axes)
    walk.gives(node.outputs[0], axes)
    return True


def _slice(walk: Walk, node: Node) -> bool:
    axes, before = walk.axes(node.inputs[0]), walk.shape(node.inputs[0]) or ()
    after = walk.shape(node.outputs[0]) or ()
    if any(not walk.setting(name) for name in node.inputs[1:] if name):
        return False
    backwards = len(node.inputs) > 4
    whole = [a == b and not backwards for a, b in zip(before, after, strict=True)]
    walk.pin([axis for axis, kept in zip(axes, whole, strict=True) if not kept])
    walk.gives(node.outputs[0], [a if kept else None for a, kept in zip(axes, whole, strict=True)])
    return True


def _split(walk: Walk, node: Node) -> bool:
    axes = list(walk.axes(node.inputs[0]))
    along = int(node.attributes.get("axis", 0)) % len(axes)
    walk.pin([axes[along]])
    axes[along] = None
    for name in node.outputs:
        if name:
            walk.gives(name, axes)
    return True


def _expand(walk: Walk, node: Node) -> bool:
    """A tensor repeated along axes of length 1; a constant, such as a class token, has its units on
    the last axis."""
    data, shape = node.inputs[0], walk.shape(node.outputs[0]) or ()
    if walk.constant(data):
        own = walk.shape(data) or ()
        if not own or own[-1] == 1:
            return False
        axes = [*[None] * (len(shape) - 1), walk.new(own[-1])]
        _reads_broadcast(walk, data, axes)
    else:
        axes = _broadcast(walk, [data], len(shape))
    walk.gives(node.outputs[0], axes)
    return True


RULES: dict[str, Rule] = {
    **dict.fromkeys(ONE_BY_ONE, _one_by_one),
    **dict.fromkeys(BROADCAST, _elementwise),
    **dict.fromkeys(OVER_AXES, _over_axes),
    **dict.fromkeys(WINDOWS, _window),
    **dict.fromkeys(RESHAPES, _reshape),
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _per_channel,
    "InstanceNormalization": _per_channel,
    "LayerNormalization": _layer_norm,
    "Transpose": _transpose,
    "Gather": _gather,
    "Concat": _concat,
    "Slice": _slice,
    "Split": _split,
    "Expand": _expand,
}
