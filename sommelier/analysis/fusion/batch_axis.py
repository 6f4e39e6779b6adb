"""Where one factor of a tensor's elements is: the batch, or the channels of a block's entry.

In row-major order a factor of length f has a number of elements before it and after it. Changes of
form keep those numbers and only draw other borders; transposing, reducing and choosing move axes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sommelier.analysis.graph import Graph, Node
from sommelier.analysis.segments.canonical import RESHAPES

CHOOSING = frozenset({"ArgMax", "ArgMin"})


@dataclass(frozen=True, slots=True)
class Factor:
    """A factor of the length of `axis`, with `before` elements of that axis before it."""

    axis: int
    before: int


def follow(node: Node, graph: Graph, known: Mapping[str, Factor]) -> dict[str, Factor]:
    """Where the batch is in a node's outputs, by what the shapes at batch 1 say; {} if unknown.

    known : of the tensors that depend on the input. Of several places that a change of form allows,
    an axis of its own comes first, then the beginning of an axis that is not the last.
    """
    operand = next((name for name in node.inputs if name in known), None)
    if operand is None:
        return {}
    factor, source = known[operand], graph.tensor(operand).shape
    found: dict[str, Factor] = {}
    for name in (n for n in node.outputs if n):
        made = graph.tensor(name).shape
        if source is None or made is None or None in source or None in made:
            continue
        sides = ([d or 1 for d in source], [d or 1 for d in made])
        place = _reshaped(factor, *sides) if node.op in RESHAPES else _moved(
            node, graph, operand, factor, *sides)  # fmt: skip
        if place is not None:
            found[name] = place
    return found


def moved_axis(node: Node, graph: Graph, axis: int, rank: int) -> int | None:
    """Where an axis of a node's first operand is in its output; None if it is gone or cut."""
    if node.op == "Transpose":
        order = node.attributes.get("perm") or list(reversed(range(rank)))
        return list(order).index(axis)
    if node.op.startswith("Reduce") or node.op in CHOOSING:
        axes = _reduced(node, graph, rank)
        if axes is None or axis in axes:
            return None
        keep = int(node.attributes.get("keepdims", 1))
        return axis if keep else axis - sum(a < axis for a in axes)
    if node.op == "Gather":
        along = int(node.attributes.get("axis", 0)) % rank
        if along == axis:
            return None
        indices = len(graph.tensor(node.inputs[1]).shape or ())
        return axis + indices - 1 if along < axis else axis
    return axis


def _moved(
    node: Node, graph: Graph, operand: str, factor: Factor, source: list[int], made: list[int]
) -> Factor | None:
    if node.op == "Gather" and operand == node.inputs[1]:  # numbers looked up for every sample
        return Factor(factor.axis + int(node.attributes.get("axis", 0)), factor.before)
    axis = moved_axis(node, graph, factor.axis, len(source))
    if axis is None:
        return None
    if len(made) > len(source) and node.op not in ("Gather", "Transpose"):
        axis += len(made) - len(source)  # operands of fewer axes are aligned at the end
    return Factor(axis, factor.before) if axis < len(made) else None


def _reshaped(factor: Factor, source: Sequence[int], made: Sequence[int]) -> Factor | None:
    """Of the batch, which is 1 long in these shapes."""
    before = math.prod(source[: factor.axis]) * factor.before
    ahead = [math.prod(made[:i]) for i in range(len(made) + 1)]
    for i, length in enumerate(made):
        if length == 1 and ahead[i] == before:
            return Factor(i, 1)
    for i in range(max(1, len(made) - 1)):
        if ahead[i] == before:
            return Factor(i, 1)
    for i, length in enumerate(made):
        if ahead[i] < before <= ahead[i + 1] and before % ahead[i] == 0:
            inside = before // ahead[i]
            return Factor(i, inside) if length % inside == 0 else None
    return None


def regrouped(
    factor: Factor, length: int, source: Sequence[int], made: Sequence[int]
) -> Factor | None:
    """Where a factor of a known length is after a change of form; None when it is split."""
    before = math.prod(source[: factor.axis]) * factor.before
    for i, side in enumerate(made):
        ahead = math.prod(made[:i])
        if side % length == 0 and ahead <= before and before % ahead == 0:
            inside = before // ahead
            if side % (inside * length) == 0:
                return Factor(i, inside)
    return None


def _reduced(node: Node, graph: Graph, rank: int) -> list[int] | None:
    if node.op in CHOOSING:
        return [int(node.attributes.get("axis", 0)) % rank]
    stated = node.attributes.get("axes")
    if len(node.inputs) > 1 and node.inputs[1]:
        value = graph.values.get(node.inputs[1])
        if value is None:
            return None
        stated = np.asarray(value).ravel().tolist()
    if not stated:
        return [] if node.attributes.get("noop_with_empty_axes", 0) else list(range(rank))
    return [int(a) % rank for a in stated]
