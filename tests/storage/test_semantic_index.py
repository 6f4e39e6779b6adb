"""Candidates of a reference: equal to running all pairs, across label spaces and probe sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sommelier.errors import BinderError, UnknownNameError
from sommelier.records import Dataset
from sommelier.storage.catalog import Catalog
from sommelier.storage.resource_index import ResourceIndex
from sommelier.storage.semantic_index import SemanticIndex
from sommelier.storage.sketches import SketchStore
from tests.storage.index_factories import (
    Shelf,
    add_models,
    label_space,
    probe_set,
    sketch,
)

PETS = label_space("pets", ["cat", "dog", "fish"])
PETS_WITH_BACKGROUND = label_space("background", ["background", "Cat", "dog", "FISH"])


@pytest.fixture
def shelf(tmp_path: Path):
    shelf = Shelf(tmp_path)
    yield shelf
    shelf.catalog.close()


def pairs(shelf: Shelf, found) -> dict[str, int]:
    ids = shelf.resources.ids[found.rows].tolist()
    return dict(zip(ids, found.agreements.tolist(), strict=True))


@pytest.mark.slow
@given(answers=st.integers(0, 2**32 - 1), models=st.integers(1, 12), samples=st.integers(1, 30))
@settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))
def test_candidates_equal_all_pairs_by_brute_force(tmp_path_factory, answers, models, samples):
    shelf = Shelf(tmp_path_factory.mktemp("brute"))
    probes = probe_set("p", samples)
    shelf.catalog.add_probe_set(probes)
    ids = add_models(shelf.catalog, models)
    table = np.random.default_rng(answers).integers(-1, 4, (models, samples))
    shelf.answer(ids, probes, table, classes=4)
    for reference in range(models):
        found = shelf.semantics.candidates(ids[reference])
        agree = ((table == table[reference]) & (table >= 0)).sum(1)
        expected = sorted(range(models), key=lambda row: (-agree[row], row))
        assert found.rows.tolist() == expected
        assert found.agreements.tolist() == agree[expected].tolist()
        assert found.samples == samples
    shelf.catalog.close()


def test_models_of_different_label_spaces_compare_by_name(shelf):
    probes = probe_set("p", 5)
    shelf.catalog.add_probe_set(probes)
    for space in (PETS, PETS_WITH_BACKGROUND):
        shelf.catalog.add_label_space(space)
    ids = add_models(shelf.catalog, 3)
    shelf.answer(ids[:1], probes, [[0, 1, 2, 0, -1]], classes=3, label_space_id=PETS.id)
    shelf.answer(
        ids[1:], probes, [[1, 2, 3, 0, 0], [0, 1, 2, 0, -1]],
        classes=4, label_space_id=PETS_WITH_BACKGROUND.id,
    )  # fmt: skip
    found = shelf.semantics.candidates(ids[0])
    assert pairs(shelf, found) == {ids[0]: 4, ids[1]: 3, ids[2]: 0}
    assert found.labels == "named"
    assert shelf.semantics.agreement(ids[1], ids[0]).agreements == 3


def test_a_label_map_given_later_changes_the_answer_both_ways(shelf):
    probes, other = probe_set("p", 3), label_space("felines", ["feline", "dog", "fish"])
    shelf.catalog.add_probe_set(probes)
    ids = add_models(shelf.catalog, 2)
    for model_id, space in zip(ids, (PETS, other), strict=True):
        shelf.catalog.add_label_space(space)
        shelf.answer([model_id], probes, [[0, 1, 2]], classes=3, label_space_id=space.id)
    assert shelf.semantics.agreement(ids[0], ids[1]).agreements == 2
    assert pairs(shelf, shelf.semantics.candidates(ids[0]))[ids[1]] == 2
    shelf.catalog.add_label_map(PETS.id, other.id, {"cat": "feline"})
    assert pairs(shelf, shelf.semantics.candidates(ids[0]))[ids[1]] == 3
    assert pairs(shelf, shelf.semantics.candidates(ids[1]))[ids[0]] == 3


def test_equal_class_counts_without_names_compare_by_position_and_say_so(shelf):
    probes = probe_set("p", 3)
    shelf.catalog.add_probe_set(probes)
    shelf.catalog.add_label_space(PETS)
    ids = add_models(shelf.catalog, 3)
    shelf.answer(ids[:2], probes, [[0, 1, 2]] * 2, classes=3, label_space_id=PETS.id)
    shelf.answer(ids[2:], probes, [[0, 1, 1]], classes=3)
    found = shelf.semantics.candidates(ids[0])
    assert pairs(shelf, found)[ids[2]] == 2
    assert found.labels == "positional"
    assert found.positional.tolist() == [False, False, True]


def test_what_cannot_be_compared_is_counted_by_reason(shelf):
    probes, elsewhere = probe_set("p", 4), probe_set("q", 2)
    shelf.catalog.add_probe_set(probes)
    shelf.catalog.add_probe_set(elsewhere)
    ids = add_models(shelf.catalog, 6)
    shelf.answer(ids[:2], probes, [[0, 1, 2, 0]] * 2, classes=3)
    shelf.answer(ids[2:3], probes, [[0, 1, 2, 0]], classes=4)
    shelf.answer(ids[3:4], probes, np.ones((1, 4, 2)))
    shelf.answer(ids[4:5], elsewhere, [[0, 0]], classes=3)
    found = shelf.semantics.candidates(ids[0])
    assert list(pairs(shelf, found)) == ids[:2]
    assert found.incomparable == {
        "different numbers of classes, names unknown": 1,
        "different kinds of output": 1,
        "analysed on other probe sets only": 1,
        "not analysed for equivalence": 1,
    }


def test_a_reference_without_answers_has_no_candidates(shelf):
    ids = add_models(shelf.catalog, 2)
    found = shelf.semantics.candidates(ids[0])
    assert (len(found), found.samples, found.probe_set_id) == (0, 0, None)
    assert found.incomparable == {"the reference is not analysed for equivalence": 2}
    assert shelf.semantics.edges(ids[0], 0.95) == []


def test_unknown_models_probe_sets_and_modes_are_errors(shelf):
    (model_id,) = add_models(shelf.catalog, 1)
    with pytest.raises(UnknownNameError):
        shelf.semantics.candidates("sha256:none")
    with pytest.raises(UnknownNameError):
        shelf.semantics.candidates(model_id, probe_set_id="none")
    with pytest.raises(BinderError, match="random6"):
        shelf.semantics.candidates(model_id, mode="random6")


def test_vectors_agree_within_five_percent(shelf):
    probes = probe_set("p", 3)
    shelf.catalog.add_probe_set(probes)
    ids = add_models(shelf.catalog, 3)
    exact = np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])
    near = exact * [[1.04], [1.06], [1.0]]
    shelf.answer(ids, probes, np.stack([exact, near, np.full((3, 2), np.nan)]))
    found = shelf.semantics.candidates(ids[0])
    assert pairs(shelf, found) == {ids[0]: 3, ids[1]: 2, ids[2]: 0}
    assert (found.labels, found.exact) == (None, True)


def test_agreement_of_projected_vectors_is_an_estimate(shelf):
    probes = probe_set("p", 3)
    shelf.catalog.add_probe_set(probes)
    ids = add_models(shelf.catalog, 2)
    shelf.answer(ids, probes, np.ones((2, 3, 2)), exact=False)
    assert not shelf.semantics.candidates(ids[0]).exact
    assert not shelf.semantics.agreement(ids[0], ids[1]).exact
    assert [e.method for e in shelf.semantics.edges(ids[0], 0.95)] == ["sketch-estimated"]


def test_a_wide_class_id_never_agrees_with_its_low_half(shelf):
    probes = probe_set("p", 2)
    shelf.catalog.add_probe_set(probes)
    ids = add_models(shelf.catalog, 2)
    shelf.catalog.add_label_space(big := label_space("big", [f"w{i}" for i in range(70_000)]))
    shelf.catalog.add_label_space(small := label_space("small", [f"w{i}" for i in range(5_000)]))
    shelf.answer(
        ids[:1], probes, [[70_000 - 65_536, 69_999]], classes=70_000, label_space_id=big.id
    )
    shelf.answer(ids[1:], probes, [[4_464, 4_463]], classes=5_000, label_space_id=small.id)
    assert pairs(shelf, shelf.semantics.candidates(ids[0]))[ids[1]] == 1
    assert pairs(shelf, shelf.semantics.candidates(ids[1]))[ids[0]] == 1


# ---- probe sets


def test_the_real_probe_set_with_most_answers_is_chosen(shelf):
    sets = {
        "synthetic": probe_set("s", 100, synthetic=True),
        "small": probe_set("small", 2),
        "large": probe_set("large", 5),
    }
    ids = add_models(shelf.catalog, 3)
    for probes in sets.values():
        shelf.catalog.add_probe_set(probes)
        shelf.answer(ids, probes, np.zeros((3, probes.samples), int), classes=2)
    assert shelf.semantics.candidates(ids[0]).probe_set_id == sets["large"].id
    asked = shelf.semantics.candidates(ids[0], probe_set_id=sets["synthetic"].id)
    assert asked.probe_set_id == sets["synthetic"].id


def test_an_answer_is_cached_and_a_new_model_costs_one_row(shelf):
    probes = probe_set("p", 8)
    shelf.catalog.add_probe_set(probes)
    ids = add_models(shelf.catalog, 20)
    table = np.random.default_rng(0).integers(0, 3, (21, 8))
    shelf.answer(ids, probes, table[:20], classes=3)
    first = shelf.semantics.candidates(ids[0])
    assert shelf.semantics.candidates(ids[0]) is first
    assert (len(first.rows), shelf.semantics._scans.rows_read) == (20, 20)
    ids += add_models(shelf.catalog, 1, start=20)
    shelf.answer(ids[20:], probes, table[20:], classes=3)
    second = shelf.semantics.candidates(ids[0])
    assert (len(second.rows), shelf.semantics._scans.rows_read) == (21, 21)
    assert pairs(shelf, second) == dict(zip(ids, (table == table[0]).sum(1).tolist(), strict=True))


def test_a_setting_changed_in_the_catalog_does_not_drop_answers(shelf):
    probes = probe_set("p", 2)
    shelf.catalog.add_probe_set(probes)
    ids = add_models(shelf.catalog, 2)
    shelf.answer(ids, probes, [[0, 1], [0, 0]], classes=2)
    first = shelf.semantics.candidates(ids[0])
    shelf.catalog.set_setting("confidence", "0.9")
    assert shelf.semantics.candidates(ids[0]) is first


def test_answers_follow_a_model_that_is_analysed_again_or_dropped(shelf):
    probes = probe_set("p", 3)
    shelf.catalog.add_probe_set(probes)
    ids = add_models(shelf.catalog, 3)
    shelf.answer(ids, probes, [[0, 1, 1], [0, 0, 0], [0, 1, 0]], classes=2)
    assert pairs(shelf, shelf.semantics.candidates(ids[0]))[ids[1]] == 1
    shelf.sketches.add(sketch(ids[1], probes, [0, 1, 1], classes=2))
    assert pairs(shelf, shelf.semantics.candidates(ids[0])) == {ids[0]: 3, ids[1]: 3, ids[2]: 2}
    shelf.sketches.add(sketch(ids[0], probes, [0, 1, 0], classes=2))
    assert pairs(shelf, shelf.semantics.candidates(ids[0])) == {ids[0]: 3, ids[1]: 2, ids[2]: 3}
    shelf.catalog.drop_model(ids[1])
    assert pairs(shelf, shelf.semantics.candidates(ids[0])) == {ids[0]: 3, ids[2]: 3}


@pytest.mark.duckdb("there are no snapshots")
def test_a_reader_of_a_snapshot_keeps_its_answers_while_a_writer_goes_on(shelf):
    probes = probe_set("p", 3)
    shelf.catalog.add_probe_set(probes)
    ids = add_models(shelf.catalog, 3)
    shelf.answer(ids, probes, [[0, 1, 1], [0, 0, 0], [0, 1, 0]], classes=2)
    shelf.catalog.publish()
    with Catalog.open(shelf.catalog.path, read_only=True) as snapshot:
        sketches = SketchStore(snapshot.directory / "sketches", snapshot)
        reader = SemanticIndex(snapshot, sketches, ResourceIndex(snapshot))
        shelf.sketches.add(sketch(ids[1], probes, [0, 1, 1], classes=2))
        shelf.catalog.drop_model(ids[2])
        shelf.answer(add_models(shelf.catalog, 1, start=3), probes, [[0, 1, 1]], classes=2)
        assert reader.candidates(ids[0]).agreements.tolist() == [3, 2, 1]
    assert shelf.semantics.candidates(ids[0]).agreements.tolist() == [3, 3, 3]


# ---- bounds through third models


def bridged(shelf: Shelf, table: np.ndarray, dataset: str | None, other: str | None) -> list[str]:
    """Model 0 answers the first half, 2 the second, 1 (and 3) both; the same inputs' population."""
    half = table.shape[1] // 2
    sets = [probe_set(n, half, dataset_id=d) for n, d in (("a", dataset), ("b", other))]
    ids = add_models(shelf.catalog, len(table))
    for probes, members, answers in (
        (sets[0], [0, 1, 3], table[:, :half]),
        (sets[1], [2, 1, 3], table[:, half:]),
    ):
        shelf.catalog.add_probe_set(probes)
        shelf.answer([ids[m] for m in members], probes, answers[members], classes=9)
    return ids


