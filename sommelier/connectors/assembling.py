"""An ONNX model of several files, each of which comes from a server by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sommelier.connectors.downloads import placed
from sommelier.errors import RejectedModelError
from sommelier.storage.external_data import (
    MAX_EXTERNAL_FILES,
    extents,
    external_files,
    read_model,
)


def assembled(
    kept: Path, target: Path, *, fetch: Callable[[str, int], Path], max_size: int
) -> tuple[Path, list[Path]]:
    """The model and the files of its external data, checked; a model without any stays where it is.

    kept : the ONNX file, in the cache. target : where it is put together, its data beside it.
    fetch(location, left) : brings a file of external data, of at most `left` bytes, into the cache.
    max_size : bytes of all files together. Raises RejectedModelError, and what `fetch` raises.
    """
    locations = dict.fromkeys(extent.location for extent in extents(read_model(kept)))
    if not locations:
        return kept, []
    if len(locations) > MAX_EXTERNAL_FILES:
        raise RejectedModelError(f"more than {MAX_EXTERNAL_FILES} external files")
    model = placed(kept, target)
    left = max_size - kept.stat().st_size
    for location in locations:
        data = fetch(location, left)
        left -= data.stat().st_size
        placed(data, target.parent / location)
    return model, external_files(model, max_size=max_size)
