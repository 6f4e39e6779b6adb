"""A column of text in little memory: one buffer for all of it, or codes where words repeat."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

REPEATED = 4  # times that a word stands in a column on average, so that codes take less
LOOKED_AT = 1_000  # values that tell whether they repeat


class Words:
    """Text or None by row, read-only; about 20 bytes a name, where objects take 70."""

    def __init__(self, values: Sequence[str | None]) -> None:
        self._size = len(values)
        self._codes: NDArray[Any] | None = None
        self._words: NDArray[np.object_] | None = None
        first = values[:LOOKED_AT]
        if len(set(first)) * REPEATED <= len(first):
            codes: dict[str | None, int] = {}
            found = [codes.setdefault(value, len(codes)) for value in values]
            self._codes = np.array(found, dtype=np.min_scalar_type(max(len(codes) - 1, 0)))
            self._words = np.empty(len(codes), dtype=object)
            self._words[:] = list(codes)
            return
        self._absent = frozenset(row for row, value in enumerate(values) if value is None)
        texts = [value or "" for value in values]
        joined = "".join(texts)
        sizes = map(len, texts) if joined.isascii() else (len(text.encode()) for text in texts)
        ends = np.cumsum(np.fromiter(sizes, dtype=np.int64, count=len(texts)))
        self._buffer = joined.encode()
        small = len(self._buffer) <= np.iinfo(np.uint32).max
        self._ends = ends.astype(np.uint32 if small else np.int64)

    def followed_by(self, values: Sequence[str | None]) -> Words:
        """This column and then those values."""
        if self._codes is not None and self._words is not None:
            known = {word: code for code, word in enumerate(self._words.tolist())}
            if any(value not in known for value in values):
                return Words([*self.objects().tolist(), *values])
            codes = [known[value] for value in values]
            more = copy(self)
            more._codes = np.concatenate([self._codes, np.array(codes, self._codes.dtype)])
        else:
            texts = [(value or "").encode() for value in values]
            buffer = self._buffer + b"".join(texts)
            ends = len(self._buffer) + np.cumsum([len(text) for text in texts], dtype=np.int64)
            more = copy(self)
            more._buffer = buffer
            small = len(buffer) <= np.iinfo(np.uint32).max
            kind = self._ends.dtype if small else np.dtype(np.int64)
            more._ends = np.concatenate([self._ends.astype(kind), ends.astype(kind)])
            absent = (self._size + i for i, value in enumerate(values) if value is None)
            more._absent = self._absent.union(absent)
        more._size = self._size + len(values)
        return more

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, rows: NDArray[Any]) -> NDArray[np.object_]:
        """The text of some rows, as objects."""
        if self._codes is not None and self._words is not None:
            return np.asarray(self._words[self._codes[rows]])
        found = np.empty(len(rows), dtype=object)
        found[:] = [self._text(row) for row in rows.tolist()]
        return found

    def objects(self) -> NDArray[np.object_]:
        """The whole column as objects."""
        return self[np.arange(self._size)]

    @property
    def nbytes(self) -> int:
        """Bytes of the column, without its few distinct words."""
        if self._codes is not None:
            return self._codes.nbytes
        return len(self._buffer) + self._ends.nbytes

    def _text(self, row: int) -> str | None:
        if row in self._absent:
            return None
        start = int(self._ends[row - 1]) if row else 0
        return self._buffer[start : int(self._ends[row])].decode()
