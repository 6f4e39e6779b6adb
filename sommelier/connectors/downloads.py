"""Files fetched over HTTP: limited, resumed, verified, and kept so that they are fetched once.

Below cache_folder()/downloads each address has a folder: `file` is the last complete download,
`file.part` one that broke off, and `.json` beside each says the ETag, length and SHA-256 it has.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sommelier.connectors.base import Progress
from sommelier.connectors.parts import part_folder
from sommelier.connectors.web import (
    NO_HEADERS,
    REDIRECTS,
    BrokenOffError,
    UnreachableError,
    check_scheme,
    chunks,
    opened,
    shown,
)
from sommelier.errors import ConnectorError, first_line
from sommelier.storage.cache import CACHE_VARIABLE, cache_folder
from sommelier.storage.locking import WriterLock
from sommelier.units import Dimension, format_value

log = logging.getLogger(__name__)

PAUSES = (0.2, 1.0)  # seconds before a transfer that broke off goes on; then it is given up
_PROGRESS = 1 << 16  # bytes that count as such: from then on there are as many pauses as before
_CHUNK = 1 << 20
_POLL_SECONDS = 0.1
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_UNWRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """What one download may take. bytes : of the file; seconds : in all, waiting included."""

    bytes: int = 8 << 30
    seconds: float = 3600
    redirects: int = REDIRECTS


DEFAULT_LIMITS = DownloadLimits()


@dataclass(frozen=True, slots=True)
class _State:
    """What is known of a file or part of one. address : SHA-256 of the URL, which may hold
    secrets; etag is None where the server gave none."""

    address: str
    etag: str | None = None
    sha256: str | None = None
    bytes: int | None = None


def disk_error(error: OSError, folder: Path) -> ConnectorError:
    """What a file that could not be written below `folder`, of the cache, means for who asked."""
    why = error.strerror or first_line(error)
    elsewhere = f"let {CACHE_VARIABLE} name another cache folder"
    if error.errno in _FULL:
        return ConnectorError(
            f"there is no room left in {folder}: {why}", hint=f"free some, or {elsewhere}"
        )
    if error.errno in _UNWRITABLE:
        return ConnectorError(f"{folder} cannot be written to: {why}", hint=elsewhere)
    if error.errno == errno.EFBIG:
        return ConnectorError(f"the disk of {folder} holds no file of that size", hint=elsewhere)
    return ConnectorError(f"nothing can be kept in {folder}: {why}", hint=elsewhere)


def placed(kept: Path, target: Path) -> Path:
    """A copy of a file of the cache under another name, made once. No link: onnx takes a file with
    several hard links for an attack where weights lie in it. Raises ConnectorError."""
    try:
        state = kept.stat()
        if target.is_file():
            known = target.stat()
            if (known.st_size, known.st_mtime_ns) == (state.st_size, state.st_mtime_ns):
                return target
        with part_folder(target.parent) as folder:
            return Path(shutil.copy2(kept, folder / target.name)).replace(target)
    except OSError as error:
        raise disk_error(error, target.parent) from error


def download(
    url: str,
    *,
    headers: Mapping[str, str] = NO_HEADERS,
    sha256: str | None = None,
    limits: DownloadLimits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> Path:
    """The file at an http(s) address, in the cache; its name ends as the address does.

    sha256 : hexadecimal; a file of that hash in the cache is taken without asking the server.
    Without it the server is asked whether its ETag is still the one we have; a kept file serves
    when the server cannot be reached. progress : called with the bytes that have come.
    Raises ConnectorError with what was asked, what came, and what to do.
    """
    check_scheme(url, url)
    expected = None if sha256 is None else _hexadecimal(sha256)
    deadline = time.monotonic() + limits.seconds
    folder = cache_folder() / "downloads" / _address(url)[:32]
    with _alone(folder, url, deadline):
        job = _Download(url, folder / _file_name(url), dict(headers), expected, limits, deadline)
        try:
            return job.run(progress)
        except _ProgressError as error:
            raised: OSError = error.args[0]
    raise raised


class _ProgressError(Exception):
    """What the caller's `progress` raised: an OSError of it is none of our disk."""


