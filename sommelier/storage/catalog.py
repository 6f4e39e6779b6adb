"""The catalog: everything a database knows, behind one object.

Its methods live in parts, each a file about one kind of thing: catalog_labels, catalog_models,
catalog_measurements, catalog_datasets, catalog_collections, catalog_segments, catalog_links,
catalog_text. This file opens, closes and publishes.

A DuckDB file is written by one process at a time; others read its snapshots (snapshots.py,
opening.py). On a PostgreSQL server all read what is there and several write (postgres_database.py).
A Catalog may be shared by threads: calls take turns, and a transaction holds its turn to the end.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from sommelier.errors import DatabaseCorruptError, StorageError
from sommelier.storage.catalog_models import AddedModel
from sommelier.storage.catalog_sql import SqlResult
from sommelier.storage.catalog_text import TextMask, TextTable
from sommelier.storage.database import Database, Parameters
from sommelier.storage.duckdb_database import DuckdbDatabase
from sommelier.storage.migrations import identity, migrate
from sommelier.storage.opening import Opened, open_for_reading, open_for_writing
from sommelier.storage.servers import is_url, open_on_server
from sommelier.storage.snapshots import directory_of

if TYPE_CHECKING:
    from sommelier.storage.artifacts import ArtifactStore

__all__ = ["AddedModel", "Catalog", "SqlResult", "TextMask"]

logger = logging.getLogger(__name__)


class Catalog(TextTable):
    """An open database. Use it as a context manager, or call close()."""

    def __init__(self, database: Database, path: Path | str, directory: Path) -> None:
        super().__init__(database)
        self.path = path
        self.directory = directory
        self._opened: Opened | None = None
        self._temporary = False
        self._closed = False
        self._published_notes = 0
        self._artifacts: ArtifactStore | None = None
        self._making = threading.Lock()

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        folder: Path | str | None = None,
        read_only: bool = False,
        brief: bool = False,
    ) -> Catalog:
        """The database at `path`, created if it is not there.

        path : of a DuckDB file, or postgresql+psycopg://user:password@host/database. folder : of
        the files that belong to a server's catalog; None: the one it remembers. read_only : its
        newest snapshot, also while another process writes. brief : to write for a moment; others
        that want to write wait for its end, where else they would be refused. ':memory:' lives as
        long as the Catalog, with a temporary folder for files.

        Raises StorageError if a server cannot be reached; DatabaseLockedError if another connection
        writes it, DatabaseCorruptError for a damaged or foreign file (untouched), StorageError for
        one of a newer version.
        """
        if str(path) == ":memory:":
            return cls._open_in_memory(read_only=read_only)
        if is_url(path):
            server, place = open_on_server(str(path), folder, read_only=read_only)
            return cls(server, server.server.name, place)
        file = Path(path).absolute()
        opened = open_for_reading(file) if read_only else open_for_writing(file, brief=brief)
        catalog = cls(opened.database, file, directory_of(file))
        catalog._opened = opened
        if not read_only and opened.published is None:
            catalog.publish()
        return catalog

    @classmethod
    def _open_in_memory(cls, *, read_only: bool) -> Catalog:
        if read_only:
            raise StorageError("a database in memory is always empty at first; open it to write")
        database = DuckdbDatabase(":memory:")
        migrate(database)
        catalog = cls(database, ":memory:", Path(tempfile.mkdtemp(prefix="sommelier-")))
        catalog._temporary = True
        return catalog

    # ---- what state it is in

    @property
    def database(self) -> Database:
        """The open database, for the rest of the storage room."""
        return self._database

    @property
    def artifacts(self) -> ArtifactStore:
        """The files of its models, where it keeps them; made on first use."""
        from sommelier.storage.artifact_choice import artifacts_of

        with self._making:
            if self._artifacts is None:
                self._artifacts = artifacts_of(self)
            return self._artifacts

    @property
    def read_only(self) -> bool:
        """Whether this is a snapshot, or may be changed."""
        return self._database.read_only

    @property
    def generation(self) -> int:
        """A number that grows with every committed change, also from one process to the next."""
        return self._database.generation

    @property
    def version(self) -> str:
        """Of which database this is which state: the name of the snapshot that holds it."""
        return f"{self.generation}-{identity(self._database)}"

    def generation_of(self, group: str) -> int:
        """The generation in which one kind of thing last changed, for indexes of that kind.

        group : 'models' (which there are; tags and names do not count), 'measurements',
        'profiles', 'sketches' (and probe sets), 'labels' (spaces and maps) or 'links' (and plans).
        """
        return self._database.generation_of(group)

    @property
    def notice(self) -> str | None:
        """For a read-only catalog that another process was writing when it was opened, which moment
        it shows; None otherwise."""
        if self._opened is None or self._opened.reading is None or not self._opened.behind:
            return None
        return f"reading the snapshot of {self._opened.reading.made_at:%Y-%m-%d %H:%M:%S}"

    # ---- reading and writing

    def sql(
        self, text: str, parameters: Parameters | None = None, limit: int | None = None
    ) -> SqlResult:
        """The rows of one read-only SQL statement over the views; see catalog_sql.run_sql."""
        return self._database.sql(text, parameters, limit)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes inside the block are kept, or none. Blocks nest; the outermost commits."""
        with self._database.transaction():
            yield

    def interrupt(self) -> None:
        """Stop what other threads of this process are asking; they raise CancelledError."""
        self._database.interrupt()

    def spared(self) -> contextlib.AbstractContextManager[None]:
        """`interrupt` does not reach the calling thread inside the block: a background job."""
        return self._database.spared()

    def alone(self) -> contextlib.AbstractContextManager[bool]:
        """Whether nobody else has the database open to write it, nor can before the block ends: the
        place to remove what killed processes left. To be asked once, when it was opened."""
        return self._database.alone()

    def steady(self) -> contextlib.AbstractContextManager[None]:
        """No other thread changes the catalog inside the block: an answer of several reads."""
        return self._database.steady()

    # ---- other processes

    def publish(self) -> bool:
        """Make what is committed visible to readers in other processes; True if that was needed.

        Costs a checkpoint and a copy of the file; nothing when nothing changed, inside a
        transaction of this thread (those of others are waited for), in memory or read-only. A copy
        that fails is logged: the data are safe without.
        Raises DatabaseCorruptError if the file was damaged while it was open.
        """
        if self._opened is None or self._opened.file is None:
            return False
        try:
            with self._database.steady():
                return not self._database.in_transaction and self._publish(self._opened)
        except DatabaseCorruptError:
            raise
        except (OSError, StorageError) as error:
            logger.warning("no snapshot for readers could be made: %s", error)
            return False

    def _publish(self, opened: Opened) -> bool:
        state = self.generation, self._database.notes
        if opened.published is not None and state == (
            opened.published.generation, self._published_notes,
        ):  # fmt: skip
            return False
        made = opened.publish()
        if made:
            self._published_notes = state[1]
        return made

    def close(self) -> None:
        """Publish what changed and release the file. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self.publish()
        finally:
            if self._artifacts is not None:
                self._artifacts.close()
            self._database.close()
            if self._temporary:
                shutil.rmtree(self.directory, ignore_errors=True)
            if self._opened is not None:
                self._opened.release()

    def __enter__(self) -> Catalog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
