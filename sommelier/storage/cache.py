"""The folder of things that can be fetched or made again."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "SOMMELIER_CACHE"


def cache_folder() -> Path:
    """Where fetched things are kept: $SOMMELIER_CACHE, else $XDG_CACHE_HOME/sommelier, else
    ~/.cache/sommelier."""
    ours = os.environ.get(CACHE_VARIABLE)
    if ours:
        return Path(ours).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sommelier"
