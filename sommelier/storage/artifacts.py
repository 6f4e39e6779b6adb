"""Model files beside the catalog, named by their content.

    artifacts/1f/0c3a.../manifest.json
    artifacts/1f/0c3a.../<the model file and its external data, as they lay beside each other>

A database may keep them in a store that others share instead: see shared_artifacts.py.

A large model may stay where it is: then there is only the manifest, which says where and how large.
A file is in the store whole or not at all: it is copied and hashed beside its place, flushed to
disk, and moved there in one step; what replaces a reference is moved in file by file, the manifest
last. So at no moment is a file missing that was there before. The same bytes are kept once.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sommelier.errors import RejectedModelError, StorageError
from sommelier.storage.durable import sync_folder

MANIFEST = "manifest.json"
_PREFIX = "sha256:"
_INCOMING = ".incoming-"  # folders that are being filled
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class _Manifest:
    """folder : None when the files lie beside the manifest. sizes : bytes, in file order.

    times : st_mtime_ns of files left where they are, in file order; () for copies.
    """

    files: tuple[str, ...]
    sizes: tuple[int, ...]
    folder: Path | None
    times: tuple[int, ...] = ()

    @classmethod
    def from_json(cls, text: str) -> _Manifest:
        fields = json.loads(text)
        folder = fields["folder"]
        return cls(
            tuple(fields["files"]),
            tuple(fields["sizes"]),
            None if folder is None else Path(folder),
            tuple(fields.get("times", ())),
        )

    def to_json(self) -> str:
        return json.dumps(
            {
                "files": self.files,
                "sizes": self.sizes,
                "folder": None if self.folder is None else str(self.folder),
                "times": self.times,
            }
        )


def fingerprint(paths: Iterable[Path]) -> str:
    """'sha256:...' of a file; of several, of their digests in order, one per line.

    The first is the model, the others its external data. For one file it is what sha256sum prints.
    """
    return combined([digest_of(Path(path)) for path in paths])


class ArtifactStore:
    """The files of the models in a database. Reading never writes; `put` may run in any process."""

    def __init__(self, root: Path) -> None:
        self._root = Path(root)
        self._read_again: dict[str, tuple[int, ...]] = {}  # key: the times its content was right at

    @property
    def address(self) -> str:
        """Where the files lie, for people."""
        return str(self._root)

    def fingerprint(self, paths: Iterable[Path]) -> str:
        """See the function of this name."""
        return fingerprint(paths)

    def put(
        self, path: Path, *, external: Sequence[Path] = (), reference_in_place: bool = False
    ) -> str:
        """The key of a model file, which is in the store from now on.

        external : its external data, in the model's folder or below. reference_in_place : leave
        the files where they are; they must then not be moved or changed. What is there already is
        not copied again. Raises StorageError, with nothing left behind; RejectedModelError for a
        model whose files cannot be kept under their names.
        """
        files = [Path(path).absolute(), *(Path(file).absolute() for file in external)]
        names = names_of(files)
        try:
            key = fingerprint(files)
            if self._is_kept(key, in_place=reference_in_place):
                return key
            return self._place(files, names, in_place=reference_in_place)
        except OSError as error:
            raise refused(path, error) from error

    def path(self, key: str) -> Path:
        """The model file of `key`; its external data lies beside it.

        Raises StorageError if it is not in the store, or if a file left in place has gone or has
        changed. A file of the size and the modification time it was imported with is taken for
        unchanged; one of another time is read again, once per store. See `verify`.
        """
        manifest = self._manifest(key)
        if manifest is None:
            raise StorageError(f"there is no model file '{key}' in {self._root}")
        folder = manifest.folder or self._folder(key)
        times = []
        for name, size in zip(manifest.files, manifest.sizes, strict=True):
            file = folder / name
            if not file.is_file():
                raise StorageError(f"the model file '{file}' has gone", hint="import it again")
            found = file.stat()
            if found.st_size != size:
                raise _changed(file)
            times.append(found.st_mtime_ns)
        if manifest.folder is not None and tuple(times) != manifest.times:
            self._read_in_place(key, manifest, tuple(times))
        return folder / manifest.files[0]

    def files(self, key: str) -> list[Path]:
        """The model file of `key`, and its external data. Raises StorageError as `path` does."""
        model = self.path(key)
        manifest = self._manifest(key)
        assert manifest is not None, "path() has found it"
        return [model.parent / name for name in manifest.files]

    def is_in_place(self, key: str) -> bool:
        """Whether its files were left where they are: nobody has a copy of them."""
        manifest = self._manifest(key)
        return manifest is not None and manifest.folder is not None

    def verify(self, key: str) -> None:
        """Read the files of `key` again; raises StorageError if they are not what they were."""
        files = self.files(key)
        found = fingerprint(files)
        if found != key:
            raise StorageError(
                f"the model file '{files[0]}' has changed: its content is {found}, not {key}",
                hint="import it again; it will be a new version",
            )

    def using(self) -> contextlib.AbstractContextManager[None]:
        """What this thread asks the path of inside the block is needed until its end only."""
        return contextlib.nullcontext()

    def close(self) -> None:
        """Say that no path is needed any more."""

    @contextlib.contextmanager
    def workplace(self) -> Iterator[Path]:
        """An empty folder on the disk of the models, to make one in; it goes with the context, or
        with `sweep`."""
        folder = self._root / f"{_INCOMING}{os.getpid()}-{os.urandom(4).hex()}"
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> int:
        """Remove what killed processes left half-made; how many folders there were.

        Only for the process that writes the database, and while it puts nothing.
        """
        left = list(self._root.glob(f"{_INCOMING}*"))
        for folder in left:
            shutil.rmtree(folder, ignore_errors=True)
        return len(left)

    # ---- inside

    def _folder(self, key: str) -> Path:
        digest = key.removeprefix(_PREFIX)
        if not key.startswith(_PREFIX) or len(digest) != 64 or not digest.isalnum():
            raise StorageError(f"'{key}' is not the key of a model file")
        return self._root / digest[:2] / digest[2:]

    def _manifest(self, key: str) -> _Manifest | None:
        try:
            text = (self._folder(key) / MANIFEST).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        return _Manifest.from_json(text)

    def _read_in_place(self, key: str, manifest: _Manifest, times: tuple[int, ...]) -> None:
        """Raise StorageError unless files of these modification times still hold `key`."""
        if self._read_again.get(key) == times:
            return
        assert manifest.folder is not None, "only files left in place can be touched"
        files = [manifest.folder / name for name in manifest.files]
        if fingerprint(files) != key:
            before = manifest.times or (-1,) * len(times)
            touched = [f for f, a, b in zip(files, times, before, strict=True) if a != b]
            raise _changed(touched[0])
        self._read_again[key] = times

    def _is_kept(self, key: str, *, in_place: bool) -> bool:
        """Whether there is nothing to do for `put`: a copy is there, or the reference wanted."""
        known = self._manifest(key)
        if known is None or not (in_place or known.folder is None):
            return False
        with contextlib.suppress(StorageError):  # a reference whose file has gone is replaced
            ArtifactStore.path(self, key)  # not one that is in a store as well
            return key not in self._read_again  # a touched file's new time is written down
        return False

    def _place(self, files: Sequence[Path], names: Sequence[str], *, in_place: bool) -> str:
        with self.workplace() as staging:
            found = [file.stat() for file in files]  # before they are read: a later change shows
            if in_place:
                key = fingerprint(files)
            else:  # hashed while it is copied: the key is that of the bytes that were kept
                targets = [staging / name for name in names]
                pairs = zip(files, targets, strict=True)
                key = combined([copied(source, target) for source, target in pairs])
                found = [target.stat() for target in targets]
            manifest = _Manifest(
                tuple(names),
                tuple(stat.st_size for stat in found),
                files[0].parent if in_place else None,
                tuple(stat.st_mtime_ns for stat in found) if in_place else (),
            )
            _write(staging / MANIFEST, manifest.to_json().encode())
            _sync_tree(staging)
            self._move(staging, key, in_place=in_place)
        self._read_again.pop(key, None)
        return key

    def _move(self, staging: Path, key: str, *, in_place: bool) -> None:
        """Make `staging` what `key` holds; a kill at any moment leaves the old or the new."""
        folder = self._folder(key)
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            staging.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
            if self._is_kept(key, in_place=in_place):
                return  # another process was quicker
            names = [path.relative_to(staging) for path in staging.rglob("*") if path.is_file()]
            for name in sorted(names, key=lambda name: name == Path(MANIFEST)):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                if name == Path(MANIFEST):
                    _sync_tree(folder)
                (staging / name).replace(folder / name)
            sync_folder(folder)
        sync_folder(folder.parent)
        sync_folder(self._root)


def refused(path: Path, error: OSError) -> StorageError:
    """What is said where a model file could not be read or kept."""
    hint = "nothing of it was kept"
    if disk_is_full(error):
        hint += "; free some room on the disk of the database, then go on"
    return StorageError(
        f"could not keep the model file '{path}': {error.strerror or error}", hint=hint
    )


def disk_is_full(error: OSError) -> bool:
    """Whether there is no room, or no more of it for this user."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _changed(file: Path) -> StorageError:
    return StorageError(
        f"the model file '{file}' has changed since it was imported",
        hint="import it again; it will be a new version",
    )


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_folder(path)
    sync_folder(folder)


def names_of(files: Sequence[Path]) -> list[str]:
    """The names of a model's files, the model's first, relative to its folder. Raises
    RejectedModelError for one outside it, and one that cannot be kept under its name."""
    folder = files[0].parent
    names = []
    for file in files:
        if not file.is_relative_to(folder) or ".." in file.parts:
            raise RejectedModelError(f"the external data '{file}' lies outside the model's folder")
        name = file.relative_to(folder)
        if name.parts[0].casefold() == MANIFEST:  # a disk may not tell cases apart
            raise RejectedModelError(f"a file of a model cannot be called {MANIFEST}: '{file}'")
        names.append(name.as_posix())
    return names


def combined(digests: Sequence[str]) -> str:
    """The key of files with these digests, the model's first."""
    if len(digests) == 1:
        return f"{_PREFIX}{digests[0]}"
    return f"{_PREFIX}{hashlib.sha256(chr(10).join(digests).encode()).hexdigest()}"


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, 64 hexadecimal digits. Raises OSError."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def copied(source: Path, target: Path) -> str:
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
