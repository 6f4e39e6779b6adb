"""Datasets: what was registered under a name, and its items, read one by one.

Nothing is unpickled: arrays of Python objects are refused. A dataset's id is the hash of its
content and of what its items and labels are, whether that was written in options or found.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis import labels as label_names
from sommelier.analysis.dataset_readers import (
    READERS,
    Items,
    Reading,
    array_items,
    reader_of,
)
from sommelier.errors import DatasetError
from sommelier.records import Dataset, LabelSpace

if TYPE_CHECKING:
    from sommelier.storage.catalog import Catalog

KINDS = ("image", "array", "file")
OPTIONS: dict[str, str] = {
    "x": "name of the array or columns that hold the inputs",
    "y": "name of the array or column that holds the labels ('label' means the same)",
    "labels": "names in index order, a text file of them, or a map from found to wanted names",
    "label_from": "folder, prefix (before the first '_'), extension, or none",
    "kind": "image, array or file",
    "classes": "number of classes, when the labels do not show them all",
    "held_out": "true if no model was trained on it",
    "id": "name of the array or column that says what each item is called; files have their names",
}
"""What REGISTER DATASET ... WITH may say."""


@dataclass(slots=True)
class LoadedDataset:
    """A dataset that is open: use it in a `with` block, or call `close`.

    labels : int32 (samples,), -1 where an item has none; None for an unlabelled dataset.
    label_space : None when the labels are bare numbers without names.
    classes : how many classes the labels have; None without labels.
    ids : what each item is called, to pair it with another dataset's; None where nothing says so.
    """

    record: Dataset
    label_space: LabelSpace | None
    labels: NDArray[np.int32] | None
    classes: int | None
    _items: Items
    ids: list[str] | None = None

    def __len__(self) -> int:
        return self.record.samples

    def item(self, index: int) -> NDArray[Any] | bytes:
        """One item: a picture (h, w, c), an array, or the bytes of a file."""
        return self._items.read(index)

    def items(self, indices: Sequence[int]) -> list[NDArray[Any] | bytes]:
        """The items at these positions, in this order."""
        return [self._items.read(int(index)) for index in indices]

    def close(self) -> None:
        """Lets go of open files; further reads fail."""
        self._items.close()

    def __enter__(self) -> LoadedDataset:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def load(
    path: Path | str, options: Mapping[str, Any] | None = None, name: str | None = None
) -> LoadedDataset:
    """The dataset in a file or folder. Raises DatasetError saying what is there instead."""
    return _open(Path(path).expanduser(), _checked_options(options or {}), name, None)


def register(
    catalog: Catalog, path: Path | str, options: Mapping[str, Any] | None, name: str
) -> Dataset:
    """The catalog's new record of the dataset; its label space is recorded too.

    Raises DatasetError if the name stands for other content: what was measured says that name.
    """
    with load(path, options, name) as dataset:
        known = {other.name: other.id for other in catalog.datasets()}
        if known.get(name, dataset.record.id) != dataset.record.id:
            raise DatasetError(
                f"there is a dataset '{name}' with other content or other options",
                hint=f"choose another name, or DROP DATASET {name} and what was measured on it",
            )
        with catalog.transaction():
            if dataset.label_space is not None:
                catalog.add_label_space(dataset.label_space)
            catalog.add_dataset(dataset.record)
        return dataset.record


def in_memory(inputs: NDArray[Any], name: str = "inputs") -> LoadedDataset:
    """Unlabelled items (samples, ...) that are in memory already; nothing is registered."""
    reading = array_items(inputs, name)
    record = Dataset(
        id=f"memory:{name}",
        name=name,
        kind=reading.kind,
        path=Path(),
        samples=len(reading.items),
        item_shape=reading.item_shape,
        dtype=reading.dtype,
        labelled=False,
        label_space_id=None,
    )
    return LoadedDataset(record, None, None, None, reading.items)


def reopen(record: Dataset, *, verify: bool = True) -> LoadedDataset:
    """A registered dataset, open again. Raises DatasetError if its content has changed since.

    verify=False spares hashing the content: for the many readers of one verified statement.
    """
    identity = None if verify else record.id
    dataset = _open(_existing(record.path), record.options, record.name, identity)
    if dataset.record.id != record.id:
        dataset.close()
        raise DatasetError(
            f"dataset '{record.name}' has changed since it was registered ({record.path})",
            hint="register it again under a new name",
        )
    return dataset


def _as_asked(reading: Reading, chosen: Mapping[str, Any], name: str) -> Reading:
    """Items of the kind that was asked for: images may be taken as bare arrays, not the reverse."""
    asked = chosen.get("kind")
    if asked in (None, reading.kind):
        return reading
    if (asked, reading.kind) == ("array", "image"):
        return replace(reading, kind="array")
    shape = f" of shape {reading.item_shape}" if reading.item_shape else ""
    raise DatasetError(
        f"the items of '{name}' are of kind '{reading.kind}'{shape}, not '{asked}'",
        hint="arrays are images where each is (height, width, 1 or 3); leave out the option to take"
        " the items as what they are",
    )


def _open(
    place: Path, chosen: Mapping[str, Any], name: str | None, identity: str | None
) -> LoadedDataset:
    """The dataset; its content is hashed only where `identity` is not known."""
    reader = reader_of(_existing(place), chosen)
    name = name or place.stem
    reading = _as_asked(READERS[reader](place, chosen), chosen, name)
    labels, names = _named_labels(reading, chosen, place)
    classes = _classes(labels, names, chosen, name)
    space = label_names.label_space(f"{name} labels", names) if names else None
    kept, ids = reading.items, reading.ids
    if reading.keep is not None:
        kept = reading.items.subset(reading.keep)
        ids = None if ids is None else [ids[index] for index in reading.keep.tolist()]
    held_out = chosen.get("held_out")
    record = Dataset(
        id=identity or _identity(place, reading, labels, names),
        name=name,
        kind=reading.kind,
        path=place.resolve(),
        samples=len(kept),
        item_shape=reading.item_shape,
        dtype=reading.dtype,
        labelled=labels is not None,
        label_space_id=space.id if space else None,
        options=dict(chosen) | ({"classes": classes} if classes else {}),
        held_out=None if held_out is None else bool(held_out),
    )
    return LoadedDataset(record, space, labels, classes, kept, ids)


def _checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    chosen = {("y" if key == "label" else str(key)): value for key, value in options.items()}
    unknown = [key for key in chosen if key not in OPTIONS]
    if unknown:
        raise DatasetError(
            f"a dataset has no option '{unknown[0]}'", hint=f"options: {', '.join(OPTIONS)}"
        )
    if (kind := chosen.get("kind")) not in (None, *KINDS):
        raise DatasetError(f"kind = '{kind}' is not known", hint=f"write {' or '.join(KINDS)}")
    source = chosen.get("label_from")
    if source not in (None, "folder", "prefix", "extension", "none"):
        raise DatasetError(
            f"label_from = '{source}' is not known",
            hint="write folder, prefix, extension or none",
        )
    return {key: value for key, value in chosen.items() if value is not None}


def _existing(place: Path) -> Path:
    if place.exists():
        return place
    parent = place.parent
    if not parent.is_dir():
        raise DatasetError(f"there is no file or folder '{place}', nor a folder '{parent}'")
    beside = sorted(entry.name for entry in parent.iterdir())[:8]
    raise DatasetError(
        f"there is no file or folder '{place}'",
        hint=f"the folder has {', '.join(beside) or 'nothing'}",
    )


def _named_labels(
    reading: Reading, options: Mapping[str, Any], place: Path
) -> tuple[NDArray[np.int32] | None, tuple[str, ...] | None]:
    """Label ids per kept item and their names, the option `labels` applied."""
    given = options.get("labels")
    if reading.labels is None:
        if given:
            raise DatasetError(f"label names are given, but no labels were found in '{place}'")
        return None, None
    found, names = reading.labels, reading.label_names
    if isinstance(given, Mapping):
        return _renamed(reading, given)
    if given is not None:
        names = tuple(_label_lines(given, place))
        if found.size and int(found.max()) >= len(names):
            raise DatasetError(
                f"{len(names)} label names are given, but label {int(found.max())} occurs",
                hint="labels count from 0",
            )
    return found, names


def _renamed(
    reading: Reading, given: Mapping[str, str]
) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Found names replaced by wanted ones; names that are not in the map become 'no label'."""
    assert reading.labels is not None  # the caller looked
    if reading.label_names is None:
        raise DatasetError("a map of label names needs labels that are names, not numbers")
    names = tuple(sorted({str(value) for value in given.values()}))
    position = {name: index for index, name in enumerate(names)}
    table = np.array(
        [position.get(str(given.get(name)), label_names.NO_LABEL) for name in reading.label_names]
        or [label_names.NO_LABEL],
        dtype=np.int32,
    )
    return np.where(reading.labels < 0, label_names.NO_LABEL, table[reading.labels]), names


