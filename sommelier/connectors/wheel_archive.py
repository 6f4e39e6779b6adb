"""Reads model files out of a wheel without importing, installing or trusting it.

A wheel is a zip that anyone may have written: names may lead out of the folder, sizes may lie, a
few kilobytes may unpack to gigabytes. Members are copied to folders named by their content.
"""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from pathlib import Path, PurePosixPath

from sommelier.connectors.archives import (
    BOMB_BYTES,
    BOMB_RATIO,
    DEFAULT_LIMITS,
    DISK_ERRORS,
    UNREADABLE,
    ArchiveLimits,
    check_member,
    check_zip_member,
)
from sommelier.connectors.cards import MAX_CARD_BYTES, parse_json
from sommelier.connectors.downloads import disk_error
from sommelier.connectors.licenses import spdx
from sommelier.connectors.naming import kinds_of, printable
from sommelier.connectors.parts import part_folder
from sommelier.errors import ConnectorError, RejectedModelError
from sommelier.storage.external_data import extents, external_files, read_model, too_large
from sommelier.storage.zips import opened_zip
from sommelier.units import Dimension, format_value

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class WheelFacts:
    """What a wheel says of itself. name is normalised as package indexes do (PEP 503)."""

    name: str
    version: str | None
    license: str | None
    homepage: str | None
    summary: str | None


@contextmanager
def opened(path: Path, *, limits: ArchiveLimits = DEFAULT_LIMITS) -> Iterator[WheelArchive]:
    """The wheel, closed afterwards. limits : of members, and of bytes that are copied out of it.

    Raises RejectedModelError if it is no readable zip, or states more than it can hold.
    """
    if not path.is_file():
        raise RejectedModelError("not a wheel: not a regular file")
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(opened_zip(path))
        except UNREADABLE as error:
            raise RejectedModelError(f"not a wheel: {printable(str(error))}") from error
        members = archive.infolist()
        if len(members) > limits.entries:
            raise RejectedModelError(f"not read: the wheel has more than {limits.entries} members")
        size, stated = path.stat().st_size, sum(info.file_size for info in members)
        if stated > BOMB_BYTES and stated > BOMB_RATIO * size:  # members may share their bytes
            raise RejectedModelError(f"the wheel would unpack to {stated // size} times its size")
        yield WheelArchive(path, archive, limits.bytes)


