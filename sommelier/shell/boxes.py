"""Box-drawn tables fitted to the terminal: wide columns shrink first, then middle columns go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sommelier.shell.terminal import display_width, fit, pad, paint, visible

_NARROWEST = 8  # a column of text is not shrunk below it; then columns are left out
_GAP = "…"
_NULL = "NULL"


@dataclass(frozen=True, slots=True)
class _Column:
    """cells : the name, then the values. narrowest : the width it may be shrunk to."""

    cells: list[str]
    width: int
    narrowest: int
    right: bool


def box(
    names: Sequence[str],
    head: Sequence[Sequence[str]],
    tail: Sequence[Sequence[str]] = (),
    *,
    right: Sequence[bool],
    width: int | None = None,
    colour: bool = False,
) -> str:
    """The table as lines. Rows of `tail` follow a row of dots that stands for the ones left out.

    right : per column, whether it is right-aligned. width : columns of the terminal, None = any.

    >>> print(box(["name", "memory"], [["a", "1 MB"]], right=[False, True]), end="")
    ┌──────┬────────┐
    │ name │ memory │
    ├──────┼────────┤
    │ a    │   1 MB │
    └──────┴────────┘
    """
    gap = [[_GAP] * len(names)] if tail else []
    rows = [[visible(name) for name in names], *head, *gap, *tail]
    columns = [_column([row[i] for row in rows], right=flush) for i, flush in enumerate(right)]
    if width is not None:
        columns = _fit(columns, width)
    return _draw(columns, colour) if columns else ""


def _column(cells: list[str], *, right: bool) -> _Column:
    width = max(display_width(cell) for cell in cells)
    return _Column(cells, width, width if right else min(width, _NARROWEST), right)


def _fit(columns: list[_Column], width: int) -> list[_Column]:
    """Columns that fit: text is shrunk, then columns right of the middle become one of dots."""
    if _total(column.width for column in columns) <= width:
        return columns
    kept = list(columns)
    dots = _Column([_GAP] * len(columns[0].cells), 1, 1, False) if columns else None
    spare = 0
    while len(kept) > 1 and _total(column.narrowest for column in kept) + spare > width:
        # The first columns say most, the last often what was asked for.
        kept.pop(min(len(kept) - 1, (len(kept) + 1) // 2))
        spare = 4  # the column of dots and its frame
    if len(kept) < len(columns) and dots is not None:
        kept.insert((len(kept) + 1) // 2, dots)
    widths = _shrink([c.width for c in kept], [c.narrowest for c in kept], width)
    return [replace(column, width=w) for column, w in zip(kept, widths, strict=True)]


def _shrink(widths: list[int], narrowest: list[int], width: int) -> list[int]:
    """Widths that sum to at most `width` where possible: the widest column gives way first.

    >>> _shrink([30, 12, 6], [8, 8, 6], 42)
    [14, 12, 6]
    """
    widths = list(widths)
    while _total(widths) > width:
        slack = [i for i, w in enumerate(widths) if w > narrowest[i]]
        if not slack:
            break
        widths[max(slack, key=lambda i: (widths[i], i))] -= 1
    return widths


def _total(widths: Iterable[int]) -> int:
    return sum(width + 3 for width in widths) + 1


def _draw(columns: list[_Column], colour: bool) -> str:
    bar = paint("│", "frame", colour)
    lines = [_rule(("┌", "┬", "┐"), columns, colour)]
    for number in range(len(columns[0].cells)):
        cells = (_cell(column, number, colour) for column in columns)
        lines.append(f"{bar} " + f" {bar} ".join(cells) + f" {bar}")
        if number == 0:
            lines.append(_rule(("├", "┼", "┤"), columns, colour))
    lines.append(_rule(("└", "┴", "┘"), columns, colour))
    return "\n".join(lines) + "\n"


def _cell(column: _Column, number: int, colour: bool) -> str:
    text = column.cells[number]
    padded = pad(fit(text, column.width), column.width, right=column.right)
    if number == 0:
        return paint(padded, "head", colour)
    return paint(padded, "null", colour) if text in (_NULL, _GAP) else padded


def _rule(corners: tuple[str, str, str], columns: list[_Column], colour: bool) -> str:
    left, middle, end = corners
    line = middle.join("─" * (column.width + 2) for column in columns)
    return paint(left + line + end, "frame", colour)
