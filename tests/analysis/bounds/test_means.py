"""Bounded losses: betting, empirical Bernstein and Hoeffding against theory and a plain grid."""

from __future__ import annotations

from math import log, sqrt

import numpy as np
import pytest

from sommelier.analysis.bounds import (
    bernstein_limits,
    betting_limits,
    bound,
    hoeffding_limits,
    shown_below,
)
from sommelier.analysis.bounds.betting import shuffled
from sommelier.errors import AnalysisError
from tests.analysis.bounds.coverage import least_coverage, share_covered

GRADED_MEAN = 0.2 * 0.5 + 0.8 / 13


def graded(rng, shape):
    """1 - IoU like losses (algorithms.md A.4): mostly small, some anywhere; mean .162."""
    return np.where(rng.random(shape) < 0.2, rng.beta(2, 2, shape), rng.beta(1, 12, shape))


def binary(rng, shape):
    return (rng.random(shape) < 0.03).astype(float)


def two_point(rng, shape):
    return np.where(rng.random(shape) < 0.5, 0.1, 0.9)


@pytest.mark.parametrize(
    ("draw", "mean"), [(graded, GRADED_MEAN), (binary, 0.03), (two_point, 0.5)]
)
@pytest.mark.parametrize("n", [30, 300])
def test_intervals_cover_the_mean(draw, mean, n):
    draws, alpha = 2000, 0.05
    rows = draw(np.random.default_rng(n), (draws, n))
    mean_of, variance_of = rows.mean(axis=1), rows.var(axis=1, ddof=1)
    for low, high in (
        betting_limits(rows, alpha / 2),
        bernstein_limits(mean_of, variance_of, n, alpha / 2),
        hoeffding_limits(mean_of, n, alpha / 2),
    ):
        assert share_covered(low, high, mean) >= least_coverage(0.95, draws)


def test_one_sided_betting_keeps_its_risk_on_either_side():
    draws, alpha = 2000, 0.1
    rows = graded(np.random.default_rng(8), (draws, 200))
    low, high = betting_limits(rows, alpha)
    assert np.mean(low > GRADED_MEAN) <= 1 - least_coverage(1 - alpha, draws)
    assert np.mean(high < GRADED_MEAN) <= 1 - least_coverage(1 - alpha, draws)


def grid_betting(x, alpha, points=4000):
    """The hedged capital as the paper writes it: both gamblers, every mean of a grid."""
    n, grid, kept = len(x), (np.arange(points) + 0.5) / points, []
    bets, total, squares = [], 0.5, 0.25
    for t, value in enumerate(x, start=1):
        bets.append(sqrt(2 * log(2 / alpha) / (n * squares / t)))
        total += value
        squares += (value - total / (t + 1)) ** 2
    for m in grid:
        up = np.cumprod([1 + min(b, 0.5 / m) * (v - m) for b, v in zip(bets, x, strict=True)])
        down = np.cumprod(
            [1 - min(b, 0.5 / (1 - m)) * (v - m) for b, v in zip(bets, x, strict=True)]
        )
        if max(up.max(), down.max()) / 2 < 1 / alpha:
            kept.append(m)
    return min(kept), max(kept)


@pytest.mark.parametrize("draw", [graded, binary, two_point])
def test_betting_by_halving_is_the_grid_of_the_paper(draw):
    x = draw(np.random.default_rng(5), 150)
    low, high = betting_limits(x, 0.025)
    expected = grid_betting(x, 0.05)
    assert (low, high) == pytest.approx(expected, abs=1.5 / 4000)


def test_betting_meets_the_published_widths():
    # algorithms.md A.4: 11.6, 4.4 and 2.2 points at n = 100, 500 and 2 000
    rng = np.random.default_rng(0)
    for n, points in ((100, 11.6), (500, 4.4), (2000, 2.2)):
        low, high = betting_limits(graded(rng, (200, n)), 0.025)
        assert 100 * np.mean(high - low) == pytest.approx(points, abs=0.4)


def test_betting_is_narrower_than_bernstein_and_hoeffding_for_small_losses():
    x = np.random.default_rng(1).beta(1, 12, 500)
    widths = [bound("mean", x, method=m).width for m in ("betting", "bernstein", "hoeffding")]
    assert widths[0] < widths[1] / 2
    assert widths[0] < widths[2] / 3


def test_rows_are_bounded_as_if_alone_and_mirrored_losses_mirror():
    rows = graded(np.random.default_rng(2), (7, 400))
    low, high = betting_limits(rows, 0.05)
    for row, one, two in zip(rows, low, high, strict=True):
        assert betting_limits(row, 0.05) == (one, two)
    mirrored = betting_limits(1 - rows, 0.05)
    assert mirrored[0] == pytest.approx(1 - high, abs=1e-9)
    assert mirrored[1] == pytest.approx(1 - low, abs=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n", [1, 2, 100_000])
def test_constant_losses_stay_inside_and_finite(value, n):
    low, high = betting_limits(np.full(n, value), 0.025)
    assert 0 <= low <= value <= high <= 1
    if n == 100_000:
        assert high - low < 1e-3


def test_closed_forms():
    x = np.array([0.0, 0.2, 0.4, 0.6])
    half = sqrt(log(1 / 0.4) / 8)
    assert hoeffding_limits(0.5, 4, 0.4) == pytest.approx((0.5 - half, 0.5 + half))
    n, alpha = 10_000, 0.05
    spread = sqrt(2 * x.var(ddof=1) * log(40) / n) + 7 * log(40) / (3 * (n - 1))
    low, high = bernstein_limits(0.3, x.var(ddof=1), n, alpha)
    assert (low, high) == pytest.approx((0.3 - spread, 0.3 + spread))
    assert bernstein_limits(0.3, 0.0, 1, alpha) == (0, 1)


def test_counts_become_samples_in_a_random_order_that_is_always_the_same():
    one, again = (shuffled({1.0: 30, 0.0: 70}) for _ in range(2))
    assert one.sum() == 30
    assert len(one) == 100
    assert np.array_equal(one, again)
    assert 0 < one[:50].sum() < 30
    other = shuffled({1.0: 30, 0.0: 70}, seed=1)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("values", [[1.01], [-0.1], [np.nan], 0.5])
def test_losses_outside_the_unit_interval_are_refused(values):
    with pytest.raises(AnalysisError):
        betting_limits(values, 0.05)


@pytest.mark.parametrize("seed", range(8))
def test_a_mean_is_shown_below_what_its_upper_betting_limit_is_below(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.beta(1, 4 + 30 * rng.uniform(), size=(6, 150))
    _, high = betting_limits(values, 0.1)
    for limit in np.linspace(0.02, 0.6, 30):
        certain = np.abs(high - limit) > 1e-6
        assert (shown_below(values, limit, 0.1) == (high <= limit))[certain].all()
