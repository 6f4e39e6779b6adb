"""Runs of common operators in the pieces a person would name.

A run is divided between stages (where the resolution of the activations changes) and where weights
stop or start being identical, so that a frozen prefix is a segment of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from sommelier.analysis.segments.bindings import identical
from sommelier.analysis.segments.matching import Block, Match
from sommelier.analysis.segments.normal_form import QUANTISERS, NormalForm

Split = Literal["run", "stage", "block"]
SMALLEST = 0.01  # share of FLOPs or parameters that makes a stage a segment of its own


def divided(
    pair: tuple[NormalForm, NormalForm], matched: Match, split: Split
) -> Iterator[list[Block]]:
    """Runs in the pieces that become segments, each with weights."""
    host = pair[0]
    worth = _Worth(host)
    for run in matched.runs:
        pieces: list[_Piece] = []
        for block in run:
            here = _Piece.of(block, pair)
            if pieces and not pieces[-1].parted_from(here, worth, split):
                pieces[-1] = pieces[-1].with_(here)
            else:
                pieces.append(here)
        while len(pieces) > 1 and (pieces[-1].same is None or not worth(pieces[-1].blocks)):
            last = pieces.pop()
            if (last.same is not None and pieces[-1].same != last.same) or split == "block":
                pieces.append(last)
                break
            pieces[-1] = pieces[-1].with_(last)
        yield from ([*piece.blocks] for piece in pieces if _learns(host, piece.blocks))


@dataclass(frozen=True, slots=True)
class _Piece:
    """Blocks in a row. stage : where the last one belongs. same : whether all weights are
    identical; None without weights that matter."""

    blocks: tuple[Block, ...]
    stage: object
    same: bool | None

    @classmethod
    def of(cls, block: Block, pair: tuple[NormalForm, NormalForm]) -> _Piece:
        operators = [i for i, _ in block.pairs]
        weighty = any(pair[0].operators[i].slots for i in operators)
        same = identical(*pair, block.pairs) if weighty else None
        if same and not computes(pair[0], operators):
            same = None  # equal scales or priors: no border between frozen and trained layers
        return cls((block,), _stage(pair[0], block), same)

    def with_(self, other: _Piece) -> _Piece:
        states = {self.same, other.same} - {None}
        same = None if not states else states == {True}
        return _Piece((*self.blocks, *other.blocks), other.stage, same)

    def parted_from(self, other: _Piece, worth: _Worth, split: Split) -> bool:
        """Whether a new segment begins with `other`, the block that follows."""
        if split == "run":
            return False
        if split == "block":
            return other.same is not None or self.same is None
        if self.same is None:
            return False
        if other.same is not None and other.same != self.same:
            return True
        return self.stage != other.stage and worth(self.blocks)


class _Worth:
    """Whether blocks hold at least SMALLEST of the host's FLOPs or of its parameters."""

    def __init__(self, form: NormalForm) -> None:
        self.form = form
        self.flops = sum(f or 0.0 for f in form.flops) or 1.0
        self.params = sum(form.params) or 1

    def __call__(self, blocks: Sequence[Block]) -> bool:
        operators = [i for block in blocks for i, _ in block.pairs]
        flops = sum(self.form.flops[i] or 0.0 for i in operators)
        params = sum(self.form.params[i] for i in operators)
        return flops >= SMALLEST * self.flops or params >= SMALLEST * self.params


def _learns(form: NormalForm, blocks: Sequence[Block]) -> bool:
    """Whether there is more to exchange than the scales of quantised activations."""
    operators = (form.operators[i] for block in blocks for i, _ in block.pairs)
    return any(operator.slots and operator.op not in QUANTISERS for operator in operators)


def _stage(form: NormalForm, block: Block) -> object:
    """What stays the same throughout a stage: the resolution the block works towards."""
    _, shape = form.kind(block.host_exit)
    return resolution(shape)


def resolution(shape: tuple[int | None, ...] | None) -> object:
    """The part of a shape that a stage keeps: all but batch and channels.

    >>> resolution((1, 16, 32, 32)) == resolution((1, 64, 32, 32)), resolution((1, 10))
    (True, (2,))
    """
    if shape is None:
        return None
    return (len(shape), *(shape[2:] if len(shape) > 3 else shape[1:] if len(shape) == 3 else ()))


def computes(form: NormalForm, operators: Sequence[int]) -> bool:
    """Whether anything is multiplied there, so that an exchange is worth a measurement."""
    return any(form.operators[i].slots and form.flops[i] != 0.0 for i in operators)
