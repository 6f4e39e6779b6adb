"""How benchmarks end: what was missed, the figures, and the exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.report import Verdict, conclude, expectations


@pytest.mark.parametrize("missed", [[], ["half of the limit", "no failure"]])
def test_a_missed_expectation_is_told_and_ends_with_1(
    missed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    with pytest.raises(SystemExit) as ended:
        conclude({"share": 0.5}, file, missed=missed)
    assert ended.value.code == (1 if missed else 0)
    told = capsys.readouterr().out.splitlines()
    assert told == [*(f"MISSED: {line}" for line in missed), "", "share=0.5"]
    assert json.loads(file.read_text())["share"] == 0.5


def test_the_table_of_expectations_says_which_are_not_met() -> None:
    lines = expectations([Verdict("a", "1", True), Verdict("b", "2", False)]).splitlines()
    assert lines[1] == "expectations"
    assert [line.split() for line in lines[-2:]] == [["a", "1", "met"], ["b", "2", "NOT", "MET"]]
