"""Model links and plans in the catalog: what comes back, what makes them stale, what goes when."""

from __future__ import annotations

import gzip
import math
import sys
import threading
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest

from sommelier.errors import StorageError, UnknownNameError
from sommelier.link_records import ActivationPlan, ModelLink, PlannedModel
from sommelier.records import OutputKind, Preprocessing, ProbeSet
from sommelier.storage.catalog import Catalog
from sommelier.storage.migrations import SCHEMA_VERSION
from sommelier.storage.sketches import SketchStore
from sommelier.storage.versions import link_id, version_of
from tests.storage.catalog_factories import plain_model, rich_model, start

OLD = Path(__file__).parent / "fixtures" / "schema4.sommelier.gz"  # written by the code of schema 4
PREDICTED = {"target": np.array([[0.25, 0.75], [1.0, 0.0]], dtype=np.float32)}
A, B, C = (replace(plain_model(name), id=f"sha256:{name}") for name in "abc")


def a_link(*sources: str, target: str = "b", **fields: object) -> ModelLink:
    """A link whose id follows from what decides it."""
    models = {"a": A, "b": B, "c": C}
    link = ModelLink(
        id="",
        name=f"{'_'.join(sources)}_to_{target}",
        source_ids=tuple(models[source].id for source in sources),
        target_id=models[target].id,
        source_versions=tuple(version_of(models[source]) for source in sources),
        target_version=version_of(models[target]),
        state="linked",
        performance=0.9,
        probe_set_id="probes:1",
    )
    link = replace(link, **fields)
    return replace(link, id=link_id(link))


def a_plan(link: ModelLink, **fields: object) -> ActivationPlan:
    executed = PlannedModel(A.id, "a", executed=True, performance=1.0, version=version_of(A))
    predicted = PlannedModel(
        B.id, "b", executed=False, source_ids=(A.id,), link_ids=(link.id,), head='{"w":[1]}',
        performance=0.9, low=0.8, high=0.95, skill=0.5, version=version_of(B),
    )  # fmt: skip
    plan = ActivationPlan(
        models=(executed, predicted), objective="accuracy", budget={"memory": 5e6},
        cost={"memory": 3e6, "latency": 1.5}, total={"memory": 9e6, "latency": 4.0}, accuracy=0.95,
        low=0.9, high=0.97, proved=True, confidence=0.95, skill=0.75, upper=0.95, gap=0.0,
        method="exact", considered=4, notes=("a note",), samples=300,
    )  # fmt: skip
    return replace(plan, **fields)


@pytest.fixture
def catalog() -> Catalog:
    return fill(Catalog.open(":memory:"))


def fill(catalog: Catalog) -> Catalog:
    for record in (A, B, C):
        catalog.add_model(record)
    catalog.add_probe_set(ProbeSet("probes:1", None, "p", 2, 0, True, None, None))
    return catalog


# ---- versions


def test_the_views_and_version_of_agree_on_what_a_models_version_is(catalog: Catalog) -> None:
    odd = Preprocessing((("scale", {"by": 1e-05, "note": "ß ' \""}),))
    for record in (rich_model(), replace(rich_model("other"), preprocessing=odd)):
        catalog.add_model(record)
        given = a_link("a", source_ids=(record.id,), source_versions=(version_of(record),),
                       name=record.name)  # fmt: skip
        catalog.add_links([given])
        assert catalog.link(record.name).stale is None


@pytest.mark.parametrize(
    "change",
    [
        {"preprocessing": Preprocessing((("scale", {"by": 2}),))},
        {"label_space_id": "labels:2"},
        {"output_kind": OutputKind.REGRESSION},
    ],
)
def test_a_link_is_stale_once_a_model_answers_otherwise_and_not_for_a_name(
    catalog: Catalog, change: dict[str, object]
) -> None:
    catalog.add_links([a_link("a"), a_link("c")])
    catalog.update_model(replace(A, name="renamed", version="1", tags=("new",)))
    link = catalog.link("a_to_b")
    assert (link.stale, link.usable, link.source_names) == (None, True, ("renamed",))
    catalog.update_model(replace(A, version="1", **change))
    changed = catalog.link("a_to_b")
    assert changed.stale == "the source 'a' has changed since"
    assert not changed.usable
    assert version_of(catalog.model(A.id)) != version_of(A)
    assert catalog.link("c_to_b").stale is None


