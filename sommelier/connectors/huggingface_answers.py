"""What a hub said of a repository, kept to be read where the hub cannot be reached."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from sommelier.connectors import contents
from sommelier.storage.cache import cache_folder

MAX_BYTES = 8 << 20  # most answers have some kilobytes


def keep(
    endpoint: str, repository: str, revision: str | None, answer: Mapping[str, object]
) -> None:
    """Keeps an answer for the revision that was asked for and for its commit."""
    today = datetime.now(UTC).date().isoformat()
    text = json.dumps({"day": today, "answer": answer})
    if len(text) <= MAX_BYTES:
        for name in {revision, str(answer.get("sha"))}:
            contents.note(_path(endpoint, repository, name), text)


def kept(
    endpoint: str, repository: str, revision: str | None
) -> tuple[dict[str, object], str] | None:
    """The last answer, and the day it is of; None if there is none."""
    try:
        told = json.loads(_path(endpoint, repository, revision).read_text(encoding="utf-8"))
        answer, day = told["answer"], told["day"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return (answer, str(day)) if isinstance(answer, dict) else None


def _path(endpoint: str, repository: str, revision: str | None) -> Path:
    asked = json.dumps([endpoint, repository, revision])
    return cache_folder() / "answers" / f"{hashlib.sha256(asked.encode()).hexdigest()[:32]}.json"
