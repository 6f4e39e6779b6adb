"""Answers as text: values in readable units, a row of types, 'n of m rows'."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest

from sommelier.notebook_tables import Described, cell, count
from sommelier.units import Dimension, heading

_MAX_WIDTH = 48


def text_table(
    columns: Sequence[Described],
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
