"""What the descriptions of the tables begin with; the tables are in schema.py."""

from __future__ import annotations

from sqlalchemy import Column, Integer, MetaData, String

METADATA = MetaData(schema="store")


def key(name: str, kind: type[Integer] | type[String] = String) -> Column[object]:
    """A column of the primary key."""
    # autoincrement would make SQLAlchemy ask for SERIAL, which DuckDB does not have
    return Column(name, kind, primary_key=True, autoincrement=False)