@dataclass(slots=True)
class _Download:
    """One address, while its folder is ours. hashed : bytes of the part that the hash has seen, so
    that a transfer of many pieces does not read them again at each."""

    url: str
    path: Path
    headers: dict[str, str]
    sha256: str | None
    limits: DownloadLimits
    deadline: float
    hashed: tuple[int, hashlib._Hash] = field(default_factory=lambda: (0, hashlib.sha256()))

    def run(self, progress: Progress | None) -> Path:
        kept = self._complete()
        if kept is None or kept.sha256 != self.sha256:
            self._bring(kept, progress)
        self._check_size(self.path.stat().st_size, "has")  # a kept one too
        return self.path

    def _bring(self, kept: _State | None, progress: Progress | None) -> None:
        """Transfers until the file is there; one that breaks off goes on after a pause."""
        failures = most = 0
        while True:
            try:
                return self._transfer(kept, progress)
            except (BrokenOffError, UnreachableError) as error:
                if not failures and isinstance(error, UnreachableError):
                    raise
                came, _ = self._begun()
                failures = 1 if came >= most + _PROGRESS else failures + 1
                most = max(most, came)
                if failures > len(PAUSES):
                    raise ConnectorError(
                        f"{shown(self.url)} broke off {failures} times: {error}",
                        hint="run it again: it goes on from where it was, if the server can",
                    ) from error
                log.warning("%s broke off (%s), going on", shown(self.url), error)
            time.sleep(PAUSES[failures - 1])
            self._check_time(most)

    def _complete(self) -> _State | None:
        """What the complete file is; None if there is none or its bytes are not what they were."""
        state = _load(self.path, self.address)
        if state is None or not self.path.is_file():
            return None
        return state if state.sha256 == _hash_of(self.path).hexdigest() else None

    def _transfer(self, kept: _State | None, progress: Progress | None) -> None:
        """Brings the file, or finds the kept one still current."""
        done, part = self._begun()
        asking = dict(self.headers)
        condition = None if kept is None or self.sha256 is not None else kept.etag
        if condition:
            asking["If-None-Match"] = condition
        if done:  # only of a file that is not the kept one (RFC 9110, 13.2.2)
            asking |= {"Range": f"bytes={done}-", "If-Range": str(part.etag)}
        try:
            with opened(
                self.url,
                headers=asking,
                redirects=self.limits.redirects,
                deadline=self.deadline,
            ) as response:
                if response.status == 304 and condition:
                    _remove(self._part)
                elif response.status == 304:
                    raise ConnectorError(
                        f"{shown(self.url)} says that it has not changed (304), unasked",
                        hint="the server, or a proxy on the way, does not keep to HTTP",
                    )
                elif response.status == 416:  # the part is not of this file
                    _remove(self._part)
                    raise BrokenOffError("the server has no more than what we have")
                else:
                    self._receive(response, done, progress)
        except UnreachableError as error:
            if kept is None or self.sha256 is not None:
                raise
            log.warning("%s; the copy in the cache is used", error)

    @property
    def address(self) -> str:
        return _address(self.url)

    @property
    def _part(self) -> Path:
        return self.path.with_name(self.path.name + ".part")

    def _begun(self) -> tuple[int, _State]:
        """Bytes of a part that can go on, and what they are of."""
        state = _load(self._part, self.address)
        if state is None or not _strong(state.etag) or not self._part.is_file():
            return 0, _State(self.address)
        return self._part.stat().st_size, state

    def _receive(
        self, response: http.client.HTTPResponse, done: int, progress: Progress | None
    ) -> None:
        """Writes the body to the part, checks it, and makes it the file."""
        start, total = self._extent(response, done)
        # without an end that is told, a body that was cut off looks whole: it is asked for again
        etag = response.headers.get("ETag") if total is not None or response.chunked else None
        if total is not None:
            self._check_size(total, "says it has")
        if not start:
            _remove(self._part)
            _save(self._part, _State(self.address, etag, None, total))
        digest, came = self._written(response, start, total, progress)
        if total is not None and came != total:  # one range of it
            raise BrokenOffError(f"{came} of {total} bytes came")
        if self.sha256 is not None and digest != self.sha256:
            _remove(self._part)
            raise ConnectorError(
                f"{shown(self.url)} has another content than it should: "
                f"sha256 {digest}, expected {self.sha256}",
                hint="the file was changed or damaged on the way; nothing of it is kept",
            )
        _save(self.path, _State(self.address, etag, digest, came))
        self._part.replace(self.path)
        _remove(self._part)

    def _extent(self, response: http.client.HTTPResponse, done: int) -> tuple[int, int | None]:
        """Where the body belongs, and the bytes of the whole file, None where that is not said."""
        if response.status != 206:
            return 0, response.length
        said = response.headers.get("Content-Range") or ""
        match = re.match(r"bytes (\d{1,18})-\d{1,18}/(?:(\d{1,18})|\*)", said)
        if match is None or int(match[1]) != done:
            raise ConnectorError("the server answered with another part of the file than asked for")
        left = None if response.length is None else done + response.length
        total, (_, part) = int(match[2]) if match[2] else left, self._begun()
        etag = response.headers.get("ETag") or part.etag  # which some servers do not look at
        resized = total is not None and part.bytes not in (None, total)
        if done and (etag != part.etag or resized):
            _remove(self._part)
            raise BrokenOffError("the file was changed meanwhile")
        return done, total

    def _written(
        self,
        response: http.client.HTTPResponse,
        start: int,
        total: int | None,
        progress: Progress | None,
    ) -> tuple[str, int]:
        """Hash and length of the part after the body was added to its first `start` bytes."""
        came, digest = self.hashed
        if came != start or not start:
            came, digest = start, _hash_of(self._part, start) if start else hashlib.sha256()
        self._part.touch(mode=0o600)  # what is fetched with a token is nobody else's
        with self._part.open("r+b" if start else "wb") as file:
            file.seek(start)
            for chunk in chunks(response, before=start):
                came += len(chunk)
                self._check_size(came, "sends at least")
                self._check_time(came)
                file.write(chunk)
                digest.update(chunk)
                self.hashed = came, digest
                if progress is not None:
                    self._tell(progress, came, total)
            file.flush()
            os.fsync(file.fileno())
        return digest.hexdigest(), came

    def _tell(self, progress: Progress, came: int, total: int | None) -> None:
        try:
            progress(self.path.name, came, total)
        except OSError as error:
            raise _ProgressError(error) from error

    def _check_size(self, size: int, verb: str) -> None:
        if size > self.limits.bytes:
            _remove(self._part)
            raise ConnectorError(
                f"{shown(self.url)} {verb} {_size(size)}, the limit is {_size(self.limits.bytes)}",
                hint="raise the limit (USING max_size = ...) if you want it",
            )

    def _check_time(self, came: int) -> None:
        if time.monotonic() > self.deadline:
            raise ConnectorError(
                f"{shown(self.url)} took more than {self.limits.seconds:g} s; {_size(came)} came",
                hint="run it again: it goes on from where it was, if the server can",
            )


