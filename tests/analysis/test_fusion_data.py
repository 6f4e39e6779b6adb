"""Which models can be fused and on which data: inputs, and labels in each model's own classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import sommelier as sm
from sommelier.analysis.fusion.blocks import linearised_together
from sommelier.analysis.fusion_data import DataOptions, check_models, fusion_data, task_names
from sommelier.analysis.fusion_lessons import dims_of, inputs_of, lessons_of
from sommelier.errors import AnalysisError, DatasetError, UnknownNameError
from sommelier.records import ModelRecord, TensorSpec
from tests.factories import tiny_classifier
from tests.fusion_models import CLASSES, write_nets, write_samples

SAMPLES = 300
NAMES = ("digit_net", "speaker_net", "accent_net")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "nets").mkdir()
    write_nets(folder / "nets")
    labels = write_samples(folder / "samples.npz", samples=SAMPLES)
    with np.load(folder / "samples.npz") as stored:
        x = stored["x"]
    # the speakers of half of the samples, in another order, told by ids
    rows = np.random.default_rng(0).permutation(SAMPLES)[: SAMPLES // 2]
    np.savez(folder / "half.npz", x=x[rows], y=labels["speaker"][rows], id=rows)
    np.savez(folder / "with_ids.npz", x=x, y=labels["digit"], id=np.arange(SAMPLES))
    shuffled = (labels["digit"] + 1) % 10  # labels of ten classes that are others
    np.savez(folder / "others.npz", x=x, y=shuffled)
    return folder


@pytest.fixture(scope="module")
def db(folder: Path) -> Iterator[sm.Connection]:
    with sm.connect(folder / "models.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM folder '{folder / 'nets'}'")
        for task in CLASSES:
            db.register_dataset(f"{task}s", folder / "samples.npz", x="x", y=task)
        db.register_dataset("half", folder / "half.npz", id="id")
        db.register_dataset("with_ids", folder / "with_ids.npz", id="id")
        db.register_dataset("others", folder / "others.npz")
        yield db


def models(db: sm.Connection, *names: str) -> list[ModelRecord]:
    return [db.catalog.resolve(name) for name in names or NAMES]


def truth(folder: Path, task: str) -> np.ndarray:
    with np.load(folder / "samples.npz") as stored:
        return np.asarray(stored[task])


def record(name: str, *inputs: TensorSpec) -> ModelRecord:
    return ModelRecord(id=f"sha256:{name}", name=name, version="1", source="folder",
                       inputs=inputs, artifact=name)  # fmt: skip


def image(*shape: int | str, name: str = "x", dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, dtype, shape)


# ---- models


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([image("n", 3, 8, 8)], [image(1, 3, 8, 8, name="data")]),
        ([image("n", "steps")], [image("batch", 16)]),
        ([image("n", 4), image("n", 2, name="m")], [image("n", 2, name="m"), image("n", 4)]),
    ],
)
def test_inputs_of_one_shape_can_be_shared(
    ours: list[TensorSpec], theirs: list[TensorSpec]
) -> None:
    check_models([record("a", *ours), record("b", *theirs)])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([image("n", 3, 8, 8)], [image("n", 1, 8, 8)]),
        ([image("n", 3, 8, 8)], [image("n", 3, 64)]),
        ([image("n", 4)], [image("n", 4, dtype="int64")]),
        ([image("n", 4)], [image("n", 4), image("n", 2, name="mask")]),
    ],
)
def test_the_two_models_whose_inputs_differ_are_named(
    ours: list[TensorSpec], theirs: list[TensorSpec]
) -> None:
    same = record("a", *ours)
    with pytest.raises(AnalysisError, match=r"^odd takes .*, and a takes"):
        check_models([same, replace(same, id="sha256:same"), record("odd", *theirs)])


def test_versions_of_one_name_are_told_apart() -> None:
    first, other = record("net", image("n", 4)), record("other", image("n", 4))
    second = replace(first, id="sha256:2", version="2")
    assert task_names([first, second, other]) == ("net@1", "net@2", "other")


# ---- labels


def test_labels_of_the_inputs_are_used_where_they_are_of_a_models_classes(
    db: sm.Connection, folder: Path
) -> None:
    found = fusion_data(db.catalog, models(db), DataOptions(dataset="digits"))
    digits, speakers, accents = found.labels
    assert digits is not None
    np.testing.assert_array_equal(digits.ids, truth(folder, "digit"))
    assert not digits.verified  # ten classes and ten labels without names
    assert speakers is None
    assert accents is None


def test_each_model_may_have_labels_of_its_own(db: sm.Connection, folder: Path) -> None:
    options = DataOptions(dataset="others", labels="digits, -, accents", samples=100, seed=1)
    found = fusion_data(db.catalog, models(db), options)
    assert found.probes is not None
    rows = found.probes.indices
    digits, speakers, accents = found.labels
    assert speakers is None
    for task, labels in (("digit", digits), ("accent", accents)):
        assert labels is not None
        np.testing.assert_array_equal(labels.ids, truth(folder, task)[rows])
        assert labels.verified
    assert any("by position" in note for note in found.notes)


def test_labels_are_aligned_by_ids_and_unknown_where_there_is_no_partner(
    db: sm.Connection, folder: Path
) -> None:
    options = DataOptions(dataset="with_ids", labels="-, half, -")
    labels = fusion_data(db.catalog, models(db), options).labels[1]
    assert labels is not None
    known = labels.ids >= 0
    assert known.sum() == SAMPLES // 2
    np.testing.assert_array_equal(labels.ids[known], truth(folder, "speaker")[known])


def test_named_classes_are_matched_by_name_not_by_place(tmp_path: Path) -> None:
    (tmp_path / "nets").mkdir()
    names = (("cat", "dog", "owl"), ("owl", "cat", "dog"))
    for i, labels in enumerate(names):
        tiny_classifier(tmp_path / "nets" / f"net_{i}.onnx", seed=i, labels=labels)
    y = np.array(["owl", "cat", "dog", "cat"] * 10)
    np.savez(tmp_path / "pets.npz", x=np.zeros((40, 4), np.float32), y=y)
    with sm.connect(tmp_path / "models.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM folder '{tmp_path / 'nets'}'")
        db.register_dataset("pets", tmp_path / "pets.npz")
        found = fusion_data(db.catalog, models(db, "net_0", "net_1"))
    for given, labels in zip(found.labels, names, strict=True):
        assert given is not None
        assert given.verified
        assert [labels[i] for i in given.ids] == y.tolist()


# ---- the dataset


def test_of_several_datasets_that_is_chosen_whose_labels_are_of_most_models(
    db: sm.Connection,
) -> None:
    found = fusion_data(db.catalog, models(db, "speaker_net", "accent_net"))
    assert found.dataset in ("speakers", "accents")
    assert found.samples == SAMPLES
    assert any("would fit too" in note for note in found.notes)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (DataOptions(dataset="nothing"), UnknownNameError, "nothing"),
        (DataOptions(dataset="digits", samples=SAMPLES + 1), DatasetError, "301"),
        (DataOptions(dataset="digits", labels="digits"), AnalysisError, "1 datasets for 3 models"),
        (DataOptions(dataset="digits", labels="speakers, -, -"), AnalysisError, "10 classes"),
        (DataOptions(dataset="digits", labels="half, -, -"), AnalysisError, "classes"),
        (DataOptions(dataset="digits", labels="-, half, -"), DatasetError, "belong together"),
    ],
)
def test_data_that_do_not_fit_are_refused(
    db: sm.Connection, options: DataOptions, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fusion_data(db.catalog, models(db), options)


# ---- lessons


def test_lessons_hold_what_the_models_answer_and_the_labels(
    db: sm.Connection, folder: Path
) -> None:
    options = DataOptions(dataset="digits", labels="digits, speakers, -")
    data = fusion_data(db.catalog, models(db), options)
    blocks = linearised_together(data.files, dims=dims_of(data, inputs_of(data, 1)))
    taught = lessons_of(data, blocks, seed=0)
    assert taught.names == tuple(f"{name}/scores" for name in NAMES)
    assert taught.owners == (0, 1, 2)
    assert [f.width for f in taught.lessons.formats] == [10, 6, 4]
    right = taught.lessons.answers[1].argmax(axis=1) == truth(folder, "speaker")
    assert right.mean() > 0.95
    assert [given is None for given in taught.lessons.truths] == [False, False, True]


def test_labels_without_names_that_a_model_does_not_answer_are_not_its_own(
    db: sm.Connection,
) -> None:
    data = fusion_data(db.catalog, models(db), DataOptions(dataset="others"))
    assert data.labels[0] is not None  # ten classes, as digit_net has
    taught = lessons_of(data, linearised_together(data.files), seed=0)
    assert taught.lessons.truths == (None, None, None)
    assert "not taken for its own" in taught.notes[0]


@pytest.mark.parametrize(("known", "used"), [(3, False), (150, True)])
def test_labels_of_too_few_samples_to_choose_and_measure_by_are_left_out(
    db: sm.Connection, known: int, used: bool
) -> None:
    options = DataOptions(dataset="digits", labels="digits, -, -")
    data = fusion_data(db.catalog, models(db), options)
    (labels, *others) = data.labels
    assert labels is not None
    ids = np.where(np.arange(SAMPLES) < known, labels.ids, -1).astype(np.int32)
    data = replace(data, labels=(replace(labels, ids=ids), *others))
    taught = lessons_of(data, linearised_together(data.files), seed=0)
    assert (taught.lessons.truths[0] is not None) is used
    assert any("its measure is agreement" in note for note in taught.notes) is not used
