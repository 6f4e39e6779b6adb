"""Whether a database file and its log still hold what was written, and what to do if not.

DuckDB verifies the checksum of a block when it first reads it, which may be weeks after the damage,
in the middle of a change. Verifying all of them takes 0.1 ms for each megabyte, so Sommelier does
it whenever it opens or copies a file. The layout is that of DuckDB's storage versions 64 to 67:

    0        main header       8 bytes checksum, "DUCK", storage version, flags
    4096     database header   8 bytes checksum, iteration, root, free list, blocks, block size
    8192     database header   the one with the greater iteration counts
    12288    blocks            8 bytes checksum, content

and that of its write-ahead log a version, then entries: 8 bytes size, 8 bytes checksum, content.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from sommelier.errors import DatabaseCorruptError
from sommelier.storage.snapshots import Snapshot, Snapshots, directory_of, log_of

HEADER = 4096
BLOCKS_START = 3 * HEADER
_TRIES = 5  # a snapshot may be replaced between finding and reading it
_ENCRYPTED = 1  # flag of the main header
_PLAIN_LOG = 64  # storage version whose logs start with LOG_START
_MULTIPLIER, _INITIAL = np.uint64(0xBF58476D1CE4E5B9), np.uint64(5381)  # DuckDB's checksum
_SUBBLOCKS = 64  # pieces of a block of metadata; the free list is a chain of them
_NO_POINTER = 2**64 - 1
_WORD = np.dtype("<u8")
LOG_START = bytes.fromhex("640062650002ffff")
LOG_COMMIT = bytes.fromhex("e7fe7d722fed3d5e640064ffff")  # checksum and content, not its size


@dataclass(frozen=True, slots=True)
class _Layout:
    """What the current database header says. free_list : pointer to its first piece."""

    free_list: int
    blocks: int
    block_bytes: int


def damage_of(path: Path) -> str | None:
    """What is wrong with the content of a DuckDB file, as it follows 'is damaged:'; None if whole.

    Every byte that DuckDB may ever read is verified; free blocks may hold anything, for a program
    that was killed leaves them half-written. None also for a file that only DuckDB can judge: an
    encrypted one, or one of a later layout. Reads the file; opens nothing else.
    """
    with path.open("rb") as file:
        headers = file.read(BLOCKS_START)
        if len(headers) < BLOCKS_START:
            return f"it ends after {len(headers):,} bytes, inside its header"
        words = np.frombuffer(headers, _WORD).reshape(3, -1)
        for number, header in enumerate(words):
            if not _is_whole(header):
                return f"its header (from byte {number * HEADER:,}) does not match its checksum"
        layout = _layout(headers)
        if layout is None:
            return None
        broken = _broken_blocks(file, layout)
        if broken:
            broken -= _free_blocks(file, layout)  # which DuckDB may not even have room for yet
        size = file.seek(0, os.SEEK_END)
    if not broken:
        return None
    if BLOCKS_START + (max(broken) + 1) * layout.block_bytes > size:
        return f"it ends after {size:,} bytes, before block {max(broken) + 1} of {layout.blocks}"
    first = BLOCKS_START + min(broken) * layout.block_bytes
    return (
        f"{len(broken)} of its {layout.blocks} blocks do not match their checksums, the first from "
        f"byte {first:,}"
    )


def log_damage(path: Path) -> str | None:
    """Why changes that were committed would be lost from the log of the database at `path`, as it
    follows 'is damaged:'; None when DuckDB replays all of them or says itself why not.

    DuckDB takes the first entry that is longer than the rest of the log for an unfinished one and
    silently drops it and all that follows.
    """
    log = log_of(path)
    if not log.exists() or _storage_version(path) != _PLAIN_LOG:
        return None
    content = log.read_bytes()
    if not content.startswith(LOG_START[: len(content)]):
        return "its first bytes are not those of a log"
    end = _end_of_whole_entries(content)
    if LOG_COMMIT in content[end:]:
        return f"its entry at byte {end:,} is broken, and the change it belongs to was committed"
    return None


def unfinished_bytes(path: Path) -> int:
    """Bytes at the end of the log of the database at `path` that a killed writer, or a cut through
    the file, left behind the last whole entry."""
    log = log_of(path)
    if not log.exists() or _storage_version(path) != _PLAIN_LOG:
        return 0
    content = log.read_bytes()
    return len(content) - _end_of_whole_entries(content)


def damage_error(
    path: Path, found: str, *, kept: str = "it was left untouched"
) -> DatabaseCorruptError:
    """The error for a damaged database: what was found, what is kept, how to restore it."""
    return DatabaseCorruptError(
        f"{path.name} is damaged: {found}; {kept}",
        hint=restore_hint(path)
        or "there is no readable snapshot of it: restore it from a backup, or move it away and "
        "import the models again",
    )


def log_error(path: Path, found: str) -> DatabaseCorruptError:
    """The error for a database that is whole beside a log that is not."""
    log = str(log_of(path))
    return DatabaseCorruptError(
        f"{log_of(path).name}, the log of the last changes of {path.name}, is damaged: {found}; "
        "both were left untouched",
        hint="restore the log from a backup, or give up the changes in it; the database is whole "
        f"without them: mv {quote(log)} {quote(log + '.damaged')}",
    )


def error_while_open(file: Path, database: Path, found: str, doing: str) -> DatabaseCorruptError:
    """The error for damage met by a statement. file : what is open, the database or a snapshot."""
    if file != database:
        return DatabaseCorruptError(
            f"{file}, a snapshot of {database.name}, is damaged: {found}; could not {doing}",
            hint=f"open {database.name} again: a snapshot that is damaged is made anew",
        )
    return damage_error(database, found, kept=f"could not {doing}")


def restore_hint(path: Path) -> str | None:
    """The command that restores the database at `path` from its newest whole snapshot, or None."""
    snapshot = newest_whole(Snapshots(path, directory_of(path)))
    if snapshot is None:
        return None
    log = log_of(path)  # of changes to the damaged file, not to the copy
    aside = f"mv {quote(str(log))} {quote(str(log) + '.damaged')} && " if log.exists() else ""
    return (
        f"restore its state of {snapshot.made_at:%Y-%m-%d %H:%M:%S}: "
        f"{aside}cp {quote(str(snapshot.path))} {quote(str(path))}"
    )


def newest_whole(snapshots: Snapshots) -> Snapshot | None:
    """The newest snapshot that is not damaged, or None."""
    for _ in range(_TRIES):
        try:
            return next((s for s in snapshots.all() if damage_of(s.path) is None), None)
        except FileNotFoundError:  # a writer has just replaced it
            continue
    return None


def checksums(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """(..., n) 8-byte words -> (...,) DuckDB's checksum of each row of them."""
    sums: NDArray[np.uint64] = np.bitwise_xor.reduce(words * _MULTIPLIER, axis=-1) ^ _INITIAL
    return sums


