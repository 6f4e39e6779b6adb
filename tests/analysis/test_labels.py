"""Class names decide which answers are equal, whatever their positions."""

from __future__ import annotations

import numpy as np
import pytest

from sommelier.analysis.labels import NO_LABEL, label_space, map_labels, name_map
from sommelier.errors import AnalysisError


def space(*labels):
    return label_space("test", labels)


def test_the_id_is_decided_by_the_names_and_their_order():
    assert label_space("a", ["x", "y"]).id == label_space("b", ["x", "y"]).id
    assert space("x", "y").id != space("y", "x").id
    assert space("xy", "").id != space("x", "y").id


def test_a_background_class_is_dropped_and_the_rest_shifts():
    names = [f"n{i:08d}" for i in range(1000)]
    found = map_labels(space("background", *names), space(*names))
    assert found.targets.tolist() == [NO_LABEL, *range(1000)]
    assert (found.coverage, found.kind) == (1.0, "named")
    assert found.apply(np.array([0, 1, 1000, 4_294_967_295])).tolist() == [-1, 0, 999, -1]


def test_names_match_across_case_separators_synsets_and_synonyms():
    theirs = space("n01440764 tench, Tinca tinca", "Great White-Shark", "electric locomotive")
    ours = space("electric_locomotive", "great white shark", "n01440764", "hammerhead")
    assert map_labels(ours, theirs).targets.tolist() == [2, 1, 0, NO_LABEL]
    assert name_map(ours, theirs)["n01440764"] == "n01440764 tench, Tinca tinca"


def test_names_that_occur_twice_match_in_order_and_ambiguous_synonyms_do_not_match():
    assert map_labels(space("crane", "x", "crane"), space("crane", "crane")).targets.tolist() == [
        0,
        NO_LABEL,
        1,
    ]
    found = map_labels(space("crane", "x"), space("crane, bird", "crane, machine", "x"))
    assert found.targets.tolist() == [NO_LABEL, 2]


def test_an_explicit_map_wins_over_equal_names():
    found = map_labels(space("py", "c"), space("python", "c", "py"), explicit={"py": "python"})
    assert found.targets.tolist() == [0, 1]
    assert found.kind == "explicit"
    with pytest.raises(AnalysisError, match="names 'pyton', which is not a label"):
        map_labels(space("py"), space("python"), explicit={"py": "pyton"})


def test_unknown_names_match_by_position_only_when_the_counts_are_equal():
    found = map_labels(None, space("a", "b"), classes=2)
    assert (found.kind, found.targets.tolist()) == ("positional", [0, 1])
    assert map_labels(None, None, classes=3, target_classes=3).kind == "positional"
    with pytest.raises(AnalysisError, match="1001 classes cannot be matched with 1000"):
        map_labels(None, None, classes=1001, target_classes=1000)
    with pytest.raises(AnalysisError, match="number of classes are unknown"):
        map_labels(None, None, classes=2)


def test_vocabularies_without_a_common_name_are_refused_with_examples():
    with pytest.raises(AnalysisError, match=r"\(cat, dog\).*\(car\).*no name in common"):
        map_labels(space("cat", "dog"), space("car"))
