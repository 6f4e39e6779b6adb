"""ALTER MODEL: what a user states about a model is kept, checked, and never half-written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import sommelier as sm
from sommelier.errors import AnalysisError, BinderError, SommelierError
from tests.asking import rows
from tests.factories import tiny_classifier

WEIGHTS = (np.eye(3, dtype=np.float32), np.zeros(3, dtype=np.float32))


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sm.Connection]:
    """A classifier that answers with the largest of three inputs, and labelled points."""
    with sm.connect(tmp_path / "m.sommelier") as connection:
        tiny_classifier(tmp_path / "largest.onnx", weights=WEIGHTS)
        connection.import_models("folder", str(tmp_path / "largest.onnx"))
        points = np.eye(3, dtype=np.float32).repeat(20, axis=0)
        np.savez(tmp_path / "points.npz", x=points, y=np.arange(3).repeat(20))
        connection.register_dataset(
            "points", tmp_path / "points.npz", labels=["rouge", "vert", "bleu"]
        )
        yield connection


def accuracy(db: sm.Connection) -> float | None:
    return db.query("SELECT MODELS name, accuracy").dicts()[0]["accuracy"]


def test_a_declared_number_is_kept_apart_from_measurements(db: sm.Connection) -> None:
    db.execute("ALTER MODEL largest SET accuracy = 76.1% ON 'imagenet'")
    [stated] = [m for m in db.model("largest").profile if m.metric == "accuracy"]
    assert (stated.value, stated.dataset) == (pytest.approx(0.761), "imagenet")
    assert stated.provenance.value == "declared"


def test_a_unit_of_another_dimension_is_refused(db: sm.Connection) -> None:
    with pytest.raises(BinderError, match="flops"):
        db.execute("ALTER MODEL largest SET flops = 3 MB")


def test_tags_and_names_change(db: sm.Connection) -> None:
    db.execute("ALTER MODEL largest ADD TAG 'toy'")
    db.execute("ALTER MODEL largest RENAME TO argmax")
    assert [row.name for row in db.query("SELECT MODELS name WHERE tags HAS 'toy'")] == ["argmax"]
    db.execute("ALTER MODEL argmax DROP TAG 'toy'")
    with pytest.raises(SommelierError, match="no tag 'toy'"):
        db.execute("ALTER MODEL argmax DROP TAG 'toy'")


def test_named_classes_are_scored_by_name_not_by_position(db: sm.Connection) -> None:
    db.execute("ALTER MODEL largest SET labels = ['vert', 'rouge', 'bleu']")
    db.execute("ANALYZE largest FOR ACCURACY USING dataset = 'points'")
    assert accuracy(db) == pytest.approx(1 / 3)  # only bleu is where the model says


def test_a_label_map_translates_another_vocabulary(db: sm.Connection, tmp_path: Path) -> None:
    db.execute("ALTER MODEL largest SET labels = ['red', 'green', 'blue']")
    (tmp_path / "map.json").write_text(
        json.dumps({"red": "rouge", "green": "vert", "blue": "bleu"})
    )
    db.execute(f"ALTER MODEL largest SET label_map = '{tmp_path / 'map.json'}' ON 'points'")
    db.execute("ANALYZE largest FOR ACCURACY USING dataset = 'points'")
    assert accuracy(db) == 1.0


def test_a_label_map_with_an_unknown_name_changes_nothing(
    db: sm.Connection, tmp_path: Path
) -> None:
    db.execute("ALTER MODEL largest SET labels = ['red', 'green', 'blue']")
    (tmp_path / "map.json").write_text(json.dumps({"red": "rose"}))
    with pytest.raises(SommelierError, match="'rose' is not a label"):
        db.execute(
            f"ALTER MODEL largest SET label_map = '{tmp_path / 'map.json'}', task = 'colours'"
            " ON 'points'"
        )
    assert db.model("largest").record.task is None
    assert db.catalog.label_maps() == {}


def test_too_few_labels_are_refused(db: sm.Connection) -> None:
    with pytest.raises(SommelierError, match="answers with 3 classes"):
        db.execute("ALTER MODEL largest SET labels = ['red', 'green']")


def test_preprocessing_is_declared_and_checked(db: sm.Connection) -> None:
    db.execute("""ALTER MODEL largest SET preprocessing = '[["affine", {"scale": -1.0}]]'""")
    db.execute("ANALYZE largest FOR ACCURACY USING dataset = 'points'")
    measured = accuracy(db)
    assert measured is not None
    assert measured < 0.5  # the largest of the negated inputs is never the label
    with pytest.raises(AnalysisError, match="sharpen"):
        db.execute("""ALTER MODEL largest SET preprocessing = '[["sharpen", {}]]'""")


def test_importing_again_takes_the_new_card_and_keeps_the_rest(
    db: sm.Connection, tmp_path: Path
) -> None:
    db.execute("ALTER MODEL largest SET family = 'toys'")
    card = tmp_path / "card.json"
    told = {"match": "largest", "task": "argmax", "homepage": "https://example.org/largest"}
    card.write_text(json.dumps({"models": [told]}))
    db.import_models("folder", str(tmp_path / "largest.onnx"), card=str(card))
    record = db.model("largest").record
    assert (record.task, record.family) == ("argmax", "toys")
    assert rows(db, "SELECT MODELS name, homepage WHERE homepage LIKE '%example.org%'") == [
        {"name": "largest", "homepage": "https://example.org/largest"}
    ]
    described = {row["property"]: row["value"] for row in rows(db, "DESCRIBE largest")}
    assert described["homepage"] == "https://example.org/largest"
    db.execute("ALTER MODEL largest SET homepage = 'https://example.org/new'")
    assert rows(db, "SELECT homepage FROM models") == [{"homepage": "https://example.org/new"}]
    assert len(db.query("SELECT MODELS")) == 1
