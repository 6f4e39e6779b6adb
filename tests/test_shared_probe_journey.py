"""Models that answered different data, in files and through statements: each meets the reference
on the data both answered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from scipy.stats import beta

import sommelier as sm
from tests.factories import mlp_classifier

FEATURES, CLASSES = 6, 3
SAMPLES = {"near": 300, "wide": 120}
ANALYSED = {"a": ("near", "wide"), "b": ("near",), "c": ("near",), "d": ("wide",), "e": ("wide",)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models a to e, and two sets of data: points near the origin, and points far apart."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(ANALYSED):
        mlp_classifier(
            folder / f"{name}.onnx", seed=seed, features=FEATURES, hidden=(8,), classes=CLASSES
        )
    rng = np.random.default_rng(0)
    for scale, (name, samples) in zip((1, 10), SAMPLES.items(), strict=True):
        inputs = rng.normal(scale=scale, size=(samples, FEATURES)).astype(np.float32)
        np.savez(folder / f"{name}.npz", x=inputs, y=rng.integers(0, CLASSES, samples))
    return folder


@pytest.fixture(scope="module")
def db(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    with sm.connect(tmp_path_factory.mktemp("db") / "models.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM folder '{folder}/*.onnx'")
        for name in SAMPLES:
            db.register_dataset(name, folder / f"{name}.npz", held_out=True)
        for model, datasets in ANALYSED.items():
            for dataset in datasets:
                db.execute(f"ANALYZE {model} FOR EQUIVALENCE USING dataset = '{dataset}'")
        yield db


def agreements(folder: Path, one: str, other: str, dataset: str) -> int:
    """On how many items two models answer alike, by running both."""
    inputs = np.load(folder / f"{dataset}.npz")["x"]
    answers = []
    for name in (one, other):
        session = onnxruntime.InferenceSession(str(folder / f"{name}.onnx"))
        answers.append(session.run(None, {session.get_inputs()[0].name: inputs})[0].argmax(1))
    return int(np.sum(answers[0] == answers[1]))


def test_each_model_is_measured_on_the_data_it_shares(db: sm.Connection, folder: Path) -> None:
    result = db.query("SELECT MODELS name, agreement, equivalence, probes, provenance CORR a")
    expected = []
    for name in "bcde":
        (dataset,) = ANALYSED[name]
        samples = SAMPLES[dataset]
        k = agreements(folder, "a", name, dataset)
        bound = float(beta.ppf(0.05 / 4, k, samples - k + 1)) if k else 0.0
        expected.append((name, k / samples, pytest.approx(bound, abs=1e-9), samples, "measured"))
    assert sorted(result.fetchall()) == expected
    bounds = [match.equivalence for match in result]
    assert bounds == sorted(bounds, reverse=True)
    assert any(
        "K = 4 comparisons together, on 300 probes of 'near'; 2 models on 120 probes of 'wide'"
        in note
        for note in result.notes
    )


def test_every_compared_pair_is_in_the_view_too(db: sm.Connection, folder: Path) -> None:
    rows = db.sql(
        "SELECT m.name, e.samples, e.agreements FROM equivalences e"
        " JOIN models r ON r.id = e.reference_id JOIN models m ON m.id = e.candidate_id"
        " WHERE r.name = 'a'"
    ).rows
    assert sorted(rows) == [
        (name, SAMPLES[ANALYSED[name][0]], agreements(folder, "a", name, ANALYSED[name][0]))
        for name in "bcde"
    ]


def test_models_of_different_data_stay_unknown_to_each_other(db: sm.Connection) -> None:
    result = db.query("SELECT MODELS name CORR b")
    assert {row[0] for row in result.fetchall()} == {"a", "c"}
    assert any("2 models skipped" in note and "other probe sets" in note for note in result.notes)
    table = db.execute("COMPARE b WITH d")
    assert any("no common probe set" in note for note in table.notes)