def test_models_without_a_common_probe_set_get_the_tightest_transitive_bounds(shelf):
    table = np.zeros((4, 20), int)
    table[1, [0, 10, 11]] = 1  # agrees with 0 on 9 of 10, with 2 on 8 of 10
    table[3, [0, 1, 2]] = 2  # agrees with 0 on 7 of 10, with 2 on 10 of 10
    ids = bridged(shelf, table, "same", "same")
    bounds = shelf.semantics.candidates(ids[0]).transitive
    assert shelf.resources.ids[bounds.rows].tolist() == [ids[2]]
    assert bounds.low[0] == pytest.approx(0.7)
    assert bounds.high[0] == pytest.approx(0.7)  # through model 3: 1 - |0.3 - 0|
    assert bounds.intermediates == 2
    low, high = bounds.interval(0.95)
    assert low[0] < 0.7 < high[0]
    (edge,) = [e for e in shelf.semantics.edges(ids[0], 0.95) if e.method == "transitive"]
    assert (edge.candidate_id, edge.probe_set_id, edge.samples) == (ids[2], None, 0)
    assert (edge.lower, edge.upper) == (low[0], high[0])


def test_bounds_do_not_cross_from_one_population_to_another(shelf):
    ids = bridged(shelf, np.zeros((4, 20), int), "photos", "sketches")
    assert shelf.semantics.candidates(ids[0]).transitive is None


