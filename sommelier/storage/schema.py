"""The tables of the catalog, in the schema `store`; the views people query are in views.py.

With the schemas it imports, this is the only description of the tables: migrations create them from
it, and every change to a row is a SQLAlchemy Core statement on them. Importing it imports
SQLAlchemy (about 0.13 s), so only the paths that write do; see database.py.

No foreign keys: DuckDB cannot update a row another one refers to. Times are naive UTC, because
DuckDB's TIMESTAMPTZ needs pytz to be read. Tuples and mappings are JSON text, except the tags and
aliases of a model and what a link or plan is made of, which SQL asks about and are lists.
"""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    Integer,
    LargeBinary,
    Table,
)

from sommelier.storage.cascade_schema import CASCADE_TABLES as CASCADE_TABLES
from sommelier.storage.deployment_schema import DEPLOYMENT_TABLES as DEPLOYMENT_TABLES
from sommelier.storage.fusion_schema import FUSION_TABLES as FUSION_TABLES
from sommelier.storage.job_schema import JOBS as JOBS
from sommelier.storage.job_schema import TASKS as TASKS
from sommelier.storage.job_schema import WORKERS as WORKERS
from sommelier.storage.origin_schema import ORIGIN_TABLES as ORIGIN_TABLES
from sommelier.storage.schema_base import METADATA as METADATA
from sommelier.storage.schema_base import String, key

META = Table("meta", METADATA, key("key"), Column("value", String, nullable=False))

MODELS = Table(
    "models",
    METADATA,
    key("id"),
    Column("number", Integer, nullable=False),  # order of insertion
    Column("name", String, nullable=False),
    Column("version", String, nullable=False),
    Column("source", String, nullable=False),
    Column("revision", String),
    Column("task", String),
    Column("family", String),
    Column("license", String),
    Column("tags", ARRAY(String), nullable=False),
    Column("aliases", ARRAY(String), nullable=False),
    Column("format", String),
    Column("inputs", String, nullable=False),
    Column("outputs", String, nullable=False),
    Column("input", String, nullable=False),  # the signature as people write it
    Column("output", String, nullable=False),
    Column("output_kind", String, nullable=False),
    Column("output_kind_inferred", Boolean, nullable=False),
    Column("label_space_id", String),
    Column("preprocessing", String),
    Column("opset", Integer),
    Column("producer", String),
    Column("graph_hash", String),
    Column("weight_hash", String),
    Column("minhash", LargeBinary),
    Column("artifact", String),
    Column("note", String),
    Column("created", DateTime),
    Column("added_at", DateTime, nullable=False),
    Column("proposal", String),
    Column("homepage", String),
)

# What makes two numbers about one model different numbers. There are hundreds of contexts and
# millions of measurements: a measurement row holds nothing but numbers, so reading all is fast.
CONTEXTS = Table(
    "contexts",
    METADATA,
    key("id", Integer),
    Column("metric", String, nullable=False),
    Column("provenance", String, nullable=False),
    Column("method", String, nullable=False),
    Column("device", String),
    Column("batch", Integer),
    Column("percentile", Integer),
    Column("dataset", String),
    Column("precision", String),
    Column("threads", Integer),
)

SOURCES = Table("sources", METADATA, key("id", Integer), Column("source", String, nullable=False))

# (model, context) is unique; measurements.py keeps it so. An index would triple the file.
MEASUREMENTS = Table(
    "measurements",
    METADATA,
    Column("model", Integer, nullable=False),  # models.number
    Column("context", Integer, nullable=False),
    Column("value", Double, nullable=False),
    Column("low", Double),
    Column("high", Double),
    Column("count", BigInteger),
    Column("source", Integer),
    Column("recorded_at", DateTime, nullable=False),
)

PROFILES = Table(
    "profiles", METADATA, key("model_id"), Column("vector", LargeBinary, nullable=False)
)

OPERATOR_COSTS = Table(
    "operator_costs",
    METADATA,
    key("device"),
    key("key"),
    Column("milliseconds", Double, nullable=False),
    Column("count", BigInteger, nullable=False),
)

REJECTIONS = Table(
    "rejections",
    METADATA,
    key("source"),
    key("revision"),
    Column("reason", String, nullable=False),
    Column("recorded_at", DateTime, nullable=False),
)

LABEL_SPACES = Table(
    "label_spaces",
    METADATA,
    key("id"),
    Column("name", String, nullable=False),
    Column("labels", String, nullable=False),
)

LABEL_MAPS = Table("label_maps", METADATA, key("from_id"), key("to_id"), Column("mapping", String))

