"""`sommelier copy`: a whole database in another file."""

from __future__ import annotations

from pathlib import Path

import pytest

import sommelier as sm
from sommelier.shell.cli import main
from tests.storage.catalog_factories import number, plain_model


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "a.sommelier"
    with sm.connect(path) as db:
        added = db.catalog.add_model(plain_model("tiny"))
        db.catalog.add_measurements([number(added.record.id, "params", 7.0)])
    return path


def test_the_copy_answers_as_the_original(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "b.sommelier"
    assert main(["copy", str(database), str(copy)]) == 0
    assert "copied 1 models" in capsys.readouterr().out
    question = "SELECT MODELS name, params"
    with sm.connect(database) as old, sm.connect(copy) as new:
        assert new.query(question).fetchall() == old.query(question).fetchall() == [("tiny", 7.0)]


def test_nothing_is_written_over(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["copy", str(database), str(database)]) == 1
    assert "is not empty" in capsys.readouterr().err
    assert main(["copy", str(tmp_path / "absent"), str(tmp_path / "c")]) == 1
    assert "there is no database" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
