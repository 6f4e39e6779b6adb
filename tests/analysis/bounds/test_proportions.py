"""Wilson against its quadratic, the hypergeometric against scipy and enumeration, Hoeffding."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sommelier.analysis.bounds import bound, hypergeometric_limits, wilson_limits
from sommelier.confidence import lower_bound
from tests.analysis.bounds.coverage import least_coverage, share_covered


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (720, 1000), (10, 10)])
def test_wilson_is_scipys(k, n):
    expected = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    low, high = wilson_limits(k, n, 0.025)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_breaks_its_promise_for_rare_events_and_says_that_it_is_not_proved():
    rate, n = 0.005, 20  # one-sided lower: any success at all is overrated
    k = np.arange(n + 1)
    low, _ = wilson_limits(k, n, 0.05)
    risk = stats.binom.pmf(k, n, rate)[low > rate].sum()
    assert risk > 0.09  # 9.5 % where 5 % is promised
    assert not bound("proportion", 1, n, method="wilson").proved


@pytest.mark.parametrize(("n", "population"), [(10, 40), (37, 40), (25, 60)])
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_hypergeometric_limits_keep_their_risk_for_every_population(n, population, alpha):
    k = np.arange(n + 1)
    low, high = hypergeometric_limits(k, n, population, alpha)
    for successes in range(population + 1):
        chance = stats.hypergeom.pmf(k, population, successes, n)
        rate = successes / population
        assert chance[low > rate + 1e-12].sum() <= alpha + 1e-9
        assert chance[high < rate - 1e-12].sum() <= alpha + 1e-9


def test_hypergeometric_limits_are_the_outermost_populations_that_are_not_too_surprising():
    n, population, alpha = 60, 500, 0.025
    every = np.arange(population + 1)
    for k in (0, 1, 30, 57, 60):
        low, high = hypergeometric_limits(k, n, population, alpha)
        above = stats.hypergeom.sf(k - 1, population, every, n) > alpha
        below = stats.hypergeom.cdf(k, population, every, n) > alpha
        # at k = 0 and k = n the sample itself rules out more: what was seen is in the population
        assert round(low * population) == max(np.flatnonzero(above).min(), k)
        assert round(high * population) == min(np.flatnonzero(below).max(), population - (n - k))


def test_the_whole_population_leaves_no_doubt_and_a_large_one_is_clopper_pearson():
    low, high = hypergeometric_limits(7, 10, 10, 0.05)
    assert low == high == 0.7
    low, _ = hypergeometric_limits([50, 900], 1000, 10**7, 0.05)
    assert low == pytest.approx(lower_bound([50, 900], 1000, 0.05), abs=2e-5)


def test_sampling_a_tenth_of_the_population_narrows_by_the_finite_population_factor():
    with_it = bound("proportion", 3600, 5000, population=10_000)
    without = bound("proportion", 3600, 5000)
    assert with_it.method == "hypergeometric"
    assert with_it.width / without.width == pytest.approx(np.sqrt(1 - 0.5), rel=0.02)


@pytest.mark.parametrize("method", ["cp", "betting"])
def test_only_what_is_called_proved_keeps_its_risk_at_every_rate(method):
    n, alpha = 200, 0.05
    counts = np.arange(n + 1)
    lows = np.array(
        [bound("proportion", k, n, method=method, side="lower").low for k in counts.tolist()]
    )
    # the risk is largest just below one of the bounds; nothing is drawn, every count is weighed
    rates = np.minimum(lows[1:], 1 - 1e-9) - 1e-12
    rates = rates[rates > 0]
    wrong = [float(stats.binom.pmf(counts[lows > p], n, p).sum()) for p in rates]
    proved = bound("proportion", 1, n, method=method).proved
    assert (max(wrong) <= alpha * (1 + 1e-9)) == proved


@pytest.mark.parametrize("method", ["hoeffding", "bernstein", "betting", "anytime"])
@pytest.mark.parametrize("rate", [0.01, 0.3, 0.72])
def test_valid_methods_for_counts_cover(method, rate):
    n, draws = 300, 1500
    k = np.random.default_rng(3).binomial(n, rate, draws)
    found = {int(one): bound("proportion", int(one), n, method=method) for one in np.unique(k)}
    hits = share_covered([found[one].low for one in k], [found[one].high for one in k], rate)
    assert hits >= least_coverage(0.95, draws)


def test_table_1_of_the_paper_as_recomputed_in_the_specification():
    # algorithms.md A.4: mean of 2 000 one-sided lower bounds, agreement .72
    rng = np.random.default_rng(0)
    published = {
        100: {"cp": 63.8, "wilson": 64.2, "hoeffding": 59.8, "bernstein": 51.2, "anytime": 56.0},
        1000: {"cp": 69.6, "wilson": 69.6, "hoeffding": 68.2, "bernstein": 67.3, "anytime": 66.7},
    }
    for n, row in published.items():
        counts, weights = np.unique(rng.binomial(n, 0.72, 2000), return_counts=True)
        for method, mean in row.items():
            lows = [bound("proportion", int(k), n, method=method, side="lower").low for k in counts]
            assert 100 * np.average(lows, weights=weights) == pytest.approx(mean, abs=0.35)
