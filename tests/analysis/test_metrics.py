"""Agreement, overlap, distance and accuracy against values worked out by hand or by scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sommelier.analysis.answers import NO_ANSWER
from sommelier.analysis.labels import LabelMap
from sommelier.analysis.metrics import (
    accuracy_measurements,
    correctness,
    interchangeable,
    relative_l2,
    same_class,
    top_k_overlap,
)
from sommelier.errors import AnalysisError
from sommelier.records import Provenance

SHIFT = LabelMap(np.array([-1, 0, 1, 2], dtype=np.int32), 1.0, "named")  # 0 = background
SAME = LabelMap(np.arange(9, dtype=np.int32), 1.0, "named")


def ids(*values):
    return np.array(values, dtype=np.uint32)


def test_no_answer_and_no_such_class_agree_with_nothing():
    assert same_class(ids(1, 2, NO_ANSWER), ids(1, 3, NO_ANSWER)).tolist() == [True, False, False]
    found = same_class(ids(0, 1, 3, NO_ANSWER), ids(0, 0, 2, NO_ANSWER), SHIFT)
    assert found.tolist() == [False, True, True, False]


def test_disagreement_is_a_pseudometric_on_one_set_of_samples():
    # algorithms.md C.1 and J.6: the triangle inequality holds exactly
    a, b, c = np.random.default_rng(0).integers(0, 3, (3, 500)).astype(np.uint32)
    distance = {(p, q): (~same_class(x, y)).mean() for p, x in (("a", a), ("b", b), ("c", c))
                for q, y in (("a", a), ("b", b), ("c", c))}  # fmt: skip
    assert distance["a", "c"] <= distance["a", "b"] + distance["b", "c"]
    assert distance["a", "b"] == distance["b", "a"]
    assert distance["a", "a"] == 0


def test_overlap_of_the_best_classes_ignores_order_and_padding():
    one, two = ids(1, 2, 3, NO_ANSWER), ids(3, 1, 9, NO_ANSWER)
    assert top_k_overlap(one[None], two[None])[0] == pytest.approx(2 / 3)
    shifted = ids(0, 2, 1, NO_ANSWER)  # background is no class of the candidate
    assert top_k_overlap(shifted[None], ids(0, 1, 2, 3)[None], SHIFT)[0] == pytest.approx(2 / 3)


def test_distance_is_relative_to_the_reference():
    reference, candidate = (
        np.array([[3.0, 4], [0, 0], [0, 0]]),
        np.array([[3.0, 4.2], [0, 0], [1, 0]]),
    )
    assert relative_l2(reference, candidate).tolist() == pytest.approx([0.04, 0, np.inf])
    assert interchangeable(reference, candidate).tolist() == [True, True, False]
    nan = np.array([[np.nan, 1]])
    assert not interchangeable(nan, nan).any()
    with pytest.raises(AnalysisError, match="outputs of 2 and of 3 numbers"):
        relative_l2(np.zeros((1, 2)), np.zeros((1, 3)))


def test_accuracy_counts_labelled_items_and_missing_answers_as_wrong():
    labels = np.array([0, 1, 2, -1, 4], dtype=np.int32)
    found = correctness(ids(0, 5, 2, 3, NO_ANSWER), labels, SAME)
    assert (found.count, found.accuracy) == (4, 0.5)
    assert found.among_five is None


def test_top_five_accuracy_goes_through_the_label_map():
    targets = np.array([-1, *range(8)], dtype=np.int32)
    best = np.array([[0, 1, 2, 3, 4], [8, 7, 6, 5, 4]], dtype=np.uint32)
    labels = np.array([3, 0], dtype=np.int32)
    found = correctness(best[:, 0], labels, LabelMap(targets, 1.0, "named"), topk_ids=best)
    assert found.first.tolist() == [False, False]
    assert found.among_five.tolist() == [True, False]


def test_measured_accuracies_carry_their_exact_interval():
    labels = np.zeros(200, dtype=np.int32)
    answers = np.r_[np.zeros(190), np.ones(10)].astype(np.uint32)
    best = np.stack([answers, *(answers + i for i in range(1, 5))], axis=1)
    found = correctness(answers, labels, SAME, topk_ids=best)
    first, five = accuracy_measurements(found, model_id="m", dataset="d")
    interval = stats.binomtest(190, 200).proportion_ci(0.95, method="exact")
    assert (first.metric, first.value, first.count) == ("accuracy", 0.95, 200)
    assert (first.low, first.high) == pytest.approx((interval.low, interval.high))
    assert (five.metric, five.value, five.dataset) == ("top5_accuracy", 0.95, "d")
    assert first.provenance is Provenance.MEASURED


def test_without_a_labelled_item_there_is_nothing_to_measure():
    found = correctness(ids(1), np.array([-1], dtype=np.int32), SAME)
    assert accuracy_measurements(found, model_id="m", dataset="d") == []
