"""The SQLAlchemy dialect: `create_engine("sommelier:///models.sommelier")`.

    pandas.read_sql("SELECT MODELS WHERE task = 'image-classification'", engine)

What SQLAlchemy writes itself (`select(...)`, reflection) is catalog SQL over the views; text is any
statement. Inspection lists the views as tables too, as SHOW TABLES does, because tools that draw a
tree of a database ask for tables only. The engine holds one connection, which threads share: a
database has one writer. In the address `?read_only=true` reads the newest snapshot, beside a
process that writes.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

from sqlalchemy import pool, text, types
from sqlalchemy.engine import default, reflection
from sqlalchemy.exc import NoSuchTableError

from sommelier.storage.view_notes import VIEW_KEYS, VIEW_NOTES, column_note

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Connection
    from sqlalchemy.engine.interfaces import (
        ReflectedColumn,
        ReflectedForeignKeyConstraint,
        ReflectedIndex,
        ReflectedPrimaryKeyConstraint,
        ReflectedTableComment,
        ReflectedUniqueConstraint,
    )

_TRUE = ("1", "true", "yes", "on")
_TYPES: dict[str, type[types.TypeEngine[Any]]] = {
    "BIGINT": types.BigInteger,
    "BLOB": types.LargeBinary,
    "BOOLEAN": types.Boolean,
    "DATE": types.Date,
    "DOUBLE": types.Double,
    "FLOAT": types.Float,
    "HUGEINT": types.Numeric,
    "INTEGER": types.Integer,
    "SMALLINT": types.SmallInteger,
    "TIMESTAMP": types.DateTime,
    "VARCHAR": types.String,
}
_SCHEMA = "main"
_COLUMNS = text(
    "SELECT column_name, data_type, is_nullable FROM information_schema.columns"
    " WHERE table_schema = current_schema() AND table_name = :view ORDER BY ordinal_position"
)
_VIEWS = text(
    "SELECT table_name FROM information_schema.tables"
    " WHERE table_schema = current_schema() ORDER BY table_name"
)


class SommelierDialect(default.DefaultDialect):
    """Over the DB-API of sommelier.connection.dbapi."""

    name = "sommelier"
    driver = "dbapi"
    default_paramstyle = "qmark"
    supports_alter = False
    supports_comments = True
    supports_native_boolean = True
    supports_sane_rowcount = False
    supports_statement_cache = True
    insert_returning = update_returning = delete_returning = False

    @classmethod
    def import_dbapi(cls) -> ModuleType:
        from sommelier.connection import dbapi

        return dbapi

    @classmethod
    def get_pool_class(cls, url: URL) -> type[pool.Pool]:
        return pool.StaticPool

    def create_connect_args(self, url: URL) -> tuple[list[Any], dict[str, Any]]:
        """The path, ':memory:' if there is none, and read_only of the query."""
        asked = url.query.get("read_only", "")
        return [url.database or ":memory:"], {"read_only": str(asked).lower() in _TRUE}

    def do_ping(self, dbapi_connection: Any) -> bool:
        return dbapi_connection.database is not None

    def _get_server_version_info(self, connection: Connection) -> tuple[int, ...]:
        from sommelier import __version__

        return tuple(int(part) for part in __version__.split("."))

    def _get_default_schema_name(self, connection: Connection) -> str:
        return _SCHEMA

    # ---- reflection: the views of catalog SQL

    @reflection.cache
    def get_schema_names(self, connection: Connection, **_: Any) -> list[str]:
        return [_SCHEMA]

    @reflection.cache
    def get_table_names(
        self, connection: Connection, schema: str | None = None, **_: Any
    ) -> list[str]:
        return self._views(connection, schema)

    @reflection.cache
    def get_view_names(
        self, connection: Connection, schema: str | None = None, **_: Any
    ) -> list[str]:
        return self._views(connection, schema)

    def _views(self, connection: Connection, schema: str | None) -> list[str]:
        if schema not in (None, _SCHEMA):
            return []
        return [str(row[0]) for row in connection.execute(_VIEWS)]

    @reflection.cache
    def has_table(
        self, connection: Connection, table_name: str, schema: str | None = None, **_: Any
    ) -> bool:
        return bool(self._columns(connection, table_name, schema))

    def _columns(self, connection: Connection, view: str, schema: str | None) -> list[Any]:
        """(name, type, whether it may be NULL) of each column; [] if there is no such view."""
        if schema not in (None, _SCHEMA):
            return []
        return [tuple(row) for row in connection.execute(_COLUMNS, {"view": view})]

    @reflection.cache
    def get_columns(
        self, connection: Connection, table_name: str, schema: str | None = None, **_: Any
    ) -> list[ReflectedColumn]:
        found = self._columns(connection, table_name, schema)
        if not found:
            raise NoSuchTableError(table_name)
        keys = VIEW_KEYS.get(table_name, ())
        return [
            {
                "name": name,
                "type": _type(told),
                "nullable": nullable != "NO" and name not in keys,
                "default": None,
                "comment": column_note(table_name, name),
            }
            for name, told, nullable in found
        ]

    @reflection.cache
    def get_pk_constraint(
        self, connection: Connection, table_name: str, schema: str | None = None, **kw: Any
    ) -> ReflectedPrimaryKeyConstraint:
        self.get_columns(connection, table_name, schema, **kw)  # kept in its cache
        return {"constrained_columns": list(VIEW_KEYS.get(table_name, ())), "name": None}

    @reflection.cache
    def get_table_comment(
        self, connection: Connection, table_name: str, schema: str | None = None, **kw: Any
    ) -> ReflectedTableComment:
        self.get_columns(connection, table_name, schema, **kw)
        return {"text": VIEW_NOTES.get(table_name)}

    def get_foreign_keys(
        self, connection: Connection, table_name: str, schema: str | None = None, **_: Any
    ) -> list[ReflectedForeignKeyConstraint]:
        return []

    def get_indexes(
        self, connection: Connection, table_name: str, schema: str | None = None, **_: Any
    ) -> list[ReflectedIndex]:
        return []

    def get_unique_constraints(
        self, connection: Connection, table_name: str, schema: str | None = None, **_: Any
    ) -> list[ReflectedUniqueConstraint]:
        return []


def _type(told: str) -> types.TypeEngine[Any]:
    """SQLAlchemy's type for DuckDB's name of one; text for lists and what is not known."""
    if told.endswith("[]"):
        return types.ARRAY(_type(told[:-2]))
    return _TYPES.get(told.split("(")[0].split(" ")[0], types.String)()
