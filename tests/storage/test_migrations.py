"""Versions of the schema, and files that are not ours to touch."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pytest

from sommelier.errors import DatabaseCorruptError, StorageError
from sommelier.origin_records import Original
from sommelier.storage.catalog import Catalog
from sommelier.storage.duckdb_database import DuckdbDatabase
from sommelier.storage.migrations import (
    MIGRATIONS,
    SCHEMA_VERSION,
    Migration,
    identity,
    migrate,
    schema_version,
)
from sommelier.storage.schema import METADATA
from tests.storage.catalog_factories import plain_model, run

pytestmark = pytest.mark.duckdb("it looks into files; no catalog there is older than version 11")

if TYPE_CHECKING:
    from sqlalchemy import Connection


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with one model."""
    file = tmp_path / "m.sommelier"
    with Catalog.open(file) as catalog:
        catalog.add_model(plain_model("a"))
    return file


def add_column(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE store.models ADD COLUMN colour VARCHAR DEFAULT 'red'")


def test_a_new_database_has_every_table_and_the_current_version(path: Path) -> None:
    database = DuckdbDatabase(path, read_only=True)
    assert schema_version(database) == SCHEMA_VERSION == len(MIGRATIONS)
    tables = {
        f"store.{name}" for (name,) in database.rows("SELECT table_name FROM duckdb_tables()")
    }
    assert tables == set(METADATA.tables)
    database.close()


def test_a_new_database_is_what_all_steps_make_of_nothing(tmp_path: Path) -> None:
    """If not, FOR_NEW leaves out a step that has something to do."""

    def made(name: str, migrations: Sequence[Migration]) -> list[list[tuple[object, ...]]]:
        database = DuckdbDatabase(tmp_path / name)
        migrate(database, migrations)
        found = [database.rows(question) for question in questions]
        database.close()
        return found

    questions = (
        "SELECT sql FROM duckdb_tables() ORDER BY table_name",
        "SELECT sql FROM duckdb_views() WHERE NOT internal ORDER BY view_name",
        "SELECT * FROM store.devices ORDER BY name",
        "SELECT * FROM store.meta WHERE key <> 'identity' ORDER BY key",
    )
    new, stepwise = made("a.sommelier", MIGRATIONS), made("b.sommelier", list(MIGRATIONS))
    assert new == stepwise
    assert all(new)


def test_an_older_database_is_brought_up_to_date_and_keeps_its_rows(path: Path) -> None:
    database = DuckdbDatabase(path)
    assert migrate(database, (*MIGRATIONS, add_column)) == SCHEMA_VERSION
    assert schema_version(database) == SCHEMA_VERSION + 1
    assert database.rows("SELECT name, colour FROM store.models") == [("a", "red")]
    assert database.rows("SELECT name FROM models") == [("a",)]
    assert migrate(database, (*MIGRATIONS, add_column)) == SCHEMA_VERSION + 1
    database.close()


def test_a_database_of_the_first_version_gets_an_identity_of_its_own(tmp_path: Path) -> None:
    identities = []
    for name in ("a.sommelier", "b.sommelier"):
        database = DuckdbDatabase(tmp_path / name)
        migrate(database, MIGRATIONS[:1])
        database.close()
        for _ in range(2):
            with Catalog.open(tmp_path / name) as catalog:
                identities.append(identity(catalog.database))
    assert identities[0] == identities[1] != identities[2] == identities[3]


def test_originals_of_schema_10_stay_and_say_nothing_of_their_files(path: Path) -> None:
    with duckdb.connect(str(path)) as old:
        old.execute("ALTER TABLE store.originals DROP COLUMN fingerprint")
        old.execute("INSERT INTO store.originals VALUES ('m', 'torch_weights', '/w.pt', '{}')")
        old.execute("UPDATE store.meta SET value = '10' WHERE key = 'schema_version'")
    with Catalog.open(path) as catalog:
        assert catalog.original("m") == Original("torch_weights", "/w.pt", {}, None)
        kept = Original("torch_weights", "/w.pt", {"module": "/nets.py:Net"}, "sha256:1f")
        catalog.save_original("m", kept)
        assert catalog.original("m") == kept


def test_models_of_schema_10_stay_and_take_a_homepage(path: Path) -> None:
    with duckdb.connect(str(path)) as old:
        old.execute("DROP VIEW IF EXISTS models")
        old.execute("ALTER TABLE store.models DROP COLUMN homepage")
        old.execute("UPDATE store.meta SET value = '10' WHERE key = 'schema_version'")
    with Catalog.open(path) as catalog:
        (known,) = catalog.models()
        assert (known.name, known.homepage) == ("a", None)
        told = replace(known, homepage="https://example.org/a")
        catalog.update_model(told)
        catalog.add_model(plain_model("b", homepage="https://example.org/b"))
        assert catalog.model(known.id) == told
        assert [model.homepage for model in catalog.models()][1] == "https://example.org/b"
    database = DuckdbDatabase(path)
    assert database.rows("SELECT name, homepage FROM models WHERE name = 'b'") == [
        ("b", "https://example.org/b")
    ]
    database.close()


def test_a_migration_that_fails_changes_nothing(path: Path) -> None:
    def broken(connection: Connection) -> None:
        connection.exec_driver_sql("ALTER TABLE store.models ADD COLUMN wrong no_such_type")

    database = DuckdbDatabase(path)
    with pytest.raises(StorageError, match="bring the database to the current version"):
        migrate(database, (*MIGRATIONS, add_column, broken))
    assert schema_version(database) == SCHEMA_VERSION
    assert database.rows("SELECT * FROM store.models WHERE name = 'a'")
    database.close()
    with Catalog.open(path) as catalog:
        assert catalog.model_names() == ["a"]


def test_a_newer_database_is_refused_naming_both_versions(path: Path) -> None:
    database = DuckdbDatabase(path)
    migrate(database, (*MIGRATIONS, add_column))
    database.close()
    shutil.rmtree(path.with_name(path.name + ".d"))
    for read_only in (False, True):
        refused(path, StorageError, f"version {SCHEMA_VERSION + 1}.*up to {SCHEMA_VERSION}",
                read_only=read_only)  # fmt: skip


def refused(path: Path, kind: type[Exception], message: str, *, read_only: bool) -> None:
    """Opening `path` fails with `message`, and neither it nor anything beside it changes."""
    before = {p: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()}
    folders = set(path.parent.rglob("*"))
    with pytest.raises(kind, match=message):
        Catalog.open(path, read_only=read_only)
    assert {p: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()} == before
    assert set(path.parent.rglob("*")) == folders


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a Sommelier database"),
        (b"hello, I am a text file\n" * 1000, "is not a Sommelier database"),
        (b"\0" * 8 + b"DUCK" + b"\xff" * 20_000, "is damaged"),
    ],
)
def test_a_file_that_is_no_database_is_refused_untouched(
    tmp_path: Path, content: bytes, message: str, read_only: bool
) -> None:
    path = tmp_path / "m.sommelier"
    path.write_bytes(content)
    refused(path, DatabaseCorruptError, message, read_only=read_only)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_database_of_another_program_is_refused_untouched(
    tmp_path: Path, read_only: bool
) -> None:
    path = tmp_path / "other.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE theirs AS SELECT 1 AS a")
    refused(path, DatabaseCorruptError, "of another program", read_only=read_only)
    lite = tmp_path / "other.sqlite"
    with sqlite3.connect(lite) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    refused(lite, DatabaseCorruptError, "is not a Sommelier database", read_only=read_only)


