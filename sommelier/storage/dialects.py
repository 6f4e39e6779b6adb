"""What DuckDB and PostgreSQL say differently: the pieces of SQL that no one text serves.

Every other text of this room is valid in both. Where one of them has a function the other has not,
a plainer spelling is used that both know, unless it would cost DuckDB time. PostgreSQL has two
functions of ours, made with its views, that DuckDB has by itself: sha256 of text, by which a model
that has changed is known, and round of a float to digits, for who asks in SQL.

Texts are in collation "C" in PostgreSQL (schema_base.Text): ordered by code points, as in DuckDB.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dialect:
    """The pieces of one database. `{}` stands for an expression, `?` for a value.

    best : the m.value of the best row of a group, by provenance (c.provenance), then batch, of one
    metric (`{}`). labels : the query of the view `labels`. by_code_point : makes text that is of no
    table's column be compared as columns are. types : of SQL's type names those that differ.
    """

    name: str
    matches: str
    like: str
    ilike: str
    best: str
    labels: str
    by_code_point: str = ""
    before_views: tuple[str, ...] = ()
    make_view: str = "CREATE OR REPLACE VIEW main.{name} AS {query}"
    drop_view: str | None = None


_PROVENANCE = "CASE c.provenance WHEN 'measured' THEN 0 WHEN 'estimated' THEN 1 ELSE 2 END"

DUCKDB = Dialect(
    name="duckdb",
    matches="regexp_matches({}, ?)",
    like="{} LIKE ?",
    ilike="{} ILIKE ?",
    best=f"""arg_min(m.value, struct_pack(p := {_PROVENANCE}, b := coalesce(c.batch, 0),
            c := c.id)) FILTER (c.metric = '{{}}')""",
    labels="""
    SELECT name AS label_space, position - 1 AS position, words[position] AS label, id
    FROM (SELECT id, name, words, unnest(range(1, len(words) + 1)) AS position
          FROM (SELECT id, name, labels::JSON::VARCHAR[] AS words FROM store.label_spaces))
    ORDER BY id, position""",
)

# LIKE: without the backslash that PostgreSQL would take for an escape
POSTGRES = Dialect(
    name="postgresql",
    matches="{} ~ ?",
    like="{} LIKE ? ESCAPE ''",
    ilike="{} ILIKE ? ESCAPE ''",
    best=f"""(min(ARRAY[{_PROVENANCE}, coalesce(c.batch, 0), c.id, m.value])
            FILTER (WHERE c.metric = '{{}}'))[4]""",
    labels="""
    SELECT s.name AS label_space, w.position - 1 AS position, w.label, s.id
    FROM store.label_spaces s
    CROSS JOIN LATERAL json_array_elements_text(s.labels::json)
        WITH ORDINALITY AS w (label, position)
    ORDER BY s.id, w.position""",
    by_code_point=' COLLATE "C"',
    before_views=(
        "CREATE SCHEMA IF NOT EXISTS main",
        """CREATE OR REPLACE FUNCTION main.sha256(text) RETURNS text
        LANGUAGE sql STABLE STRICT PARALLEL SAFE
        RETURN encode(pg_catalog.sha256(convert_to($1, 'UTF8')), 'hex')""",
        """CREATE OR REPLACE FUNCTION main.round(double precision, integer) RETURNS double precision
        LANGUAGE sql STABLE STRICT PARALLEL SAFE
        RETURN pg_catalog.round($1::numeric, $2)::double precision""",
        "CREATE INDEX IF NOT EXISTS measurements_model ON store.measurements (model)",
        "CREATE INDEX IF NOT EXISTS models_name ON store.models (name)",
        "CREATE INDEX IF NOT EXISTS edges_candidate ON store.edges (candidate_id)",
        "CREATE INDEX IF NOT EXISTS tasks_key ON store.tasks (key)",
        """CREATE INDEX IF NOT EXISTS tasks_open ON store.tasks (job_id, position)
        WHERE state IN ('pending', 'running')""",
    ),
    make_view="CREATE VIEW main.{name} AS {query}",
    drop_view="DROP VIEW IF EXISTS main.{name}",
)