def test_the_id_of_a_link_follows_what_decides_it_and_nothing_else() -> None:
    link = a_link("a")
    assert link_id(replace(link, name="n", performance=0.1, state="failed")) == link.id
    others = [
        replace(link, seed=1),
        replace(link, options="{}"),
        replace(link, probe_set_id="probes:2"),
        replace(link, source_probe_set_id="probes:2"),
        replace(link, target_version="0"),
        replace(link, source_versions=("0",)),
    ]
    assert len({link.id, *map(link_id, others)}) == 7


# ---- rows


def test_a_link_comes_back_as_it_was_kept(catalog: Catalog) -> None:
    given = a_link(
        "a", "c", low=0.8, high=0.95, proved=True, value=0.9, unit="share", constant=0.4,
        skill=0.83, screen=0.7, reason="it's fine", samples=55, validation=15, held_out=30, seed=3,
        options='{"epochs":100}', params=120.0, latency_ms=0.02, artifact="sha256:x",
        source_format="[{},{}]", target_format="{}", architecture="vec-to-vec", method="ridge",
        dataset="fsdd", target_dataset="text", source_probe_set_id="probes:2", metric="accuracy",
    )  # fmt: skip
    catalog.add_links([given])
    found = catalog.link("a_c_to_b")
    assert found.created_at is not None
    names = {"source_names": ("a", "c"), "target_name": "b"}
    assert found == replace(given, created_at=found.created_at, **names)
    again = replace(found, performance=math.nan)
    catalog.add_links([again])
    assert catalog.links() == [replace(found, performance=None)]


def test_links_are_found_by_target_source_and_name(catalog: Catalog) -> None:
    links = [a_link("a"), a_link("c"), a_link("a", "c"), a_link("b", target="a")]
    catalog.add_links(links)

    def names(**wanted: str) -> list[str]:
        return [link.name for link in catalog.links(**wanted)]

    assert names() == catalog.link_names() == ["a_c_to_b", "a_to_b", "b_to_a", "c_to_b"]
    assert names(target_id=B.id) == ["a_c_to_b", "a_to_b", "c_to_b"]
    assert names(source_id=C.id) == ["a_c_to_b", "c_to_b"]
    assert names(source_id=A.id, target_id=B.id) == ["a_c_to_b", "a_to_b"]
    assert names(name="b_to_a") == ["b_to_a"]
    with pytest.raises(UnknownNameError, match="no link 'a_to_bb'") as caught:
        catalog.link("a_to_bb")
    assert "a_to_b" in caught.value.suggestions


def test_many_links_are_kept_at_once_and_two_of_one_name_are_refused(catalog: Catalog) -> None:
    many = [a_link("a", seed=seed, name=f"n{seed:03}") for seed in range(120)]
    catalog.add_links(many)
    assert [link.id for link in catalog.links()] == [link.id for link in many]
    assert [link.source_ids for link in catalog.links()] == [(A.id,)] * 120
    with pytest.raises(StorageError, match="called 'a_to_b'"):
        catalog.add_links([a_link("a"), a_link("a", seed=1)])
    assert len(catalog.links()) == 120


def test_a_new_name_never_takes_that_of_other_models(catalog: Catalog) -> None:
    catalog.add_links([a_link("a"), a_link("c", name="a_c_to_b")])
    assert catalog.new_link_name([A.id], B.id) == "a_to_b"
    assert catalog.new_link_name([A.id, C.id], B.id) == "a_c_to_b_2"


def test_a_link_of_another_dataset_keeps_its_name(catalog: Catalog) -> None:
    catalog.add_links([a_link("a", dataset="speech")])
    assert catalog.new_link_name([A.id], B.id, "speech") == "a_to_b"
    assert catalog.new_link_name([A.id], B.id, "noise") == "a_to_b_on_noise"
    catalog.add_links([a_link("a", dataset="noise", name="a_to_b_on_noise", seed=1)])
    assert catalog.new_link_name([A.id], B.id, "noise") == "a_to_b_on_noise"
    assert catalog.new_link_name([A.id], B.id, "speech") == "a_to_b"
    catalog.add_links([a_link("c", name="a_to_b", dataset="speech", seed=2)])
    assert catalog.new_link_name([A.id], B.id, "speech") == "a_to_b_2"


