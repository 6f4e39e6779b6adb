"""What all benchmarks share: their arguments, their tables, and the figures they end with."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

Cell = str | int | float


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
    return "\n".join(["", title, lines[0], "-" * len(lines[0]), *lines[1:]])


def finish(figures: Mapping[str, float], file: Path | None) -> None:
    """Write the figures to a file, with the machine they were taken on, and print the last line."""
    if file is not None:
        machine = {"machine": platform.machine(), "python": platform.python_version()}
        file.write_text(json.dumps({**figures, "environment": machine}, indent=1) + "\n")
    print()
    print(" ".join(f"{name}={_text(value)}" for name, value in figures.items()))


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else f"{cell:.4g}"