def test_another_programs_unfinished_log_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.duckdb"
    run(
        "import duckdb, os, signal, sys\nc = duckdb.connect(sys.argv[1])\n"
        "c.execute('CREATE TABLE a (i INT)')\nc.execute('CHECKPOINT')\n"
        "c.execute('INSERT INTO a VALUES (1)')\nprint('x', flush=True)\nos._exit(0)",
        path,
    )
    assert path.with_name(path.name + ".wal").stat().st_size > 0
    refused(path, DatabaseCorruptError, "of another program", read_only=False)


@pytest.mark.parametrize("place", ["header", "middle", "end"])
def test_a_damaged_database_is_refused_untouched_and_its_snapshot_is_named(
    path: Path, place: str
) -> None:
    whole = path.read_bytes()
    if place == "end":
        path.write_bytes(whole[:5000])
    else:
        start = 20 if place == "header" else 4096
        path.write_bytes(whole[:start] + b"\xff" * 4096 + whole[start + 4096 :])
    before = path.read_bytes()
    with pytest.raises(DatabaseCorruptError, match=r"is damaged: .*left untouched") as caught:
        Catalog.open(path)
    assert caught.value.hint is not None
    assert "snapshots" in caught.value.hint
    assert path.read_bytes() == before
    snapshot = next(path.with_name(path.name + ".d").joinpath("snapshots").iterdir())
    path.write_bytes(snapshot.read_bytes())
    with Catalog.open(path) as catalog:
        assert catalog.model_names() == ["a"]


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is a folder"):
        Catalog.open(tmp_path)
    with pytest.raises(StorageError, match="there is no folder"):
        Catalog.open(tmp_path / "none" / "m.sommelier")
    with pytest.raises(StorageError, match="there is no database at"):
        Catalog.open(tmp_path / "none.sommelier", read_only=True)
    assert list(tmp_path.iterdir()) == []
