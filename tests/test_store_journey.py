"""A database whose model files lie in a store: from the import to the answer, on two machines."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import sommelier as sm
from sommelier.errors import ReadOnlyError, StorageError
from sommelier.runtime.pool import ModelPool
from sommelier.runtime.session_cache import SessionCache
from sommelier.shell.serving_plan import Wanted, plan
from sommelier.storage.artifact_choice import keys_of
from tests.asking import rows
from tests.factories import external_data_model, mlp_classifier
from tests.object_server import BUCKET, ObjectServer
from tests.test_architecture import _loaded_modules

Machine = Callable[[str], None]


@pytest.fixture
def zoo_folder(tmp_path: Path) -> Path:
    """Two models, one with its weights in a file of their own."""
    return zoo_in(tmp_path / "source")


def zoo_in(folder: Path) -> Path:
    folder.mkdir()
    mlp_classifier(folder / "tiny.onnx")
    external_data_model(folder / "large.onnx")
    return folder


@pytest.fixture(scope="module")
def made(object_server: ObjectServer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(a database whose models are in a store and nowhere else, the store)"""
    folder = tmp_path_factory.mktemp("made")
    path, address = folder / "m.sommelier", f"s3://{BUCKET}/{os.urandom(6).hex()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOMMELIER_CACHE", str(folder / "cache"))
        for name, value in object_server.environment().items():
            patch.setenv(name, value)
        with sm.connect(path, artifacts=address) as db:
            db.execute(f"IMPORT MODELS FROM folder '{zoo_in(folder / 'source')}'")
    shutil.rmtree(folder / "source")
    return path, address


@pytest.fixture
def store(made: tuple[Path, str], s3: str) -> str:
    """Its address, with the environment that reaches it."""
    return made[1]


@pytest.fixture
def database(made: tuple[Path, str], store: str, tmp_path: Path) -> Path:
    """A copy of the database. Nothing was fetched yet."""
    shutil.copytree(made[0].parent, tmp_path / "own")
    return tmp_path / "own" / made[0].name


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """From now on it is another machine, with nothing fetched yet."""
    return lambda name: monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path / f"cache of {name}"))


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sommelier.shell.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def answers(model: sm.Model) -> np.ndarray:
    session = model.load()
    (given,) = session.get_inputs()
    shape = [size if isinstance(size, int) else 1 for size in given.shape]
    feed = np.random.default_rng(0).normal(size=shape).astype("f4")
    return np.asarray(session.run(None, {given.name: feed})[0])


# ---- the journey


def test_another_machine_finds_the_store_and_answers_the_same(
    database: Path, store: str, elsewhere: Machine, tmp_path: Path
) -> None:
    assert not list(Path(f"{database}.d").rglob("*.onnx")), "nothing lies beside the database"
    with sm.connect(database) as db:
        before = {name: answers(db.model(name)) for name in ("tiny", "large")}
    elsewhere("b")
    with sm.connect(database, read_only=True) as db:
        for name in ("tiny", "large"):
            np.testing.assert_array_equal(answers(db.model(name)), before[name])
            assert db.model(name).onnx_path.is_relative_to(tmp_path / "cache of b")
        assert rows(db, "SHOW SETTINGS LIKE 'artifacts'")[0]["value"] == store
    with sm.connect(database) as db:
        db.execute("ANALYZE ALL FOR RESOURCES")
        assert len(rows(db, "SELECT MODELS name ON memory < 1 GB")) == 2
        written = db.model("large").export(tmp_path / "out" / "large.onnx")
        assert len(written) == 2
        db.execute("DEPLOY MODELS tiny AS vision")
        running = db.deploy("vision")
        assert running.ready


def test_a_dropped_model_stays_in_the_store_for_others(
    database: Path, tmp_path: Path, elsewhere: Machine
) -> None:
    copy = tmp_path / "other.sommelier"
    shutil.copy(database, copy)
    with sm.connect(database) as db:
        db.execute("DROP MODEL tiny")
    elsewhere("b")
    with sm.connect(copy) as db:
        assert answers(db.model("tiny")).size


def test_what_is_analysed_is_not_kept_against_the_limit(
    database: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: Machine
) -> None:
    elsewhere("small")
    monkeypatch.setenv("SOMMELIER_ARTIFACT_CACHE", "1 B")
    with sm.connect(database) as db:
        db.execute("ANALYZE ALL FOR RESOURCES")
        db.artifacts.cache.make_room()
        assert db.artifacts.cache.size_bytes() == 0
        kept = db.model("tiny").onnx_path
        assert kept.exists()
        db.artifacts.cache.make_room()
        assert kept.exists(), "its path was handed out"
    assert "large" not in [file.stem for file in kept.parents[2].rglob("*.onnx")]


