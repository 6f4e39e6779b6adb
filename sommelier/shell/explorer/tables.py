"""Answers as tables of HTML: units and exact values, links to models, notes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sommelier.engine.result import ColumnInfo, Report
from sommelier.shell.explorer.frame import model_address
from sommelier.shell.explorer.markup import Content, Markup, joined, tag
from sommelier.shell.explorer.questions import Answer
from sommelier.shell.output import human, raw
from sommelier.units import Dimension, format_value, heading

_LONGEST = 400  # characters of a cell
_NAMES = ("name", "model")
_WIDE = 40  # characters beyond which a cell is wrapped


def answer_table(
    found: Answer, caption: str = "Answer", hrefs: Sequence[str] | None = None
) -> Markup:
    """The rows, how many there are, and the notes. hrefs : where names lead, other than to models
    that are the rows."""
    if isinstance(found.outcome, Report):
        lines = "\n".join(row[0] for row in found.rows)
        return tag("pre", lines, class_="report", tabindex="0", aria_label=caption)
    if hrefs is None:
        hrefs = [model_address(model_id) for model_id in found.ids]
    table = rows_table(found.columns, found.rows, caption=caption, hrefs=hrefs)
    notes = [tag("li", note) for note in found.notes]
    return joined(
        table,
        tag("p", counted(found), class_="count"),
        tag("ul", *notes, class_="notes", aria_label="Notes") if notes else None,
    )


def counted(found: Answer) -> str:
    """How many rows there are, and how long it took."""
    took = format_value(found.took_ms, Dimension.TIME)
    if found.total is None:
        return f"the first {len(found.rows)} rows ({took})"
    rows = f"{found.total} row{'' if found.total == 1 else 's'}"
    shown = f"{len(found.rows)} of {rows}" if found.cut else rows
    return f"{shown} ({took})"


def rows_table(
    columns: Sequence[ColumnInfo],
    rows: Sequence[Sequence[Any]],
    *,
    caption: str,
    hrefs: Sequence[str] = (),
) -> Markup:
    """A table with its heads. hrefs : where the names of the rows lead."""
    right = [_is_right(column, [row[i] for row in rows]) for i, column in enumerate(columns)]
    heads = (_head(column, right=one) for column, one in zip(columns, right, strict=True))
    named = next((i for i, c in enumerate(columns) if c.name in _NAMES), 0)
    body = []
    for number, row in enumerate(rows):
        hrefs_of = {named: hrefs[number]} if hrefs else {}
        cells = [
            _cell(value, columns[i], hrefs_of.get(i), right=right[i]) for i, value in enumerate(row)
        ]
        body.append(tag("tr", *cells))
    head = tag("thead", tag("tr", *heads))
    table = tag("table", tag("caption", caption), head, tag("tbody", *body))
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _is_right(column: ColumnInfo, values: Sequence[Any]) -> bool:
    known = [value for value in values if value is not None]
    return column.dimension is not None or (bool(known) and all(map(_is_number, known)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _head(column: ColumnInfo, *, right: bool) -> Markup:
    unit = column.dimension
    told = unit not in (None, Dimension.NUMBER) and unit.value != column.name
    kind = tag("small", unit.value) if unit is not None and told else None
    side = "number" if right else None
    return tag("th", heading(column.name, unit), kind, scope="col", class_=side)


def _cell(value: Any, column: ColumnInfo, href: str | None, *, right: bool) -> Markup:
    side = "number" if right else None
    if value is None:
        return tag("td", tag("span", "–", class_="unknown", title="unknown"), class_=side)
    shown = human(value, column.dimension)
    exact = raw(value) if _is_number(value) and column.dimension is not None else None
    if len(shown) > _LONGEST:
        shown = shown[:_LONGEST] + "…"
    content: Content = shown if href is None else tag("a", shown, href=href)
    if column.name == "progress" and _is_number(value):
        bar = tag("progress", value=value, max=1, aria_label="progress")
        content = joined(bar, " ", shown)
    kind = side or ("wide" if len(shown) > _WIDE else None)
    return tag("td", content, class_=kind, title=exact if exact != shown else None)