def test_all_bridges_count_as_intermediates_and_the_nearest_are_tried(shelf):
    table = np.random.default_rng(2).integers(0, 9, (33, 40))
    sets = [probe_set(n, 20, dataset_id="d") for n in "ab"]
    ids = add_models(shelf.catalog, 33)
    for probes, members, answers in (
        (sets[0], range(32), table[:, :20]),
        (sets[1], range(1, 33), table[:, 20:]),
    ):
        shelf.catalog.add_probe_set(probes)
        shelf.answer([ids[m] for m in members], probes, answers[members], classes=9)
    bounds = shelf.semantics.candidates(ids[0], probe_set_id=sets[0].id).transitive
    assert bounds.intermediates == 31
    near = (table[1:32, :20] == table[0, :20]).sum(1)
    assert set(bounds.low_legs[:, 0]) <= set(np.sort(near)[-16:].tolist())


@pytest.mark.parametrize(("items", "bounded"), [(20, False), (10, True)])
def test_the_first_items_of_a_dataset_give_no_bounds_unless_they_are_all(shelf, items, bounded):
    shelf.catalog.add_dataset(
        Dataset("d", "photos", "array", Path("x"), items, None, None, False, None)
    )
    ids = add_models(shelf.catalog, 3)
    drawn, first = probe_set("a", 10, dataset_id="d"), probe_set("b", 10, dataset_id="d", seed=-1)
    for probes, members in ((drawn, ids[:2]), (first, ids[1:])):
        shelf.catalog.add_probe_set(probes)
        shelf.answer(members, probes, np.zeros((2, 10), int), classes=3)
    assert (shelf.semantics.candidates(ids[0]).transitive is not None) == bounded
    assert (shelf.semantics.candidates(ids[2]).transitive is not None) == bounded


