"""Which stored tensor of the host takes which numbers of the donor.

Weights are exchanged tensor by tensor, in the types they are stored in, wherever both files store
them alike. Where they do not (BatchNormalization folded or not, weights quantised or not, a matrix
the other way round) the numbers that act are written in the host's form (affine.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.segments.affine import Slot
from sommelier.analysis.segments.constants import Constants
from sommelier.analysis.segments.normal_form import NormalForm, Operator
from sommelier.errors import AnalysisError

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Binding:
    """Host operand `slot` takes `array()`, which is made of the donor's tensors `sources`."""

    slot: Slot
    sources: tuple[str, ...]
    array: Callable[[], Array]


@dataclass(frozen=True, slots=True)
class Replacement:
    """A tensor of the host graph that takes new numbers.

    name : its name once it is used by the segment alone. in_place : that is the case already.
    """

    name: str
    tensor: str
    uses: tuple[Slot, ...]
    in_place: bool
    sources: tuple[str, ...]
    array: Callable[[], Array]


def bindings(
    host: NormalForm, donor: NormalForm, pairs: Iterable[tuple[int, int]]
) -> Iterator[Binding]:
    """What every learned operand of the paired operators takes."""
    for i, j in pairs:
        yield from _operator_bindings(host, host.operators[i], donor, donor.operators[j])


def identical(host: NormalForm, donor: NormalForm, pairs: Iterable[tuple[int, int]]) -> bool:
    """Whether the paired operators have equal weights: the same numbers act."""
    return all(_same_weights(host, host.operators[i], donor, donor.operators[j]) for i, j in pairs)


def replacements(
    host: NormalForm, found: Iterable[Binding], segment: str
) -> tuple[Replacement, ...]:
    """The bindings by host tensor. A tensor that is also read elsewhere, or that takes different
    numbers in two places, gets a name of its own that ends with '@' and the segment's name."""
    groups: dict[tuple[str, tuple[str, ...]], list[Binding]] = {}
    for binding in found:
        groups.setdefault((binding.slot.tensor, binding.sources), []).append(binding)
    readers = _readers(host)
    made: list[Replacement] = []
    taken = {name for node in host.graph.nodes for name in node.outputs}
    taken |= set(host.graph.weights) | set(host.graph.inputs)
    for (tensor, sources), group in groups.items():
        uses = tuple(binding.slot for binding in group)
        weight = host.constants.stored(tensor)
        alone = {(s.node, s.position) for s in uses} == set(readers.get(tensor, ()))
        in_place = weight is not None and weight.name == tensor and alone
        name = tensor if in_place else _free(f"{tensor}@{segment}", taken)
        taken.add(name)
        made.append(Replacement(name, tensor, uses, in_place, sources, group[0].array))
    return tuple(made)


def _operator_bindings(
    host: NormalForm, ours: Operator, donor: NormalForm, theirs: Operator
) -> Iterator[Binding]:
    if ours.affine and theirs.affine and ours.affine.form != theirs.affine.form:
        a, b = ours.affine, theirs.affine
        names = tuple(slot.tensor for slot in b.slots)

        @cache
        def written() -> dict[Slot, Array]:
            return dict(a.stored_as(*b.acting(donor.constants), host.constants))

        for slot in a.slots:
            yield Binding(slot, names, partial(_written, written, slot))
        return
    if len(ours.slots) != len(theirs.slots):
        raise AnalysisError(
            f"'{host.title(ours)}' and '{donor.title(theirs)}' read different weights"
        )
    for slot, other in zip(ours.slots, theirs.slots, strict=True):
        yield from _slot_bindings(host, slot, donor, other)


def _written(arrays: Callable[[], dict[Slot, Array]], slot: Slot) -> Array:
    return arrays()[slot]


