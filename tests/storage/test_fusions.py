"""Fusions in the catalog: what comes back, what makes them stale, what goes with what."""

from __future__ import annotations

import gzip
import math
import sys
from dataclasses import fields, replace
from pathlib import Path

import duckdb
import pytest

from sommelier.errors import StorageError, UnknownNameError
from sommelier.fusion_records import FusedModel, FusionStep, FusionTask
from sommelier.records import Lineage, OutputKind, Preprocessing
from sommelier.storage.catalog import Catalog
from sommelier.storage.migrations import SCHEMA_VERSION
from sommelier.storage.versions import fusion_id, version_of
from tests.storage.catalog_factories import plain_model, start

OLD = Path(__file__).parent / "fixtures" / "schema5.sommelier.gz"  # written by the code of schema 5
A, B, C, M = (replace(plain_model(name), id=f"sha256:{name}") for name in "abcm")


def a_task(model: str = "a", **given: object) -> FusionTask:
    record = {"a": A, "b": B, "c": C}[model]
    task = FusionTask(record.id, record.name, version_of(record), "accuracy", 0.95, 0.01, -0.01,
                      0.03, 400, True)  # fmt: skip
    return replace(task, **given)


def a_fusion(name: str = "m", **given: object) -> FusedModel:
    """A fusion whose id follows from what decides it."""
    fusion = FusedModel("", name, "fused", (a_task("a"), a_task("b")))
    fusion = replace(fusion, **given)
    return replace(fusion, id=fusion_id(fusion))


STEPS = (
    FusionStep(0, "filtered", "a/1 <- b/1", 5e6, 1.5, 0.2, None, 0, 10.0, None, "too slow"),
    FusionStep(1, "trained", "a/2 <- b/1", 4e6, 1.2, 0.01, 0.005, 8, 900.0, True),
)


@pytest.fixture
def catalog() -> Catalog:
    return fill(Catalog.open(":memory:"))


def fill(catalog: Catalog) -> Catalog:
    for record in (A, B, C, M):
        catalog.add_model(record)
    return catalog


# ---- rows


def test_a_fusion_comes_back_as_it_was_kept(catalog: Catalog) -> None:
    given = a_fusion(
        model_id=M.id, method="search", reason="it's fine", options='{"epochs":8}',
        graph='{"nodes":[]}', drop_threshold=0.01, confidence=0.95, dataset="fsdd",
        probe_set_id="probes:1", training=700, selection=200, held_out=400, seed=7,
        budget_ms=1.2e6, elapsed_ms=9e5, evaluations=12, device="cpu", params=1e5, flops=4e6,
        memory=3e6, latency_ms=1.2, base_params=3e5, base_flops=1.2e7, base_memory=9e6,
        base_latency_ms=3.6, job_id=3,
    )  # fmt: skip
    filled = {f.name for f in fields(FusedModel)} - {"created_at", "stale"}
    assert all(getattr(given, name) not in (None, 0, "") for name in filled)
    catalog.add_fusion(given)
    found = catalog.fusion("m")
    assert found.created_at is not None
    assert found == replace(given, created_at=found.created_at)
    unknown = (replace(a_task("a"), drop=math.nan, drop_high=math.nan), a_task("b"))
    catalog.add_fusion(replace(found, tasks=unknown, latency_ms=math.nan))
    task = replace(a_task("a"), drop=None, drop_high=None)
    assert catalog.fusions() == [replace(found, tasks=(task, a_task("b")), latency_ms=None)]


def test_tasks_keep_their_order_and_what_is_missing_is_told_by_the_models(
    catalog: Catalog,
) -> None:
    tasks = tuple(FusionTask(record.id) for record in (C, A, B))
    catalog.add_fusion(replace(a_fusion(state="searching"), tasks=tasks))
    found = catalog.fusion("m").tasks
    assert [task.name for task in found] == ["c", "a", "b"]
    assert [task.version for task in found] == [version_of(record) for record in (C, A, B)]
    assert (found[0].metric, found[0].drop, found[0].samples) == (None, None, 0)
    gone = (FusionTask("sha256:none"), FusionTask(A.id))
    with pytest.raises(UnknownNameError, match="sha256:none"):
        catalog.add_fusion(replace(a_fusion("n"), tasks=gone))
    with pytest.raises(ValueError, match="two models or more"):
        catalog.add_fusion(replace(a_fusion("n"), tasks=tasks[:1]))
    assert catalog.fusion_names() == ["m"]


