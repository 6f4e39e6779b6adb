"""The main journey on real parts: files in, measurements made, questions answered, all on disk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import sommelier as sm
from sommelier.engine.result import Report, Result, Table
from sommelier.errors import (
    BinderError,
    DatabaseLockedError,
    NoModelFoundError,
    ParserError,
    ReadOnlyError,
    UnknownNameError,
)
from tests.factories import mlp_classifier

FEATURES, CLASSES, SAMPLES = 6, 3, 400


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: a reference, a near copy with half its hidden layer, two strangers, and rubbish."""
    folder = tmp_path_factory.mktemp("zoo")
    for name, seed, hidden in (("wide", 1, 64), ("other", 2, 32), ("tiny", 3, 4)):
        mlp_classifier(
            folder / f"{name}.onnx", seed=seed, features=FEATURES, hidden=(hidden,), classes=CLASSES
        )
    _near_copy(folder / "wide.onnx", folder / "near.onnx")
    (folder / "rubbish.onnx").write_bytes(b"this is no model")
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(SAMPLES, FEATURES)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(folder / "wide.onnx"))
    labels = session.run(None, {session.get_inputs()[0].name: inputs})[0].argmax(1)
    np.savez(folder / "points.npz", x=inputs, y=labels)
    return folder


def _near_copy(source: Path, target: Path) -> None:
    """The same network with weights moved by 10 %: close, not equal."""
    model = onnx.load(str(source))
    generator = np.random.default_rng(5)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            noise = 1 + 0.1 * generator.normal(size=values.shape)
            moved = (values * noise).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(moved, tensor.name))
    onnx.save(model, str(target))


@pytest.fixture(scope="module")
def database(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("db") / "models.sommelier"
    with sm.connect(path) as db:
        imported = db.execute(f"IMPORT MODELS FROM folder '{zoo}/*.onnx'")
        assert isinstance(imported, Table)
        assert imported.dicts()[0]["rows"] == 4
        assert any("rubbish" in note for note in imported.notes)
        db.register_dataset("points", zoo / "points.npz", held_out=True)
        db.execute("ANALYZE ALL FOR RESOURCES, EQUIVALENCE, ACCURACY USING dataset = 'points'")
    return path


@pytest.fixture
def db(database: Path):
    with sm.connect(database, read_only=True) as connection:
        yield connection


def _answers(path: Path, inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path))
    return session.run(None, {session.get_inputs()[0].name: inputs})[0].argmax(1)


def test_agreement_is_what_running_both_models_gives(db: sm.Connection, zoo: Path) -> None:
    inputs = np.load(zoo / "points.npz")["x"]
    rows = db.query("SELECT MODELS name, agreement CORR wide WITHIN 100%").dicts()
    assert {row["name"] for row in rows} == {"near", "other", "tiny"}
    reference = _answers(zoo / "wide.onnx", inputs)
    for row in rows:
        expected = np.mean(_answers(zoo / f"{row['name']}.onnx", inputs) == reference)
        assert row["agreement"] == pytest.approx(expected, abs=1e-12)


def test_equivalence_is_a_lower_bound_below_the_agreement(db: sm.Connection) -> None:
    for row in db.query("SELECT MODELS name, equivalence, agreement CORR wide WITHIN 100%"):
        assert 0 <= row.equivalence < row.agreement


def test_the_near_copy_is_the_most_similar(db: sm.Connection) -> None:
    answer = db.query("SELECT MODEL CORR wide PICK MOST SIMILAR")
    assert [row.name for row in answer] == ["near"]


def test_accuracy_of_the_labelling_model_is_one(db: sm.Connection) -> None:
    answer = db.query("SELECT MODELS name WHERE accuracy >= 100% ON 'points'")
    assert [row.name for row in answer] == ["wide"]


def test_percent_in_on_is_relative_to_the_reference(db: sm.Connection) -> None:
    table = {row["name"]: row["flops"] for row in db.query("SELECT MODELS name, flops").dicts()}
    kept = {row.name for row in db.query("SELECT MODELS CORR wide WITHIN 100% ON flops <= 50%")}
    assert kept == {n for n, f in table.items() if f <= 0.5 * table["wide"] and n != "wide"}


def test_builder_text_and_keywords_ask_the_same(db: sm.Connection) -> None:
    text = db.query("SELECT MODELS CORR wide >= 20% ON flops <= 100% PICK MOST SIMILAR")
    built = db.models().corr("wide", at_least=0.2).on(flops="<= 100%").pick("most similar")
    keywords = db.query(ref="wide", at_least=0.2, flops="<= 100%", pick="most similar")
    assert str(text) == str(built) == str(keywords)
    assert text.fetchall() == built.fetchall() == keywords.fetchall()


def test_parameters_are_values(db: sm.Connection) -> None:
    answer = db.query(
        "SELECT MODELS name CORR $ref >= $share ON memory < $memory",
        params={"ref": "wide", "share": 0.2, "memory": "1 MB"},
    )
    assert "near" in [row.name for row in answer]


def test_an_answer_becomes_a_data_frame(db: sm.Connection) -> None:
    frame = db.query("SELECT MODELS name, memory ORDER BY memory").df()
    assert list(frame.columns) == ["name", "memory"]
    assert frame["memory"].is_monotonic_increasing


