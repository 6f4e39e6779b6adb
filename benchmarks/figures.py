"""`python -m benchmarks.figures [FILES]`: what benchmarks wrote, into docs/benchmarks.md.

A benchmark writes its figures with `--json benchmarks/results/NAME.json`. What is in that folder
stands at the end of the page, between two markers; the text around them is written by hand. FILES
are copied into the folder first.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
BEGIN = "<!-- figures: written by python -m benchmarks.figures -->"
END = "<!-- end of the figures -->"


def main() -> None:
    """Takes the files in, and writes the page again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILES")
    for file in parser.parse_args().files:
        shutil.copyfile(file, FOLDER / file.name)
    PAGE.write_text(with_figures(PAGE.read_text(), sorted(FOLDER.glob("*.json"))))
    print(f"{len(list(FOLDER.glob('*.json')))} benchmarks in {PAGE}")


def with_figures(page: str, files: Iterable[Path]) -> str:
    """The page with a table of the files' figures between its markers.

    Raises ValueError if a marker is missing.
    """
    before, found, rest = page.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise ValueError(f"the page needs a line '{BEGIN}', and after it '{END}'")
    rows = ["| command | taken | figures |", "|---|---|---|", *map(_row, files)]
    return f"{before}{BEGIN}\n" + "\n".join(rows) + f"\n{END}{after}"


def _row(file: Path) -> str:
    figures = json.loads(file.read_text())
    taken = figures.pop("environment")
    numbers = ", ".join(f"{name} {_short(value)}" for name, value in figures.items())
    when = f"{taken['date']}, Python {taken['python']}, {taken['machine']}"
    return f"| `{taken['command']}` | {when} | {numbers.replace('|', '/')} |"


def _short(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else value


if __name__ == "__main__":
    main()
