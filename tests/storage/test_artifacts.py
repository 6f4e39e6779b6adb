"""Model files are kept whole, once, by their content."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sommelier.analysis.fingerprint import content_fingerprint
from sommelier.errors import RejectedModelError, StorageError
from sommelier.storage import artifacts
from sommelier.storage.artifacts import ArtifactStore, fingerprint
from tests.storage.catalog_factories import run


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model with external data beside it and in a folder below."""
    folder = tmp_path / "zoo"
    (folder / "data").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"graph")
    (folder / "weights.bin").write_bytes(b"w" * 3_000_000)
    (folder / "data" / "more.bin").write_bytes(b"more")
    return folder / "model.onnx"


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def later(path: Path, content: bytes) -> None:
    """Write a file a second after it was written last."""
    before = path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=(before + 10**9, before + 10**9))


def test_a_full_disk_is_answered_with_what_to_do(
    store: ArtifactStore, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(artifacts, "copied", full)
    with pytest.raises(StorageError, match="No space left") as failure:
        store.put(model)
    assert "free some room on the disk of the database" in str(failure.value.hint)


def test_the_key_of_one_file_is_its_sha256(store: ArtifactStore, model: Path) -> None:
    assert store.put(model) == f"sha256:{hashlib.sha256(b'graph').hexdigest()}"


def test_keys_are_the_fingerprints_the_analysis_computes(store: ArtifactStore, model: Path) -> None:
    external = [model.parent / "weights.bin", model.parent / "data" / "more.bin"]
    key = store.put(model, external=external)
    assert key == fingerprint([model, *external]) == content_fingerprint(model, external)
    assert key != fingerprint([model])


def test_external_data_lies_where_the_model_looks_for_it(store: ArtifactStore, model: Path) -> None:
    external = [model.parent / "weights.bin", model.parent / "data" / "more.bin"]
    kept = store.path(store.put(model, external=external))
    assert kept.read_bytes() == b"graph"
    assert (kept.parent / "weights.bin").read_bytes() == b"w" * 3_000_000
    assert (kept.parent / "data" / "more.bin").read_bytes() == b"more"


def test_the_same_bytes_are_kept_once(store: ArtifactStore, model: Path, tmp_path: Path) -> None:
    key = store.put(model)
    before = files(tmp_path / "artifacts")
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(b"graph")
    assert store.put(copy) == key
    assert files(tmp_path / "artifacts") == before


def test_a_kept_file_outlives_its_source(store: ArtifactStore, model: Path) -> None:
    key = store.put(model)
    model.unlink()
    store.verify(key)


def test_a_reference_is_not_copied_and_is_missed_when_it_goes(
    store: ArtifactStore, model: Path, tmp_path: Path
) -> None:
    key = store.put(model, external=[model.parent / "weights.bin"], reference_in_place=True)
    assert [name.rsplit("/")[-1] for name in files(tmp_path / "artifacts")] == ["manifest.json"]
    assert store.path(key) == model
    model.rename(model.with_name("moved.onnx"))
    with pytest.raises(StorageError, match="has gone"):
        store.path(key)
    moved = model.with_name("moved.onnx")
    store.put(moved, external=[model.parent / "weights.bin"])
    assert store.path(key).read_bytes() == b"graph"


def test_a_file_of_the_same_size_that_changed_in_place_is_noticed(
    store: ArtifactStore, model: Path
) -> None:
    key = store.put(model, reference_in_place=True)
    later(model, b"grief")
    with pytest.raises(StorageError, match=r"model\.onnx' has changed since it was imported"):
        store.path(key)
    with pytest.raises(StorageError, match="has changed since it was imported"):
        ArtifactStore(model.parents[1] / "artifacts").verify(key)
    later(model, b"longer than before")
    with pytest.raises(StorageError, match="has changed since it was imported"):
        store.path(key)


def test_of_several_files_the_one_that_changed_is_named(store: ArtifactStore, model: Path) -> None:
    weights = model.parent / "weights.bin"
    key = store.put(model, external=[weights], reference_in_place=True)
    later(weights, b"v" * 3_000_000)
    with pytest.raises(StorageError, match=r"weights\.bin' has changed"):
        store.path(key)


def test_a_touched_file_with_the_same_bytes_is_still_good(
    store: ArtifactStore, model: Path, tmp_path: Path
) -> None:
    key = store.put(model, reference_in_place=True)
    later(model, b"graph")
    assert store.path(key) == model
    assert store.path(key) == model
    store.put(model, reference_in_place=True)
    (manifest,) = (tmp_path / "artifacts").rglob("manifest.json")
    assert json.loads(manifest.read_text())["times"] == [model.stat().st_mtime_ns]


def test_a_reference_noted_without_times_is_read_again(
    store: ArtifactStore, model: Path, tmp_path: Path
) -> None:
    key = store.put(model, reference_in_place=True)
    (manifest,) = (tmp_path / "artifacts").rglob("manifest.json")
    fields = json.loads(manifest.read_text())
    del fields["times"]
    manifest.write_text(json.dumps(fields))
    assert store.path(key) == model
    model.write_bytes(b"grief")
    with pytest.raises(StorageError, match="has changed"):
        ArtifactStore(tmp_path / "artifacts").path(key)


KILLED_AT_A_RENAME = """
import os, sys
from pathlib import Path
from sommelier.storage.artifacts import ArtifactStore
left = int(sys.argv[3])
def watch(event, arguments):
    global left
    if event == "os.rename":
        left -= 1
        if left < 0:
            os._exit(0)
sys.addaudithook(watch)
model = Path(sys.argv[1])
ArtifactStore(Path(sys.argv[2])).put(model, external=[model.parent / "weights.bin"])
print("done")
"""


@pytest.mark.parametrize("damaged", [False, True])
def test_a_kill_while_an_artifact_is_replaced_never_loses_it(
    model: Path, tmp_path: Path, damaged: bool
) -> None:
    """The process dies before its 1st, 2nd, ... rename, until it comes through."""
    for renames in range(10):
        root = tmp_path / f"artifacts{renames}"
        store = ArtifactStore(root)
        key = store.put(model, external=[model.parent / "weights.bin"], reference_in_place=True)
        if damaged:
            store.put(model, external=[model.parent / "weights.bin"])
            store.path(key).write_bytes(b"")
        if run(KILLED_AT_A_RENAME, model, root, renames) == "done":
            break
        if not damaged:
            store.verify(key)
        assert store.sweep() == 1
        store.put(model, external=[model.parent / "weights.bin"])
        assert store.path(key).is_relative_to(root)
        store.verify(key)
    assert renames > 1
    store.verify(key)


def test_sweeping_leaves_what_is_whole(store: ArtifactStore, model: Path, tmp_path: Path) -> None:
    assert store.sweep() == 0
    key = store.put(model)
    (tmp_path / "artifacts" / ".incoming-1-abcd").mkdir()
    (tmp_path / "artifacts" / ".incoming-1-abcd" / "model.onnx").write_bytes(b"gr")
    assert store.sweep() == 1
    store.verify(key)
    assert len(files(tmp_path / "artifacts")) == 2


def test_a_place_to_work_in_goes_with_the_work_and_with_a_sweep_where_that_was_killed(
    store: ArtifactStore, tmp_path: Path
) -> None:
    with store.workplace() as folder:
        (folder / "half").write_bytes(b"gr")
    assert not folder.exists()
    program = (
        "import os, sys\nfrom pathlib import Path\n"
        "from sommelier.storage.artifacts import ArtifactStore\n"
        "with ArtifactStore(Path(sys.argv[1])).workplace() as folder:\n"
        "    (folder / 'half').write_bytes(b'gr')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    root = tmp_path / "artifacts"
    subprocess.run([sys.executable, "-c", program, str(root)], check=False)
    assert len(list(root.rglob("half"))) == 1
    assert store.sweep() == 1
    assert not list(root.rglob("half"))


def test_a_file_named_like_the_manifest_is_refused(store: ArtifactStore, model: Path) -> None:
    inside = model.parent / "manifest.json" / "weights"
    inside.parent.mkdir()
    for file in (model.parent / "Manifest.JSON", inside):
        file.write_bytes(b"weights")
        with pytest.raises(RejectedModelError, match=r"cannot be called manifest\.json"):
            store.put(model, external=[file])


def test_external_data_outside_the_folder_is_refused(
    store: ArtifactStore, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    for outside in (tmp_path / "secret", model.parent / ".." / "secret"):
        with pytest.raises(RejectedModelError, match="outside the model's folder"):
            store.put(model, external=[outside])


def test_what_is_not_there_is_said(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="could not keep"):
        store.put(tmp_path / "none.onnx")
    with pytest.raises(StorageError, match="there is no model file"):
        store.path("sha256:" + "0" * 64)
    for key in ("sha256:../../etc", "md5:1", "sha256:" + "../" * 21 + "x"):
        with pytest.raises(StorageError, match="is not the key"):
            store.path(key)


def test_a_full_disk_leaves_nothing_behind(model: Path, tmp_path: Path) -> None:
    """A file may not grow beyond 1 MB here, as if the disk were full."""
    program = """
import resource, sys
from pathlib import Path
from sommelier.errors import StorageError
from sommelier.storage.artifacts import ArtifactStore
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
model = Path(sys.argv[1])
try:
    ArtifactStore(Path(sys.argv[2])).put(model, external=[model.parent / "weights.bin"])
except StorageError as error:
    print(error.message)
"""
    answer = run(program, model, tmp_path / "artifacts")
    assert "File too large" in answer
    assert files(tmp_path / "artifacts") == []
