"""The simulator agrees with queueing theory, with brute force, and with itself."""

from __future__ import annotations

import heapq
import math
from dataclasses import replace

import numpy as np
import pytest

from sommelier.errors import BinderError, UnknownNameError
from sommelier.runtime import traces
from sommelier.runtime.policies import POLICIES, knobs_of, routing_policy
from sommelier.runtime.queueing import QueueRules
from sommelier.runtime.simulator import (
    Disturbed,
    Given,
    Measured,
    Settings,
    SimulatedModel,
    SimulationResult,
    simulate,
    simulate_cascade,
)
from sommelier.runtime.sla import Sla
from sommelier.runtime.traces import Network, Trace

S = 20.0
LADDER = tuple(
    SimulatedModel(name, accuracy, Given(S * cost, 0.04 * S * cost))
    for name, accuracy, cost in (
        ("xl", 0.95, 1.0), ("l", 0.94, 0.247), ("m", 0.925, 0.084), ("s", 0.90, 0.014),
    )
)  # fmt: skip
SLA = Sla(5 * S)


def alone(service: Given, trace: Trace, *, servers: int = 1) -> SimulationResult:
    model = SimulatedModel("only", 1.0, service)
    return simulate(trace, routing_policy("fixed"), [model], SLA, Settings(servers=servers))


def mean_wait(service: Given, load: float, *, servers: int = 1) -> tuple[float, float]:
    """Mean wait with its standard error, from the means of 12 independent runs."""
    means = []
    for seed in range(12):
        trace = traces.poisson(3_000, service.mean_ms / load / servers, seed=seed)
        model = SimulatedModel("only", 1.0, service)
        settings = Settings(servers=servers, seed=seed)
        result = simulate(trace, routing_policy("fixed"), [model], SLA, settings)
        means.append(result.waits_ms[300:].mean())  # the empty queue at the start is forgotten
    return float(np.mean(means)), float(np.std(means, ddof=1) / math.sqrt(len(means)))


@pytest.mark.parametrize("load", [0.5, 0.7])
@pytest.mark.parametrize(("kind", "share"), [("exponential", 1.0), ("constant", 0.5)])
def test_mean_waits_are_those_of_pollaczek_and_khinchine(
    kind: str, share: float, load: float
) -> None:
    """M/M/1: rho / (1 - rho) service times; M/D/1: half of it."""
    service = Given(10.0, 0.0, "exponential" if kind == "exponential" else "lognormal")
    wait, error = mean_wait(service, load)
    assert abs(wait - share * load / (1 - load) * 10.0) < 4 * error


def test_mean_wait_at_two_servers_is_that_of_erlang() -> None:
    """M/M/2: rho^2 / (1 - rho^2) service times."""
    load = 0.7
    wait, error = mean_wait(Given(10.0, 0.0, "exponential"), load, servers=2)
    assert abs(wait - load**2 / (1 - load**2) * 10.0) < 4 * error


@pytest.mark.parametrize("servers", [1, 3])
def test_every_wait_is_that_of_the_recursion(servers: int) -> None:
    """Kiefer and Wolfowitz: a request starts when it has come and a server is free."""
    trace = traces.poisson(500, 4.0, seed=3)
    service = Given(10.0, 5.0)
    times = service.draw(500, np.random.default_rng(np.random.SeedSequence(0).spawn(1)[0]))
    free = [0.0] * servers
    expected = []
    for arrived, ms in zip(trace.arrived_ms, times, strict=True):
        start = max(arrived, heapq.heappop(free))
        heapq.heappush(free, start + ms)
        expected.append(start - arrived)
    result = alone(service, trace, servers=servers)
    np.testing.assert_allclose(result.waits_ms, expected, atol=1e-6)
    np.testing.assert_allclose(result.latency_ms, np.array(expected) + times, atol=1e-6)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_the_same_seeds_give_the_same_result(name: str) -> None:
    knobs = {"seed": 4} if "seed" in knobs_of(name) else {}
    trace = traces.burst_v1(S, periods=1)
    one, two = (simulate(trace, routing_policy(name, **knobs), LADDER, SLA) for _ in range(2))
    np.testing.assert_array_equal(one.chosen, two.chosen)
    np.testing.assert_array_equal(one.latency_ms, two.latency_ms)


