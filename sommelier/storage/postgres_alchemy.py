"""SQLAlchemy on psycopg's connection that reads, too; importing it imports SQLAlchemy."""

from __future__ import annotations

from typing import Any

import psycopg
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import StaticPool

Raw = psycopg.Connection[tuple[Any, ...]]


class Guest:
    """A connection for SQLAlchemy whose transactions are begun and ended by Database alone."""

    def __init__(self, raw: Raw) -> None:
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def begin(self) -> None: ...

    def commit(self) -> None: ...

    def rollback(self) -> None: ...

    def close(self) -> None: ...


def alchemy_over(raw: Raw) -> Connection:
    """SQLAlchemy on an open connection; it never begins, commits or closes anything."""
    return create_engine(
        "postgresql+psycopg://",
        creator=lambda: Guest(raw),
        poolclass=StaticPool,
        pool_reset_on_return=None,
        use_native_hstore=False,  # or it asks the server for a type nobody needs
    ).connect()
