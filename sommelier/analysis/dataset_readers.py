"""Readers of dataset files: npz, npy, CSV, Parquet, folders and zip files of pictures or files.

A reader opens, looks, and hands out items one at a time; only arrays that are compressed as a
whole (npz, CSV, Parquet) are read at once. Each says in its error what the file does contain.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.dataset_ids import file_ids, item_ids
from sommelier.analysis.dataset_labels import file_labels, label_ids, numbered
from sommelier.errors import DatasetError, MissingDependencyError

Array = NDArray[Any]
Options = Mapping[str, Any]

MAX_ARRAY_BYTES = 8 * 2**30
MAX_ITEM_BYTES = 256 * 2**20
MAX_FILES = 500_000
IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"))
INPUT_NAMES = ("x", "x_test", "images", "image", "data", "inputs", "features")
LABEL_NAMES = ("y", "y_test", "labels", "label", "targets", "target", "class", "species")
_WORDNET = re.compile(r"n\d{8}")


@dataclass(frozen=True, slots=True)
class Items:
    """Random access to the items; `close` lets go of open files."""

    read: Callable[[int], Array | bytes]
    count: int
    close: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return self.count

    def subset(self, indices: NDArray[np.int64]) -> Items:
        """The items at these positions only, renumbered."""
        return Items(lambda i: self.read(int(indices[i])), len(indices), self.close)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader found. labels : int32 (items kept,). label_names : None for bare numbers.
    inputs : the array or columns that hold the items, where a file has several.
    ids : what each item is called, of all items, where the dataset says so."""

    kind: str
    items: Items
    item_shape: tuple[int, ...] | None
    dtype: str | None
    labels: NDArray[np.int32] | None = None
    label_names: tuple[str, ...] | None = None
    keep: NDArray[np.int64] | None = None  # items that are used; None: all
    inputs: tuple[str, ...] = ()
    ids: list[str] | None = None


def reader_of(place: Path, options: Options) -> str:
    """The name of the reader for a path, from its suffix; raises DatasetError listing them."""
    if place.is_dir():
        return "folder"
    suffix = place.suffix.lower().lstrip(".")
    suffix = {"pq": "parquet", "tsv": "csv"}.get(suffix, suffix)
    if suffix not in READERS or suffix == "folder":
        raise DatasetError(
            f"'{place.name}' is not a dataset file",
            hint=f"readable are {', '.join(sorted(READERS))}"
            + (" (kind = file needs a folder or zip)" if options.get("kind") == "file" else ""),
        )
    return suffix


def array_items(inputs: Array, name: str, labels: Array | None = None) -> Reading:
    """Items (and labels) of arrays whose first axis counts them."""
    if inputs.ndim < 1 or not len(inputs):
        raise DatasetError(f"the inputs in '{name}' have shape {inputs.shape}: no items")
    if inputs.dtype.kind not in "biuf":
        raise DatasetError(f"the inputs in '{name}' are of type {inputs.dtype}, not numbers")
    ids, names = (None, None) if labels is None else label_ids(labels, len(inputs), name)
    kind = "image" if inputs.ndim == 4 and inputs.shape[3] in (1, 3) else "array"
    return Reading(
        kind=kind,
        items=Items(lambda i: np.asarray(inputs[i]), len(inputs)),
        item_shape=tuple(int(side) for side in inputs.shape[1:]),
        dtype=inputs.dtype.name,
        labels=ids,
        label_names=names,
    )


def read_npz(place: Path, options: Options) -> Reading:
    """Arrays of a .npz file: inputs `x`, labels `y`, by option or by usual names."""
    try:
        archive = np.load(place, allow_pickle=False)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DatasetError(f"'{place}' is not a readable npz file: {error}") from error
    with archive:
        _refuse_large_members(place)
        id_name = _chosen(options.get("id"), (), archive.files, "id", place)
        others = [name for name in archive.files if name != id_name]
        x_name = _chosen(options.get("x"), INPUT_NAMES, others, "x", place)
        if x_name is None:
            raise DatasetError(
                f"which array of '{place.name}' holds the inputs?",
                hint=f"write x = one of {', '.join(others)}",
            )
        inputs = _array(archive, x_name, place)
        y_name = _chosen(options.get("y"), LABEL_NAMES, others, "y", place)
        labels = None if y_name in (None, x_name) else _array(archive, str(y_name), place)
        called = None if id_name is None else _array(archive, id_name, place)
    reading = replace(array_items(inputs, place.name, labels), inputs=(x_name,))
    return reading if called is None else replace(reading, ids=item_ids(called, reading, place))