def test_bounds_and_random5_stop_at_a_label_map_between_classes_that_were_answered_in(shelf):
    ids = add_models(shelf.catalog, 4)
    a, b = probe_set("a", 4, dataset_id="d"), probe_set("b", 4, dataset_id="d")
    coarse = label_space("coarse", ["pet", "dog", "fish"])
    for space in (PETS, coarse):
        shelf.catalog.add_label_space(space)
    for probes, members in ((a, ids[:2]), (b, ids[1:3])):
        shelf.catalog.add_probe_set(probes)
        shelf.answer(members, probes, np.zeros((2, 4), int), classes=3, label_space_id=PETS.id)
    shelf.catalog.add_label_map(PETS.id, coarse.id, {"cat": "pet", "dog": "pet"})
    # the map leads to a dataset's labels only: nothing compared here goes through it
    assert shelf.semantics.candidates(ids[0]).transitive is not None
    assert len(shelf.semantics.candidates(ids[0], mode="random5")) == 2
    shelf.answer(ids[3:], a, np.zeros((1, 4), int), classes=3, label_space_id=coarse.id)
    assert shelf.semantics.candidates(ids[0]).transitive is None
    with pytest.raises(BinderError, match="without label maps"):
        shelf.semantics.candidates(ids[0], mode="random5")