def test_steps_are_kept_in_order_and_again_without_doubling(catalog: Catalog) -> None:
    fusion = a_fusion(state="searching")
    catalog.add_fusion(fusion)
    catalog.add_fusion_steps(fusion.id, reversed(STEPS))
    resumed = replace(STEPS[1], accepted=False, drop_measured=math.nan)
    catalog.add_fusion_steps(fusion.id, [resumed, FusionStep(2, "trained")])
    kept = catalog.fusion_steps(fusion.id)
    assert kept == [STEPS[0], replace(resumed, drop_measured=None), FusionStep(2, "trained")]
    catalog.add_fusion(replace(fusion, state="fused", model_id=M.id))
    assert catalog.fusion_steps(fusion.id) == kept
    with pytest.raises(StorageError, match="no fusion with the id 'fusion:x'"):
        catalog.add_fusion_steps("fusion:x", STEPS)
    assert catalog.fusion_steps("fusion:x") == []


def test_many_steps_are_kept_at_once(catalog: Catalog) -> None:
    fusion = a_fusion()
    catalog.add_fusion(fusion)
    many = [replace(STEPS[number % 2], step=number) for number in range(200)]
    catalog.add_fusion_steps(fusion.id, many)
    assert catalog.fusion_steps(fusion.id) == many


def test_the_id_of_a_fusion_follows_what_decides_it_and_nothing_else() -> None:
    fusion = a_fusion()
    came_out = replace(fusion, state="failed", model_id="x", evaluations=3, budget_ms=1.0)
    assert fusion_id(replace(came_out, tasks=(a_task("a", drop=0.5), a_task("b")))) == fusion.id
    others = [
        a_fusion("n"),
        a_fusion(seed=1),
        a_fusion(options="{}"),
        a_fusion(dataset="d"),
        a_fusion(drop_threshold=0.01),
        a_fusion(tasks=(a_task("b"), a_task("a"))),
        a_fusion(tasks=(a_task("a", version="0"), a_task("b"))),
    ]
    assert len({fusion.id, *(other.id for other in others)}) == 8
    with pytest.raises(ValueError, match="needs the version"):
        a_fusion(tasks=(FusionTask(A.id), a_task("b")))


# ---- names


def test_a_new_search_replaces_what_led_to_no_model_and_leaves_what_did(catalog: Catalog) -> None:
    made = a_fusion(model_id=M.id)
    catalog.add_fusion(made)
    failed, searching = a_fusion(seed=1, state="failed"), a_fusion(seed=2, state="searching")
    for fusion in (failed, searching):
        catalog.add_fusion(fusion)
        catalog.add_fusion_steps(fusion.id, STEPS)
    assert [fusion.id for fusion in catalog.fusions(name="m")] == [made.id, searching.id]
    assert catalog.fusion("m").id == made.id  # the one that can be used
    assert catalog.fusions(id_=searching.id)[0].state == "searching"
    assert catalog.fusion_steps(failed.id) == []
    assert catalog.fusion_names() == ["m"]


def test_a_fusion_is_found_by_the_name_its_model_has_now(catalog: Catalog) -> None:
    catalog.add_fusion(a_fusion(model_id=M.id))
    catalog.add_fusion(a_fusion("other", seed=1))
    catalog.rename_model(M.id, "renamed")
    catalog.rename_model(A.id, "first")
    found = catalog.fusion("renamed")
    assert [task.name for task in found.tasks] == ["first", "b"]
    assert found.stale is None
    assert [fusion.name for fusion in catalog.fusions(model_id=M.id)] == ["renamed"]
    assert catalog.fusions(model_id=A.id) == []
    assert catalog.fusion_names() == ["other", "renamed"]
    with pytest.raises(UnknownNameError, match="no fusion 'renamd'") as caught:
        catalog.fusion("renamd")
    assert "renamed" in caught.value.suggestions


# ---- what goes, and what makes stale


def test_what_a_fusion_knows_goes_with_its_model_and_by_itself(catalog: Catalog) -> None:
    kept, gone = a_fusion("kept", seed=1), a_fusion(model_id=M.id)
    for fusion in (kept, gone):
        catalog.add_fusion(fusion)
        catalog.add_fusion_steps(fusion.id, STEPS)
    catalog.add_lineage(Lineage(M.id, base.id, "fused from", "built") for base in (A, B))
    assert [link.relation for link in catalog.lineage(A.id)] == ["fused from"]
    catalog.drop_model(M.id)
    assert [fusion.id for fusion in catalog.fusions()] == [kept.id]
    for view, rows in {"fusions": 1, "fusion_tasks": 2, "fusion_trace": 2, "lineage": 0}.items():
        assert catalog.sql(f"SELECT count(*) FROM {view}").rows == [(rows,)]
    catalog.drop_fusion(kept.id)
    assert catalog.fusions() == []
    with pytest.raises(StorageError, match="no fusion with the id"):
        catalog.drop_fusion(kept.id)