def read_npy(place: Path, options: Options) -> Reading:
    """One array, memory-mapped; labels and ids from files beside it named by options `y`, `id`."""
    inputs = _mapped(place)
    labels, called = (_beside(place, options, key, what) for key, what in _BESIDE.items())
    reading = array_items(inputs, place.name, labels)
    return reading if called is None else replace(reading, ids=item_ids(called, reading, place))


def read_csv(place: Path, options: Options) -> Reading:
    """Numeric columns as float64 items; one column of labels, by option or usual names."""
    import pandas as pd

    separator = "\t" if place.suffix.lower() == ".tsv" else ","
    try:
        table = pd.read_csv(place, sep=separator)
    except (OSError, ValueError) as error:
        raise DatasetError(f"'{place}' is not a readable CSV file: {error}") from error
    return _from_table(table, options, place)


def read_parquet(place: Path, options: Options) -> Reading:
    """Like CSV; a column of pictures ({'bytes': ...} as in Hugging Face datasets) or of lists
    may hold the items."""
    import pandas as pd

    try:
        table = pd.read_parquet(place)
    except ImportError as error:
        raise MissingDependencyError(
            "reading Parquet needs pyarrow", hint="pip install 'sommelier-db[arrow]'"
        ) from error
    except (OSError, ValueError) as error:
        raise DatasetError(f"'{place}' is not a readable Parquet file: {error}") from error
    return _from_table(table, options, place)


def read_folder(place: Path, options: Options) -> Reading:
    """Pictures or files below a folder, in sorted order of their paths."""
    found = (path.relative_to(place) for path in place.rglob("*") if path.is_file())
    names = sorted(p.as_posix() for p in found if not any(part[0] == "." for part in p.parts))

    def content(name: str) -> bytes:
        path = place / name
        if path.stat().st_size > MAX_ITEM_BYTES:
            raise DatasetError(f"'{path}' has more than {MAX_ITEM_BYTES >> 20} MiB")
        return path.read_bytes()

    return _from_files(names, content, lambda: None, options, place)


def read_zip(place: Path, options: Options) -> Reading:
    """Pictures or files inside a zip, read in place, in sorted order of their names."""
    try:
        archive = zipfile.ZipFile(place)
    except (OSError, zipfile.BadZipFile) as error:
        raise DatasetError(f"'{place}' is not a readable zip file: {error}") from error
    names = sorted(
        entry.filename
        for entry in archive.infolist()
        if not entry.is_dir() and not entry.filename.startswith(("__MACOSX/", "."))
    )

    def content(name: str) -> bytes:
        entry = archive.getinfo(name)
        if entry.file_size > MAX_ITEM_BYTES:
            raise DatasetError(f"'{name}' in '{place}' has more than {MAX_ITEM_BYTES >> 20} MiB")
        return archive.read(entry)

    return _from_files(names, content, archive.close, options, place)


READERS: dict[str, Callable[[Path, Options], Reading]] = {
    "npz": read_npz,
    "npy": read_npy,
    "csv": read_csv,
    "parquet": read_parquet,
    "folder": read_folder,
    "zip": read_zip,
}


def _from_table(table: Any, options: Options, place: Path) -> Reading:
    """A pandas table: one column of pictures or lists, or numeric columns side by side."""
    columns = [str(column) for column in table.columns]
    table.columns = columns
    y_name = _chosen(options.get("y"), LABEL_NAMES, columns, "y", place)
    labels = None if y_name is None else table[y_name].to_numpy()
    asked = options.get("x")
    wanted = [asked] if isinstance(asked, str) else list(asked or [])
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise DatasetError(
            f"'{place.name}' has no column '{missing[0]}'", hint=f"columns: {', '.join(columns)}"
        )
    id_name = _chosen(options.get("id"), (), columns, "id", place)
    wanted = wanted or [name for name in columns if name not in (y_name, id_name)]
    if len(wanted) == 1 and table[wanted[0]].dtype == object and len(table):
        reading = _from_column(table[wanted[0]].tolist(), labels, place)
    else:
        reading = _from_columns(table, wanted, labels, place)
    ids = None if id_name is None else item_ids(table[id_name].to_numpy(), reading, place)
    return replace(reading, inputs=tuple(wanted), ids=ids)


def _from_columns(table: Any, wanted: list[str], labels: Array | None, place: Path) -> Reading:
    """Numeric columns side by side."""
    textual = [name for name in wanted if table[name].dtype.kind not in "biuf"]
    if textual or not wanted:
        raise DatasetError(
            f"column '{textual[0]}' of '{place.name}' is not numeric"
            if textual
            else f"'{place.name}' has no column of inputs",
            hint=f"choose inputs with x = [...] among {', '.join(table.columns)}",
        )
    return array_items(table[wanted].to_numpy(dtype=np.float64), place.name, labels)