def test_an_answer_can_be_loaded_and_run(db: sm.Connection, zoo: Path) -> None:
    session = db.query("SELECT MODEL CORR wide PICK MOST SIMILAR").one().load()
    inputs = np.load(zoo / "points.npz")["x"][:5]
    assert session.run(None, {session.get_inputs()[0].name: inputs})[0].shape == (5, CLASSES)


def test_explain_analyze_counts_rows_by_stage(db: sm.Connection) -> None:
    report = db.execute("EXPLAIN ANALYZE SELECT MODEL CORR wide >= 20% ON flops <= 50%")
    assert isinstance(report, Report)
    assert "wide" in str(report)
    assert json.dumps(report.data)


def test_explain_why_names_the_smallest_relaxation(db: sm.Connection) -> None:
    report = db.execute("EXPLAIN WHY near NOT IN (SELECT MODELS CORR wide >= 20% ON flops <= 50%)")
    assert "flops" in str(report)
    assert "would match" in str(report)


def test_an_empty_answer_says_what_would_match(db: sm.Connection) -> None:
    with pytest.raises(NoModelFoundError):
        db.query("SELECT MODEL CORR wide >= 20% ON flops <= 0.01%").one()


def test_catalog_sql_reads_the_views(db: sm.Connection) -> None:
    assert db.sql("SELECT count(*) FROM models").rows == [(4,)]
    assert db.sql("SELECT count(*) FROM rejections").rows == [(1,)]
    assert len(db.sql("SELECT * FROM equivalences").rows) == 12


def test_compare_shows_agreement_both_ways(db: sm.Connection) -> None:
    table = db.execute("COMPARE wide WITH near")
    assert isinstance(table, Table)
    assert "agreement" in repr(table)


@pytest.mark.parametrize(
    ("statement", "error", "words"),
    [
        ("SELECT MODEL CORR wide ON memry < 80%", BinderError, "memory"),
        ("SELECT MODEL CORR wid ON memory < 80%", UnknownNameError, "wide"),
        ("SELECT MODEL CORR wide WERE task = 'x'", ParserError, "WHERE"),
        ("SELECT MODEL CORR wide ON memory < 200", BinderError, "MB"),
        ("SELECT MODEL ON memory < 80%", BinderError, "relative to what"),
    ],
)
def test_a_mistake_is_underlined_and_answered(
    db: sm.Connection, statement: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        db.execute(statement)
    assert words in str(caught.value)
    assert "^" in str(caught.value)


def test_a_reader_cannot_write(db: sm.Connection) -> None:
    with pytest.raises(ReadOnlyError):
        db.execute("DROP MODEL wide")


@pytest.mark.duckdb("a file has one writer")
def test_one_writer_many_readers(database: Path) -> None:
    with sm.connect(database) as writer:
        program = (
            "import sommelier as sm, sys\n"
            "with sm.connect(sys.argv[1], read_only=True) as db:"
            " print(len(db.query('SELECT MODELS')))"
        )
        readers = [
            subprocess.Popen(
                [sys.executable, "-c", program, str(database)], stdout=subprocess.PIPE, text=True
            )
            for _ in range(3)
        ]
        assert [reader.communicate()[0].strip() for reader in readers] == ["4"] * 3
        second = subprocess.run(
            [sys.executable, "-c", "import sommelier as sm, sys; sm.connect(sys.argv[1])",
             str(database)],
            capture_output=True, text=True,
        )  # fmt: skip
        assert DatabaseLockedError.__name__ in second.stderr
        assert "read_only=True" in second.stderr
        assert len(writer.query("SELECT MODELS")) == 4


def test_analyzing_again_does_nothing(database: Path) -> None:
    with sm.connect(database) as db:
        again = db.execute("ANALYZE ALL FOR EQUIVALENCE USING dataset = 'points'")
        assert isinstance(again, Table)
        assert again.dicts()[0]["rows"] == 0


def test_pools_keep_and_views_follow(tmp_path: Path, zoo: Path) -> None:
    with sm.connect(tmp_path / "p.sommelier") as db:
        db.import_models("folder", str(zoo / "tiny.onnx"))
        db.execute("CREATE POOL all_now AS SELECT MODELS")
        db.execute("CREATE VIEW all_always AS SELECT MODELS")
        db.import_models("folder", str(zoo / "wide.onnx"))
        assert len(db.query("SELECT MODELS FROM POOL all_now")) == 1
        assert len(db.query("SELECT MODELS FROM VIEW all_always")) == 2
        db.execute("REFRESH POOL all_now")
        assert len(db.query("SELECT MODELS FROM POOL all_now")) == 2


def test_same_bytes_are_one_model_and_one_name_may_have_versions(tmp_path: Path, zoo: Path) -> None:
    with sm.connect(tmp_path / "v.sommelier") as db:
        db.import_models("folder", str(zoo / "wide.onnx"))
        db.execute(f"REGISTER MODEL twin FROM '{zoo / 'wide.onnx'}'")
        assert len(db.query("SELECT MODELS")) == 1
        assert db.model("twin").record.id == db.model("wide").record.id
        db.execute(f"REGISTER MODEL wide FROM '{zoo / 'tiny.onnx'}'")
        assert len(db.query("SELECT MODELS")) == 2
        assert db.model("wide").record.id != db.model("twin").record.id


def test_a_relation_is_lazy_and_runs_once(db: sm.Connection) -> None:
    relation = db.query("SELECT MODELS CORR wide WITHIN 100%")
    assert isinstance(relation.result, Result)
    assert relation.result is relation.result
    assert len(relation.limit(1)) == 1
    assert len(relation) == 3
