"""When a link, plan, fusion or cascade is stale: a model of it is gone, or answers otherwise now.

The rule is SQL, because the views say it too; `version_of` is the same rule for one record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from sommelier.fusion_records import FusedModel
from sommelier.link_records import ModelLink
from sommelier.records import ModelRecord
from sommelier.storage.rows import model_to_row, to_json

LINK_PREFIX = "link:"
FUSION_PREFIX = "fusion:"
_DIGITS = 32  # of a SHA-256, hexadecimal
_VERSION = f"""left(sha256(concat_ws(chr(31), m.id, coalesce(m.preprocessing, chr(30)),
        coalesce(m.label_space_id, chr(30)), m.output_kind)), {_DIGITS})"""
_MODEL_FAULT = f"""'the model ''' || coalesce(m.name, p.name) || CASE
            WHEN m.id IS NULL THEN ''' is gone'
            WHEN {_VERSION} <> p.version THEN ''' has changed since' END"""


def version_of(record: ModelRecord) -> str:
    """32 hexadecimal digits that change with whatever decides a model's answers.

    That is its content, preprocessing, label space and output kind; its name and tags do not count.
    """
    row = model_to_row(record)
    parts = (row["id"], row["preprocessing"], row["label_space_id"], row["output_kind"])
    text = "\x1f".join("\x1e" if part is None else part for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def link_id(link: ModelLink) -> str:
    """The id of a link: the hash of what decides it, never of what came out or of its name.

    Read are source_versions, target_version, the two probe sets, seed and options.
    """
    decides = [
        link.source_versions, link.target_version, link.probe_set_id, link.source_probe_set_id,
        link.seed, link.options,
    ]  # fmt: skip
    return f"{LINK_PREFIX}{_digest(decides)}"


def fusion_id(fusion: FusedModel) -> str:
    """The id of a fusion: the hash of what decides it, never of what came out.

    Read are name, the tasks' versions, drop_threshold, seed, dataset and options. The budget does
    not count: given more of it, a search that was cut short goes on. Raises ValueError without the
    versions.
    """
    versions = [task.version for task in fusion.tasks]
    if not all(versions):
        raise ValueError(f"fusion '{fusion.name}' needs the version of each of its models")
    decides = [
        fusion.name, versions, fusion.drop_threshold, fusion.seed, fusion.dataset, fusion.options
    ]  # fmt: skip
    return f"{FUSION_PREFIX}{_digest(decides)}"


def _digest(decides: Sequence[object]) -> str:
    return hashlib.sha256(to_json(decides).encode()).hexdigest()[:_DIGITS]


def link_states(links: str = "store.links") -> str:
    """The query of (id, source_names, target_name, stale) of links. links : a table or a query.

    stale is NULL while a link may be used.
    """
    return f"""
    SELECT p.id, array_agg(coalesce(m.name, p.name) ORDER BY p.position)
            FILTER (WHERE p.role = 'source') AS source_names,
        max(coalesce(m.name, p.name)) FILTER (WHERE p.role = 'target') AS target_name,
        string_agg('the ' || p.role || ' ''' || coalesce(m.name, p.name) || CASE
            WHEN m.id IS NULL THEN ''' is gone'
            WHEN {_VERSION} <> p.version THEN ''' has changed since' END,
            '; ' ORDER BY p.role, p.position) AS stale
    FROM (
        SELECT id, 'source' AS role, unnest(source_ids) AS model_id, unnest(source_names) AS name,
            unnest(source_versions) AS version, generate_subscripts(source_ids, 1) AS position
        FROM {links} q
        UNION ALL
        SELECT id, 'target', target_id, target_name, target_version, 0 FROM {links} q) p
    LEFT JOIN store.models m ON m.id = p.model_id
    GROUP BY p.id"""


_PLANNED = """(SELECT * FROM store.links
        WHERE id IN (SELECT unnest(link_ids) FROM store.plan_models))"""
PLAN_STATES = f"""
    SELECT plan, string_agg(reason, '; ' ORDER BY position, part) AS stale
    FROM (
        SELECT p.plan, p.position, 0 AS part, {_MODEL_FAULT} AS reason
        FROM store.plan_models p LEFT JOIN store.models m ON m.id = p.model_id
        UNION ALL
        SELECT p.plan, p.position, p.part, CASE
            WHEN k.id IS NULL THEN 'a link to ''' || p.name || ''' is gone'
            WHEN s.stale IS NOT NULL THEN 'the link ''' || k.name || ''' is stale'
            WHEN k.state <> 'linked' THEN 'the link ''' || k.name || ''' is ' || k.state END
        FROM (SELECT plan, position, name, unnest(link_ids) AS link_id,
                generate_subscripts(link_ids, 1) AS part FROM store.plan_models) p
        LEFT JOIN store.links k ON k.id = p.link_id
        LEFT JOIN ({link_states(_PLANNED)}) s ON s.id = k.id) f
    GROUP BY plan"""
"""(plan, stale) of every saved plan that has models."""

CASCADE_STATES = f"""
    SELECT p.cascade, string_agg({_MODEL_FAULT}, '; ' ORDER BY p.position) AS stale
    FROM store.cascade_stages p LEFT JOIN store.models m ON m.id = p.model_id
    GROUP BY p.cascade"""
"""(cascade, stale) of every cascade; stale is NULL while its models are what they were."""

FUSION_STATES = f"""
    SELECT p.fusion_id, string_agg({_MODEL_FAULT}, '; ' ORDER BY p.position) AS stale
    FROM store.fusion_tasks p LEFT JOIN store.models m ON m.id = p.model_id
    GROUP BY p.fusion_id"""
"""(fusion_id, stale) of every fusion; stale is NULL while its models are what they were."""