def test_a_dropped_model_leaves_its_links_stale_under_the_name_it_had(catalog: Catalog) -> None:
    catalog.add_links([a_link("a"), a_link("a", "c"), a_link("c")])
    catalog.drop_model(A.id)
    link = catalog.link("a_c_to_b")
    assert (link.stale, link.state) == ("the source 'a' is gone", "linked")
    assert link.source_names == ("a", "c")
    catalog.drop_model(B.id)
    assert catalog.link("a_c_to_b").stale == "the source 'a' is gone; the target 'b' is gone"
    shown = catalog.sql("SELECT source, target, state, reason FROM links WHERE name = 'c_to_b'")
    assert shown.rows == [("c", "b", "stale", "the target 'b' is gone")]
    catalog.add_model(A)
    catalog.add_model(B)
    assert catalog.link("a_c_to_b").usable


def test_the_view_says_state_and_reason_and_unknown_stays_null(catalog: Catalog) -> None:
    useless = a_link("a", "c", state="useless", reason="no better than always 'x'", skill=-0.1)
    catalog.add_links([useless])
    text = "SELECT source, target, state, reason, performance, low, skill FROM links"
    assert catalog.sql(text).rows == [
        ("a, c", "b", "useless", "no better than always 'x'", 0.9, None, -0.1)
    ]
    assert not catalog.link("a_c_to_b").usable


def test_links_have_a_generation_of_their_own(catalog: Catalog) -> None:
    before = catalog.generation_of("links")
    catalog.add_models_bulk([plain_model("z")])
    assert catalog.generation_of("links") == before
    catalog.add_links([a_link("a")])
    assert catalog.generation_of("links") == catalog.generation > before
    models = catalog.generation_of("models")
    catalog.drop_link("a_to_b")
    assert catalog.generation_of("links") == catalog.generation
    assert catalog.generation_of("models") == models


# ---- plans


def test_a_plan_comes_back_as_it_was_saved(catalog: Catalog) -> None:
    link = a_link("a")
    catalog.add_links([link])
    plan = a_plan(link)
    catalog.save_plan("edge", plan, "SELECT PLAN FOR a, b")
    saved = catalog.plan("edge")
    assert (saved.plan, saved.query, saved.stale) == (plan, "SELECT PLAN FOR a, b", None)
    assert [model.name for model in saved.plan.executed] == ["a"]
    assert [model.name for model in saved.plan.predicted] == ["b"]
    other = replace(plan, models=plan.models[:1], skill=None, low=math.nan)
    catalog.save_plan("edge", other, "SELECT PLAN FOR a")
    assert catalog.plan("edge").plan == replace(other, low=None)
    assert catalog.sql("SELECT plan, model, executed FROM plan_models").rows == [
        ("edge", "a", True)
    ]
    catalog.drop_plan("edge")
    assert catalog.plans() == []
    assert catalog.sql("SELECT * FROM plan_models").rows == []
    with pytest.raises(UnknownNameError, match="no plan 'edge'"):
        catalog.drop_plan("edge")


def test_a_plan_is_saved_with_the_versions_of_its_models(catalog: Catalog) -> None:
    plan = a_plan(a_link("a"), models=(PlannedModel(C.id, "c", executed=True),))
    catalog.save_plan("p", plan, "q")
    assert catalog.plan("p").plan.models[0].version == version_of(C)
    gone = replace(plan, models=(PlannedModel("sha256:none", "n", executed=True),))
    with pytest.raises(UnknownNameError, match="sha256:none"):
        catalog.save_plan("q", gone, "q")
    assert catalog.plan_names() == ["p"]


