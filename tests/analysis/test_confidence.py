"""Coverage by simulation (algorithms.md J.1), closed forms, and the inverse functions."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from sommelier import confidence
from sommelier.confidence import (
    clopper_pearson,
    largest_count_upper_below,
    lower_bound,
    paired_difference,
    smallest_count,
    upper_bound,
)
from sommelier.errors import AnalysisError


@pytest.mark.parametrize("n", [20, 200, 2048])
@pytest.mark.parametrize("p", [0.002, 0.05, 0.3, 0.72, 0.99])
@pytest.mark.parametrize("side", ["lower", "upper", "two"])
def test_intervals_cover_the_truth_at_least_as_often_as_they_promise(n, p, side):
    draws, confidence = 4000, 0.95
    k = np.random.default_rng(n).binomial(n, p, draws)
    low, high = clopper_pearson(k, n, confidence, side=side)
    coverage = np.mean((low <= p) & (p <= high))
    assert coverage >= confidence - 3 * np.sqrt(confidence * (1 - confidence) / draws)


@pytest.mark.parametrize("n", [1, 59, 299, 10_000])
def test_zero_and_all_successes_have_closed_forms(n):
    alpha = 0.05
    assert upper_bound(0, n, alpha) == pytest.approx(1 - alpha ** (1 / n), rel=1e-12)
    assert lower_bound(n, n, alpha) == pytest.approx(alpha ** (1 / n), rel=1e-12)
    assert lower_bound(0, n, alpha) == 0
    assert upper_bound(n, n, alpha) == 1


def test_bounds_solve_the_binomial_tail_equation():
    n, alpha = 500, 0.05
    k = np.arange(1, n)
    assert stats.binom.sf(k - 1, n, lower_bound(k, n, alpha)) == pytest.approx(alpha, rel=1e-6)
    assert stats.binom.cdf(k, n, upper_bound(k, n, alpha)) == pytest.approx(alpha, rel=1e-6)


def test_bounds_rise_with_successes_and_fall_with_the_number_of_candidates():
    bounds = lower_bound(np.arange(0, 2049), 2048, 0.05)
    assert np.all(np.diff(bounds) > 0)
    corrected = lower_bound(1950, 2048, 0.05 / np.array([1, 20, 200, 2000, 1e5]))
    assert np.all(np.diff(corrected) < 0)


def test_published_bonferroni_prices_are_met():
    # algorithms.md A.5: CP upper for 5 % of n = 2 000 at K = 1, 20, 200, 2 000, 1e5.
    found = upper_bound(100, 2000, 0.05 / np.array([1, 20, 200, 2000, 1e5]))
    assert found == pytest.approx([0.0588, 0.0652, 0.0692, 0.0726, 0.0779], abs=6e-5)


def test_no_trials_say_nothing():
    low, high = clopper_pearson(0, 0, 0.95)
    assert (low, high) == (0, 1)
    assert smallest_count(0, 0.5, 0.05) == 1


@pytest.mark.parametrize("n", [1, 10, 297, 2048, 50_000])
@pytest.mark.parametrize("threshold", [0.01, 0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 200, 1e-9])
def test_smallest_count_is_where_the_lower_bound_first_reaches_the_threshold(n, threshold, alpha):
    k = smallest_count(n, threshold, alpha)
    if k <= n:
        assert lower_bound(k, n, alpha) >= threshold
    assert k > 0
    assert lower_bound(k - 1, n, alpha) < threshold


def test_thresholds_outside_the_unit_interval_accept_everything_or_nothing():
    assert smallest_count(100, 0.0, 0.05) == 0
    assert smallest_count(100, 1.0, 0.05) == 101


def test_published_accepted_disagreements_are_met():
    # algorithms.md A.4: largest observed rate accepted for eps 1 %, 5 %, 10 %.
    found = [largest_count_upper_below(n, eps, 0.05) / n
             for n in (500, 2000, 10_000) for eps in (0.01, 0.05, 0.10)]  # fmt: skip
    expected = [0.002, 0.032, 0.076, 0.006, 0.0415, 0.0885, 0.0083, 0.0463, 0.095]
    assert found == pytest.approx(expected, abs=6e-5)


@pytest.mark.parametrize(("eps", "n"), [(0.01, 299), (0.02, 149), (0.05, 59), (0.10, 29)])
def test_fewer_probes_than_the_minimum_cannot_decide_even_without_a_disagreement(eps, n):
    assert largest_count_upper_below(n - 1, eps, 0.05) == -1
    assert largest_count_upper_below(n, eps, 0.05) == 0


def test_paired_intervals_cover_and_are_narrower_than_unpaired_ones():
    rng, n, draws, confidence = np.random.default_rng(0), 500, 2000, 0.95
    cells = rng.multinomial(n, [0.03, 0.01, 0.96], draws)  # only reference, only candidate, same
    found = np.array([paired_difference(int(b), int(c), n, confidence) for b, c, _ in cells])
    covered = np.mean((found[:, 1] <= 0.02) & (found[:, 2] >= 0.02))
    assert covered >= confidence - 3 * np.sqrt(confidence * (1 - confidence) / draws)
    # algorithms.md A.4: 5.8 pp paired against 16.7 pp unpaired at n = 500
    assert np.mean(found[:, 2] - found[:, 1]) == pytest.approx(0.058, abs=0.002)


@pytest.mark.parametrize(("k", "n", "confidence"), [(5, 4, 0.9), (-1, 4, 0.9), (1, 4, 1.0)])
def test_impossible_arguments_are_refused(k, n, confidence):
    with pytest.raises(AnalysisError):
        clopper_pearson(k, n, confidence)


def test_the_threshold_count_needs_no_scipy():
    code = (
        "import sys; from sommelier.confidence import smallest_count;"
        "smallest_count(2048, .95, .05); sys.exit('scipy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 200, 1e-9])
@pytest.mark.parametrize("n", [1, 7, 719, 2048, 20_000])
def test_a_bound_solved_without_scipy_is_scipys(n: int, alpha: float) -> None:
    from scipy.special import betaincinv

    for k in sorted({1, n // 3 or 1, n - 1 or 1, n}):
        expected = betaincinv(k, n - k + 1, alpha)
        assert confidence._solved(k, n, alpha) == pytest.approx(expected, rel=1e-9)


def test_a_few_bounds_do_not_load_scipy() -> None:
    program = (
        "import sys; from sommelier.confidence import clopper_pearson;"
        "print(*clopper_pearson(95, 100, 0.95), 'scipy.special' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    low, high, loaded = done.stdout.split()
    assert loaded == "False", done.stderr
    expected = confidence.clopper_pearson([95] * 5, 100, 0.95)
    assert (float(low), float(high)) == pytest.approx((expected[0][0], expected[1][0]), rel=1e-9)
