"""How the tables came to be what they are: an ordered list of plain functions, one per version.

Version n of the schema is what the first n functions make. A database remembers its version and an
application id, so a file of another program, or of a later Sommelier, is recognised before anything
is written to it. Views hold no data and are made anew after the last step.

A step that changes a column's type or name has to drop the indexes of that table first (DuckDB
refuses otherwise), and must not use schema.py's tables of a later version than its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from uuid import uuid4

from sommelier.errors import DatabaseCorruptError, StorageError
from sommelier.storage.views import view_statements

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table

    from sommelier.storage.database import Database

APPLICATION_ID = "sommelier-db/4a5cbd6e"

Migration = Callable[["Connection"], None]


def create_tables(connection: Connection) -> None:
    """1: every table of the first release."""
    from sqlalchemy.schema import CreateSchema

    from sommelier.storage.schema import METADATA

    connection.execute(CreateSchema("store"))
    METADATA.create_all(connection, checkfirst=False)


def name_database(connection: Connection) -> None:
    """2: an identity, so that a snapshot of another database at the same place is recognised."""
    from sqlalchemy import text

    connection.execute(
        text("INSERT INTO store.meta VALUES ('identity', :identity)"), {"identity": uuid4().hex}
    )


def add_known_devices(connection: Connection) -> None:
    """3: common devices, for FITS ON; one the user registered under such a name stays."""
    from sqlalchemy import text

    from sommelier.storage.known_devices import KNOWN_DEVICES

    columns = ("name", "memory_bytes", "peak_flops_per_s", "bandwidth_bytes_per_s", "note")
    numbered = range(len(KNOWN_DEVICES))  # one statement: each costs 4 ms
    places = ", ".join(f"({', '.join(f':{name}{i}' for name in columns)})" for i in numbered)
    connection.execute(
        text(
            f"INSERT INTO store.devices ({', '.join(columns)}) VALUES {places}"
            " ON CONFLICT DO NOTHING"
        ),
        {
            f"{name}{i}": getattr(device, name)
            for i, device in enumerate(KNOWN_DEVICES)
            for name in columns
        },
    )


def add_segments(connection: Connection) -> None:
    """4: segments, lineage, and models that are proposals."""
    from sommelier.storage.schema import LINEAGE, METADATA, MODELS, SEGMENTS

    METADATA.create_all(connection, tables=[SEGMENTS, LINEAGE], checkfirst=True)
    _add_columns(connection, MODELS, "proposal")


def add_links(connection: Connection) -> None:
    """5: model links, plans, and probe sets whose items were chosen one by one."""
    from sommelier.storage.schema import LINKS, METADATA, PLAN_MODELS, PLANS, PROBE_SETS

    METADATA.create_all(connection, tables=[LINKS, PLANS, PLAN_MODELS], checkfirst=True)
    _add_columns(connection, PROBE_SETS, "indices")


def add_fusions(connection: Connection) -> None:
    """6: fusions, what their tasks lost, and how they were found."""
    from sommelier.storage.schema import FUSION_TABLES, METADATA

    METADATA.create_all(connection, tables=FUSION_TABLES, checkfirst=True)


def add_background_jobs(connection: Connection) -> None:
    """7: what jobs in the background do now, how far they are, and what came of them."""
    from sommelier.storage.schema import JOBS

    _add_columns(connection, JOBS, "background", "process", "doing", "progress", "reason")


def add_cascades(connection: Connection) -> None:
    """8: cascades, their models and thresholds."""
    from sommelier.storage.schema import CASCADE_TABLES, METADATA

    METADATA.create_all(connection, tables=CASCADE_TABLES, checkfirst=True)


def add_deployments(connection: Connection) -> None:
    """9: deployments, their models, and how long requests took."""
    from sommelier.storage.schema import DEPLOYMENT_TABLES, METADATA

    METADATA.create_all(connection, tables=DEPLOYMENT_TABLES, checkfirst=True)


def add_origins(connection: Connection) -> None:
    """10: repositories, and what converted models were before."""
    from sommelier.storage.schema import METADATA, ORIGIN_TABLES

    METADATA.create_all(connection, tables=ORIGIN_TABLES, checkfirst=True)


def add_fingerprints_and_homepages(connection: Connection) -> None:
    """11: of which content the files were that models were converted from, and homepages."""
    from sommelier.storage.origin_schema import ORIGINALS
    from sommelier.storage.schema import MODELS

    _add_columns(connection, ORIGINALS, "fingerprint")
    _add_columns(connection, MODELS, "homepage")


def add_leases(connection: Connection) -> None:
    """12: who works at a task until when, what became of its tries, and the plans workers need."""
    from sommelier.storage.schema import JOBS, METADATA, TASKS, WORKERS

    METADATA.create_all(connection, tables=[WORKERS], checkfirst=True)
    _add_columns(connection, JOBS, "plan")
    _add_columns(connection, TASKS, "device", "holder", "lease_until", "log")


MIGRATIONS: tuple[Migration, ...] = (
    create_tables,
    name_database,
    add_known_devices,
    add_segments,
    add_links,
    add_fusions,
    add_background_jobs,
    add_cascades,
    add_deployments,
    add_origins,
    add_fingerprints_and_homepages,
    add_leases,
)
SCHEMA_VERSION = len(MIGRATIONS)
FOR_NEW: tuple[Migration, ...] = (create_tables, name_database, add_known_devices)
"""What makes a new database: of the other steps there is nothing to do."""
_FOREIGN = {
    "duckdb": "the file is a DuckDB database of another program; it was left untouched",
    "postgresql": "the database has a schema 'store' that is another program's; it was left"
    " untouched",
}


def schema_version(database: Database) -> int:
    """The version of an open database, 0 when it is empty.

    Raises DatabaseCorruptError when it holds tables that are not Sommelier's.
    """
    tables = database.tables()
    if not tables:
        return 0
    if ("store", "meta") in tables:
        meta = dict(database.rows("SELECT key, value FROM store.meta"))
        if meta.get("application_id") == APPLICATION_ID:
            return int(meta["schema_version"])
    raise DatabaseCorruptError(
        _FOREIGN[database.dialect.name],
        hint="give Sommelier a file, or a server's database, of its own",
    )


def identity(database: Database) -> str:
    """What tells this database from any other that was ever created: 32 hexadecimal digits."""
    found = database.row("SELECT value FROM store.meta WHERE key = 'identity'")
    assert found is not None, "version 2 gives every database an identity"
    return str(found[0])


def refuse_newer(version: int, *, known: int = SCHEMA_VERSION) -> None:
    """Raise StorageError if a database of schema `version` is newer than this program knows."""
    if version > known:
        raise StorageError(
            f"the database has schema version {version}, this Sommelier knows versions up to "
            f"{known}; it was left untouched",
            hint="upgrade: pip install --upgrade sommelier-db",
        )


def migrate(database: Database, migrations: Sequence[Migration] = MIGRATIONS) -> int:
    """Bring a database to the newest version, in one transaction; the version it had before.

    Raises StorageError if it is newer than the list.
    """
    version = schema_version(database)
    refuse_newer(version, known=len(migrations))
    if version == len(migrations):
        return version
    with database.transaction("bring the database to the current version"):
        version = schema_version(database)  # another client of a server may have been faster
        if version == len(migrations):
            return version
        connection = database.alchemy()
        new = version == 0 and migrations is MIGRATIONS
        for step in FOR_NEW if new else migrations[version:]:
            step(connection)
        _remember(database, len(migrations), new=version == 0)
        for statement in view_statements(database.dialect):
            connection.exec_driver_sql(statement)
    return version


def _add_columns(connection: Connection, table: Table, *names: str) -> None:
    """Add columns as schema.py has them, where step 1 did not make them."""
    for name in names:
        kind = table.c[name].type.compile(connection.dialect)
        connection.exec_driver_sql(
            f"ALTER TABLE {table.fullname} ADD COLUMN IF NOT EXISTS {name} {kind}"
        )


def _remember(database: Database, version: int, *, new: bool) -> None:
    from sommelier.storage.schema import META

    rows = [{"key": "schema_version", "value": str(version)}]
    if new:
        rows.append({"key": "application_id", "value": APPLICATION_ID})
        rows.append({"key": "generation", "value": "0"})
    database.upsert(META, rows)
