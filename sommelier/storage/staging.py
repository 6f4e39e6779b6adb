"""Folders that are filled beside their place, and swept by anybody once their process has died.

    root/.incoming-<process>-<random>/writer.lock, entry/     being filled: locked
    root/.removed-<process>-<random>/                         on its way out

A folder goes to its place by one rename, and out of sight by one rename before it is deleted, so at
no moment does anybody see half of it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sommelier.storage.locking import LOCK_NAME, WriterLock

_INCOMING = ".incoming-"
_REMOVED = ".removed-"
_ATTEMPTS = 10  # to lock a new folder before another process sweeps it


@contextmanager
def staged(root: Path) -> Iterator[Path]:
    """An empty folder to fill; what is left of it when the context ends goes.

    It is locked meanwhile: what a killed process leaves has no lock, and is swept here first.
    """
    root.mkdir(parents=True, exist_ok=True)
    sweep(root)
    outer, lock = _locked_folder(root)
    try:
        inner = outer / "entry"
        inner.mkdir()
        yield inner
    finally:
        lock.release()
        shutil.rmtree(outer, ignore_errors=True)


def remove(root: Path, folder: Path) -> None:
    """Remove a folder below `root`: first out of sight, then bit by bit. Raises OSError, as
    FileNotFoundError if it is gone."""
    gone = root / f"{_REMOVED}{os.getpid()}-{os.urandom(4).hex()}"
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def sweep(root: Path) -> None:
    """Remove what killed processes left."""
    for left in root.glob(f"{_REMOVED}*"):
        shutil.rmtree(left, ignore_errors=True)
    for left in root.glob(f"{_INCOMING}*"):
        lock = WriterLock(left)
        with contextlib.suppress(OSError):
            if (left / LOCK_NAME).exists() and lock.acquire(note=False):
                shutil.rmtree(left, ignore_errors=True)
        lock.release()


def _locked_folder(root: Path) -> tuple[Path, WriterLock]:
    """A new folder with its lock; another process may sweep it before it is locked."""
    for _ in range(_ATTEMPTS):
        folder = root / f"{_INCOMING}{os.getpid()}-{os.urandom(4).hex()}"
        lock = WriterLock(folder)
        with contextlib.suppress(FileNotFoundError):
            if lock.acquire(note=True):
                return folder, lock
    raise OSError(f"no folder can be made in {root}")
