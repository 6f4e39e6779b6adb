"""`python -m benchmarks.figures [FILES]`: what benchmarks wrote, into docs/benchmarks.md.

A benchmark writes its figures with `--json benchmarks/results/NAME.json`. What is in that folder
stands at the end of the page, between two markers; the text around them is written by hand. FILES
are copied into the folder first.
"""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN = "<!-- figures: written by python -m benchmarks.figures -->"
MOST = 40  # figures beside tables: the last ones
WIDTH = 116  # of a line of figures
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
    """The page with a part for each file between its markers.

    Raises ValueError if a marker is missing.
    """
    before, found, rest = page.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise ValueError(f"the page needs a line '{BEGIN}', and after it '{END}'")
    return f"{before}{BEGIN}\n\n" + "\n".join(map(_part, files)) + f"\n{END}{after}"


def _part(file: Path) -> str:
    """A heading, the command, and what it printed."""
    figures = json.loads(file.read_text())
    taken, tables = figures.pop("environment"), figures.pop("tables", [])
    shown = list(figures.items())[-MOST if tables else None :]
    numbers = " ".join(f"{name}={_short(value)}" for name, value in shown)
    if len(shown) < len(figures):
        numbers = f"... {numbers} ({len(figures)} in {file.relative_to(ROOT)})"
    lines = textwrap.wrap(numbers, WIDTH, break_on_hyphens=False, break_long_words=False)
    printed = "\n\n".join([*tables, "\n".join(lines)])
    when = f"{taken['date']}, Python {taken['python']}, {taken['machine']}"
    return f"### {file.stem}\n\n`{taken['command']}`, {when}:\n\n```text\n{printed}\n```\n"


def _short(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else value


if __name__ == "__main__":
    main()
