"""One writer per database: a lock file beside it that says who writes and since when.

DuckDB has a lock of its own, on the database file, but on POSIX it is lost as soon as any code of
the same process closes another handle of that file, and its message is no sentence. The lock file
is locked by the operating system: a killed writer leaves no lock behind.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

LOCK_NAME = "writer.lock"


@dataclass(frozen=True, slots=True)
class Writer:
    """The process that writes a database. since : local time, for people."""

    pid: int
    since: datetime


class WriterLock:
    """The right to write one database, held until `release` or the end of the process."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK_NAME
        self._handle: BinaryIO | None = None
        self.last_writer_died = False  # known after `acquire`: its note was still there

    def acquire(self, *, note: bool) -> bool:
        """Take the lock, if it is not taken; False if another connection, of any process, has it.

        note : write down who has it. A reader that only copies the database does not, so that
        `writer` tells the two apart. Creates the directory; raises OSError where it cannot.
        """
        if self._handle is not None:
            return True
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle = self._path.open("a+b")
        try:
            taken = _lock(handle)
        except BaseException:
            handle.close()
            raise
        if not taken:
            handle.close()
            return False
        self._handle = handle
        handle.seek(0)
        self.last_writer_died = bool(handle.read(1))
        handle.truncate(0)
        if note:
            who = {"pid": os.getpid(), "since": datetime.now().isoformat(timespec="seconds")}
            handle.write(json.dumps(who).encode())
            handle.flush()
        return True

    def release(self) -> None:
        """Give the lock back. The file stays: removing it would race with the next writer."""
        if self._handle is not None:
            with contextlib.suppress(OSError):  # a full disk must not keep the lock
                self._handle.truncate(0)
            self._handle.close()
            self._handle = None

    def writer(self) -> Writer | None:
        """Who has the lock to write; None when nobody has, or a reader that copies the database."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            note = json.loads(self._path.read_text(encoding="utf-8"))
            return Writer(int(note["pid"]), datetime.fromisoformat(note["since"]))
        return None


@contextlib.contextmanager
def exclusively(path: Path) -> Iterator[bool]:
    """Whether no other process or thread is inside such a block for this file; waits for nobody.

    Raises OSError where the file cannot be made.
    """
    with path.open("a+b") as handle:
        yield _lock(handle)


def _lock(handle: BinaryIO) -> bool:
    if os.name == "nt":  # pragma: no cover - not a platform of our tests
        import msvcrt

        handle.seek(1 << 20)  # beyond the note, which others must be able to read
        try:
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(handle.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