class WheelArchive:
    """An open wheel."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, limit: int) -> None:
        self.path = path
        self._zip = archive
        self._limit = self._left = limit  # bytes that may be copied out of it
        self._count = Counter(info.filename for info in archive.infolist())

    def models(self) -> list[PurePosixPath]:
        """Paths of the .onnx members, sorted."""
        return self.members(".onnx")

    def members(self, suffix: str) -> list[PurePosixPath]:
        """Paths of the members whose names end so, in any case, sorted."""
        return sorted(PurePosixPath(n) for n in self._count if n.lower().endswith(suffix))

    def kinds(self) -> str:
        """What files the wheel has, to be told instead of models."""
        return kinds_of(map(PurePosixPath, self._count))

    def size(self, member: str) -> int:
        """Unpacked bytes of a member, as the wheel states them."""
        return self._zip.getinfo(member).file_size

    def facts(self) -> WheelFacts:
        """Name, version and licence from METADATA, or from the file's name where it is silent."""
        parts = self.path.name.removesuffix(".whl").split("-")
        name, version = parts[0], parts[1] if len(parts) > 1 else None
        found = [n for n in self._count if re.fullmatch(r"[^/]+\.dist-info/METADATA", n)]
        metadata = Message()
        if found:
            text = self.read(found[0], MAX_CARD_BYTES).decode("utf-8", "replace")
            metadata = Parser().parsestr(text, headersonly=True)
        return WheelFacts(
            normalized(printable(metadata.get("Name") or name)),
            _plain(metadata.get("Version") or version),
            _plain(_license(metadata)),
            _plain(_homepage(metadata)),
            _plain(metadata.get("Summary")),
        )

    def read(self, member: str, limit: int) -> bytes:
        """A member's bytes. Raises RejectedModelError if it is unsafe, damaged or too large."""
        info = self._safe(member, limit)
        try:
            with self._zip.open(info) as file:
                return file.read(limit + 1)
        except UNREADABLE as error:
            raise RejectedModelError(_damaged(member, error)) from error

    def read_json(self, member: str) -> object:
        """The JSON value in a member. Raises ConnectorError if there is none."""
        if member not in self._count:
            raise ConnectorError(f"the wheel has no file {_shown(member)}")
        return parse_json(self.read(member, MAX_CARD_BYTES), member)

    def extract(self, member: PurePosixPath, store: Path, *, max_size: int) -> Path:
        """The model and its external data, copied below `store` in a folder named by their hash.

        Equal contents under equal names are kept once. Raises RejectedModelError if a member is
        unacceptable or all that was copied exceeds the wheel's limit, ConnectorError if the disk
        does not take it.
        """
        try:
            with part_folder(store) as folder:
                return self._extracted(member, folder, store, max_size)
        except OSError as error:
            raise disk_error(error, store) from error

    def _extracted(self, member: PurePosixPath, folder: Path, store: Path, max_size: int) -> Path:
        """The model, copied to a new folder, which is then moved to where it is kept."""
        digest = hashlib.sha256(member.name.encode() + b"\0")
        left = max_size - self._copy(str(member), folder / member.name, max_size, digest)
        locations = dict.fromkeys(e.location for e in extents(read_model(folder / member.name)))
        for location in locations:
            beside = str(member.parent / location)
            if beside not in self._count:
                raise RejectedModelError(f"external data file {location!r} is missing")
            digest.update(location.encode() + b"\0")
            left -= self._copy(beside, folder / location, left, digest)
        external_files(folder / member.name, max_size=max_size)
        return _kept(folder, store / digest.hexdigest()[:32]) / member.name

    def _copy(self, member: str, target: Path, limit: int, digest: hashlib._Hash) -> int:
        """Bytes copied. Never more than the member states, and that is checked first."""
        info = self._safe(member, limit)
        if info.file_size > self._left:
            most = format_value(self._limit, Dimension.BYTES)
            raise RejectedModelError(f"the models of the wheel unpack to more than {most}")
        self._left -= info.file_size
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with self._zip.open(info) as source, target.open("xb") as file:
                while chunk := source.read(_CHUNK):
                    digest.update(chunk)
                    file.write(chunk)
        except (FileExistsError, NotADirectoryError) as error:
            text = f"{_shown(member)} overlaps another file of the model"
            raise RejectedModelError(text) from error
        except UNREADABLE as error:
            if isinstance(error, OSError) and error.errno in DISK_ERRORS:
                raise
            raise RejectedModelError(_damaged(member, error)) from error
        if info.file_size == 0:
            raise RejectedModelError("the file is empty")
        return info.file_size

    def _safe(self, member: str, limit: int) -> zipfile.ZipInfo:
        check_member(member)
        if self._count[member] > 1:
            raise RejectedModelError(f"the wheel has {_shown(member)} twice")
        info = self._zip.getinfo(member)
        if info.file_size > limit:
            raise too_large(info.file_size, limit)
        check_zip_member(info, limit)
        return info


def normalized(name: str) -> str:
    """A package name as indexes compare it (PEP 503).

    >>> normalized("Silero_VAD")
    'silero-vad'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def _plain(text: str | None) -> str | None:
    return None if text is None else printable(str(text))


def _shown(member: str) -> str:
    return f"'{printable(member)[:200]}'"


def _damaged(member: str, error: Exception) -> str:
    return f"{_shown(member)} is damaged: {printable(str(error))}"


def _kept(folder: Path, target: Path) -> Path:
    """`folder` moved to `target`, unless the same contents are there already."""
    try:
        os.replace(folder, target)  # noqa: PTH105  (atomic; fails if target holds files)
    except OSError:
        if not target.is_dir():
            raise
    return target


def _license(metadata: Message) -> str | None:
    """SPDX where it is recognised, else the words of the field; None when METADATA has none."""
    classifiers = [
        c
        for c in metadata.get_all("Classifier", [])
        if c.startswith("License ::") and c.count("::") > 1
    ]
    stated = [metadata.get("License-Expression"), metadata.get("License"), *classifiers]
    words = [" ".join(text.split()) for text in stated if text and text.strip() != "UNKNOWN"]
    return next(filter(None, map(spdx, words)), None) or (words[0][:80] if words else None)


def _homepage(metadata: Message) -> str | None:
    urls = {
        label.strip().lower(): url.strip()
        for label, _, url in (u.partition(",") for u in metadata.get_all("Project-URL", []))
    }
    stated = metadata.get("Home-page")
    return stated or next(
        (urls[k] for k in ("homepage", "repository", "source") if k in urls), None
    )
