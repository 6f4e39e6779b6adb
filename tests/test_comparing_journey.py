"""COMPARE, DIFF and SHOW DISAGREEMENTS on real files: what running two models side by side does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import sommelier as sm
from sommelier.engine.result import Report
from sommelier.errors import AnalysisError, BinderError
from tests.factories import mlp_classifier

FEATURES, CLASSES, SAMPLES = 6, 4, 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base` with three layers, and `broken`, whose second layer was changed by hand."""
    folder = tmp_path_factory.mktemp("models")
    mlp_classifier(folder / "base.onnx", features=FEATURES, hidden=(16, 16), classes=CLASSES)
    model = onnx.load(folder / "base.onnx")
    second = next(w for w in model.graph.initializer if tuple(w.dims) == (16, 16))
    rng = np.random.default_rng(3)
    array = numpy_helper.to_array(second)
    noise = rng.normal(scale=0.2, size=array.shape).astype(np.float32)
    second.CopyFrom(numpy_helper.from_array(array + noise, second.name))
    onnx.save(model, folder / "broken.onnx")
    inputs = rng.normal(size=(SAMPLES, FEATURES)).astype(np.float32)
    labels = answers_of(folder / "base.onnx", inputs)
    labels[:20] = (labels[:20] + 1) % CLASSES
    np.savez(folder / "points.npz", x=inputs, y=labels)
    return folder


@pytest.fixture(scope="module")
def db(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    with sm.connect(tmp_path_factory.mktemp("db") / "models.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM folder '{folder}/*.onnx'")
        db.register_dataset("points", folder / "points.npz")
        db.execute("ANALYZE ALL FOR EQUIVALENCE USING dataset = 'points'")
        yield db


def answers_of(path: Path, inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path))
    return session.run(None, {session.get_inputs()[0].name: inputs})[0].argmax(1)


def measures(db: sm.Connection, text: str) -> dict[str, tuple[object, ...]]:
    return {str(row[0]): row[1:] for row in db.execute(text).rows}


def test_compare_names_the_layer_that_was_changed(db: sm.Connection, folder: Path) -> None:
    found = measures(db, "COMPARE base WITH broken")
    gemms = [n for n in onnx.load(folder / "base.onnx").graph.node if n.op_type == "Gemm"]
    reference, candidate, said = found["first divergence"]
    changed = {gemms[1].name, gemms[1].output[0], *_readers(folder, gemms[1].output[0])}
    assert reference in changed
    assert candidate in changed
    error, tolerance = (float(part.rstrip("%")) for part in str(said).split(" > "))
    assert error > 10 * tolerance
    assert found["layers aligned"][2] == "3"
    assert "identical" not in str(found["weights"][2])
    same = measures(db, "COMPARE base WITH base")
    assert same["weights"][2] == "identical"
    assert same["first divergence"][2] == "none: every layer is within its tolerance"


def _readers(folder: Path, tensor: str) -> set[str]:
    graph = onnx.load(folder / "base.onnx").graph
    nodes = [n for n in graph.node if tensor in n.input]
    return {name for n in nodes for name in (n.name, *n.output)}


def test_compare_without_layers_runs_nothing(db: sm.Connection) -> None:
    found = measures(db, "COMPARE base WITH broken USING layers = false")
    assert "first divergence" not in found
    assert "agreement" in found


def test_the_classes_that_change_most_are_named_with_their_share(
    db: sm.Connection, folder: Path
) -> None:
    data = np.load(folder / "points.npz")
    parted = answers_of(folder / "base.onnx", data["x"]) != answers_of(
        folder / "broken.onnx", data["x"]
    )
    shares = {c: float(parted[data["y"] == c].mean()) for c in set(data["y"].tolist())}
    worst = max(shares, key=lambda c: shares[c])
    found = measures(db, "COMPARE base WITH broken USING layers = false, dataset = 'points'")
    assert not any(name.startswith("changes in") for name in found)  # part of what is studied
    found = measures(db, "COMPARE base WITH broken")
    assert found[f"changes in class {worst}"][1] == f"{shares[worst] * 100:.4g}%"


def test_diff_is_a_report_of_every_layer(db: sm.Connection) -> None:
    report = db.execute("DIFF base WITH broken USING samples = 16")
    assert isinstance(report, Report)
    assert "first divergence" in str(report)
    assert report.data["samples"] == 16
    assert [layer["by"] for layer in report.data["layers"]] == ["structure"] * 3
    assert db.execute("DIFF base WITH base").data["first_divergence"] is None


def test_disagreements_are_the_samples_that_running_both_models_shows(
    db: sm.Connection, folder: Path
) -> None:
    data = np.load(folder / "points.npz")
    ours, theirs = (answers_of(folder / f"{n}.onnx", data["x"]) for n in ("base", "broken"))
    table = db.execute("SHOW DISAGREEMENTS OF base, broken LIMIT 1000")
    expected = {int(i): (str(ours[i]), str(theirs[i])) for i in np.flatnonzero(ours != theirs)}
    assert {row[0]: (row[1], row[2]) for row in table.rows} == expected
    for row in table.rows:
        right = {str(ours[row[0]]): "base", str(theirs[row[0]]): "broken"}
        assert row[4] == right.get(str(data["y"][row[0]]), "neither")
    surest = [min(row[5], row[6]) for row in table.rows]
    assert surest == sorted(surest, reverse=True)
    assert len(db.execute("SHOW DISAGREEMENTS OF base, broken LIMIT 2").rows) == 2


def test_a_pair_that_cannot_be_compared_says_why(db: sm.Connection, folder: Path) -> None:
    with pytest.raises(BinderError, match="two models"):
        db.execute("SHOW DISAGREEMENTS OF base")
    with pytest.raises(BinderError, match="points2"):
        db.execute("SHOW DISAGREEMENTS OF base, broken USING dataset = 'points2'")
    mlp_classifier(folder / "late.onnx", seed=5, features=FEATURES, classes=CLASSES)
    db.execute(f"REGISTER MODEL late FROM '{folder}/late.onnx'")
    with pytest.raises(BinderError) as caught:
        db.execute("SHOW DISAGREEMENTS OF base, late")
    assert "ANALYZE base, late FOR EQUIVALENCE" in str(caught.value.hint)
    mlp_classifier(folder / "wide.onnx", seed=5, features=FEATURES + 1, classes=CLASSES)
    db.execute(f"REGISTER MODEL wide FROM '{folder}/wide.onnx'")
    with pytest.raises(AnalysisError):
        db.execute("DIFF base WITH wide")
    notes = db.execute("COMPARE base WITH wide").notes
    assert any("layers are not compared" in note for note in notes)


def test_reading_a_snapshot_compares_as_well(db: sm.Connection) -> None:
    with sm.connect(db.path, read_only=True) as reader:
        assert reader.execute("SHOW DISAGREEMENTS OF base, broken").rows
        assert "first divergence" in measures(reader, "COMPARE base WITH broken")
