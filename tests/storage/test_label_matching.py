"""One rule says which class is which: agreement, accuracy and paired differences follow it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sommelier.analysis.labels import map_labels
from sommelier.records import LabelSpace
from sommelier.storage.label_matching import UNMATCHED, match_labels
from sommelier.storage.label_translation import NO_PARTNER, classes, translation
from tests.storage.index_factories import Shelf, add_models, label_space, probe_set

COARSE = label_space("coarse", ["cat", "dog"])
FINE = label_space("fine", ["tabby", "siamese", "beagle", "pug"])
MANY_TO_ONE = {"tabby": "cat", "siamese": "cat", "beagle": "dog", "pug": "dog"}

WORDS = ("tench", "tinca tinca", "crane", "crane bird", "x")
LABELS = st.lists(
    st.builds(
        lambda synset, names: synset + ", ".join(names),
        st.sampled_from(["", "n00000001 ", "n00000002 "]),
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=2),
    ),
    min_size=1,
    max_size=6,
)


@pytest.fixture
def shelf(tmp_path: Path):
    shelf = Shelf(tmp_path)
    yield shelf
    shelf.catalog.close()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["n01440764 tench, Tinca tinca", "n02088364 beagle"], ["tench", "beagle"]),
        (["tench, Tinca tinca", "dog"], ["tinca_tinca", "Dog"]),
        (["n01440764", "dog"], ["n01440764 tench", "dog"]),
    ],
)
def test_agreement_matches_synonyms_as_accuracy_does(first, second):
    found = translation(classes("a", first, None), classes("b", second, None))
    accuracy = map_labels(LabelSpace("a", "a", tuple(first)), LabelSpace("b", "b", tuple(second)))
    assert found.table.tolist() == accuracy.targets.tolist() == [0, 1]


def test_a_crane_with_another_wordnet_id_is_another_crane():
    assert match_labels(["n02012849 crane", "x"], ["n03126707 crane", "x"]).tolist() == [-1, 1]


@given(LABELS, LABELS)
@settings(deadline=None)
def test_names_match_one_to_one_and_alike_from_both_sides(first, second):
    forth, back = match_labels(first, second), match_labels(second, first)
    pairs = {(i, int(j)) for i, j in enumerate(forth) if j != UNMATCHED}
    assert pairs == {(int(i), j) for j, i in enumerate(back) if i != UNMATCHED}
    assert len({j for _, j in pairs}) == len(pairs)


def test_a_map_of_several_classes_to_one_is_read_whole_from_either_side(shelf):
    probes = probe_set("p", 4)
    shelf.catalog.add_probe_set(probes)
    for space in (COARSE, FINE):
        shelf.catalog.add_label_space(space)
    shelf.catalog.add_label_map(FINE.id, COARSE.id, MANY_TO_ONE)
    ids = add_models(shelf.catalog, 3)
    shelf.answer(ids[:1], probes, [[0, 0, 1, 1]], classes=2, label_space_id=COARSE.id)
    shelf.answer(ids[1:], probes, [[0, 1, 2, 3], [1, 0, 0, -1]], classes=4, label_space_id=FINE.id)
    for one, other, expected in ((0, 1, 4), (1, 0, 4), (0, 2, 2), (2, 0, 2)):
        assert shelf.semantics.agreement(ids[one], ids[other]).agreements == expected


def test_classes_beyond_the_map_have_no_partner():
    how = translation(classes("c", ["cat"], 1), classes("f", FINE.labels, 4), None, {"pug": "cat"})
    assert how.backward
    assert how.table.tolist() == [NO_PARTNER] * 3 + [0]
    assert how.apply(np.array([0], dtype=np.uint32)).tolist() == [0]


def test_paired_differences_translate_answers_to_the_truth(shelf):
    truth = np.array([0, 0, 1, 1, -1, -1], dtype=np.int32)
    probes = probe_set("p", 6, labels=truth.tobytes(), label_space_id=COARSE.id)
    shelf.catalog.add_probe_set(probes)
    for space in (COARSE, FINE):
        shelf.catalog.add_label_space(space)
    shelf.catalog.add_label_map(FINE.id, COARSE.id, MANY_TO_ONE)
    ids = add_models(shelf.catalog, 2)
    shelf.answer(
        ids, probes, [[0, 1, 2, 3, 0, -1], [0, 1, 2, 0, 2, -1]], classes=4, label_space_id=FINE.id
    )
    counts = shelf.semantics.paired(ids[0])  # 4 of 4 right against 3 of 4; two are unlabelled
    assert (counts.reference_only.tolist(), counts.candidate_only.tolist()) == ([0, 1], [0, 0])
    assert counts.samples == 4
    assert counts.difference(0.95)[0].tolist() == [0, 0.25]


def test_without_one_labelled_sample_there_is_no_paired_difference(shelf):
    labels = np.full(2, -1, dtype=np.int32).tobytes()
    probes = probe_set("p", 2, labels=labels)
    shelf.catalog.add_probe_set(probes)
    ids = add_models(shelf.catalog, 2)
    shelf.answer(ids, probes, [[0, 1], [0, 0]], classes=2)
    assert shelf.semantics.paired(ids[0]) is None
    assert len(shelf.semantics.edges(ids[0], 0.95)) == 1
