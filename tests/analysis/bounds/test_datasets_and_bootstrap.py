"""Statements about a new dataset, and the bootstrap for what is no mean over samples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sommelier.analysis.bounds import across_datasets, bootstrap, bound
from sommelier.errors import AnalysisError
from tests.analysis.bounds.coverage import least_coverage


def test_a_new_dataset_is_covered_when_the_rate_moves_between_sets_and_pooling_is_not():
    # algorithms.md A.4: sd 1 pp between sets, pooled CP 68 %, min of 20 95.6 %, t 94.7 %
    rng, draws, n = np.random.default_rng(0), 500, 1000
    rates = np.clip(rng.normal(0.72, 0.01, (draws, 21)), 0, 1)
    counts = rng.binomial(n, rates)
    hits = {"pooled": 0, "minimum": 0, "prediction": 0}
    for row, rate in zip(counts, rates, strict=True):
        old, new = [int(k) for k in row[:20]], row[20] / n
        found = across_datasets(old, [n] * 20)
        pooled = bound("proportion", sum(old), 20 * n, side="lower")
        hits["pooled"] += pooled.low <= rate[20]
        hits["minimum"] += found.minimum.low <= new
        hits["prediction"] += found.prediction.low <= new
    share = {name: count / draws for name, count in hits.items()}
    assert share["pooled"] < 0.8
    assert share["minimum"] >= least_coverage(20 / 21, draws)
    assert share["prediction"] >= least_coverage(0.95, draws)


def test_the_three_statements_are_what_they_say():
    counts, n = [90, 85, 95, 92], 100
    found = across_datasets(counts, [n] * 4)
    assert [one.low for one in found.sets] == [
        bound("proportion", k, n, side="lower").low for k in counts
    ]
    assert (found.minimum.low, found.minimum.confidence) == (0.85, 4 / 5)
    assert found.minimum.samples == 4
    assert found.minimum.proved
    assert not found.prediction.proved
    assert not found.reaches  # 4 of 5 is less than 95 %
    rates = np.array(counts) / n
    scale = rates.std(ddof=1) * np.sqrt(1 + 1 / 4)
    expected = stats.t.ppf(0.05, 3, loc=rates.mean(), scale=scale)
    assert found.prediction.low == pytest.approx(expected)


def test_nineteen_datasets_reach_95_percent_and_one_predicts_nothing():
    assert across_datasets([9] * 19, [10] * 19).reaches
    assert not across_datasets([9] * 18, [10] * 18).reaches
    alone = across_datasets([9], [10])
    assert alone.prediction is None
    assert alone.minimum.confidence == 0.5


def test_no_dataset_and_empty_datasets_are_refused():
    for counts, sizes in (([], []), ([0], [0]), ([1, 2], [5])):
        with pytest.raises(AnalysisError, match="needs at least one dataset"):
            across_datasets(counts, sizes)


def f1_of(truth, guess):
    def f1(chosen):
        right = np.count_nonzero(truth[chosen] & guess[chosen])
        return 2 * right / (truth[chosen].sum() + guess[chosen].sum())

    return f1


def labels(rng, n):
    truth = rng.random(n) < 0.3
    return truth, np.where(rng.random(n) < 0.85, truth, ~truth)


def test_the_bootstrap_covers_f1_about_as_often_as_it_says():
    rng, draws = np.random.default_rng(0), 120
    exact = 2 * 0.3 * 0.85 / (0.3 + 0.3 * 0.85 + 0.7 * 0.15)
    found = [bootstrap(f1_of(*labels(rng, 200)), 200, resamples=300, rng=rng)
             for _ in range(draws)]  # fmt: skip
    assert np.mean([one.contains(exact) for one in found]) >= least_coverage(0.93, draws)
    assert not any(one.proved for one in found)
    assert found[0].status == "estimated"
    assert found[0].method == "bca"


def test_the_bootstrap_of_a_mean_is_near_the_normal_interval():
    x = np.random.default_rng(1).normal(size=400)
    found = bootstrap(lambda chosen: x[chosen].mean(), 400)
    half = 1.96 * x.std(ddof=1) / 20
    assert (found.low, found.high) == pytest.approx(
        (x.mean() - half, x.mean() + half), abs=0.1 * half
    )
    again = bootstrap(lambda chosen: x[chosen].mean(), 400)
    assert again == found


def test_one_side_and_a_constant_statistic():
    x = np.random.default_rng(1).random(50)
    one = bootstrap(lambda chosen: x[chosen].mean(), 50, side="lower", resamples=500)
    assert np.isinf(one.high)
    assert one.low < x.mean()
    flat = bootstrap(lambda chosen: 1.0, 50, resamples=100)
    assert np.isnan(flat.low)
    assert np.isnan(flat.high)
    with pytest.raises(AnalysisError, match="at least two"):
        bootstrap(lambda chosen: 1.0, 1)
