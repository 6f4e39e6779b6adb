"""Model files in a store: the same promises over a folder, fsspec's stores and a real server."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from sommelier.errors import RejectedModelError, StorageError
from sommelier.storage.artifact_places import place_of
from sommelier.storage.artifacts import ArtifactStore, fingerprint
from sommelier.storage.copying_out import copy_out
from sommelier.storage.shared_artifacts import SharedArtifacts

WEIGHTS = os.urandom(1 << 20) * 20  # more than one part of an upload
Machine = Callable[[str], ArtifactStore]


def opened(address: str, root: Path) -> SharedArtifacts:
    place = place_of(address)
    assert place is not None
    return SharedArtifacts(root, place)


@pytest.fixture(params=["folder", "memory", "file", "s3", "gs"])
def machine(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Machine:
    """`machine(name)` is the store as a machine of that name opens it, with a cache of its own.

    Of a folder there is one machine only.
    """
    if request.param == "folder":
        return lambda _: ArtifactStore(tmp_path / "artifacts")
    address = {
        "memory": f"memory://{os.urandom(6).hex()}",
        "file": f"file://{tmp_path}/shared",
    }.get(request.param) or request.getfixturevalue(request.param)

    def of(name: str) -> SharedArtifacts:
        monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path / f"cache of {name}"))
        store = opened(address, tmp_path / f"db of {name}")
        store.prepare()
        return store

    return of


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model with external data beside it and in a folder below."""
    folder = tmp_path / "zoo"
    (folder / "data").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"graph")
    (folder / "weights.bin").write_bytes(WEIGHTS)
    (folder / "data" / "more.bin").write_bytes(b"")
    return folder / "model.onnx"


def external(model: Path) -> list[Path]:
    return [model.parent / "weights.bin", model.parent / "data" / "more.bin"]


def objects(address: str) -> dict[str, object]:
    """What lies in a store, with the times it was written."""
    fs, root = fsspec.url_to_fs(address, skip_instance_cache=True, use_listings_cache=False)
    return {
        name.removeprefix(root.lstrip("/")): facts.get("LastModified") or facts.get("mtime")
        for name, facts in fs.find(root, detail=True).items()
    }


# ---- the promises


def test_what_one_machine_puts_another_has(machine: Machine, model: Path) -> None:
    key = machine("a").put(model, external=external(model))
    assert key == fingerprint([model, *external(model)])
    for name in ("a", "b"):
        there = machine(name)
        files = there.files(key)
        assert files[0] == there.path(key)
        assert files[0].read_bytes() == b"graph"
        assert (files[0].parent / "weights.bin").read_bytes() == WEIGHTS
        assert (files[0].parent / "data" / "more.bin").read_bytes() == b""
        there.verify(key)


def test_the_key_of_one_file_is_its_sha256(machine: Machine, model: Path) -> None:
    assert machine("a").put(model) == f"sha256:{hashlib.sha256(b'graph').hexdigest()}"


def test_a_kept_file_outlives_its_source(machine: Machine, model: Path) -> None:
    key = machine("a").put(model)
    model.unlink()
    assert machine("b").path(key).read_bytes() == b"graph"


def test_what_is_not_there_is_said(machine: Machine, tmp_path: Path) -> None:
    store = machine("a")
    with pytest.raises(StorageError, match="could not keep"):
        store.put(tmp_path / "none.onnx")
    with pytest.raises(StorageError, match="there is no model file 'sha256:0"):
        store.path("sha256:" + "0" * 64)
    for key in ("sha256:../../etc", "md5:1", "sha256:" + "../" * 21 + "x"):
        with pytest.raises(StorageError, match="is not the key"):
            store.path(key)


def test_a_file_outside_the_folder_or_named_like_the_manifest_is_refused(
    machine: Machine, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    with pytest.raises(RejectedModelError, match="outside the model's folder"):
        machine("a").put(model, external=[tmp_path / "secret"])
    (model.parent / "Manifest.JSON").write_bytes(b"{}")
    with pytest.raises(RejectedModelError, match="cannot be called"):
        machine("a").put(model, external=[model.parent / "Manifest.JSON"])


def test_a_model_left_in_place_is_used_there(machine: Machine, model: Path) -> None:
    store = machine("a")
    key = store.put(model, reference_in_place=True)
    assert store.path(key) == model
    assert store.is_in_place(key)
    model.unlink()
    with pytest.raises(StorageError, match="has gone"):
        store.path(key)


def test_what_was_left_in_place_may_be_kept_later(machine: Machine, model: Path) -> None:
    store = machine("a")
    key = store.put(model, reference_in_place=True)
    assert store.put(model) == key
    model.unlink()
    assert store.path(key).read_bytes() == b"graph"


def test_a_model_is_exported_from_a_store(machine: Machine, model: Path, tmp_path: Path) -> None:
    key = machine("a").put(model, external=external(model))
    written = copy_out(machine("b"), key, tmp_path / "out" / "exported.onnx")
    assert fingerprint(written) == key


def test_threads_may_ask_for_the_same_at_once(machine: Machine, model: Path) -> None:
    key, found = machine("a").put(model, external=external(model)), []
    store = machine("b")
    threads = [threading.Thread(target=lambda: found.append(store.path(key))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    store.verify(key)


# ---- what lies in a store


def test_a_second_upload_changes_nothing(s3: str, model: Path, tmp_path: Path) -> None:
    store = opened(s3, tmp_path / "db")
    store.prepare()
    store.put(model, external=external(model))
    before = objects(s3)
    assert len(before) == 5  # the mark, the manifest and three files
    store.prepare()
    store.put(model, external=external(model))
    assert objects(s3) == before


def test_a_file_that_changes_while_it_is_sent_is_not_kept(
    s3: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(s3, tmp_path / "db")
    from sommelier.storage import shared_artifacts

    monkeypatch.setattr(shared_artifacts, "digest_of", lambda _: "0" * 64)  # as it was before
    with pytest.raises(StorageError, match="changed while it was sent"):
        store.put(model)
    assert objects(s3) == {}


def test_a_store_of_a_newer_version_is_not_touched(machine: Machine, tmp_path: Path) -> None:
    store = machine("a")
    if not isinstance(store, SharedArtifacts):
        return
    store._store.write("sommelier-store.json", b'{"format": 2}')
    with pytest.raises(StorageError, match="has format 2, this version reads 1"):
        store.prepare()
    store._store.write("sommelier-store.json", b"[]")
    with pytest.raises(StorageError, match="is damaged"):
        store.prepare()
