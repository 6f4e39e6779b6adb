"""Folders of the cache in which something is made ready before it appears under its name."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = ".part-"
LEFT_SECONDS = 24 * 3600.0  # far beyond what a download, pip or an archive may take


@contextmanager
def part_folder(parent: Path) -> Iterator[Path]:
    """A new folder in `parent`, which is made if need be; gone afterwards, or moved to its place.

    What processes that were killed left there more than a day ago goes with it. Raises OSError.
    """
    parent.mkdir(parents=True, exist_ok=True)
    _sweep(parent)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=parent) as folder:
        yield Path(folder)


def _sweep(parent: Path) -> None:
    oldest = time.time() - LEFT_SECONDS
    for left in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # another process sweeps too
            if left.lstat().st_mtime < oldest:
                shutil.rmtree(left)
