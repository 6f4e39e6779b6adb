"""Looking after every sample keeps the promise; deciding costs what the specification measured."""

from __future__ import annotations

import itertools
from math import ceil

import numpy as np
import pytest
from scipy import integrate, stats

from sommelier.analysis.bounds import anytime_limits, bound, decide
from sommelier.confidence import lower_bound
from sommelier.errors import AnalysisError
from tests.analysis.bounds.coverage import least_coverage


@pytest.mark.parametrize("rate", [0.02, 0.3, 0.95])
def test_the_truth_stays_inside_at_every_sample_size_at_once(rate):
    draws, n = 600, 1000
    rng = np.random.default_rng(4)
    counts = np.cumsum(rng.random((draws, n)) < rate, axis=1)
    low, high = anytime_limits(counts, np.arange(1, n + 1), 0.05)
    inside = np.all((low <= rate) & (rate <= high), axis=1)
    assert inside.mean() >= least_coverage(0.95, draws)


def test_fixed_size_intervals_break_when_one_looks_after_every_sample():
    rng = np.random.default_rng(4)
    counts = np.cumsum(rng.random((500, 1000)) < 0.3, axis=1)
    broken = np.zeros(500, dtype=bool)
    for size in range(10, 1001, 10):
        broken |= lower_bound(counts[:, size - 1], size, 0.025) > 0.3
    assert broken.mean() > 0.05  # 2.5 % is what one look would cost


@pytest.mark.parametrize(("k", "n"), [(0, 20), (3, 20), (500, 700), (20, 20)])
def test_the_limits_are_where_the_mixture_is_twenty_times_as_likely(k, n):
    # substituting q = sin^2 removes the singular ends of the Beta(1/2, 1/2) density
    likelihood, _ = integrate.quad(
        lambda s: stats.binom.pmf(k, n, np.sin(s) ** 2) * 2 / np.pi, 0, np.pi / 2, epsabs=1e-14
    )
    low, high = anytime_limits(k, n, 0.05)
    for limit, edge in ((low, 0), (high, 1)):
        if limit != edge:
            assert likelihood / stats.binom.pmf(k, n, limit) == pytest.approx(20, rel=1e-6)


def test_limits_are_vectorised_and_mirror():
    k = np.arange(101)
    low, high = anytime_limits(k, 100, 0.05)
    assert np.all(np.diff(low) > 0)
    assert high == pytest.approx(1 - low[::-1], abs=1e-12)
    assert np.array_equal(anytime_limits(0, 0, 0.05), (0, 1))


def bernoulli(rate, seed):
    rng = np.random.default_rng(seed)
    return (bool(one) for _ in itertools.count() for one in rng.random(256) < rate)


@pytest.mark.parametrize(
    ("rate", "verdict", "published"),
    [(1.0, "above", 116), (0.98, "above", 427), (0.92, "below", 657), (0.7, "below", 12)],
)
def test_deciding_costs_what_was_published_and_is_right(rate, verdict, published):
    # algorithms.md A.4: "d <= 5 %?", median of 200 runs
    found = [decide(bernoulli(rate, seed), 0.95, limit=20_000) for seed in range(120)]
    assert np.mean([one.verdict != verdict for one in found]) <= 0.05
    assert np.median([one.samples for one in found]) == pytest.approx(published, rel=0.25)


def test_wrong_verdicts_stay_within_the_risk_just_below_the_threshold():
    draws = 300
    found = [decide(bernoulli(0.89, seed), 0.9, limit=2000) for seed in range(draws)]
    wrong = sum(one.verdict == "above" for one in found)
    assert wrong / draws <= 1 - least_coverage(0.95, draws)


def test_the_stream_is_read_no_further_than_the_verdict():
    taken = []
    stream = (taken.append(i) or True for i in itertools.count())
    found = decide(stream, 0.95)
    assert found.verdict == "above"
    assert len(taken) == found.samples == found.successes == found.interval.samples
    sizes = [1]
    while sizes[-1] < found.samples:
        sizes.append(ceil(1.05 * sizes[-1]))
    assert found.samples == sizes[-1]
    assert found.interval.low >= 0.95 > anytime_limits(sizes[-2], sizes[-2], 0.05)[0]


def test_a_stream_that_ends_is_undecided_but_bounded():
    found = decide([True, False] * 10, 0.6)
    assert (found.verdict, found.samples, found.successes) == ("undecided", 20, 10)
    assert found.interval == bound("proportion", 10, 20, method="anytime")
    assert decide(iter([]), 0.6).interval.width == 1
    assert decide(itertools.repeat(True), 0.999, limit=50).samples == 50


def test_the_last_sample_of_a_short_stream_may_still_decide():
    needed = decide(itertools.repeat(True), 0.5).samples
    odd = next(n for n in range(1, needed + 1) if anytime_limits(n, n, 0.05)[0] >= 0.5)
    assert decide([True] * odd, 0.5).verdict == "above"


def test_impossible_thresholds_are_refused():
    with pytest.raises(AnalysisError, match="threshold 1"):
        decide([True], 1.0)
