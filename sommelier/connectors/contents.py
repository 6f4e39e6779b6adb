"""Downloads by what is in them: a file of a known hash is not fetched again from elsewhere.

cache_folder()/contents/<hash> says where in the cache the content lies; the hash is a SHA-256, or
git's name of a blob. What it says is compared with the file each time, so an index that is old or
wrong costs a download, nothing else.
"""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path

from sommelier.connectors.parts import part_folder
from sommelier.errors import first_line
from sommelier.storage.cache import cache_folder

log = logging.getLogger(__name__)


def known(digest: str) -> Path | None:
    """The file of the cache with this content; None if there is none any more."""
    entry = _entry(digest)
    try:
        kept = cache_folder() / entry.read_text(encoding="utf-8")
        if not kept.resolve().is_relative_to(cache_folder().resolve()):
            return None
        return kept if has(kept, digest) else None
    except (OSError, ValueError):
        return None


def has(path: Path, digest: str) -> bool:
    """Whether a file has the content of this hash, by the length of the hash SHA-256 or git's."""
    if len(digest) == 40:
        found = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    else:
        found = hashlib.sha256()
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: found).hexdigest() == digest


def remember(digest: str, path: Path) -> None:
    """Notes where a file of the cache with this content lies."""
    note(_entry(digest), path.relative_to(cache_folder()).as_posix())


def note(path: Path, text: str) -> None:
    """Writes a small file of the cache, whole or not at all. What it says can be asked for again,
    so a disk that cannot keep it is no reason to stop."""
    try:
        with part_folder(path.parent) as folder:
            part = folder / path.name
            part.write_text(text, encoding="utf-8")
            part.replace(path)
    except OSError as error:
        log.warning("%s is not kept: %s", path, first_line(error))


def _entry(digest: str) -> Path:
    name = digest if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", digest) else "none"
    return cache_folder() / "contents" / name
