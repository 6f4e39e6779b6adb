"""Errors of aligned layers, sample by sample, in chunks that fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.differences import activations
from sommelier.analysis.differences.activations import Extent
from sommelier.analysis.differences.pairing import Pair
from sommelier.analysis.differences.subjects import Subject

if TYPE_CHECKING:
    from onnx import ModelProto

Array = NDArray[Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Errors:
    """Of one pair of layers, float64 (samples,) each.

    relative : |candidate - reference| / |reference| in L2. cosine : of the two. largest : absolute
    error of an element. root : |reference| / sqrt(elements). layout : what the candidate's axes
    had to become, '' for nothing. elements : of one sample.
    """

    relative: Floats
    cosine: Floats
    largest: Floats
    root: Floats
    layout: str
    elements: int


class _Gathering:
    """The errors of one pair, chunk after chunk."""

    def __init__(self) -> None:
        self.layout: tuple[str, Callable[[Array], Array]] | None = None
        self.rows: list[Floats] = []
        self.elements = 0

    def add(self, reference: Array, candidate: Array) -> None:
        ours, theirs = _squeezed(reference), _squeezed(candidate)
        self.elements = ours[0].size
        if self.layout is None:
            self.layout = _layout(ours, theirs)
        if self.layout is None:
            self.rows.append(np.full((4, len(ours)), np.nan))
            return
        self.rows.append(_errors(ours, self.layout[1](theirs)))

    def result(self) -> Errors:
        relative, cosine, largest, root = np.concatenate(self.rows, axis=1)
        name = "" if self.layout is None else self.layout[0]
        return Errors(relative, cosine, largest, root, name, self.elements)


def measure(
    models: tuple[ModelProto, ModelProto], subjects: tuple[Subject, Subject],
    pairs: Sequence[Pair], extent: Extent,
) -> list[Errors]:  # fmt: skip
    """The errors of every pair over the first samples; one run of each model a group of pairs."""
    fixed = max(s.fixed_batch or 1 for s in subjects)
    sizes = [(p.reference_tap.nbytes + p.candidate_tap.nbytes) * fixed for p in pairs]
    parts = activations.groups(sizes, extent.memory)
    found: list[Errors] = []
    done = 0
    for part in parts:
        chosen = [pairs[k] for k in part]
        gathered = [_Gathering() for _ in chosen]
        whole = all(p.reference_tap.batched and p.candidate_tap.batched for p in chosen)
        each = sum(sizes[k] for k in part) // fixed
        batch = activations.batch_within(each, extent.memory) if whole else 1
        streams = [
            activations.read(model, subject, taps, samples=extent.samples, batch=batch)
            for model, subject, taps in zip(
                models, subjects,
                ([p.reference_tap for p in chosen], [p.candidate_tap for p in chosen]), strict=True,
            )
        ]  # fmt: skip
        for ours, theirs in _in_step(streams[0], streams[1]):
            for pair, rows in zip(chosen, gathered, strict=True):
                rows.add(ours[pair.reference_tap.tensor], theirs[pair.candidate_tap.tensor])
            done += len(next(iter(ours.values())))
            if extent.progress is not None:
                extent.progress(done, extent.samples * len(parts))
        found += [rows.result() for rows in gathered]
    return found


def _in_step(
    first: Iterator[activations.Values], second: Iterator[activations.Values]
) -> Iterator[tuple[activations.Values, activations.Values]]:
    """Chunks of equal length from two streams that may have been cut differently."""
    held: list[activations.Values] = [{}, {}]
    streams = (first, second)
    while True:
        for k in (0, 1):
            if not held[k] or not len(next(iter(held[k].values()))):
                more = next(streams[k], None)
                if more is None:
                    return
                held[k] = more
        count = min(len(next(iter(values.values()))) for values in held)
        yield (
            {name: array[:count] for name, array in held[0].items()},
            {name: array[:count] for name, array in held[1].items()},
        )
        held = [{name: array[count:] for name, array in values.items()} for values in held]


def _squeezed(array: Array) -> Array:
    """(n, ...) without further axes of length 1."""
    return array.reshape([len(array), *(d for d in array.shape[1:] if d != 1)])


def _layout(reference: Array, candidate: Array) -> tuple[str, Callable[[Array], Array]] | None:
    """How the candidate's axes become the reference's; of several ways the one of least error."""
    rank, target = candidate.ndim, reference.shape[1:]
    ways: list[tuple[str, Sequence[int]]] = [("", range(rank))]
    if rank > 2:
        ways.append(("channels first", [0, rank - 1, *range(1, rank - 1)]))
        ways.append(("channels last", [0, *range(2, rank), 1]))
    best: tuple[float, str, Callable[[Array], Array]] | None = None
    for name, order in ways:
        turned = candidate.transpose(order)
        flat = turned.shape != reference.shape
        if flat and (rank == reference.ndim or turned[0].size != reference[0].size):
            continue

        def turn(array: Array, order: Sequence[int] = tuple(order)) -> Array:
            return array.transpose(order).reshape(len(array), *target)

        error = float(np.mean(np.nan_to_num(_errors(reference, turn(candidate))[0], nan=np.inf)))
        if best is None or error < best[0]:
            best = (error, name, turn)
    return None if best is None else best[1:]


def _errors(reference: Array, candidate: Array) -> Floats:
    """(4, n) : relative, cosine, largest, root."""
    wanted = reference.reshape(len(reference), -1).astype(np.float64)
    given = candidate.reshape(len(candidate), -1).astype(np.float64)
    with np.errstate(all="ignore"):
        gap = given - wanted
        distance = np.linalg.norm(gap, axis=1)
        size, other = np.linalg.norm(wanted, axis=1), np.linalg.norm(given, axis=1)
        relative = np.where(distance == 0, 0.0, distance / size)
        cosine = np.einsum("ij,ij->i", wanted, given) / (size * other)
        cosine = np.where(distance == 0, 1.0, cosine)
        largest = np.abs(gap).max(axis=1, initial=0.0)
        root = size / np.sqrt(max(1, wanted.shape[1]))
    return np.stack([relative, cosine, largest, root])