@contextmanager
def _alone(folder: Path, url: str, deadline: float) -> Iterator[None]:
    """The folder of an address, ours alone among all processes."""
    lock = WriterLock(folder)
    try:
        while not lock.acquire(note=False):
            if time.monotonic() > deadline:
                raise ConnectorError(f"another process has been fetching {shown(url)} all the time")
            time.sleep(_POLL_SECONDS)
        yield
    except OSError as error:
        raise disk_error(error, folder) from error
    finally:
        lock.release()


def _file_name(url: str) -> str:
    """The last part of the address, as a harmless file name."""
    last = unquote(urlsplit(url).path.rpartition("/")[2])
    name = re.sub(r"[^A-Za-z0-9._-]", "_", last)[-100:].lstrip(".")
    return name if name and name != "writer.lock" else "file"


def _strong(etag: str | None) -> bool:
    return etag is not None and not etag.startswith("W/")  # If-Range wants a strong one (RFC 9110)


def _hash_of(path: Path, count: int | None = None) -> hashlib._Hash:
    """SHA-256 of a file or of its first `count` bytes."""
    digest = hashlib.sha256()
    left = path.stat().st_size if count is None else count
    with path.open("rb") as file:
        while left > 0 and (chunk := file.read(min(left, _CHUNK))):
            digest.update(chunk)
            left -= len(chunk)
    return digest


def _hexadecimal(sha256: str) -> str:
    text = sha256.lower().removeprefix("sha256:")
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ConnectorError(f"{sha256[:80]!r} is no SHA-256: it has 64 hexadecimal digits")
    return text


def _state_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _address(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()


def _load(path: Path, address: str) -> _State | None:
    try:
        state = _State(**json.loads(_state_path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return state if state.address == address else None


def _save(path: Path, state: _State) -> None:
    """Whole or not at all: a reader never sees half of it."""
    beside = _state_path(path).with_suffix(".new")
    beside.touch(mode=0o600)
    beside.write_text(json.dumps(asdict(state)), encoding="utf-8")
    beside.replace(_state_path(path))


def _remove(path: Path) -> None:
    for gone in (path, _state_path(path)):
        with suppress(FileNotFoundError):
            gone.unlink()


def _size(count: int) -> str:
    return format_value(count, Dimension.BYTES)