def test_a_plan_is_stale_when_a_model_changes_or_a_link_goes(catalog: Catalog) -> None:
    link = a_link("a")

    def reason() -> str | None:
        (shown,) = catalog.sql("SELECT state, reason FROM plans").rows
        saved = catalog.plan("edge")
        assert shown == ("current" if saved.stale is None else "stale", saved.stale)
        return saved.stale

    catalog.add_links([link])
    catalog.save_plan("edge", a_plan(link), "q")
    assert reason() is None
    catalog.update_model(replace(A, version="1", output_kind=OutputKind.REGRESSION))
    assert reason() == "the model 'a' has changed since; the link 'a_to_b' is stale"
    catalog.update_model(replace(A, version="1"))
    assert reason() is None
    catalog.add_links([replace(link, state="useless")])
    assert reason() == "the link 'a_to_b' is useless"
    catalog.add_links([a_link("a", seed=1)])  # made anew: another link
    assert reason() == "a link to 'b' is gone"
    catalog.add_links([link])
    assert reason() is None
    catalog.drop_model(B.id)
    assert reason() == "the model 'b' is gone; the link 'a_to_b' is stale"


# ---- predictions


def test_predictions_need_no_model_and_go_with_their_link(catalog: Catalog) -> None:
    sketches = SketchStore(catalog.directory / "sketches", catalog)
    link, other = a_link("a"), a_link("c")
    for one in (link, other):
        assert sketches.add_outputs(one.id, "probes:1", PREDICTED)
    catalog.add_links([link, other])
    catalog.drop_model(A.id)
    kept = sketches.outputs(link.id, "probes:1")
    assert kept is not None
    assert kept["target"].tobytes() == PREDICTED["target"].tobytes()
    catalog.drop_link("a_to_b")
    assert sketches.outputs(link.id, "probes:1") is None
    assert sketches.outputs(other.id, "probes:1") is not None
    assert catalog.link_names() == ["c_to_b"]
    with pytest.raises(UnknownNameError, match="no link 'a_to_b'"):
        catalog.drop_link("a_to_b")


def test_a_link_made_anew_loses_the_old_predictions_and_one_renamed_keeps_its_own(
    catalog: Catalog,
) -> None:
    sketches = SketchStore(catalog.directory / "sketches", catalog)
    old, new = a_link("a"), a_link("a", seed=1)
    for one in (old, new):
        sketches.add_outputs(one.id, "probes:1", PREDICTED)
    catalog.add_links([old])
    catalog.add_links([new])
    assert sketches.outputs(old.id, "probes:1") is None
    catalog.add_links([replace(new, name="mine")])
    assert catalog.link_names() == ["mine"]
    assert sketches.outputs(new.id, "probes:1") is not None
    with catalog.transaction():
        catalog.drop_link("mine")
        catalog.add_links([new])
    assert sketches.outputs(new.id, "probes:1") is not None


def test_a_drop_that_is_undone_removes_no_file(catalog: Catalog) -> None:
    sketches = SketchStore(catalog.directory / "sketches", catalog)
    link = a_link("a")
    sketches.add_outputs(link.id, "probes:1", PREDICTED)
    catalog.add_links([link])

    def drop_both() -> None:
        with catalog.transaction():
            catalog.drop_link("a_to_b")
            catalog.drop_link("b_to_a")

    with pytest.raises(UnknownNameError, match="b_to_a"):
        drop_both()
    assert catalog.link_names() == ["a_to_b"]
    catalog.add_links([a_link("c")])  # the next commit must not do it either
    assert sketches.outputs(link.id, "probes:1") is not None


KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from sommelier.storage.catalog import Catalog
from sommelier.storage.sketches import SketchStore
from tests.storage.test_links import PREDICTED, a_link, fill
with Catalog.open(Path(sys.argv[1])) as catalog:
    fill(catalog)
catalog = Catalog.open(Path(sys.argv[1]))
sketches = SketchStore(catalog.directory / "sketches", catalog)
kept, lost = a_link("a"), a_link("c")
with catalog.transaction():
    sketches.add_outputs(kept.id, "probes:1", PREDICTED)
    catalog.add_links([kept])
