"""Everything that a catalog can keep of its models goes along when it is merged into another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sommelier.origin_records import Repository
from sommelier.records import Lineage
from sommelier.storage.catalog import Catalog
from sommelier.storage.merging_catalogs import merge_catalog
from tests.over_postgres import Databases
from tests.storage.catalog_factories import plain_model
from tests.storage.test_cascades import named as a_cascade
from tests.storage.test_copying_catalogs import content
from tests.storage.test_fusions import STEPS, a_fusion
from tests.storage.test_fusions import A as FUSED_A
from tests.storage.test_fusions import fill as add_fusable
from tests.storage.test_links import a_link, a_plan
from tests.storage.test_segments import SEGMENT

KINDS = ("plans", "plan_models", "links", "cascades", "cascade_stages", "fusions", "fusion_tasks",
         "fusion_trace", "segments", "lineage", "repositories", "saved_views")  # fmt: skip


def fill(catalog: Catalog) -> None:
    """Something of every kind in KINDS, of models a, b, c, m, tiny and big."""
    add_fusable(catalog)
    for name in ("tiny", "big"):
        catalog.add_model(plain_model(name))
    link = a_link("a")
    catalog.add_links([link])
    catalog.save_plan("edge", a_plan(link), "SELECT PLAN FOR a, b")
    catalog.add_cascade(a_cascade(catalog, "tiny", "big"))
    fusion = a_fusion(model_id="sha256:m")
    catalog.add_fusion(fusion)
    catalog.add_fusion_steps(fusion.id, STEPS)
    catalog.replace_segments("sha256:a", "sha256:b", [SEGMENT])
    catalog.add_lineage([Lineage("sha256:a", "sha256:b", "fine-tuned", "verified")])
    catalog.save_repository(Repository("harbor", "oci", "host/path", {"most": 3}))
    catalog.save_view("cheap", "SELECT MODELS ON memory < 1 MB")


@pytest.mark.parametrize("kind", ["file", "server"])
def test_whatever_is_about_a_model_goes_along_and_back_again_changes_nothing(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = ":memory:"
    if kind == "server":
        databases: Databases = request.getfixturevalue("databases")
        place = databases.fresh(tmp_path / "server")
    with (
        Catalog.open(":memory:") as source,
        Catalog.open(place, folder=tmp_path / "files") as target,
    ):
        fill(source)
        there = content(source)
        assert all(there[table] for table in KINDS), "this test fills every kind"
        assert merge_catalog(source, target).conflicts == ()
        here = content(target)
        for table in KINDS:
            assert here[table] == there[table], table
        merge_catalog(target, source)
        assert content(source) == there


def test_what_is_about_a_model_that_stays_behind_stays_behind_too(tmp_path: Path) -> None:
    with Catalog.open(":memory:") as source, Catalog.open(":memory:") as target:
        fill(source)
        target.add_model(replace(plain_model("a"), id="sha256:another"))
        merged = merge_catalog(source, target, conflicts="skip")
        assert ("model", "a") in {(one.kind, one.name) for one in merged.conflicts}
        assert FUSED_A.id not in {model.id for model in target.models()}
        here = content(target)
        assert [table for table in KINDS if here[table]] == [
            "cascades", "cascade_stages", "repositories", "saved_views",
        ]  # fmt: skip
