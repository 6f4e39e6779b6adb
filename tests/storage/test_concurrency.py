"""One writer, many readers, and what is left when a process dies or the disk is full.

The processes here are real ones, and so are the kills.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sommelier.errors import DatabaseLockedError
from sommelier.storage.catalog import Catalog
from sommelier.storage.opening import open_for_writing
from tests.storage.catalog_factories import number, plain_model, run, start

pytestmark = pytest.mark.duckdb("locks, snapshots and logs of a file")

WRITER = """
import sys
from sommelier.storage.catalog import Catalog
from tests.storage.catalog_factories import plain_model
catalog = Catalog.open(sys.argv[1])
catalog.add_model(plain_model("first"))
print("ready", flush=True)
for line in sys.stdin:
    catalog.add_model(plain_model(line.strip()))
    catalog.publish()
    print("published", flush=True)
catalog.close()
print("closed", flush=True)
"""
NAMES = """
import sys
from sommelier.storage.catalog import Catalog
with Catalog.open(sys.argv[1], read_only=True) as catalog:
    print(",".join(catalog.model_names()))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.sommelier"


def snapshots(path: Path) -> list[str]:
    return sorted(p.name for p in path.with_name(path.name + ".d").joinpath("snapshots").iterdir())


# ---- a second writer


def test_a_second_writer_is_told_who_writes_since_when_and_what_to_do(path: Path) -> None:
    process = start(WRITER, path)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        with pytest.raises(DatabaseLockedError) as caught:
            Catalog.open(path)
        assert f"is being written by process {process.pid} (since " in caught.value.message
        told = str(caught.value)
        assert told.count("open it with read_only=True to read its snapshot of ") == 1
        assert caught.value.readable is not None
    finally:
        process.communicate()
    with Catalog.open(path) as catalog:
        assert catalog.model_names() == ["first"]


def test_a_second_writer_in_the_same_process_is_told_too(path: Path) -> None:
    with Catalog.open(path) as catalog:
        with pytest.raises(DatabaseLockedError, match=f"process {os.getpid()}"):
            Catalog.open(path)
        catalog.add_model(plain_model("a"))
    with Catalog.open(path) as catalog:
        assert catalog.model_names() == ["a"]


def test_a_program_that_knows_only_duckdb_is_kept_out_after_a_snapshot_too(path: Path) -> None:
    """POSIX drops DuckDB's lock when any handle of the file is closed, as a copy would."""
    program = """
import duckdb, sys
try:
    duckdb.connect(sys.argv[1])
    print("open")
except duckdb.IOException as error:
    print("locked" if "lock" in str(error) else error)
"""
    with Catalog.open(path) as catalog:
        catalog.add_model(plain_model("a"))
        assert catalog.publish()
        with Catalog.open(path, read_only=True) as reader:
            assert reader.model_names() == ["a"]
        with pytest.raises(DatabaseLockedError):
            Catalog.open(path)
        assert run(program, path) == "locked"


