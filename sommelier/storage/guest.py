"""SQLAlchemy as a guest on the connection that Database owns; loaded by the first write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duckdb_sqlalchemy import ConnectionWrapper
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

if TYPE_CHECKING:
    import duckdb
    from sqlalchemy import Connection


class Guest(ConnectionWrapper):
    """A connection whose transactions are begun and ended by Database alone."""

    def begin(self) -> None: ...

    def commit(self) -> None: ...

    def rollback(self) -> None: ...

    def close(self) -> None: ...


def alchemy_over(raw: duckdb.DuckDBPyConnection) -> Connection:
    """SQLAlchemy on an open DuckDB connection; it never begins, commits or closes anything."""
    return create_engine(
        "duckdb:///:memory:",
        creator=lambda: Guest(raw),
        poolclass=StaticPool,
        pool_reset_on_return=None,
        isolation_level="AUTOCOMMIT",
    ).connect()