# ---- the paper's mode


def test_random5_bounds_contain_the_exact_agreement(shelf):
    probes = probe_set("p", 60)
    shelf.catalog.add_probe_set(probes)
    ids = add_models(shelf.catalog, 30)
    rng = np.random.default_rng(3)
    table = np.where(rng.random((30, 60)) < 0.8, 0, rng.integers(0, 5, (30, 60)))
    shelf.answer(ids[:20], probes, table[:20], classes=5)
    for round_ in (20, 30):  # the index grows with the catalog
        exact = pairs(shelf, shelf.semantics.candidates(ids[4]))
        found = shelf.semantics.candidates(ids[4], mode="random5")
        assert len(found) == round_
        truth = np.array([exact[i] for i in shelf.resources.ids[found.rows]]) / 60
        assert (found.low <= truth + 1e-12).all()
        assert (truth <= found.high + 1e-12).all()
        assert (np.diff(found.agreements) <= 0).all()
        if round_ == 20:
            shelf.answer(ids[20:], probes, table[20:], classes=5)
    fresh = SemanticIndex(shelf.catalog, shelf.sketches, shelf.resources)
    assert fresh.candidates(ids[4], mode="random5").agreements.tolist() == found.agreements.tolist()


# ---- true labels


def test_accuracy_differences_are_paired_across_label_spaces(shelf):
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 3, 200)
    probes = probe_set("p", 200, labels=truth.astype(np.int32).tobytes(), label_space_id=PETS.id)
    for space in (PETS, PETS_WITH_BACKGROUND):
        shelf.catalog.add_label_space(space)
    shelf.catalog.add_probe_set(probes)
    ids = add_models(shelf.catalog, 2)
    first = np.where(rng.random(200) < 0.8, truth, (truth + 1) % 3)
    second = np.where(rng.random(200) < 0.6, truth, (truth + 1) % 3)
    shelf.answer(ids[:1], probes, [first], classes=3, label_space_id=PETS.id)
    shelf.answer(ids[1:], probes, [second + 1], classes=4, label_space_id=PETS_WITH_BACKGROUND.id)
    (edge,) = shelf.semantics.edges(ids[0], 0.95)
    gap = (first == truth).mean() - (second == truth).mean()
    assert edge.difference == pytest.approx(gap)
    assert edge.difference_low <= gap <= edge.difference_high
    assert edge.agreements == (first == second).sum()
    assert edge.lower < edge.agreements / 200 < edge.upper
    # |accuracy gap| <= disagreement holds for 0/1 accuracy (algorithms.md A.2)
    assert abs(gap) <= 1 - edge.agreements / 200
    (back,) = shelf.semantics.edges(ids[1], 0.95)
    assert back.difference == pytest.approx(-gap)


def test_without_true_labels_there_is_no_accuracy_difference(shelf):
    probes = probe_set("p", 2)
    shelf.catalog.add_probe_set(probes)
    ids = add_models(shelf.catalog, 2)
    shelf.answer(ids, probes, [[0, 1], [0, 0]], classes=2)
    assert shelf.semantics.paired(ids[0]) is None
    (edge,) = shelf.semantics.edges(ids[0], 0.95)
    assert edge.difference is None
