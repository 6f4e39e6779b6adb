"""Rows of a table file: CSV, TSV, JSON, JSON lines (each also gzipped) or Parquet.

A few kilobytes may unpack to gigabytes, so the size of what is in a file is looked at before it is
read: its bytes against the limit, and its cells, each of which is an object in memory.
"""

from __future__ import annotations

import csv
import glob
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sommelier.connectors.cards import parse_json
from sommelier.errors import ConnectorError, RejectedModelError, first_line
from sommelier.storage.external_data import too_large
from sommelier.units import Dimension, format_value

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from duckdb.sqltypes import DuckDBPyType

MAX_CELLS = 10**7  # about 100 bytes each in memory
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")
MISSING = frozenset({"", "-", "na", "n/a", "nan", "none", "null", "?"})
_GROUPED = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")
_CHUNK = 1 << 20
_PARQUET_MEMORY = "1GB"  # what DuckDB may take to read a file
_NESTED = frozenset({"array", "bit", "blob", "map", "struct", "union", "variant"})


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
    """The table in a file of at most `max_size` bytes once unpacked, and of MAX_CELLS cells.

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
        _check_cells(content.count(b",") + content.count(b"[") + content.count(b"{"))
        if suffix == ".json":
            return _objects(path, _list_of_rows(parse_json(content, path.name)))
        lines = content.decode("utf-8-sig").split("\n")  # a text may hold any other line break
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
        raise ValueError(f"{str(cell)[:50]!r} is not a number")
    else:
        value = _float(cell)
    if math.isinf(value):
        raise ValueError(f"{str(cell)[:50]!r} is not a number")
    return None if math.isnan(value) else value


def words(cell: object) -> str | None:
    """The text in a cell, None if the cell is empty."""
    if cell is None or isinstance(cell, dict | list):
        return None
    text = str(cell).strip()
    return None if text.lower() in MISSING else text


def _float(cell: Any) -> float:
    """Infinite where an integer is beyond every float."""
    try:
        return float(cell)
    except OverflowError:
        return math.inf


def _content(path: Path, max_size: int) -> bytes:
    parts: list[bytes] = []
    left = max_size + 1
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            while left > 0 and (part := file.read(min(left, _CHUNK))):
                parts.append(part)
                left -= len(part)
    except (OSError, EOFError, zlib.error) as error:
        raise RejectedModelError(f"cannot be read: {error}") from error
    if left <= 0:
        limit = format_value(max_size, Dimension.BYTES)
        raise RejectedModelError(f"too large: more than the {limit} of USING max_size, unpacked")
    return b"".join(parts)


def _check_cells(count: int) -> None:
    if count > MAX_CELLS:
        raise RejectedModelError(
            f"too large: it has {count} cells or more, the limit is {MAX_CELLS}; split the table, "
            "or leave out columns"
        )


def _csv(path: Path, text: str, delimiter: str) -> TableFile:
    lines = io.StringIO(text, newline="")  # split where CSV ends a line, and nowhere else
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    rows: list[Row | BadRow] = []
    try:
        columns = tuple(name.strip() for name in next(reader))
        if len(set(columns)) != len(columns):
            raise RejectedModelError("two columns of the header have the same name")
        for cells in reader:
            if not cells:
                continue
            _check_cells((len(rows) + 1) * len(columns))
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
    except (ValueError, RecursionError):
        return None  # told apart as a row that is not an object


def _parquet(path: Path, max_size: int) -> TableFile:
    import duckdb  # 70 ms, only for Parquet

    try:
        with duckdb.connect(":memory:", config={"memory_limit": _PARQUET_MEMORY}) as connection:
            _check_stated_size(connection, glob.escape(str(path)), max_size)  # or it is a pattern
            return _parquet_rows(connection, path, max_size)
    except duckdb.Error as error:
        raise RejectedModelError(f"cannot be read as Parquet: {first_line(error)}") from error


def _check_stated_size(connection: DuckDBPyConnection, file: str, max_size: int) -> None:
    """Raises RejectedModelError if the file itself says that it is too large."""
    found = connection.execute(
        "SELECT coalesce(sum(total_uncompressed_size), 0), coalesce(sum(num_values), 0) "
        "FROM parquet_metadata(?)",
        [file],
    ).fetchone()
    size, cells = map(int, found or (0, 0))
    if size > max_size:
        raise too_large(size, max_size)
    _check_cells(cells)


def _parquet_rows(connection: DuckDBPyConnection, path: Path, max_size: int) -> TableFile:
    """The columns that hold numbers, texts or lists of them; nested ones are no cells of a table.

    Columns go by their position, their names are anybody's. What they take as text is asked before
    any of it is fetched: a text that occurs a million times is stored once.
    """
    file = glob.escape(str(path))
    table = connection.read_parquet(file)
    source = f"FROM read_parquet(?) AS t({', '.join(f'c{i}' for i in range(len(table.types)))})"
    sizes = {f"c{i}": size for i, kind in enumerate(table.types) if (size := _size(f"c{i}", kind))}
    if not sizes:
        raise RejectedModelError("holds no columns of numbers or texts")
    total = " + ".join(f"coalesce(sum({size}), 0)" for size in sizes.values())
    found = connection.execute(f"SELECT {total} {source}", [file]).fetchone()
    if found and int(found[0]) > max_size:
        raise too_large(int(found[0]), max_size)
    rows = connection.execute(f"SELECT {', '.join(sizes)} {source}", [file]).fetchall()
    names = tuple(table.columns[int(column[1:])] for column in sizes)
    cells = (dict(zip(names, row, strict=True)) for row in rows)
    return TableFile(path, names, tuple(Row(i, c) for i, c in enumerate(cells, start=1)))


def _size(column: str, kind: DuckDBPyType) -> str | None:
    """What a cell takes as text, in SQL; None for a kind that is no cell."""
    if kind.id in _NESTED:
        return None
    if kind.id != "list":
        return f"strlen({column}::VARCHAR)"
    element: Any = dict(kind.children)["child"]
    if element.id in _NESTED or element.id == "list":
        return None
    return f"list_sum(list_transform({column}, lambda x: strlen(x::VARCHAR)))"
