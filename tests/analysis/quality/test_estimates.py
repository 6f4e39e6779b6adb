"""Intervals hold as often as they say, are named after what proves them, and hold together."""

from __future__ import annotations

import numpy as np
import pytest

from sommelier.analysis.quality import breakdown
from sommelier.analysis.quality.estimates import difference, mean, of_figure, share
from sommelier.analysis.quality.measure import dataset_figure, mean_figure
from sommelier.confidence import clopper_pearson, paired_difference
from sommelier.errors import AnalysisError
from sommelier.records import NO_ANSWER


def test_terms_of_0_and_1_are_a_share_and_graded_ones_a_bet():
    counted = mean(np.array([True, False, True, True]), 0.9)
    low, high = map(float, clopper_pearson(3, 4, 0.9))
    assert (counted.value, counted.low, counted.high) == pytest.approx((0.75, low, high))
    assert (counted.method, counted.certified) == ("cp", True)
    graded = mean(np.full(50, 0.3), 0.9)
    assert (graded.method, graded.certified) == ("betting", True)
    assert graded.low <= 0.3 <= graded.high
    with pytest.raises(AnalysisError, match="outside"):
        mean(np.array([0.5, 1.5]), 0.9)


def test_which_bound_is_taken_does_not_depend_on_the_data():
    graded = mean(np.array([1.0, 0.0, 1.0, 1.0]), 0.9)  # graded losses that happen to be extreme
    assert graded.method == "betting"
    pair = mean_figure("F1", np.ones(9)), mean_figure("F1", np.zeros(9))
    assert {of_figure(one, 0.9).method for one in pair} == {"betting"}
    assert difference(*pair, 0.9).method == "betting"
    right = mean_figure("accuracy", np.ones(9, dtype=bool))
    assert {of_figure(right, 0.9).method, difference(right, right, 0.9).method} == {"cp"}
    rows = breakdown(np.array([1.0, 1.0, 0.25]), by=["night", "night", "day"])
    assert {row.method for row in rows} == {"betting"}


def test_graded_intervals_cover_as_often_as_they_say():
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        found = mean(rng.beta(0.5, 2.5, 100), 0.9)
        covered += found.low <= 0.5 / 3.0 <= found.high
    assert covered >= 200 * 0.9 - 3 * np.sqrt(200 * 0.9 * 0.1)


def test_no_samples_say_nothing():
    found = share(0, 0, 0.9)
    assert np.isnan(found.value)
    assert (found.low, found.high) == (0, 1)


def test_paired_shares_are_exact_and_paired_grades_contain_the_difference():
    rng = np.random.default_rng(5)
    one, other = rng.random((2, 400)) < np.array([[0.8], [0.7]])
    found = difference(mean_figure("a", one), mean_figure("a", other), 0.95)
    only = int((one & ~other).sum()), int((other & ~one).sum())
    expected = paired_difference(*only, 400, 0.95)
    assert (found.value, found.low, found.high) == pytest.approx(expected)
    graded = difference(mean_figure("a", one * 0.5), mean_figure("a", other * 0.5), 0.95)
    assert graded.method == "betting"
    assert graded.low <= found.value / 2 <= graded.high


def test_a_figure_of_the_dataset_gets_a_bootstrap_which_proves_nothing():
    rng = np.random.default_rng(6)
    values = rng.normal(size=80)
    spread = dataset_figure("spread", 80, lambda i: float(values[i].std()))
    found = of_figure(spread, 0.95)
    assert (found.method, found.certified) == ("bca", False)
    assert found.low < values.std() < found.high
    # the standard error of a normal sample's standard deviation is sigma / sqrt(2 n)
    assert found.high - found.low == pytest.approx(2 * 1.96 / np.sqrt(160), rel=0.35)
    wider = dataset_figure("spread", 80, lambda i: float(2 * values[i].std()))
    gap = difference(spread, wider, 0.95)
    assert gap.value == pytest.approx(-values.std())
    assert gap.low == pytest.approx(-found.high, rel=0.1)  # the same samples are drawn for both
    with pytest.raises(AnalysisError, match="same samples"):
        difference(spread, dataset_figure("spread", 9, lambda i: 0.0), 0.95)


def test_a_figure_that_never_changes_has_no_bootstrap_interval():
    found = of_figure(dataset_figure("F1", 20, lambda _: 1.0), 0.95)
    assert found.value == 1
    assert np.isnan([found.low, found.high]).all()


def test_groups_are_named_sorted_and_corrected_for_their_number():
    losses = np.array([1, 1, 0, 0, 0, 0, 1, 1], dtype=bool)
    by = np.array([0, 0, 0, 1, 1, 1, -1, -1])
    rows = breakdown(losses, by=by, names=["cat", "dog"], confidence=0.9)
    assert [(r.group, r.samples, r.mean) for r in rows] == [("cat", 3, 2 / 3), ("dog", 3, 0)]
    low, high = map(float, clopper_pearson(2, 3, 0.95))  # 10 % of risk over two groups
    assert (rows[0].low, rows[0].high) == pytest.approx((low, high))


def test_slices_may_be_words_and_graded_losses_get_bets():
    rows = breakdown(np.array([0.5, 0.4, 0.1, 0.2]), by=["night", "night", "day", None])
    assert [(r.group, r.samples, r.method) for r in rows] == [
        ("night", 2, "betting"),
        ("day", 1, "betting"),
    ]
    by = np.array([NO_ANSWER, 3, 3, 3], np.uint32)
    assert [r.group for r in breakdown(np.zeros(4), by=by)] == ["3"]
    with pytest.raises(AnalysisError, match="different numbers"):
        breakdown(np.zeros(3), by=[0, 1])


def test_the_intervals_of_all_groups_hold_together():
    rng = np.random.default_rng(8)
    rates = np.linspace(0.05, 0.5, 10)
    kept = 0
    for _ in range(300):
        by = rng.integers(0, 10, 500)
        rows = breakdown(rng.random(500) < rates[by], by=by, confidence=0.9)
        kept += all(r.low <= rates[int(r.group)] <= r.high for r in rows)
    assert kept >= 300 * 0.9 - 3 * np.sqrt(300 * 0.9 * 0.1)
