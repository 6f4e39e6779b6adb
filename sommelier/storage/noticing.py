"""Whether a database may say something else than before, told by its files: without opening it.

A process that does not write a database is given its newest snapshot. So there is something new
when there is a newer snapshot, or when the file is not what the newest one was made from and nobody
is at work who will make another. DuckDB is not needed for that, nor loaded.
"""

from __future__ import annotations

from pathlib import Path

from sommelier.storage.locking import WriterLock
from sommelier.storage.snapshots import Snapshots, directory_of, log_of

_Seen = tuple[object, ...]


class ChangeWatch:
    """Looks at the files of one database. Not for several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._snapshots = Snapshots(path, directory_of(path))
        self._lock = WriterLock(directory_of(path))
        self._told: _Seen | None = None

    def changed(self, version: str) -> bool:
        """Whether a reader that connects now may find another state than `version`
        (Catalog.version). It is told once of each state of the files; `forget` lets it be told
        again. A few system calls, some 50 microseconds.
        """
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
        """Tell again of what was told: whoever was told could not read it."""
        self._told = None

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
