"""Two datasets of the same things, sound and picture say: which item of one belongs to which of
the other, and samples of both that are answered row by row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.datasets import LoadedDataset
from sommelier.analysis.probes import Probes, chosen_probes, dataset_probes, draw
from sommelier.errors import DatasetError
from sommelier.records import FIRST

FEWEST = 2  # shared ids below which two datasets have nothing to do with each other
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Pairs:
    """Items that belong together. source, target : int64 (n,) positions, in the order of the
    dataset whose name is first, so that both directions have the same samples row by row.

    note : what a reader of results should know of how they were found, or None.
    """

    source: NDArray[np.int64]
    target: NDArray[np.int64]
    note: str | None = None

    def __len__(self) -> int:
        return len(self.source)


def aligned(
    source: LoadedDataset,
    target: LoadedDataset,
    *,
    samples: int | None = None,
    sampling: str = "random",
    seed: int = 0,
) -> tuple[Probes, Probes]:
    """Probes of both datasets whose rows belong together; options as in dataset_probes.

    Two probe sets with ids of their own: the same items drawn otherwise are the same probe set.
    Raises DatasetError as `pairs`, and for a sample larger than the number of pairs.
    """
    if source.record.id == target.record.id:
        probes = dataset_probes(source, samples=samples, sampling=sampling, seed=seed)
        return probes, probes
    found = pairs(source, target)
    described = f"'{source.record.name}' and '{target.record.name}' share {len(found)} items"
    rows, drawn_by = draw(len(found), described, samples=samples, sampling=sampling, seed=seed)
    sides = ((source, found.source), (target, found.target))
    # items without a partner were never drawn from, so what is left of them is no random sample
    one, other = (
        chosen_probes(side, places[rows], seed=drawn_by if len(found) == len(side) else FIRST)
        for side, places in sides
    )
    return one, other


def pairs(source: LoadedDataset, target: LoadedDataset) -> Pairs:
    """All items of the two datasets that belong together.

    By id where both have ids; by position where neither has and they are equally long. Raises
    DatasetError for anything else, for an id that occurs twice, and for fewer than two pairs.
    """
    if source.ids is not None and target.ids is not None:
        return _by_id(source, target)
    names = f"'{source.record.name}' and '{target.record.name}'"
    if source.ids is None and target.ids is None and len(source) == len(target):
        places = np.arange(len(source), dtype=np.int64)
        return Pairs(places, places, f"the items of {names} are paired by position: none has an id")
    without = [side for side in (source, target) if side.ids is None]
    raise DatasetError(
        f"nothing says which items of {names} belong together: {_described(source)}, "
        f"{_described(target)}",
        hint="; ".join(_register(side) for side in without),
    )


def _by_id(source: LoadedDataset, target: LoadedDataset) -> Pairs:
    ours, theirs = _positions(source), _positions(target)
    shared = [(place, theirs[called]) for called, place in ours.items() if called in theirs]
    names = f"'{source.record.name}' and '{target.record.name}'"
    if len(shared) < FEWEST:
        raise DatasetError(
            f"{names} share {len(shared)} ids of {len(source)} and {len(target)}",
            hint=f"ids of '{source.record.name}': {_examples(ours)}; of "
            f"'{target.record.name}': {_examples(theirs)}",
        )
    note = None
    if len(shared) < max(len(source), len(target)):
        note = f"{names} share {len(shared)} items by id, of {len(source)} and {len(target)}"
    first = min((source, target), key=lambda side: (side.record.name, side.record.id))
    shared.sort(key=lambda pair: pair[1] if first is target else pair[0])
    found = np.array(shared, dtype=np.int64)
    return Pairs(found[:, 0].copy(), found[:, 1].copy(), note)


def _positions(dataset: LoadedDataset) -> dict[str, int]:
    """Where the item of each id is. Raises DatasetError for an id that occurs twice."""
    positions: dict[str, int] = {}
    for place, called in enumerate(dataset.ids or ()):
        if called in positions:
            raise DatasetError(
                f"'{dataset.record.name}' has the id '{called}' twice: items {positions[called]} "
                f"and {place}",
                hint="an id belongs to one item; register the dataset with ids that do",
            )
        positions[called] = place
    return positions


def _described(dataset: LoadedDataset) -> str:
    told = "no ids" if dataset.ids is None else f"ids such as '{dataset.ids[0]}'"
    return f"'{dataset.record.name}' has {len(dataset)} items and {told}"


def _register(dataset: LoadedDataset) -> str:
    record = dataset.record
    return f"REGISTER DATASET {record.name} FROM '{record.path}' USING id = 'its array of ids'"


def _examples(ids: dict[str, int]) -> str:
    return ", ".join(list(ids)[:_SHOWN])
