"""Connecting: the one function with which everything begins."""

from __future__ import annotations

from pathlib import Path

from sommelier.connection.connection import Connection
from sommelier.storage.artifact_choice import settled
from sommelier.storage.artifact_places import LOCAL
from sommelier.storage.catalog import Catalog
from sommelier.storage.servers import is_url


def connect(
    path: str | Path = "models.sommelier",
    *,
    read_only: bool = False,
    artifacts: str | Path | None = None,
    folder: str | Path | None = None,
) -> Connection:
    """A connection to the database file `path`, made if it does not exist, or to a catalog on a
    PostgreSQL server: postgresql+psycopg://user:password@host/database.

    read_only : reads the newest snapshot, also while another process writes. ':memory:' keeps
    everything in a temporary folder. artifacts : the store in which a database without model files
    is to keep them from now on, as 's3://bucket/models' (docs/scale.md). folder : of a server's
    catalog, for what it keeps in files, the answers of models and, without a store, the models; the
    same one for all its clients, remembered by the catalog. Without it `artifacts` may name it.
    Raises DatabaseLockedError if another process writes, DatabaseCorruptError if the file is no
    database of Sommelier's (it is left untouched), StorageError if it keeps its files elsewhere,
    and if a server cannot be reached.
    """
    return Connection(opened(path, read_only=read_only, artifacts=artifacts, folder=folder))


def opened(
    path: str | Path,
    *,
    read_only: bool = False,
    artifacts: str | Path | None = None,
    folder: str | Path | None = None,
) -> Catalog:
    """The catalog that `connect` connects to."""
    store = None if artifacts is None else str(artifacts)
    if is_url(path) and folder is None and store not in (None, LOCAL) and not is_url(store):
        folder, store = store, LOCAL
    return settled(Catalog.open(path, folder=folder, read_only=read_only), store)
