"""A plan has one task for each thing to find out, under a key that says what decides it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sommelier.analysis.inspection import inspect_declared
from sommelier.analysis.jobs import AnalysisOptions, plan_analysis
from sommelier.analysis.labels import label_space
from sommelier.analysis.preprocessing import validated
from sommelier.errors import DatasetError, UnknownNameError
from sommelier.records import Artifact
from tests.analysis.rooms import add_dataset, add_model, open_rooms, plan
from tests.factories import conv_classifier, embedding_model, string_model, tiny_classifier

RNG = np.random.default_rng(0)


@pytest.fixture
def rooms(tmp_path):
    with open_rooms(tmp_path) as found:
        yield found


def points(rooms, tmp_path, name="points", classes=3, features=4, **options):
    x = RNG.normal(size=(60, features)).astype(np.float32)
    np.savez(tmp_path / f"{name}.npz", x=x, y=np.arange(60) % classes)
    return add_dataset(rooms, tmp_path / f"{name}.npz", name, **options)


def sketches(found, state="pending"):
    return [task for task in found.tasks if task.aspect == "sketch" and task.state == state]


def test_latency_comes_first_then_resources_then_answers(rooms, tmp_path):
    points(rooms, tmp_path)
    for seed in range(2):
        add_model(rooms, tiny_classifier(tmp_path / f"m{seed}.onnx", seed=seed))
    aspects = [task.aspect for task in plan(rooms).tasks]
    assert aspects == ["latency"] * 2 + ["resources"] * 2 + ["sketch"] * 2


def test_only_the_asked_aspects_are_planned(rooms, tmp_path):
    add_model(rooms, tiny_classifier(tmp_path / "m.onnx"))
    assert [task.aspect for task in plan(rooms, "latency").tasks] == ["latency"]


def test_equivalence_and_accuracy_share_one_pass_over_the_probes(rooms, tmp_path):
    points(rooms, tmp_path)
    add_model(rooms, tiny_classifier(tmp_path / "m.onnx"))
    both = plan(rooms, "equivalence", "accuracy")
    assert len(both.tasks) == 1
    assert both.tasks[0].key == plan(rooms, "accuracy").tasks[0].key


def test_equal_plans_have_equal_keys_and_what_decides_the_answers_changes_them(rooms, tmp_path):
    points(rooms, tmp_path)
    record = add_model(rooms, tiny_classifier(tmp_path / "m.onnx"))

    def key(**options):
        return plan(rooms, "equivalence", **options).tasks[0].key

    first = key()
    assert key() == first
    assert (
        len({first, key(samples=30), key(samples=30, seed=1), key(samples=30, sampling="first")})
        == 4
    )
    assert key(threads=2, workers=1) == first  # how it is run does not change what is found
    declared = replace(record, preprocessing=validated([("affine", {"scale": 2.0})]))
    rooms.catalog.update_model(declared)
    assert key() != first


def test_a_label_map_that_is_given_later_plans_the_accuracy_anew(rooms, tmp_path):
    dataset = points(rooms, tmp_path, labels=["a", "b", "c"])
    record = add_model(rooms, tiny_classifier(tmp_path / "m.onnx", labels=["x", "y", "z"]))
    before = plan(rooms, "equivalence", datasets=("points",)).tasks[0]
    rooms.catalog.add_label_map(record.label_space_id, dataset.label_space_id, {"x": "a"})
    after = plan(rooms, "equivalence", datasets=("points",)).tasks[0]
    assert before.key != after.key
    assert before.parameters["probe_set_id"] == after.parameters["probe_set_id"]
    assert sketches(plan(rooms, "equivalence"))  # and the dataset now fits by itself


def test_datasets_that_fit_are_found_and_others_left_out(rooms, tmp_path):
    points(rooms, tmp_path, "three")
    points(rooms, tmp_path, "wide", features=9)
    points(rooms, tmp_path, "seven", classes=7)
    add_model(rooms, tiny_classifier(tmp_path / "m.onnx"))
    found = plan(rooms, "equivalence")
    assert [probes.record.name for probes in found.probes.values()] == ["three"]


def test_classes_are_matched_by_name_where_names_are_known(rooms, tmp_path):
    points(rooms, tmp_path, labels=["cat", "dog", "bird"])
    add_model(rooms, tiny_classifier(tmp_path / "pets.onnx", labels=["bird", "cat", "dog"]))
    add_model(rooms, tiny_classifier(tmp_path / "cars.onnx", seed=1, labels=["bus", "car", "van"]))
    names = {
        rooms.catalog.model(task.model_id).name: found.probes[task.parameters["probe_set_id"]]
        for found in [plan(rooms, "equivalence")]
        for task in sketches(found)
    }
    assert not names["pets"].record.synthetic
    assert names["cars"].record.synthetic


def test_small_pictures_are_not_blown_up_unless_they_are_asked_for(rooms, tmp_path):
    np.savez(tmp_path / "d.npz", x=RNG.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8))
    add_dataset(rooms, tmp_path / "d.npz", "small")
    add_model(rooms, conv_classifier(tmp_path / "m.onnx", size=32))
    assert [p.record.synthetic for p in plan(rooms, "equivalence").probes.values()] == [True]
    models = rooms.catalog.models()
    options = AnalysisOptions(datasets=("small",))
    unnamed = plan_analysis(rooms.catalog, models, ["equivalence"], options, named=False)
    assert "resized by guess (ANALYZE m does it)" in sketches(unnamed, "skipped")[0].reason
    asked = plan_analysis(rooms.catalog, models, ["equivalence"], options, named=True)
    assert [p.record.name for p in asked.probes.values()] == ["small"]


def test_models_of_one_signature_share_synthetic_probes(rooms, tmp_path):
    for seed in range(2):
        add_model(rooms, embedding_model(tmp_path / f"m{seed}.onnx", seed=seed))
    add_model(rooms, embedding_model(tmp_path / "wide.onnx", features=9))
    found = plan(rooms, "equivalence", samples=16)
    names = sorted(probes.record.name for probes in found.probes.values())
    assert names == ["synthetic:float32[?,4]", "synthetic:float32[?,9]"]
    assert {probes.record.samples for probes in found.probes.values()} == {16}


def test_models_that_cannot_answer_are_skipped_with_a_reason(rooms, tmp_path):
    points(rooms, tmp_path)
    add_model(rooms, tiny_classifier(tmp_path / "wide.onnx", features=9))
    add_model(rooms, string_model(tmp_path / "text.onnx"))
    asked = sketches(plan(rooms, "equivalence", datasets=("points",)), "skipped")
    assert "items of shape [4] do not fit the input x:float32[N,9]" in asked[0].reason
    free = sketches(plan(rooms, "equivalence"), "skipped")
    assert [task.reason for task in free] == [
        "the model has no input that varies from sample to sample"
    ]
    labelled = sketches(plan(rooms, "accuracy"), "skipped")
    assert len(labelled) == 2  # synthetic probes have no labels


def test_accuracy_needs_labels(rooms, tmp_path):
    np.save(tmp_path / "x.npy", RNG.normal(size=(20, 4)).astype(np.float32))
    add_dataset(rooms, tmp_path / "x.npy", "bare")
    add_model(rooms, tiny_classifier(tmp_path / "m.onnx"))
    assert len(sketches(plan(rooms, "equivalence"))) == 1
    skipped = sketches(plan(rooms, "accuracy"), "skipped")
    assert skipped[0].reason == "bare: dataset 'bare' has no labels"


def test_metadata_rows_are_counted_not_planned(rooms, tmp_path):
    add_model(rooms, tiny_classifier(tmp_path / "m.onnx"))
    rooms.catalog.add_model(inspect_declared(Artifact("listed", None, "table", None, None)).record)
    found = plan(rooms, "latency")
    assert (len(found.tasks), found.without_file) == (1, 1)


def test_named_datasets_must_exist_be_unchanged_and_large_enough(rooms, tmp_path):
    points(rooms, tmp_path)
    add_model(rooms, tiny_classifier(tmp_path / "m.onnx"))
    with pytest.raises(UnknownNameError, match="pionts") as caught:
        plan(rooms, "equivalence", datasets=("pionts",))
    assert caught.value.suggestions == ("points",)
    with pytest.raises(DatasetError, match="'points' has 60 items, not 61"):
        plan(rooms, "equivalence", datasets=("points",), samples=61)
    np.savez(tmp_path / "points.npz", x=np.zeros((60, 4), np.float32), y=np.zeros(60, int))
    with pytest.raises(DatasetError, match="has changed since it was registered"):
        plan(rooms, "equivalence", datasets=("points",))


def test_label_spaces_of_equal_names_have_equal_ids_everywhere(rooms, tmp_path):
    dataset = points(rooms, tmp_path, labels=["a", "b", "c"])
    record = add_model(rooms, tiny_classifier(tmp_path / "m.onnx", labels=["a", "b", "c"]))
    assert record.label_space_id == dataset.label_space_id == label_space("", ["a", "b", "c"]).id
