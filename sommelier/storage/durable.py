"""Making new files, and their names in a folder, outlive a power cut."""

from __future__ import annotations

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Flush what a folder lists to disk: files created in it, renamed into it or removed."""
    if os.name == "nt":  # pragma: no cover - folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(file: Path) -> None:
    """Flush a file's content to disk."""
    with file.open("rb+") as handle:
        os.fsync(handle.fileno())