def _slot_bindings(
    host: NormalForm, slot: Slot, donor: NormalForm, other: Slot
) -> Iterator[Binding]:
    leaves, others = _leaf_uses(host, slot), _leaf_uses(donor, other)
    alike = (
        leaves is not None
        and others is not None
        and host.constants.structure(slot.tensor) == donor.constants.structure(other.tensor)
        and [_kind(host.constants, leaf.tensor) for leaf in leaves]
        == [_kind(donor.constants, leaf.tensor) for leaf in others]
    )
    if not alike or leaves is None or others is None:
        leaves, others = [slot], [other]
    for leaf, source in zip(leaves, others, strict=True):
        name = _stored_name(donor.constants, source.tensor)
        shape = host.constants.dtype_and_shape(leaf.tensor)[1]
        yield Binding(leaf, (name,), _reader(donor.constants, source.tensor, shape))


def _reader(
    constants: Constants, tensor: str, shape: tuple[int | None, ...] | None
) -> Callable[[], Array]:
    sides = tuple(d or 0 for d in shape or ())
    return lambda: constants.array(tensor).reshape(sides)  # (1, n) and (n,) act alike


def _same_weights(host: NormalForm, ours: Operator, donor: NormalForm, theirs: Operator) -> bool:
    a, b = ours.affine, theirs.affine
    if a is not None and b is not None and a.form != b.form:
        acting, other = a.acting(host.constants), b.acting(donor.constants)
        return all(_equal(x, y) for x, y in zip(acting, other, strict=True))
    return all(
        _same_constant(host.constants, slot.tensor, donor.constants, other.tensor)
        for slot, other in zip(ours.slots, theirs.slots, strict=True)
    )


def _same_constant(host: Constants, name: str, donor: Constants, other: str) -> bool:
    structure = host.structure(name)
    if structure and structure == donor.structure(other):
        return host.digest(name) == donor.digest(other)
    return _equal(host.array(name), donor.array(other))


def _equal(first: Array | None, second: Array | None) -> bool:
    """Equal in every bit, so that NaN equals itself and 0 is not -0."""
    if first is None or second is None:
        return first is second
    if first.dtype != second.dtype or first.size != second.size:
        return False
    ours, theirs = (np.ascontiguousarray(a).reshape(-1).view(np.uint8) for a in (first, second))
    return bool(np.array_equal(ours, theirs))


def _leaf_uses(form: NormalForm, slot: Slot) -> list[Slot] | None:
    """Where the stored weights behind an operand are read; None if others read them by the way."""
    if form.constants.stored(slot.tensor) is not None:
        return [slot]
    readers, found = _readers(form), []
    places = {name: i for i, node in enumerate(form.graph.nodes) for name in node.outputs}
    waiting = [slot]
    while waiting:
        use = waiting.pop()
        if form.constants.stored(use.tensor) is not None:
            found.append(use)
            continue
        maker = places.get(use.tensor)
        if maker is None or len(readers.get(use.tensor, ())) != 1:
            return None
        inputs = form.graph.nodes[maker].inputs
        waiting.extend(
            Slot(maker, k, name) for k, name in reversed(list(enumerate(inputs))) if name
        )
    return found


def _readers(form: NormalForm) -> dict[str, list[tuple[int, int]]]:
    """Tensor -> every (node, operand) that reads it; subgraphs and answers count as position -1."""
    found: dict[str, list[tuple[int, int]]] = {}
    for i, node in enumerate(form.graph.nodes):
        for k, name in enumerate(node.inputs):
            found.setdefault(name, []).append((i, k))
        for name in node.outer:
            found.setdefault(name, []).append((i, -1))
    for name in form.graph.outputs:
        found.setdefault(name, []).append((-1, -1))
    return found


def _stored_name(constants: Constants, tensor: str) -> str:
    weight = constants.stored(tensor)
    return tensor if weight is None else weight.name


def _kind(constants: Constants, tensor: str) -> tuple[int, int]:
    dtype, shape = constants.dtype_and_shape(tensor)
    return dtype, int(np.prod([d or 0 for d in shape or ()]))


def _free(name: str, taken: set[str]) -> str:
    """The name, with a number behind it if it is taken."""
    if name not in taken:
        return name
    number = 2
    while f"{name}{number}" in taken:
        number += 1
    return f"{name}{number}"
