"""EXPORT MODEL: files outside the database, whole or not at all, that come back as they were."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import sommelier as sm
from sommelier.errors import BinderError, SommelierError, StorageError
from sommelier.storage import copying_out
from tests.asking import rows
from tests.factories import external_data_model, mlp_classifier

CARD = (
    '{"models": [{"match": "tiny", "task": "digit-classification", "family": "toy", "license":'
    ' "MIT", "tags": ["edge"], "labels": ["a", "b", "c"], "preprocessing": [["to_float", {}]]}]}'
)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sm.Connection]:
    source = tmp_path / "source"
    source.mkdir()
    mlp_classifier(source / "tiny.onnx")
    (source / "tiny.json").write_text(CARD)
    with sm.connect(tmp_path / "m.sommelier") as connection:
        connection.execute(f"IMPORT MODELS FROM folder '{source}'")
        yield connection


def test_an_exported_model_answers_as_the_one_in_the_database(
    db: sm.Connection, tmp_path: Path
) -> None:
    target = tmp_path / "out" / "mine.onnx"
    written = rows(db, f"EXPORT MODEL tiny TO '{target}'")
    assert written == [{"file": str(target), "size": target.stat().st_size}]
    inside = db.model("tiny").load()
    x = np.random.default_rng(0).normal(size=(4, inside.get_inputs()[0].shape[1])).astype("f4")
    feed = {inside.get_inputs()[0].name: x}
    outside = onnxruntime.InferenceSession(str(target))
    for one, other in zip(inside.run(None, feed), outside.run(None, feed), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_folder_takes_a_file_of_the_models_name(db: sm.Connection, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    assert db.model("tiny").export(tmp_path / "there") == [tmp_path / "there" / "tiny.onnx"]
    db.execute(f"EXPORT MODEL tiny TO '{tmp_path}/new/'")
    assert (tmp_path / "new" / "tiny.onnx").is_file()


@pytest.mark.parametrize("name", ["small", "small-0.2"])
def test_a_name_without_a_format_becomes_one_that_an_import_finds(
    db: sm.Connection, tmp_path: Path, name: str
) -> None:
    db.execute(f"EXPORT MODEL tiny TO '{tmp_path}/out/{name}' USING card = yes")
    assert (tmp_path / "out" / f"{name}.onnx").is_file()
    with sm.connect(tmp_path / "other.sommelier") as other:
        other.execute(f"IMPORT MODELS FROM folder '{tmp_path}/out'")
        (found,) = other.catalog.models()
        assert (found.name, found.family) == (name, "toy")


def test_a_card_brings_back_what_was_known(db: sm.Connection, tmp_path: Path) -> None:
    db.execute("ALTER MODEL tiny SET homepage = 'https://example.org/tiny'")
    db.execute(f"EXPORT MODEL tiny TO '{tmp_path}/out/' USING card = yes")
    with sm.connect(tmp_path / "other.sommelier") as other:
        other.execute(f"IMPORT MODELS FROM folder '{tmp_path}/out'")
        ours, theirs = db.model("tiny").record, other.model("tiny").record
        assert (theirs.task, theirs.family, theirs.license) == (
            "digit-classification",
            "toy",
            "MIT",
        )
        assert (theirs.id, theirs.tags) == (ours.id, ("edge",))
        assert theirs.homepage == "https://example.org/tiny"
        assert theirs.label_space_id == ours.label_space_id
        assert theirs.preprocessing == ours.preprocessing


def test_weights_beside_a_model_go_with_it(db: sm.Connection, tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    path = external_data_model(tmp_path / "big" / "model.onnx")
    db.execute(f"REGISTER MODEL big FROM '{path}'")
    written = db.model("big").export(tmp_path / "out" / "renamed.onnx")
    assert written[0].name == "renamed.onnx"
    assert {file.name for file in written[1:]} == {
        file.name for file in path.parent.iterdir() if file != path
    }
    onnxruntime.InferenceSession(str(written[0]))


def test_nothing_is_overwritten_unless_that_is_said(db: sm.Connection, tmp_path: Path) -> None:
    target = tmp_path / "tiny.onnx"
    target.write_bytes(b"mine")
    with pytest.raises(StorageError, match="is there already") as failure:
        db.execute(f"EXPORT MODEL tiny TO '{target}'")
    assert "overwrite = yes" in str(failure.value.hint)
    assert target.read_bytes() == b"mine"
    db.execute(f"EXPORT MODEL tiny TO '{target}' USING overwrite = yes")
    onnxruntime.InferenceSession(str(target))


def test_a_disk_that_refuses_leaves_nothing_behind(
    db: sm.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(copying_out, "copied", full)
    with pytest.raises(StorageError, match="No space left on device"):
        db.model("tiny").export(tmp_path / "out" / "tiny.onnx")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some room, or choose another place"),
        (errno.EACCES, "allow writing there, or choose another place"),
        (errno.ENAMETOOLONG, "choose another place"),
    ],
)
def test_what_to_do_depends_on_why_the_disk_refused(
    db: sm.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, advice: str
) -> None:
    def refuses(*_: object) -> str:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(copying_out, "copied", refuses)
    with pytest.raises(StorageError) as failure:
        db.model("tiny").export(tmp_path / "tiny.onnx")
    assert failure.value.hint == advice


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc here")
def test_a_folder_that_takes_no_files_is_told_of(db: sm.Connection) -> None:
    with pytest.raises(StorageError) as failure:
        db.execute("EXPORT MODEL tiny TO '/proc/tiny.onnx'")
    assert failure.value.hint == "no file can be made in '/proc': choose another place"


def test_a_damaged_copy_is_not_handed_out(db: sm.Connection, tmp_path: Path) -> None:
    inside = db.model("tiny").onnx_path
    content = bytearray(inside.read_bytes())
    content[len(content) // 2] ^= 1
    inside.write_bytes(bytes(content))
    with pytest.raises(StorageError, match="damaged"):
        db.model("tiny").export(tmp_path / "out" / "tiny.onnx")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_reader_exports_too(db: sm.Connection, tmp_path: Path) -> None:
    db.close()
    with sm.connect(tmp_path / "m.sommelier", read_only=True) as reader:
        reader.execute(f"EXPORT MODEL tiny TO '{tmp_path}/out/'")
    assert (tmp_path / "out" / "tiny.onnx").is_file()


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("EXPORT MODEL tinny TO 'x'", SommelierError, "no model 'tinny'"),
        ("EXPORT MODEL tiny TO 'x' USING overwite = yes", BinderError, "overwite"),
        ("EXPORT MODEL tiny TO '{inside}/x.onnx'", StorageError, "inside the database"),
        ("EXPORT MODEL row TO 'x'", SommelierError, "no model file"),
    ],
)
def test_a_mistake_says_what_is_wrong(
    db: sm.Connection, tmp_path: Path, text: str, kind: type[Exception], said: str
) -> None:
    (tmp_path / "rows.csv").write_text("model,param_count\nrow,5.0\n")
    db.execute(f"IMPORT MODELS FROM table '{tmp_path}/rows.csv'")
    with pytest.raises(kind, match=said):
        db.execute(text.replace("{inside}", str(db.catalog.directory)))


def test_the_open_database_is_not_written_over(db: sm.Connection, tmp_path: Path) -> None:
    before = (tmp_path / "m.sommelier").read_bytes()
    for name in ("m.sommelier", "m.sommelier.wal"):
        with pytest.raises(StorageError, match="is the database itself"):
            db.execute(f"EXPORT MODEL tiny TO '{tmp_path / name}' USING overwrite = yes")
    assert (tmp_path / "m.sommelier").read_bytes() == before
    assert not (tmp_path / "m.sommelier.wal").exists()


@pytest.mark.parametrize(("name", "target"), [("own.json", "own.onnx"), ("weights", "own.onnx")])
def test_nor_by_a_card_or_weights_beside_the_model(tmp_path: Path, name: str, target: str) -> None:
    (tmp_path / "big").mkdir()
    path = external_data_model(tmp_path / "big" / "model.onnx")
    (beside,) = (file for file in path.parent.iterdir() if file != path)
    file = tmp_path / (beside.name if name == "weights" else name)
    with sm.connect(file) as own:
        own.execute(f"REGISTER MODEL big FROM '{path}'")
        with pytest.raises(StorageError, match="is the database itself"):
            own.model("big").export(tmp_path / target, overwrite=True, card=True)
    assert not (tmp_path / target).exists()


def test_a_card_is_not_written_over_its_model(db: sm.Connection, tmp_path: Path) -> None:
    for name in ("x.json", "x.JSON"):
        with pytest.raises(StorageError, match="would be the card"):
            db.execute(f"EXPORT MODEL tiny TO '{tmp_path}/out/{name}' USING card = yes")
    assert not (tmp_path / "out").exists()


def test_a_card_that_cannot_be_written_leaves_nothing_behind(
    db: sm.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"EXPORT MODEL tiny TO '{tmp_path}/out/x.onnx' USING card = yes, overwrite = yes"
    (tmp_path / "out" / "x.json").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"x\.json' is a folder"):
        db.execute(text)
    (tmp_path / "out" / "x.json").rmdir()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(copying_out, "_write", full)
    with pytest.raises(StorageError, match="No space left on device"):
        db.execute(text)
    assert list((tmp_path / "out").iterdir()) == []


def test_two_exports_of_one_process_do_not_share_a_part(
    db: sm.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, copied = [], copying_out.copied

    def noted(source: Path, part: Path) -> str:
        parts.append(part)
        return copied(source, part)

    monkeypatch.setattr(copying_out, "copied", noted)
    for _ in range(2):
        db.model("tiny").export(tmp_path / "out" / "x.onnx", overwrite=True)
    assert len(set(parts)) == 2