def test_what_is_served_stays_fetched_and_another_store_is_refused(
    database: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOMMELIER_ARTIFACT_CACHE", "1 B")
    with pytest.raises(StorageError, match="keeps 2 model files in"):
        plan(Wanted(str(database), None, ("tiny",), None, "s3://models/another"))
    (model,) = plan(Wanted(str(database), None, ("tiny",), None, store)).models
    with sm.connect(database) as db, ModelPool(SessionCache(database.parent / "sessions")) as pool:
        pool.add(model)  # planned in another process, which has ended
        db.model("large").onnx_path  # noqa: B018
        db.artifacts.cache.make_room()
        pool.load("tiny")
        assert model.path.exists()
        pool.remove("tiny")
        gc.collect()
        db.artifacts.cache.make_room()
        assert not model.path.exists()


# ---- which store


def test_the_store_of_a_database_is_not_changed_by_the_way(database: Path, store: str) -> None:
    with sm.connect(database, artifacts=f"{store}/") as db:
        assert db.artifacts.address == store
    with pytest.raises(StorageError, match="keeps 2 model files in 's3://") as failure:
        sm.connect(database, artifacts="s3://models/another")
    assert "--to s3://models/another" in str(failure.value.hint)
    with pytest.raises(StorageError, match="keeps 2 model files in"):
        sm.connect(database, artifacts="local", read_only=True)
    with sm.connect(database) as db:
        assert db.artifacts.address == store


def test_all_settings_reset_are_those_that_can_be_set(database: Path, store: str) -> None:
    with sm.connect(database) as db:
        db.execute("SET confidence = 0.9")
        db.execute("RESET ALL")
        assert db.catalog.settings() == {"artifacts": store}


def test_a_database_without_files_may_be_given_another_store(tmp_path: Path, s3: str) -> None:
    path = tmp_path / "m.sommelier"
    for address in (f"{s3}/a", f"{s3}/b", "local"):
        with sm.connect(path, artifacts=address):
            pass
        with sm.connect(path, read_only=True) as db:
            where = address if address != "local" else f"{path}.d/artifacts"
            assert db.artifacts.address == where
    with pytest.raises(ReadOnlyError, match="its store cannot be chosen"):
        sm.connect(path, artifacts=s3, read_only=True)


def test_a_store_that_cannot_be_used_is_not_kept(tmp_path: Path, s3: str) -> None:
    path = tmp_path / "m.sommelier"
    with pytest.raises(StorageError, match="there is no such bucket"):
        sm.connect(path, artifacts="s3://no-such-bucket/models")
    with pytest.raises(StorageError, match="can have no name, password"):
        sm.connect(path, artifacts="s3://key:secret@models")
    with sm.connect(path) as db:
        assert db.catalog.setting("artifacts") is None


def test_the_environment_names_the_store_of_new_databases_only(
    tmp_path: Path, zoo_folder: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sm.connect(tmp_path / "old.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM folder '{zoo_folder}'")
    monkeypatch.setenv("SOMMELIER_ARTIFACTS", s3)
    with sm.connect(tmp_path / "old.sommelier") as db:
        assert db.artifacts.address == f"{tmp_path}/old.sommelier.d/artifacts"
    with sm.connect(tmp_path / "new.sommelier") as db:
        assert db.artifacts.address == s3
    with sm.connect(":memory:") as db:
        assert db.artifacts.address == s3


def test_a_database_in_its_own_folder_loads_nothing_of_fsspec(
    tmp_path: Path, zoo_folder: Path
) -> None:
    path = tmp_path / "m.sommelier"
    with sm.connect(path) as db:
        db.execute(f"IMPORT MODELS FROM folder '{zoo_folder}'")
    program = (
        "import sommelier as sm\n"
        f"with sm.connect('{path}') as db:\n"
        "    db.query('SELECT MODELS').fetchall(); db.model('tiny').onnx_path"
    )
    loaded = _loaded_modules(program)
    assert "duckdb" in loaded
    assert not loaded & {"fsspec", "s3fs", "aiohttp", "botocore", "gcsfs"}


# ---- the command


def test_the_command_line_makes_asks_and_moves(
    tmp_path: Path, zoo_folder: Path, s3: str, elsewhere: Machine
) -> None:
    path = tmp_path / "m.sommelier"
    done = run(path, "--artifacts", s3, "-c", f"IMPORT MODELS FROM folder '{zoo_folder}'")
    assert done.returncode == 0, done.stderr
    done = run("artifacts", path)
    assert done.stdout.splitlines()[0] == f"2 model files in {s3}"
    assert "at most 50 GB" in done.stdout
    done = run(path, "--artifacts", f"{s3}/other", "-c", "SHOW MODELS")
    assert done.returncode == 2
    assert f"sommelier artifacts {path} --to {s3}/other" in done.stderr
    done = run("artifacts", path, "--to", f"{s3}/other")
    assert done.returncode == 0, done.stderr
    assert f"2 model files are in {s3}/other" in done.stdout
    elsewhere("b")
    with sm.connect(path, read_only=True) as db:
        assert db.artifacts.address == f"{s3}/other"
        assert answers(db.model("large")).size
    done = run("artifacts", path, "--to", "local")
    assert done.returncode == 0, done.stderr
    with sm.connect(path) as db:
        assert db.model("large").onnx_path.is_relative_to(f"{path}.d")


def test_a_move_from_the_own_folder_goes_on_where_it_was_cut_short(
    tmp_path: Path, zoo_folder: Path, s3: str, elsewhere: Machine
) -> None:
    path = tmp_path / "m.sommelier"
    with sm.connect(path) as db:
        db.execute(f"IMPORT MODELS FROM folder '{zoo_folder}/tiny.onnx'")
        db.execute(f"IMPORT MODELS FROM folder '{zoo_folder}/large.onnx' USING copy = no")
        assert len(keys_of(db.catalog)) == 2
        own = db.model("tiny").onnx_path
    whole = own.read_bytes()
    own.write_bytes(b"damaged")
    done = run("artifacts", path, "--to", s3)
    assert done.returncode == 1
    assert "has changed since it was imported" in done.stderr
    with sm.connect(path) as db:
        assert db.catalog.setting("artifacts") is None
    own.write_bytes(whole)
    done = run("artifacts", path, "--to", s3)
    assert done.returncode == 0, done.stderr
    assert "1 model files are in" in done.stdout
    assert "1 are used where they were" in done.stdout
    assert "may be removed" not in done.stdout, "it knows where the other one lies"
    with sm.connect(path) as db:
        assert answers(db.model("large")).size
        assert answers(db.model("tiny")).size
