"""Read-only copies of the catalog: what other processes read while one writes.

    models.sommelier.d/snapshots/<generation>-<identity of the database>.duckdb

DuckDB lets one process at a time open a file that is being written. So the writer copies the file
after each change, by temporary file, fsync and rename, and readers open the newest copy. A copy has
the modification time of the file it was made from: that is how a reader sees, without opening
either, that it is current. Older copies are removed; a reader that has one open keeps it (POSIX).
So are copies of another database that was at this place before: they have another identity.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from sommelier.storage.durable import sync_folder

SUFFIX = ".duckdb"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One copy on disk. made_at : local time of the state it holds.

    identity : of the database it is a copy of, see migrations.identity.
    """

    path: Path
    generation: int
    identity: str
    made_at: datetime


def directory_of(path: Path) -> Path:
    """The folder beside a database file: artifacts, sketches, snapshots."""
    return path.with_name(path.name + ".d")


def log_of(path: Path) -> Path:
    """The write-ahead log beside a database file: changes that are not in the file yet."""
    return path.with_name(path.name + ".wal")


class Snapshots:
    """The copies of one database."""

    def __init__(self, database: Path, directory: Path) -> None:
        self.database = database
        self._folder = directory / "snapshots"

    def all(self) -> list[Snapshot]:
        """The copies there are, newest first."""
        found = []
        for path in self._folder.glob(f"[0-9]*{SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):  # replaced by a newer one meanwhile
                found.append(_snapshot(path))
        return sorted(found, key=lambda snapshot: -snapshot.generation)

    def newest(self) -> Snapshot | None:
        """The newest copy, or None."""
        found = self.all()
        return found[0] if found else None

    def current(self) -> Snapshot | None:
        """The newest copy if it holds all that is in the database file, else None.

        Only meaningful while nobody writes.
        """
        newest = self.newest()
        if newest is None or self.has_log():
            return None
        with contextlib.suppress(FileNotFoundError):
            if newest.path.stat().st_mtime_ns == self.database.stat().st_mtime_ns:
                return newest
        return None

    def temporary(self) -> Path:
        """A fresh path in the same folder, to build a copy in; `adopt` makes it a snapshot."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / f"building-{os.getpid()}-{os.urandom(4).hex()}.tmp"

    def copy_database(self, source: BinaryIO, target: Path) -> None:
        """Copy the database file, through a handle that is already open, and its WAL if any."""
        source.seek(0)
        with target.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 22)
        log = log_of(self.database)
        if _has_content(log):
            shutil.copyfile(log, log_of(target))

    def adopt(self, built: Path, generation: int, identity: str) -> Snapshot:
        """Make a finished copy the newest snapshot, durably, and remove all others."""
        times = self.database.stat()
        with built.open("r+b") as handle:
            os.fsync(handle.fileno())
        os.utime(built, ns=(times.st_mtime_ns, times.st_mtime_ns))
        path = self._folder / f"{generation}-{identity}{SUFFIX}"
        built.replace(path)
        snapshot = _snapshot(path)
        sync_folder(self._folder)
        self._remove_others(snapshot)
        return snapshot

    def remove_foreign(self, identity: str | None) -> None:
        """Remove the copies of other databases; None: all, because there is no database yet."""
        for snapshot in self.all():
            if identity is None or snapshot.identity != identity:
                with contextlib.suppress(OSError):  # Windows: a reader has it open
                    snapshot.path.unlink()

    def has_log(self) -> bool:
        """Whether changes of the database lie in its write-ahead log, outside the file."""
        return _has_content(log_of(self.database))

    def same_time_again(self, snapshot: Snapshot) -> None:
        """Note that the database file was touched after `snapshot` but holds the same."""
        with contextlib.suppress(OSError):
            times = self.database.stat()
            os.utime(snapshot.path, ns=(times.st_mtime_ns, times.st_mtime_ns))

    def _remove_others(self, kept: Snapshot) -> None:
        for snapshot in self.all():
            if snapshot.path != kept.path:
                with contextlib.suppress(OSError):  # Windows: a reader has it open; next time
                    snapshot.path.unlink()
        for left in self._folder.glob("building-*"):
            with contextlib.suppress(OSError):
                left.unlink()


def _snapshot(path: Path) -> Snapshot:
    generation, _, identity = path.stem.partition("-")
    made_at = datetime.fromtimestamp(path.stat().st_mtime)
    return Snapshot(path, int(generation), identity, made_at)


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
