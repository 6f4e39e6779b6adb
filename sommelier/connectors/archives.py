"""Unpacks archives that anyone may have written: nothing leaves the folder, nothing grows large.

Zip and tar (also .gz, .bz2, .xz) alike: members must be plain files and folders at relative paths
without '..'. Links, devices and what claims or turns out to be larger than the limits are refused,
and then nothing of the archive is kept.
"""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Self

from sommelier.errors import RejectedModelError, first_line
from sommelier.units import Dimension, format_value

MAX_MEMBERS = 50_000
BOMB_BYTES = 64 * 10**6  # below this, no ratio is dangerous
BOMB_RATIO = 200  # weights compress by less than 2; deflate's most is 1032
UNREADABLE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    OSError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    ValueError,
)
_CHUNK = 1 << 20
_DESCRIPTIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_DESCRIPTION_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What an archive may unpack to. bytes : of all files together; entries : files and folders."""

    bytes: int = 8 << 30
    entries: int = MAX_MEMBERS


DEFAULT_LIMITS = ArchiveLimits()


class _BoundedHeader(tarfile.TarInfo):
    """A tar header; one that only describes the next, and is read into memory, must be small."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.type in _DESCRIPTIONS and header.size > _DESCRIPTION_BYTES:
            raise RejectedModelError(f"the archive has a header of {header.size} bytes")
        return header


@dataclass(frozen=True, slots=True)
class _Entry:
    """One member: a folder (source None) or a file with the bytes it claims to have."""

    path: PurePosixPath
    size: int = 0
    source: IO[bytes] | None = None


def unpacked(archive: Path, into: Path, *, limits: ArchiveLimits = DEFAULT_LIMITS) -> Path:
    """The folder `into`, which holds exactly the files of the archive; it must not exist before.

    It appears whole or not at all. File modes and times are not taken over. Raises
    RejectedModelError if the archive is damaged, unsafe or larger than the limits.
    """
    if into.exists():
        raise RejectedModelError(f"not unpacked: {into} exists already")
    into.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".part-", dir=into.parent))
    try:
        _unpack(archive, folder, limits)
        folder.chmod(0o755)
        os.rename(folder, into)  # noqa: PTH104  (refuses a folder that was made meanwhile)
        return into
    except UNREADABLE as error:
        raise RejectedModelError(f"'{archive.name}' is damaged: {first_line(error)}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_member(name: str) -> PurePosixPath:
    """The path of a member, relative to the archive. RejectedModelError if it leads elsewhere.

    >>> check_member("a/./b")
    PurePosixPath('a/b')
    """
    path = PurePosixPath(name)
    inside = not path.is_absolute() and ".." not in path.parts
    if not inside or any(sign in name for sign in "\\:\0"):
        raise RejectedModelError(f"the archive names a file outside of itself: {name[:100]!r}")
    return path


def check_zip_member(info: zipfile.ZipInfo, limit: int, *, name: str | None = None) -> None:
    """Raises RejectedModelError for a link, an encrypted member, a bomb, or more than `limit`."""
    shown = repr((info.filename if name is None else name)[:100])
    if stat.S_ISLNK(info.external_attr >> 16):
        raise RejectedModelError(f"{shown} is a link")
    if info.flag_bits & 1:
        raise RejectedModelError(f"{shown} is encrypted")
    if info.file_size > limit:
        raise _too_large(shown, limit)
    if info.file_size > BOMB_BYTES and info.file_size > BOMB_RATIO * info.compress_size:
        times = info.file_size // max(1, info.compress_size)
        raise RejectedModelError(f"{shown} would unpack to {times} times its size")


def _unpack(archive: Path, folder: Path, limits: ArchiveLimits) -> None:
    left = limits.bytes
    seen: set[PurePosixPath] = set()
    with ExitStack() as stack:
        for count, entry in enumerate(_entries(archive, limits, stack)):
            if count == limits.entries:
                raise RejectedModelError(f"the archive has more than {limits.entries} entries")
            if entry.source is None:
                (folder / entry.path).mkdir(parents=True, exist_ok=True)
                continue
            if entry.path in seen:
                raise RejectedModelError(f"the archive has '{entry.path}' twice")
            seen.add(entry.path)
            if entry.size > left:
                raise _too_large("the archive", limits.bytes)
            with entry.source:
                left -= _copied(entry.source, folder / entry.path, left, limits.bytes)


def _entries(archive: Path, limits: ArchiveLimits, stack: ExitStack) -> Iterator[_Entry]:
    if zipfile.is_zipfile(archive):
        opened = stack.enter_context(zipfile.ZipFile(archive))
        if len(opened.infolist()) > limits.entries:
            raise RejectedModelError(f"the archive has more than {limits.entries} entries")
        return _zip_entries(opened, limits)
    return _tar_entries(
        stack.enter_context(tarfile.open(archive, "r:*", tarinfo=_BoundedHeader)), limits
    )


def _zip_entries(archive: zipfile.ZipFile, limits: ArchiveLimits) -> Iterator[_Entry]:
    for info in archive.infolist():
        path = check_member(info.filename)
        check_zip_member(info, limits.bytes)
        if info.is_dir():
            yield _Entry(path)
        else:
            yield _Entry(path, info.file_size, archive.open(info))


def _tar_entries(archive: tarfile.TarFile, limits: ArchiveLimits) -> Iterator[_Entry]:
    for info in archive:
        path = check_member(info.name)
        if info.isdir():
            yield _Entry(path)
            continue
        source = archive.extractfile(info) if info.isreg() else None
        if source is None or info.issparse():
            kind = "a link" if info.islnk() or info.issym() else "no plain file"
            raise RejectedModelError(f"{info.name[:100]!r} is {kind}")
        yield _Entry(path, info.size, source)
    _read_to_end(archive, limits.bytes)


def _read_to_end(archive: tarfile.TarFile, limit: int) -> None:
    """Decompressors check what they have read only at the end, which tarfile does not go to."""
    count = 0
    while archive.fileobj is not None and (chunk := archive.fileobj.read(_CHUNK)):
        count += len(chunk)
        if count > limit:
            raise _too_large("the archive", limit)


def _copied(source: IO[bytes], target: Path, left: int, limit: int) -> int:
    """Bytes copied, counted: what an archive claims may be a lie."""
    target.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with target.open("xb") as file:
        while chunk := source.read(_CHUNK):
            count += len(chunk)
            if count > left:
                raise _too_large("the archive", limit)
            file.write(chunk)
    return count


def _too_large(what: str, limit: int) -> RejectedModelError:
    return RejectedModelError(
        f"{what} would unpack to more than {format_value(limit, Dimension.BYTES)}"
    )