def _from_column(values: list[Any], labels: Array | None, place: Path) -> Reading:
    """Items from one column of encoded pictures or of equally long lists."""
    first = values[0]
    if isinstance(first, (list, tuple, np.ndarray)):
        try:
            stacked = np.stack([np.stack(v) if np.ndim(v) else np.asarray(v) for v in values])
        except ValueError as error:
            raise DatasetError(f"the lists in '{place.name}' differ in length") from error
        return array_items(stacked, place.name, labels)
    found = (value.get("bytes") if isinstance(value, dict) else value for value in values)
    encoded = [value for value in found if isinstance(value, bytes)]
    if len(encoded) != len(values):
        raise DatasetError(f"the items in '{place.name}' are neither numbers, lists nor pictures")
    ids, names = (None, None) if labels is None else label_ids(labels, len(values), place.name)
    items = Items(lambda i: _picture(encoded[i], f"row {i} of {place.name}"), len(values))
    return Reading("image", items, None, "uint8", ids, names)


def _from_files(
    names: list[str],
    content: Callable[[str], bytes],
    close: Callable[[], None],
    options: Options,
    place: Path,
) -> Reading:
    source = options.get("label_from")
    if "id" in options:
        close()
        raise DatasetError(f"the ids of files are their names, so '{place}' takes no option 'id'")
    pictures = [name for name in names if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES]
    as_files = options.get("kind") == "file" or source == "extension"
    chosen = names if as_files else pictures
    if not chosen or len(chosen) > MAX_FILES:
        close()
        suffixes = sorted({PurePosixPath(name).suffix or "no suffix" for name in names})[:6]
        what = "files" if as_files else "pictures"
        raise DatasetError(
            f"'{place}' has {len(chosen)} {what}"
            + (f"; the limit is {MAX_FILES}" if chosen else f" ({', '.join(suffixes) or 'empty'})"),
            hint="for a dataset of files of any kind write label_from = 'extension'",
        )
    keys = file_labels(chosen, str(source) if source else None)
    labels, label_names, keep = numbered(keys)
    read: Callable[[int], Array | bytes]
    if as_files:
        read = lambda i: content(chosen[i])  # noqa: E731
    else:
        read = lambda i: _picture(content(chosen[i]), chosen[i])  # noqa: E731
    return Reading(
        kind="file" if as_files else "image",
        items=Items(read, len(chosen), close),
        item_shape=None,
        dtype=None if as_files else "uint8",
        labels=labels,
        label_names=label_names,
        keep=keep,
        ids=file_ids(chosen),
    )


def _chosen(
    asked: object, usual: Iterable[str], names: Sequence[str], option: str, place: Path
) -> str | None:
    if asked == "none":
        return None
    if asked is not None and not isinstance(asked, str):
        return None  # a list of columns is the caller's business
    if asked is not None:
        if asked not in names:
            raise DatasetError(
                f"'{place.name}' has no '{asked}' for {option}", hint=f"it has {', '.join(names)}"
            )
        return asked
    lowered = {name.lower(): name for name in names}
    found = next((lowered[name] for name in usual if name in lowered), None)
    return names[0] if found is None and option == "x" and len(names) == 1 else found


def _array(archive: Any, name: str, place: Path) -> Array:
    try:
        return np.asarray(archive[name])
    except ValueError as error:
        raise DatasetError(
            f"array '{name}' of '{place.name}' holds Python objects, which may run code when read",
            hint="save it as numbers or fixed-width strings",
        ) from error


_BESIDE = {"y": "label file", "id": "file of ids"}


def _beside(place: Path, options: Options, key: str, what: str) -> Array | None:
    if options.get(key) is None:
        return None
    file = place.parent / str(options[key])
    if not file.is_file():
        raise DatasetError(f"there is no {what} '{file}'")
    return np.asarray(_mapped(file))


def _mapped(place: Path) -> Array:
    try:
        return np.asanyarray(np.load(place, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError) as error:
        hint = "arrays of Python objects are refused: they could run code when read"
        raise DatasetError(f"'{place}' is no npy file of numbers: {error}", hint=hint) from error


def _refuse_large_members(place: Path) -> None:
    with zipfile.ZipFile(place) as archive:
        for entry in archive.infolist():
            if entry.file_size > MAX_ARRAY_BYTES:
                raise DatasetError(
                    f"array '{entry.filename}' of '{place.name}' unpacks to "
                    f"{entry.file_size / 2**30:.1f} GiB; the limit is {MAX_ARRAY_BYTES >> 30}",
                    hint="save it as .npy, which is read from disk item by item",
                )


def _picture(content: bytes, name: str) -> Array:
    """An RGB picture, uint8 (h, w, 3)."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"'{name}' is not a readable picture: {error}") from error