def test_policies_meet_the_same_luck() -> None:
    trace = traces.burst_v1(S, periods=1)
    fixed = simulate(trace, routing_policy("fixed"), LADDER, SLA)
    other = simulate(trace, routing_policy("balanced"), LADDER, SLA)
    both = (fixed.chosen == 0) & (other.chosen == 0)
    assert both.sum() > 50
    np.testing.assert_allclose(
        (fixed.latency_ms - fixed.waits_ms)[both], (other.latency_ms - other.waits_ms)[both]
    )


def test_switching_cuts_the_tail_of_a_burst_and_keeps_the_sla() -> None:
    """runtime.md 6: p90 26 times lower, all within the SLA, .49 % of the accuracy."""
    trace = traces.burst_v1(S, periods=5)
    fixed = simulate(trace, routing_policy("fixed"), LADDER, SLA)
    switched = simulate(trace, routing_policy("balanced"), LADDER, SLA)
    assert fixed.latency_quantile(0.9) > 15 * switched.latency_quantile(0.9)
    assert switched.attainment > 0.999
    assert switched.accuracy > 0.945
    assert fixed.accuracy == pytest.approx(0.95)


def test_modipick_as_published_is_no_better_than_a_fixed_model_under_a_burst() -> None:
    trace = traces.burst_v1(S, periods=2)
    policy = routing_policy("modipick", threshold_ms=SLA.latency_ms / 2)
    result = simulate(trace, policy, LADDER, SLA)
    assert result.shares["xl"] > 0.99


def test_figures_are_those_of_a_direct_count() -> None:
    trace = traces.burst_v1(S, periods=2)
    result = simulate(
        trace, routing_policy("fixed"), LADDER, SLA, Settings(rules=QueueRules(limit=5))
    )
    answered = result.status == 200
    on_time = answered & (np.nan_to_num(result.latency_ms, nan=np.inf) <= SLA.latency_ms)
    assert result.rejections
    assert sum(result.rejections.values()) == int((~answered).sum())
    assert result.attainment == pytest.approx(on_time.mean())
    assert result.effective_accuracy == pytest.approx(0.95 * on_time.mean())
    assert result.accuracy == pytest.approx(0.95)
    assert sum(result.shares.values()) == pytest.approx(1.0)
    assert np.isnan(result.latency_ms[~answered]).all()
    assert result.latency_quantile(0.9) == np.quantile(result.latency_ms[answered], 0.9)


STAGES = tuple(SimulatedModel(n, 0.9, Given(ms, sd)) for n, ms, sd in (("a", 2, 0.3), ("b", 9, 2)))


def test_a_cascade_takes_what_its_stages_take_and_waits_as_one_model_in_order_of_arrival() -> None:
    """Who is sent on gets back the place of its arrival: the recursion of one server."""
    apart = traces.constant(2_000, 1_000.0)
    close = traces.poisson(2_000, 8.0, seed=3)
    own = simulate_cascade(apart, STAGES, [0.3], SLA)
    times = own.latency_ms
    sent = own.chosen == 1
    assert sent.mean() == pytest.approx(0.3, abs=3 * math.sqrt(0.21 / 2_000))
    deviation = math.sqrt(0.3**2 + 0.3 * (2**2 + 9**2) - (0.3 * 9) ** 2)
    assert times.mean() == pytest.approx(2 + 0.3 * 9, abs=3 * deviation / math.sqrt(2_000))
    assert (own.waits_ms == 0).all()
    found = simulate_cascade(close, STAGES, [0.3], SLA)
    wait = 0.0
    for k, gap in enumerate(np.diff(close.arrived_ms, append=np.inf)):
        assert found.waits_ms[k] == pytest.approx(wait, abs=1e-6)
        assert found.latency_ms[k] == pytest.approx(wait + times[k], abs=1e-6)
        wait = max(wait + times[k] - gap, 0.0)


