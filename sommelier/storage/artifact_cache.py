"""Model files fetched from a store: bounded, shared by processes, never half there.

    <cache>/artifacts/<store>/1f/0c3a.../manifest.json      names, sizes and digests of the files
    <cache>/artifacts/<store>/1f/0c3a.../in-use.lock        locked (shared) by whoever uses them
    <cache>/artifacts/<store>/1f/0c3a.../<the model file and its external data>

What was used longest ago goes first when there is too much; what a process has a lease of does not
go. A file that is open or mapped outlives its removal anyway (POSIX): the lease is for those who
have its path and will open it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sommelier.errors import StorageError
from sommelier.storage.artifacts import MANIFEST, digest_of
from sommelier.storage.durable import sync_file, sync_folder
from sommelier.storage.remote_manifest import RemoteFile, RemoteManifest
from sommelier.storage.staging import remove, staged
from sommelier.units import Dimension, format_value

logger = logging.getLogger(__name__)

LEASE = "in-use.lock"
_ATTEMPTS = 10  # to lease an entry that others remove and put back meanwhile


class Lease:
    """The promise that an entry stays where it is, until `release` or the end of this object.

    manifest : what lies in `folder`.
    """

    def __init__(self, folder: Path, handle: int, manifest: RemoteManifest | None = None) -> None:
        self.folder = folder
        self.manifest = manifest
        self._handle: int | None = handle

    def release(self) -> None:
        """Let it go; a second call does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def __del__(self) -> None:
        self.release()


def held(path: Path) -> Lease | None:
    """A lease of the entry that a model file lies in; None for a file that is in no cache, and for
    one that has gone."""
    folder = path.parent
    return _leased(folder) if (folder / MANIFEST).is_file() else None


