"""Segments and lineage in the catalog, and models that nobody created yet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from sommelier.records import Lineage, SegmentMatch
from sommelier.storage.catalog import Catalog
from tests.storage.catalog_factories import plain_model

SEGMENT = SegmentMatch(
    host_id="sha256:a",
    donor_id="sha256:b",
    name="s1",
    kind="common",
    host_entry="x",
    host_exit="y",
    donor_entry="x",
    donor_exit="z",
    operators=3,
    identical=False,
    definition="{}",
    flops=10.0,
    samples=100,
    estimated=0.015,
    measured=2,
    labelled=50,
    host_right=40,
    hybrid_right=38,
)


@pytest.fixture
def catalog() -> Catalog:
    catalog = Catalog.open(":memory:")
    for name in "ab":
        catalog.add_model(replace(plain_model(name), id=f"sha256:{name}"))
    return catalog


def test_segments_come_back_in_the_order_of_the_host(catalog: Catalog) -> None:
    found = [replace(SEGMENT, name=name) for name in ("s10", "s2", "s1")]
    catalog.replace_segments("sha256:a", "sha256:b", found)
    assert catalog.segments("sha256:a") == [found[2], found[1], found[0]]
    assert catalog.segments("sha256:b") == []


def test_a_second_analysis_of_a_pair_replaces_the_first(catalog: Catalog) -> None:
    catalog.replace_segments("sha256:a", "sha256:b", [SEGMENT, replace(SEGMENT, name="s2")])
    other = replace(SEGMENT, donor_id="sha256:c")
    catalog.replace_segments("sha256:a", "sha256:c", [other])
    catalog.replace_segments("sha256:a", "sha256:b", [SEGMENT])
    assert catalog.segments("sha256:a") == [SEGMENT, other]


def test_the_view_gives_shares_and_names_and_unknown_stays_null(catalog: Catalog) -> None:
    catalog.replace_segments("sha256:a", "sha256:b", [SEGMENT])
    text = "SELECT host, donor, estimated, certified, measured, accuracy_drop, hybrid FROM segments"
    assert catalog.sql(text).rows == [("a", "b", 0.015, None, 0.02, 0.04, None)]


def test_dropping_a_model_forgets_its_segments_and_where_it_came_from(catalog: Catalog) -> None:
    catalog.replace_segments("sha256:a", "sha256:b", [SEGMENT])
    catalog.add_lineage([Lineage("sha256:a", "sha256:b", "fine-tuned", "verified")])
    catalog.drop_model("sha256:a")
    assert catalog.segments("sha256:a") == []
    assert catalog.lineage("sha256:b") == []


def test_dropping_a_hybrid_keeps_the_segment_it_was_built_from(catalog: Catalog) -> None:
    catalog.add_model(replace(plain_model("h"), id="sha256:h", proposal="segments"))
    catalog.replace_segments("sha256:a", "sha256:b", [replace(SEGMENT, hybrid_id="sha256:h")])
    catalog.drop_model("sha256:h")
    assert catalog.segments("sha256:a") == [SEGMENT]


def test_dropping_a_parent_drops_its_proposals_and_keeps_what_was_created(
    catalog: Catalog,
) -> None:
    for name, proposal in (("proposed", "segments"), ("created", None)):
        catalog.add_model(replace(plain_model(name), id=f"sha256:{name}", proposal=proposal))
        links = [
            Lineage(f"sha256:{name}", f"sha256:{parent}", relation, "built")
            for parent, relation in (("a", "host"), ("b", "donor"))
        ]
        catalog.add_lineage(links)
    catalog.drop_model("sha256:b")
    assert catalog.proposals() == {}
    assert catalog.model_names() == ["a", "created"]
    assert {link.parent_id for link in catalog.lineage("sha256:created")} == {
        "sha256:a",
        "sha256:b",
    }


def test_lineage_names_parents_before_children(catalog: Catalog) -> None:
    up = Lineage("sha256:a", "sha256:b", "donor", "built", "{}")
    down = Lineage("sha256:z", "sha256:a", "host", "built")
    catalog.add_lineage([down, up])
    assert catalog.lineage("sha256:a") == [up, down]
    shown = catalog.sql("SELECT model, parent, relation FROM lineage ORDER BY 3").rows
    assert shown == [("a", "b", "donor"), (None, "a", "host")]


def test_a_proposal_has_a_name_but_is_not_listed(catalog: Catalog) -> None:
    proposal = replace(plain_model("h"), id="sha256:h", proposal="segments")
    catalog.add_model(proposal)
    assert catalog.resolve("h").proposal == "segments"
    assert catalog.model_names() == ["a", "b"]
    assert catalog.sql("SELECT name FROM models").rows == [("a",), ("b",)]
    catalog.update_model(replace(proposal, proposal=None))
    assert catalog.model_names() == ["a", "b", "h"]


@pytest.mark.duckdb("no catalog there is older than version 11")
def test_a_database_of_version_3_gets_segments_and_keeps_its_models(tmp_path: Path) -> None:
    path = tmp_path / "m.sommelier"
    with Catalog.open(path) as catalog:
        catalog.add_model(plain_model("a"))
    with duckdb.connect(str(path)) as old:
        for view in ("models", "segments", "lineage", "tasks"):
            old.execute(f"DROP VIEW main.{view}")
        old.execute("ALTER TABLE store.models DROP COLUMN proposal")
        old.execute("DROP TABLE store.segments")
        old.execute("DROP TABLE store.lineage")
        old.execute("UPDATE store.meta SET value = '3' WHERE key = 'schema_version'")
    with Catalog.open(path) as catalog:
        assert [model.name for model in catalog.models()] == ["a"]
        assert catalog.sql("SELECT * FROM segments").rows == []
