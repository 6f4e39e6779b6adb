"""Downloads by what is in them: a file of a known SHA-256 is not fetched again from elsewhere.

cache_folder()/contents/<sha256> says where in the cache the content lies. What it says is compared
with the file each time, so an index that is old or wrong costs a download, nothing else.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from pathlib import Path

from sommelier.errors import first_line
from sommelier.storage.cache import cache_folder

log = logging.getLogger(__name__)


def known(sha256: str) -> Path | None:
    """The file of the cache with this content; None if there is none any more."""
    try:
        kept = cache_folder() / _entry(sha256).read_text(encoding="utf-8")
        if not kept.resolve().is_relative_to(cache_folder().resolve()):
            return None
        with kept.open("rb") as file:
            return kept if hashlib.file_digest(file, "sha256").hexdigest() == sha256 else None
    except (OSError, ValueError):
        return None


def remember(sha256: str, path: Path) -> None:
    """Notes where a file of the cache with this content lies. Without the note it is fetched again,
    so a disk that cannot keep it is no reason to stop."""
    entry = _entry(sha256)
    part = entry.with_name(f"{entry.name}.{os.getpid()}.part")
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(path.relative_to(cache_folder()).as_posix(), encoding="utf-8")
        part.replace(entry)
    except (OSError, ValueError) as error:
        log.warning("where %s lies is not noted: %s", path, first_line(error))


def _entry(sha256: str) -> Path:
    """Raises ValueError for what is no SHA-256 in lower case."""
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError(f"{sha256[:80]!r} is no SHA-256")
    return cache_folder() / "contents" / sha256
