"""Model files beside the catalog, named by their content.

    artifacts/1f/0c3a.../manifest.json
    artifacts/1f/0c3a.../<the model file and its external data, as they lay beside each other>

A large model may stay where it is: then there is only the manifest, which says where and how large.
A file is in the store whole or not at all: it is copied and hashed beside its place, flushed to
disk, and moved there in one step. The same bytes are kept once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sommelier.errors import StorageError

MANIFEST = "manifest.json"
_PREFIX = "sha256:"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class _Manifest:
    """folder : None when the files lie beside the manifest. sizes : bytes, in file order."""

    files: tuple[str, ...]
    sizes: tuple[int, ...]
    folder: Path | None


def fingerprint(paths: Iterable[Path]) -> str:
    """'sha256:...' of a file; of several, of their digests in order, one per line.

    The first is the model, the others its external data. For one file it is what sha256sum prints.
    """
    return _combined([_digest(Path(path)) for path in paths])


class ArtifactStore:
    """The files of the models in a database. Reading never writes; `put` may run in any process."""

    def __init__(self, root: Path) -> None:
        self._root = Path(root)

    def fingerprint(self, paths: Iterable[Path]) -> str:
        """See the function of this name."""
        return fingerprint(paths)

    def put(
        self, path: Path, *, external: Sequence[Path] = (), reference_in_place: bool = False
    ) -> str:
        """The key of a model file, which is in the store from now on.

        external : its external data, in the model's folder or below. reference_in_place : leave
        the files where they are; they must then not be moved or changed. What is there already is
        not copied again. Raises StorageError, with nothing left behind.
        """
        files = [Path(path).absolute(), *(Path(file).absolute() for file in external)]
        names = _names(files)
        try:
            key = fingerprint(files)
            known = self._manifest(key)
            if known is not None and (reference_in_place or known.folder is None):
                with contextlib.suppress(StorageError):
                    self.path(key)  # a reference whose file has gone is replaced
                    return key
            return self._place(files, names, in_place=reference_in_place)
        except OSError as error:
            raise StorageError(
                f"could not keep the model file '{path}': {error.strerror or error}",
                hint="nothing of it was kept",
            ) from error

    def path(self, key: str) -> Path:
        """The model file of `key`; its external data lies beside it.

        Raises StorageError if it is not in the store, or if a file left in place has gone or has
        another size. The content is not read; see `verify`.
        """
        manifest = self._manifest(key)
        if manifest is None:
            raise StorageError(f"there is no model file '{key}' in {self._root}")
        folder = manifest.folder or self._folder(key)
        for name, size in zip(manifest.files, manifest.sizes, strict=True):
            file = folder / name
            if not file.is_file():
                raise StorageError(f"the model file '{file}' has gone", hint="import it again")
            if file.stat().st_size != size:
                raise StorageError(
                    f"the model file '{file}' has changed since it was imported",
                    hint="import it again; it will be a new version",
                )
        return folder / manifest.files[0]

    def verify(self, key: str) -> None:
        """Read the files of `key` again; raises StorageError if they are not what they were."""
        model = self.path(key)
        manifest = self._manifest(key)
        assert manifest is not None, "path() has found it"
        found = fingerprint(model.parent / name for name in manifest.files)
        if found != key:
            raise StorageError(
                f"the model file '{model}' has changed: its content is {found}, not {key}",
                hint="import it again; it will be a new version",
            )

    # ---- inside

    def _folder(self, key: str) -> Path:
        digest = key.removeprefix(_PREFIX)
        if not key.startswith(_PREFIX) or len(digest) != 64 or not digest.isalnum():
            raise StorageError(f"'{key}' is not the key of a model file")
        return self._root / digest[:2] / digest[2:]

    def _manifest(self, key: str) -> _Manifest | None:
        try:
            fields = json.loads((self._folder(key) / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        folder = fields["folder"]
        return _Manifest(
            tuple(fields["files"]), tuple(fields["sizes"]), None if folder is None else Path(folder)
        )

    def _place(self, files: Sequence[Path], names: Sequence[str], *, in_place: bool) -> str:
        self._root.mkdir(parents=True, exist_ok=True)
        staging = self._root / f".incoming-{os.getpid()}-{os.urandom(4).hex()}"
        staging.mkdir()
        try:
            if in_place:
                key = fingerprint(files)
            else:  # hashed while it is copied: the key is that of the bytes that were kept
                targets = [staging / name for name in names]
                pairs = zip(files, targets, strict=True)
                key = _combined([_copied(source, target) for source, target in pairs])
            manifest = {
                "files": list(names),
                "sizes": [file.stat().st_size for file in files],
                "folder": str(files[0].parent) if in_place else None,
            }
            _write(staging / MANIFEST, json.dumps(manifest).encode())
            self._move(staging, self._folder(key))
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return key

    def _move(self, staging: Path, folder: Path) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            folder.rename(staging.with_name(staging.name + ".old"))
        try:
            staging.rename(folder)
        finally:
            shutil.rmtree(staging.with_name(staging.name + ".old"), ignore_errors=True)


def _names(files: Sequence[Path]) -> list[str]:
    folder = files[0].parent
    names = []
    for file in files:
        if not file.is_relative_to(folder) or ".." in file.parts:
            raise StorageError(f"the external data '{file}' lies outside the model's folder")
        names.append(file.relative_to(folder).as_posix())
    return names


def _combined(digests: Sequence[str]) -> str:
    if len(digests) == 1:
        return f"{_PREFIX}{digests[0]}"
    return f"{_PREFIX}{hashlib.sha256(chr(10).join(digests).encode()).hexdigest()}"


def _digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _copied(source: Path, target: Path) -> str:
    """The digest of a file that is on disk at `target` from now on."""
    digest = hashlib.sha256()
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