def _label_lines(given: object, place: Path) -> list[str]:
    if isinstance(given, str):
        file = Path(given) if Path(given).is_absolute() else place.parent / given
        if not file.is_file():
            raise DatasetError(f"there is no file of label names '{given}' beside '{place}'")
        return file.read_text(encoding="utf-8").splitlines()
    if isinstance(given, Sequence) and given:
        return [str(name) for name in given]
    raise DatasetError("labels is a list of names, a file with one name a line, or a map")


def _classes(
    labels: NDArray[np.int32] | None,
    names: tuple[str, ...] | None,
    options: Mapping[str, Any],
    name: str,
) -> int | None:
    if labels is None:
        return None
    seen = int(labels.max()) + 1 if labels.size else 0
    declared = int(options.get("classes", 0))
    if declared and declared < seen:
        raise DatasetError(f"classes = {declared}, but label {seen - 1} occurs in '{name}'")
    return len(names) if names else max(seen, declared)


def _identity(
    place: Path,
    reading: Reading,
    labels: NDArray[np.int32] | None,
    names: tuple[str, ...] | None,
) -> str:
    """The hash of the content, of which part of it the items are, and of their labels."""
    described = [reading.kind, reading.inputs, len(reading.items), names]
    digest = hashlib.sha256(json.dumps(described).encode())
    for array in (labels, reading.keep):
        digest.update(b"" if array is None else hashlib.sha256(array.tobytes()).digest())
    for file in [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file()):
        digest.update(str(file.relative_to(place) if place.is_dir() else "").encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return f"sha256:{digest.hexdigest()}"
