"""The objects of one store, through fsspec: small ones read and written, large ones as streams.

An object is there whole or not at all. Object stores (s3, gs) make an upload visible when it is
completed; anywhere else it is written under another name and moved. fsspec, which is loaded by the
first call, takes endpoints, profiles and credentials from the environment and its own settings.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from sommelier.errors import MissingDependencyError, StorageError
from sommelier.storage.artifact_places import Place
from sommelier.storage.durable import sync_folder
from sommelier.storage.store_faults import is_missing, told

Send = Callable[[bytes], Any]

CHUNK = 8 << 20  # bytes of one request, and held at a time
PATIENCE_S = 60.0  # for the next bytes of a web server
_PART = 16 << 20  # bytes of an upload's parts, 10 000 of which are allowed; and of one request
_MOST_PARTS = 9_000
_INCOMING = ".incoming-"
_COMPLETED_AT_ONCE = ("s3", "gs")
_EXTRAS = {"s3": "s3", "gs": "gs", "http": "http", "https": "http"}


class ObjectStore:
    """What lies at a place. For any number of threads; no call but the first loads anything."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._fs: Any = None
        self._root = ""
        self._lock = threading.Lock()

    def read(self, name: str) -> bytes | None:
        """A small object, or None if it is not there. Raises StorageError."""
        fs, path = self._found(name)
        try:
            with told(f"read '{name}' of the store {self.place}"):
                content: bytes = fs.cat_file(path)
        except StorageError as error:
            if is_missing(error.__cause__):
                return None
            raise
        return content

    def size(self, name: str) -> int | None:
        """Bytes of an object, or None if it is not there. Raises StorageError."""
        fs, path = self._found(name)
        try:
            with told(f"read '{name}' of the store {self.place}"):
                found: int = fs.info(path)["size"]
        except StorageError as error:
            if is_missing(error.__cause__):
                return None
            raise
        return found

    def chunks(self, name: str) -> Iterator[bytes]:
        """A large object, in order. Raises StorageError, also where it is not there."""
        fs, path = self._found(name)
        with told(f"read '{name}' of the store {self.place}"):
            handle = fs.open(path, "rb", **self._as_stream())
        try:
            while True:
                with told(f"read '{name}' of the store {self.place}"):
                    chunk: bytes = handle.read(CHUNK)
                if not chunk:
                    return
                yield chunk
        finally:
            with contextlib.suppress(Exception):
                handle.close()

    def write(self, name: str, content: bytes) -> None:
        """Write a small object; what was there is replaced. Raises StorageError."""
        with self.writing(name, len(content)) as send:
            send(content)

    @contextmanager
    def writing(self, name: str, size: int) -> Iterator[Send]:
        """A function that takes an object's next bytes; it is there once the block has ended.

        size : bytes there will be. What raises in the block leaves nothing. Raises StorageError.
        """
        self._check_writable()
        fs, path = self._found(name)
        doing = f"write '{name}' to the store {self.place}"
        if self.place.protocol not in _COMPLETED_AT_ONCE:
            upload = self._moved(fs, path)
        elif size <= _PART:
            upload = _in_one_request(fs, path)
        else:
            upload = _in_parts(fs, path, max(_PART, -(-size // _MOST_PARTS)))
        with told(doing), upload as write:

            def send(chunk: bytes) -> None:
                with told(doing):
                    write(chunk)

            yield send

    # ---- inside

    def _as_stream(self) -> dict[str, object]:
        """How to open an object that is read once, from its beginning to its end."""
        if self.place.read_only:
            return {"block_size": 0}  # in one request: not every web server knows ranges
        return {"block_size": CHUNK, "cache_type": "none"}

    @contextmanager
    def _moved(self, fs: Any, path: str) -> Iterator[Send]:
        """Written under another name, flushed to disk where it is one of ours, and moved."""
        target = f"{self._root}/{_INCOMING}{os.getpid()}-{os.urandom(6).hex()}"
        fs.makedirs(fs._parent(path), exist_ok=True)
        handle = fs.open(target, "wb")
        try:
            yield handle.write
            if self.place.protocol == "file":
                handle.flush()
                os.fsync(handle.f.fileno())
            handle.close()
            if self.place.protocol == "file":
                Path(target).replace(path)  # in one step, where fsspec may copy
                for folder in Path(path).relative_to(self._root).parents:
                    sync_folder(Path(self._root) / folder)
            else:
                fs.mv(target, path)
        except BaseException:
            with contextlib.suppress(Exception):
                handle.close()
            with contextlib.suppress(Exception):
                fs.rm_file(target)
            raise

    def _check_writable(self) -> None:
        if self.place.read_only:
            raise StorageError(
                f"the store {self.place} can only be read",
                hint="put models into it where its files lie, or use another store",
            )

    def _found(self, name: str) -> tuple[Any, str]:
        """(fsspec's file system, the path of an object there)."""
        with self._lock:
            if self._fs is None:
                self._fs, self._root = _file_system(self.place)
        return self._fs, f"{self._root}/{name}"


@contextmanager
def _in_one_request(fs: Any, path: str) -> Iterator[Send]:
    """Sent at the end, as it is small."""
    chunks: list[bytes] = []
    yield chunks.append
    fs.pipe_file(path, b"".join(chunks))


@contextmanager
def _in_parts(fs: Any, path: str, part: int) -> Iterator[Send]:
    """Sent in parts of so many bytes, and completed at the end."""
    handle = fs.open(path, "wb", block_size=part, autocommit=False)
    try:
        yield handle.write
        handle.close()
        handle.commit()
    except BaseException:
        with contextlib.suppress(Exception):
            handle.discard()
        handle.closed = True  # or its end would send what it still holds
        raise


def _file_system(place: Place) -> tuple[Any, str]:
    """(fsspec's file system, the path of the store in it). Raises MissingDependencyError, and
    StorageError for a protocol that fsspec does not know."""
    extra = _EXTRAS.get(place.protocol, "store")
    try:
        from fsspec.core import url_to_fs

        with told(f"open the store {place}"):
            own = _web() if place.read_only else {}
            fs, root = url_to_fs(
                place.address, use_listings_cache=False, skip_instance_cache=True, **own
            )
    except ImportError as error:
        raise MissingDependencyError(
            f"a store at {place.protocol}:// needs {_needed(place.protocol)}",
            hint=f"pip install 'sommelier-db[{extra}]'",
        ) from error
    return fs, root.rstrip("/")


def _web() -> dict[str, object]:
    """A download may take as long as bytes come; else aiohttp ends it after five minutes. What
    fsspec's configuration says wins."""
    from aiohttp import ClientTimeout
    from fsspec.config import conf

    timeout = ClientTimeout(total=None, sock_connect=PATIENCE_S, sock_read=PATIENCE_S)
    named = (conf.get(name, {}).get("client_kwargs", {}) for name in ("http", "https"))
    return {"client_kwargs": {"timeout": timeout} | dict(chain(*map(dict.items, named)))}


def _needed(protocol: str) -> str:
    known = {"s3": "s3fs", "gs": "gcsfs", "http": "fsspec and aiohttp"}
    return known.get(_EXTRAS.get(protocol, ""), "fsspec")
