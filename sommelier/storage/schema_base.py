"""What the descriptions of the tables begin with; the tables are in schema.py."""

from __future__ import annotations

import sqlalchemy
from sqlalchemy import Column, Integer, MetaData
from sqlalchemy.types import TypeEngine

METADATA = MetaData(schema="store")
String = sqlalchemy.String().with_variant(sqlalchemy.String(collation="C"), "postgresql")
"""Text, ordered by its code points whatever the language of a server is: as in DuckDB."""


def key(name: str, kind: type[Integer] | TypeEngine[str] = String) -> Column[object]:
    """A column of the primary key."""
    # autoincrement would make SQLAlchemy ask for SERIAL, which DuckDB does not have
    return Column(name, kind, primary_key=True, autoincrement=False)
