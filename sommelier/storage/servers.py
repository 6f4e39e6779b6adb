"""Opening a catalog that lies on a PostgreSQL server, its files in a folder.

psycopg and the rest are imported only when one is: who opens a file does without.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sommelier.errors import StorageError

if TYPE_CHECKING:
    from sommelier.storage.postgres_database import PostgresDatabase


def is_url(place: object) -> bool:
    """Whether a database's place names a server rather than a file.

    >>> is_url("postgresql+psycopg://localhost/models"), is_url("models.sommelier")
    (True, False)
    """
    return isinstance(place, str) and "://" in place


def open_on_server(
    url: str, artifacts: Path | str | None, *, read_only: bool = False
) -> tuple[PostgresDatabase, Path]:
    """The catalog in the database that `url` names, created or migrated if need be, and its folder.

    Raises StorageError with a sentence: the server or the database is not there, the password is
    wrong, the catalog is newer than this program, or there is none and it may not be made.
    """
    if artifacts is None:
        raise StorageError(
            "a catalog on a server needs a place for the files of its models",
            hint="connect(url, artifacts='/path/to/a/folder') that all its clients share",
        )
    try:
        from sommelier.storage.postgres_database import PostgresDatabase
        from sommelier.storage.postgres_server import server_at
    except ImportError as error:
        raise StorageError(
            f"a catalog on a server needs psycopg, which cannot be loaded ({error})",
            hint='pip install "sommelier-db[postgres]"',
        ) from None
    database = PostgresDatabase(server_at(url), read_only=read_only)
    try:
        _bring_up_to_date(database)
        folder = _folder(artifacts, read_only=read_only)
    except BaseException:
        database.close()
        raise
    return database, folder


def _bring_up_to_date(database: PostgresDatabase) -> None:
    from sommelier.storage.migrations import SCHEMA_VERSION, migrate, refuse_newer, schema_version

    version = schema_version(database)
    refuse_newer(version)
    if version:
        database.read_generation()
    if version == SCHEMA_VERSION:
        return
    if database.read_only:
        found = f"has schema version {version}" if version else "holds no catalog"
        raise StorageError(
            f"{database.server.name} {found}; this Sommelier reads version {SCHEMA_VERSION}",
            hint="open it once for writing; that makes it, or brings it up to date",
        )
    migrate(database)
    database.read_generation()


def _folder(artifacts: Path | str, *, read_only: bool) -> Path:
    folder = Path(artifacts).expanduser().absolute()
    if folder.is_dir():
        return folder
    if read_only or folder.exists() or not folder.parent.is_dir():
        raise StorageError(f"there is no folder '{folder}' for the files of the models")
    folder.mkdir(exist_ok=True)
    return folder
