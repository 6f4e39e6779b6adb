"""Answers as tables of HTML: units and exact values, links to models, notes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sommelier.engine.result import ColumnInfo, Report
from sommelier.shell.explorer.frame import model_link
from sommelier.shell.explorer.markup import Content, Markup, joined, tag
from sommelier.shell.explorer.questions import Answer
from sommelier.shell.output import human, raw
from sommelier.units import Dimension, format_value

_LONGEST = 400  # characters of a cell
_NAMES = ("name", "model")
_WIDE = 40  # characters beyond which a cell is wrapped


def answer_table(found: Answer, caption: str = "Answer") -> Markup:
    """The rows, how many there are, and the notes."""
    if isinstance(found.outcome, Report):
        lines = "\n".join(row[0] for row in found.rows)
        return tag("pre", lines, class_="report", tabindex="0", aria_label=caption)
    table = rows_table(found.columns, found.rows, caption=caption, ids=found.ids)
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
    ids: Sequence[str] = (),
) -> Markup:
    """A table with its heads. ids : of the models that are the rows; their names are links."""
    heads = tag("tr", *(_head(column) for column in columns))
    named = next((i for i, c in enumerate(columns) if c.name in _NAMES), 0 if ids else None)
    body = []
    for number, row in enumerate(rows):
        model_id = ids[number] if ids else None
        cells = [
            _cell(value, column, model_id if place == named else None)
            for place, (value, column) in enumerate(zip(row, columns, strict=True))
        ]
        body.append(tag("tr", *cells, data_row=number if ids else None))
    table = tag("table", tag("caption", caption), tag("thead", heads), tag("tbody", *body))
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _head(column: ColumnInfo) -> Markup:
    unit = column.dimension
    kind = tag("small", unit.value) if unit is not None and unit is not Dimension.NUMBER else None
    return tag("th", column.name, kind, scope="col", class_="number" if unit else None)


def _cell(value: Any, column: ColumnInfo, model_id: str | None) -> Markup:
    shown = human(value, column.dimension)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    exact = raw(value) if number and column.dimension is not None else None
    if len(shown) > _LONGEST:
        shown = shown[:_LONGEST] + "…"
    if value is None:
        return tag("td", tag("span", "–", class_="unknown", title="unknown"))
    content: Content = shown if model_id is None else model_link(model_id, shown)
    if column.name == "progress" and number:
        content = joined(tag("progress", value=value, max=1, aria_label="progress"), " ", shown)
    kind = "number" if number else ("wide" if len(shown) > _WIDE else None)
    title = exact if exact != shown else None
    return tag("td", content, class_=kind, title=title)
