"""The folder of things that can be fetched or made again."""

from __future__ import annotations

import os
from pathlib import Path

from sommelier.errors import StorageError
from sommelier.units import Dimension, UnitError, parse

CACHE_VARIABLE = "SOMMELIER_CACHE"
ARTIFACTS_VARIABLE = "SOMMELIER_ARTIFACT_CACHE"
ARTIFACT_BYTES = 50 * 10**9  # of model files fetched from one store


def cache_folder() -> Path:
    """Where fetched things are kept: $SOMMELIER_CACHE, else $XDG_CACHE_HOME/sommelier, else
    ~/.cache/sommelier."""
    ours = os.environ.get(CACHE_VARIABLE)
    if ours:
        return Path(ours).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sommelier"


def artifact_cache_bytes() -> int:
    """What the files fetched from one store may take: $SOMMELIER_ARTIFACT_CACHE, as '20 GB', else
    50 GB. Raises StorageError for what is no size."""
    text = os.environ.get(ARTIFACTS_VARIABLE)
    if not text:
        return ARTIFACT_BYTES
    try:
        return int(parse(text, Dimension.BYTES))
    except UnitError as error:
        raise StorageError(
            f"{ARTIFACTS_VARIABLE} is '{text}', which is no size", hint="write for example 20 GB"
        ) from error
