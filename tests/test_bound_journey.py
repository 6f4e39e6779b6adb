"""Bounds through statements, on real ONNX files: analysed, stored, asked for and shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import sommelier as sm
from sommelier.confidence import lower_bound
from tests.factories import mlp_classifier

FEATURES, CLASSES, SAMPLES = 6, 4, 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trained-apart models and three datasets, labelled mostly as `base` answers."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "other")):
        mlp_classifier(
            folder / f"{name}.onnx", seed=seed, features=FEATURES, hidden=(16,), classes=CLASSES
        )
    rng = np.random.default_rng(7)
    for name in ("points", "dots", "spots"):
        inputs = rng.normal(size=(SAMPLES, FEATURES)).astype(np.float32)
        right = answers_of(folder / "base.onnx", inputs)
        labels = np.where(rng.random(SAMPLES) < 0.8, right, rng.integers(0, CLASSES, SAMPLES))
        np.savez(folder / f"{name}.npz", x=inputs, y=labels)
    return folder


@pytest.fixture(scope="module")
def db(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    with sm.connect(tmp_path_factory.mktemp("db") / "models.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM folder '{folder}/*.onnx'")
        for name in ("points", "dots", "spots"):
            db.register_dataset(name, folder / f"{name}.npz", held_out=True)
        db.execute("ANALYZE ALL FOR EQUIVALENCE")
        yield db


def answers_of(path: Path | str, inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path))
    return session.run(None, {session.get_inputs()[0].name: inputs})[0].argmax(1)


def agreements(folder: Path, dataset: str) -> int:
    inputs = np.load(folder / f"{dataset}.npz")["x"]
    both = [answers_of(folder / f"{name}.onnx", inputs) for name in ("base", "other")]
    return int((both[0] == both[1]).sum())


def test_the_spectral_bound_is_computed_in_the_sandbox_and_kept(db: sm.Connection) -> None:
    done = db.execute("ANALYZE base FOR BOUNDS USING dataset = 'points'")
    assert any("spectral bound" in note for note in done.notes)
    told = {row["quantity"]: row for row in db.execute("SHOW BOUNDS OF base").dicts()}
    assert set(told) == {"spectral_bound", "spectral_printed", "margin_loss"}
    value = told["spectral_bound"]["value"]
    assert value > told["margin_loss"]["value"]
    assert told["spectral_bound"]["status"] == ("vacuous" if value > 1 else "estimate")
    assert "gamma" in told["spectral_bound"]["ingredients"]
    again = db.execute("ANALYZE base FOR BOUNDS USING dataset = 'points'")
    assert any("done before" in note for note in again.notes)


def test_bound_spectral_shows_the_value_and_passes_nobody(db: sm.Connection) -> None:
    db.execute("ANALYZE other FOR BOUNDS USING dataset = 'points'")
    shown = db.query("SELECT MODELS name, equivalence, bound, provenance CORR base BOUND spectral")
    ((name, equivalence, bound, provenance),) = shown.fetchall()
    (kept,) = (
        row["value"]
        for row in db.execute("SHOW BOUNDS OF other").dicts()
        if row["quantity"] == "spectral_bound"
    )
    assert (name, equivalence, bound) == ("other", None, pytest.approx(kept))
    assert provenance == ("vacuous" if kept > 1 else "estimated")
    assert len(db.query("SELECT MODELS CORR base 0.1% BOUND spectral")) == 0


def test_show_bounds_of_a_pair_tells_each_dataset_and_a_new_one(
    db: sm.Connection, folder: Path
) -> None:
    found = db.execute("SHOW BOUNDS OF base, other USING confidence = 90%").dicts()
    by_cp = {row["about"]: row for row in found if row["method"] == "cp"}
    for name in ("points", "dots", "spots"):
        row, k = by_cp[f"agreement on inputs like '{name}'"], agreements(folder, name)
        assert row["observed"] == pytest.approx(k / SAMPLES)
        assert row["lower"] == pytest.approx(float(lower_bound(k, SAMPLES, 0.1)))
    minimum = next(row for row in found if row["method"] == "minimum")
    rates = [agreements(folder, name) / SAMPLES for name in ("points", "dots", "spots")]
    assert (minimum["lower"], minimum["confidence"]) == (pytest.approx(min(rates)), 0.75)
    assert any(str(row["about"]).startswith("accuracy(base) - accuracy(other)") for row in found)


def test_custom_generalization_is_asked_through_the_connection(
    db: sm.Connection, folder: Path
) -> None:
    names = "datasets = ['points', 'dots', 'spots']"
    columns = "SELECT MODELS name, equivalence CORR base USING generalization = custom,"
    ((_, lower),) = db.query(f"{columns} {names}, confidence = 75%").fetchall()
    assert lower == pytest.approx(
        min(agreements(folder, name) / SAMPLES for name in ("points", "dots", "spots"))
    )
    undecided = db.query(f"SELECT MODELS CORR base 1% USING {names}")
    assert len(undecided) == 0
    assert any(note.startswith("UNDECIDABLE") for note in undecided.notes)


def test_settings_choose_the_bound_of_every_question(db: sm.Connection) -> None:
    db.execute("SET bound = hoeffding")
    try:
        assert db.query("SELECT MODELS method CORR base").fetchall() == [("hoeffding",)]
        assert db.query("SELECT MODELS method CORR base BOUND cp").fetchall() == [("sketch",)]
        db.execute("SET generalization = off")
        assert db.query("SELECT MODELS method CORR base").fetchall() == [("observed",)]
    finally:
        db.execute("RESET bound")
        db.execute("RESET generalization")
