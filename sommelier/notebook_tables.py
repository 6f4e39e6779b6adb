"""Tables and text as HTML for notebooks: units in the cells, small bars, everything escaped.

Plain CSS in attributes and no script, so that a page shows what a notebook stored. Colours are told
apart with any colour vision and stand on light and on dark ground.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sommelier.units import Dimension, format_value, heading


class Described(Protocol):
    """A column of a table. dimension None: text, truth or a bare number."""

    @property
    def name(self) -> str: ...
    @property
    def dimension(self) -> Dimension | None: ...


@dataclass(frozen=True, slots=True)
class Head:
    """A column of a table that is made here."""

    name: str
    dimension: Dimension | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """How much of a whole the number of a cell is.

    share : of the bar's length, in [0, 1]. mark : where the reference's own value lies, in [0, 1];
    None: there is none. told : what the bar says, in words.
    """

    share: float
    told: str
    mark: float | None = None


Bars = Mapping[tuple[int, int], Bar]  # by (row, column)

_UP_TO, _BEYOND, _GROUND, _MARK = "#0072B2", "#D55E00", "rgba(128,128,128,.3)", "#808080"
_HIGH = "4px"
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


def count(shown: int, total: int) -> str:
    """
    >>> count(40, 312), count(1, 1)
    ('40 of 312 rows', '1 row')
    """
    rows = "row" if total == 1 else "rows"
    return f"{total} {rows}" if shown >= total else f"{shown} of {total} {rows}"


def html_table(
    columns: Sequence[Described],
    rows: Sequence[Sequence[object]],
    *,
    notes: Iterable[str] = (),
    bars: Bars | None = None,
    under: Mapping[int, str] | None = None,
) -> str:
    """A table with the notes below it; every cell is escaped.

    bars : of cells. under : what stands small below the name of a column. Sides are said, for
    notebooks put all text to the right.
    """
    sides = [_side(column, [row[i] for row in rows]) for i, column in enumerate(columns)]
    small = under or {}
    head = "".join(
        f'<th style="{side}">{html.escape(name)}{_below(small.get(i))}</th>'
        for i, (side, column) in enumerate(zip(sides, columns, strict=True))
        for name in [heading(column.name, column.dimension)]
    )
    body = "".join(
        f"<tr>{_row(row, columns, sides, place, bars or {})}</tr>" for place, row in enumerate(rows)
    )
    foot = "<br>".join(html.escape(line) for line in notes)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" + (
        f"<p><small>{foot}</small></p>" if foot else ""
    )


def html_facts(
    title: str, facts: Iterable[tuple[str, object]], bars: Mapping[int, Bar] | None = None
) -> str:
    """A title and a small table of names and values, without those that are None; all escaped.

    bars : of values, by their place among the facts.
    """
    body = "".join(
        f'<tr><th style="text-align:left">{html.escape(name)}</th>'
        f'<td style="text-align:left">{html.escape(cell(value, None))}'
        f"{_bar((bars or {}).get(place))}</td></tr>"
        for place, (name, value) in enumerate(facts)
        if value is not None
    )
    head = f"<p><b>{html.escape(title)}</b></p>"
    return f'{head}<table style="margin-bottom:8px"><tbody>{body}</tbody></table>'


def html_lines(lines: Iterable[str]) -> str:
    """Preformatted text as HTML, in letters of one width, which JupyterLab takes from a <pre>."""
    text = html.escape(chr(10).join(lines))
    return f'<pre style="{_LINES}">{text}</pre>'


# ---- bars


def bars_of(
    columns: Sequence[Described],
    rows: Sequence[Sequence[object]],
    reference: Mapping[int, float] | None = None,
    whose: str = "",
) -> tuple[dict[tuple[int, int], Bar], dict[int, str]]:
    """(the bars of a table, what stands below the heads of its columns).

    Shares have bars from 0 to 100%; other numbers where the value of a reference is known, whose
    name is `whose`, and not all rows are the reference's. A bar that is longer than the
    reference's goes on in another colour.
    """
    bars: dict[tuple[int, int], Bar] = {}
    under: dict[int, str] = {}
    for i, column in enumerate(columns):
        known = {place: row[i] for place, row in enumerate(rows) if _number(row[i])}
        values = {place: float(value) for place, value in known.items()}  # type: ignore[arg-type]
        basis = (reference or {}).get(i)
        if column.dimension is Dimension.FRACTION and all(0 <= v <= 1 for v in values.values()):
            shown = {p: Bar(v, format_value(v, Dimension.FRACTION)) for p, v in values.items()}
        elif column.dimension is not None and basis and min(values.values(), default=-1.0) >= 0:
            shown = {p: against(v, basis, whose, max(values.values())) for p, v in values.items()}
            under[i] = f"{whose}: {format_value(basis, column.dimension)}"
        else:
            continue
        bars.update({(place, i): bar for place, bar in shown.items()})
    return bars, under


def against(value: float, basis: float, whose: str, most: float | None = None) -> Bar:
    """The bar of a value beside the reference's own; as long as the larger of it and `most`.

    >>> against(30.0, 60.0, "base")
    Bar(share=0.5, told="50% of base's", mark=1.0)
    """
    whole = max(basis, value, 0.0 if most is None else most)
    told = f"{format_value(value / basis, Dimension.FRACTION)} of {whose}'s"
    return Bar(value / whole, told, basis / whole)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _bar(bar: Bar | None) -> str:
    """A line below the text of a cell, as long as the share."""
    if bar is None:
        return ""
    share, mark = min(max(bar.share, 0.0), 1.0), bar.mark
    parts = [(_UP_TO, share if mark is None else min(share, mark))]
    if mark is not None and share > mark:
        parts.append((_BEYOND, share - mark))
    elif mark is not None and mark < 1:
        parts += [("", mark - share), (_MARK, 0.0)]
    drawn = "".join(_part(colour, length) for colour, length in parts)
    style = f"display:flex;height:{_HIGH};min-width:4em;margin-top:2px;background-color:{_GROUND}"
    return f'<div style="{style}" title="{html.escape(bar.told)}">{drawn}</div>'


def _part(colour: str, length: float) -> str:
    wide = f"width:{100 * length:.1f}%" if colour != _MARK else "width:2px"
    return (
        f'<div style="height:{_HIGH};{wide}{f";background-color:{colour}" * bool(colour)}"></div>'
    )


# ---- parts


def _row(
    row: Sequence[object],
    columns: Sequence[Described],
    sides: Sequence[str],
    place: int,
    bars: Bars,
) -> str:
    return "".join(
        f'<td style="{side}">{html.escape(cell(value, column.dimension))}'
        f"{_bar(bars.get((place, i)))}</td>"
        for i, (value, column, side) in enumerate(zip(row, columns, sides, strict=True))
    )


def _below(text: str | None) -> str:
    if text is None:
        return ""
    return f'<br><small style="font-weight:normal">{html.escape(text)}</small>'


def _side(column: Described, values: Iterable[object]) -> str:
    """In CSS: numbers stand on the right, with their units, all else on the left."""
    known = [value for value in values if value is not None]
    number = column.dimension is not None or (
        bool(known) and all(type(value) in (int, float) for value in known)
    )
    return f"text-align:{'right;white-space:nowrap' if number else 'left'}"
