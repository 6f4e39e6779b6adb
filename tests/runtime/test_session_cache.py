"""A cached session is whole or not there, noticed when damaged, and never needed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sommelier.errors import WorkerCrashedError
from sommelier.runtime import session_cache, sessions
from sommelier.runtime.alignment import prepacked_offsets
from sommelier.runtime.predictor import open_predictor
from sommelier.runtime.preparation import Preparation, PreparationRequest, prepare
from sommelier.runtime.session_cache import MANIFEST, ServedModel, SessionCache
from sommelier.runtime.sessions import SessionSettings
from tests.factories import memory_hog_model, mlp_classifier

SETTINGS = SessionSettings(batch=1)
X = np.ones((1, 4), np.float32)


@pytest.fixture
def model(tmp_path: Path) -> ServedModel:
    return ServedModel.of_file(mlp_classifier(tmp_path / "m.onnx", hidden=(256, 256)))


def answer(cache: SessionCache, model: ServedModel) -> bytes:
    predictor = open_predictor(cache, model, SETTINGS)
    return predictor.run(predictor.check({"x": X}))["logits"].tobytes()


def entry(cache: SessionCache) -> Path:
    (manifest,) = cache.root.glob(f"*/*/{MANIFEST}")
    return manifest.parent


def inodes(cache: SessionCache) -> set[int]:
    return {file.stat().st_ino for file in cache.root.rglob("*.bin")}


def test_an_entry_is_made_once_and_found_by_another_cache(
    model: ServedModel, tmp_path: Path
) -> None:
    first = SessionCache(tmp_path / "c").prepare(model, SETTINGS)
    made = inodes(SessionCache(tmp_path / "c"))
    assert SessionCache(tmp_path / "c").find(model, SETTINGS) == first
    assert SessionCache(tmp_path / "c").prepare(model, SETTINGS) == first
    assert inodes(SessionCache(tmp_path / "c")) == made
    assert sorted(file.name for file in first.path.parent.iterdir()) == [
        MANIFEST, "prepacked.bin", "prepacked.onnx",
    ]  # fmt: skip


def flip_weights(folder: Path) -> None:
    file = folder / "prepacked.bin"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut_weights(folder: Path) -> None:
    file = folder / "prepacked.bin"
    file.write_bytes(file.read_bytes()[:-1])


def remove_weights(folder: Path) -> None:
    (folder / "prepacked.bin").unlink()


def garble_graph(folder: Path) -> None:
    file = folder / "prepacked.onnx"
    file.write_bytes(b"\0" * file.stat().st_size)


def garble_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("{")


def empty_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("[]")


def point_elsewhere(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["preparation"]["file"] = "../../../other.onnx"
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "same_process"),
    [
        (flip_weights, True), (flip_weights, False), (cut_weights, True), (remove_weights, True),
        (garble_graph, False), (garble_manifest, False), (empty_manifest, True),
        (point_elsewhere, False),
    ],
)  # fmt: skip
def test_damage_is_noticed_and_repaired(
    damage: Any, same_process: bool, model: ServedModel, tmp_path: Path
) -> None:
    cache = SessionCache(tmp_path / "c")
    wanted = answer(cache, model)
    damage(entry(cache))
    if not same_process:
        cache = SessionCache(tmp_path / "c")
    assert cache.find(model, SETTINGS) is None
    assert answer(cache, model) == wanted
    found = cache.find(model, SETTINGS)
    assert found is not None
    assert found.preparation.recipe == "prepacked"


def test_an_entry_that_verifies_but_does_not_load_is_made_again(
    model: ServedModel, tmp_path: Path
) -> None:
    """As after a change of ONNX Runtime that its version does not tell."""
    cache = SessionCache(tmp_path / "c")
    wanted = answer(cache, model)
    folder = entry(cache)
    garble_graph(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"]["prepacked.onnx"][1] = session_cache._digest(folder / "prepacked.onnx")
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert cache.find(model, SETTINGS) is not None
    assert answer(cache, model) == wanted


@pytest.mark.parametrize("changed", ["onnxruntime", "cpu"])
def test_another_runtime_or_cpu_has_entries_of_its_own(
    changed: str, model: ServedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = SessionCache(tmp_path / "c")
    first = cache.prepare(model, SETTINGS)
    other = {**sessions.environment(), changed: "another"}
    monkeypatch.setattr(session_cache, "environment", lambda: other)
    assert cache.find(model, SETTINGS) is None
    second = cache.prepare(model, SETTINGS)
    assert second.key != first.key
    assert len(list(cache.root.glob(f"*/*/{MANIFEST}"))) == 2


def test_settings_have_entries_of_their_own(model: ServedModel, tmp_path: Path) -> None:
    cache = SessionCache(tmp_path / "c")
    keys = {
        cache.prepare(model, settings).key
        for settings in (SETTINGS, SessionSettings(batch=2), SessionSettings(batch=1, threads=2))
    }
    assert len(keys) == 3


def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    models = [
        ServedModel.of_file(mlp_classifier(tmp_path / f"{i}.onnx", seed=i, hidden=(256, 256)))
        for i in range(3)
    ]
    size = SessionCache(tmp_path / "one").prepare(models[0], SETTINGS).path.parent
    one = sum(file.stat().st_size for file in size.iterdir())
    cache = SessionCache(tmp_path / "c", limit_bytes=int(2.5 * one))
    for index in (0, 1):
        cache.prepare(models[index], SETTINGS)
    os.utime(cache.prepare(models[1], SETTINGS).path.parent / MANIFEST, ns=(1, 1))
    cache.prepare(models[2], SETTINGS)
    assert [cache.find(m, SETTINGS) is not None for m in models] == [True, False, True]
    assert cache.size_bytes() <= cache.limit_bytes  # type: ignore[operator]  # it has one


def test_a_session_larger_than_the_cache_is_not_kept_but_remembered(
    model: ServedModel, tmp_path: Path
) -> None:
    small = SessionCache(tmp_path / "c", limit_bytes=100_000)
    found = small.prepare(model, SETTINGS)
    assert found.preparation.recipe == "plain"
    assert found.path == model.path
    assert "the cache holds 100 kB" in found.how
    assert small.find(model, SETTINGS) == found  # no sandbox at the next load
    assert SessionCache(tmp_path / "c", limit_bytes=10**8).find(model, SETTINGS) is None


def test_a_folder_that_cannot_be_written_costs_only_the_cache(
    model: ServedModel, tmp_path: Path
) -> None:
    (tmp_path / "c").write_text("a file where the folder should be")
    found = SessionCache(tmp_path / "c").prepare(model, SETTINGS)
    assert found.preparation.recipe == "plain"
    assert "the cache cannot be used" in found.how


def test_a_removed_entry_keeps_serving_where_it_is_loaded(
    model: ServedModel, tmp_path: Path
) -> None:
    cache = SessionCache(tmp_path / "c")
    predictor = open_predictor(cache, model, SETTINGS)
    feed = predictor.check({"x": X})
    before = predictor.run(feed)["logits"]
    assert cache.discard(predictor.prepared.key) > 256 * 256 * 4
    assert np.array_equal(predictor.run(feed)["logits"], before)
    assert cache.size_bytes() == 0


@pytest.mark.parametrize("width", [3, 17, 200, 509])
def test_kernels_find_their_weights_where_they_may_read_them(width: int, tmp_path: Path) -> None:
    """As ONNX Runtime 1.31.1 saves them, a run dies of SIGSEGV for most of these widths."""
    model = ServedModel.of_file(mlp_classifier(tmp_path / "m.onnx", hidden=(width, width)))
    found = SessionCache(tmp_path / "c").prepare(model, SETTINGS)
    assert found.how == "prepacked"
    offsets = prepacked_offsets(found.path)
    assert [offset % 64 for offset in offsets] == [0] * len(offsets)
    assert len(offsets) == 3 or width < 100  # small weights stay in the graph


def crashes_with_a_saved_session(request: PreparationRequest) -> Preparation:
    """Runs in the sandbox: a saved session of this model takes the process down."""
    if request.recipes:
        os.kill(os.getpid(), signal.SIGSEGV)
    return prepare(request)


def test_a_saved_session_that_crashes_is_not_used(
    model: ServedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_cache, "prepare", crashes_with_a_saved_session)
    cache = SessionCache(tmp_path / "c")
    found = cache.prepare(model, SETTINGS)
    assert found.how == (
        "plain (prepacked: the worker process died of SIGSEGV; "
        "external: the worker process died of SIGSEGV)"
    )
    assert cache.find(model, SETTINGS) == found


def test_a_model_that_needs_too_much_memory_is_refused_by_the_sandbox(tmp_path: Path) -> None:
    hog = ServedModel.of_file(memory_hog_model(tmp_path / "m.onnx"))
    cache = SessionCache(tmp_path / "c", memory_limit_bytes=2 * 10**9)
    with pytest.raises(WorkerCrashedError, match="m: needs more memory"):
        cache.prepare(hog, SETTINGS)
    assert list(cache.root.iterdir()) == []


PREPARE = """
import sys
from pathlib import Path
from sommelier.runtime.session_cache import ServedModel, SessionCache
from sommelier.runtime.sessions import SessionSettings
print("started", flush=True)
cache, path = SessionCache(Path(sys.argv[1])), Path(sys.argv[2])
print(cache.prepare(ServedModel.of_file(path), SessionSettings(batch=1)).how)
"""


def preparing(cache: Path, model: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PREPARE, str(cache), str(model)], stdout=subprocess.PIPE, text=True
    )


def test_two_processes_prepare_the_same_model_at_once(model: ServedModel, tmp_path: Path) -> None:
    both = [preparing(tmp_path / "c", model.path) for _ in range(2)]
    said = [process.communicate(timeout=60)[0].split() for process in both]
    assert said == [["started", "prepacked"]] * 2
    cache = SessionCache(tmp_path / "c")
    assert cache.find(model, SETTINGS) is not None
    assert [folder.name for folder in cache.root.iterdir()] == [entry(cache).parent.name]


@pytest.mark.parametrize("moment", range(3))
def test_a_kill_during_preparation_leaves_nothing_half_written(moment: int, tmp_path: Path) -> None:
    model = ServedModel.of_file(mlp_classifier(tmp_path / "m.onnx", hidden=(2048, 2048, 2048)))
    cache = SessionCache(tmp_path / "c")
    process = preparing(cache.root, model.path)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if len(list(cache.root.glob(".incoming-*/entry/*"))) > moment:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    found = cache.find(model, SETTINGS)  # whole, if it was done just before
    if found is None:
        assert not list(cache.root.glob(f"*/*/{MANIFEST}"))
    assert cache.prepare(model, SETTINGS).preparation.recipe == "prepacked"
    assert not list(cache.root.glob(".incoming-*"))  # what the kill left was swept
