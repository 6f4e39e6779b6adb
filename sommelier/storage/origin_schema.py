"""The tables of repositories and of what models were; schema.py describes the others."""

from __future__ import annotations

from sqlalchemy import Column, DateTime, Table

from sommelier.storage.schema_base import METADATA, String, key

REPOSITORIES = Table(
    "repositories",
    METADATA,
    key("name"),
    Column("connector", String, nullable=False),
    Column("place", String),
    Column("options", String, nullable=False),  # JSON
    Column("created_at", DateTime, nullable=False),
)

ORIGINALS = Table(
    "originals",
    METADATA,
    key("model_id"),
    Column("format", String, nullable=False),
    Column("path", String),
    Column("options", String, nullable=False),  # JSON
    Column("fingerprint", String),
)

ORIGIN_TABLES = (REPOSITORIES, ORIGINALS)
