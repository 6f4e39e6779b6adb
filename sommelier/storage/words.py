"""A column of text in little memory: one buffer for all of it, or codes where words repeat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

REPEATED = 4  # times that a word stands in a column on average, so that codes take less


class Words:
    """Text or None by row, read-only; about 20 bytes a name, where objects take 70."""

    def __init__(self, values: Sequence[str | None]) -> None:
        codes: dict[str | None, int] = {}
        for value in values:
            codes.setdefault(value, len(codes))
        self._size = len(values)
        self._codes: NDArray[Any] | None = None
        self._words: NDArray[np.object_] | None = None
        if len(codes) * REPEATED <= len(values):
            kind = np.min_scalar_type(max(len(codes) - 1, 0))
            self._codes = np.fromiter((codes[v] for v in values), dtype=kind, count=len(values))
            self._words = np.empty(len(codes), dtype=object)
            self._words[:] = list(codes)
            return
        texts = [b"" if value is None else value.encode() for value in values]
        ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
        small = not len(ends) or ends[-1] <= np.iinfo(np.uint32).max
        self._ends = ends.astype(np.uint32 if small else np.int64)
        self._buffer = b"".join(texts)
        self._absent = frozenset(row for row, value in enumerate(values) if value is None)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, rows: NDArray[Any]) -> NDArray[np.object_]:
        """The text of some rows, as objects."""
        if self._codes is not None and self._words is not None:
            return self._words[self._codes[rows]]
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
