"""The figures in the documentation are those that benchmarks wrote."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.figures import BEGIN, END, FOLDER, PAGE, with_figures
from benchmarks.report import finish, table


def test_the_page_has_the_figures_of_the_files() -> None:
    """`python -m benchmarks.figures` writes them again."""
    files = sorted(FOLDER.glob("*.json"))
    assert files
    assert with_figures(PAGE.read_text(), files) == PAGE.read_text()


def test_what_a_benchmark_wrote_becomes_a_part_and_the_prose_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "sla.json"
    arguments = ["/x/benchmarks/sla.py", "--seed", "1", "--json", str(file), "--quick"]
    monkeypatch.setattr(sys, "argv", arguments)
    table("cases", ("network", "ms"), [["wifi", 12.3456]])
    finish({"on_time": 0.98765, "cases": 40}, file)
    assert json.loads(file.read_text())["on_time"] == 0.98765
    page = with_figures(f"before\n{BEGIN}\nold\n{END}\nafter\n", [file])
    assert "### sla\n\n`python -m benchmarks.sla --seed 1 --quick`, 20" in page
    assert "\nwifi     12.35\n" in page
    assert page.count("on_time=0.9877 cases=40\n") == 1
    assert page.startswith(f"before\n{BEGIN}\n")
    assert page.endswith(f"\n{END}\nafter\n")
    assert "old" not in page


@pytest.mark.parametrize("page", ["no markers", f"{END} {BEGIN}"])
def test_a_page_without_markers_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="needs a line"):
        with_figures(page, [])
