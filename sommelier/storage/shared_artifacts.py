"""Model files in a store that databases share: uploaded once, fetched on first use.

    <store>/sommelier-store.json                 says that this is one, and of which format
    <store>/1f/0c3a.../<the model file and its external data, under their own names>
    <store>/1f/0c3a.../manifest.json             written last: with it the artifact is there, whole

A key is the content's own, so whoever writes it writes the same. Nothing is ever deleted here:
other databases may need it. Everything else works with the paths of fetched files, see
artifact_cache.py. Files that are left in place, and those kept beside the database before it had a
store, are used where they are.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from sommelier.errors import RejectedModelError, StorageError
from sommelier.storage.artifact_cache import ArtifactCache, Lease
from sommelier.storage.artifact_places import MARK, Place
from sommelier.storage.artifacts import (
    MANIFEST,
    ArtifactStore,
    copied,
    digest_of,
    disk_is_full,
    names_of,
    refused,
)
from sommelier.storage.cache import artifact_cache_bytes, cache_folder
from sommelier.storage.object_store import CHUNK, ObjectStore
from sommelier.storage.remote_manifest import RemoteFile, RemoteManifest
from sommelier.storage.store_faults import is_missing

logger = logging.getLogger(__name__)

FORMAT = 1
LEASES = 256  # files whose paths were handed out and that are kept, of one connection


class SharedArtifacts(ArtifactStore):
    """The files of the models of a database that has a store. See ArtifactStore.

    What `path` answered stays where it is until `using` ends, where it was asked inside, else until
    `close`; but for the LEASES newest it is then fetched again by the next `path`.
    """

    def __init__(self, root: Path, place: Place, *, cache: ArtifactCache | None = None) -> None:
        """root : the database's own folder, for references and for work in progress."""
        super().__init__(root)
        self.place = place
        self._store = ObjectStore(place)
        self.cache = cache or ArtifactCache(
            cache_folder() / "artifacts" / place.id, limit_bytes=artifact_cache_bytes()
        )
        self._leases: OrderedDict[str, Lease] = OrderedDict()
        self._scope = threading.local()
        self._lock = threading.Lock()
        self._fetching: dict[str, threading.Lock] = {}

    @property
    def address(self) -> str:
        """Where the files lie, for people."""
        return self.place.address

    def prepare(self) -> None:
        """Make the place a store, if it is none yet. Raises StorageError where it cannot be used:
        no network, no credentials, no such bucket, nothing there to read."""
        found = self._store.read(MARK)
        if found is None and self.place.read_only:
            raise StorageError(
                f"there is no store of model files at {self.place}: it has no {MARK}",
                hint="a store is made where it can be written: artifacts='s3://bucket/models'",
            )
        if found is None:
            what = "model files of Sommelier, named by their content"
            self._store.write(MARK, json.dumps({"format": FORMAT, "what": what}).encode())
            return
        try:
            version = json.loads(found)["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(f"'{self.place.address}/{MARK}' is damaged") from error
        if version != FORMAT:
            raise StorageError(
                f"the store {self.place} has format {version}, this version reads {FORMAT}",
                hint="use a newer version of Sommelier",
            )

    def put(
        self, path: Path, *, external: Sequence[Path] = (), reference_in_place: bool = False
    ) -> str:
        """The key of a model file, which is in the store from now on. What is there already is not
        sent again. See ArtifactStore.put."""
        if reference_in_place:
            return super().put(path, external=external, reference_in_place=True)
        files = [Path(path).absolute(), *(Path(file).absolute() for file in external)]
        names = names_of(files)
        try:
            manifest = RemoteManifest(
                tuple(
                    RemoteFile(name, file.stat().st_size, digest_of(file))
                    for name, file in zip(names, files, strict=True)
                )
            )
        except OSError as error:
            raise refused(path, error) from error
        _check_names(manifest)
        key = manifest.key
        if not self._has(key):
            self._send(key, files, manifest)
        self._keep_nearby(key, files, manifest)
        return key

    def path(self, key: str) -> Path:
        """The model file of `key` on this machine, fetched now if it has to be. See
        ArtifactStore.path; raises StorageError if the store does not have it or does not answer."""
        return self._files(key)[0]

    def files(self, key: str) -> list[Path]:
        """The model file of `key`, and its external data. Raises StorageError as `path` does."""
        return self._files(key)

    @contextmanager
    def using(self) -> Iterator[None]:
        """What this thread asks the path of inside the block stays until its end, and then may be
        removed to make room."""
        outer: list[Lease] | None = getattr(self._scope, "leases", None)
        self._scope.leases = []
        try:
            yield
        finally:
            for lease in self._scope.leases:
                lease.release()
            self._scope.leases = outer

    def close(self) -> None:
        """Allow that what was used is removed to make room."""
        with self._lock:
            while self._leases:
                self._leases.popitem()[1].release()

    # ---- inside: fetching

    def _files(self, key: str) -> list[Path]:
        self._folder(key)  # raises for what is no key
        gone: StorageError | None = None
        local = self._manifest(key)
        if local is not None:
            try:
                model = super().path(key)
                return [model.parent / name for name in local.files]
            except StorageError as error:  # left in place, and moved or changed: perhaps it was
                gone = error  # sent as well
        lease = self._leased(key, gone)
        assert lease.manifest is not None, "found or fetched"
        return [lease.folder / file.name for file in lease.manifest.files]

    def _leased(self, key: str, gone: StorageError | None) -> Lease:
        digest = _digest(key)
        with self._lock:
            turn = self._fetching.setdefault(digest, threading.Lock())
        with turn:  # one thread fetches it, the others find it then
            lease = self.cache.find(digest) or self._fetched(key, gone)
        with self._lock:
            self._fetching.pop(digest, None)
        scope: list[Lease] | None = getattr(self._scope, "leases", None)
        if scope is not None:
            scope.append(lease)
            return lease
        with self._lock:
            self._leases[digest] = lease
            self._leases.move_to_end(digest)
            while len(self._leases) > LEASES:
                self._leases.popitem(last=False)[1].release()
        return lease

    def _fetched(self, key: str, gone: StorageError | None) -> Lease:
        manifest = self._remote(key)
        if manifest is None:
            raise gone or StorageError(
                f"there is no model file '{key}' in the store {self.place}",
                hint="import the model again, or copy the file there from a store that has it",
            )
        try:
            with self.cache.filling(manifest.size) as staging:
                for file in manifest.files:
                    self._fetch(key, file, staging / file.name)
                return self.cache.adopt(staging, _digest(key), manifest)
        except OSError as error:
            raise StorageError(
                f"could not keep the fetched model file '{key}' in {self.cache.root}:"
                f" {error.strerror or error}",
                hint="nothing of it was kept; "
                + (
                    "free some room, or name a folder on another disk with SOMMELIER_CACHE"
                    if disk_is_full(error)
                    else "name a folder that can be written with SOMMELIER_CACHE"
                ),
            ) from error

    def _fetch(self, key: str, file: RemoteFile, target: Path) -> None:
        """Write a file of the store, hashed meanwhile. Raises StorageError if it is another."""
        target.parent.mkdir(parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        with target.open("wb") as writer:
            for chunk in self._chunks(key, file):
                size += len(chunk)
                if size > file.size:
                    break  # whatever it is, it is not to fill the disk
                digest.update(chunk)
                writer.write(chunk)
            writer.flush()
            os.fsync(writer.fileno())
        if size != file.size or digest.hexdigest() != file.sha256:
            raise StorageError(
                f"'{file.name}' of '{key}' in the store {self.place} is damaged: its content is not"
                " what its name says",
                hint=f"delete {_folder_of(key)}/ from the store and import the model again",
            )

    def _chunks(self, key: str, file: RemoteFile) -> Iterator[bytes]:
        try:
            yield from self._store.chunks(f"{_folder_of(key)}/{file.name}")
        except StorageError as error:
            if is_missing(error.__cause__):
                error.hint = "import the model again, which sends what is missing"
            raise

    def _has(self, key: str) -> bool:
        """Whether the store has all of an artifact, by the sizes of its files."""
        manifest = self._remote(key)
        if manifest is None:
            return False
        names = ((f"{_folder_of(key)}/{file.name}", file.size) for file in manifest.files)
        return self.place.read_only or all(self._store.size(name) == size for name, size in names)

    def _remote(self, key: str) -> RemoteManifest | None:
        """What the store has of an artifact. Raises StorageError for what is damaged."""
        found = self._store.read(f"{_folder_of(key)}/{MANIFEST}")
        if found is None:
            return None
        hint = f"delete {_folder_of(key)}/ from the store and import the model again"
        try:
            manifest = RemoteManifest.from_json(found)
        except StorageError as error:
            what = f"'{key}' in the store {self.place} is damaged"
            raise StorageError(f"{what}: {error.message}", hint=hint) from error
        if manifest.key != key:
            raise StorageError(
                f"'{key}' in the store {self.place} is damaged: its {MANIFEST} is of"
                f" {manifest.key}",
                hint=hint,
            )
        return manifest

    # ---- inside: sending

    def _send(self, key: str, files: Sequence[Path], manifest: RemoteManifest) -> None:
        """Upload the files, hashed meanwhile; at last the manifest, which makes them visible."""
        for path, file in zip(files, manifest.files, strict=True):
            try:
                with path.open("rb") as reader:
                    digest = hashlib.sha256()
                    with self._store.writing(f"{_folder_of(key)}/{file.name}", file.size) as send:
                        while chunk := reader.read(CHUNK):
                            digest.update(chunk)
                            send(chunk)
                        if digest.hexdigest() != file.sha256:
                            raise StorageError(
                                f"the model file '{path}' changed while it was sent",
                                hint="nothing of it was kept; import it once it is finished",
                            )
            except OSError as error:
                raise refused(path, error) from error
        self._store.write(f"{_folder_of(key)}/{MANIFEST}", manifest.to_json().encode())

    def _keep_nearby(self, key: str, files: Sequence[Path], manifest: RemoteManifest) -> None:
        """Copy what was sent into the cache: it is likely to be used next. Without it, it works."""
        found = self.cache.find(_digest(key))
        try:
            if found is None:
                with self.cache.filling(manifest.size) as staging:
                    for path, file in zip(files, manifest.files, strict=True):
                        if copied(path, staging / file.name) != file.sha256:
                            return
                    found = self.cache.adopt(staging, _digest(key), manifest)
        except OSError as error:
            logger.warning("'%s' is not kept in %s: %s", key, self.cache.root, error)
        finally:
            if found is not None:
                found.release()


def _digest(key: str) -> str:
    return key.rpartition(":")[2]


def _folder_of(key: str) -> str:
    digest = _digest(key)
    return f"{digest[:2]}/{digest[2:]}"


def _check_names(manifest: RemoteManifest) -> None:
    """Raises RejectedModelError for names that could not be fetched again."""
    with suppress(StorageError):
        RemoteManifest.from_json(manifest.to_json())
        return
    names = ", ".join(file.name for file in manifest.files)
    raise RejectedModelError(f"a store cannot keep files under these names: {names:.200}")
