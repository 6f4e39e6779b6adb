"""A model file becomes a record, or a sentence that says why not; it is never executed."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from sommelier.analysis.declared_facts import parse_labels
from sommelier.analysis.inspection import Inspector, inspect, inspect_artifact, inspect_declared
from sommelier.records import (
    Artifact,
    Measurement,
    OutputKind,
    Preprocessing,
    Provenance,
    TensorSpec,
)
from tests import factories as make

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def edited(path: Path, change: Callable[[ModelProto], object]) -> Path:
    model = onnx.load(str(path), load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def test_a_classifier_becomes_a_record_with_costs(tmp_path: Path) -> None:
    found = inspect(make.tiny_classifier(tmp_path / "tiny.onnx", features=4, classes=3))
    record = found.record
    assert (record.name, record.version, record.format, record.opset) == ("tiny", "1", "onnx", 17)
    assert record.inputs == (TensorSpec("x", "float32", ("N", 4)),)
    assert record.outputs == (TensorSpec("scores", "float32", ("N", 3)),)
    assert (record.output_kind, record.output_kind_inferred) == (OutputKind.CLASSIFICATION, True)
    assert record.producer == "tests"
    assert record.id.startswith("sha256:")
    assert all((record.graph_hash, record.weight_hash, record.minhash))
    assert record.note is None
    values = {m.metric: (m.value, m.provenance.value, m.method) for m in found.measurements}
    assert values == {
        "params": (15, "measured", "graph"),
        "size": (60, "measured", "graph"),
        "flops": (24, "measured", "graph"),
        "layers": (1, "measured", "graph"),
        "activation_memory": (28, "estimated", "liveness"),
        "memory": (88, "estimated", "liveness"),
    }
    assert all(m.model_id == record.id for m in found.measurements)
    assert found.profile is not None
    assert len(np.frombuffer(found.profile.vector)) == 48


def test_the_sandbox_answers_the_same(tmp_path: Path) -> None:
    path = make.tiny_classifier(tmp_path / "m.onnx", labels=["a", "b", "c"])
    artifact = Artifact("m", None, "folder", str(path), path)
    with Inspector() as inspector:
        inside = inspector.inspect(artifact)
    outside = inspect_artifact(artifact)
    assert inside.record == outside.record
    assert inside.label_space == outside.label_space
    assert inside.profile == outside.profile
    assert pickle.loads(pickle.dumps(inside)) == inside


def test_declared_facts_win_over_inferred_ones(tmp_path: Path) -> None:
    declared = {
        "name": "pose", "version": "7", "source": "wheel", "revision": "p==7:m.onnx",
        "task": "head-pose", "family": "fsanet", "license": "MIT", "tags": ["small", "cpu", "cpu"],
        "output_kind": "regression", "producer": "me", "created": "2024-05-06", "note": "by hand",
        "homepage": "https://example.org/pose",
        "preprocessing": [["to_float", {}], ["normalize", {"mean": [0.5], "std": [0.2]}]],
    }  # fmt: skip
    record = inspect(make.tiny_classifier(tmp_path / "m.onnx"), declared).record
    assert (record.name, record.version, record.source) == ("pose", "7", "wheel")
    assert (record.task, record.family, record.license) == ("head-pose", "fsanet", "MIT")
    assert record.tags == ("small", "cpu")
    assert (record.output_kind, record.output_kind_inferred) == (OutputKind.REGRESSION, False)
    assert record.created == datetime(2024, 5, 6, tzinfo=UTC)
    assert (record.note, record.homepage) == ("by hand", "https://example.org/pose")
    assert record.preprocessing == Preprocessing(
        (("to_float", {}), ("normalize", {"mean": [0.5], "std": [0.2]}))
    )


KINDS = [
    (make.tiny_classifier, OutputKind.CLASSIFICATION),
    (make.constant_node_model, OutputKind.CLASSIFICATION),
    (make.class_id_model, OutputKind.CLASS_IDS),
    (make.embedding_model, OutputKind.EMBEDDING),
    (make.regression_model, OutputKind.REGRESSION),
    (make.detection_model, OutputKind.DETECTION),
    (make.sequence_model, OutputKind.SEQUENCE),
    (make.recurrent_state_model, OutputKind.REGRESSION),
    (make.string_model, OutputKind.CLASS_IDS),
]


@pytest.mark.parametrize(("factory", "kind"), KINDS)
def test_output_kinds_are_inferred(
    tmp_path: Path, factory: Callable[[Path], Path], kind: OutputKind
) -> None:
    assert inspect(factory(tmp_path / "m.onnx")).record.output_kind is kind


def test_a_task_decides_between_equal_shapes(tmp_path: Path) -> None:
    path = make.tiny_classifier(tmp_path / "m.onnx")
    kinds = {
        task: inspect(path, {"task": task}).record.output_kind
        for task in ("image-classification", "age-regression", "sentence-embedding")
    }
    assert list(kinds.values()) == [
        OutputKind.CLASSIFICATION,
        OutputKind.REGRESSION,
        OutputKind.EMBEDDING,
    ]


def test_labels_come_from_the_card_then_from_the_file(tmp_path: Path) -> None:
    path = make.tiny_classifier(tmp_path / "m.onnx", labels=["cat", "dog", "owl"])
    noted = inspect(path).label_space
    declared = inspect(path, {"labels": ("x", "y", "z"), "label_space": "xyz"})
    assert noted is not None
    assert noted.labels == ("cat", "dog", "owl")
    assert declared.label_space is not None
    assert (declared.label_space.name, declared.label_space.labels) == ("xyz", ("x", "y", "z"))
    assert declared.record.label_space_id == declared.label_space.id != noted.id


def test_labels_that_do_not_fit_the_output_are_left_out_with_a_note(tmp_path: Path) -> None:
    found = inspect(make.tiny_classifier(tmp_path / "m.onnx"), {"labels": ("x", "y")})
    assert found.label_space is None
    assert "its 2 declared labels do not fit its output scores:float32[N,3]" in str(
        found.record.note
    )


LABELS = [
    ('["a", "b"]', ("a", "b")),
    ('{"0": "a", "1": "b"}', ("a", "b")),
    ('{"a": 1, "b": 0}', ("b", "a")),
    ("{0: 'a', 1: 'b'}", ("a", "b")),
    ("a\nb\n", ("a", "b")),
    ('{"0": "a", "2": "b"}', None),
    ("just one word", None),
    ("[" * 5000, None),
]


@pytest.mark.parametrize(("text", "expected"), LABELS)
def test_labels_are_read_as_people_write_them(text: str, expected: object) -> None:
    assert parse_labels(text) == expected


def test_a_scikit_learn_classifier_brings_its_labels_and_parameters(tmp_path: Path) -> None:
    node = helper.make_node(
        "LinearClassifier", ["x"], ["label", "scores"], domain="ai.onnx.ml",
        coefficients=[1.0] * 8, intercepts=[0.0, 0.0], classlabels_strings=["no", "yes"],
    )  # fmt: skip
    path = make.save_model(
        tmp_path / "m.onnx",
        [node],
        {"x": (FLOAT, ["N", 4])},
        {"label": (TensorProto.STRING, ["N"]), "scores": (FLOAT, ["N", 2])},
        opsets={"": 17, "ai.onnx.ml": 3},
    )
    found = inspect(path)
    assert found.record.output_kind is OutputKind.CLASSIFICATION
    assert found.label_space is not None
    assert found.label_space.labels == ("no", "yes")
    values = {m.metric: m.value for m in found.measurements}
    assert (values["params"], values["flops"]) == (10, 16)


def test_assumed_lengths_are_told(tmp_path: Path) -> None:
    found = inspect(make.sequence_model(tmp_path / "m.onnx"))
    assert "costs are for T = 128, which nobody stated" in str(found.record.note)
    flops = next(m for m in found.measurements if m.metric == "flops")
    assert flops.provenance is Provenance.ESTIMATED


def test_what_is_unknown_has_no_number_and_a_note(tmp_path: Path) -> None:
    found = inspect(make.loop_model(tmp_path / "m.onnx", trips=None))
    assert "flops" not in {m.metric for m in found.measurements}
    assert "unknown flops: MatMul is in a Loop of unknown length" in str(found.record.note)
    assert found.profile is None


def test_no_opset_import_means_version_one(tmp_path: Path) -> None:
    path = edited(make.tiny_classifier(tmp_path / "m.onnx"), lambda m: m.ClearField("opset_import"))
    record = inspect(path).record
    assert record.opset == 1
    assert "it imports no opset, which means opset 1" in str(record.note)


def test_inputs_without_types_are_described_as_unknown(tmp_path: Path) -> None:
    def forget(model: ModelProto) -> None:
        for value in (*model.graph.input, *model.graph.output):
            value.ClearField("type")

    record = inspect(edited(make.tiny_classifier(tmp_path / "m.onnx"), forget)).record
    assert record.inputs == (TensorSpec("x", "unknown", None),)
    assert record.output_kind is OutputKind.UNKNOWN


ODD_NAMES = ['{"name": "scores", "shape": [1, 3]}', "serving:0", "a/b/c;d", "ein\nname", "名前"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_may_be_an_inputs_or_outputs(tmp_path: Path, name: str) -> None:
    path = make.save_model(
        tmp_path / "m.onnx",
        [helper.make_node("Relu", [f"in {name}"], [name])],
        {f"in {name}": (FLOAT, ["N", 3])},
        {name: (FLOAT, ["N", 3])},
    )
    record = inspect(path).record
    assert (record.inputs[0].name, record.outputs[0].name) == (f"in {name}", name)


def test_wide_outputs_of_every_type_are_described(tmp_path: Path) -> None:
    outputs = {
        "i64": (INT64, ["N", 2]), "f64": (TensorProto.DOUBLE, ["N", 2]),
        "u8": (TensorProto.UINT8, ["N", 2]), "f16": (TensorProto.FLOAT16, ["N", 2]),
        "yes": (TensorProto.BOOL, ["N", 2]),
    }  # fmt: skip
    nodes = [helper.make_node("Cast", ["x"], [n], to=t) for n, (t, _) in outputs.items()]
    path = make.save_model(tmp_path / "m.onnx", nodes, {"x": (FLOAT, ["N", 2])}, outputs)
    assert [o.dtype for o in inspect(path).record.outputs] == [
        "int64", "float64", "uint8", "float16", "bool",
    ]  # fmt: skip


def test_equal_bytes_have_one_id_and_other_bytes_another(tmp_path: Path) -> None:
    a = inspect(make.tiny_classifier(tmp_path / "a.onnx", seed=1)).record
    b = inspect(make.tiny_classifier(tmp_path / "b.onnx", seed=1)).record
    c = inspect(make.tiny_classifier(tmp_path / "c.onnx", seed=2)).record
    assert a.id == b.id != c.id
    assert a.graph_hash == c.graph_hash
    assert a.weight_hash != c.weight_hash


def declared_artifact(**changes: object) -> Artifact:
    declared = {"task": "image-classification", "license": "apache-2.0", "tags": "a,b", **changes}
    number = Measurement("", "accuracy", 0.81, Provenance.DECLARED, "results-imagenet.csv",
                         dataset="imagenet")  # fmt: skip
    return Artifact("resnet50", None, "table", "row 3", None, declared, (number,))


def test_declared_rows_become_records_without_files() -> None:
    found = inspect_declared(declared_artifact())
    assert (found.record.name, found.record.format) == ("resnet50", None)
    assert found.record.tags == ("a", "b")
    assert found.profile is None
    assert [(m.model_id, m.value) for m in found.measurements] == [(found.record.id, 0.81)]
    with Inspector() as inspector:
        assert inspector.inspect(declared_artifact()).record == found.record


def test_a_declared_row_is_the_same_model_whatever_is_said_of_it() -> None:
    ids = {inspect_declared(declared_artifact(task=t)).record.id for t in ("a", "a", "b")}
    assert len(ids) == 1
    other = inspect_declared(replace(declared_artifact(task="a"), name="another")).record.id
    assert other not in ids


def test_declared_numbers_stand_beside_counted_ones(tmp_path: Path) -> None:
    path = make.tiny_classifier(tmp_path / "m.onnx")
    stated = Measurement("", "params", 999.0, Provenance.DECLARED, "card")
    found = inspect_artifact(Artifact("m", "2", "folder", "r", path, {}, (stated,)))
    params = {m.provenance: m.value for m in found.measurements if m.metric == "params"}
    assert params == {Provenance.MEASURED: 15.0, Provenance.DECLARED: 999.0}
    assert {m.model_id for m in found.measurements} == {found.record.id}
    assert json.dumps([m.metric for m in found.measurements])
