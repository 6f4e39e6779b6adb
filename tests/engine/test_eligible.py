"""K counts the models a question chose from before it looked at answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

import sommelier as sm
from tests.factories import mlp_classifier

FEATURES, CLASSES, SAMPLES, MODELS = 5, 3, 120, 8


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("models")
    for seed in range(MODELS):
        mlp_classifier(folder / f"m{seed}.onnx", seed=seed, features=FEATURES, classes=CLASSES)
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(SAMPLES, FEATURES)).astype(np.float32)
    np.savez(folder / "points.npz", x=inputs, y=rng.integers(0, CLASSES, SAMPLES))
    with sm.connect(folder / "models.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM folder '{folder}/*.onnx'")
        db.register_dataset("points", folder / "points.npz", held_out=True)
        db.execute("ANALYZE ALL FOR RESOURCES, EQUIVALENCE USING dataset = 'points'")
        yield db


def bound(agreement: float, claims: int) -> float:
    k = round(agreement * SAMPLES)
    return float(beta.ppf(0.05 / claims, k, SAMPLES - k + 1)) if k else 0.0


def rows(db: sm.Connection, text: str) -> list[tuple[str, float, float]]:
    return db.query(text).fetchall()


QUESTION = "SELECT MODELS name, agreement, equivalence"


def test_a_condition_on_accuracy_of_the_probed_data_does_not_lower_k(db: sm.Connection) -> None:
    best = db.query(
        "SELECT MODELS name, accuracy ON 'points' ORDER BY accuracy ON 'points' DESC LIMIT 3"
    ).fetchall()
    least = min(accuracy for _, accuracy in best)
    result = db.query(f"{QUESTION} CORR m0 WHERE accuracy >= {least * 100:.6f}% ON 'points'")
    found = result.fetchall()
    assert 0 < len(found) <= MODELS - 2
    for _, agreement, equivalence in found:
        assert equivalence == pytest.approx(bound(agreement, MODELS - 1), abs=1e-9)
    assert any("optimistic" in note for note in result.result.notes)
    why = db.execute(
        f"EXPLAIN WHY {found[0][0]} IN (SELECT MODELS CORR m0 1% "
        f"WHERE accuracy >= {least * 100:.6f}% ON 'points')"
    )
    shown = [c["value"] for c in why.data["conditions"] if c["predicate"].startswith("CORR")]
    assert shown[0].split("%")[0] == f"{found[0][2] * 100:.4g}"


def test_conditions_on_resources_and_names_lower_k(db: sm.Connection) -> None:
    for _, agreement, equivalence in rows(db, f"{QUESTION} CORR m0 WHERE name IN ('m1', 'm2')"):
        assert equivalence == pytest.approx(bound(agreement, 2), abs=1e-9)


def test_a_pool_that_corr_filled_counts_all_it_was_chosen_from(db: sm.Connection) -> None:
    db.execute("CREATE OR REPLACE POOL near AS SELECT MODELS CORR m0 PICK MOST SIMILAR TOP 2")
    db.execute("CREATE OR REPLACE POOL named AS SELECT MODELS WHERE name IN ('m1', 'm2')")
    for _, agreement, equivalence in rows(db, f"{QUESTION} FROM POOL near CORR m0"):
        assert equivalence == pytest.approx(bound(agreement, MODELS - 1), abs=1e-9)
    for _, agreement, equivalence in rows(db, f"{QUESTION} FROM POOL named CORR m0"):
        assert equivalence == pytest.approx(bound(agreement, 2), abs=1e-9)
    inner = "(SELECT MODELS CORR m0 PICK MOST SIMILAR TOP 2)"
    for _, agreement, equivalence in rows(db, f"{QUESTION} FROM {inner} CORR m0"):
        assert equivalence == pytest.approx(bound(agreement, MODELS - 1), abs=1e-9)


def test_little_agreement_is_certain_when_its_upper_bound_says_so(db: sm.Connection) -> None:
    """`<=` takes the other end of the interval than `>=`."""
    every = {name: agreement for name, agreement, _ in rows(db, f"{QUESTION} CORR m0")}
    middle = sorted(every.values())[len(every) // 2]
    text = f"SELECT MODELS name CORR m0 AGREEMENT <= {middle * 100:.4f}% CONFIDENCE 95%"
    certain = {name for (name,) in db.query(text).fetchall()}
    upper = {
        name: float(beta.ppf(1 - 0.05 / (MODELS - 1), k + 1, SAMPLES - k)) if k < SAMPLES else 1.0
        for name, k in ((n, round(a * SAMPLES)) for n, a in every.items())
    }
    assert certain == {name for name in every if upper[name] <= middle + 1e-6}
    possible = db.query(f"{text} USING certainty = 'possible'").fetchall()
    lower = {name: bound(agreement, MODELS - 1) for name, agreement in every.items()}
    assert {n for (n,) in possible} == {name for name in every if lower[name] <= middle + 1e-6}