def test_a_database_another_program_has_open_is_locked(path: Path) -> None:
    Catalog.open(path).close()
    process = start(
        "import duckdb, sys\nc = duckdb.connect(sys.argv[1])\nprint('open', flush=True)\n"
        "sys.stdin.read()",
        path,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    try:
        with pytest.raises(
            DatabaseLockedError, match=f"is being written by process {process.pid}\nHint"
        ):
            Catalog.open(path)
    finally:
        process.communicate()


# ---- readers


def test_readers_follow_a_writer_by_its_snapshots(path: Path) -> None:
    process = start(WRITER, path)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert run(NAMES, path) == ""  # committed, not yet published
    with Catalog.open(path, read_only=True) as early:
        for count, name in enumerate(("second", "third"), 2):
            process.stdin.write(f"{name}\n")
            process.stdin.flush()
            assert process.stdout.readline() == "published\n"
            assert len(run(NAMES, path).split(",")) == count
            with Catalog.open(path, read_only=True) as reader:
                assert name in reader.model_names()
                assert reader.generation > early.generation
        assert early.notice is not None
        assert early.notice.startswith("reading the snapshot of ")
        assert early.model_names() == []  # a reader keeps the moment it was opened at
    assert len(snapshots(path)) == 1
    process.communicate()
    assert run(NAMES, path) == "first,second,third"


def test_many_readers_and_a_writer_never_disturb_each_other(path: Path) -> None:
    reader = """
import sys
from sommelier.storage.catalog import Catalog
seen = 0
for _ in range(25):
    with Catalog.open(sys.argv[1], read_only=True) as catalog:
        names = catalog.model_names()
        assert len(names) >= seen, "a reader went back in time"
        assert len(catalog.measurement_columns()["value"]) == len(names), "half a transaction"
        seen = len(names)
print(seen)
"""
    with Catalog.open(path) as catalog:
        readers = [start(reader, path) for _ in range(2)]
        written = 0
        while any(process.poll() is None for process in readers):
            with catalog.transaction():
                model = catalog.add_model(plain_model(f"m{written}")).record
                catalog.add_measurements([number(model.id, "params", written)])
            catalog.publish()
            written += 1
    for process in readers:
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert 0 <= int(out) <= written


def test_a_writer_may_open_while_readers_make_the_first_snapshot(path: Path) -> None:
    with Catalog.open(path) as catalog:
        catalog.add_models_bulk(plain_model(f"m{i}", version="1") for i in range(2000))
    for snapshot in path.with_name(path.name + ".d").joinpath("snapshots").iterdir():
        snapshot.unlink()
    readers = [start(NAMES, path) for _ in range(3)]
    for _ in range(10):
        with Catalog.open(path) as catalog:
            assert len(catalog.model_ids()) == 2000
    for process in readers:
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert len(out.split(",")) == 2000


def test_a_reader_makes_the_snapshot_a_killed_writer_did_not(path: Path) -> None:
    process = start(WRITER, path)
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.communicate()
    before = path.read_bytes(), path.with_name(path.name + ".wal").read_bytes()
    with Catalog.open(path, read_only=True) as reader:
        assert reader.model_names() == ["first"]
        assert reader.notice is None  # nobody writes: nothing newer can be known
    assert (path.read_bytes(), path.with_name(path.name + ".wal").read_bytes()) == before


def test_a_reader_that_can_write_nowhere_reads_the_file_itself(path: Path) -> None:
    with Catalog.open(path) as catalog:
        catalog.add_model(plain_model("a"))
    directory = path.with_name(path.name + ".d")
    directory.rename(directory.with_name("elsewhere"))
    directory.write_text("a file where the folder should be")
    with Catalog.open(path, read_only=True) as reader:
        assert reader.model_names() == ["a"]
        assert reader.notice is None


def test_a_snapshot_is_made_only_when_something_changed(path: Path) -> None:
    with Catalog.open(path) as catalog:
        assert not catalog.publish()
        catalog.add_model(plain_model("a"))
        with catalog.transaction():
            assert not catalog.publish()
        assert catalog.publish()
        assert not catalog.publish()
    (name,) = snapshots(path)
    with Catalog.open(path):
        pass
    assert snapshots(path) == [name]


def test_a_reader_never_sees_a_deleted_database_while_a_new_one_is_written(path: Path) -> None:
    with Catalog.open(path) as catalog:
        for name in "abc":
            catalog.add_model(plain_model(name))
    (old,) = path.with_name(path.name + ".d").joinpath("snapshots").iterdir()
    kept = old.read_bytes()
    path.unlink()
    opened = open_for_writing(path)  # a writer that has not published yet
    with pytest.raises(DatabaseLockedError):
        Catalog.open(path, read_only=True)
    opened.database.close()
    opened.release()
    old.write_bytes(kept)
    with Catalog.open(path) as catalog:
        catalog.add_model(plain_model("new"))
        with Catalog.open(path, read_only=True) as reader:
            assert reader.model_names() == []
        catalog.publish()
        with Catalog.open(path, read_only=True) as reader:
            assert reader.model_names() == ["new"]


def test_a_database_put_in_the_place_of_another_does_not_take_its_snapshot(path: Path) -> None:
    """Even where generation and modification time are the same."""
    other = path.with_name("other.sommelier")
    for file, name in ((path, "mine"), (other, "theirs")):
        with Catalog.open(file) as catalog:
            catalog.add_model(plain_model(name))
    times = path.stat().st_mtime_ns
    other.replace(path)
    os.utime(path, ns=(times, times))
    with Catalog.open(path), Catalog.open(path, read_only=True) as reader:
        assert reader.model_names() == ["theirs"]
    assert len(snapshots(path)) == 1


# ---- accidents


@pytest.mark.parametrize("rows", [1, 30_000])
def test_a_writer_killed_inside_a_transaction_leaves_what_was_committed(
    path: Path, rows: int
) -> None:
    """With 30 000 rows DuckDB has written part of the transaction to disk when it dies."""
    program = """
import os, signal, sys
from sommelier.storage.catalog import Catalog
from tests.storage.catalog_factories import number, plain_model
catalog = Catalog.open(sys.argv[1])
for i in range(20):
    with catalog.transaction():
        model = catalog.add_model(plain_model(f"m{i}")).record
        catalog.add_measurements([number(model.id, "params", i)])
with catalog.transaction():
    catalog.add_models_bulk(
        plain_model(f"half{i}", version="1", note="x" * 500) for i in range(int(sys.argv[2]))
    )
    catalog.drop_model(model.id)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    process = start(program, path, rows)
    _, err = process.communicate(timeout=120)
    assert process.returncode == -9, err
    with Catalog.open(path) as catalog:
        assert sorted(catalog.model_names()) == sorted(f"m{i}" for i in range(20))
        assert sorted(catalog.measurement_columns()["value"].tolist()) == list(range(20))
        assert catalog.generation == 21  # the tables, then twenty models
        catalog.add_model(plain_model("after"))
    with Catalog.open(path, read_only=True) as reader:
        assert len(reader.model_names()) == 21


def test_a_full_disk_is_said_and_what_was_committed_stays(path: Path) -> None:
    """Files may not grow beyond 8 MB in that process, as if the disk were full."""
    program = """
import resource, sys
from sommelier.errors import StorageError
from sommelier.storage.catalog import Catalog
from tests.storage.catalog_factories import plain_model
catalog = Catalog.open(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (8_000_000, 8_000_000))
catalog.add_model(plain_model("kept"))
try:
    for i in range(50):
        catalog.add_models_bulk(
            plain_model(f"{i}-{j}", version="1", note=f"{i} {j} " + hex(hash((i, j))) * 20)
            for j in range(2000)
        )
        print(len(catalog.model_ids()), flush=True)
except StorageError as error:
    print(error.message)
try:
    catalog.close()
except StorageError as error:
    print("close:", error.message)
"""
    *counts, message = run(program, path).splitlines()
    assert "could not add models: the disk is full or a file may not grow" in message
    with Catalog.open(path) as catalog:
        assert len(catalog.model_ids()) == int(counts[-1] if counts else 1)
        assert catalog.resolve("kept").name == "kept"
