"""What the items of a dataset are called, so that another dataset's can be found beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.errors import DatasetError

if TYPE_CHECKING:
    from sommelier.analysis.dataset_readers import Reading


def item_ids(values: NDArray[Any], reading: Reading, place: Path) -> list[str]:
    """Text or whole numbers, one an item of `reading`, as text.

    Raises DatasetError where an item has none or the number of ids is another.
    """
    flat, count = np.squeeze(values), len(reading.items)
    if flat.shape != (count,):
        raise DatasetError(f"'{place.name}' has {count} items but ids of shape {values.shape}")
    return [_as_text(value, position, place) for position, value in enumerate(flat.tolist())]


def file_ids(names: Sequence[str]) -> list[str]:
    """Names of files without folder and suffix; with their folders where two would be equal.

    >>> file_ids(["0/bo_1.wav", "1/al_1.wav"])
    ['bo_1', 'al_1']
    >>> file_ids(["bo/1.wav", "al/1.wav"])
    ['bo/1', 'al/1']
    """
    paths = [PurePosixPath(name) for name in names]
    stems = [path.stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    return [path.with_suffix("").as_posix() for path in paths]


def _as_text(value: object, position: int, place: Path) -> str:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
        raise DatasetError(
            f"item {position} of '{place.name}' has the id {value!r}",
            hint="ids are text or whole numbers, one for every item",
        )
    return str(value)
