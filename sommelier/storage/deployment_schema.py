"""The tables of deployments and of what serving measured; schema.py describes the others."""

from __future__ import annotations

from sqlalchemy import ARRAY, BigInteger, Column, DateTime, Double, Integer, Table

from sommelier.storage.schema_base import METADATA, String, key

DEPLOYMENTS = Table(
    "deployments",
    METADATA,
    key("name"),
    Column("kind", String, nullable=False),
    Column("statement", String, nullable=False),
    Column("cascade", String),  # JSON
    Column("plan", String),
    Column("escalate_at_most", Double),
    Column("sla_ms", Double),
    Column("quantile", Double, nullable=False),
    Column("min_accuracy", Double),
    Column("policy", String),
    Column("knobs", String, nullable=False),  # JSON, as options
    Column("fallback", String),
    Column("options", String, nullable=False),
    Column("task", String),
    Column("dataset", String),
    Column("catalog_version", BigInteger, nullable=False),
    Column("created_at", DateTime, nullable=False),
    Column("notes", ARRAY(String), nullable=False),
)

DEPLOYED_MODELS = Table(
    "deployed_models",
    METADATA,
    key("deployment"),
    key("position", Integer),
    Column("name", String, nullable=False),
    Column("model_id", String, nullable=False),
    Column("accuracy", Double),
    Column("mean_ms", Double),
    Column("std_ms", Double),
    Column("stand_ins", ARRAY(String), nullable=False),
    Column("basis", String),
)

# Of a deployment that is there no more as well: what was measured stays true.
SERVED = Table(
    "served",
    METADATA,
    key("deployment"),
    key("model_id"),
    key("device"),
    key("batch", Integer),
    Column("requests", BigInteger, nullable=False),
    Column("mean_ms", Double),
    Column("std_ms", Double),
    Column("p50_ms", Double),
    Column("p99_ms", Double),
    Column("queue_ms", Double),
    Column("measured_at", DateTime, nullable=False),
)

DEPLOYMENT_TABLES = (DEPLOYMENTS, DEPLOYED_MODELS, SERVED)
