"""Which parts of two models are the same operators, place by place, weights aside.

Sequences are aligned from the outside in: first the spines, then, where those differ, the branches
between matched parts, and so on. A matched run is cut wherever exactly one tensor passes; every
piece between two cuts is checked operator by operator, so a block is single-entry, single-exit and
the same computation in both models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from sommelier.analysis.segments.alignment import common_runs
from sommelier.analysis.segments.linear import OperatorSequence, Region, Step, linearise
from sommelier.analysis.segments.normal_form import NormalForm
from sommelier.analysis.segments.pairing import pair

SCALE = 2**31  # all FLOPs of the host, and once more all its parameters
PENALTY = 1  # for opening a run: less than any operator with weights is worth


@dataclass(frozen=True, slots=True)
class Block:
    """The smallest part that can be exchanged. pairs : (host operator, donor operator)."""

    host_entry: str
    host_exit: str
    donor_entry: str
    donor_exit: str
    pairs: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Gap:
    """Stretches between two runs where the models differ; `None` ends are not single tensors."""

    host: Stretch
    donor: Stretch


@dataclass(frozen=True, slots=True)
class Stretch:
    """items[start:stop] of a sequence."""

    sequence: OperatorSequence
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Match:
    """runs : blocks in a row, each beginning with the tensor the one before ends with."""

    runs: tuple[tuple[Block, ...], ...]
    gaps: tuple[Gap, ...]


def match(host: NormalForm, donor: NormalForm) -> Match:
    """What the two models have in common."""
    found = _Matcher(host, donor)
    found.match([linearise(host)], [linearise(donor)])
    return Match(tuple(found.runs), tuple(found.gaps))


def cuts(form: NormalForm, sequence: OperatorSequence) -> list[str | None]:
    """Per position 0..len(items) the one tensor that passes there; None if several or none do."""
    place = {o: k for k, item in enumerate(sequence.items) for o in item.operators}
    end = len(sequence.items)
    reach: dict[str, tuple[int, int]] = {}  # tensor -> made before this position, read up to that
    for o, k in place.items():
        operator = form.operators[o]
        for name in operator.inputs:
            made = place.get(form.makers.get(name, -1), -1)
            first, last = reach.get(name, (made + 1, k))
            reach[name] = (first, max(last, k))
        for name in operator.outputs:
            if any(reader not in place for reader in form.readers.get(name, ())):
                reach[name] = (k + 1, end)
    names = list(reach)
    count, which = [0] * (end + 2), [0] * (end + 2)
    for number, name in enumerate(names):
        first, last = reach[name]
        if first <= last:
            for at, sign in ((first, 1), (last + 1, -1)):
                count[at] += sign
                which[at] += sign * number
    found: list[str | None] = []
    passing = number = 0
    for k in range(end + 1):
        passing, number = passing + count[k], number + which[k]
        found.append(names[number] if passing == 1 else None)
    return found


class _Matcher:
    def __init__(self, host: NormalForm, donor: NormalForm) -> None:
        self.host, self.donor = host, donor
        self.weights = _weights(host)
        self.runs: list[tuple[Block, ...]] = []
        self.gaps: list[Gap] = []

    def match(self, host: list[OperatorSequence], donor: list[OperatorSequence]) -> None:
        """Adds the runs of these sequences and of what is inside them."""
        waiting = [(host, donor)]
        while waiting:
            ours, theirs = (_plain(sequences) for sequences in waiting.pop())
            if ours and theirs:
                waiting.extend(self._align(ours, theirs))

    def _align(
        self, ours: list[OperatorSequence], theirs: list[OperatorSequence]
    ) -> list[tuple[list[OperatorSequence], list[OperatorSequence]]]:
        """Aligns sequences laid end to end; answers what is left to compare within them."""
        a, b = _Row(ours, "host"), _Row(theirs, "donor")
        weights = [sum(self.weights[o] for o in item.operators) if item else 0 for item in a.items]
        left: list[tuple[list[OperatorSequence], list[OperatorSequence]]] = []
        last = (0, 0)
        for i, j, length in [
            *common_runs(a.symbols, b.symbols, weights, penalty=PENALTY),
            (len(a.items), len(b.items), 0),
        ]:
            left.append((a.branches(last[0], i), b.branches(last[1], j)))
            self._gap(a, last[0], i, b, last[1], j)
            if length:
                left.extend(self._run(a, i, b, j, length))
            last = (i + length, j + length)
        return [pair_ for pair_ in left if all(pair_)]

    def _gap(self, a: _Row, i: int, i_end: int, b: _Row, j: int, j_end: int) -> None:
        ours, theirs = a.stretch(i, i_end), b.stretch(j, j_end)
        if ours is not None and theirs is not None:
            self.gaps.append(Gap(ours, theirs))

    def _run(
        self, a: _Row, i: int, b: _Row, j: int, length: int
    ) -> list[tuple[list[OperatorSequence], list[OperatorSequence]]]:
        """Cuts a run into blocks; answers the regions that could not become part of one."""
        sequence, start = a.at(i)
        other, other_start = b.at(j)
        ours, theirs = cuts(self.host, sequence), cuts(self.donor, other)
        open_: list[tuple[int, str, str]] = []
        for k in range(length + 1):
            mine, yours = ours[start + k], theirs[other_start + k]
            if mine is not None and yours is not None:
                open_.append((k, mine, yours))
        blocks: list[Block] = []
        done: set[int] = set()
        for (first, entry, other_entry), (last, exit_, other_exit) in pairwise(open_):
            block = self._block(
                (entry, exit_), sequence.items[start + first : start + last],
                (other_entry, other_exit), other.items[other_start + first : other_start + last],
            )  # fmt: skip
            if block is None:
                self._close(blocks)
                continue
            blocks.append(block)
            done.update(range(first, last))
        self._close(blocks)
        return [
            (a.branches(i + k, i + k + 1), b.branches(j + k, j + k + 1))
            for k in range(length)
            if k not in done
        ]

    def _close(self, blocks: list[Block]) -> None:
        if blocks:
            self.runs.append(tuple(blocks))
            blocks.clear()

    def _block(
        self, ends: tuple[str, str], items: Sequence[Step | Region],
        other_ends: tuple[str, str], others: Sequence[Step | Region],
    ) -> Block | None:  # fmt: skip
        mine = sorted(o for item in items for o in item.operators)
        yours = sorted(o for item in others for o in item.operators)
        pairs = pair(self.host, mine, ends, self.donor, yours, other_ends)
        if pairs is None:
            return None
        return Block(ends[0], ends[1], other_ends[0], other_ends[1], pairs)


class _Row:
    """Sequences laid end to end with a mark between them that equals nothing."""

    def __init__(self, sequences: list[OperatorSequence], side: str) -> None:
        self.items: list[Step | Region | None] = []
        self.symbols: list[str] = []
        self._place: list[tuple[OperatorSequence, int] | None] = []
        for number, sequence in enumerate(sequences):
            for k, item in enumerate(sequence.items):
                self.items.append(item)
                self.symbols.append(item.symbol)
                self._place.append((sequence, k))
            self.items.append(None)
            self.symbols.append(f"end of {side} {number}")
            self._place.append(None)

    def at(self, position: int) -> tuple[OperatorSequence, int]:
        """The sequence an item is in, and its place there."""
        found = self._place[position]
        assert found is not None
        return found

    def branches(self, start: int, stop: int) -> list[OperatorSequence]:
        """The branches of all regions in a stretch."""
        regions = (item for item in self.items[start:stop] if isinstance(item, Region))
        return [branch for item in regions for branch in item.branches]

    def stretch(self, start: int, stop: int) -> Stretch | None:
        """The stretch within one sequence; None if it is empty or crosses an end."""
        places = self._place[start:stop]
        if places and places[-1] is None:
            places = places[:-1]
        if not places or None in places:
            return None
        sequence, first = self.at(start)
        return Stretch(sequence, first, first + len(places))


def _plain(sequences: list[OperatorSequence]) -> list[OperatorSequence]:
    """The sequences, lumps replaced by the chains inside them."""
    found: list[OperatorSequence] = []
    for sequence in sequences:
        found.extend(sequence.inner if sequence.lump else [sequence])
    return found


def _weights(form: NormalForm) -> list[int]:
    """What matching an operator is worth: its share of the FLOPs and its share of the parameters.

    Both, since a convolution has many FLOPs and few weights, and a fully connected layer the
    reverse.
    """
    flops = [f or 0.0 for f in form.flops]
    all_flops, all_params = sum(flops) or 1.0, sum(form.params) or 1
    return [
        1 + round(SCALE * f / all_flops) + round(SCALE * p / all_params)
        for f, p in zip(flops, form.params, strict=True)
    ]
