"""Two catalogs become one, whichever kinds they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sommelier.errors import StorageError, UnknownNameError
from sommelier.link_records import ModelLink
from sommelier.records import Dataset, LabelSpace
from sommelier.storage.catalog import Catalog
from sommelier.storage.merging_catalogs import Merged, merge_catalog
from sommelier.storage.sketches import SketchStore
from sommelier.storage.versions import link_id, version_of
from tests.over_postgres import Databases
from tests.storage.catalog_factories import content_id, number, plain_model, rich_model
from tests.storage.index_factories import probe_set, sketch
from tests.storage.test_copying_catalogs import content

EARLY, LATE = datetime(2025, 1, 1), datetime(2026, 1, 1)
PROBES = probe_set("photos", 4)
TABLES = {  # stay behind
    "settings", "jobs", "tasks", "workers", "deployments", "deployed_models", "served",
}  # fmt: skip


@pytest.fixture(params=["file into file", "file into server", "server into file"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Catalog, Catalog]]:
    """(source, target), both empty."""
    kinds = request.param.split(" into ")

    def opened(kind: str, name: str) -> Catalog:
        if kind == "file":
            return Catalog.open(":memory:")
        databases: Databases = request.getfixturevalue("databases")
        return Catalog.open(databases.fresh(tmp_path / name), folder=tmp_path / f"{name}.files")

    with opened(kinds[0], "a") as source, opened(kinds[1], "b") as target:
        yield source, target


@pytest.fixture
def files() -> Iterator[tuple[Catalog, Catalog]]:
    with Catalog.open(":memory:") as source, Catalog.open(":memory:") as target:
        yield source, target


def answers(catalog: Catalog) -> SketchStore:
    return SketchStore(catalog.directory / "sketches", catalog)


def put_model(catalog: Catalog, folder: Path, name: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.onnx").write_bytes(name.encode() * 50)
    return catalog.artifacts.put(folder / f"{name}.onnx")


def fill_both(source: Catalog, target: Catalog, folder: Path) -> None:
    """`shared` is in both, called otherwise; `theirs` and `ours` in one each, `theirs` with a file,
    answers and a link to `shared`."""
    spaces = LabelSpace("labels:1", "l", ("a", "é"))
    theirs = plain_model("theirs", tags=("x",), artifact=put_model(source, folder, "theirs"))
    source.add_model(theirs)
    source.add_model(
        replace(rich_model("shared"), name="common", artifact=None, aliases=("both",)),
        label_space=spaces,
    )
    shared = plain_model("shared", tags=("kept",), license="MIT")
    target.add_model(shared)
    target.add_model(plain_model("ours"))
    source.add_probe_set(PROBES)
    answers(source).add_many(
        sketch(model.id, PROBES, [0, 1, -1, 2], classes=3) for model in (theirs, shared)
    )
    answers(source).add_outputs(theirs.id, PROBES.id, {"scores": np.ones((4, 3))})
    kept = {model.name: source.model(model.id) for model in (theirs, shared)}
    link = ModelLink(
        id="", name="bridge", source_ids=(theirs.id,), target_id=shared.id,
        source_versions=(version_of(kept["theirs"]),),
        target_version=version_of(kept["shared"]), state="linked", probe_set_id=PROBES.id,
    )  # fmt: skip
    link = replace(link, id=link_id(link))
    source.add_links([link])
    answers(source).add_outputs(link.id, PROBES.id, {"predicted": np.zeros(4)})
    source.save_pool("good", [theirs.id, shared.id], "SELECT MODELS")
    for catalog, value, moment in ((source, 0.75, LATE), (target, 0.5, EARLY)):
        catalog.add_measurements(
            [
                number(shared.id, "accuracy", value, dataset="d", low=0.1, count=7, source="card",
                       recorded_at=moment),
                number(shared.id, "params", 3.0, recorded_at=EARLY, source="file"),
            ]
        )  # fmt: skip
    source.add_measurements([number(theirs.id, "latency", 2.0, device="cpu", batch=1)])


def numbers(catalog: Catalog, name: str) -> dict[str, tuple[Any, ...]]:
    return {
        m.metric: (m.value, m.method, m.source, m.low, m.count, m.recorded_at)
        for m in catalog.measurements(catalog.resolve(name).id)
    }


def test_what_either_knows_both_know_afterwards(
    pair: tuple[Catalog, Catalog], tmp_path: Path
) -> None:
    source, target = pair
    fill_both(source, target, tmp_path / "models")
    before = content(source)
    merged = merge_catalog(source, target)
    assert (merged.added, merged.joined, merged.both, merged.conflicts) == (1, 1, 1, ())
    assert content(source) == before, "the source is only read"
    assert set(target.model_names()) == {"shared", "common", "both", "ours", "theirs"}
    shared = target.resolve("shared")
    assert target.resolve("common") == target.resolve("both") == shared
    assert set(shared.tags) == {"kept", "mobile", 'with "quotes"', "a, b"}
    assert (shared.license, shared.family, shared.opset) == ("MIT", "resnet", 17)
    assert target.label_space("labels:1").labels == ("a", "é")
    assert numbers(target, "shared")["accuracy"] == (0.75, "test", "card", 0.1, 7, LATE)
    theirs = target.resolve("theirs")
    assert numbers(target, "theirs")["latency"] == numbers(source, "theirs")["latency"]
    file = target.artifacts.path(str(theirs.artifact))
    assert file.read_bytes() == b"theirs" * 50
    assert file.is_relative_to(target.directory)
    found, known = answers(target), answers(source)
    for model in (theirs, shared):
        assert found.get(model.id, PROBES.id) == known.get(model.id, PROBES.id)
    outputs = found.outputs(theirs.id, PROBES.id)
    assert outputs is not None
    assert np.array_equal(outputs["scores"], np.ones((4, 3)))
    (link,) = target.links()
    assert (link.name, link.source_ids, link.stale) == ("bridge", (theirs.id,), None)
    assert found.outputs(link.id, PROBES.id) is not None
    (pool,) = content(target)["pools"]
    assert pool[0] == "good"


def test_merged_twice_nothing_changes(pair: tuple[Catalog, Catalog], tmp_path: Path) -> None:
    source, target = pair
    fill_both(source, target, tmp_path / "models")
    assert merge_catalog(source, target).changed
    before, generation = content(target), target.generation
    again = merge_catalog(source, target)
    assert not again.changed, again
    assert (content(target), target.generation) == (before, generation)
    assert target.generation == generation


def test_back_and_forth_both_know_the_same(pair: tuple[Catalog, Catalog], tmp_path: Path) -> None:
    source, target = pair
    fill_both(source, target, tmp_path / "models")
    merge_catalog(source, target)
    merge_catalog(target, source)
    assert set(source.model_names()) == set(target.model_names())
    for name in target.model_names():
        assert numbers(source, name) == numbers(target, name)
    assert not merge_catalog(source, target).changed


# ---- numbers


def test_of_two_numbers_in_one_context_the_later_stays(files: tuple[Catalog, Catalog]) -> None:
    source, target = files
    for catalog, moment, value in ((source, EARLY, 1.0), (target, LATE, 2.0)):
        added = catalog.add_model(plain_model("m")).record.id
        catalog.add_measurements(
            [number(added, "accuracy", value, dataset="d", recorded_at=moment)]
        )
    source.add_measurements([number(added, "accuracy", 3.0, dataset="e", recorded_at=EARLY)])
    assert merge_catalog(source, target).rows["measurements"] == 1
    found = {m.dataset: m.value for m in target.measurements(added)}
    assert found == {"d": 2.0, "e": 3.0}
    assert merge_catalog(target, source).rows["measurements"] == 1
    assert {m.dataset: m.value for m in source.measurements(added)} == found


# ---- names


def dataset(name: str, content: str) -> Dataset:
    return Dataset(
        name=name, id=f"dataset:{content}", kind="array", path=Path(f"/{content}"), samples=3,
        item_shape=None, dtype=None, labelled=False, label_space_id=None,
    )  # fmt: skip


def clash(source: Catalog, target: Catalog) -> None:
    """`net`, `points`, `best` and the alias `n` stand for two things; `alike` for the same."""
    for catalog, what in ((source, "theirs"), (target, "ours")):
        model = plain_model("net", what, version="1", aliases=("n",))
        extra = plain_model(f"{what} only", version="1")
        for record in (model, extra):
            catalog.add_model(record)
        catalog.add_dataset(dataset("points", what))
        catalog.add_dataset(dataset("alike", "same"))
        catalog.add_measurements(
            [number(one.id, "accuracy", 0.5, dataset="points") for one in (model, extra)]
        )
        catalog.save_pool("best", [model.id, extra.id], f"SELECT MODELS LIMIT {len(what)}")
        catalog.save_view("alike", "SELECT MODELS")


def test_names_that_stand_for_two_things_are_told_and_nothing_is_merged(
    pair: tuple[Catalog, Catalog],
) -> None:
    source, target = pair
    clash(source, target)
    before = content(target)
    with pytest.raises(StorageError, match="3 names stand for something else") as caught:
        merge_catalog(source, target)
    for told in ("model 'net'", "dataset 'points'", "pool 'best'", "rename", "skip"):
        assert told in str(caught.value)
    assert content(target) == before
    with pytest.raises(StorageError, match="one of fail, rename, skip"):
        merge_catalog(source, target, conflicts="ask")


def told(merged: Merged) -> set[tuple[str, str, str | None]]:
    return {(one.kind, one.name, one.became) for one in merged.conflicts}


def test_what_is_renamed_is_kept_beside_what_was_there(pair: tuple[Catalog, Catalog]) -> None:
    source, target = pair
    clash(source, target)
    merged = merge_catalog(source, target, conflicts="rename")
    assert told(merged) == {
        ("model", "net", "net_2"), ("alias", "n", None), ("dataset", "points", "points_2"),
        ("pool", "best", "best_2"),
    }  # fmt: skip
    assert target.resolve("net").id == target.resolve("n").id == content_id("ours")
    assert target.resolve("net_2").id == content_id("theirs")
    (accuracy,) = target.measurements(content_id("theirs"))
    assert accuracy.dataset == "points_2"
    (accuracy,) = target.measurements(content_id("ours"))
    assert accuracy.dataset == "points"
    assert target.dataset("points_2").id == "dataset:theirs"
    assert [pool.name for pool in target.pools()] == ["best", "best_2"]
    assert target.pool("best_2").ids[0] == content_id("theirs")
    before = content(target)
    again = merge_catalog(source, target, conflicts="rename")
    assert not again.changed, again
    assert content(target) == before


def test_what_is_skipped_takes_with_it_what_is_about_it(pair: tuple[Catalog, Catalog]) -> None:
    source, target = pair
    clash(source, target)
    merged = merge_catalog(source, target, conflicts="skip")
    assert told(merged) == {
        ("model", "net", None), ("dataset", "points", None), ("pool", "best", None),
    }  # fmt: skip
    with pytest.raises(UnknownNameError):
        target.model(content_id("theirs"))
    assert target.measurements(content_id("theirs only")) == [], "of the dataset that is left"
    assert target.dataset("points").id == "dataset:ours"
    before = content(target)
    assert not merge_catalog(source, target, conflicts="skip").changed
    assert content(target) == before


def test_an_alias_here_is_not_hidden_by_a_name_that_arrives(files: tuple[Catalog, Catalog]) -> None:
    source, target = files
    source.add_model(plain_model("short", "theirs"))
    target.add_model(plain_model("long", "ours", aliases=("short",)))
    with pytest.raises(StorageError, match="model 'short'"):
        merge_catalog(source, target)
    merge_catalog(source, target, conflicts="rename")
    assert target.resolve("short").name == "long"
    assert target.resolve("short_2").id == content_id("theirs")


def test_another_version_of_a_name_is_a_version(files: tuple[Catalog, Catalog]) -> None:
    source, target = files
    source.add_model(plain_model("net", "theirs", version="2"))
    target.add_model(plain_model("net", "ours", version="1"))
    assert merge_catalog(source, target).conflicts == ()
    assert target.resolve("net", "2").id == content_id("theirs")
    assert target.resolve("net", "1").id == content_id("ours")


# ---- the whole of it


def test_every_table_is_merged_or_said_to_stay_behind(tmp_path: Path) -> None:
    """Into an empty catalog a merge is a copy, but for what belongs to the database."""
    from sommelier.storage import merging_tables
    from sommelier.storage.schema import METADATA

    rules = (*merging_tables._FIRST, *merging_tables._LAST, merging_tables._DATASET)
    known = {rule.table for rule in rules} | {c for rule in rules for c, _ in rule.children}
    apart = {"models", "links", "measurements", "contexts", "sources", "sketches", "meta"}
    assert {table.name for table in METADATA.sorted_tables} == known | apart | TABLES


def test_a_merge_that_fails_leaves_nothing(files: tuple[Catalog, Catalog], tmp_path: Path) -> None:
    source, target = files
    fill_both(source, target, tmp_path / "models")
    before, generation = content(target), target.generation
    key = str(source.resolve("theirs").artifact)
    source.artifacts.path(key).unlink()
    with pytest.raises(StorageError):
        merge_catalog(source, target)
    assert (content(target), target.generation) == (before, generation)
