"""Operator by operator, that two regions are the same computation: found, and proved, by walking.

Equal symbols in a row are a hint. What makes a segment is that the walk from the exits back to the
entries pairs every operator of one region with one of the other, in the same roles.
"""

from __future__ import annotations

from collections.abc import Sequence

from sommelier.analysis.segments.normal_form import NormalForm, digest


def region(form: NormalForm, entry: str, end: str) -> tuple[int, ...] | None:
    """The operators between two tensors, ascending; None unless `entry` is all they read and
    `end` is all that is read of them."""
    start = form.makers.get(end)
    if start is None or entry == end:
        return None
    found = {start}
    waiting = [start]
    while waiting:
        operator = form.operators[waiting.pop()]
        if not operator.inputs:
            return None
        for name in operator.inputs:
            maker = form.makers.get(name)
            if name == entry:
                continue
            if maker is None:
                return None  # reads an input of the model past the entry
            if maker not in found:
                found.add(maker)
                waiting.append(maker)
    for i in found:
        for name in form.operators[i].outputs:
            if name != end and any(r not in found for r in form.readers.get(name, ())):
                return None
    reads_entry = any(entry in form.operators[i].inputs for i in found)
    return tuple(sorted(found)) if reads_entry else None


def pair(
    host: NormalForm, host_operators: Sequence[int], host_ends: tuple[str, str],
    donor: NormalForm, donor_operators: Sequence[int], donor_ends: tuple[str, str],
) -> tuple[tuple[int, int], ...] | None:  # fmt: skip
    """(host operator, donor operator) for every operator, ascending; None if they do not fit.

    ends : (entry, exit) tensors. Operands of commutative operators are put in order by labels that
    know what is before and behind them; what those cannot tell apart is interchangeable.
    """
    if len(host_operators) != len(donor_operators):
        return None
    ours = _labels(host, host_operators, host_ends)
    theirs = _labels(donor, donor_operators, donor_ends)
    mapping: dict[int, int] = {}
    waiting = [(host_ends[1], donor_ends[1])]
    while waiting:
        a, b = waiting.pop()
        if (a == host_ends[0]) != (b == donor_ends[0]):
            return None
        if a == host_ends[0]:
            continue
        i, j = host.makers.get(a, -1), donor.makers.get(b, -1)
        if i not in ours or j not in theirs or _place(host, a) != _place(donor, b):
            return None
        if i in mapping:
            if mapping[i] != j:
                return None
            continue
        if host.operators[i].symbol != donor.operators[j].symbol:
            return None
        mapping[i] = j
        waiting += zip(_operands(host, i, ours, host_ends[0]),
                       _operands(donor, j, theirs, donor_ends[0]), strict=True)  # fmt: skip
    one_to_one = len(set(mapping.values())) == len(mapping) == len(host_operators)
    return tuple(sorted(mapping.items())) if one_to_one else None


def _place(form: NormalForm, tensor: str) -> int:
    """Which output of its maker the tensor is."""
    operator = form.operators[form.makers[tensor]]
    return form.graph.nodes[operator.nodes[-1]].outputs.index(tensor)


def _operands(form: NormalForm, i: int, labels: dict[int, str], entry: str) -> list[str]:
    operator = form.operators[i]
    if not operator.commutative:
        return list(operator.inputs)

    def order(name: str) -> tuple[str, int]:
        if name == entry:
            return "", 0
        return labels.get(form.makers.get(name, -1), ""), _place(form, name)

    return sorted(operator.inputs, key=order)


def _labels(form: NormalForm, operators: Sequence[int], ends: tuple[str, str]) -> dict[int, str]:
    """A label per operator from all that is before it in the region, and all that is behind it."""
    up: dict[int, str] = {}
    for i in operators:
        operator = form.operators[i]
        known = [
            "entry" if name == ends[0] else up.get(form.makers.get(name, -1), "outside")
            for name in operator.inputs
        ]
        up[i] = digest(operator.symbol, sorted(known) if operator.commutative else known)
    down: dict[int, str] = {}
    for i in reversed(operators):
        behind = []
        for name in form.operators[i].outputs:
            for reader in form.readers.get(name, ()):
                if reader in down:
                    other = form.operators[reader]
                    place = -1 if other.commutative else other.inputs.index(name)
                    behind.append((down[reader], place))
        down[i] = digest(up[i], sorted(behind))
    return down