class ArtifactCache:
    """The fetched files of one store. For any number of threads and processes."""

    def __init__(self, root: Path, *, limit_bytes: int | None = None) -> None:
        """limit_bytes : on disk, as far as nobody uses more at the same time."""
        self.root = Path(root)
        self.limit_bytes = limit_bytes
        self._verified: dict[Path, tuple[int, ...]] = {}
        self._lock = threading.Lock()

    def find(self, digest: str) -> Lease | None:
        """The entry of an artifact, whole, or None. digest : 64 hexadecimal digits."""
        folder = self._folder(digest)
        lease = _leased(folder)
        if lease is None:
            return None
        try:
            text = (folder / MANIFEST).read_text("utf-8")
            lease.manifest = RemoteManifest.from_json(text)
            times = json.loads(text)["times"]
            for file, time_ns in zip(lease.manifest.files, times, strict=True):
                self._verify(folder / file.name, file, time_ns)
            with contextlib.suppress(OSError):
                os.utime(folder / MANIFEST)  # when it was last used
        except (OSError, ValueError, KeyError, TypeError, StorageError) as error:
            logger.warning("the fetched model file %s is damaged: %s", folder, error)
            lease.release()
            with contextlib.suppress(OSError):
                remove(self.root, folder)
            return None
        return lease

    @contextmanager
    def filling(self, size: int) -> Iterator[Path]:
        """An empty folder on the disk of the cache, for `adopt`, with room for so many bytes.
        Raises OSError."""
        self.make_room(size)
        with staged(self.root) as folder:
            yield folder

    def adopt(self, staging: Path, digest: str, manifest: RemoteManifest) -> Lease:
        """The entry that `staging` becomes, whose files are verified and flushed to disk.

        Another process may have been quicker: what it made stays. Makes room for it; raises
        OSError.
        """
        (staging / LEASE).touch()
        times = [(staging / file.name).stat().st_mtime_ns for file in manifest.files]
        fields = json.loads(manifest.to_json()) | {"times": times}
        (staging / MANIFEST).write_text(json.dumps(fields), encoding="utf-8")
        sync_file(staging / MANIFEST)
        sync_folder(staging)
        own = _leased(staging)
        assert own is not None, "its file was just made"
        folder = self._folder(digest)
        folder.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(_ATTEMPTS):
            try:
                staging.rename(folder)
            except OSError:  # it is there
                found = self.find(digest)
                if found is not None:
                    own.release()
                    return found
                continue
            own.folder, own.manifest = folder, manifest
            sync_folder(folder.parent)
            self.make_room()
            return own
        own.release()
        raise OSError(f"{folder} cannot be replaced")

    def make_room(self, size: int = 0) -> int:
        """Remove what was used longest ago, and is not in use, until the limit is kept with `size`
        bytes more; bytes that were freed."""
        if self.limit_bytes is None:
            return 0
        sizes = {folder: _size(folder) for folder in self._entries()}
        total, freed = sum(sizes.values()) + size, 0
        for folder in sorted(sizes, key=_last_use):
            if total - freed <= self.limit_bytes:
                return freed
            if _evicted(self.root, folder):
                logger.info("%s is removed to make room", folder)
                freed += sizes[folder]
        if not size and total - freed > self.limit_bytes:
            taken, limit = (
                format_value(n, Dimension.BYTES) for n in (total - freed, self.limit_bytes)
            )
            logger.warning("model files in use take %s of %s in %s", taken, limit, self.root)
        return freed

    def size_bytes(self) -> int:
        """What all entries take on disk."""
        return sum(map(_size, self._entries()))

    # ---- inside

    def _folder(self, digest: str) -> Path:
        return self.root / digest[:2] / digest[2:]

    def _entries(self) -> list[Path]:
        return [file.parent for file in self.root.glob(f"[0-9a-f][0-9a-f]/*/{MANIFEST}")]

    def _verify(self, path: Path, file: RemoteFile, time_ns: int) -> None:
        """Raises ValueError for a file that is not what was fetched. One of the size and time it
        was fetched with is taken for unchanged; one of another time is read, once a process."""
        found = path.stat()
        state = found.st_ino, found.st_size, found.st_mtime_ns
        if found.st_size != file.size:
            raise ValueError(f"{path.name} has {found.st_size} bytes, not {file.size}")
        with self._lock:
            if found.st_mtime_ns == time_ns or self._verified.get(path) == state:
                return
        if digest_of(path) != file.sha256:
            raise ValueError(f"{path.name} has changed")
        with self._lock:
            self._verified[path] = state


def _leased(folder: Path) -> Lease | None:
    """A lease of the entry that is there now, whatever it holds."""
    for _ in range(_ATTEMPTS):
        try:
            handle = os.open(folder / LEASE, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if _share(handle) and _is_at(handle, folder / LEASE):
            return Lease(folder, handle)
        os.close(handle)  # it was removed meanwhile
    return None


def _is_at(handle: int, path: Path) -> bool:
    own = os.fstat(handle)
    try:
        found = path.stat()
    except OSError:
        return False
    return (own.st_dev, own.st_ino) == (found.st_dev, found.st_ino)


def _share(handle: int) -> bool:
    """Lock with others who use it; whoever removes it has it to himself, for a moment only."""
    if os.name == "nt":  # pragma: no cover - an open file cannot be removed there
        return True
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_SH)
    return True


def _evicted(root: Path, folder: Path) -> bool:
    """Remove an entry, unless anybody uses it; whether it is gone."""
    try:
        handle = os.open(folder / LEASE, os.O_RDONLY)
    except OSError:
        return False
    try:
        if os.name != "nt":
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_at(handle, folder / LEASE):
            return False
        remove(root, folder)
    except OSError:  # BlockingIOError: it is in use
        return False
    finally:
        os.close(handle)
    return True


def _size(folder: Path) -> int:
    """Bytes of the files of an entry; 0 if it is gone."""
    with contextlib.suppress(OSError):
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return 0


def _last_use(folder: Path) -> int:
    try:
        return (folder / MANIFEST).stat().st_mtime_ns
    except OSError:
        return 0
