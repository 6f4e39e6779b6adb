"""Rows of a table file: CSV, TSV, JSON, JSON lines (each also gzipped) or Parquet."""

from __future__ import annotations

import csv
import gzip
import json
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sommelier.connectors.cards import parse_json
from sommelier.errors import ConnectorError, RejectedModelError
from sommelier.storage.external_data import too_large

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")
MISSING = frozenset({"", "-", "na", "n/a", "nan", "none", "null", "?"})
_GROUPED = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")


@dataclass(frozen=True, slots=True)
class Row:
    """One row. number : the line in a CSV file (the header is 1), else the position from 1."""

    number: int
    cells: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that does not have the form of the others, and why."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class TableFile:
    """A table read into memory. columns : those of the header, or of the first object."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row | BadRow, ...]


def table_suffix(path: Path) -> str | None:
    """The suffix that says how to read the file ('.csv' for 'x.csv.gz'), or None."""
    name = path.name.lower().removesuffix(".gz")
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def read_table(path: Path, *, max_size: int) -> TableFile:
    """The table in a file of at most `max_size` bytes once unpacked.

    Raises RejectedModelError if it cannot be read as what its name says.
    """
    suffix = table_suffix(path)
    if suffix is None:
        raise RejectedModelError(f"not a table: its name ends in none of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise RejectedModelError("not a regular file")
    if suffix == ".parquet":
        return _parquet(path, max_size)
    content = _content(path, max_size)
    if not content.strip():
        raise RejectedModelError("the file is empty")
    try:
        if suffix in (".csv", ".tsv"):
            return _csv(path, content.decode("utf-8-sig"), "\t" if suffix == ".tsv" else ",")
        if suffix == ".json":
            return _objects(path, _list_of_rows(parse_json(content, path.name)))
        lines = content.decode("utf-8-sig").splitlines()
        return _objects(path, [_json_line(line) for line in lines if line.strip()])
    except UnicodeDecodeError as error:
        raise RejectedModelError(f"not UTF-8 text at byte {error.start}") from error
    except ConnectorError as error:
        raise RejectedModelError(error.message) from error


def number(cell: object) -> float | None:
    """The number in a cell, None if the cell is empty. Raises ValueError for anything else.

    >>> number("1,013.01"), number("+2"), number("n/a"), number(float("nan"))
    (1013.01, 2.0, None, None)
    """
    if cell is None:
        return None
    if isinstance(cell, str):
        text = cell.strip()
        if text.lower() in MISSING:
            return None
        value = float(text.replace(",", "") if _GROUPED.fullmatch(text) else text)
    elif isinstance(cell, bool) or not hasattr(cell, "__float__"):
        raise ValueError(f"{cell!r} is not a number")
    else:
        value = float(cell)
    if math.isinf(value):
        raise ValueError(f"{cell!r} is not a number")
    return None if math.isnan(value) else value


def words(cell: object) -> str | None:
    """The text in a cell, None if the cell is empty."""
    if cell is None or isinstance(cell, dict | list):
        return None
    text = str(cell).strip()
    return None if text.lower() in MISSING else text


def _content(path: Path, max_size: int) -> bytes:
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            content = file.read(max_size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise RejectedModelError(f"cannot be read: {error}") from error
    if len(content) > max_size:
        raise too_large(len(content), max_size)
    return content


def _csv(path: Path, text: str, delimiter: str) -> TableFile:
    reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter, strict=True)
    rows: list[Row | BadRow] = []
    try:
        columns = tuple(name.strip() for name in next(reader))
        if len(set(columns)) != len(columns):
            raise RejectedModelError("two columns of the header have the same name")
        for cells in reader:
            if not cells:
                continue
            line = reader.line_num
            if len(cells) != len(columns):
                rows.append(BadRow(line, f"{len(cells)} cells, the header has {len(columns)}"))
            else:
                rows.append(Row(line, dict(zip(columns, cells, strict=True))))
    except csv.Error as error:
        raise RejectedModelError(f"line {reader.line_num}: not CSV: {error}") from error
    return TableFile(path, columns, tuple(rows))


def _objects(path: Path, found: list[object]) -> TableFile:
    rows: list[Row | BadRow] = []
    columns: dict[str, None] = {}
    for position, item in enumerate(found, start=1):
        if isinstance(item, dict):
            columns.update(dict.fromkeys(item))
            rows.append(Row(position, item))
        else:
            rows.append(BadRow(position, "not an object"))
    if not columns:
        raise RejectedModelError("holds no objects to read as rows")
    return TableFile(path, tuple(columns), tuple(rows))


def _list_of_rows(content: object) -> list[object]:
    """A list; or the only list of an object; or an object of objects, whose keys are names."""
    if isinstance(content, list):
        return content
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        if len(lists) == 1:
            return list(lists[0])
        if content and all(isinstance(value, dict) for value in content.values()):
            return [{"name": name, **value} for name, value in content.items()]
    raise RejectedModelError("holds no list of rows")


def _json_line(line: str) -> object:
    try:
        return json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return None  # told apart as a row that is not an object


def _parquet(path: Path, max_size: int) -> TableFile:
    import duckdb  # 70 ms, only for Parquet

    size = path.stat().st_size
    if size > max_size:
        raise too_large(size, max_size)
    try:
        with duckdb.connect(":memory:") as connection:
            found = connection.execute("SELECT * FROM read_parquet(?)", [str(path)])
            columns = tuple(str(column[0]) for column in found.description or ())
            rows = found.fetchall()
    except duckdb.Error as error:
        first = str(error).splitlines()[0]
        raise RejectedModelError(f"not a Parquet file: {first}") from error
    cells = (dict(zip(columns, row, strict=True)) for row in rows)
    return TableFile(path, columns, tuple(Row(i, c) for i, c in enumerate(cells, start=1)))
