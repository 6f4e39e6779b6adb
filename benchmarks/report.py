"""What all benchmarks share: their arguments, their tables, and the figures they end with."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple, NoReturn

Cell = str | int | float
_tables: list[str] = []  # that this process made: what is kept beside its figures


class Verdict(NamedTuple):
    """An expectation, what was found, and whether that meets it."""

    expected: str
    found: str
    met: bool


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser that knows --quick, --seed and --json."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="smaller; under 60 s on 2 cores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    return parser


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Text with aligned columns; numbers have four significant digits."""
    cells = [list(header), *([_text(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    text = "\n".join([title, lines[0], "-" * len(lines[0]), *lines[1:]])
    _tables.append(text)
    return f"\n{text}"


def expectations(verdicts: Sequence[Verdict]) -> str:
    """A table of what was expected, and what came of it."""
    rows = [(v.expected, v.found, "met" if v.met else "NOT MET") for v in verdicts]
    return table("expectations", ("expected", "found", ""), rows)


def conclude(figures: Mapping[str, float], file: Path | None, *, missed: Sequence[str]) -> NoReturn:
    """Finish, and exit with 1 if something that was expected was missed, which is told before."""
    for line in missed:
        print(f"MISSED: {line}")
    finish(figures, file)
    sys.exit(1 if missed else 0)


def finish(figures: Mapping[str, float], file: Path | None) -> None:
    """Write the figures to a file, with the machine they were taken on, and print the last line."""
    if file is not None:
        taken = {
            "command": _command(),
            "date": date.today().isoformat(),
            "machine": platform.machine(),
            "python": platform.python_version(),
        }
        kept = {**figures, "environment": taken, "tables": _tables}
        file.write_text(json.dumps(kept, indent=1) + "\n")
    print()
    print(" ".join(f"{name}={_text(value)}" for name, value in figures.items()))


def _command() -> str:
    """What was typed, without where the figures go."""
    given = sys.argv[1:]
    at = given.index("--json") if "--json" in given else len(given)
    given = [word for word in (*given[:at], *given[at + 2 :]) if not word.startswith("--json=")]
    return " ".join(["python -m", f"benchmarks.{Path(sys.argv[0]).stem}", *given])


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else f"{cell:.4g}"
