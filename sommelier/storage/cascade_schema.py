"""The tables of cascades; schema.py says how tables are described."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, DateTime, Double, Integer, Table

from sommelier.storage.schema_base import METADATA, String, key

CASCADES = Table(
    "cascades",
    METADATA,
    key("name"),
    Column("promised", String),  # the loss of the promise; NULL where nothing is promised
    Column("at_most", Double),
    Column("confidence", Double),
    Column("samples", BigInteger, nullable=False),
    Column("reason", String, nullable=False),
    Column("loss", Double),
    Column("flops", Double),
    Column("flops_share", Double),
    Column("dataset", String),
    Column("probe_set_id", String),
    Column("seed", BigInteger, nullable=False),
    Column("notes", String, nullable=False),  # JSON
    Column("statement", String, nullable=False),
    Column("created_at", DateTime, nullable=False),
)

CASCADE_STAGES = Table(
    "cascade_stages",
    METADATA,
    key("cascade"),
    key("position", Integer),
    Column("model_id", String, nullable=False),
    Column("name", String, nullable=False),  # the model's when it was kept
    Column("version", String, nullable=False),
    Column("score", String),  # NULL of the last
    Column("threshold", Double, nullable=False),  # may be infinite
    Column("temperature", Double, nullable=False),
    Column("flops", Double),
    Column("quantiles", String, nullable=False),  # JSON; a number that is infinite is a text
    Column("samples", BigInteger, nullable=False),
    Column("format", String),
    Column("output", String),
    Column("answered", Double),
    Column("accuracy", Double),
    Column("ranking", String, nullable=False),  # JSON
)

CASCADE_TABLES = (CASCADES, CASCADE_STAGES)
