"""Which names the prompt can offer of links, plans and fusions."""

from __future__ import annotations

from pathlib import Path

from sommelier.engine.session import Session
from sommelier.storage.catalog import Catalog
from sommelier.storage.sketches import SketchStore
from tests.storage.test_fusions import a_fusion
from tests.storage.test_links import a_link, a_plan, fill


def test_links_and_plans_are_offered_by_name_and_links_by_their_columns(tmp_path: Path) -> None:
    with Catalog.open(":memory:") as catalog:
        session = Session.open(fill(catalog), SketchStore(tmp_path, catalog))
        assert (session.names("link"), session.names("plan")) == ([], [])
        link = a_link("a")
        catalog.add_links([link, a_link("a", "c")])
        catalog.save_plan("edge", a_plan(link), "SELECT PLAN FOR a, b")
        assert session.names("link") == ["a_c_to_b", "a_to_b"]
        assert session.names("plan") == ["edge"]
        assert {"source", "target", "performance", "skill"} <= set(session.names("link_column"))


def test_fusions_are_offered_by_name(tmp_path: Path) -> None:
    with Catalog.open(":memory:") as catalog:
        session = Session.open(fill(catalog), SketchStore(tmp_path, catalog))
        for name in ("pair", "other"):
            catalog.add_fusion(a_fusion(name))
        assert session.names("fusion") == ["other", "pair"]
