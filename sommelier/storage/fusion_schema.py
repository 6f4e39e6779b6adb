"""The tables of fusions; schema.py says how tables are described."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, DateTime, Double, Integer, Table

from sommelier.storage.schema_base import METADATA, String, key

FUSIONS = Table(
    "fusions",
    METADATA,
    key("id"),
    Column("name", String, nullable=False),  # the model's when it was kept
    Column("model_id", String),  # NULL until there is one
    Column("state", String, nullable=False),
    Column("method", String),
    Column("reason", String),
    Column("options", String),
    Column("graph", String),
    Column("drop_threshold", Double),
    Column("confidence", Double),
    Column("dataset", String),
    Column("probe_set_id", String),
    Column("training", BigInteger, nullable=False),
    Column("selection", BigInteger, nullable=False),
    Column("held_out", BigInteger, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("budget_ms", Double),
    Column("elapsed_ms", Double),
    Column("evaluations", BigInteger, nullable=False),
    Column("device", String),
    Column("params", Double),
    Column("flops", Double),
    Column("memory", Double),
    Column("latency_ms", Double),
    Column("base_params", Double),
    Column("base_flops", Double),
    Column("base_memory", Double),
    Column("base_latency_ms", Double),
    Column("job_id", Integer),
    Column("created_at", DateTime, nullable=False),
)

FUSION_TASKS = Table(
    "fusion_tasks",
    METADATA,
    key("fusion_id"),
    key("position", Integer),
    Column("model_id", String, nullable=False),
    Column("name", String, nullable=False),
    Column("version", String, nullable=False),
    Column("metric", String),
    Column("baseline", Double),
    Column("drop", Double),
    Column("drop_low", Double),
    Column("drop_high", Double),
    Column("samples", BigInteger, nullable=False),
    Column("proved", Boolean, nullable=False),
)

FUSION_TRACE = Table(
    "fusion_trace",
    METADATA,
    key("fusion_id"),
    key("step", Integer),
    Column("action", String, nullable=False),
    Column("pair", String),
    Column("flops", Double),
    Column("latency_ms", Double),
    Column("drop_predicted", Double),
    Column("drop_measured", Double),
    Column("epochs", BigInteger, nullable=False),
    Column("elapsed_ms", Double),
    Column("accepted", Boolean),
    Column("reason", String),
)

FUSION_TABLES = (FUSIONS, FUSION_TASKS, FUSION_TRACE)
