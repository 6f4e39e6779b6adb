"""The tables of jobs, tasks and workers; schema.py says how tables are described."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, DateTime, Double, Integer, Table

from sommelier.storage.schema_base import METADATA, String, key

JOBS = Table(
    "jobs",
    METADATA,
    key("id", Integer),
    Column("statement", String, nullable=False),
    Column("state", String, nullable=False),
    Column("started_at", DateTime, nullable=False),
    Column("finished_at", DateTime),
    Column("background", Boolean),
    Column("process", Integer),  # that runs it
    Column("doing", String),
    Column("progress", Double),
    Column("reason", String),
    Column("plan", String),  # of a job that is left to workers: what they need besides its tasks
)

TASKS = Table(
    "tasks",
    METADATA,
    key("job_id", Integer),
    key("key"),
    Column("position", Integer, nullable=False),
    Column("aspect", String, nullable=False),
    Column("model_id", String, nullable=False),
    Column("parameters", String, nullable=False),
    Column("state", String, nullable=False),
    Column("reason", String),
    Column("attempts", Integer, nullable=False),
    Column("device", String),  # that it needs; NULL is any
    Column("holder", String),  # the worker that has it, or did it: workers.id
    Column("lease_until", DateTime),  # by the server's clock
    Column("log", String),  # a line for each try and how it ended
)

WORKERS = Table(
    "workers",
    METADATA,
    key("id"),
    Column("name", String, nullable=False),
    Column("host", String, nullable=False),
    Column("process", Integer, nullable=False),
    Column("device", String, nullable=False),
    Column("started_at", DateTime, nullable=False),
    Column("seen_until", DateTime, nullable=False),  # it is alive, unless it says no more
)

JOB_TABLES = [JOBS, TASKS, WORKERS]
