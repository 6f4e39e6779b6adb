from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from sommelier.analysis.cascades.selection import aurc, crossing_threshold, fit_temperature
from sommelier.analysis.probabilities import softmax
from sommelier.errors import AnalysisError


def test_aurc_with_ties_is_the_mean_over_all_orders_of_them() -> None:
    scores, losses = np.array([0.9, 0.5, 0.5, 0.5, 0.1]), np.array([0.0, 1.0, 0.0, 0.0, 1.0])
    areas = []
    for middle in permutations([1, 2, 3]):
        ordered = losses[[0, *middle, 4]]
        areas.append((np.cumsum(ordered) / np.arange(1, 6)).mean())
    assert aurc(scores, losses) == pytest.approx(np.mean(areas))


def test_a_perfect_order_has_the_least_aurc_and_no_order_the_mean_loss() -> None:
    losses = (np.random.default_rng(0).uniform(size=500) < 0.2).astype(float)
    noise = np.random.default_rng(1).normal(size=500)
    assert aurc(-losses, losses) < aurc(noise - losses, losses) < aurc(noise + losses, losses)
    assert aurc(np.zeros(500), losses) == pytest.approx(losses.mean())


def test_samples_without_a_score_come_last() -> None:
    assert aurc([0.5, np.nan], [0.0, 1.0]) == pytest.approx((0 + 0.5) / 2)


@pytest.mark.parametrize("true", [0.5, 1.0, 4.0])
def test_the_temperature_is_the_one_the_labels_were_drawn_with(true: float) -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(20_000, 5)) * 4
    labels = (softmax(z / true).cumsum(axis=1) < rng.uniform(size=(20_000, 1))).sum(axis=1)
    assert fit_temperature(z, labels) == pytest.approx(true, rel=0.05)


def test_the_temperature_is_the_optimum_that_scipy_finds() -> None:
    rng = np.random.default_rng(3)
    z, labels = rng.normal(size=(300, 4)) * 3, rng.integers(0, 4, 300)
    z[np.arange(300), labels] += 2

    def loss(log_t: float) -> float:
        p = softmax(z / np.exp(log_t))
        return float(-np.log(p[np.arange(300), labels]).mean())

    best = minimize_scalar(loss, bounds=(-4, 4), method="bounded", options={"xatol": 1e-8})
    assert np.log(fit_temperature(z, labels)) == pytest.approx(best.x, abs=1e-4)


def test_rows_without_finite_logits_do_not_spoil_a_temperature() -> None:
    rng = np.random.default_rng(0)
    z, labels = rng.normal(size=(100, 3)), rng.integers(0, 3, 100)
    spoilt = np.concatenate([z, [[np.nan, 0, 0], [-np.inf, 0, 0]]])
    assert fit_temperature(spoilt, np.append(labels, [0, 1])) == fit_temperature(z, labels)
    assert fit_temperature(np.full((2, 3), np.nan), [0, 1]) == 1.0


def test_two_gaussians_cross_half_way() -> None:
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(2, 1, 5_000), rng.normal(-2, 1, 5_000)])
    lost = np.repeat([False, True], 5_000)
    assert crossing_threshold(scores, lost) == pytest.approx(0, abs=0.15)


def test_a_crossing_needs_both_kinds_of_samples() -> None:
    with pytest.raises(AnalysisError, match="too few for a density crossing"):
        crossing_threshold([0.1, 0.2, 0.3], [False, False, False])
