"""What is learned from served latencies agrees with the equations and with scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sommelier.errors import BinderError
from sommelier.runtime.sketch import ACCURACY, WINDOW, LatencySketch
from sommelier.runtime.telemetry import (
    FORGET,
    PRIOR_WEIGHT,
    STALE,
    LatencyEstimate,
    Telemetry,
    normal_cdf,
)

times = st.lists(st.floats(0.5, 2.0), min_size=1, max_size=40)


@settings(max_examples=50, deadline=None)
@given(samples=times)
def test_mean_and_deviation_are_moving_averages(samples: list[float]) -> None:
    """algorithms.md H.1: mu += a d; v = (1 - a)(v + a d^2)."""
    estimate = LatencyEstimate(1.0, 0.5, smoothing=0.1)
    mean, variance = 1.0, 0.25
    for ms in samples:
        estimate.record(ms, 0.0)
        d = ms - mean
        mean, variance = mean + 0.1 * d, 0.9 * (variance + 0.1 * d * d)
    assert estimate.mean_ms == pytest.approx(mean)
    assert estimate.std_ms == pytest.approx(math.sqrt(variance))


@settings(max_examples=50, deadline=None)
@given(samples=times)
def test_the_posterior_is_the_discounted_mean_and_variance_of_logs(samples: list[float]) -> None:
    """The recursion equals the weighted moments of all samples at once, the prior being one of
    weight 5 with its own variance."""
    estimate = LatencyEstimate(1.0, 0.5)
    prior_mean, prior_variance = estimate.log_mean, math.log1p(0.25)
    for ms in samples:
        estimate.record(ms, 0.0)
    logs = np.array([prior_mean, *np.log(samples)])
    weights = FORGET ** np.arange(len(samples), -1, -1.0)
    weights[0] *= PRIOR_WEIGHT
    mean = np.average(logs, weights=weights)
    squares = weights @ (logs - mean) ** 2 + weights[0] * prior_variance
    assert estimate.weight == pytest.approx(weights.sum())
    assert estimate.log_mean == pytest.approx(mean)
    assert estimate.log_std == pytest.approx(max(math.sqrt(squares / weights.sum()), 0.01))


def test_a_profile_becomes_the_lognormal_of_its_moments() -> None:
    estimate = LatencyEstimate(20.0, 5.0)
    lognormal = stats.lognorm(s=estimate.log_std, scale=math.exp(estimate.log_mean))
    assert lognormal.mean() == pytest.approx(20.0)
    assert lognormal.std() == pytest.approx(5.0)
    for budget in (5.0, 20.0, 30.0):
        assert estimate.probability(budget) == pytest.approx(lognormal.cdf(budget))
    assert estimate.probability(0.0) == 0.0
    assert estimate.probability(-1.0) == 0.0
    assert estimate.probability(math.inf) == 1.0


@pytest.mark.parametrize("std_ms", [None, 0.0])
def test_without_a_deviation_a_usual_one_is_assumed(std_ms: float | None) -> None:
    assert LatencyEstimate(10.0, std_ms).std_ms == pytest.approx(3.0)


def test_unknown_stays_nan_until_the_first_sample() -> None:
    estimate = LatencyEstimate()
    assert math.isnan(estimate.mean_ms)
    assert math.isnan(estimate.probability(5.0))
    assert math.isnan(estimate.probability(-5.0))
    assert math.isnan(estimate.sketch.quantile(0.5))
    estimate.record(4.0, 1.0)
    assert (estimate.mean_ms, estimate.samples) == (4.0, 1)
    assert math.isnan(estimate.profiled_ms)


@pytest.mark.parametrize("ms", [0.0, -1.0, math.nan, math.inf])
def test_a_time_that_cannot_be_is_ignored(ms: float) -> None:
    estimate = LatencyEstimate(10.0, 1.0)
    estimate.record(ms, 0.0)
    assert (estimate.mean_ms, estimate.samples) == (10.0, 0)


@pytest.mark.parametrize("ms", [0.0, -1.0, math.nan, math.inf])
def test_a_profile_that_cannot_be_is_refused(ms: float) -> None:
    with pytest.raises(BinderError):
        LatencyEstimate(ms)


def test_a_straggler_is_counted_and_not_learned_but_a_slow_down_is_followed() -> None:
    rng = np.random.default_rng(0)
    estimate = LatencyEstimate(10.0, 0.5)
    for ms in rng.normal(10, 0.5, 100):
        estimate.record(ms, 0.0)
    before = estimate.mean_ms
    estimate.record(100.0, 0.0)
    assert (estimate.mean_ms, estimate.stragglers) == (before, 1)
    estimate.record(10.0, 0.0)  # one in between: the run begins anew
    for _ in range(3):
        estimate.record(40.0, 0.0)
    assert estimate.mean_ms == 40.0
    assert estimate.stragglers == 4


def test_a_slow_spell_is_over_with_the_first_run_as_quick_as_before() -> None:
    estimate = _usually_ten_ms()
    believed = estimate.mean_ms, estimate.std_ms, estimate.log_mean, estimate.log_std
    for _ in range(6):
        estimate.record(80.0, 0.0)
    assert estimate.mean_ms == pytest.approx(80, rel=0.01)
    usual = believed[0]  # a sample that moves no mean
    estimate.record(usual, 0.0)
    assert estimate.mean_ms == pytest.approx(usual)
    assert estimate.std_ms == pytest.approx(believed[1] * math.sqrt(0.9))
    assert estimate.log_mean == pytest.approx(believed[2], rel=0.01)


def test_what_lasts_is_no_spell_and_a_quick_run_is_then_one_of_many() -> None:
    estimate = _usually_ten_ms()
    for _ in range(30):
        estimate.record(80.0, 0.0)
    estimate.record(10.0, 0.0)
    assert estimate.mean_ms == pytest.approx(73, rel=0.01)


def _usually_ten_ms() -> LatencyEstimate:
    estimate = LatencyEstimate(10.0, 0.5)
    for ms in np.random.default_rng(0).normal(10, 0.5, 100):
        estimate.record(ms, 0.0)
    return estimate


def test_what_is_usual_is_the_middle_of_what_was_measured_and_not_the_mean() -> None:
    rng = np.random.default_rng(0)
    estimate = LatencyEstimate(0.5)
    assert estimate.usual_ms == 0.5
    for taken in rng.random(2000) < 0.3:  # by others, for 20 ms
        estimate.record(20.0 if taken else rng.uniform(0.3, 0.4), 0.0)
    assert 0.25 < estimate.usual_ms < 0.5 < estimate.mean_ms
    for _ in range(100):  # it has become slower
        estimate.record(4.0, 0.0)
    assert 3.5 < estimate.usual_ms < 4.5
    unknown = LatencyEstimate()
    assert math.isnan(unknown.usual_ms)
    unknown.record(3.0, 0.0)
    assert unknown.usual_ms == 3.0


def test_early_samples_are_never_stragglers() -> None:
    estimate = LatencyEstimate(1.0, 0.01)
    estimate.record(100.0, 0.0)
    assert estimate.stragglers == 0
    assert estimate.mean_ms > 10


def test_doubt_grows_while_others_answer_up_to_half_a_sample() -> None:
    estimate = LatencyEstimate(10.0, 1.0)
    fresh = estimate.uncertainty(0)
    assert fresh == pytest.approx(estimate.log_std / math.sqrt(PRIOR_WEIGHT))
    assert estimate.uncertainty(100) == pytest.approx(fresh * STALE**-50)
    assert estimate.uncertainty(10**6) == pytest.approx(estimate.log_std / math.sqrt(0.5))


def test_a_model_that_was_slow_is_believed_as_profiled_again_while_others_answer() -> None:
    """Half of the way in ln 2 / -ln .997 = 231 requests, after the first hundred."""
    telemetry = Telemetry()
    slow, other = telemetry.profile("slow", 10.0, 1.0), telemetry.profile("other", 5.0, 1.0)
    for _ in range(60):
        telemetry.record("slow", 40.0, 0.0)
    before, log_before = slow.mean_ms, slow.log_mean
    for _ in range(99):
        telemetry.record("other", 5.0, 0.0)
    assert slow.mean_ms == before
    for _ in range(231):
        telemetry.record("other", 5.0, 0.0)
    assert slow.mean_ms - 10.0 == pytest.approx((before - 10.0) / 2, rel=0.02)
    halfway = (log_before + slow.profiled_log_mean) / 2
    assert slow.log_mean == pytest.approx(halfway, abs=0.02)
    assert other.mean_ms == 5.0


def test_without_a_profile_nothing_is_forgotten() -> None:
    telemetry = Telemetry()
    telemetry.record("slow", 40.0, 0.0)
    for _ in range(500):
        telemetry.record("other", 5.0, 0.0)
    assert telemetry.estimate("slow").mean_ms == 40.0


def test_queue_time_is_kept_apart_from_execution() -> None:
    telemetry = Telemetry()
    telemetry.profile("a", 5.0, 1.0)
    for at in range(100):
        telemetry.record("a", 5.0, float(at), queue_ms=50.0)
    (row,) = telemetry.summary()
    assert row.p99_ms == pytest.approx(5.0, rel=ACCURACY)
    assert row.queue_p99_ms == pytest.approx(50.0, rel=ACCURACY)
    assert (row.model, row.samples, row.last_ms) == ("a", 100, 99.0)


def test_a_summary_is_of_what_was_served_and_not_of_the_profile() -> None:
    telemetry = Telemetry()
    telemetry.profile("a", 100.0, 10.0)
    telemetry.profile("never", 7.0)
    times = [4.0, 5.0, 6.0, 5.0, 90.0]
    for ms in times:
        telemetry.record("a", ms, 0.0)
    row, never = telemetry.summary()
    assert row.mean_ms == pytest.approx(np.mean(times))
    assert row.std_ms == pytest.approx(np.std(times))
    assert row.recent_ms == telemetry.estimate("a").mean_ms > row.mean_ms  # what routing believes
    assert all(math.isnan(ms) for ms in (never.mean_ms, never.std_ms, never.recent_ms))


def test_the_mean_of_very_many_follows_the_last_ten_thousand() -> None:
    sketch = LatencySketch()
    for _ in range(15_000):
        sketch.add(1.0)
    for _ in range(100_000):
        sketch.add(5.0)
    left = 1e-5  # of what came before: fifteen halvings or more
    assert sketch.mean == pytest.approx(5.0, abs=4 * left)
    assert sketch.std <= 4 * math.sqrt(left)


def test_batches_and_devices_have_their_own_estimates() -> None:
    telemetry = Telemetry()
    telemetry.record("a", 5.0, 0.0)
    telemetry.record("a", 20.0, 0.0, batch=8)
    telemetry.record("a", 1.0, 0.0, device="cuda")
    assert telemetry.estimate("a").mean_ms == 5.0
    assert telemetry.estimate("a", batch=8).mean_ms == 20.0
    assert telemetry.estimate("a", device="cuda").mean_ms == 1.0
    assert telemetry.observations == 3


def test_the_longest_unused_model_is_to_be_refreshed_first() -> None:
    telemetry = Telemetry()
    for name, last in (("hot", 990.0), ("cold", 100.0), ("warm", 500.0)):
        telemetry.record(name, 1.0, last)
    telemetry.profile("never", 3.0)
    due = [model for model, _, _ in telemetry.cold(1000.0, older_than_ms=400.0)]
    assert due == ["never", "cold", "warm"]


@settings(max_examples=50, deadline=None)
@given(
    samples=st.lists(st.floats(1e-3, 1e5), min_size=1, max_size=300),
    q=st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.99, 1.0]),
)
def test_a_quantile_of_the_sketch_is_within_one_percent(samples: list[float], q: float) -> None:
    sketch = LatencySketch()
    for ms in samples:
        sketch.add(ms)
    exact = float(np.quantile(samples, q, method="inverted_cdf"))
    assert sketch.quantile(q) == pytest.approx(exact, rel=1.0001 * ACCURACY)
    assert sketch.mean == pytest.approx(np.mean(samples))


def test_an_old_level_is_forgotten_by_the_sketch() -> None:
    sketch = LatencySketch()
    for ms in [1.0] * WINDOW + [10.0] * 3 * WINDOW:
        sketch.add(ms)
    assert sketch.quantile(0.1) == pytest.approx(10.0, rel=ACCURACY)
    assert sketch.count < WINDOW


def test_the_normal_distribution_agrees_with_scipy() -> None:
    for z in (-9.0, -1.5, 0.0, 0.3, 4.0, math.inf, -math.inf):
        assert normal_cdf(z) == pytest.approx(stats.norm.cdf(z), rel=1e-9)
    assert math.isnan(normal_cdf(math.nan))
