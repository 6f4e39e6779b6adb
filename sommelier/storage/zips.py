"""Opens zip archives that anyone may have written: what they list is bounded before it is read."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sommelier.errors import RejectedModelError

LIST_BYTES = 8 * 10**6  # of a list of members, which takes some ten times as much in memory


@contextmanager
def opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive, closed afterwards.

    Raises RejectedModelError, before it is read, for a list of members above LIST_BYTES, and
    zipfile.BadZipFile for what is no zip archive.
    """
    with _BoundedReader(path) as file, zipfile.ZipFile(file) as archive:
        file.bounded = False
        yield archive


class _BoundedReader(io.BufferedReader):
    """A file of which no more than LIST_BYTES can be read at once, as long as it is `bounded`.

    zipfile reads the list of members in one piece; of what size only it knows, for archives may be
    written so that readers disagree.
    """

    bounded = True

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._length = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        left = self._length - self.tell()
        asked = left if size is None or size < 0 else min(size, left)
        if self.bounded and asked > LIST_BYTES:
            raise RejectedModelError(f"the archive lists its members in {asked} bytes")
        return super().read(size)
