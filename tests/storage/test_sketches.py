"""Sketches on disk: what is written is read back, and crashes leave no wrong answers."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

from sommelier.errors import AnalysisError, DatabaseCorruptError, UnknownNameError
from sommelier.records import OutputSketch
from sommelier.storage.label_translation import NO_ANSWER
from sommelier.storage.sketch_files import NO_ANSWER_16
from sommelier.storage.sketches import SketchStore
from tests.storage.index_factories import Shelf, add_models, probe_set, sketch

PROBES = probe_set("p", 4)


@pytest.fixture
def shelf(tmp_path: Path):
    shelf = Shelf(tmp_path)
    shelf.catalog.add_probe_set(PROBES)
    yield shelf
    shelf.catalog.close()


def folder(shelf: Shelf) -> Path:
    (path,) = shelf.catalog.directory.joinpath("sketches").iterdir()
    return path


@pytest.mark.parametrize(
    ("answers", "fields", "file"),
    [
        ([0, 1, -1, 65533], {"classes": 65534}, "answers.bin"),
        ([0, 1, -1, 2], {"classes": 65535}, "answers-u32.bin"),
        ([0, 70_000, -1, 2], {"classes": None}, "answers-u32.bin"),
        ([[0.5], [1.5], [np.nan], [2.5]], {}, "vectors-1.bin"),
        (np.eye(4, 3) * 1.0, {"exact": False}, "vectors-3-projected.bin"),
    ],
)
def test_a_sketch_is_read_back_as_it_was_written(shelf, answers, fields, file):
    (model_id,) = add_models(shelf.catalog, 1)
    written = sketch(model_id, PROBES, answers, label_space_id=None, failures=1, **fields)
    shelf.sketches.add(written)
    assert shelf.sketches.get(model_id, PROBES.id) == written
    assert (folder(shelf) / file).exists()


def test_label_answers_are_a_matrix_of_uint16(shelf):
    ids = add_models(shelf.catalog, 2)
    shelf.answer(ids, PROBES, [[0, 1, 2, 3], [3, -1, 1, 0]], classes=4)
    matrix = shelf.sketches.matrix(PROBES.id, "labels")
    assert matrix.dtype == np.uint16
    assert matrix.tolist() == [[0, 1, 2, 3], [3, NO_ANSWER_16, 1, 0]]
    assert shelf.sketches.model_ids(PROBES.id) == ids


def test_top_k_travels_with_its_sketch(shelf):
    ids = add_models(shelf.catalog, 2)
    shelf.sketches.add(sketch(ids[0], PROBES, [0, 1, 2, 3], classes=9))
    rng = np.random.default_rng(0)
    top_ids = rng.integers(0, 9, (4, 5)).astype(np.uint32)
    scores = rng.random((4, 5)).astype(np.float16)
    plain = sketch(ids[1], PROBES, top_ids[:, 0].astype(int), classes=9)
    fields = {name: getattr(plain, name) for name in plain.__slots__}
    written = OutputSketch(
        **{**fields, "topk_ids": top_ids.tobytes(), "topk_scores": scores.tobytes()}
    )
    shelf.sketches.add(written)
    assert shelf.sketches.get(ids[1], PROBES.id) == written
    assert shelf.sketches.get(ids[0], PROBES.id).topk_ids is None


def test_a_second_sketch_of_a_model_replaces_the_first(shelf):
    (model_id,) = add_models(shelf.catalog, 1)
    for answers in ([0, 0, 0, 0], [1, 1, 1, 1]):
        shelf.sketches.add(sketch(model_id, PROBES, answers, classes=2))
    found = np.frombuffer(shelf.sketches.get(model_id, PROBES.id).answers, np.uint32)
    assert found.tolist() == [1, 1, 1, 1]
    assert shelf.sketches.model_ids(PROBES.id) == [model_id]


@pytest.mark.parametrize("garbage", [b"\x01\x02\x03", b"\xee" * 8, b"\xee" * 13])
def test_what_a_crash_left_behind_is_never_read(shelf, garbage):
    ids = add_models(shelf.catalog, 3)
    shelf.sketches.add(sketch(ids[0], PROBES, [0, 1, 2, 3], classes=4))
    with (folder(shelf) / "answers.bin").open("ab") as stream:
        stream.write(garbage)  # a row of this probe set takes 8 bytes
    restarted = SketchStore(folder(shelf).parent, shelf.catalog)
    restarted.add(sketch(ids[1], PROBES, [3, 2, 1, 0], classes=4))
    restarted.add(sketch(ids[2], PROBES, [1, 1, 1, 1], classes=4))
    found = [np.frombuffer(restarted.get(i, PROBES.id).answers, np.uint32).tolist() for i in ids]
    assert found == [[0, 1, 2, 3], [3, 2, 1, 0], [1, 1, 1, 1]]
    assert (folder(shelf) / "answers.bin").stat().st_size % 8 == 0


def test_a_sketch_whose_catalog_row_was_rolled_back_is_not_there(shelf):
    ids = add_models(shelf.catalog, 2)
    with contextlib.suppress(KeyboardInterrupt), shelf.catalog.transaction():
        shelf.sketches.add(sketch(ids[0], PROBES, [0, 0, 0, 0], classes=2))
        raise KeyboardInterrupt
    with pytest.raises(UnknownNameError):
        shelf.sketches.get(ids[0], PROBES.id)
    shelf.sketches.add(sketch(ids[1], PROBES, [1, 0, 1, 0], classes=2))
    assert np.frombuffer(shelf.sketches.get(ids[1], PROBES.id).answers, np.uint32).tolist() == [
        1,
        0,
        1,
        0,
    ]


def test_a_shortened_file_is_reported_not_read(shelf):
    (model_id,) = add_models(shelf.catalog, 1)
    shelf.sketches.add(sketch(model_id, PROBES, [0, 1, 2, 3], classes=4))
    with (folder(shelf) / "answers.bin").open("r+b") as stream:
        stream.truncate(5)
    with pytest.raises(DatabaseCorruptError, match=r"answers\.bin holds 0 answers"):
        SketchStore(folder(shelf).parent, shelf.catalog).get(model_id, PROBES.id)


def test_a_shortened_file_takes_no_answers_that_would_pass_for_those_of_another_model(shelf):
    first, second, new = add_models(shelf.catalog, 3)
    for model_id in (first, second):
        shelf.sketches.add(sketch(model_id, PROBES, [0, 1, 2, 3], classes=4))
    path = folder(shelf) / "answers.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:12])
    restarted = SketchStore(folder(shelf).parent, shelf.catalog)
    with pytest.raises(DatabaseCorruptError, match=r"answers\.bin holds 1 answers.* number 2"):
        restarted.add(sketch(new, PROBES, [3, 3, 3, 3], classes=4))
    assert path.read_bytes() == whole[:12]
    path.write_bytes(whole)
    restarted.add(sketch(new, PROBES, [3, 3, 3, 3], classes=4))
    assert path.read_bytes()[: len(whole)] == whole


def test_shortened_top_k_files_are_refused_too(shelf):
    first, new = add_models(shelf.catalog, 2)
    top = {
        "topk_ids": np.zeros((4, 5), np.uint32).tobytes(),
        "topk_scores": np.zeros((4, 5), np.float16).tobytes(),
    }
    shelf.sketches.add(sketch(first, PROBES, [0, 1, 2, 3], classes=4, **top))
    (folder(shelf) / "topk-scores.bin").write_bytes(b"")
    with pytest.raises(DatabaseCorruptError, match=r"topk-scores\.bin holds 0 answers"):
        shelf.sketches.add(sketch(new, PROBES, [0, 1, 2, 3], classes=4, **top))


def test_a_sketch_of_the_wrong_length_is_refused(shelf):
    (model_id,) = add_models(shelf.catalog, 1)
    with pytest.raises(AnalysisError, match="4 samples"):
        shelf.sketches.add(sketch(model_id, PROBES, [0, 1, 2], classes=4))
    assert shelf.sketches.model_ids(PROBES.id) == []


def test_answers_to_an_unknown_probe_set_are_refused(shelf):
    (model_id,) = add_models(shelf.catalog, 1)
    with pytest.raises(UnknownNameError):
        shelf.sketches.add(sketch(model_id, probe_set("other", 4), [0, 1, 2, 3], classes=4))


def test_outputs_are_kept_at_full_precision_up_to_a_limit(shelf):
    (model_id,) = add_models(shelf.catalog, 1)
    outputs = {
        "file": np.linspace(0, 1, 7),
        "a/b:0": np.arange(6, dtype=np.float16).reshape(2, 3),
    }
    assert shelf.sketches.outputs(model_id, PROBES.id) is None
    assert not shelf.sketches.add_outputs(model_id, PROBES.id, outputs, limit_bytes=67)
    assert shelf.sketches.outputs(model_id, PROBES.id) is None
    assert shelf.sketches.add_outputs(model_id, PROBES.id, outputs, limit_bytes=68)
    found = shelf.sketches.outputs(model_id, PROBES.id)
    assert list(found) == list(outputs)
    for name, array in outputs.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)
    assert not list(folder(shelf).rglob("*.part"))


def test_a_hostile_probe_set_id_stays_inside_the_folder(shelf, tmp_path):
    hostile = probe_set("x", 1)
    hostile = type(hostile)(
        **{n: getattr(hostile, n) for n in hostile.__slots__} | {"id": "../../up"}
    )
    shelf.catalog.add_probe_set(hostile)
    (model_id,) = add_models(shelf.catalog, 1)
    shelf.sketches.add(sketch(model_id, hostile, [0], classes=1))
    (written,) = tmp_path.rglob("answers.bin")
    assert written.parent.parent.name == "sketches"


def test_no_answer_is_one_number_in_every_width():
    assert NO_ANSWER & 0xFFFF == NO_ANSWER_16