DATASETS = Table(
    "datasets",
    METADATA,
    key("name"),
    Column("id", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("path", String, nullable=False),
    Column("samples", BigInteger, nullable=False),
    Column("item_shape", String),
    Column("dtype", String),
    Column("labelled", Boolean, nullable=False),
    Column("label_space_id", String),
    Column("options", String, nullable=False),
    Column("held_out", Boolean),
)

PROBE_SETS = Table(
    "probe_sets",
    METADATA,
    key("id"),
    Column("dataset_id", String),
    Column("name", String, nullable=False),
    Column("samples", BigInteger, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("synthetic", Boolean, nullable=False),
    Column("labels", LargeBinary),
    Column("label_space_id", String),
    Column("indices", LargeBinary),
)

SKETCHES = Table(
    "sketches",
    METADATA,
    key("model_id"),
    key("probe_set_id"),
    Column("number", Integer, nullable=False),  # order of insertion
    Column("kind", String, nullable=False),
    Column("file", String, nullable=False),
    Column("row_index", BigInteger, nullable=False),
    Column("width", BigInteger, nullable=False),
    Column("exact", Boolean, nullable=False),
    Column("label_space_id", String),
    Column("classes", BigInteger),
    Column("failures", BigInteger, nullable=False),
    Column("topk_row", BigInteger),
    Column("added_at", DateTime, nullable=False),
)

# probe_set_id is '' where there is none: a key column cannot be NULL
EDGES = Table(
    "edges",
    METADATA,
    key("reference_id"),
    key("candidate_id"),
    key("probe_set_id"),
    key("method"),
    Column("samples", BigInteger, nullable=False),
    Column("agreements", BigInteger, nullable=False),
    Column("lower", Double, nullable=False),
    Column("upper", Double, nullable=False),
    Column("confidence", Double, nullable=False),
    Column("labels", String),
    Column("difference", Double),
    Column("difference_low", Double),
    Column("difference_high", Double),
)

SEGMENTS = Table(
    "segments",
    METADATA,
    key("host_id"),
    key("donor_id"),
    key("name"),
    Column("kind", String, nullable=False),
    Column("host_entry", String, nullable=False),
    Column("host_exit", String, nullable=False),
    Column("donor_entry", String, nullable=False),
    Column("donor_exit", String, nullable=False),
    Column("operators", Integer, nullable=False),
    Column("identical", Boolean, nullable=False),
    Column("definition", String, nullable=False),
    Column("flops", Double),
    Column("donor_flops", Double),
    Column("params", Double),
    Column("donor_params", Double),
    Column("probe_set_id", String),
    Column("samples", BigInteger, nullable=False),
    Column("estimated", Double),
    Column("certified", BigInteger),
    Column("certified_samples", BigInteger, nullable=False),
    Column("measured", BigInteger),
    Column("labelled", BigInteger, nullable=False),
    Column("host_right", BigInteger),
    Column("hybrid_right", BigInteger),
    Column("hybrid_id", String),
    Column("note", String),
)

LINEAGE = Table(
    "lineage",
    METADATA,
    key("model_id"),
    key("parent_id"),
    key("relation"),
    key("provenance"),
    Column("detail", String),
)

LINKS = Table(
    "links",
    METADATA,
    key("id"),
    Column("name", String, nullable=False),  # unique; catalog_links.py keeps it so
    Column("source_ids", ARRAY(String), nullable=False),
    Column("target_id", String, nullable=False),
    Column("source_versions", ARRAY(String), nullable=False),
    Column("target_version", String, nullable=False),
    Column("source_names", ARRAY(String), nullable=False),  # of when it was kept
    Column("target_name", String, nullable=False),
    Column("state", String, nullable=False),
    Column("architecture", String),
    Column("method", String),
    Column("metric", String),
    Column("performance", Double),
    Column("low", Double),
    Column("high", Double),
    Column("proved", Boolean, nullable=False),
    Column("value", Double),
    Column("value_low", Double),
    Column("value_high", Double),
    Column("unit", String),
    Column("constant", Double),
    Column("skill", Double),
    Column("screen", Double),
    Column("reason", String),
    Column("probe_set_id", String),
    Column("source_probe_set_id", String),
    Column("dataset", String),
    Column("target_dataset", String),
    Column("samples", BigInteger, nullable=False),
    Column("validation", BigInteger, nullable=False),
    Column("held_out", BigInteger, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("options", String),
    Column("params", Double),
    Column("flops", Double),
    Column("memory", Double),
    Column("size", Double),
    Column("latency_ms", Double),
    Column("artifact", String),
    Column("source_format", String),
    Column("target_format", String),
    Column("created_at", DateTime, nullable=False),
)

PLANS = Table(
    "plans",
    METADATA,
    key("name"),
    Column("query_text", String, nullable=False),
    Column("objective", String, nullable=False),
    Column("budget", String, nullable=False),
    Column("cost", String, nullable=False),
    Column("total", String, nullable=False),
    Column("accuracy", Double, nullable=False),
    Column("low", Double),
    Column("high", Double),
    Column("proved", Boolean, nullable=False),
    Column("confidence", Double, nullable=False),
    Column("skill", Double),
    Column("upper", Double),
    Column("gap", Double),
    Column("method", String, nullable=False),
    Column("considered", BigInteger, nullable=False),
    Column("notes", String, nullable=False),
    Column("probe_set_id", String),
    Column("samples", BigInteger, nullable=False),
    Column("created_at", DateTime, nullable=False),
)

PLAN_MODELS = Table(
    "plan_models",
    METADATA,
    key("plan"),
    key("position", Integer),
    Column("model_id", String, nullable=False),
    Column("name", String, nullable=False),
    Column("executed", Boolean, nullable=False),
    Column("source_ids", ARRAY(String), nullable=False),
    Column("link_ids", ARRAY(String), nullable=False),
    Column("head", String),
    Column("performance", Double),
    Column("low", Double),
    Column("high", Double),
    Column("skill", Double),
    Column("version", String, nullable=False),
)

DEVICES = Table(
    "devices",
    METADATA,
    key("name"),
    Column("memory_bytes", Double),
    Column("peak_flops_per_s", Double),
    Column("bandwidth_bytes_per_s", Double),
    Column("note", String),
)

TASK_REFERENCES = Table(
    "task_references", METADATA, key("task"), Column("model_id", String, nullable=False)
)

POOLS = Table(
    "pools",
    METADATA,
    key("name"),
    Column("query_text", String, nullable=False),
    Column("created_at", DateTime, nullable=False),
)

POOL_MEMBERS = Table(
    "pool_members",
    METADATA,
    key("pool"),
    key("position", Integer),
    Column("model_id", String, nullable=False),
)

SAVED_VIEWS = Table(
    "saved_views", METADATA, key("name"), Column("query_text", String, nullable=False)
)

SETTINGS = Table("settings", METADATA, key("name"), Column("value", String, nullable=False))