def test_a_cascade_is_admitted_by_its_fastest_stage_as_where_it_is_served() -> None:
    """All its stages together take 11 ms and 4 ms of deviations: one model of them is refused."""
    rules = Settings(rules=QueueRules())
    found = simulate_cascade(traces.constant(200, 100.0), STAGES, [0.3], Sla(10.0), rules)
    assert found.rejections == {}
    assert found.attainment == pytest.approx(0.8, abs=0.1)  # b is soon enough for a third
    busy = simulate_cascade(traces.constant(200, 1.0), STAGES, [0.3], Sla(10.0), rules)
    assert set(busy.rejections) == {429, 504}
    refused = busy.status != 200
    assert np.isnan(busy.latency_ms[refused]).all()
    assert (busy.chosen[refused] == -1).all()
    assert not np.isnan(busy.latency_ms[~refused]).any()


def test_the_answers_of_a_fallback_stand_where_the_next_stage_would_be_too_late() -> None:
    trace = traces.constant(100, 100.0)
    late = simulate_cascade(trace, STAGES, [1.0], Sla(6.0), Settings(rules=QueueRules()))
    assert late.attainment < 0.1
    rules = Settings(rules=QueueRules(), fallback="a")
    found = simulate_cascade(trace, STAGES, [1.0], Sla(6.0), rules)
    assert found.attainment == 1
    assert (found.chosen == 0).all()


def test_under_the_rules_of_the_product_nobody_starts_after_its_deadline() -> None:
    trace = traces.burst_v1(S, periods=2)
    rules = QueueRules(admission=False)
    result = simulate(trace, routing_policy("fixed"), LADDER, SLA, Settings(rules=rules))
    assert set(result.rejections) == {504}
    assert np.nanmax(result.waits_ms) < SLA.latency_ms


def test_what_admission_lets_in_is_on_time_where_the_model_is_the_fastest() -> None:
    """One model of a constant time: the admission's estimate is exact (but for the deviations it
    allows for, which a constant does not need)."""
    trace = traces.poisson(400, 5.0, seed=1)
    model = SimulatedModel("only", 1.0, Given(10.0))
    result = simulate(trace, routing_policy("fixed"), [model], SLA, Settings(rules=QueueRules()))
    assert set(result.rejections) == {429}
    assert np.nanmax(result.latency_ms) <= SLA.latency_ms
    assert len(result) - result.rejections[429] > 190  # half of what comes is what one can do


def test_the_network_is_part_of_latency_and_of_the_budget() -> None:
    network = Network(50.0, 20.0)
    trace = network.over(traces.constant(200, 1000.0), seed=2)
    np.testing.assert_array_equal(trace.input_ms, trace.output_ms)
    assert (np.diff(trace.arrived_ms) >= 0).all()
    model = SimulatedModel("only", 1.0, Given(10.0))
    result = simulate(trace, routing_policy("fixed"), [model], Sla(120.0))
    np.testing.assert_allclose(result.latency_ms, 2 * trace.input_ms + 10.0, atol=1e-6)
    dynamic = simulate(
        trace,
        routing_policy("dynamic_greedy"),
        [model, replace(model, name="quick", accuracy=0.5, service=Given(1.0))],
        Sla(120.0),
    )
    np.testing.assert_array_equal(dynamic.chosen == 1, 120.0 - 2 * trace.input_ms < 10.0)


@pytest.mark.parametrize("kind", ["lognormal", "normal"])
def test_transfer_times_have_the_moments_they_are_given(kind: str) -> None:
    drawn = Network(57.87, 15.0, kind).draw(40_000, np.random.default_rng(0))
    assert abs(drawn.mean() - 57.87) < 4 * 15.0 / 200
    assert abs(drawn.std() - 15.0) < 0.5
    assert (Network(50.0, 0.0, kind).draw(3, np.random.default_rng(0)) == 50.0).all()


def test_answers_may_be_smaller_than_requests() -> None:
    network = Network(50.0, 20.0, output_share=0.15)
    trace = network.over(traces.constant(20_000, 10.0), seed=0)
    assert trace.output_ms.mean() == pytest.approx(7.5, rel=0.03)
    assert abs(np.corrcoef(trace.input_ms, trace.output_ms)[0, 1]) < 0.03


