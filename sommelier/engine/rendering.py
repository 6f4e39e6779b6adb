"""Answers as text and HTML: values in readable units, a row of types, 'n of m rows'."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import zip_longest
from typing import Protocol

from sommelier.units import Dimension, format_value, heading


class _Column(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def dimension(self) -> Dimension | None: ...


_MAX_WIDTH = 48
# of text in a notebook, whose own style has letters of several widths and breaks words
_LINES = "font-family:var(--jp-code-font-family,monospace);white-space:pre-wrap;word-break:normal"


def cell(value: object, dimension: Dimension | None) -> str:
    """One value as a person reads it.

    >>> cell(81_600_000, Dimension.BYTES), cell(0.93, Dimension.FRACTION), cell(None, None)
    ('81.6 MB', '93%', 'NULL')
    """
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return format_value(float(value), dimension or Dimension.NUMBER)
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    return str(value)


def text_table(
    columns: Sequence[_Column],
    rows: Sequence[Sequence[object]],
    *,
    total: int,
    notes: Iterable[str] = (),
) -> str:
    """A table with names, types and at most the given rows, then 'n of total rows' and notes."""
    grid = [
        [_clip(cell(v, c.dimension)) for v, c in zip(row, columns, strict=True)] for row in rows
    ]
    heads = [[heading(c.name, c.dimension) for c in columns], [_type(c.dimension) for c in columns]]
    widths = [max((len(line[i]) for line in heads + grid), default=0) for i in range(len(columns))]
    right = [c.dimension is not None for c in columns]
    lines = [_line(head, widths, right) for head in heads]
    lines.append("  ".join("-" * width for width in widths))
    lines += [_line(row, widths, right) for row in grid]
    lines.append(count(len(rows), total))
    lines += list(notes)
    return "\n".join(lines)


def grid(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, width: int | None = None
) -> list[str]:
    """Lines of left-aligned text columns under their heads.

    width : the most columns of text a line may have; cells that do not fit go on in further lines.

    >>> grid(["a", "b"], [["1", "long"], ["22", "x"]])
    ['a   b', '--  ----', '1   long', '22  x']
    >>> grid(["a", "b"], [["1", "one two three"]], width=12)
    ['a  b', '-  ---------', '1  one two', '   three']
    """
    widths = [max(len(line[i]) for line in [heads, *rows]) for i in range(len(heads))]
    if width is not None:
        widths = _narrowed(widths, [len(head) for head in heads], width)
    left = [False] * len(heads)
    ruler = ["-" * width for width in widths]
    lines = [_line(line, widths, left) for line in [heads, ruler]]
    for row in rows:
        cells = [_wrapped(text, width) for text, width in zip(row, widths, strict=True)]
        lines += [_line(part, widths, left) for part in zip_longest(*cells, fillvalue="")]
    return lines


def _narrowed(widths: list[int], heads: list[int], width: int) -> list[int]:
    """The widths with the widest made narrower, never below its head, until a line fits."""
    widths = list(widths)
    while sum(widths) + 2 * (len(widths) - 1) > width:
        shrinkable = [i for i in range(len(widths)) if widths[i] > heads[i]]
        if not shrinkable:
            break
        widths[max(shrinkable, key=lambda i: widths[i])] -= 1
    return widths


def _wrapped(text: str, width: int) -> list[str]:
    """The text in lines of at most `width`; the indentation of the first is kept in all."""
    import textwrap

    if len(text) <= width:
        return [text]
    indent = " " * (len(text) - len(text.lstrip()))
    return textwrap.wrap(text.strip(), width, initial_indent=indent, subsequent_indent=indent)


def html_table(
    columns: Sequence[_Column],
    rows: Sequence[Sequence[object]],
    *,
    total: int,
    notes: Iterable[str] = (),
) -> str:
    """The same table as HTML; every cell is escaped.

    Sides are said, for notebooks put all text to the right.
    """
    sides = [_side(column, [row[i] for row in rows]) for i, column in enumerate(columns)]
    head = "".join(
        f"<th{side}>{html.escape(name)}<br><small>{_type(c.dimension)}</small></th>"
        for side, c in zip(sides, columns, strict=True)
        for name in [heading(c.name, c.dimension)]
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{side}>{html.escape(cell(value, column.dimension))}</td>"
            for value, column, side in zip(row, columns, sides, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    foot = "<br>".join(html.escape(line) for line in (count(len(rows), total), *notes))
    return (
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        f"<p><small>{foot}</small></p>"
    )


def _side(column: _Column, values: Iterable[object]) -> str:
    """An attribute of HTML: numbers stand on the right, with their units, all else on the left."""
    known = [value for value in values if value is not None]
    number = column.dimension is not None or (
        bool(known) and all(type(value) in (int, float) for value in known)
    )
    return f' style="text-align:{"right;white-space:nowrap" if number else "left"}"'


def html_lines(lines: Iterable[str]) -> str:
    """Preformatted text as HTML, in letters of one width, which JupyterLab takes from a <pre>."""
    text = html.escape(chr(10).join(lines))
    return f'<pre style="{_LINES}">{text}</pre>'


def count(shown: int, total: int) -> str:
    """
    >>> count(40, 312), count(1, 1)
    ('40 of 312 rows', '1 row')
    """
    rows = "row" if total == 1 else "rows"
    return f"{total} {rows}" if shown >= total else f"{shown} of {total} {rows}"


def _type(dimension: Dimension | None) -> str:
    return dimension.value if dimension else "text"


def _clip(text: str) -> str:
    text = text.replace("\n", " ")
    return text if len(text) <= _MAX_WIDTH else text[: _MAX_WIDTH - 1] + "…"


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = (
        text.rjust(width) if flush else text.ljust(width)
        for text, width, flush in zip(cells, widths, right, strict=True)
    )
    return "  ".join(padded).rstrip()
