"""Opening a catalog that lies on a PostgreSQL server, its files in a folder.

psycopg and the rest are imported only when one is: who opens a file does without.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from sommelier.errors import StorageError

if TYPE_CHECKING:
    from sommelier.storage.postgres_database import PostgresDatabase


_FOLDER = "folder"  # in store.meta: where the files lay when they were first named


def is_url(place: object) -> bool:
    """Whether a database's place names a server rather than a file.

    >>> is_url("postgresql+psycopg://localhost/models"), is_url("models.sommelier")
    (True, False)
    """
    return isinstance(place, str) and "://" in place


def shown(place: object) -> str:
    """A database's place as people may see it: without a user, a password or options of a server.

    >>> shown("postgresql://me:p@ss@host/models?password=x"), shown("models.sommelier")
    ('postgresql://host/models', 'models.sommelier')
    """
    text = str(place)
    return re.sub(r"://.*@", "://", text).partition("?")[0] if is_url(text) else text


def open_on_server(
    url: str, folder: Path | str | None, *, read_only: bool = False
) -> tuple[PostgresDatabase, Path]:
    """The catalog in the database that `url` names, created or migrated if need be, and its folder.

    folder : None: the one that the catalog remembers, which is the first that was named.
    Raises StorageError with a sentence: the server or the database is not there, the password is
    wrong, the catalog is newer than this program, or there is none and it may not be made.
    """
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
        return database, _ready(database, folder)
    except BaseException:
        database.close()
        raise


def _ready(database: PostgresDatabase, named: Path | str | None) -> Path:
    """The folder of a catalog that can be used; what it lacks is made."""
    from sommelier.storage.migrations import schema_version

    known = _remembered(database) if schema_version(database) else None
    place = named or known
    if place is None:
        raise StorageError(
            f"a catalog on a server needs a folder for its files, and {database.server.name} was"
            " given none yet",
            hint="connect(url, folder='/path/to/a/folder') or --folder, one that all its clients"
            " can reach; it is remembered",
        )
    _bring_up_to_date(database)
    folder = _made(Path(place).expanduser().absolute(), database)
    if known is None and not database.read_only:
        _remember(database, folder)
    return folder


def _remembered(database: PostgresDatabase) -> str | None:
    found = database.row("SELECT value FROM store.meta WHERE key = ?", [_FOLDER])
    return str(found[0]) if found else None


def _remember(database: PostgresDatabase, folder: Path) -> None:
    from sommelier.storage.schema import META

    with database.transaction("remember the folder of the files"):
        if _remembered(database) is None:  # another client may have been quicker
            database.upsert(META, [{"key": _FOLDER, "value": str(folder)}])


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


def _made(folder: Path, database: PostgresDatabase) -> Path:
    if folder.is_dir():
        return folder
    if database.read_only or folder.exists() or not folder.parent.is_dir():
        raise StorageError(
            f"there is no folder '{folder}' for the files of the catalog at {database.server.name}",
            hint="mount it there, or say where it is: connect(url, folder=...), --folder",
        )
    folder.mkdir(exist_ok=True)
    return folder
