"""ANALYZE ... USING bound = 'anytime' on real ONNX files: few samples, a kept edge, and CORR."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import sommelier as sm
from sommelier.analysis.bounds import anytime_limits
from sommelier.errors import BinderError
from tests.factories import mlp_classifier

FEATURES, CLASSES, SAMPLES = 6, 4, 2000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, `near` (its weights a little changed), `far` (trained apart), `whole`, and points."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "far", "whole")):
        mlp_classifier(
            folder / f"{name}.onnx", seed=seed, features=FEATURES, hidden=(16,), classes=CLASSES
        )
    model = onnx.load(folder / "base.onnx")
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        weight.CopyFrom(numpy_helper.from_array(values * np.float32(1.0005), weight.name))
    onnx.save(model, folder / "near.onnx")
    inputs = np.random.default_rng(3).normal(size=(SAMPLES, FEATURES)).astype(np.float32)
    np.savez(folder / "points.npz", x=inputs)
    return folder


@pytest.fixture(scope="module")
def db(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    """base and whole have complete sketches, near and far only stopped comparisons with base."""
    with sm.connect(tmp_path_factory.mktemp("db") / "models.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM folder '{folder}/*.onnx'")
        db.register_dataset("points", folder / "points.npz", held_out=True)
        db.execute("ANALYZE base, whole FOR EQUIVALENCE")
        yield db


@pytest.fixture(scope="module")
def notes(db: sm.Connection) -> tuple[str, ...]:
    text = "ANALYZE near, far FOR EQUIVALENCE AGAINST base USING bound = 'anytime', threshold = 95%"
    return db.execute(text).notes


def answers_of(path: Path, inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path))
    return session.run(None, {session.get_inputs()[0].name: inputs})[0].argmax(1)


def edges(db: sm.Connection) -> dict[str, object]:
    base = db.catalog.resolve("base").id
    names = {record.id: record.name for record in db.catalog.models()}
    return {names[e.candidate_id]: e for e in db.catalog.edges(base) if e.method == "anytime"}


def test_clear_cases_cost_few_samples_and_the_notes_say_how_many(
    db: sm.Connection, notes: tuple[str, ...]
) -> None:
    found = edges(db)
    assert set(found) == {"near", "far"}
    assert found["far"].samples < 100
    assert found["near"].samples < 1000
    for name, verdict in (("near", "above"), ("far", "below")):
        edge = found[name]
        said = f"{name}: against base: {verdict} 95% after {edge.samples} of {SAMPLES} samples"
        assert any(note.startswith(said) for note in notes), notes


def test_the_counts_are_those_of_the_models_in_that_order(
    db: sm.Connection, folder: Path, notes: tuple[str, ...]
) -> None:
    inputs = np.load(folder / "points.npz")["x"]
    order = np.random.default_rng(0).permutation(SAMPLES)
    base = answers_of(folder / "base.onnx", inputs)
    for name, edge in edges(db).items():
        agree = base == answers_of(folder / f"{name}.onnx", inputs)
        assert edge.agreements == int(agree[order[: edge.samples]].sum())
        low, high = anytime_limits(edge.agreements, edge.samples, 0.05)
        assert (edge.lower, edge.upper) == pytest.approx((float(low), float(high)))


def test_corr_uses_them_for_pairs_without_common_sketches(
    db: sm.Connection, notes: tuple[str, ...]
) -> None:
    result = db.query("SELECT MODELS name, equivalence, probes, method, provenance CORR base")
    rows = {row[0]: row[1:] for row in result.fetchall()}
    assert set(rows) == {"near", "far", "whole"}
    for name, edge in edges(db).items():
        low, _ = anytime_limits(edge.agreements, edge.samples, 0.05 / 3)
        assert rows[name][0] == pytest.approx(float(low))
        assert rows[name][1:] == (edge.samples, "anytime", "measured")
    assert rows["whole"][2] == "sketch"
    assert any("2 models by early stopping" in note for note in result.notes)
    threshold = rows["near"][0] * 100
    for shift, expected in ((-0.01, {"near"}), (0.01, set())):
        found = {m.name for m in db.query(f"SELECT MODELS CORR base {threshold + shift}%")}
        assert found & {"near", "far"} == expected


def test_a_later_analysis_of_the_same_probes_keeps_them(
    db: sm.Connection, notes: tuple[str, ...]
) -> None:
    before = edges(db)
    db.execute("ANALYZE base, whole FOR EQUIVALENCE")
    assert edges(db) == before


def test_it_decides_about_pairs_only(db: sm.Connection) -> None:
    with pytest.raises(BinderError, match="decides about pairs"):
        db.execute("ANALYZE near FOR EQUIVALENCE USING bound = 'anytime'")
