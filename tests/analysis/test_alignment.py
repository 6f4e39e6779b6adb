"""Which items of two datasets belong together, by brute force; and samples that stay so."""

from __future__ import annotations

import pickle
import re
import zipfile

import numpy as np
import pandas as pd
import pytest

import sommelier as sm
from sommelier.analysis.alignment import aligned, pairs
from sommelier.analysis.datasets import LoadedDataset, in_memory, load, reopen
from sommelier.analysis.probes import dataset_probes, same_probes
from sommelier.errors import DatasetError
from sommelier.records import FIRST
from sommelier.storage.catalog import Catalog

RNG = np.random.default_rng(7)


@pytest.fixture
def made(tmp_path):
    """Datasets whose item `i` holds the number in its id, so that any pairing can be checked."""

    def make(name: str, numbers, *, ids=True, **more) -> LoadedDataset:
        numbers = np.asarray(numbers)
        arrays = {"x": np.stack([numbers, numbers], axis=1).astype(np.float32), **more}
        if ids:
            arrays["idx"] = np.array([f"u{number}" for number in numbers])
        np.savez(tmp_path / f"{name}.npz", **arrays)
        return load(tmp_path / f"{name}.npz", {"id": "idx"} if ids else {}, name)

    return make


def numbers_of(dataset: LoadedDataset, places) -> list[int]:
    return [int(item[0]) for item in dataset.items(places)]


def test_pairs_are_those_a_search_of_all_combinations_finds(made):
    ours, theirs = RNG.permutation(60)[:40], RNG.permutation(60)[:35]
    source, target = made("a", ours), made("b", theirs)
    found = pairs(source, target)
    brute = [(i, j) for i, x in enumerate(ours) for j, y in enumerate(theirs) if x == y]
    assert list(zip(found.source.tolist(), found.target.tolist(), strict=True)) == brute
    assert found.note == f"'a' and 'b' share {len(brute)} items by id, of 40 and 35"


@pytest.mark.parametrize("options", [{}, {"samples": 9, "seed": 3}, {"samples": 9, "seed": 4},
                                     {"samples": 9, "sampling": "first"}])  # fmt: skip
def test_rows_of_the_two_samples_belong_together_also_when_made_again(made, options):
    labels = np.arange(50) % 7
    source, target = made("a", np.arange(50)), made("b", RNG.permutation(60)[:45], y=labels[:45])
    one, other = aligned(source, target, **options)
    wanted = numbers_of(source, one.indices)
    assert numbers_of(target, other.indices) == wanted
    assert len(set(wanted)) == len(wanted) == one.record.samples == other.record.samples
    assert np.array_equal(other.labels, labels[other.indices])
    for side, probes in ((source, one), (target, other)):
        again = same_probes(pickle.loads(pickle.dumps(probes.record)), side.record)
        assert np.array_equal(again.indices, probes.indices)
    again = aligned(source, target, **options)
    assert (again[0].record, again[1].record) == (one.record, other.record)


def test_aligned_probe_sets_survive_the_catalog(made, tmp_path):
    source, target = made("a", np.arange(50)), made("b", RNG.permutation(60)[:45])
    one, other = aligned(source, target, samples=20)
    with Catalog.open(tmp_path / "m.sommelier") as catalog:
        for probes in (one, other):
            catalog.add_probe_set(probes.record)
    with Catalog.open(tmp_path / "m.sommelier") as catalog:
        for side, probes in ((source, one), (target, other)):
            stored = catalog.probe_set(probes.record.id)
            assert np.array_equal(same_probes(stored, side.record).indices, probes.indices)


def test_only_a_sample_of_a_dataset_without_leftovers_counts_as_random(made):
    source, target = made("a", np.arange(40)), made("b", RNG.permutation(50))
    one, other = aligned(source, target, samples=10, seed=5)
    assert one.record.seed == 5  # every item of it could be drawn
    assert other.record.seed == FIRST
    assert other.record.indices is not None


def test_a_pairing_in_the_datasets_own_order_is_the_plain_probe_set(made):
    source, target = made("a", np.arange(40)), made("b", np.arange(40), y=np.zeros(40, int))
    for options in ({"samples": 10, "seed": 5}, {"sampling": "first", "samples": 10}, {}):
        for side, probes in zip((source, target), aligned(source, target, **options), strict=True):
            assert probes.record == dataset_probes(side, **options).record
            assert probes.record.indices is None
    assert pairs(source, target).note is None


def test_datasets_without_ids_pair_by_position_when_equally_long(made):
    source, target = made("a", np.arange(6), ids=False), made("b", np.arange(6) + 1, ids=False)
    one, other = aligned(source, target, samples=4, seed=1)
    assert np.array_equal(one.indices, other.indices)
    note = pairs(source, target).note
    assert note == "the items of 'a' and 'b' are paired by position: none has an id"
    memory = in_memory(np.zeros((6, 2), np.float32), "given")
    assert len(pairs(memory, target)) == 6


def test_a_dataset_is_aligned_with_itself(made):
    source = made("a", [1, 1, 2], ids=True)  # equal ids do not matter here
    one, other = aligned(source, source, samples=2)
    assert one.record == other.record == dataset_probes(source, samples=2).record


