"""Opening a database file: whose it is, who may write it, and which copy a reader gets.

A file is looked at through a read-only DuckDB connection, and every block of it verified, before
anything is written anywhere, so a foreign, damaged or newer file is left as it was, down to the
folder beside it.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import duckdb

from sommelier.errors import DatabaseCorruptError, DatabaseLockedError, StorageError
from sommelier.storage.duckdb_database import DuckdbDatabase
from sommelier.storage.faults import is_damage, read_fault, storage_error
from sommelier.storage.integrity import (
    damage_error,
    damage_of,
    log_damage,
    log_error,
    newest_whole,
    restore_hint,
    unfinished_bytes,
)
from sommelier.storage.locking import WriterLock
from sommelier.storage.migrations import (
    SCHEMA_VERSION,
    identity,
    migrate,
    refuse_newer,
    schema_version,
)
from sommelier.storage.snapshots import Snapshot, Snapshots, directory_of, log_of
from sommelier.storage.tasks import interrupt_running_jobs

logger = logging.getLogger(__name__)

MAGIC = b"DUCK"  # bytes 8 to 11 of a DuckDB file
PATIENCE_S = 10.0  # how long to wait for a reader that is copying the database
_PID = re.compile(r"\(PID (\d+)\)")  # in DuckDB's message, when another program has the file open
_TRIES = 5  # a snapshot may be replaced between finding and opening it


@dataclass(slots=True)
class Opened:
    """An open database and what has to be given back when it is closed.

    A reader has `reading`, the copy it reads (None: the file itself), and `behind`, whether another
    process may have changed more since. A writer has the rest: its lock, a handle of the database
    file, and the newest snapshot if that is up to date. The handle stays open as long as the
    database, because closing any handle of a file ends DuckDB's own (POSIX) lock on it.
    """

    database: DuckdbDatabase
    snapshots: Snapshots
    reading: Snapshot | None = None
    behind: bool = False
    lock: WriterLock | None = None
    file: BinaryIO | None = None
    published: Snapshot | None = None

    def publish(self) -> bool:
        """Checkpoint and copy the file of a writer; False if it could not be made quiet.

        Raises DatabaseCorruptError if the file was damaged since it was opened.
        """
        assert self.file is not None, "only a writer publishes"
        with self.database.steady():
            self.database.checkpoint()
            if self.snapshots.has_log():
                return False  # a reader in this process keeps the log in use; the next call does it
            building = self.snapshots.temporary()
            try:
                self.snapshots.copy_database(self.file, building)
                if found := damage_of(building):  # or the last good copy would be removed
                    raise damage_error(
                        self.snapshots.database, found, kept="the snapshot before it was kept"
                    )
                self.published = self.snapshots.adopt(
                    building, self.database.generation, identity(self.database)
                )
            except BaseException:
                building.unlink(missing_ok=True)
                raise
        return True

    def release(self) -> None:
        """After the database is closed: give back the handle and the lock."""
        if self.file is not None:
            self.file.close()
        if self.published is not None and self.published.generation == self.database.generation:
            self.snapshots.same_time_again(self.published)
        if self.lock is not None:
            self.lock.release()


def open_for_writing(path: Path, *, brief: bool = False) -> Opened:
    """The database at `path`, created or migrated if need be, with the right to write it.

    brief : for a moment only, so that other writers wait for it as they do for a reader that
    copies. Raises DatabaseLockedError, DatabaseCorruptError, or StorageError with a sentence.
    """
    if not path.parent.is_dir():
        raise StorageError(f"there is no folder '{path.parent}' to keep a database in")
    directory = directory_of(path)
    snapshots, lock = Snapshots(path, directory), WriterLock(directory)
    if brief:
        _load_writing()
    if directory.exists():
        _take(lock, path, note=not brief)
    try:
        _look_at(path)
        _take(lock, path, note=not brief)
        if not path.exists():  # what readers would be given is of a database that was deleted
            snapshots.remove_foreign(None)
        current = _current(snapshots) if path.exists() else None
        left = unfinished_bytes(path)
        opened = Opened(_connect(path), snapshots, lock=lock)
    except BaseException:
        lock.release()
        raise
    try:
        migrate(opened.database)
        opened.database.read_generation()
        opened.file = path.open("rb")
        snapshots.remove_foreign(own := identity(opened.database))
        if current is not None and (current.generation, current.identity) == (
            opened.database.generation, own,
        ):  # fmt: skip
            opened.published = current
    except BaseException:
        opened.database.close()
        lock.release()
        raise
    _tell_unfinished(path, left)
    return opened


def open_for_reading(path: Path) -> Opened:
    """The newest snapshot of the database at `path`; made now if it is old and nobody writes.

    Where no snapshot can be kept (a read-only disk), the file itself, read-only.
    """
    if not path.exists():
        raise StorageError(
            f"there is no database at '{path}'", hint="open it without read_only to create it"
        )
    directory = directory_of(path)
    snapshots = Snapshots(path, directory)
    if not directory.exists():
        inspect(path)
    for attempt in range(_TRIES):
        try:
            snapshot, behind = _snapshot_to_read(path, snapshots, WriterLock(directory))
        except OSError:  # nothing can be written beside the file
            return Opened(_connect_current(path, path), snapshots)
        try:
            database = _connect_current(snapshot.path, path)
            return Opened(database, snapshots, reading=snapshot, behind=behind)
        except StorageError:
            if attempt == _TRIES - 1 or snapshot.path.exists():
                raise
    raise AssertionError("unreachable: the last attempt returns or raises")


def _look_at(path: Path) -> None:
    """Raise if the database at `path` may not be written, or not be created."""
    if path.exists():
        inspect(path)
    elif log_of(path).exists():
        raise _orphan_error(path)


def inspect(path: Path) -> int:
    """The schema version of the file at `path`, which is not touched.

    Raises DatabaseCorruptError if it is not a whole Sommelier database, StorageError if it is newer
    than this program, DatabaseLockedError if another program has it open.
    """
    _check_magic(path)
    database = _connect(path, read_only=True)
    try:
        _refuse_damage(path)
        version = schema_version(database)
    finally:
        database.close()
    refuse_newer(version)
    return version


def locked_error(path: Path, *, who: str | None = None) -> DatabaseLockedError:
    """The sentence for a second writer. who : the first one, where the lock does not say."""
    snapshots, lock = Snapshots(path, directory_of(path)), WriterLock(directory_of(path))
    writer = lock.writer()
    if who is None:
        who = f"process {writer.pid} (since {writer.since:%H:%M})" if writer else "another process"
    newest = newest_whole(snapshots)
    return DatabaseLockedError(
        f"{path.name} is being written by {who}", readable=newest.made_at if newest else None
    )


def _load_writing() -> None:
    """Import what the first write needs: half a second that others need not wait for."""
    import duckdb_sqlalchemy  # noqa: F401
    import pandas  # noqa: F401 - DuckDB loads it for the first value that is bound
    import sqlalchemy.dialects.postgresql  # noqa: F401

    import sommelier.storage.schema  # noqa: F401


def _take(lock: WriterLock, path: Path, *, note: bool) -> None:
    """Acquire the right to write, waiting for readers that copy and for who is brief, but not for
    another writer."""
    until = time.monotonic() + PATIENCE_S
    while not lock.acquire(note=note):
        if lock.writer() is not None or time.monotonic() > until:
            raise locked_error(path)
        time.sleep(0.02)


def _snapshot_to_read(path: Path, snapshots: Snapshots, lock: WriterLock) -> tuple[Snapshot, bool]:
    """(the newest snapshot, whether somebody is writing what is not in it yet)."""
    until = time.monotonic() + PATIENCE_S
    while not lock.acquire(note=False):
        newest = newest_whole(snapshots)
        if newest is not None and lock.writer() is not None:
            return newest, True
        if time.monotonic() > until or lock.writer() is not None:
            if newest is not None:
                return newest, True
            raise locked_error(path)
        time.sleep(0.02)
    try:
        current = None if lock.last_writer_died else _current(snapshots)
        return current or _make_snapshot(path, snapshots), False
    finally:
        lock.release()


def _current(snapshots: Snapshots) -> Snapshot | None:
    """The newest snapshot, if it holds all that is in the file and is whole."""
    current = snapshots.current()
    return current if current is not None and damage_of(current.path) is None else None


def _make_snapshot(path: Path, snapshots: Snapshots) -> Snapshot:
    """A copy of a database nobody writes. In the copy only, an older version is migrated and a job
    that a killed process left running is interrupted."""
    _check_magic(path)
    _refuse_damage(path)
    building = snapshots.temporary()
    try:
        with path.open("rb") as source:
            snapshots.copy_database(source, building)
        database = _connect(building, named=path)
        try:
            migrate(database)
            database.read_generation()
            interrupt_running_jobs(database)
            database.checkpoint()
            own = identity(database)
        finally:
            database.close()
        _tell_unfinished(path, unfinished_bytes(path))
        return snapshots.adopt(building, database.generation, own)
    except BaseException:
        for left in building.parent.glob(building.name + "*"):
            left.unlink(missing_ok=True)
        raise


def _connect_current(file: Path, path: Path) -> DuckdbDatabase:
    """`file`, a copy of the database `path` or itself, read-only; it has to be of this version."""
    database = _connect(file, read_only=True, named=path)
    try:
        version = schema_version(database)
        refuse_newer(version)
        if version < SCHEMA_VERSION:
            raise StorageError(
                f"{path.name} has schema version {version} and this Sommelier reads version "
                f"{SCHEMA_VERSION}",
                hint="open it once for writing with this Sommelier; that brings it up to date",
            )
        database.read_generation()
    except BaseException:
        database.close()
        raise
    return database


def _connect(path: Path, *, read_only: bool = False, named: Path | None = None) -> DuckdbDatabase:
    with _opening(named or path):
        return DuckdbDatabase(path, read_only=read_only, named=named)


@contextlib.contextmanager
def _opening(path: Path) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        message = str(error)
        if "lock on file" in message or "different configuration" in message:
            pid = _PID.search(message)
            raise locked_error(path, who=f"process {pid[1]}" if pid else None) from error
        if is_damage(error) or isinstance(error, (duckdb.InternalException, duckdb.FatalException)):
            _refuse_damage(path)
            said = _first_line(read_fault(error).message)
            make = log_error if "replaying wal" in said.lower() else damage_error
            raise make(path, said) from error
        raise storage_error(error, f"open {path}") from error


def _check_magic(path: Path) -> None:
    if path.is_dir():
        raise StorageError(f"'{path}' is a folder; name a database file")
    if not path.is_file():  # opening a pipe would wait for ever
        raise StorageError(f"'{path}' is no ordinary file; name a database file")
    with path.open("rb") as handle:
        if handle.read(12)[8:] != MAGIC:
            what = "is not a Sommelier database" + ("" if path.stat().st_size else ": it is empty")
            raise DatabaseCorruptError(
                f"{path.name} {what}; it was left untouched",
                hint=restore_hint(path) or "name a new file to create a database",
            )


def _refuse_damage(path: Path) -> None:
    if found := damage_of(path):
        raise damage_error(path, found)
    if found := log_damage(path):
        raise log_error(path, found)


def _tell_unfinished(path: Path, left: int) -> None:
    if left:
        logger.warning(
            "%s ended in %d bytes of a change that was never finished; it is not in the database",
            log_of(path).name, left,
        )  # fmt: skip


def _orphan_error(path: Path) -> StorageError:
    """DuckDB would delete the log when it creates the file."""
    return StorageError(
        f"there is no '{path.name}', but a log of changes to it, {log_of(path).name}, which a new "
        "database would remove",
        hint="put the database back beside its log, or move the log away",
    )


def _first_line(message: str) -> str:
    return message.strip().splitlines()[0].removeprefix("IO Error: ")
