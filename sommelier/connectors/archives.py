"""Unpacks archives that anyone may have written: nothing leaves the folder, nothing grows large.

Zip and tar (also .gz, .bz2, .xz) alike: members must be plain files and folders at relative paths
without '..'. Links (unless they are left out), devices and what claims or turns out to be larger
than the limits are refused, and then nothing of the archive is kept.
"""

from __future__ import annotations

import errno
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, takewhile
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from sommelier.connectors.downloads import disk_error
from sommelier.connectors.naming import printable
from sommelier.connectors.parts import part_folder
from sommelier.errors import RejectedModelError, first_line
from sommelier.storage.zips import opened_zip
from sommelier.units import Dimension, format_value

MAX_MEMBERS = 50_000
MAX_DEPTH = 100  # folders that a member lies in
BOMB_BYTES = 64 * 10**6  # below this, no ratio is dangerous
BOMB_RATIO = 200  # weights compress by less than 2; deflate's most is 1032
UNREADABLE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    OSError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    ValueError,
)
_CHUNK = 1 << 20
_HEADER_BYTES = 1 << 20  # of one member of a tar, with all that describes it
_HEADERS_BYTES = MAX_MEMBERS * 3072  # of all: a header, and twice as much of what describes it
DISK_ERRORS = frozenset(
    {
        errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE,
        errno.ENOSPC, errno.EPERM, errno.EROFS,
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What an archive may unpack to. bytes : of all files together; entries : files and folders,
    also those folders that it does not list itself."""

    bytes: int = 8 << 30
    entries: int = MAX_MEMBERS


DEFAULT_LIMITS = ArchiveLimits()


class _Bounded:
    """The bytes of a tar, of which headers may take so many: tarfile reads them into memory."""

    def __init__(self, content: IO[bytes]) -> None:
        self.content = content
        self.read_so_far = 0
        self.limit: int | None = None  # of read_so_far, while a header is being read

    def read(self, count: int) -> bytes:
        if self.limit is None:
            return self.content.read(count)
        chunk = self.content.read(min(count, self.limit - self.read_so_far + 1))
        self.read_so_far += len(chunk)
        if self.read_so_far > self.limit:
            raise RejectedModelError("the archive has headers that are too large")
        return chunk

    def __getattr__(self, name: str) -> Any:
        return getattr(self.content, name)


class _BoundedTar(tarfile.TarFile):
    """A tar that is read member by member, none of which is kept."""

    members: list[tarfile.TarInfo]  # typeshed does not have it

    def next(self) -> tarfile.TarInfo | None:
        if not isinstance(self.fileobj, _Bounded):
            self.fileobj = _Bounded(cast(IO[bytes], self.fileobj))
        content = self.fileobj
        content.limit = min(content.read_so_far + _HEADER_BYTES, _HEADERS_BYTES)
        try:
            return super().next()
        finally:
            content.limit = None
            self.members = []
            self.pax_headers = {}  # those of all members to come: they would pile up


@dataclass(frozen=True, slots=True)
class _Entry:
    """One member: a folder (source None) or a file with the bytes it claims to have."""

    path: PurePosixPath
    size: int = 0
    source: IO[bytes] | None = None


def unpacked(
    archive: Path,
    into: Path,
    *,
    limits: ArchiveLimits = DEFAULT_LIMITS,
    skip_links: bool = False,
) -> Path:
    """The folder `into`, which holds exactly the files of the archive.

    It appears whole or not at all. What is there already, perhaps since another process made it
    meanwhile, is taken as it is: `into` is to be named by the content. File modes and times are not
    taken over. skip_links : leaves links out instead of refusing the archive.
    Raises RejectedModelError if the archive is damaged, unsafe or larger than the limits, and
    ConnectorError if the disk does not take it.
    """
    if into.is_dir():
        return into
    try:
        with part_folder(into.parent) as part:
            folder = part / "all"
            folder.mkdir()
            _fill(folder, archive, limits, skip_links)
            _move(folder, into)
        return into
    except OSError as error:
        raise disk_error(error, into.parent) from error


def check_member(name: str) -> PurePosixPath:
    """The path of a member, relative to the archive. RejectedModelError if it leads elsewhere, or
    too deep.

    >>> check_member("a/./b")
    PurePosixPath('a/b')
    """
    path = PurePosixPath(name)
    inside = not path.is_absolute() and ".." not in path.parts
    if not inside or any(sign in name for sign in "\\:\0"):
        raise RejectedModelError(f"the archive names a file outside of itself: {name[:100]!r}")
    if len(path.parts) > MAX_DEPTH:
        raise RejectedModelError(f"{name[:100]!r} lies more than {MAX_DEPTH} folders deep")
    return path


def check_zip_member(info: zipfile.ZipInfo, limit: int, *, name: str | None = None) -> None:
    """Raises RejectedModelError for a link, an encrypted member, a bomb, or more than `limit`."""
    shown = repr((info.filename if name is None else name)[:100])
    if _is_link(info):
        raise RejectedModelError(f"{shown} is a link")
    if info.flag_bits & 1:
        raise RejectedModelError(f"{shown} is encrypted")
    if info.file_size > limit:
        raise _too_large(shown, limit)
    if info.file_size > BOMB_BYTES and info.file_size > BOMB_RATIO * info.compress_size:
        times = info.file_size // max(1, info.compress_size)
        raise RejectedModelError(f"{shown} would unpack to {times} times its size")


def _fill(folder: Path, archive: Path, limits: ArchiveLimits, skip_links: bool) -> None:
    """Unpacks into a folder. Raises OSError only where the disk is at fault."""
    try:
        with ExitStack() as stack:
            _copy_all(_entries(archive, limits, skip_links, stack), folder, limits)
    except UNREADABLE as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise
        raise RejectedModelError(f"'{archive.name}' is damaged: {first_line(error)}") from error


def _move(folder: Path, into: Path) -> None:
    try:
        os.rename(folder, into)  # noqa: PTH104  (refuses a folder with files in it)
    except OSError:
        if not into.is_dir():
            raise


def _copy_all(entries: Iterator[_Entry], folder: Path, limits: ArchiveLimits) -> None:
    left = limits.bytes
    seen: set[PurePosixPath] = set()
    folders: set[PurePosixPath] = set()
    for count, entry in enumerate(entries, start=1):
        own = () if entry.source else (entry.path,)
        folders.update([*takewhile(lambda p: p not in folders, chain(own, entry.path.parents))])
        made = len(seen) + len(folders) - 1 + bool(entry.source)  # without the topmost
        if max(count, made) > limits.entries:
            raise RejectedModelError(f"the archive has more than {limits.entries} entries")
        if entry.source is None:
            (folder / entry.path).mkdir(parents=True, exist_ok=True)
            continue
        if entry.path in seen:
            raise RejectedModelError(f"the archive has '{printable(str(entry.path))}' twice")
        seen.add(entry.path)
        if entry.size > left:
            raise _too_large("the archive", limits.bytes)
        with entry.source:
            left -= _copied(entry.source, folder / entry.path, left, limits.bytes)


def _entries(
    archive: Path, limits: ArchiveLimits, skip_links: bool, stack: ExitStack
) -> Iterator[_Entry]:
    if zipfile.is_zipfile(archive):
        opened = stack.enter_context(opened_zip(archive))
        if len(opened.infolist()) > limits.entries:
            raise RejectedModelError(f"the archive has more than {limits.entries} entries")
        return _zip_entries(opened, limits, skip_links)
    return _tar_entries(stack.enter_context(_BoundedTar.open(archive)), limits, skip_links)


def _zip_entries(
    archive: zipfile.ZipFile, limits: ArchiveLimits, skip_links: bool
) -> Iterator[_Entry]:
    for info in archive.infolist():
        if skip_links and _is_link(info):
            continue
        path = check_member(info.filename)
        check_zip_member(info, limits.bytes)
        if info.is_dir():
            yield _Entry(path)
        else:
            yield _Entry(path, info.file_size, archive.open(info))


def _is_link(info: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(info.external_attr >> 16)


def _tar_entries(
    archive: tarfile.TarFile, limits: ArchiveLimits, skip_links: bool
) -> Iterator[_Entry]:
    while (info := archive.next()) is not None:
        link = info.islnk() or info.issym()
        if skip_links and link:
            continue
        path = check_member(info.name)
        if info.isdir():
            yield _Entry(path)
            continue
        source = archive.extractfile(info) if info.isreg() else None
        if source is None or info.issparse():
            kind = "a link" if link else "no plain file"
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