def test_what_cannot_be_paired_is_refused_saying_what_to_register(made):
    with_ids, shorter = made("a", np.arange(6)), made("b", np.arange(5), ids=False)
    with pytest.raises(DatasetError, match=re.escape("'a' has 6 items and ids such as 'u0', 'b'")
                       + " has 5 items and no ids") as caught:  # fmt: skip
        aligned(with_ids, shorter)
    assert caught.value.hint.startswith("REGISTER DATASET b FROM '")
    with pytest.raises(DatasetError, match="nothing says which items") as caught:
        aligned(made("c", np.arange(6), ids=False), shorter)
    assert caught.value.hint.count("REGISTER DATASET") == 2
    with pytest.raises(DatasetError, match="'a' and 'd' share 1 ids of 6 and 4") as caught:
        aligned(with_ids, made("d", [5, 6, 7, 8]))
    assert caught.value.hint == "ids of 'a': u0, u1, u2; of 'd': u5, u6, u7"
    with pytest.raises(DatasetError, match="'e' has the id 'u2' twice: items 1 and 3"):
        aligned(with_ids, made("e", [1, 2, 3, 2]))
    with pytest.raises(DatasetError, match="'a' and 'f' share 3 items, not 4"):
        aligned(with_ids, made("f", [1, 2, 3, 9]), samples=4)


# ---- ids


def test_ids_come_from_an_array_a_column_a_file_or_the_names_of_files(tmp_path):
    x, texts = RNG.normal(size=(3, 2)), ["b", "a", "c"]
    np.savez(tmp_path / "d.npz", x=x, idx=[7, 8, 9])
    np.save(tmp_path / "d.npy", x)
    np.save(tmp_path / "names.npy", np.array(texts))
    frame = pd.DataFrame({"p": x[:, 0], "q": x[:, 1], "key": texts, "number": [1.0, 2.0, 3.0]})
    frame.to_csv(tmp_path / "d.csv", index=False)
    frame.to_parquet(tmp_path / "d.parquet")
    for name in ("one_0.bin", "two_1.bin"):
        (tmp_path / "files" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "files" / name).write_bytes(b"1")
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("one/0.bin", b"1")
        archive.writestr("two/0.bin", b"1")
    file = {"kind": "file", "label_from": "none"}
    cases = {
        "d.npz": ({"id": "idx"}, ["7", "8", "9"]),
        "d.npy": ({"id": "names.npy"}, texts),
        "d.csv": ({"id": "key", "x": ["p", "q"]}, texts),
        "d.parquet": ({"id": "number", "x": ["p", "q"]}, ["1", "2", "3"]),
        "files": (file, ["one_0", "two_1"]),
        "d.zip": (file, ["one/0", "two/0"]),
    }
    for place, (options, ids) in cases.items():
        with load(tmp_path / place, options) as found:
            assert found.ids == ids, place
            assert reopen(found.record).ids == ids
    with load(tmp_path / "d.npz") as without:
        assert without.ids is None


def test_an_id_column_is_no_input_and_files_that_are_left_out_have_no_id(tmp_path):
    frame = pd.DataFrame({"p": [1.0, 2.0], "q": [3.0, 4.0], "key": [5, 6]})
    frame.to_csv(tmp_path / "d.csv", index=False)
    with load(tmp_path / "d.csv", {"id": "key"}) as found:
        assert found.record.item_shape == (2,)
    for name in ("a.txt", "b.md", "c"):
        (tmp_path / "files").mkdir(exist_ok=True)
        (tmp_path / "files" / name).write_bytes(b"1")
    with load(tmp_path / "files", {"label_from": "extension"}) as found:
        assert (found.ids, len(found)) == (["a", "b"], 2)


def test_ids_do_not_change_what_a_dataset_is(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,label\n1,2,no\n3,4,yes\n")
    assert load(tmp_path / "t.csv").record.id == (  # as computed before datasets had ids
        "sha256:16fb16823e3631a82802b15d28413dd635535c5cd97aed025d7b5ef6c4d3755c"
    )
    np.savez(tmp_path / "d.npz", x=RNG.normal(size=(3, 2)), idx=[7, 8, 9])
    with_ids = load(tmp_path / "d.npz", {"id": "idx"})
    assert with_ids.record.id == load(tmp_path / "d.npz").record.id


def test_ids_that_are_none_are_refused(tmp_path):
    x = RNG.normal(size=(3, 2))
    np.savez(tmp_path / "d.npz", x=x, short=[1, 2], part=[1.5, 2.0, 3.0])
    for name, said in (
        ("short", r"3 items but ids of shape \(2,\)"),
        ("part", r"item 0 of 'd\.npz' has the id 1\.5"),
        ("none at all", "has no 'none at all' for id"),
    ):
        with pytest.raises(DatasetError, match=said):
            load(tmp_path / "d.npz", {"id": name})
    (tmp_path / "d.csv").write_text("p,key\n1,a\n2,\n")
    with pytest.raises(DatasetError, match=r"item 1 of 'd\.csv' has the id nan"):
        load(tmp_path / "d.csv", {"id": "key"})
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.txt").write_bytes(b"1")
    with pytest.raises(DatasetError, match="the ids of files are their names"):
        load(tmp_path / "files", {"kind": "file", "id": "key"})


def test_a_registered_dataset_gets_ids_without_being_measured_anew(tmp_path):
    np.savez(tmp_path / "d.npz", x=RNG.normal(size=(3, 2)).astype(np.float32), idx=[7, 8, 9])
    with sm.connect(tmp_path / "m.sommelier") as db:
        db.execute(f"REGISTER DATASET d FROM '{tmp_path}/d.npz' USING x = 'x'")
        before = db.catalog.dataset("d")
        db.execute(f"REGISTER DATASET d FROM '{tmp_path}/d.npz' USING x = 'x', id = 'idx'")
        again = db.catalog.dataset("d")
        assert again.id == before.id
        with reopen(again) as found:
            assert found.ids == ["7", "8", "9"]
