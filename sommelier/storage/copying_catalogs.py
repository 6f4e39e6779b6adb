"""A whole catalog in another database: from a file to a server, back, or to another of its kind.

All tables go in one transaction, after the files that they name. Whatever the two kinds of database
are, the rows are the same: ids, numbers and times as they were. The copy has an identity and a
generation of its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sommelier.errors import StorageError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sqlalchemy import Table

    from sommelier.storage.catalog import Catalog

_FILES = ("artifacts", "sketches")
_UNFINISHED = (".incoming-*", "*.part")
_ROWS = 1_000_000  # measurements that are in memory at once, twice
_STAYING = frozenset({"meta", "workers"})  # what the database is, and who works on it
_MADE_NEW = ("meta", "devices")  # the tables that are not empty in a new catalog


def copy_catalog(source: Catalog, target: Catalog) -> int:
    """Everything in `source`, in `target`, which must be new; how many rows that were.

    Nothing is in `target` if it fails, but files that no row names. Raises StorageError if
    something is in `target` already.
    """
    _must_be_new(target)
    with source.steady():
        for name in _FILES:
            _copy_files(source.directory / name, target.directory / name)
        with target.database.transaction("copy a catalog"):
            return sum(_copy_table(table, source, target) for table in _tables())


def _tables() -> list[Table]:
    from sommelier.storage.schema import METADATA

    return [table for table in METADATA.sorted_tables if table.name not in _STAYING]


def _must_be_new(target: Catalog) -> None:
    for table in _tables():
        if table.name in _MADE_NEW:
            continue
        if target.database.row(f"SELECT 1 FROM {table.fullname} LIMIT 1") is not None:
            raise StorageError(
                f"the catalog {target.path} is not empty: something is in its table '{table.name}'",
                hint="copy to a new file, or to a new database of the server",
            )


def _copy_table(table: Table, source: Catalog, target: Catalog) -> int:
    if table.name in _MADE_NEW:
        target.database.write(table.delete())
    if table.name == "measurements":
        return _copy_measurements(source, target)
    names = [column.name for column in table.columns]
    listed = ", ".join(f'"{name}"' for name in names)
    found = source.database.rows(f"SELECT {listed} FROM {table.fullname}")
    target.database.insert(table, [dict(zip(names, row, strict=True)) for row in found])
    return len(found)


def _copy_measurements(source: Catalog, target: Catalog) -> int:
    """As numbers, not as rows of Python's objects: there are millions."""
    from sommelier.storage.catalog_measurements import INSERT

    found = source.database.columns(
        "SELECT model, context, value, low, high, count, source, recorded_at"
        " FROM store.measurements ORDER BY model, context"
    )
    for part in _parts(found):
        target.database.load(part, INSERT)
    return len(found["model"])


def _parts(columns: dict[str, NDArray[Any]]) -> Iterator[dict[str, NDArray[Any]]]:
    from sommelier.storage.bulk import filled

    for start in range(0, len(columns["model"]), _ROWS):
        part = {name: column[start : start + _ROWS] for name, column in columns.items()}
        yield part | {name: filled(part[name]) for name in ("low", "high", "count", "source")}


def _copy_files(source: Path, target: Path) -> None:
    if not source.is_dir():
        return
    try:
        shutil.copytree(
            source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*_UNFINISHED)
        )
    except (OSError, shutil.Error) as error:
        raise StorageError(
            f"the files in '{source}' could not be copied to '{target}': {error}",
            hint="free some room, or choose another place; nothing is in the copy yet",
        ) from error
