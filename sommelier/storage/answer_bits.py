"""One bit for every answer, so that most models need not be read to know that they differ.

    sketches/<probe set>/answers-bits-<k>.bin   a row of answers.bin, one bit a sample, packed
    sketches/<probe set>/answers-code-<k>.npy   (samples, classes) which bit a class has there
    sketches/<probe set>/answers-bits.json      which k is valid, and for how many rows

Equal answers have equal bits, so where two rows' bits differ on m samples they agree on at most
samples - m: a row that this excludes is excluded for certain. Bits are chosen from the answers, for
each sample the two halves that its answers fall into most evenly: models that mostly agree differ
from the common answer, and that is then seen in nine cases of ten instead of five.

All of it is a cache: it may be deleted, and is made again from answers.bin. Any process may map it.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.storage.locking import exclusively
from sommelier.storage.sketch_files import sync_folder

VERSION = 1
SCREENED_FROM = 8_192  # rows of a file; below, reading all answers takes a few ms
GROWTH = 16  # bits are added once the rows without any are 1/GROWTH of those with
RECODE = 8  # growth of the file after which the code is chosen anew
CODED_ROWS = 1_024  # that a code is chosen from
CLASSES = 4_096  # ids from here on share a bit
CHUNK = 4_096  # rows whose bits are made at once: 16 MB of answers
SCANNED = 1_024  # rows compared at once: what is in between stays in the processor's cache
HEADER = "answers-bits.json"


@dataclass(frozen=True, slots=True)
class Bits:
    """Bits of the first rows of a file. rows : (n, words) uint64. code : (samples, classes)."""

    rows: NDArray[np.uint64]
    code: NDArray[np.uint8]

    def at_most(self, wanted: NDArray[np.uint32], places: NDArray[Any] | None) -> NDArray[np.int32]:
        """How many of the wanted answers each of the rows at `places` can hold at most; None: all.

        wanted : (samples,) class ids; numbers above uint16's are answers that no row holds.
        """
        answered = wanted < 0xFFFE
        ours = encoded(self.code, wanted[None])[0]
        mask = None if answered.all() else _packed(answered[None])[0]
        ones = np.ones(len(ours), dtype=np.float32)  # sums of whole numbers, exact below 2**24
        size = len(self.rows) if places is None else len(places)
        most = np.full(size, np.count_nonzero(answered), dtype=np.int32)
        rows = np.asarray(self.rows)  # slices of a map cost more
        if places is not None and _neighbours(places):
            rows, places = rows[int(places[0]) : int(places[-1]) + 1], None
        for start in range(0, len(most), SCANNED):
            part = slice(start, start + SCANNED)
            different = rows[part if places is None else places[part]] ^ ours
            if mask is not None:
                different &= mask
            counts = np.bitwise_count(different).astype(np.float32) @ ones
            most[part] -= counts.astype(np.int32)
        return most


class BitFiles:
    """The bits of one file of answers, made when they pay. Safe to use from several threads."""

    def __init__(self, folder: Path, samples: int) -> None:
        self._folder = folder
        self._samples = samples
        self._lock = threading.Lock()
        self._known: Bits | None = None
        self._useless = False

    def bits(self, answers: NDArray[np.uint16]) -> Bits | None:
        """Bits of the first rows of `answers` (n, samples), perhaps not of the last; None if there
        are few rows, or no file can be made."""
        if len(answers) < SCREENED_FROM or self._useless:
            return None
        with self._lock:
            known = self._known
            if known is None or self._short(len(known.rows), answers):
                known = self._known = self._read(answers) or known
            if known is None or self._short(len(known.rows), answers):
                with contextlib.suppress(OSError):
                    self._write(answers)
                known = self._known = self._read(answers) or known
            self._useless = known is None
            return known

    @staticmethod
    def _short(rows: int, answers: NDArray[np.uint16]) -> bool:
        return (len(answers) - rows) * GROWTH > rows

    def _read(self, answers: NDArray[np.uint16]) -> Bits | None:
        """What is on disk and was made from these answers."""
        try:
            header = json.loads((self._folder / HEADER).read_text())
            if header["version"] != VERSION or header["samples"] != self._samples:
                return None
            count = int(header["rows"])
            if not 0 < count <= len(answers) or header["checks"] != _checks(answers, count):
                return None
            words = _words(self._samples)
            path = self._folder / f"answers-bits-{header['number']}.bin"
            rows = np.memmap(path, dtype="<u8", mode="r", shape=(count, words))
            code = np.load(self._folder / f"answers-code-{header['number']}.npy", mmap_mode="r")
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if code.dtype != np.uint8 or code.shape[:1] != (self._samples,) or code.ndim != 2:
            return None
        return Bits(rows, code)

    def _write(self, answers: NDArray[np.uint16]) -> None:
        """Add bits for all rows, or make all anew; nothing if another process is at it."""
        with exclusively(self._folder / "answers-bits.lock") as ours:
            if not ours:
                return
            before = self._header() if self._read(answers) is not None else {}
            number, first = int(before.get("number", 0)), int(before.get("rows", 0))
            if not first or len(answers) > RECODE * int(before["coded"]):
                number, first = self._next_number(), 0
                coded = len(answers)
                _save(self._folder / f"answers-code-{number}.npy", chosen_code(answers))
            else:
                coded = int(before["coded"])
            code = np.load(self._folder / f"answers-code-{number}.npy")
            self._append(number, first, code, answers)
            header = {
                "version": VERSION, "number": number, "rows": len(answers), "coded": coded,
                "samples": self._samples, "checks": _checks(answers, len(answers)),
            }  # fmt: skip
            _replace(self._folder / HEADER, json.dumps(header).encode())
            self._remove_others(number)

    def _append(
        self, number: int, first: int, code: NDArray[np.uint8], answers: NDArray[np.uint16]
    ) -> None:
        path = self._folder / f"answers-bits-{number}.bin"
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as stream:
            stream.seek(first * _words(self._samples) * 8)
            for start in range(first, len(answers), CHUNK):
                stream.write(encoded(code, answers[start : start + CHUNK]).tobytes())
            stream.flush()
            os.fsync(stream.fileno())

    def _header(self) -> dict[str, Any]:
        header: dict[str, Any] = json.loads((self._folder / HEADER).read_text())
        return header

    def _next_number(self) -> int:
        taken = [
            int(path.stem.rpartition("-")[2]) for path in self._folder.glob("answers-bits-*.bin")
        ]
        return max(taken, default=0) + 1

    def _remove_others(self, number: int) -> None:
        for path in (
            *self._folder.glob("answers-bits-*.bin"), *self._folder.glob("answers-code-*.npy"),
        ):  # fmt: skip
            if path.stem.rpartition("-")[2] != str(number):
                with contextlib.suppress(OSError):  # a process may have it mapped
                    path.unlink()


def encoded(code: NDArray[np.uint8], answers: NDArray[Any]) -> NDArray[np.uint64]:
    """(n, words) the bits of answers (n, samples)."""
    samples, classes = code.shape
    at = np.minimum(answers, classes - 1).astype(np.int32)
    at += np.arange(0, samples * classes, classes, dtype=np.int32)
    return _packed(code.ravel()[at])


def chosen_code(answers: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """(samples, classes) 0 or 1: for each sample halves that its answers fall into evenly.

    answers : (n, samples), of which some rows are looked at. Other classes get a random half.
    """
    step = max(1, len(answers) // CODED_ROWS)
    seen = np.minimum(answers[::step], CLASSES - 1)
    classes = min(int(seen.max(initial=0)) + 2, CLASSES)
    code = np.random.default_rng(0).integers(0, 2, (answers.shape[1], classes), dtype=np.uint8)
    for sample, column in enumerate(np.ascontiguousarray(seen.T)):
        counts = np.bincount(column)
        given = np.flatnonzero(counts)
        weights = [0, 0]
        for answer in given[np.argsort(-counts[given], kind="stable")].tolist():
            lighter = int(weights[1] < weights[0])
            code[sample, answer] = lighter
            weights[lighter] += int(counts[answer])
    return code


def _neighbours(places: NDArray[Any]) -> bool:
    """Whether rows follow one another without a gap."""
    return (
        len(places) > 0
        and int(places[-1]) - int(places[0]) == len(places) - 1
        and bool((np.diff(places) == 1).all())
    )


def _packed(bits: NDArray[Any]) -> NDArray[np.uint64]:
    packed = np.packbits(bits, axis=1, bitorder="little")
    missing = _words(bits.shape[1]) * 8 - packed.shape[1]
    if missing:
        packed = np.pad(packed, ((0, 0), (0, missing)))
    return np.ascontiguousarray(packed).view("<u8")


def _words(samples: int) -> int:
    return (samples + 63) // 64


def _checks(answers: NDArray[np.uint16], rows: int) -> list[int]:
    """What tells that the first `rows` rows are those that bits were made from."""
    return [zlib.crc32(np.ascontiguousarray(answers[at]).data) for at in (0, rows // 2, rows - 1)]


def _save(path: Path, array: NDArray[Any]) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.part")
    with temporary.open("wb") as stream:
        np.save(stream, array)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.part")
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    sync_folder(path.parent)
