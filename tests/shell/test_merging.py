"""`sommelier merge`: everything in one database taken into another."""

from __future__ import annotations

from pathlib import Path

import pytest

import sommelier as sm
from sommelier.shell.cli import main
from tests.storage.catalog_factories import number, plain_model


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """`net` is another model in each; `mine` is in the first only."""
    paths = tmp_path / "a.sommelier", tmp_path / "b.sommelier"
    for path, names in zip(paths, (("mine", "net"), ("net",)), strict=True):
        with sm.connect(path) as db:
            for name in names:
                added = db.catalog.add_model(plain_model(name, f"{path}{name}", version="1"))
                db.catalog.add_measurements([number(added.record.id, "params", float(len(names)))])
    return paths


QUESTION = "SELECT MODELS name, params ORDER BY name"


def test_it_says_what_it_did_and_the_second_time_that_there_is_nothing_to_do(
    two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = map(str, two)
    assert main(["merge", source, target, "--conflicts", "rename"]) == 0
    said = capsys.readouterr()
    assert "2 models added, 0 of the 0 in both know more; 2 measurements" in said.out
    assert "model 'net' is called 'net_2' now" in said.err
    with sm.connect(target) as db:
        assert db.query(QUESTION).fetchall() == [("mine", 2.0), ("net", 1.0), ("net_2", 2.0)]
    assert main(["merge", source, target, "--conflicts", "rename"]) == 0
    assert "is new to" in capsys.readouterr().out


def test_a_conflict_is_told_with_what_to_do_and_nothing_is_merged(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = map(str, two)
    assert main(["merge", source, target]) == 1
    said = capsys.readouterr().err
    assert "model 'net'" in said
    assert "--conflicts rename" in said
    with sm.connect(target) as db:
        assert db.query(QUESTION).fetchall() == [("net", 1.0)]
    assert main(["merge", str(tmp_path / "absent"), target]) == 1
    assert main(["merge", source, str(tmp_path / "absent")]) == 1
    assert capsys.readouterr().err.count("there is no database") == 2
    assert not (tmp_path / "absent").exists()


def test_a_connection_merges_and_answers_about_all_at_once(two: tuple[Path, Path]) -> None:
    with sm.connect(two[1]) as db:
        assert db.query(QUESTION).fetchall() == [("net", 1.0)]  # what it remembers is not kept
        merged = db.merge(two[0], conflicts="skip")
        assert [str(one) for one in merged.conflicts] == ["model 'net' was left out"]
        assert db.query(QUESTION).fetchall() == [("mine", 2.0), ("net", 1.0)]
