"""The adapter by which Harlequin, the SQL IDE of the terminal, asks a database of models.

    harlequin -a sommelier models.sommelier

Every statement of the language and catalog SQL. The tree lists models and what else has a name, and
the views of catalog SQL with their columns. Harlequin loads this module by the entry point group
`harlequin.adapter`; nothing else of Sommelier imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from harlequin.adapter import HarlequinAdapter, HarlequinConnection, HarlequinCursor
from harlequin.autocomplete.completion import HarlequinCompletion
from harlequin.catalog import Catalog, CatalogItem
from harlequin.exception import (
    HarlequinConfigError,
    HarlequinConnectionError,
    HarlequinQueryError,
)

from sommelier.errors import CancelledError

if TYPE_CHECKING:
    from sommelier.connection import dbapi

DATABASE = "models.sommelier"
_LISTED = 1000  # names of one kind; the tree of Harlequin holds all of them in memory
_KINDS = {
    "models": ("model", "m"),
    "datasets": ("dataset", "d"),
    "pools": ("pool", "p"),
    "links": ("link", "l"),
    "fusions": ("fusion", "f"),
    "cascades": ("cascade", "c"),
    "deployments": ("deployment", "dep"),
}
_CODES = {"text": "s", "boolean": "t/f", "number": "#.#", "datetime": "ts", "list": "[]"}
_TYPES = {
    "VARCHAR": "s", "BOOLEAN": "t/f", "INTEGER": "#", "BIGINT": "##", "DOUBLE": "#.#",
    "TIMESTAMP": "ts", "TIMESTAMP WITHOUT TIME ZONE": "ts", "DOUBLE PRECISION": "#.#",
}  # fmt: skip
_COLUMNS = (
    "SELECT table_name, column_name, data_type FROM information_schema.columns"
    " WHERE table_schema = 'main' ORDER BY table_name, ordinal_position"
)
_KEYWORD, _COLUMN = 100, 500  # Harlequin's priorities: of keywords, of what the catalog names


class SommelierAdapter(HarlequinAdapter):
    """`harlequin -a sommelier [PATH or URL of PostgreSQL]`."""

    IMPLEMENTS_CANCEL = True
    IMPLEMENTS_READ_ONLY = True
    ADAPTER_DETAILS = "A database of neural-network models: `SELECT MODELS ...` and catalog SQL."

    def __init__(self, conn_str: Sequence[str], read_only: bool = False, **_: Any) -> None:
        """conn_str : one address at most; models.sommelier if there is none. Raises
        HarlequinConfigError."""
        if len(conn_str) > 1:
            raise HarlequinConfigError(
                f"one database at a time, not {len(conn_str)}: {', '.join(conn_str)}",
                title="Sommelier opens one database",
            )
        self._database = conn_str[0] if conn_str else DATABASE
        self._read_only = read_only

    def connect(self) -> SommelierConnection:
        """Opens the database. Raises HarlequinConnectionError with our words."""
        from sommelier.connection import dbapi

        try:
            connection = dbapi.connect(self._database, read_only=self._read_only)
        except dbapi.Error as error:
            raise HarlequinConnectionError(
                str(error), title="Sommelier could not open the database"
            ) from error
        return SommelierConnection(connection)

    @property
    def connection_id(self) -> str:
        """Where the database is, without a password: what Harlequin keeps its history by."""
        if "://" not in self._database:
            return str(Path(self._database).resolve())
        place = urlsplit(self._database)
        return f"{place.hostname}:{place.port}{place.path}"


class SommelierConnection(HarlequinConnection):
    """One connection of DB-API, whose statements take turns."""

    def __init__(self, connection: dbapi.Connection, init_message: str = "") -> None:
        self._connection = connection
        self.init_message = init_message

    def execute(self, query: str) -> SommelierCursor | None:
        """The answer of one statement; None if it was cancelled. Raises HarlequinQueryError."""
        from sommelier.connection import dbapi

        try:
            return SommelierCursor(self._connection.execute(query))
        except dbapi.Error as error:
            if isinstance(error.__cause__, CancelledError):
                return None
            raise HarlequinQueryError(str(error), title="Sommelier cannot answer this") from error

    def cancel(self) -> None:
        """Stops the running statement; what it finished is kept."""
        self._connection.database.cancel()

    def get_catalog(self) -> Catalog:
        """What has a name, by kind, then the views of catalog SQL with their columns."""
        return Catalog(items=[*self._named(), self._views()])

    def get_completions(self) -> list[HarlequinCompletion]:
        """Keywords of the language, and columns of models."""
        from sommelier.grammar.completion import keywords

        columns = self._connection.database.names("column")
        return [
            *(HarlequinCompletion(word, "kw", word, _KEYWORD) for word in keywords()),
            *(HarlequinCompletion(name, "col", name, _COLUMN) for name in columns),
        ]

    def close(self) -> None:
        """Gives the database back."""
        self._connection.close()

    def _named(self) -> list[CatalogItem]:
        from sommelier.shell.suggestions import spelled

        found = []
        for group, (kind, label) in _KINDS.items():
            names = self._connection.database.names(kind)
            children = [
                CatalogItem(f"{kind}:{name}", spelled(name, kind), name, label, type_name=kind)
                for name in names[:_LISTED]
            ]
            left_out = len(names) - len(children)
            shown = f"{group}, the first {_LISTED} of {len(names)}" if left_out else group
            if names:
                found.append(CatalogItem(group, group, shown, label, children))
        return found

    def _views(self) -> CatalogItem:
        views: dict[str, CatalogItem] = {}
        for view, column, told in self._connection.execute(_COLUMNS).fetchall():
            if view not in views:
                views[view] = CatalogItem(f"main.{view}", view, view, "v", type_name="VIEW")
            kind = "[]" if told.endswith("[]") or told == "ARRAY" else _TYPES.get(told.upper(), "?")
            views[view].children.append(
                CatalogItem(f"main.{view}.{column}", f'"{column}"', column, kind, type_name=told)
            )
        return CatalogItem("main", "main", "catalog SQL", "sql", list(views.values()))


class SommelierCursor(HarlequinCursor):
    """The rows of one answer, in base units; the label of a column is its unit."""

    def __init__(self, cursor: dbapi.Cursor) -> None:
        self._cursor = cursor
        self._limit = cursor.rowcount

    def columns(self) -> list[tuple[str, str]]:
        """(name, unit or type) of each column."""
        described, units = self._cursor.description or [], self._cursor.units or ()
        return [
            (column[0], unit or _CODES.get(column[1], "?"))
            for column, unit in zip(described, units, strict=True)
        ]

    def set_limit(self, limit: int) -> SommelierCursor:
        """fetchall() answers `limit` rows at most."""
        self._limit = limit
        return self

    def fetchall(self) -> list[tuple[Any, ...]] | None:
        """Rows; None if there are none."""
        return self._cursor.fetchmany(self._limit) or None
