"""Box-drawn tables fitted to the terminal: wide columns shrink first, then middle columns go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sommelier.shell.terminal import display_width, fit, pad, paint, visible

_NARROWEST = 8  # a column of text is not shrunk below it; then columns are left out
_FIRST_SHARE = 4  # the first column, the name, keeps at least this part of the terminal
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
    if not columns:
        return ""
    if width is None:
        return _draw(columns, colour)
    hidden = _hidden(columns, width)
    missing = fit(f"not shown: {', '.join(columns[i].cells[0] for i in sorted(hidden))}", width)
    return _draw(_fit(columns, hidden, width), colour) + (
        paint(missing, "note", colour) + "\n" if hidden else ""
    )


def _column(cells: list[str], *, right: bool) -> _Column:
    width = max(display_width(cell) for cell in cells)
    return _Column(cells, width, width if right else min(width, _NARROWEST), right)


def _hidden(columns: list[_Column], width: int) -> set[int]:
    """Positions of the columns to leave out so that the others fit.

    First go those that say nothing, then the ones right of the middle: the first columns say most,
    the last are often what was asked for.
    """
    kept = list(range(len(columns)))
    least = [column.narrowest for column in columns]
    least[0] = _narrowest_first(columns[0], width)
    while len(kept) > 1:
        spare = 4 if len(kept) < len(columns) else 0  # the column of dots and its frame
        if _total(least[i] for i in kept) + spare <= width:
            break
        silent = [i for i in kept[1:] if set(columns[i].cells[1:]) <= {_NULL, _GAP, ""}]
        kept.remove(silent[-1] if silent else kept[min(len(kept) - 1, (len(kept) + 1) // 2)])
    return set(range(len(columns))) - set(kept)


def _fit(columns: list[_Column], hidden: set[int], width: int) -> list[_Column]:
    """The columns that are shown, shrunk to `width`; one of dots stands for the hidden ones."""
    shown = [column for i, column in enumerate(columns) if i not in hidden]
    least = [column.narrowest for column in shown]
    least[0] = _narrowest_first(shown[0], width)
    if hidden:
        place = min(hidden)
        shown.insert(place, _Column([_GAP] * len(columns[0].cells), 1, 1, False))
        least.insert(place, 1)
    widths = _shrink([column.width for column in shown], least, width)
    return [replace(column, width=w) for column, w in zip(shown, widths, strict=True)]


def _narrowest_first(first: _Column, width: int) -> int:
    return max(first.narrowest, min(first.width, width // _FIRST_SHARE))


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
