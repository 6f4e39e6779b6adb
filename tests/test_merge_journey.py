"""Two databases that were filled apart, merged: questions are answered about the models of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import sommelier as sm
from tests.factories import mlp_classifier

FEATURES, CLASSES, SAMPLES = 6, 3, 300


def fill(path: Path, points: Path, models: dict[str, int]) -> None:
    """path : of the database. models : name -> seed."""
    folder = path.with_suffix(".models")
    folder.mkdir()
    for name, seed in models.items():
        mlp_classifier(
            folder / f"{name}.onnx", seed=seed, features=FEATURES, hidden=(8,), classes=CLASSES
        )
    with sm.connect(path) as db:
        db.execute(f"IMPORT MODELS FROM folder '{folder}/*.onnx'")
        db.register_dataset("points", points, held_out=True)
        db.execute("ANALYZE ALL FOR RESOURCES, EQUIVALENCE, ACCURACY USING dataset = 'points'")


def answers(db: sm.Connection, name: str, inputs: Any) -> Any:
    session = db.model(name).load()
    return session.run(None, {session.get_inputs()[0].name: inputs})[0].argmax(1)


def test_models_that_were_never_in_one_database_are_compared_once_they_are(tmp_path: Path) -> None:
    points, one, two = (tmp_path / name for name in ("p.npz", "one.sommelier", "two.sommelier"))
    inputs = np.random.default_rng(0).normal(size=(SAMPLES, FEATURES)).astype(np.float32)
    np.savez(points, x=inputs, y=np.arange(SAMPLES) % CLASSES)
    fill(one, points, {"first": 1, "common": 2})
    fill(two, points, {"second": 3, "same": 2})
    question = "SELECT MODELS name, agreement, params, accuracy CORR second >= 1%"
    with sm.connect(two) as db:
        assert len(db.query(question).fetchall()) == 1
        merged = db.merge(one)
        assert (merged.added, merged.both, merged.conflicts) == (1, 1, ())
        rows = {name: rest for name, *rest in db.query(question).fetchall()}
        assert rows.keys() == {"first", "same"}
        assert all(None not in rest for rest in rows.values())
        ours, theirs = (answers(db, name, inputs) for name in ("second", "first"))
        assert rows["first"][0] == np.mean(ours == theirs)
        assert db.model("common").record.name == "same"
        assert not db.merge(one).changed
        done = db.execute("ANALYZE ALL FOR EQUIVALENCE USING dataset = 'points'")
        assert db.query(question).fetchall()[0][0] in rows, done
