"""Paired accuracy differences: coverage, widths, and Tango against its constrained likelihood."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from sommelier.analysis.bounds import bound, paired_cp_limits, tango_limits
from sommelier.confidence import paired_difference
from tests.analysis.bounds.coverage import least_coverage

CELLS = [(0.03, 0.01), (0.06, 0.04), (0.01, 0.01), (0.002, 0.05)]


@pytest.mark.parametrize(("b_rate", "c_rate"), CELLS)
@pytest.mark.parametrize("method", ["betting", "cp"])
def test_bounds_cover_the_difference(b_rate, c_rate, method):
    draws, n = 600, 400
    rng = np.random.default_rng(6)
    cells = rng.multinomial(n, [b_rate, c_rate, 1 - b_rate - c_rate], draws)
    found = [bound("difference", int(b), int(c), n, method=method) for b, c, _ in cells]
    hits = np.mean([one.contains(b_rate - c_rate) for one in found])
    assert hits >= least_coverage(0.95, draws)
    assert all(one.proved == (method == "cp") for one in found)


def test_published_widths_are_met():
    # algorithms.md A.4, pb = .03, pc = .01, n = 500: CP(b)-CP(c) 5.8, betting 4.7, Tango 3.7
    rng = np.random.default_rng(0)
    cells = rng.multinomial(500, [0.03, 0.01, 0.96], 300)
    for method, points in (("cp", 5.8), ("betting", 4.7), ("tango", 3.7)):
        widths = [bound("difference", int(b), int(c), 500, method=method).width
                  for b, c, _ in cells]  # fmt: skip
        assert 100 * np.mean(widths) == pytest.approx(points, abs=0.25)


def test_clopper_pearson_of_both_is_the_one_of_the_confidence_module():
    _, low, high = paired_difference(15, 5, 500, 0.95)
    assert paired_cp_limits(15, 5, 500, 0.025) == pytest.approx((low, high))


def constrained_score(b, c, n, difference):
    """(b - c - n d) over its standard deviation at the numerically likeliest rate of c given d."""

    def loss(rate):
        return -(
            b * np.log(rate + difference)
            + c * np.log(rate)
            + (n - b - c) * np.log(1 - 2 * rate - difference)
        )

    edges = (max(0.0, -difference) + 1e-12, (1 - difference) / 2 - 1e-12)
    rate = optimize.minimize_scalar(loss, bounds=edges, method="bounded",
                                    options={"xatol": 1e-12}).x  # fmt: skip
    return (b - c - n * difference) / np.sqrt(n * (2 * rate + difference - difference**2))


@pytest.mark.parametrize(("b", "c", "n"), [(15, 5, 500), (43, 9, 200), (2, 7, 60)])
def test_tango_solves_the_score_equation_of_the_constrained_likelihood(b, c, n):
    low, high = tango_limits(b, c, n, 0.025)
    assert constrained_score(b, c, n, low) == pytest.approx(1.959964, abs=1e-4)
    assert constrained_score(b, c, n, high) == pytest.approx(-1.959964, abs=1e-4)


@pytest.mark.parametrize("method", ["betting", "cp", "tango"])
def test_swapping_the_models_mirrors_the_interval(method):
    one = bound("difference", 15, 5, 500, method=method)
    other = bound("difference", 5, 15, 500, method=method)
    tolerance = 0.01 if method == "betting" else 1e-9  # betting: another random order
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=tolerance)


@pytest.mark.parametrize("method", ["betting", "cp", "tango"])
@pytest.mark.parametrize(("b", "c"), [(0, 0), (50, 0), (0, 50)])
def test_extreme_counts_stay_within_minus_one_and_one(method, b, c):
    found = bound("difference", b, c, 50, method=method)
    assert -1 <= found.low <= (b - c) / 50 <= found.high <= 1