def _is_whole(words: NDArray[np.uint64]) -> bool:
    """Whether a header or block holds what its first word says."""
    return bool(checksums(words[1:]) == words[0])


def _layout(headers: bytes) -> _Layout | None:
    """The layout of a file whose headers are whole; None where it is not one of ours."""
    (flags,) = struct.unpack_from("<Q", headers, 20)
    current = max(
        struct.unpack_from("<5Q", headers, start + 8) for start in (HEADER, 2 * HEADER)
    )  # the iteration comes first
    _, _, free_list, blocks, block_bytes = current
    if flags & _ENCRYPTED or block_bytes < HEADER or block_bytes % _WORD.itemsize:
        return None
    return _Layout(free_list, blocks, block_bytes)


def _broken_blocks(file: BinaryIO, layout: _Layout) -> set[int]:
    """The blocks that do not match their checksums, or lie beyond the end of the file."""
    broken: set[int] = set()
    file.seek(BLOCKS_START)
    for block in range(layout.blocks):
        content = file.read(layout.block_bytes)
        if not content:
            return broken.union(range(block, layout.blocks))
        if len(content) < layout.block_bytes or not _is_whole(np.frombuffer(content, _WORD)):
            broken.add(block)
    return broken


def _free_blocks(file: BinaryIO, layout: _Layout) -> set[int]:
    """The blocks DuckDB will overwrite before it reads them; empty where the list is damaged."""
    words = _chain(file, layout)
    count = next(words, 0)
    return {block for block, _ in zip(words, range(min(count, layout.blocks)), strict=False)}


def _chain(file: BinaryIO, layout: _Layout) -> Iterator[int]:
    """The words of the free list, up to the first piece that is damaged."""
    piece_bytes = (layout.block_bytes - 8) // _SUBBLOCKS // 8 * 8
    pointer = layout.free_list
    for _ in range(layout.blocks * _SUBBLOCKS):  # a longer chain goes round in circles
        block, piece = pointer & (2**56 - 1), pointer >> 56
        if pointer == _NO_POINTER or block >= layout.blocks:
            return
        file.seek(BLOCKS_START + block * layout.block_bytes)
        content = file.read(layout.block_bytes)
        if len(content) < layout.block_bytes or not _is_whole(np.frombuffer(content, _WORD)):
            return
        words = np.frombuffer(content, _WORD)
        start = 1 + piece * piece_bytes // 8
        pointer, *numbers = words[start : start + piece_bytes // 8].tolist()
        yield from numbers


def _storage_version(path: Path) -> int:
    with path.open("rb") as file:
        return int.from_bytes(file.read(20)[12:], "little")


def _end_of_whole_entries(content: bytes) -> int:
    """Where the first entry of a log begins that does not end inside it; its length if none."""
    position = min(len(LOG_START), len(content))
    while position + 16 <= len(content):
        (size,) = struct.unpack_from("<Q", content, position)
        if position + 16 + size > len(content):
            break
        position += 16 + size
    return position
