"""Units of a network whose order means nothing: permute them where they are made and where they are
read, and the network answers as before.

Found by a walk over the graph that follows every axis of every tensor from the operator that makes
it. Where an operator does more with an axis than is known (heads of attention, concatenated
channels), its units stay where they are, which is always safe. Source: Ainsworth et al. 2023, "Git
Re-Basin"; which axes belong together is stated there by hand for each architecture.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.graph import Node
from sommelier.analysis.segments.editing import all_names
from sommelier.analysis.segments.normal_form import NormalForm

if TYPE_CHECKING:
    from onnx import ModelProto

Array = NDArray[Any]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Place:
    """An axis along which units lie, as (outer, units, inner): flattened feature maps keep the
    `inner` numbers of one unit together."""

    tensor: str
    axis: int
    outer: int
    inner: int

    def by_unit(self, array: Array, size: int) -> Array:
        """The array as (size, rest)."""
        shape = array.shape
        parted = array.reshape(
            *shape[: self.axis], self.outer, size, self.inner, *shape[self.axis + 1 :]
        )
        return np.moveaxis(parted, self.axis + 1, 0).reshape(size, -1)

    def permuted(self, array: Array, order: Indices) -> Array:
        """The array with unit order[i] in place i."""
        places = np.arange(self.outer * len(order) * self.inner)
        moved = places.reshape(self.outer, len(order), self.inner)[:, order].ravel()
        return np.take(array, moved, axis=self.axis)


@dataclass(frozen=True, slots=True)
class Units:
    """`size` units that are permuted together. weights : where constants have them. made : tensors
    that a learned operator gives them in, in the order of the graph."""

    size: int
    weights: tuple[Place, ...]
    made: tuple[Place, ...]


def hidden_units(form: NormalForm) -> tuple[Units, ...]:
    """All groups of units whose order means nothing, in the order of the graph.

    form : of an `untied` model; a weight that several operators read ties their units together.
    """
    from sommelier.analysis.fusion.unit_rules import follow

    walk = Walk(form)
    for node in form.graph.nodes:
        if all(not name or walk.fixed(name) for name in node.outputs):
            walk.expression(node)
        else:
            follow(walk, node)
    return walk.finish()


def permuted_weights(form: NormalForm, orders: Mapping[Units, Indices]) -> dict[str, Array]:
    """Constant -> its numbers with unit order[i] of each group in place i; others are left out."""
    found: dict[str, Array] = {}
    for units, order in orders.items():
        for place in units.weights:
            array = found.get(place.tensor)
            if array is None:
                array = form.constants.array(place.tensor)
            found[place.tensor] = place.permuted(array, order)
    return found


def untied(model: ModelProto) -> ModelProto:
    """The model with a copy of a weight for every operator that reads it: the same answers.

    Exporters store weights that happen to be equal once, such as biases of zero, which says nothing
    about where they may be moved to.
    """
    from onnx import ModelProto, TensorProto

    made = ModelProto()
    made.CopyFrom(model)
    floating = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    stored = {t.name: t for t in made.graph.initializer if t.data_type in floating and t.dims}
    taken = all_names(made.graph)
    seen: set[str] = {output.name for output in made.graph.output}
    for node in made.graph.node:
        for position, name in enumerate(node.input):
            if name not in stored:
                continue
            if name in seen:
                copy = made.graph.initializer.add()
                copy.CopyFrom(stored[name])
                copy.name = _free(f"{name}@{node.output[0]}", taken)
                node.input[position] = copy.name
                taken.add(copy.name)
            seen.add(name)
    return made


@dataclass(frozen=True, slots=True)
class Axis:
    """The units of group `group` along an axis, as (outer, units, inner)."""

    group: int
    outer: int = 1
    inner: int = 1


class Walk:
    """The units along every axis of the tensors seen so far; None where there are none."""

    def __init__(self, form: NormalForm) -> None:
        self.form = form
        self._layouts: dict[str, tuple[Axis | None, ...]] = {}
        self._parents: list[int] = []
        self._sizes: list[int] = []
        self._pinned: set[int] = set()
        self._uses: defaultdict[tuple[str, int], list[Axis | None]] = defaultdict(list)
        self._made: list[tuple[str, int, Axis]] = []
        self._expressed: set[str] = set()

    def constant(self, name: str) -> bool:
        """Whether all its numbers come from the file, so that they can be moved there."""
        return self.form.constants.learned(name)

    def setting(self, name: str) -> bool:
        """Whether nothing but the inputs' shapes decides it."""
        return name in self.form.constants

    def fixed(self, name: str) -> bool:
        """Whether no units can lie in it: weights, and arithmetic on shapes."""
        from onnx import TensorProto

        whole = self.form.graph.tensor(name).dtype in (TensorProto.INT64, TensorProto.BOOL)
        return self.constant(name) or (whole and self.setting(name))

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Lengths of all axes, at batch 1; None where one is unknown."""
        shape = (
            self.form.constants.dtype_and_shape(name)[1]
            if self.setting(name)
            else self.form.graph.tensor(name).shape
        )
        if shape is None:
            return None
        known = tuple(side for side in shape if side is not None)
        return known if len(known) == len(shape) else None

    def axes(self, name: str) -> tuple[Axis | None, ...]:
        """Of a tensor whose shape is known."""
        return self._layouts.get(name) or (None,) * len(self.shape(name) or ())

    def new(self, size: int) -> Axis:
        self._parents.append(len(self._parents))
        self._sizes.append(size)
        return Axis(len(self._parents) - 1)

    def size(self, axis: Axis) -> int:
        return self._sizes[axis.group]

    def same(self, axes: Sequence[Axis | None]) -> Axis | None:
        """These axes have to be permuted alike; None where one of them cannot be."""
        known = [axis for axis in axes if axis is not None]
        alike = len({(self.size(a), a.outer, a.inner) for a in known}) == 1
        if len(known) < len(axes) or not alike:
            self.pin(known)
            return None
        for other in known[1:]:
            self._join(known[0].group, other.group)
        return known[0]

    def pin(self, axes: Sequence[Axis | None]) -> None:
        """The order of these units has a meaning."""
        self._pinned.update(axis.group for axis in axes if axis is not None)

    def reads(self, weight: str, axes: Sequence[Axis | None]) -> None:
        """A constant's axes belong to these units; None: to none that may move."""
        for i, axis in enumerate(axes):
            self.reads_axis(weight, i, axis)

    def reads_axis(self, weight: str, i: int, axis: Axis | None) -> None:
        """The same of one axis; others are read as a single number is."""
        self._uses[weight, i].append(axis)

    def gives(self, name: str, axes: Sequence[Axis | None], *, made: int | None = None) -> None:
        """The layout of a tensor. made : the axis whose units a learned operator gives there."""
        shape = self.shape(name)
        fits = shape is not None and len(shape) == len(axes)
        for axis, side in zip(axes, shape or (), strict=False):
            if axis is not None and axis.outer * self.size(axis) * axis.inner != side:
                fits = False
        if not fits:
            self.pin(axes)
            return
        self._layouts[name] = tuple(axes)
        axis = None if made is None else axes[made]
        if made is not None and axis is not None:
            self._made.append((name, made, axis))

    def fix(self, node: Node) -> None:
        """An operator of which nothing is known: everything it reads stays in place."""
        for name in (*node.inputs, *node.outer):
            if name and self.constant(name):
                self.reads(name, [None] * len(self.shape(name) or ()))
            elif name:
                self.pin(self._layouts.get(name, ()))

    def expression(self, node: Node) -> None:
        """An operator on constants: what it reads cannot be moved without moving what it makes."""
        self._expressed.update(node.inputs)

    def finish(self) -> tuple[Units, ...]:
        """The groups that nothing pins and that a constant has."""
        for name in self.form.graph.outputs:
            self.pin(self._layouts.get(name, ()))
        for (name, _), axes in self._uses.items():
            self.same([*axes, None] if name in self._expressed else axes)
        pinned = {self._root(group) for group in self._pinned}
        weights: defaultdict[int, list[Place]] = defaultdict(list)
        made: defaultdict[int, list[Place]] = defaultdict(list)
        for (name, i), axes in self._uses.items():
            if axes[0] is not None:
                weights[self._root(axes[0].group)].append(_place(name, i, axes[0]))
        for name, i, axis in self._made:
            made[self._root(axis.group)].append(_place(name, i, axis))
        return tuple(
            Units(self._sizes[root], tuple(weights[root]), tuple(made[root]))
            for root in sorted(weights)
            if root not in pinned and self._sizes[root] > 1
        )

    def _root(self, group: int) -> int:
        while self._parents[group] != group:
            group = self._parents[group]
        return group

    def _join(self, first: int, second: int) -> None:
        a, b = sorted((self._root(first), self._root(second)))
        self._parents[b] = a


def _place(name: str, i: int, axis: Axis) -> Place:
    return Place(name, i, axis.outer, axis.inner)


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name
