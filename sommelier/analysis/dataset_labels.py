"""The labels of a dataset's items: from an array, or from the names of files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.errors import DatasetError

Array = NDArray[Any]


def file_labels(names: Sequence[str], source: str | None) -> list[str | None] | None:
    """The label of each file name, or None for an unlabelled dataset.

    Without `label_from`: class folders if every file is in one, else `<label>_...` names if they
    tell at least two labels apart.
    """
    paths = [PurePosixPath(name) for name in names]
    if source == "none":
        return None
    if source == "extension":
        return [path.suffix.lower().lstrip(".") or None for path in paths]
    folders = [path.parent.name or None for path in paths]
    prefixes = [path.name.split("_", 1)[0] if "_" in path.name else None for path in paths]
    if source == "folder" or (source is None and None not in folders and len(set(folders)) > 1):
        return folders
    if source == "prefix" or (None not in prefixes and len(set(prefixes)) > 1):
        return prefixes
    return None


def numbered(
    keys: list[str | None] | None,
) -> tuple[NDArray[np.int32] | None, tuple[str, ...] | None, NDArray[np.int64] | None]:
    """Label ids in sorted order of the names; files without a label are left out."""
    if keys is None:
        return None, None, None
    names = tuple(sorted({key for key in keys if key is not None}))
    position = {name: index for index, name in enumerate(names)}
    kept = [index for index, key in enumerate(keys) if key is not None]
    ids = np.array([position[str(keys[index])] for index in kept], dtype=np.int32)
    return ids, names, None if len(kept) == len(keys) else np.array(kept, dtype=np.int64)


def label_ids(
    labels: Array, count: int, name: str
) -> tuple[NDArray[np.int32], tuple[str, ...] | None]:
    """Label ids int32 (count,), and names if the labels are text; integers stay as they are."""
    flat = np.squeeze(np.asarray(labels))
    if flat.shape != (count,):
        raise DatasetError(f"'{name}' has {count} items but labels of shape {np.shape(labels)}")
    if flat.dtype.kind == "O" and all(isinstance(value, str) for value in flat):
        flat = flat.astype(str)
    if flat.dtype.kind == "U":
        names, ids = np.unique(flat, return_inverse=True)
        return ids.astype(np.int32), tuple(str(name) for name in names)
    whole = flat.dtype.kind in "biu" or (
        flat.dtype.kind == "f" and bool(np.all(np.isfinite(flat)) and np.all(flat == flat.round()))
    )
    if not whole or (flat.size and flat.min() < 0):
        raise DatasetError(
            f"the labels in '{name}' are not class numbers from 0 nor names ({flat.dtype})",
            hint="choose the label array with y = ..., or y = none",
        )
    return flat.astype(np.int32), None
