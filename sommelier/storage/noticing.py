"""Whether a database may say something else than before, told without opening it.

Of a file its files tell: a process that does not write a database is given its newest snapshot, so
there is something new when there is a newer snapshot, or when the file is not what the newest one
was made from and nobody is at work who will make another. DuckDB is not needed for that, nor
loaded. Of a catalog on a server its generation tells, which is one row to read.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from sommelier.storage.locking import WriterLock
from sommelier.storage.servers import is_url
from sommelier.storage.snapshots import Snapshots, directory_of, log_of

_Seen = tuple[object, ...]


class Watch(Protocol):
    """Looks at one database. Not for several threads."""

    def changed(self, version: str) -> bool:
        """Whether a reader that connects now may find another state than `version`
        (Catalog.version). It is told once of each state; `forget` lets it be told again."""

    def is_being_written(self) -> bool:
        """By somebody who keeps others from writing it for longer than a moment."""

    def forget(self) -> None:
        """Tell again of what was told: whoever was told could not read it."""

    def writable(self) -> bool:
        """Whether this process might write it."""

    def close(self) -> None:
        """Let go of what is held."""


def watch_of(database: str) -> Watch:
    """What looks at a database: a file's path, or the URL of a server's catalog."""
    if not is_url(database):
        return ChangeWatch(Path(database).absolute())
    from sommelier.storage.server_noticing import ServerWatch

    return ServerWatch(database)


class ChangeWatch:
    """Looks at the files of one database, which takes a few system calls, some 50 microseconds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._snapshots = Snapshots(path, directory_of(path))
        self._lock = WriterLock(directory_of(path))
        self._told: _Seen | None = None

    def changed(self, version: str) -> bool:
        seen = (_stat(self._path), _stat(log_of(self._path)), self._newest())
        if seen == self._told:
            return False
        if self._newest() == version and (self._snapshots.current() or self.is_being_written()):
            return False
        self._told = seen
        return True

    def is_being_written(self) -> bool:
        """By a living process of this machine, which makes a snapshot of what it changes."""
        writer = self._lock.writer()
        if writer is None:
            return False
        import psutil

        return bool(psutil.pid_exists(writer.pid))

    def forget(self) -> None:
        self._told = None

    def writable(self) -> bool:
        return os.access(self._path, os.W_OK) and os.access(self._path.parent, os.W_OK)

    def close(self) -> None:
        """Nothing is held."""

    def _newest(self) -> str | None:
        found = self._snapshots.newest()
        return None if found is None else found.path.stem


def _stat(path: Path) -> tuple[int, int, int] | None:
    """What changes with a file; None without one."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