with catalog.transaction():
    sketches.add_outputs(lost.id, "probes:1", PREDICTED)
    catalog.add_links([lost])
    folder = next(sketches._directory.glob("*/outputs"))
    (folder / "half.1.2.part").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_kill_leaves_whole_links_and_what_it_left_besides_is_swept(tmp_path: Path) -> None:
    path = tmp_path / "m.sommelier"
    process = start(KILLED, path)
    _, said = process.communicate(timeout=120)
    assert process.returncode == -9, said
    with Catalog.open(path) as catalog:
        assert catalog.link_names() == ["a_to_b"]
        sketches = SketchStore(catalog.directory / "sketches", catalog)
        sketches.add_outputs(A.id, "probes:1", PREDICTED)
        assert sketches.sweep() == 2  # the half-written file, and the predictions never kept
        assert sketches.sweep() == 0
        assert sketches.outputs(catalog.link("a_to_b").id, "probes:1") is not None
        assert sketches.outputs(A.id, "probes:1") is not None
        assert sketches.outputs(a_link("c").id, "probes:1") is None


def test_threads_that_keep_and_drop_links_leave_rows_and_files_in_step(catalog: Catalog) -> None:
    sketches = SketchStore(catalog.directory / "sketches", catalog)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(6):
                link = a_link("a", seed=turn % 2, name="shared")  # all threads fight over two ids
                with catalog.transaction():
                    sketches.add_outputs(link.id, "probes:1", PREDICTED)
                    catalog.add_links([link])
                own = a_link("c", seed=10 * number + turn, name=f"own{number}")
                with catalog.transaction():
                    sketches.add_outputs(own.id, "probes:1", PREDICTED)
                    catalog.add_links([own])
            catalog.drop_link(f"own{number}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []
    (link,) = catalog.links()
    assert link.name == "shared"
    files = list((catalog.directory / "sketches").glob("*/outputs/*"))
    assert len(files) == 1
    assert sketches.outputs(link.id, "probes:1") is not None


@pytest.mark.duckdb("there are no snapshots")
def test_a_reader_of_a_snapshot_sees_a_link_whose_predictions_went_as_none(tmp_path: Path) -> None:
    path = tmp_path / "m.sommelier"
    link = a_link("a")
    with fill(Catalog.open(path)) as catalog:
        sketches = SketchStore(catalog.directory / "sketches", catalog)
        sketches.add_outputs(link.id, "probes:1", PREDICTED)
        catalog.add_links([link])
        catalog.publish()
        with Catalog.open(path, read_only=True) as reader:
            catalog.drop_link("a_to_b")
            assert reader.link("a_to_b").usable
            seen = SketchStore(reader.directory / "sketches", reader)
            assert seen.outputs(link.id, "probes:1") is None


# ---- the table's history


@pytest.mark.duckdb("no catalog there is older than version 11")
def test_a_database_of_schema_4_gets_links_and_keeps_what_it_had(tmp_path: Path) -> None:
    path = tmp_path / "m.sommelier"
    path.write_bytes(gzip.decompress(OLD.read_bytes()))
    with duckdb.connect(str(path), read_only=True) as old:
        version = old.execute("SELECT value FROM store.meta WHERE key = 'schema_version'")
        assert version.fetchone() == ("4",)
    with Catalog.open(path, read_only=True) as reader:  # migrated in the copy only
        assert reader.links() == []
    with Catalog.open(path) as catalog:
        assert [model.name for model in catalog.models()] == ["a", "b", "resnet50"]
        # schema 4 had no homepage
        assert catalog.model(rich_model().id) == replace(rich_model(), homepage=None)
        assert len(catalog.segments("sha256:a")) == 1
        (probe_set,) = catalog.probe_sets()
        assert (probe_set.samples, probe_set.seed, probe_set.indices) == (4, 7, None)
        catalog.add_probe_set(replace(probe_set, indices=np.arange(4).tobytes()))
        link = a_link("a")
        catalog.add_links([link])
        catalog.save_plan("p", a_plan(link), "q")
    with Catalog.open(path) as catalog:
        assert catalog.link("a_to_b").usable
        assert catalog.plan("p").stale is None
        assert catalog.probe_sets()[0].indices == np.arange(4).tobytes()
        assert SCHEMA_VERSION >= 5
