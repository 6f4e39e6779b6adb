"""Which hidden unit of one network does what a unit of another does.

By weights: layer by layer from the input, then in turns until nothing improves, each time the
assignment of greatest inner product (Ainsworth et al. 2023, algorithm 1). By activations: the
assignment of greatest correlation on samples (Li et al. 2016), which needs some and no turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.execution import open_session
from sommelier.analysis.fusion.architectures import Counterparts
from sommelier.analysis.fusion.hidden_units import Place, Units, hidden_units
from sommelier.analysis.segments.checking import serialised
from sommelier.analysis.segments.editing import copy_of, value_info
from sommelier.analysis.segments.normal_form import NormalForm
from sommelier.errors import AnalysisError

if TYPE_CHECKING:
    from onnx import ModelProto

Array = NDArray[Any]
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

TURNS = 50  # of all layers; Git Re-Basin needs about 10
IMPROVED = 1e-7  # relative; less is rounding
RUN_BATCH = 64


@dataclass(frozen=True, slots=True)
class Match:
    """A group of units in both models. weights, made : pairs of places, (ours, theirs)."""

    ours: Units
    theirs: Units
    weights: tuple[tuple[Place, Place], ...]
    made: tuple[tuple[Place, Place], ...]


def matches(ours: NormalForm, theirs: NormalForm, found: Counterparts) -> tuple[Match, ...]:
    """Groups that may be permuted in both models, in the order of the graph."""
    groups = {
        (place.tensor, place.axis): units
        for units in hidden_units(theirs)
        for place in units.weights
    }
    matched: list[Match] = []
    taken: set[Units] = set()
    for units in hidden_units(ours):
        pairs = _paired(units.weights, found.weights)
        others = {groups.get((place.tensor, place.axis)) for _, place in pairs}
        other = others.pop() if len(others) == 1 else None
        if other is not None and other.size == units.size and other not in taken:
            taken.add(other)
            made = _paired(units.made, found.tensors)
            matched.append(Match(units, other, pairs, made))
    return tuple(matched)


def by_weights(
    ours: NormalForm, theirs: NormalForm, groups: Sequence[Match]
) -> dict[Units, Indices]:
    """Per group of theirs, the unit of theirs that belongs in each place of ours."""
    turns = _Turns(ours, theirs, groups)
    for g in range(len(groups)):
        turns.assign(g, first=True)
    for _ in range(TURNS):
        improved = [turns.assign(g) for g in range(len(groups))]
        if not any(improved):
            break
    return {
        group.theirs: np.arange(group.theirs.size) if order is None else order
        for group, order in zip(groups, turns.orders, strict=True)
    }


def by_activations(
    ours: NormalForm, theirs: NormalForm, groups: Sequence[Match], inputs: Sequence[Array]
) -> dict[Units, Indices]:
    """The same from what the units answer to samples. inputs : per input (n, ...), in order."""
    pairs = list(dict.fromkeys(pair for group in groups for pair in group.made))
    if not pairs:  # ONNX Runtime takes no names for all names
        return {group.theirs: np.arange(group.theirs.size) for group in groups}
    sides = [
        _Recorder(form, sorted({pair[k].tensor for pair in pairs}))
        for k, form in enumerate((ours, theirs))
    ]
    sums = {pair: _Correlation() for pair in pairs}
    sizes = {pair: group.ours.size for group in groups for pair in group.made}
    for start in range(0, len(inputs[0]), RUN_BATCH):
        batch = [given[start : start + RUN_BATCH] for given in inputs]
        seen, other = (side.run(batch) for side in sides)
        for a, b in pairs:
            size = sizes[a, b]
            one, two = seen[a.tensor], other[b.tensor]
            sums[a, b].add(a.by_unit(one, size), b.by_unit(two, size))
    return {
        group.theirs: _assignment(np.sum([sums[pair].matrix for pair in group.made], axis=0))
        if group.made
        else np.arange(group.theirs.size)
        for group in groups
    }


class _Turns:
    """Assignments of all groups under way; None for a group that was not assigned yet."""

    def __init__(self, ours: NormalForm, theirs: NormalForm, groups: Sequence[Match]) -> None:
        self.groups = groups
        self.orders: list[Indices | None] = [None] * len(groups)
        self._of = {
            (place.tensor, place.axis): (g, place)
            for g, group in enumerate(groups)
            for place in group.theirs.weights
        }
        pairs = {(a.tensor, b.tensor) for group in groups for a, b in group.weights}
        self._ours = {a: _scaled(ours.constants.array(a)) for a, _ in pairs}
        self._theirs = {b: _scaled(theirs.constants.array(b)) for _, b in pairs}

    def assign(self, g: int, *, first: bool = False) -> bool:
        """Assigns a group given the others; whether that was an improvement.

        first : from weights alone whose other groups are assigned already.
        """
        group = self.groups[g]
        likeness = np.zeros((group.ours.size, group.ours.size))
        known = False
        for a, b in group.weights:
            permuted = self._permuted(b, skip_unknown=first)
            if permuted is not None:
                likeness += (
                    a.by_unit(self._ours[a.tensor], group.ours.size)
                    @ b.by_unit(permuted, group.ours.size).T
                )
                known = True
        if not known:
            return False
        before, order = self.orders[g], _assignment(likeness)
        places = np.arange(len(order))
        now = likeness[places, order].sum()
        if before is not None:
            reached = likeness[places, before].sum()
            if now <= reached + IMPROVED * abs(reached):
                return False
        self.orders[g] = order
        return True

    def _permuted(self, place: Place, *, skip_unknown: bool) -> Array | None:
        """Their weight with all axes but this one in our order; None where one is not known."""
        array = self._theirs[place.tensor]
        for axis in range(array.ndim):
            owner = self._of.get((place.tensor, axis))
            if axis == place.axis or owner is None:
                continue
            order = self.orders[owner[0]]
            if order is None and skip_unknown:
                return None
            if order is not None:
                array = owner[1].permuted(array, order)
        return array


class _Correlation:
    """Sums for the correlation of each unit of ours with each of theirs."""

    def __init__(self) -> None:
        self._sums: list[Any] = [0.0] * 6

    def add(self, ours: Array, theirs: Array) -> None:
        """(units, samples) each."""
        a, b = ours.astype(np.float64), theirs.astype(np.float64)
        new = (a.shape[1], a.sum(1), b.sum(1), (a**2).sum(1), (b**2).sum(1), a @ b.T)
        self._sums = [total + more for total, more in zip(self._sums, new, strict=True)]

    @property
    def matrix(self) -> Floats:
        """(ours, theirs); 0 for units that never change."""
        n, a, b, aa, bb, ab = self._sums
        covariance = ab / n - np.outer(a, b) / n**2
        spread = np.sqrt(np.outer(np.maximum(aa / n - (a / n) ** 2, 0.0),
                                  np.maximum(bb / n - (b / n) ** 2, 0.0)))  # fmt: skip
        zeros = np.zeros_like(covariance)
        return np.asarray(np.divide(covariance, spread, out=zeros, where=spread > 0))


class _Recorder:
    """A model that gives tensors from its inside."""

    def __init__(self, form: NormalForm, tensors: Sequence[str]) -> None:
        self._names = list(tensors)
        self._inputs = form.inputs
        self._session = open_session(serialised(_opened(form, self._names)), 1)

    def run(self, inputs: Sequence[Array]) -> Mapping[str, Array]:
        feed = dict(zip(self._inputs, inputs, strict=True))
        return dict(zip(self._names, self._session.run(self._names, feed), strict=True))


def _opened(form: NormalForm, tensors: Sequence[str]) -> ModelProto:
    model = copy_of(form)
    given = {value.name for value in model.graph.output}
    for name in tensors:
        if name not in given:
            model.graph.output.append(value_info(form, name, True))
    return model


def _assignment(likeness: Floats) -> Indices:
    """order[i] = the unit of theirs for place i, of greatest total likeness."""
    from scipy.optimize import linear_sum_assignment

    if not np.isfinite(likeness).all():
        raise AnalysisError("units cannot be matched: weights or activations are not finite")
    return np.asarray(linear_sum_assignment(likeness, maximize=True)[1], dtype=np.int64)


def _paired(places: Sequence[Place], names: Mapping[str, str]) -> tuple[tuple[Place, Place], ...]:
    return tuple(
        (p, Place(names[p.tensor], p.axis, p.outer, p.inner)) for p in places if p.tensor in names
    )


def _scaled(array: Array) -> Floats:
    """In root mean squares, so that a layer's statistics do not outweigh its filters."""
    wide = array.astype(np.float64)
    size = float(np.sqrt((wide**2).mean()))
    return wide / size if size > 0 else wide
