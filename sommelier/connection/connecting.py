"""Connecting: the one function with which everything begins."""

from __future__ import annotations

from pathlib import Path

from sommelier.connection.analyzing_later import no_workers
from sommelier.connection.connection import Connection
from sommelier.errors import StorageError
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
    workers: str | None = None,
) -> Connection:
    """A connection to the database file `path`, made if it does not exist, or to a catalog on a
    PostgreSQL server: postgresql+psycopg://user:password@host/database.

    read_only : reads the newest snapshot, also while another process writes. ':memory:' keeps
    everything in a temporary folder. artifacts : the store in which a database without model files
    is to keep them from now on, as 's3://bucket/models' (docs/scale.md). folder : of a server's
    catalog, for what it keeps in files, the answers of models and, without a store, the models; the
    same one for all its clients, remembered by the catalog. Without it `artifacts` may name it.
    workers : who does what ANALYZE ... ASYNC asks a server's catalog for: None, `sommelier worker`
    where some are alive, else this process; 'here', always this process; 'shared', workers, be they
    started later; 'ray' or 'ray://head:10001', a Ray cluster, ASYNC or not (docs/scale.md).
    Raises DatabaseLockedError if another process writes, DatabaseCorruptError if the file is no
    database of Sommelier's (it is left untouched), StorageError if it keeps its files elsewhere,
    and if a server cannot be reached.
    """
    _check_workers(workers, path)
    catalog = opened(path, read_only=read_only, artifacts=artifacts, folder=folder)
    if workers is None or not _is_ray(workers):
        return Connection(catalog, workers=workers)
    from sommelier.connection.working_on_ray import Place, RayCluster

    store = str(artifacts) if artifacts is not None and is_url(artifacts) else None
    place = Place(str(path), str(catalog.directory), store)
    return Connection(catalog, workers=RayCluster(workers, place))


def _check_workers(workers: str | None, path: str | Path) -> None:
    if workers in (None, "here"):
        return
    if workers != "shared" and not _is_ray(str(workers)):
        raise StorageError(
            f"workers = '{workers}' is not known",
            hint="'here', 'shared', 'ray', 'ray://...', or none",
        )
    if not is_url(path):
        raise no_workers(str(path))


def _is_ray(workers: str) -> bool:
    return workers == "ray" or workers.startswith("ray://")


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
