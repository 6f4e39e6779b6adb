"""The ids of all models in row order, packed: 36 bytes a model, where text in a dict takes 250."""

from __future__ import annotations

import re
import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

PREFIX = "sha256:"
_WORDS = 4  # 64-bit numbers in a digest
_FACTOR = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio, to multiply keys with (Knuth, 6.4)
_BITS = (1 << 64) - 1
_USUAL = re.compile(r"sha256:(?!0{64})[0-9a-f]{64}\Z")  # zeros stand for ids of another form
_ALL_USUAL = re.compile(r"(?:sha256:(?!0{64})[0-9a-f]{64}(?:\n|\Z))*+\Z")
ABSENT = -1


class ModelIds:
    """A sequence of different ids that also tells their rows; it never changes.

    Ids of the usual form, 'sha256:' and 64 hexadecimal digits, are kept as numbers, others as text.
    They are found by a key of all their digits: ids that somebody numbered begin alike.
    """

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._keys, self._rest, self._others = _packed(list(ids), 0)
        self._others_at = {model_id: row for row, model_id in self._others.items()}
        self._order = np.argsort(self._keys, kind="stable").astype(np.int32)

    def followed_by(self, ids: Sequence[str]) -> ModelIds:
        """These ids and then those; costs a copy, not a sort."""
        more = ModelIds.__new__(ModelIds)
        fresh, rest, others = _packed(list(ids), len(self))
        more._keys = np.concatenate([self._keys, fresh])
        more._rest = np.concatenate([self._rest, rest])
        more._others = self._others | others
        more._others_at = self._others_at | {model_id: row for row, model_id in others.items()}
        places = np.searchsorted(self._keys, fresh, side="right", sorter=self._order)
        sequence = np.argsort(fresh, kind="stable")
        rows = (len(self) + sequence).astype(np.int32)
        more._order = np.insert(self._order, places[sequence], rows)
        return more

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        step = 65_536
        for start in range(0, len(self), step):
            yield from self[np.arange(start, min(start + step, len(self)))].tolist()

    def __contains__(self, model_id: object) -> bool:
        return isinstance(model_id, str) and self.row(model_id) != ABSENT

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ModelIds):
            return NotImplemented
        return len(self) == len(other) and self.begins_with(other)

    def begins_with(self, other: ModelIds) -> bool:
        """Whether the first ids are those of `other`, in their order."""
        size = len(other)
        return (
            size <= len(self)
            and np.array_equal(self._keys[:size], other._keys)
            and np.array_equal(self._rest[:size], other._rest)
            and {r: text for r, text in self._others.items() if r < size} == other._others
        )

    __hash__ = None  # type: ignore[assignment]

    @overload
    def __getitem__(self, rows: int | np.integer[Any]) -> str: ...
    @overload
    def __getitem__(self, rows: slice | NDArray[Any]) -> NDArray[np.object_]: ...
    def __getitem__(
        self, rows: int | np.integer[Any] | slice | NDArray[Any]
    ) -> str | NDArray[np.object_]:
        if isinstance(rows, int | np.integer):
            return self._text(int(rows) % len(self) if rows < 0 else int(rows))
        if isinstance(rows, np.ndarray) and rows.dtype.kind in "iu":
            at = rows
        else:
            at = np.arange(len(self))[rows]
        found = np.empty(len(at), dtype=object)
        found[:] = self._texts(at)
        return found

    def tolist(self) -> list[str]:
        """All ids as text."""
        return list(self)

    def row(self, model_id: str) -> int:
        """The row of an id, ABSENT if it is none of these."""
        if not _USUAL.match(model_id):
            return self._others_at.get(model_id, ABSENT)
        first, *rest = struct.unpack(">4Q", bytes.fromhex(model_id[len(PREFIX) :]))
        key = np.uint64((first ^ _spread(*rest)) & _BITS)
        # searchsorted would copy the whole order first: its sorter has to be int64
        place = bisect_left(self._order, key, key=self._keys.__getitem__)
        while place < len(self._order):
            row = int(self._order[place])
            if self._keys[row] != key:
                break
            if self._rest[row].tolist() == rest:
                return row
            place += 1
        return ABSENT

    def rows(self, ids: Iterable[str]) -> NDArray[np.int64]:
        """The rows of ids, ABSENT for those that are none of these."""
        return np.fromiter((self.row(model_id) for model_id in ids), dtype=np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self._keys.nbytes + self._rest.nbytes + self._order.nbytes

    def _texts(self, rows: NDArray[Any]) -> list[str]:
        rest = self._rest[rows]
        digests = np.empty((len(rows), _WORDS), dtype=">u8")
        digests[:, 0], digests[:, 1:] = self._keys[rows] ^ _spread(*rest.T), rest
        digits, size = digests.tobytes().hex(), 16 * _WORDS
        texts = [PREFIX + digits[at : at + size] for at in range(0, len(digits), size)]
        if not self._others:
            return texts
        return [self._others.get(row, text) for row, text in zip(rows.tolist(), texts, strict=True)]

    def _text(self, row: int) -> str:
        other = self._others.get(row)
        if other is not None:
            return other
        rest = self._rest[row].tolist()
        first = int(self._keys[row]) ^ (_spread(*rest) & _BITS)
        return PREFIX + "".join(f"{number:016x}" for number in (first, *rest))


def _spread(second: Any, third: Any, fourth: Any) -> Any:
    """What makes a key of a digest's first number. All int, of which 64 bits count, or arrays."""
    return ((second * _FACTOR ^ third) * _FACTOR ^ fourth) * _FACTOR


def _packed(
    ids: list[str], first: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], dict[int, str]]:
    """(n,) keys and (n, 3) digests but their first number, zeros for ids of another form.

    Third, those ids by row, from `first` on.
    """
    lines = "\n".join(ids)
    others: dict[int, str] = {}
    if not _ALL_USUAL.match(lines) or lines.count("\n") != max(0, len(ids) - 1):
        others = {first + i: text for i, text in enumerate(ids) if not _USUAL.match(text)}
        zeros = PREFIX + "0" * 16 * _WORDS
        lines = "\n".join(zeros if first + i in others else text for i, text in enumerate(ids))
    digits = lines.replace(PREFIX, "")  # fromhex passes over the ends of lines
    packed = np.frombuffer(bytes.fromhex(digits), dtype=">u8").reshape(-1, _WORDS)
    rest = packed[:, 1:].astype(np.uint64)
    return packed[:, 0] ^ _spread(*rest.T), rest, others
