"""Copies of a model's files outside the database: all of them or none, checked while they are read.

They are written beside their places, compared with the key, and moved there in one step each, the
model last. A file that is there already is replaced only where the caller says so.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from sommelier.errors import StorageError
from sommelier.storage.artifacts import ArtifactStore, combined, copied, disk_is_full
from sommelier.storage.durable import sync_folder


def copy_out(
    store: ArtifactStore,
    key: str,
    target: Path,
    *,
    overwrite: bool = False,
    texts: Mapping[Path, str] | None = None,
) -> list[Path]:
    """The files written: the model as `target`, its external data beside it under its own names.

    texts : more files to write with them, by their place. Folders are made. Raises StorageError,
    with nothing written, if a file is there already, if the content is not what the key says, or if
    the disk refuses.
    """
    sources, more = store.files(key), texts or {}
    copies = targets_of(sources, target)
    _check_texts(copies, more)
    targets = [*copies, *more]
    _check(sources, targets, overwrite)
    parts = [place.with_name(f".{place.name}.{os.urandom(6).hex()}.part") for place in targets]
    try:
        _fill(key, sources, parts, tuple(more.values()))
        for part, place in reversed(list(zip(parts, targets, strict=True))):
            part.replace(place)
        for where in {place.parent for place in targets}:
            sync_folder(where)
    except OSError as error:
        raise StorageError(
            f"could not write '{target}': {error.strerror or error}",
            hint=_instead(error, target),
        ) from error
    finally:
        for part in parts:
            with suppress(OSError):
                part.unlink(missing_ok=True)
    return targets


def _fill(key: str, sources: Sequence[Path], parts: Sequence[Path], texts: Sequence[str]) -> None:
    """Write the model's files and then the texts, each to its part. Raises StorageError where the
    content is not what the key says."""
    for part in parts:
        part.parent.mkdir(parents=True, exist_ok=True)
    found = combined([copied(*pair) for pair in zip(sources, parts, strict=False)])
    if found != key:
        raise StorageError(
            f"the model file '{sources[0]}' is damaged: its content is {found}, not {key}",
            hint="import it again",
        )
    for part, text in zip(parts[len(sources) :], texts, strict=True):
        _write(part, text)


def _instead(error: OSError, target: Path) -> str:
    """What to do where the disk refused, by why it did."""
    if disk_is_full(error):
        return "free some room, or choose another place"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "allow writing there, or choose another place"
    if error.errno == errno.ENOENT and target.parent.is_dir():
        return f"no file can be made in '{target.parent}': choose another place"
    return "choose another place"


def targets_of(sources: Sequence[Path], target: Path) -> list[Path]:
    """Where the files of a model are written if its own becomes `target`. sources : the model's
    file, and its external data."""
    folder = sources[0].parent
    return [target, *(target.parent / file.relative_to(folder) for file in sources[1:])]


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _check_texts(copies: Sequence[Path], texts: Mapping[Path, str]) -> None:
    taken = {str(place).casefold() for place in copies}  # a disk may not tell cases apart
    for place in texts:
        if str(place).casefold() in taken:
            raise StorageError(
                f"'{place}' would be the card, and it is a file of the model",
                hint="choose another name for the model's file, such as one that ends in .onnx",
            )


def _check(sources: Sequence[Path], targets: Sequence[Path], overwrite: bool) -> None:
    if len(set(targets)) < len(targets):
        raise StorageError(
            f"'{targets[0]}' is also the name of a file with its weights",
            hint="choose another name for the model's file",
        )
    for target in targets:
        if target.is_dir():
            into = f"'{target}/' exports into it" if target == targets[0] else None
            raise StorageError(f"'{target}' is a folder", hint=into or "choose another place")
        if not target.exists():
            continue
        if any(target.samefile(source) for source in sources):
            raise StorageError(f"'{target}' is the model's own file")
        if not overwrite:
            raise StorageError(f"'{target}' is there already", hint="USING overwrite = yes")
