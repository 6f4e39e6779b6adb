"""Databases whose bytes were changed behind our back: refused untouched, or read whole."""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pytest

from sommelier.errors import DatabaseCorruptError, StorageError
from sommelier.storage.catalog import Catalog
from sommelier.storage.integrity import checksums, damage_of, log_damage, unfinished_bytes
from sommelier.storage.snapshots import directory_of, log_of
from tests.storage.catalog_factories import number, plain_model, run, start

pytestmark = pytest.mark.duckdb("blocks of a file")

MODELS = 3_000
SEEDS = range(24)
KILLED = """
import os, signal, sys
from sommelier.storage.catalog import Catalog
from tests.storage.catalog_factories import plain_model
catalog = Catalog.open(sys.argv[1])
for name in ("first", "second", "third"):
    catalog.add_model(plain_model(name))
os.kill(os.getpid(), signal.SIGKILL)
"""
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a few blocks, some of them free: 'kept' replaced other values."""
    path = tmp_path_factory.mktemp("original") / "m.sommelier"
    with Catalog.open(path) as catalog:
        catalog.add_models_bulk(
            plain_model(f"m{i}", version="1", note=f"{i * 7919 % 100_003:x}" * 20)
            for i in range(MODELS)
        )
        catalog.publish()
        ids = catalog.model_ids()
        catalog.add_measurements([number(i, "params", float(n)) for n, i in enumerate(ids)])
    return path


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    """A fresh copy of it, with its snapshot."""
    copy = tmp_path / original.name
    copy.write_bytes(original.read_bytes())
    snapshots = directory_of(copy) / "snapshots"
    snapshots.mkdir(parents=True)
    for snapshot in (directory_of(original) / "snapshots").iterdir():
        (snapshots / snapshot.name).write_bytes(snapshot.read_bytes())
    return copy


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A database whose writer was killed: three models, in its log alone."""
    path = tmp_path / "m.sommelier"
    process = start(KILLED, path)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert log_of(path).stat().st_size > 0
    return path


def everything(catalog: Catalog) -> dict[str, list[tuple[object, ...]]]:
    """All rows of all tables, in order."""
    database = catalog.database
    tables = database.rows(
        "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'store' ORDER BY 1"
    )
    return {name: database.rows(f"SELECT * FROM store.{name} ORDER BY ALL") for (name,) in tables}


def files(path: Path) -> Files:
    """The files of a database; the lock file is always empty between openings."""
    return {p.name: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()} | {
        "writer.lock": b""
    }


