"""Facts about models in the catalog: adding, naming, changing, numbers, everything kept beside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from sommelier.errors import ReadOnlyError, StorageError, UnknownNameError
from sommelier.records import (
    Dataset,
    Device,
    EquivalenceEdge,
    LabelSpace,
    ProbeSet,
    Rejection,
    ResourceProfile,
)
from sommelier.storage.catalog import Catalog
from sommelier.storage.sketches import SketchRow
from tests.storage.catalog_factories import content_id, number, plain_model, rich_model


@pytest.fixture
def catalog() -> Iterator[Catalog]:
    with Catalog.open(":memory:") as opened:
        yield opened


# ---- models


@pytest.mark.parametrize("record", [rich_model(), plain_model("plain", version="1")])
def test_a_model_is_read_as_it_was_written(catalog: Catalog, record: object) -> None:
    catalog.add_model(record)
    assert catalog.model(record.id) == record
    assert catalog.models() == [record]


def test_models_added_in_bulk_are_read_as_they_were_written(catalog: Catalog) -> None:
    records = [
        replace(rich_model(f"m{i}"), note=None if i % 7 else "one in seven") for i in range(90)
    ]
    records += [plain_model(f"p{i}", version="1") for i in range(90)]
    assert catalog.add_models_bulk(records) == 180
    assert catalog.models() == records
    assert catalog.add_models_bulk(records) == 0


def test_the_same_bytes_under_another_name_become_an_alias(catalog: Catalog) -> None:
    first = catalog.add_model(plain_model("a", content=1))
    second = catalog.add_model(plain_model("b", content=1))
    assert (first.status, second.status) == ("new", "alias")
    assert second.record == replace(first.record, aliases=("b",))
    assert catalog.resolve("b") == second.record
    assert catalog.add_model(plain_model("b", content=1)).status == "unchanged"
    assert catalog.add_model(plain_model("a", content=1)).status == "unchanged"
    assert catalog.model_names() == ["a", "b"]


def test_the_same_bytes_in_a_later_release_are_found_under_its_version(catalog: Catalog) -> None:
    catalog.add_model(plain_model("magika", content=1, version="0.5.1"))
    added = catalog.add_model(plain_model("magika", content=1, version="0.6.0"))
    assert added.status == "alias"
    assert catalog.resolve("magika", "0.6.0").version == "0.5.1"
    assert catalog.resolve("magika@0.6.0").version == "0.5.1"


def test_other_bytes_under_the_same_name_are_a_new_version(catalog: Catalog) -> None:
    versions = [catalog.add_model(plain_model("a", content=i)).record.version for i in range(3)]
    assert versions == ["1", "2", "3"]
    assert catalog.add_model(plain_model("a", content=9, version="2")).record.version == "4"
    assert catalog.add_model(plain_model("a", content=10, version="2.1")).record.version == "2.1"
    assert catalog.resolve("a").id == content_id(10)
    assert catalog.resolve("a", "2").id == content_id(1)
    assert catalog.resolve("a@3").id == content_id(2)


def test_the_beginning_of_an_id_names_a_model_unless_two_have_it(catalog: Catalog) -> None:
    a, b = (catalog.add_model(plain_model(name)).record for name in "ab")
    assert catalog.resolve(a.id[:20]) == a
    assert catalog.resolve(b.id) == b
    with pytest.raises(UnknownNameError, match="more than one"):
        catalog.resolve("sha256:")


def test_an_unknown_name_is_answered_with_the_nearest_ones(catalog: Catalog) -> None:
    for name in ("resnet50", "resnet18", "mobilenet_v2"):
        catalog.add_model(plain_model(name))
    with pytest.raises(UnknownNameError) as caught:
        catalog.resolve("resnet5O")
    assert caught.value.suggestions[0] == "resnet50"
    assert "mobilenet_v2" not in caught.value.suggestions
    with pytest.raises(UnknownNameError, match="has no version '7'") as caught:
        catalog.resolve("resnet50", "7")
    assert caught.value.hint == "its versions: 1"


def test_a_renamed_model_keeps_its_numbers_and_may_not_take_a_name(catalog: Catalog) -> None:
    a, b = (catalog.add_model(plain_model(name)).record for name in "ab")
    catalog.add_measurements([number(a.id, "params", 5)])
    with pytest.raises(StorageError, match="another model is called b@1"):
        catalog.rename_model(a.id, b.name)
    assert catalog.rename_model(a.id, "c").name == "c"
    assert catalog.resolve("c").id == a.id
    assert [m.value for m in catalog.measurements(a.id)] == [5]
    with pytest.raises(UnknownNameError):
        catalog.resolve("a")


def test_what_is_known_of_a_dropped_model_goes_with_it(catalog: Catalog) -> None:
    a, b = (catalog.add_model(plain_model(name)).record for name in "ab")
    catalog.add_measurements([number(a.id, "params", 1), number(b.id, "params", 2)])
    catalog.add_profile(ResourceProfile(a.id, b"12345678"))
    catalog.add_edges([edge(a.id, b.id), edge(b.id, a.id)])
    catalog.save_pool("both", [a.id, b.id], "SELECT MODELS")
    catalog.set_task_reference("t", a.id)
    catalog.drop_model(a.id)
    assert list(catalog.model_ids()) == [b.id]
    assert catalog.measurement_columns()["value"].tolist() == [2]
    assert catalog.profiles() == {}
    assert catalog.edges(a.id) == catalog.edges(b.id) == []
    assert catalog.pool("both").ids == (b.id,)
    assert catalog.tasks() == []
    with pytest.raises(UnknownNameError):
        catalog.drop_model(a.id)


def test_a_dropped_model_may_come_back_and_has_no_numbers(catalog: Catalog) -> None:
    a = catalog.add_model(plain_model("a")).record
    catalog.add_measurements([number(a.id, "params", 1)])
    with catalog.transaction():
        catalog.drop_model(a.id)
        catalog.add_model(plain_model("a"))
    assert catalog.measurements(a.id) == []


def test_ids_stay_in_the_order_of_insertion(catalog: Catalog) -> None:
    ids = [catalog.add_model(plain_model(name)).record.id for name in "dacb"]
    assert catalog.model_ids().tolist() == ids
    catalog.drop_model(ids[1])
    catalog.update_model(replace(catalog.model(ids[0]), task="x"))
    ids = [ids[0], *ids[2:], catalog.add_model(plain_model("e")).record.id]
    assert catalog.model_ids().tolist() == ids
    assert [record.id for record in catalog.models(reversed(ids))] == ids[::-1]


def test_times_with_a_zone_come_back_as_utc_without_one(catalog: Catalog) -> None:
    paris = datetime(2024, 5, 17, 14, tzinfo=timezone(timedelta(hours=2)))
    record = catalog.add_model(plain_model("a", created=paris)).record
    assert catalog.model(record.id).created == datetime(2024, 5, 17, 12)


# ---- the rest


def edge(reference: str, candidate: str, **fields: object) -> EquivalenceEdge:
    given = {"probe_set_id": "p", "samples": 10, "agreements": 9, "lower": 0.6, "upper": 0.99}
    return EquivalenceEdge(
        reference_id=reference, candidate_id=candidate, confidence=0.95, method="sketch",
        **(given | fields),
    )  # fmt: skip


def test_edges_come_back_best_first_and_are_replaced(catalog: Catalog) -> None:
    worst, best = edge("a", "b", agreements=1), edge("a", "c", agreements=10, difference=0.1)
    transitive = edge("a", "d", probe_set_id=None, agreements=5)
    catalog.add_edges([worst, best, transitive, edge("b", "a")])
    assert catalog.edges("a") == [best, transitive, worst]
    catalog.add_edges([replace(worst, agreements=2)])
    assert catalog.edges("a")[-1].agreements == 2
    many = [edge("z", f"c{i:03}") for i in range(200)]
    catalog.add_edges(many)
    assert catalog.edges("z") == many


def test_new_comparisons_of_a_reference_replace_all_its_old_ones_on_that_probe_set(
    catalog: Catalog,
) -> None:
    other_set, other_reference = edge("a", "b", probe_set_id="q"), edge("b", "a")
    another_way = replace(edge("a", "c"), method="random5")
    catalog.add_edges([edge("a", "b"), another_way, other_set])
    catalog.add_edges([other_reference, edge("c", "a"), edge("a", "e", probe_set_id=None)])
    catalog.replace_edges("p", [edge("a", "d")], references=["c"])
    assert {(e.candidate_id, e.probe_set_id) for e in catalog.edges("a")} == {
        ("d", "p"), ("b", "q"), ("e", None),
    }  # fmt: skip
    assert catalog.edges("b") == [other_reference]
    assert catalog.edges("c") == []
    catalog.replace_edges(None, [edge("a", "f", probe_set_id=None)])
    assert {e.candidate_id for e in catalog.edges("a")} == {"b", "d", "f"}
    with pytest.raises(ValueError, match="not of the probe set"):
        catalog.replace_edges("p", [other_set])


def test_replacing_the_comparisons_of_many_references_leaves_no_old_one(catalog: Catalog) -> None:
    catalog.add_edges([edge(f"r{i}", "old") for i in range(1200)])
    catalog.replace_edges("p", [edge(f"r{i}", "new") for i in range(1200)])
    found = catalog.database.rows("SELECT DISTINCT candidate_id FROM store.edges")
    assert found == [("new",)]


def test_comparisons_with_answers_that_are_replaced_are_forgotten(catalog: Catalog) -> None:
    def answers(model: str, probe_set: str = "p") -> SketchRow:
        return SketchRow(model, probe_set, "labels", "answers.bin", 0, 10, True, None, 3, 0, None)

    catalog.add_sketch_rows([answers("a"), answers("b"), answers("a", "q")])
    kept = [edge("b", "c"), edge("a", "b", probe_set_id="q")]
    catalog.add_edges([edge("a", "b"), edge("b", "a"), *kept])
    catalog.add_sketch_rows([answers("a"), answers("c")])
    assert [*catalog.edges("b"), *catalog.edges("a")] == kept


def test_things_with_a_name_are_kept_replaced_listed_and_dropped(catalog: Catalog) -> None:
    dataset = Dataset(
        id="d1", name="cifar10", kind="image", path=Path("/data/c.npz"), samples=10_000,
        item_shape=(32, 32, 3), dtype="uint8", labelled=True, label_space_id="l",
        options={"split": "test"}, held_out=True,
    )  # fmt: skip
    device = Device("jetson", 8e9, None, 2.5e10, note="small")
    for added, add, get, listed, drop in (
        (dataset, catalog.add_dataset, catalog.dataset, catalog.datasets, catalog.drop_dataset),
        (device, catalog.add_device, catalog.device, catalog.devices, catalog.drop_device),
    ):
        add(added)
        add(added)
        assert get(added.name) == added
        assert [item for item in listed() if item.name == added.name] == [added]
        with pytest.raises(UnknownNameError) as caught:
            get(added.name + "x")
        assert caught.value.suggestions[0] == added.name
        drop(added.name)
        assert added.name not in [item.name for item in listed()]
        with pytest.raises(UnknownNameError):
            drop(added.name)


def test_a_label_space_keeps_the_name_of_its_first_model_until_somebody_gives_one(
    catalog: Catalog,
) -> None:
    names = ("labels of a", "labels of b", "pets", "labels of c")
    kept = []
    for name in names:
        catalog.add_label_space(LabelSpace("l1", name, ("cat", "dog")))
        kept.append(catalog.label_space("l1").name)
    assert kept == ["labels of a", "labels of a", "pets", "pets"]


def test_label_spaces_maps_probe_sets_and_sketches_come_back(catalog: Catalog) -> None:
    space = LabelSpace("l1", "pets", ("cat", "dog, big", 'the "fish"'))
    catalog.add_model(plain_model("a", label_space_id="l1"), label_space=space)
    assert catalog.label_space("l1") == space
    assert catalog.label_spaces() == [space]
    catalog.add_label_map("l1", "l2", {"cat": "feline"})
    assert catalog.label_map("l1", "l2") == {"cat": "feline"}
    assert catalog.label_map("l2", "l1") is None
    probes = ProbeSet("p1", "d1", "cifar10", 500, 7, False, b"\x01\x00\x00\x00", "l1")
    catalog.add_probe_set(probes)
    assert catalog.probe_set("p1") == probes
    rows = [
        SketchRow(f"m{i}", "p1", "labels", "answers.bin", i, 1, True, None, 10, 0, None)
        for i in range(120)
    ]
    catalog.add_sketch_row(rows[0])
    catalog.add_sketch_rows(rows[1:])
    catalog.add_sketch_row(replace(rows[0], row=500))
    assert catalog.sketch_rows("p1") == [*rows[1:], replace(rows[0], row=500)]
    assert len(catalog.sketch_rows()) == 120
    assert catalog.sketch_rows("p2") == []


def test_pools_views_settings_rejections_and_task_references_come_back(catalog: Catalog) -> None:
    a, b = (catalog.add_model(plain_model(n, task="t")).record for n in "ab")
    catalog.save_pool("edge", [b.id, a.id], "SELECT MODELS")
    catalog.save_pool("edge", [b.id], "SELECT MODELS LIMIT 1")
    catalog.save_pool("none", [], "SELECT MODELS LIMIT 0")
    assert [(p.name, p.ids, p.query) for p in catalog.pools()] == [
        ("edge", (b.id,), "SELECT MODELS LIMIT 1"),
        ("none", (), "SELECT MODELS LIMIT 0"),
    ]
    catalog.drop_pool("none")
    catalog.save_view("small", "SELECT MODELS ON params < 5M")
    assert catalog.view("small").query == "SELECT MODELS ON params < 5M"
    catalog.drop_view("small")
    assert catalog.views() == []
    catalog.set_setting("device", "cpu")
    catalog.set_setting("device", "gpu")
    assert (catalog.setting("device"), catalog.settings()) == ("gpu", {"device": "gpu"})
    catalog.reset_setting("device")
    assert catalog.setting("device") is None
    catalog.add_rejection(Rejection("folder", "/x.onnx", "too large"))
    catalog.add_rejection(Rejection("folder", "/x.onnx", "malformed"))
    assert catalog.rejections() == [Rejection("folder", "/x.onnx", "malformed")]
    catalog.set_task_reference("t", b.id)
    assert catalog.tasks() == [("t", 2, "b")]


# ---- transactions


def undo(catalog: Catalog, change: Callable[[], object]) -> None:
    """Make a change inside a transaction that then fails."""

    def fail() -> None:
        with catalog.transaction():
            change()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()


def test_a_transaction_keeps_all_or_nothing(catalog: Catalog) -> None:
    def add() -> None:
        model = catalog.add_model(plain_model("a")).record
        catalog.add_measurements([number(model.id, "params", 1, device="new device")])
        assert catalog.resolve("a") == model

    undo(catalog, add)
    assert catalog.models() == []
    with pytest.raises(UnknownNameError):
        catalog.resolve("a")
    model = catalog.add_model(plain_model("b")).record
    catalog.add_measurements([number(model.id, "params", 1, device="new device")])
    assert catalog.measurements(model.id)[0].device == "new device"


def test_a_refusal_inside_a_transaction_leaves_the_rest_of_it(catalog: Catalog) -> None:
    with catalog.transaction():
        catalog.add_model(plain_model("a"))
        with pytest.raises(UnknownNameError):
            catalog.drop_model("sha256:none")
        catalog.add_model(plain_model("b"))
    assert catalog.model_names() == ["a", "b"]


def test_a_change_that_failed_half_way_takes_the_whole_transaction_along(catalog: Catalog) -> None:
    def half_way() -> None:
        with catalog.transaction():
            undo(catalog, lambda: catalog.add_model(plain_model("b")))

    with pytest.raises(StorageError, match="half-way"):
        half_way()
    assert catalog.models() == []


def test_two_models_of_one_name_and_version_are_refused_in_bulk(catalog: Catalog) -> None:
    pair = [plain_model("a", content=i, version="1") for i in range(2)]
    with pytest.raises(StorageError, match="two models would be called a@1"):
        catalog.add_models_bulk(pair)
    assert catalog.models() == []


def test_the_generation_counts_committed_changes(catalog: Catalog) -> None:
    before = catalog.generation
    with catalog.transaction():
        catalog.add_model(plain_model("a"))
        catalog.add_model(plain_model("b"))
    assert catalog.generation == before + 1
    undo(catalog, lambda: catalog.add_model(plain_model("c")))
    catalog.resolve("a")
    assert catalog.generation == before + 1


def test_a_read_only_catalog_refuses_every_change(tmp_path: Path) -> None:
    with Catalog.open(tmp_path / "m.sommelier") as catalog:
        catalog.add_model(plain_model("a"))
    with Catalog.open(tmp_path / "m.sommelier", read_only=True) as reader:
        assert reader.model_names() == ["a"]
        with pytest.raises(ReadOnlyError, match="add the model 'b'"):
            reader.add_model(plain_model("b"))


def test_a_database_in_memory_takes_its_folder_along() -> None:
    catalog = Catalog.open(":memory:")
    assert catalog.directory.is_dir()
    catalog.close()
    assert not catalog.directory.exists()


def test_a_new_database_knows_common_devices(catalog: Catalog) -> None:
    assert catalog.device("rtx-4090").memory_bytes == 24 * 2**30
    assert catalog.device("raspberry-pi-4").peak_flops_per_s is None  # unknown is not zero
    mine = Device("rtx-4090", 8e9, None, None, note="shared with a screen")
    catalog.add_device(mine)
    assert catalog.device("rtx-4090") == mine


def test_names_that_begin_with_what_was_typed_are_offered_first(catalog: Catalog) -> None:
    for name in ("lresnet50", "resnext50", "resnet50d.a1_in1k", "resnet50.a1_in1k", "resnet101"):
        catalog.add_model(plain_model(name))
    with pytest.raises(UnknownNameError) as caught:
        catalog.resolve("resnet50")
    assert caught.value.suggestions[:2] == ("resnet50.a1_in1k", "resnet50d.a1_in1k")
    with pytest.raises(UnknownNameError) as caught:
        catalog.resolve("resnet102")
    assert caught.value.suggestions[0] == "resnet101"
