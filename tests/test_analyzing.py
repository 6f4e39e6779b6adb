"""ANALYZE and IMPORT when things go wrong half-way: nothing is lost, nothing is repeated."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import sommelier as sm
from sommelier.engine.result import Table
from sommelier.errors import CancelledError, DatasetError
from tests.factories import mlp_classifier


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sm.Connection]:
    """Four classifiers of four inputs; no data yet."""
    for index in range(4):
        mlp_classifier(tmp_path / f"m{index}.onnx", seed=index, hidden=(8,))
    with sm.connect(tmp_path / "m.sommelier") as connection:
        connection.import_models("folder", f"{tmp_path}/*.onnx")
        yield connection


def points(path: Path, *, seed: int = 0, count: int = 80) -> Path:
    np.save(path, np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32))
    return path


def rows(outcome: object) -> int:
    assert isinstance(outcome, Table)
    return int(str(outcome.dicts()[0]["rows"]))


def test_a_dataset_name_keeps_meaning_the_same_data(db: sm.Connection, tmp_path: Path) -> None:
    db.register_dataset("points", points(tmp_path / "a.npy", seed=1))
    db.register_dataset("points", tmp_path / "a.npy")  # the same again is fine
    with pytest.raises(DatasetError, match="other content"):
        db.register_dataset("points", points(tmp_path / "b.npy", seed=2))


def test_a_vanished_dataset_does_not_stop_the_others(db: sm.Connection, tmp_path: Path) -> None:
    db.register_dataset("here", points(tmp_path / "here.npy"))
    db.register_dataset("gone", points(tmp_path / "gone.npy", seed=3))
    (tmp_path / "gone.npy").unlink()
    outcome = db.analyze(aspects=("equivalence",))
    assert rows(outcome) == 4
    assert any("'gone' is left out" in note for note in outcome.notes)
    with pytest.raises(DatasetError, match=r"gone\.npy"):
        db.analyze(aspects=("equivalence",), dataset="gone")


def test_an_estimate_is_made_once_operators_have_been_timed(db: sm.Connection) -> None:
    assert rows(db.analyze("m0", aspects=("resources",))) == 1
    db.analyze("m1", "m2", "m3", aspects=("latency",), runs=5)
    assert rows(db.analyze("m0", aspects=("resources",))) == 1
    estimates = [m for m in db.model("m0").profile if m.metric == "latency"]
    assert [m.provenance.value for m in estimates] == ["estimated"]
    assert rows(db.analyze("m0", aspects=("resources",))) == 0


def test_a_cancelled_analyze_is_taken_up_by_the_same_statement(
    db: sm.Connection, tmp_path: Path
) -> None:
    db.register_dataset("points", points(tmp_path / "p.npy"))
    seen: list[str | None] = []

    def stop_at_the_third(phase: str, done: int, total: int | None, current: str | None) -> None:
        seen.append(current)
        if len(seen) == 3:
            db.cancel()

    statement = "ANALYZE ALL FOR EQUIVALENCE USING dataset = 'points', workers = 1"
    with pytest.raises(CancelledError, match="cancelled"):
        db.execute(statement, progress=stop_at_the_third)
    assert db.sql("SELECT state FROM jobs").rows == [("cancelled",)]
    kept = db.sql("SELECT count(*) FROM sketches").rows[0][0]
    assert kept < 4
    assert rows(db.execute(statement)) == 4 - kept
    assert db.sql("SELECT count(*) FROM equivalences").rows == [(12,)]
    assert rows(db.execute(statement)) == 0


def test_a_cancelled_import_keeps_what_was_read(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("model,params\n" + "".join(f"t{i},{i + 1}000000\n" for i in range(50)))
    with sm.connect(tmp_path / "m.sommelier") as db:

        def stop_at_the_tenth(phase: str, done: int, total: int | None, name: str | None) -> None:
            if phase == "importing" and done == 10:
                db.cancel()

        with pytest.raises(CancelledError):
            db.execute(
                f"IMPORT MODELS FROM table '{table}' USING name = 'model', params = 'params'",
                progress=stop_at_the_tenth,
            )
        assert len(db.query("SELECT MODELS")) == 11


def test_edges_hold_for_a_model_that_came_later(db: sm.Connection, tmp_path: Path) -> None:
    db.register_dataset("points", points(tmp_path / "p.npy"))
    db.analyze("m0", "m1", aspects=("equivalence",), dataset="points")
    assert db.sql("SELECT count(*) FROM equivalences").rows == [(2,)]
    db.analyze("m2", aspects=("equivalence",), dataset="points")
    assert db.sql("SELECT count(*) FROM equivalences").rows == [(6,)]


def test_analysing_a_few_models_again_hides_no_answer(db: sm.Connection, tmp_path: Path) -> None:
    db.register_dataset("points", points(tmp_path / "p.npy"))
    db.analyze("m0", "m1", "m2", aspects=("equivalence",), dataset="points", samples=30)
    before = {row.name for row in db.query("SELECT MODELS CORR m0 WITHIN 100%")}
    db.analyze("m0", "m3", aspects=("equivalence",), dataset="points", samples=80)
    after = {row.name for row in db.query("SELECT MODELS CORR m0 WITHIN 100%")}
    assert before == {"m1", "m2"} <= after
    db.analyze("m1", "m2", aspects=("equivalence",), dataset="points", samples=80)
    answer = db.query("SELECT MODELS name, probes CORR m0 WITHIN 100%")
    assert {row.name: row.probes for row in answer} == {"m1": 80, "m2": 80, "m3": 80}


def test_dropping_a_dataset_forgets_what_was_measured_on_it(
    db: sm.Connection, tmp_path: Path
) -> None:
    def labelled(seed: int) -> Path:
        x = np.random.default_rng(seed).normal(size=(60, 4)).astype(np.float32)
        np.savez(tmp_path / f"{seed}.npz", x=x, y=x.argmax(1) % 3)
        return tmp_path / f"{seed}.npz"

    db.register_dataset("points", labelled(1))
    db.analyze("m0", "m1", aspects=("equivalence", "accuracy"), dataset="points")
    db.execute("ALTER MODEL m3 SET accuracy = 50% ON 'points'")
    db.execute("DROP DATASET points")
    left = db.query("SELECT MODELS name WHERE accuracy >= 0%")
    assert [row.name for row in left] == ["m3"]
    assert db.sql("SELECT count(*) FROM equivalences").rows == [(0,)]
    db.register_dataset("points", labelled(2))
    assert rows(db.analyze("m2", aspects=("accuracy",), dataset="points")) == 1
    db.execute("DROP DATASET points")
    db.register_dataset("points", tmp_path / "1.npz")
    again = db.analyze("m0", "m1", aspects=("equivalence",), dataset="points")
    assert rows(again) == 2