def overwrite(path: Path, start: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(content)


def first_byte_of(path: Path, table: str) -> int:
    """Where, as DuckDB says, the last block begins that holds columns of a table."""
    with duckdb.connect(str(path), read_only=True) as connection:
        sql = f"SELECT max(block_id) FROM pragma_storage_info('store.{table}') WHERE persistent"
        (found,) = connection.execute(sql).fetchall()
    return 3 * 4096 + int(found[0]) * 262144


def destroy(path: Path, table: str) -> None:
    """Write 4 kB of noise over a block of a table, deep inside it."""
    overwrite(path, first_byte_of(path, table) + 50_000, random.Random(0).randbytes(4096))


def refusal(path: Path, *, read_only: bool = False) -> DatabaseCorruptError:
    """The error of opening it, which changes nothing."""
    before = files(path)
    with pytest.raises(DatabaseCorruptError) as caught:
        Catalog.open(path, read_only=read_only)
    assert files(path) == before
    return caught.value


def restore(hint: str | None) -> None:
    """Do what the hint of an error says, as a user would who copies it into a terminal."""
    assert hint is not None
    command = hint[min(hint.index(word) for word in ("mv ", "cp ") if word in hint) :]
    subprocess.run(["sh", "-c", command], check=True)


# ---- the file


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("size", [1, 100, 4096])
def test_damage_at_any_place_is_refused_untouched_or_changes_no_answer(
    original: Path, path: Path, size: int, read_only: bool
) -> None:
    whole = path.read_bytes()
    with Catalog.open(original, read_only=True) as catalog:
        expected = everything(catalog)
    refused = 0
    for seed in SEEDS:
        rng = random.Random(seed)
        path.write_bytes(whole)
        overwrite(path, rng.randrange(len(whole) - size), rng.randbytes(size))
        before = path.read_bytes()
        error = None
        try:
            with Catalog.open(path, read_only=read_only) as catalog:
                assert everything(catalog) == expected
        except DatabaseCorruptError as caught:
            error = caught
        if error is not None:
            assert path.read_bytes() == before
            assert error.hint is not None
            assert f"cp {directory_of(path)}/snapshots/" in error.hint
            refused += 1
    assert refused >= len(SEEDS) // 2


def test_every_block_that_is_not_free_is_watched(path: Path) -> None:
    """What is free is DuckDB's own count, so no block of an index or of metadata is left out."""
    with duckdb.connect(str(path), read_only=True) as connection:
        (row,) = connection.execute("PRAGMA database_size").fetchall()
    block_bytes, blocks, used, free = row[2:6]
    watched = 0
    for block in range(blocks):
        where = 3 * 4096 + block * block_bytes + block_bytes // 2
        content = path.read_bytes()[where : where + 8]
        overwrite(path, where, bytes(byte ^ 255 for byte in content))
        watched += damage_of(path) is not None
        overwrite(path, where, content)
    assert damage_of(path) is None
    assert free > 0
    assert watched == used == blocks - free


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("share", [0.0005, 0.002, 0.3, 0.6, 1.0])
def test_a_file_cut_short_is_refused_untouched(path: Path, share: float, read_only: bool) -> None:
    whole = first_byte_of(path, "measurements") + 1000  # what lies behind it may be free
    os.truncate(path, int(whole * share))
    error = refusal(path, read_only=read_only)
    assert f"it ends after {path.stat().st_size:,} bytes" in error.message
    assert "left untouched" in error.message


@pytest.mark.parametrize("damage", ["middle", "cut", "empty", "text"])
def test_the_command_in_the_error_brings_all_data_back(
    original: Path, path: Path, damage: str
) -> None:
    half = first_byte_of(path, "models") + 1000
    {
        "middle": lambda: destroy(path, "models"),
        "cut": lambda: os.truncate(path, half),
        "empty": lambda: os.truncate(path, 0),
        "text": lambda: path.write_text("hello\n" * 1000),
    }[damage]()
    restore(refusal(path).hint)
    with Catalog.open(path) as catalog, Catalog.open(original, read_only=True) as expected:
        assert everything(catalog) == everything(expected)
        catalog.add_model(plain_model("new"))


def test_the_command_works_for_a_name_with_spaces_and_quotes(path: Path) -> None:
    odd = path.with_name("it's a file.sommelier")
    path.rename(odd)
    directory_of(path).rename(directory_of(odd))
    os.truncate(odd, 20_000)
    hint = refusal(odd).hint
    assert hint is not None
    assert shlex.split(hint.partition("cp ")[2])[1] == str(odd)
    restore(hint)
    with Catalog.open(odd) as catalog:
        assert len(catalog.model_ids()) == MODELS


def test_a_snapshot_that_is_damaged_too_is_not_offered(path: Path) -> None:
    (snapshot,) = (directory_of(path) / "snapshots").iterdir()
    for file in (path, snapshot):
        destroy(file, "models")
    hint = refusal(path).hint
    assert hint is not None
    assert hint.startswith("there is no readable snapshot of it")


@pytest.mark.parametrize("read_only", [False, True])
def test_a_damaged_snapshot_is_made_anew(path: Path, read_only: bool) -> None:
    (snapshot,) = (directory_of(path) / "snapshots").iterdir()
    times = path.stat()
    destroy(snapshot, "models")
    os.utime(snapshot, ns=(times.st_mtime_ns, times.st_mtime_ns))  # as if it were the newest
    with Catalog.open(path, read_only=read_only) as catalog:
        assert len(catalog.model_ids()) == MODELS
    (snapshot,) = (directory_of(path) / "snapshots").iterdir()
    assert damage_of(snapshot) is None


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.sommelier"
    os.mkfifo(pipe)
    for read_only in (False, True):
        with pytest.raises(StorageError, match="is no ordinary file"):
            Catalog.open(pipe, read_only=read_only)
        with pytest.raises(StorageError, match="is a folder"):
            Catalog.open(tmp_path, read_only=read_only)


# ---- damage while it is open


def test_damage_met_while_open_is_named_with_the_snapshot_and_keeps_it(path: Path) -> None:
    """The program damages the file after opening it, so that its first statement meets damage."""
    program = """
import sys
from sommelier.errors import DatabaseCorruptError
from sommelier.storage.catalog import Catalog
from tests.storage.catalog_factories import plain_model
catalog = Catalog.open(sys.argv[1])
with open(sys.argv[1], "r+b") as file:
    file.seek(3 * 4096 + 8)
    for _ in range(int(sys.argv[2])):
        file.write(bytes(100))
        file.seek(262144 - 100, 1)
for attempt in (
    lambda: catalog.measurement_columns(),
    lambda: catalog.sql("SELECT sum(length(note)) FROM store.models"),
    lambda: catalog.add_model(plain_model("new")),
    lambda: catalog.close(),
):
    try:
        attempt()
        print("done")
    except DatabaseCorruptError as error:
        print("refused", "cp " in error.hint, error.message.startswith("m.sommelier is damaged: "))
"""
    with Catalog.open(path):
        pass
    (snapshot,) = (directory_of(path) / "snapshots").iterdir()
    kept = snapshot.read_bytes()
    blocks = (path.stat().st_size - 3 * 4096) // 262144
    answers = run(program, path, blocks).splitlines()
    assert "refused True True" in answers
    assert set(answers) <= {"done", "refused True True"}
    assert snapshot.read_bytes() == kept


def test_a_file_damaged_while_it_is_written_does_not_replace_the_good_snapshot(path: Path) -> None:
    where = first_byte_of(path, "measurements")  # which nothing below rewrites
    with contextlib.ExitStack() as stack:
        catalog = stack.enter_context(Catalog.open(path))
        (snapshot,) = (directory_of(path) / "snapshots").iterdir()
        kept = snapshot.read_bytes()
        catalog.add_model(plain_model("new"))
        overwrite(path, where, b"\xff" * 64)
        with pytest.raises(DatabaseCorruptError, match="the snapshot before it was kept") as caught:
            catalog.publish()
        assert caught.value.hint is not None
        assert str(snapshot) in caught.value.hint
        stack.pop_all()
    with pytest.raises(DatabaseCorruptError):
        catalog.close()
    assert snapshot.read_bytes() == kept
    refusal(path)


# ---- its log


def test_a_log_damaged_at_any_place_loses_no_committed_change_silently(
    killed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = log_of(killed)
    whole = log.read_bytes()
    beginning = range(60)
    rest = random.Random(3).sample(range(60, len(whole)), 60)
    for where in (*beginning, *rest):
        overwrite(log, where, bytes([whole[where] ^ 0x41]))
        error = refusal(killed, read_only=True)
        assert error.message.startswith("m.sommelier.wal, the log of the last changes of ")
        overwrite(log, where, whole[where : where + 1])
    with Catalog.open(killed) as catalog:
        assert sorted(catalog.model_names()) == ["first", "second", "third"]
    assert not caplog.records


def test_a_writer_refuses_a_damaged_log_and_the_command_gives_it_up(killed: Path) -> None:
    log = log_of(killed)
    whole = log.read_bytes()
    overwrite(log, len(whole) // 2, b"\xff" * 9)
    error = refusal(killed)
    assert "both were left untouched" in error.message
    restore(error.hint)
    assert log.with_name(log.name + ".damaged").stat().st_size == len(whole)
    with Catalog.open(killed) as catalog:
        assert catalog.model_names() == []


def test_a_change_cut_short_by_a_kill_is_dropped_and_said(
    killed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = log_of(killed)
    os.truncate(log, log.stat().st_size - 5)
    left = unfinished_bytes(killed)
    assert left > 0
    with Catalog.open(killed) as catalog:
        assert sorted(catalog.model_names()) == ["first", "second"]
    assert f"m.sommelier.wal ended in {left} bytes of a change" in caplog.text


def test_the_log_of_a_damaged_file_is_put_aside_by_the_command(killed: Path) -> None:
    overwrite(killed, killed.stat().st_size // 2, random.Random(4).randbytes(200_000))
    error = refusal(killed)
    assert error.message.startswith("m.sommelier is damaged: ")
    restore(error.hint)
    with Catalog.open(killed) as catalog:
        assert catalog.model_names() == []


def test_a_log_without_its_database_is_not_removed(killed: Path) -> None:
    killed.rename(killed.with_name("moved"))
    before = files(killed)
    with pytest.raises(StorageError, match=r"there is no 'm\.sommelier', but a log of changes"):
        Catalog.open(killed)
    assert files(killed) == before
    killed.with_name("moved").rename(killed)
    with Catalog.open(killed) as catalog:
        assert len(catalog.model_names()) == 3


def test_a_whole_log_has_no_damage_and_nothing_unfinished(killed: Path) -> None:
    assert log_damage(killed) is None
    assert unfinished_bytes(killed) == 0


# ---- the checksum itself


def test_checksums_are_duckdbs(path: Path) -> None:
    """Computed one word at a time, and compared with what DuckDB wrote."""
    header = path.read_bytes()[:4096]
    expected = 5381
    for place in range(8, 4096, 8):
        word = int.from_bytes(header[place : place + 8], "little")
        expected ^= word * 0xBF58476D1CE4E5B9 % 2**64
    assert expected == int.from_bytes(header[:8], "little")
    words = np.frombuffer(header, "<u8")[1:]
    assert checksums(np.stack([words, words])).tolist() == [expected, expected]


@pytest.mark.parametrize(
    "change",
    [lambda c: c.execute("UPDATE t SET s = s || 'x'"), lambda c: c.execute("DELETE FROM t")],
)
def test_old_rows_that_a_reader_still_sees_are_not_taken_for_damage(
    tmp_path: Path, change: Callable[[duckdb.DuckDBPyConnection], object]
) -> None:
    """DuckDB leaves their blocks, half-free, out of the file it checkpoints."""
    path = tmp_path / "t.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "CREATE TABLE t AS SELECT i, repeat(md5(i::VARCHAR), 9) AS s FROM range(40000) r(i)"
        )
        connection.execute("CHECKPOINT")
        reader = connection.cursor()
        reader.execute("BEGIN TRANSACTION READ ONLY")
        reader.execute("SELECT * FROM t")
        reader.fetchone()
        change(connection)
        with contextlib.suppress(duckdb.TransactionException):
            connection.execute("CHECKPOINT")
        copy = tmp_path / "copy.duckdb"
        copy.write_bytes(path.read_bytes())
        assert damage_of(copy) is None
        reader.close()
    assert damage_of(path) is None
