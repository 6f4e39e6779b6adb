"""REGISTER MODEL of what holds several models or mistakes; weights that cannot be kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

import sommelier as sm
from sommelier.errors import ConnectorError, RejectedModelError
from tests.factories import mlp_classifier


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sm.Connection]:
    with sm.connect(tmp_path / "m.sommelier") as connection:
        yield connection


def test_a_broken_card_beside_a_model_is_a_note(db: sm.Connection, tmp_path: Path) -> None:
    path = mlp_classifier(tmp_path / "one.onnx")
    (tmp_path / "sommelier.json").write_text("{bad")
    table = db.execute(f"REGISTER MODEL one FROM '{path}'")
    assert table.notes[0] == "1 new"
    assert "sommelier.json: not JSON" in table.notes[1]
    assert db.catalog.model_names() == ["one"]
    (tmp_path / "bad.onnx").write_bytes(b"junk")
    with pytest.raises(RejectedModelError, match="is not accepted: not an ONNX file"):
        db.execute(f"REGISTER MODEL bad FROM '{tmp_path}/bad.onnx'")


def test_one_name_is_given_to_one_model(db: sm.Connection, tmp_path: Path) -> None:
    folder = tmp_path / "several"
    folder.mkdir()
    mlp_classifier(folder / "p.onnx", seed=1)
    mlp_classifier(folder / "q.onnx", seed=2)
    with pytest.raises(ConnectorError, match="holds 2 models") as failure:
        db.execute(f"REGISTER MODEL x FROM '{folder}'")
    assert "IMPORT MODELS FROM folder" in str(failure.value.hint)
    assert db.catalog.model_names() == []
    (folder / "q.onnx").unlink()
    db.execute(f"REGISTER MODEL x FROM '{folder}'")
    assert db.catalog.model_names() == ["x"]


def test_a_model_whose_weights_have_an_impossible_name_does_not_stop_the_others(
    db: sm.Connection, tmp_path: Path
) -> None:
    plain = mlp_classifier(tmp_path / "plain.onnx")
    for folder in ("a", "c"):
        (tmp_path / "zoo" / folder).mkdir(parents=True)
    onnx.save_model(
        onnx.load(plain), tmp_path / "zoo" / "a" / "odd.onnx",
        save_as_external_data=True, location="manifest.json", size_threshold=0,
    )  # fmt: skip
    plain.rename(tmp_path / "zoo" / "c" / "good.onnx")
    table = db.execute(f"IMPORT MODELS FROM folder '{tmp_path}/zoo'")
    assert table.notes[0] == "1 new"
    assert "cannot be called manifest.json" in table.notes[1]
    assert db.catalog.model_names() == ["good"]
