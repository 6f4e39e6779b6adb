"""Which row each model has: their order of insertion, read once and then only for what is new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sommelier.storage.model_ids import ABSENT, ModelIds

if TYPE_CHECKING:
    from sommelier.storage.database import Database


@dataclass(frozen=True, slots=True)
class Positions:
    """The order of the models. ids : by insertion. numbers : (n,) int32 models.number, ascending.
    of_number : number -> row, ABSENT where there is no such model."""

    ids: ModelIds
    numbers: NDArray[np.int32]
    of_number: NDArray[np.int32]


def read_positions(database: Database, before: Positions | None) -> Positions:
    """The order of the models now.

    before : what was read earlier; the same object when nothing came or went, and read on from its
    end when models only came. A model that was dropped moves others, so all are read again.
    """
    first = -1 if before is None or not len(before.ids) else int(before.numbers[-1])
    found = database.columns(
        "SELECT id, number FROM store.models WHERE number >= ? ORDER BY number", [first]
    )
    fresh, numbers = found["id"].tolist(), np.asarray(found["number"], dtype=np.int32)
    if before is None or first < 0:
        return _positions(ModelIds(fresh), numbers)
    counted = database.row("SELECT count(*) FROM store.models")
    known = len(before.ids) + len(fresh) - 1
    # the last one is read again: its number is given to the next model once it is dropped
    if not fresh or counted is None or counted[0] != known or fresh[0] != before.ids[-1]:
        return read_positions(database, None)
    if len(fresh) == 1:
        return before
    ids = before.ids.followed_by(fresh[1:])
    return _positions(ids, np.concatenate([before.numbers, numbers[1:]]))


def _positions(ids: ModelIds, numbers: NDArray[np.int32]) -> Positions:
    of_number = np.full(int(numbers[-1]) + 1 if len(numbers) else 1, ABSENT, dtype=np.int32)
    of_number[numbers] = np.arange(len(numbers), dtype=np.int32)
    return Positions(ids, numbers, of_number)
