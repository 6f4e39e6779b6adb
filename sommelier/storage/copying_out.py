"""Copies of a model's files outside the database: all of them or none, checked while they are read.

They are written beside their places, compared with the key, and moved there in one step each, the
model last. A file that is there already is replaced only where the caller says so.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sommelier.errors import StorageError
from sommelier.storage.artifacts import ArtifactStore, combined, copied
from sommelier.storage.durable import sync_folder


def copy_out(
    store: ArtifactStore, key: str, target: Path, *, overwrite: bool = False
) -> list[Path]:
    """The files written: the model as `target`, its external data beside it under its own names.

    Folders are made. Raises StorageError, with nothing written, if a file is there already, if the
    content is not what the key says, or if the disk refuses.
    """
    sources = store.files(key)
    folder = sources[0].parent
    names = [file.relative_to(folder) for file in sources[1:]]
    targets = [target, *(target.parent / name for name in names)]
    _check(sources, targets, overwrite)
    parts = [place.with_name(f".{place.name}.{os.getpid()}.part") for place in targets]
    try:
        for part in parts:
            part.parent.mkdir(parents=True, exist_ok=True)
        found = combined([copied(*pair) for pair in zip(sources, parts, strict=True)])
        if found != key:
            raise StorageError(
                f"the model file '{sources[0]}' is damaged: its content is {found}, not {key}",
                hint="import it again",
            )
        for part, place in reversed(list(zip(parts, targets, strict=True))):
            part.replace(place)
        for where in {place.parent for place in targets}:
            sync_folder(where)
    except OSError as error:
        raise StorageError(
            f"could not write '{target}': {error.strerror or error}",
            hint="free some space or choose another place",
        ) from error
    finally:
        for part in parts:
            with suppress(OSError):
                part.unlink(missing_ok=True)
    return targets


def _check(sources: Sequence[Path], targets: Sequence[Path], overwrite: bool) -> None:
    if len(set(targets)) < len(targets):
        raise StorageError(
            f"'{targets[0]}' is also the name of a file with its weights",
            hint="choose another name for the model's file",
        )
    for source, target in zip(sources, targets, strict=True):
        if target.is_dir():
            raise StorageError(f"'{target}' is a folder", hint=f"'{target}/' exports into it")
        if not target.exists():
            continue
        if target.samefile(source):
            raise StorageError(f"'{target}' is the model's own file")
        if not overwrite:
            raise StorageError(f"'{target}' is there already", hint="USING overwrite = yes")
