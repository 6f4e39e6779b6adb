"""Answers in the shell's formats. Machine formats carry base units, formats for people chosen ones.

Every format is a function from a Grid to pieces of text, so that long answers stream; the golden
files of tests/shell fix them byte for byte.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import Enum
from functools import singledispatch
from pathlib import PurePath

from sommelier.engine.result import ColumnInfo, Report, Result, Table
from sommelier.shell.terminal import visible
from sommelier.units import Dimension, format_value, heading

NULL = "NULL"
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
HUMAN_FORMATS = ("table", "markdown", "line")
_EXACT_COUNT = 100_000  # counts below it are printed digit by digit: 1797 probes, not 1.8K
_SHORT_ID = len("sha256:") + 12  # any prefix of an id names the model


@dataclass(frozen=True, slots=True)
class Layout:
    """How much room there is. width None: as wide as needed. maxrows 0: every row."""

    width: int | None = None
    maxrows: int = 0
    colour: bool = False


@dataclass(frozen=True, slots=True)
class Grid:
    """An answer as rows. matched : rows that exist, where a LIMIT cut them."""

    columns: tuple[ColumnInfo, ...]
    rows: Sequence[tuple[object, ...]]
    matched: int
    ids: Sequence[str] | None = None

    def headings(self) -> list[str]:
        """Names for people: their values have units."""
        pairs = zip(self.names(), self.columns, strict=True)
        return [heading(name, column.dimension) for name, column in pairs]

    def names(self) -> list[str]:
        """Column names, made unique, so that JSON loses none."""
        seen: dict[str, int] = {}
        names = []
        for column in self.columns:
            count = seen[column.name] = seen.get(column.name, 0) + 1
            names.append(column.name if count == 1 else f"{column.name}_{count}")
        return names


Outcome = Result | Table | Report


@singledispatch
def grid(outcome: object) -> Grid:
    """The rows of an answer."""
    raise TypeError(f"no rows in a {type(outcome).__name__}")


@grid.register
def _(outcome: Result) -> Grid:
    table = outcome.table()
    return Grid(table.columns, table.rows, outcome.matched, [str(id_) for id_ in outcome.ids])


@grid.register
def _(outcome: Table) -> Grid:
    return Grid(outcome.columns, outcome.rows, len(outcome.rows))


@grid.register
def _(outcome: Report) -> Grid:
    return Grid((ColumnInfo("report"),), [(line,) for line in outcome.lines], len(outcome.lines))


def pieces(outcome: Outcome, form: str, layout: Layout | None = None) -> Iterator[str]:
    """Pieces of text that together are the answer in format `form` (a key of FORMATTERS)."""
    layout = layout or Layout()
    if isinstance(outcome, Report):
        return _report(outcome, form)
    return FORMATTERS[form](grid(outcome), layout)


def _report(outcome: Report, form: str) -> Iterator[str]:
    if form in ("json", "jsonl"):
        yield json.dumps(outcome.data, default=_plain, ensure_ascii=False) + "\n"
    elif form == "csv":
        yield from _csv(grid(outcome), Layout())
    else:
        lines = "\n".join(visible(line) for line in outcome.lines) + "\n"
        yield f"```\n{lines}```\n" if form == "markdown" else lines


def render(outcome: Outcome, *, width: int | None = None, took_ms: float | None = None) -> str:
    """The whole answer as the shell shows it on a terminal of `width` columns, footer included."""
    body = "".join(pieces(outcome, "table", Layout(width=width)))
    return "\n".join([body.rstrip("\n"), *footer(outcome, took_ms=took_ms)])


def footer(outcome: Outcome, *, shown: int = 0, took_ms: float | None = None) -> list[str]:
    """'5 of 29 rows (3.4 ms: plan 0.3, index 0.5)', then the answer's notes, one a line.

    shown : rows printed, 0 = all. took_ms None: the time is left out.
    """
    if isinstance(outcome, Report):
        return []
    if isinstance(outcome, Table) and [c.name for c in outcome.columns[:2]] == ["status", "object"]:
        return list(outcome.notes)  # a statement that changes state: its row says the time
    rows, total = len(outcome), len(outcome)
    if isinstance(outcome, Result):
        total = max(outcome.matched, total)
    rows = min(rows, shown) if shown else rows
    count = f"{total} row{'' if total == 1 else 's'}"
    count = count if rows == total else f"{rows} of {count}"
    return [count + _timing(outcome, took_ms), *outcome.notes]


def _timing(outcome: Result | Table, took_ms: float | None) -> str:
    if took_ms is None:
        return ""
    phases = {"parse": 0.0} | outcome.timing if isinstance(outcome, Result) else {}
    details = ", ".join(f"{name} {_short_ms(ms)}" for name, ms in phases.items() if ms >= 0.05)
    total = format_value(took_ms, Dimension.TIME)
    return f" ({total}: {details})" if details else f" ({total})"


def _short_ms(milliseconds: float) -> str:
    """
    >>> _short_ms(0.31), _short_ms(12.4)
    ('0.3', '12')
    """
    return f"{milliseconds:.1f}" if milliseconds < 10 else f"{milliseconds:.0f}"


# ---- formats for people


def human(value: object, dimension: Dimension | None) -> str:
    """One value in the unit a person would choose, on one line.

    >>> human(1_340_000, Dimension.BYTES), human(0.9512, Dimension.FRACTION)
    ('1.34 MB', '95.12%')
    >>> human(1797, Dimension.COUNT), human(None, None), human(("mobile", "tiny"), None)
    ('1797', 'NULL', 'mobile, tiny')
    """
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    value = _plain(value)
    if value is None:
        return NULL
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return _human_number(value, dimension)
    if isinstance(value, list):
        return ", ".join(human(item, None) for item in value)
    if isinstance(value, dict):
        return visible(json.dumps(value, ensure_ascii=False))
    text = visible(str(value))
    return text[:_SHORT_ID] if text.startswith("sha256:") and len(text) == 71 else text


def _human_number(value: int | float, dimension: Dimension | None) -> str:
    whole = isinstance(value, int) or value.is_integer()
    if dimension in (None, Dimension.NUMBER) and isinstance(value, int):
        return str(value)
    if dimension is Dimension.COUNT and whole and abs(value) < _EXACT_COUNT:
        return str(int(value))
    return format_value(float(value), dimension or Dimension.NUMBER)


def _table(grid: Grid, layout: Layout) -> Iterator[str]:
    from sommelier.shell.boxes import box

    rows = list(grid.rows)
    hidden = len(rows) - layout.maxrows if layout.maxrows else 0
    head, tail = (rows, []) if hidden <= 0 else _ends(rows, layout.maxrows)
    yield box(
        grid.headings(),
        [_human_cells(grid, row) for row in head],
        [_human_cells(grid, row) for row in tail],
        right=_right_aligned(grid),
        width=layout.width,
        colour=layout.colour,
    )


def _ends(rows: list[tuple[object, ...]], shown: int) -> tuple[list[tuple[object, ...]], ...]:
    return rows[: (shown + 1) // 2], rows[len(rows) - shown // 2 :] if shown > 1 else []


def _human_cells(grid: Grid, row: tuple[object, ...]) -> list[str]:
    return [human(value, column.dimension) for value, column in zip(row, grid.columns, strict=True)]


def _right_aligned(grid: Grid) -> list[bool]:
    return [
        column.dimension is not None or _all_numbers([row[index] for row in grid.rows[:100]])
        for index, column in enumerate(grid.columns)
    ]


def _all_numbers(values: list[object]) -> bool:
    known = [value for value in values if value is not None]
    return bool(known) and all(
        isinstance(_plain(v), int | float) and not isinstance(v, bool) for v in known
    )


def _markdown(grid: Grid, _: Layout) -> Iterator[str]:
    names = [_markdown_cell(name) for name in grid.headings()]
    yield "| " + " | ".join(names) + " |\n"
    yield "|" + "|".join("---:" if right else "---" for right in _right_aligned(grid)) + "|\n"
    for row in grid.rows:
        cells = (_markdown_cell(cell) for cell in _human_cells(grid, row))
        yield "| " + " | ".join(cells) + " |\n"


def _markdown_cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _line(grid: Grid, _: Layout) -> Iterator[str]:
    names = [visible(name) for name in grid.headings()]
    width = max((len(name) for name in names), default=0)
    for number, row in enumerate(grid.rows):
        cells = zip(names, _human_cells(grid, row), strict=True)
        yield ("\n" if number else "") + "".join(f"{n:>{width}} = {cell}\n" for n, cell in cells)


# ---- formats for programs


def raw(value: object) -> str:
    """One value as text for a program: base units, full precision, ISO 8601 times.

    >>> raw(0.1), raw(2.0e8), raw(True), raw(None), raw(("a", "b"))
    ('0.1', '200000000', 'true', 'NULL', '["a", "b"]')
    """
    value = _plain(value)
    if value is None:
        return NULL
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _csv(grid: Grid, _: Layout) -> Iterator[str]:
    yield ",".join(_csv_cell(name) for name in grid.names()) + "\n"
    for row in grid.rows:
        yield ",".join("NULL" if v is None else _csv_cell(v) for v in map(_plain, row)) + "\n"


def _csv_cell(value: object) -> str:
    """A cell by RFC 4180; a text that reads NULL is quoted, to tell it from an unknown value.

    Control characters other than tab and newline are spelled out: they may reach a terminal.
    """
    text = _CONTROL.sub(_spelled, raw(value))
    special = any(character in text for character in ',"\r\n') or text != text.strip()
    if special or not text or (text == NULL and value is not None):
        return '"' + text.replace('"', '""') + '"'
    return text


def _spelled(match: re.Match[str]) -> str:
    return visible(match[0])


def _tsv(grid: Grid, _: Layout) -> Iterator[str]:
    yield "\t".join(_tsv_cell(name) for name in grid.names()) + "\n"
    for row in grid.rows:
        yield "\t".join(_tsv_cell(value) for value in row) + "\n"


def _tsv_cell(value: object) -> str:
    """A cell without tabs or newlines: they, control characters and backslashes are escaped."""
    return visible(raw(value).replace("\\", "\\\\"))


def _json(grid: Grid, _: Layout) -> Iterator[str]:
    if not grid.rows:
        yield "[]\n"
        return
    names = grid.names()
    for number, row in enumerate(grid.rows):
        yield ("[\n  " if number == 0 else ",\n  ") + _object(names, row)
    yield "\n]\n"


def _jsonl(grid: Grid, _: Layout) -> Iterator[str]:
    names = grid.names()
    for row in grid.rows:
        yield _object(names, row) + "\n"


def _object(names: list[str], row: tuple[object, ...]) -> str:
    cells = {name: _plain(value) for name, value in zip(names, row, strict=True)}
    text = json.dumps(cells, ensure_ascii=False, allow_nan=False)
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _ids(grid: Grid, _: Layout) -> Iterator[str]:
    """Model ids; for rows that are not models the column `id`, else `name`, else the first."""
    if grid.ids is not None:
        yield from (f"{id_}\n" for id_ in grid.ids)
        return
    names = grid.names()
    index = next((names.index(name) for name in ("id", "name") if name in names), 0)
    yield from (_tsv_cell(row[index]) + "\n" for row in grid.rows if row)


FORMATTERS: dict[str, Callable[[Grid, Layout], Iterator[str]]] = {
    "table": _table,
    "csv": _csv,
    "tsv": _tsv,
    "json": _json,
    "jsonl": _jsonl,
    "markdown": _markdown,
    "line": _line,
    "ids": _ids,
}


def _plain(value: object) -> object:
    """The value as JSON knows it: None, bool, int, float, str, list or dict. NaN is unknown."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None if math.isnan(value) else str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, date | PurePath):
        return str(value)
    tolist = getattr(value, "tolist", None)  # a numpy scalar or array
    return _plain(tolist()) if callable(tolist) else str(value)