def test_burst_v1_comes_at_its_rates() -> None:
    """.4 per S in 240 S, 2.5 per S in 60 S: 96 and 150 a period; Poisson deviations."""
    periods = 50
    trace = traces.burst_v1(S, periods=periods)
    phase = (trace.arrived_ms / S) % 300
    calm, burst = (phase < 240).sum(), (phase >= 240).sum()
    assert abs(calm - 96 * periods) < 4 * math.sqrt(96 * periods)
    assert abs(burst - 150 * periods) < 4 * math.sqrt(150 * periods)
    np.testing.assert_array_equal(trace.arrived_ms, traces.burst_v1(S, periods=periods).arrived_ms)


@pytest.mark.parametrize("name", traces.TRACES)
def test_named_traces_have_the_same_mean_load(name: str) -> None:
    trace = traces.named(name, S, periods=20)
    assert trace.name == name
    assert len(trace) * S / trace.arrived_ms[-1] == pytest.approx(0.82, rel=0.05)


def test_an_unknown_trace_is_told_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as raised:
        traces.named("burst", S)
    assert raised.value.suggestions == ("burst-v1",)


def test_instants_may_be_given_in_any_order_but_must_be_numbers() -> None:
    assert traces.given([3, 1, 2]).arrived_ms.tolist() == [1, 2, 3]
    with pytest.raises(BinderError):
        traces.given([1.0, math.nan])


def test_disturbances_have_the_shares_they_are_given() -> None:
    """Slow for 600 of 3 600 requests in the mean, stragglers in 1 of 100."""
    times = Disturbed(Given(10.0)).draw(400_000, np.random.default_rng(0))
    slow = (times >= 40.0).mean()
    assert 0.13 < slow < 0.20
    assert ((times == 30.0) | (times == 120.0)).mean() == pytest.approx(0.01, rel=0.1)
    assert set(np.unique(times)) == {10.0, 30.0, 40.0, 120.0}


def test_measured_times_are_resampled() -> None:
    measured = Measured(np.array([1.0, 2.0, 4.0]))
    drawn = measured.draw(3_000, np.random.default_rng(0))
    assert set(drawn) == {1.0, 2.0, 4.0}
    assert measured.mean_ms == pytest.approx(7 / 3)


def test_an_empty_trace_has_no_figures() -> None:
    result = simulate(traces.given([]), routing_policy("fixed"), LADDER, SLA)
    assert len(result) == 0
    assert all(
        math.isnan(value)
        for value in (
            result.attainment, result.accuracy, result.effective_accuracy,
            result.latency_quantile(0.5),
        )
    )  # fmt: skip


def test_drift_plus_penalty_keeps_the_wait_bounded_where_greed_does_not() -> None:
    """algorithms.md J.11: a fixed l is asked for 8 times what it can do."""
    trace = traces.poisson(3_000, S * 0.03, seed=0)
    drift = simulate(trace, routing_policy("drift_plus_penalty"), LADDER, SLA)
    greedy = simulate(trace, routing_policy("dynamic_greedy"), LADDER, SLA)
    assert np.nanmean(drift.waits_ms) < SLA.latency_ms
    assert np.nanmean(greedy.waits_ms) > 100 * SLA.latency_ms


def test_an_sla_leaves_what_the_network_does_not_take() -> None:
    sla = Sla(100.0, quantile=0.9)
    assert sla.budget_ms(20.0) == 60.0
    assert sla.budget_ms(20.0, 5.0) == 75.0
    assert sla.deadline_ms(1000.0, 60.0) == 980.0
    assert sla.met([50.0] * 9 + [math.nan])
    assert not sla.met([50.0] * 8 + [100.1, math.inf])
    assert math.isnan(sla.attainment([]))


@pytest.mark.parametrize(("ms", "quantile"), [(0.0, 0.9), (math.nan, 0.9), (5.0, 0.0), (5.0, 1.1)])
def test_an_sla_that_means_nothing_is_refused(ms: float, quantile: float) -> None:
    with pytest.raises(BinderError):
        Sla(ms, quantile)
