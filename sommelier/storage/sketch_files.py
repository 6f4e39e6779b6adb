"""Files of fixed-width rows: appended to crash-safely, read through memory maps."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.errors import DatabaseCorruptError
from sommelier.storage.label_translation import NO_ANSWER

NO_ANSWER_16 = 0xFFFF
WIDE_CLASSES = 0xFFFF  # from this many classes on, ids do not fit beside the sentinels of uint16
TOP = 5  # records.OutputSketch: classes kept per sample


@dataclass(frozen=True, slots=True)
class SketchFile:
    """One file of rows: `width` numbers of `dtype` for each of a probe set's samples."""

    name: str
    dtype: np.dtype[Any]
    width: int

    def row_shape(self, samples: int) -> tuple[int, ...]:
        """(samples,) for class ids, else (samples, width)."""
        return (samples,) if self.width == 1 and self.dtype.kind == "u" else (samples, self.width)

    def row_bytes(self, samples: int) -> int:
        return self.dtype.itemsize * self.width * samples


NARROW = SketchFile("answers.bin", np.dtype("<u2"), 1)
WIDE = SketchFile("answers-u32.bin", np.dtype("<u4"), 1)
TOPK_IDS = SketchFile("topk-ids.bin", np.dtype("<u4"), TOP)
TOPK_SCORES = SketchFile("topk-scores.bin", np.dtype("<f2"), TOP)


def label_file(answers: NDArray[np.uint32], classes: int | None) -> SketchFile:
    """The file for class ids: the narrow one where they fit."""
    largest = int(answers[answers != NO_ANSWER].max(initial=0))
    return NARROW if (classes or 0) < WIDE_CLASSES and largest < NO_ANSWER_16 - 1 else WIDE


def vector_file(width: int, *, exact: bool) -> SketchFile:
    """The file for vectors of `width`, exact or projected."""
    suffix = "" if exact else "-projected"
    return SketchFile(f"vectors-{width}{suffix}.bin", np.dtype("<f4"), width)


def file_named(name: str) -> SketchFile:
    """The file of this name, as the catalog keeps it."""
    for file in (NARROW, WIDE, TOPK_IDS, TOPK_SCORES):
        if file.name == name:
            return file
    words = name.removesuffix(".bin").split("-")
    return vector_file(int(words[1]), exact=len(words) == 2)


def widened(answers: NDArray[Any]) -> NDArray[Any]:
    """uint16 answers as uint32, their sentinel with them; others unchanged."""
    if answers.dtype != NARROW.dtype:
        return np.asarray(answers)
    wide = answers.astype(np.uint32)
    wide[answers == NO_ANSWER_16] = NO_ANSWER
    return wide


@dataclass(slots=True)
class Tail:
    """Rows waiting to be written behind the last whole row of a file.

    A row that a crash cut short is overwritten; a whole one that no catalog row names is skipped,
    because the snapshot of a reader might name it.
    """

    path: Path
    row_bytes: int
    first: int
    waiting: list[bytes] = field(default_factory=list)

    @property
    def next(self) -> int:
        """The row that `append` writes next."""
        return self.first + len(self.waiting)

    def append(self, row: bytes) -> int:
        """Add a row; its number."""
        self.waiting.append(row)
        return self.next - 1

    def write(self) -> None:
        """Write what is waiting and force it to disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        created = not self.path.exists()
        with os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as stream:
            stream.seek(self.first * self.row_bytes)
            stream.writelines(self.waiting)
            stream.flush()
            os.fsync(stream.fileno())
        if created:
            sync_folder(self.path.parent)


def tail_of(path: Path, row_bytes: int, named: int) -> Tail:
    """The end of a file that may not exist yet.

    named : rows the catalog knows of. Raises DatabaseCorruptError when the file has fewer, for a
    row written over one of those would pass for the answers of another model.
    """
    return Tail(path, row_bytes, _enough(path, whole_rows(path, row_bytes), named))


def whole_rows(path: Path, row_bytes: int) -> int:
    return path.stat().st_size // row_bytes if path.exists() else 0


def map_rows(path: Path, file: SketchFile, samples: int, needed: int) -> NDArray[Any]:
    """(rows, *row_shape) all whole rows of a file, mapped into memory, read-only.

    Raises DatabaseCorruptError when there are fewer than `needed`.
    """
    rows = _enough(path, whole_rows(path, file.row_bytes(samples)), needed)
    shape = (rows, *file.row_shape(samples))
    if rows == 0:
        return np.empty(shape, dtype=file.dtype)
    return np.memmap(path, dtype=file.dtype, mode="r", shape=shape)


def _enough(path: Path, rows: int, needed: int) -> int:
    if rows < needed:
        raise DatabaseCorruptError(
            f"{path} holds {rows} answers, but the catalog names number {needed}; it was cut short "
            "and left untouched",
            hint="restore the file from a backup; without one, DROP the models whose answers are "
            "gone, then IMPORT and ANALYZE them again",
        )
    return rows


def file_name(identifier: str) -> str:
    """An id as a file name: hashes and plain names stay readable, nothing leaves the folder."""
    return "".join(c if c.isalnum() or c in "-." else f"_{ord(c):x}_" for c in identifier).lstrip(
        "."
    )


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to disk."""
    with contextlib.suppress(OSError):  # not every platform lets a folder be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