@pytest.mark.parametrize(
    "change",
    [
        {"preprocessing": Preprocessing((("scale", {"by": 2}),))},
        {"label_space_id": "labels:2"},
        {"output_kind": OutputKind.REGRESSION},
    ],
)
def test_a_fusion_is_stale_once_a_model_of_it_answers_otherwise(
    catalog: Catalog, change: dict[str, object]
) -> None:
    catalog.add_fusion(a_fusion(model_id=M.id))
    catalog.update_model(replace(A, version="1", tags=("new",)))
    assert catalog.fusion("m").stale is None
    catalog.update_model(replace(A, version="1", **change))
    assert catalog.fusion("m").stale == "the model 'a' has changed since"
    catalog.drop_model(B.id)
    reason = "the model 'a' has changed since; the model 'b' is gone"
    assert catalog.fusion("m").stale == reason
    assert catalog.fusion("m").tasks[1].name == "b"
    shown = catalog.sql("SELECT state, reason, models FROM fusions").rows
    assert shown == [("stale", reason, "a, b")]
    assert catalog.model(M.id).name == "m"  # it answers as before
    catalog.update_model(replace(A, version="1"))
    catalog.add_model(B)
    assert catalog.fusion("m").stale is None


# ---- views


def test_the_views_say_what_was_fused_what_it_cost_and_how_it_went(catalog: Catalog) -> None:
    tasks = (a_task("b", drop=-0.01, drop_high=0.01), a_task("a"))
    fusion = a_fusion(tasks=tasks, model_id=M.id, latency_ms=1.5, base_latency_ms=3.0)
    catalog.add_fusion(fusion)
    catalog.add_fusion_steps(fusion.id, STEPS)
    shown = catalog.sql(
        "SELECT name, models, state, speedup, accuracy_drop, accuracy_drop_high FROM fusions"
    )
    assert shown.rows == [("m", "b, a", "fused", 2.0, 0.01, 0.03)]
    tasks_shown = catalog.sql("SELECT fusion, model, drop, drop_low, proved FROM fusion_tasks")
    assert tasks_shown.rows == [("m", "b", -0.01, -0.01, True), ("m", "a", 0.01, -0.01, True)]
    trace = catalog.sql("SELECT fusion, step, action, pair, accepted FROM fusion_trace")
    assert trace.rows == [
        ("m", 0, "filtered", "a/1 <- b/1", None),
        ("m", 1, "trained", "a/2 <- b/1", True),
    ]


def test_a_drop_that_one_task_does_not_know_is_unknown_for_all(catalog: Catalog) -> None:
    tasks = (a_task("a"), a_task("b", drop=None, drop_high=None))
    catalog.add_fusion(a_fusion(tasks=tasks))
    shown = catalog.sql("SELECT accuracy_drop, accuracy_drop_high, speedup FROM fusions")
    assert shown.rows == [(None, None, None)]


# ---- kills, and older databases

KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from sommelier.storage.catalog import Catalog
from tests.storage.test_fusions import M, STEPS, a_fusion, fill
with Catalog.open(Path(sys.argv[1])) as catalog:
    fill(catalog)
catalog = Catalog.open(Path(sys.argv[1]))
fusion = a_fusion(state="searching")
catalog.add_fusion(fusion)
catalog.add_fusion_steps(fusion.id, STEPS[:1])
with catalog.transaction():
    catalog.add_fusion_steps(fusion.id, STEPS[1:])
    catalog.add_fusion(replace(fusion, state="fused", model_id=M.id))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_kill_leaves_the_search_as_of_its_last_whole_step(tmp_path: Path) -> None:
    path = tmp_path / "m.sommelier"
    process = start(KILLED, path)
    _, said = process.communicate(timeout=120)
    assert process.returncode == -9, said
    with Catalog.open(path) as catalog:
        fusion = catalog.fusion("m")
        assert (fusion.state, fusion.model_id) == ("searching", None)
        assert catalog.fusion_steps(fusion.id) == list(STEPS[:1])


@pytest.mark.duckdb("no catalog there is older than version 11")
def test_a_database_of_schema_5_learns_of_fusions_and_keeps_what_it_knew(tmp_path: Path) -> None:
    path = tmp_path / "m.sommelier"
    path.write_bytes(gzip.decompress(OLD.read_bytes()))
    with duckdb.connect(str(path), read_only=True) as old:
        version = old.execute("SELECT value FROM store.meta WHERE key = 'schema_version'")
        assert version.fetchone() == ("5",)
    with Catalog.open(path, read_only=True) as reader:  # migrated in the copy only
        assert reader.fusions() == []
    with Catalog.open(path) as catalog:
        assert catalog.link_names() == ["a_to_b"]
        assert catalog.plan("p").stale is None
        assert len(catalog.lineage(C.id)) == 1
        fusion = a_fusion()
        catalog.add_fusion(fusion)
        catalog.add_fusion_steps(fusion.id, STEPS)
    with Catalog.open(path) as catalog:
        assert catalog.fusion("m").stale is None
        assert catalog.fusion_steps(fusion.id) == list(STEPS)
        assert SCHEMA_VERSION >= 6
