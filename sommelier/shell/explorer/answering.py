"""The process that answers questions of the explorer: `python -m ...answering SECONDS DATABASE
[FOLDER]`.

It reads questions from its standard input and writes pages to its standard output, until the input
ends. The database is read-only, and opened anew when it has changed.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sommelier.errors import ReadOnlyError, SommelierError, StorageError
from sommelier.storage.noticing import ChangeWatch
from sommelier.storage.servers import is_url

if TYPE_CHECKING:
    from sommelier.connection import Connection

logger = logging.getLogger(__name__)

NICE = 10  # requests come first
MEMORY = 4 << 30  # bytes of its own; a question that needs more fails
_GRACE_S = 5  # a server that was killed no longer ends it at the limit


class Reader:
    """The database as it is now. Not for several threads."""

    def __init__(self, path: str, folder: str | None = None) -> None:
        self._path = path
        self._folder = folder
        # who is connected to a server sees what others commit
        self._watch = None if is_url(path) else ChangeWatch(Path(path).absolute())
        self._db: Connection | None = None
        self._short = False

    @property
    def spent(self) -> bool:
        """Whether the next question may find too little memory: what a large one took is not all
        given back, so this process is to be replaced."""
        return self._short or _held_memory() > MEMORY // 2

    def fell_short(self) -> None:
        """A question found no memory."""
        self._short = True

    def open(self) -> Connection:
        """Raises StorageError where it cannot be read."""
        from sommelier.connection import connect
        from sommelier.shell.databases import exists, no_database

        if self._db is not None and not self._changed(self._db):
            return self._db
        self.close()
        if not exists(self._path):
            raise no_database(self._path)
        try:
            self._db = connect(self._path, read_only=True, folder=self._folder)
        except SommelierError:
            if self._watch is not None:
                self._watch.forget()
            raise
        return self._db

    def close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def _changed(self, db: Connection) -> bool:
        return self._watch is not None and self._watch.changed(db.catalog.version)


def main(limit_s: float, path: str, folder: str | None = None) -> None:
    """Answers until nobody asks any more."""
    reader = Reader(path, folder)
    asked, said = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    _become_modest()
    _begin(reader)
    said.write(b"{}\n")
    said.flush()
    while line := asked.readline():
        head = json.loads(line)
        body = asked.read(head["size"])
        if hasattr(signal, "alarm"):
            signal.alarm(math.ceil(limit_s) + _GRACE_S)
        told = answer(reader, head, body)
        _say(said, *told, last=reader.spent)
        if reader.spent:
            break
        if hasattr(signal, "alarm"):
            signal.alarm(0)
    reader.close()


def answer(reader: Reader, head: dict[str, Any], body: bytes) -> tuple[int, str, bytes]:
    """(status, content type, body) of a question."""
    from sommelier.shell.explorer import machines, site

    machine = head["path"] in ("query", "complete")
    failure = machines.failure if machine else site.failure
    try:
        db = reader.open()
        return machines.answer(db, head, body) if machine else site.answer(db, head)
    except (StorageError, OSError) as error:  # no database, or not one that can be read
        return failure(error, 400 if isinstance(error, ReadOnlyError) else 503)
    except SommelierError as error:
        return failure(error, 400)
    except MemoryError:
        reader.fell_short()
        return failure(SommelierError("the question needs more memory than it may have"), 400)
    except Exception as error:
        logger.exception("a page failed")
        return failure(SommelierError(f"this page failed: {type(error).__name__}"), 500)


def _begin(reader: Reader) -> None:
    """Have the database open; where that fails, questions are told why."""
    try:
        reader.open()
    except (SommelierError, OSError) as error:
        logger.warning("%s", error)


def _become_modest() -> None:
    if hasattr(os, "nice"):
        os.nice(NICE)
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def _held_memory() -> int:
    """Bytes of this process, as its limit counts them where there is one."""
    import psutil

    held = psutil.Process().memory_info()
    return int(getattr(held, "data", held.rss))


def _say(said: IO[bytes], status: int, kind: str, body: bytes, *, last: bool) -> None:
    """last : no more questions are answered by this process."""
    head = {"status": status, "type": kind, "size": len(body), "last": last}
    said.write(json.dumps(head).encode() + b"\n" + body)
    said.flush()


if __name__ == "__main__":
    main(float(sys.argv[1]), *sys.argv[2:])
