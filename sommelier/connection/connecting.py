"""Connecting: the one function with which everything begins."""

from __future__ import annotations

from pathlib import Path

from sommelier.connection.connection import Connection
from sommelier.storage.catalog import Catalog


def connect(
    path: str | Path = "models.sommelier",
    *,
    artifacts: str | Path | None = None,
    read_only: bool = False,
) -> Connection:
    """A connection to the database file `path`, made if it does not exist, or to a catalog on a
    PostgreSQL server: postgresql+psycopg://user:password@host/database.

    artifacts : for a server, the folder of the model files and answers. read_only : reads the
    newest snapshot, also while another process writes. ':memory:' keeps everything in a temporary
    folder. Raises DatabaseLockedError if another process writes, DatabaseCorruptError if the file
    is not a Sommelier database (it is left untouched).
    """
    return Connection(Catalog.open(path, artifacts=artifacts, read_only=read_only))
