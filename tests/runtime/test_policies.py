"""The contract of routing policies, over all of them, and what each one chooses."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sommelier.errors import BinderError, UnknownNameError
from sommelier.runtime.policies import DEFAULT, POLICIES, knobs_of, routing_policy
from sommelier.runtime.policies.balanced import shared_ms
from sommelier.runtime.policies.modipick import ModiPick
from sommelier.runtime.policy import (
    Decision,
    PooledModel,
    PoolState,
    Rejection,
    Request,
    RoutingPolicy,
    ranked,
)
from sommelier.runtime.telemetry import LatencyEstimate, Telemetry

NAMES = sorted(POLICIES)
BLIND = {"fixed", "pure_random"}  # they do not look at latency
ABLE = {"chance_constrained", "drift_plus_penalty"}  # they promise not to choose the hopeless
LADDER = (("xl", 0.95, 100.0), ("l", 0.94, 25.0), ("m", 0.92, 8.0), ("s", 0.90, 1.5))

milliseconds = st.floats(0.01, 1e4)
instants = st.one_of(st.floats(-1e4, 1e4), st.just(math.inf))
latencies = st.builds(
    lambda mean, std: LatencyEstimate(mean, std),
    st.none() | milliseconds,
    st.none() | st.just(0.0) | milliseconds,
)
requests = st.builds(
    lambda arrived, budget, priority: Request(arrived, arrived + budget, priority),
    st.floats(-1e3, 1e3),
    instants,
    st.integers(-1, 2),
)


@st.composite
def pools(draw: st.DrawFn) -> PoolState:
    """Of none to five models, some without a known accuracy or latency, with up to six waiting."""
    models = [
        PooledModel(f"m{at}", draw(st.floats(0, 1) | st.just(math.nan)), draw(latencies))
        for at in range(draw(st.integers(0, 5)))
    ]
    waiting = draw(st.lists(requests, max_size=6))
    telemetry = Telemetry()
    telemetry.observations = draw(st.integers(0, 10_000))
    return PoolState(ranked(models), waiting, draw(st.integers(1, 4)), telemetry)


def pool(*models: tuple[str, float, float], waiting: int = 0, due_ms: float = 500.0) -> PoolState:
    """Models of (name, accuracy, mean ms) with deviations of 4 %, and requests alike behind."""
    made = [PooledModel(n, a, LatencyEstimate(ms, 0.04 * ms)) for n, a, ms in models or LADDER]
    return PoolState(ranked(made), [Request(0.0, due_ms) for _ in range(waiting)])


def chosen(policy: RoutingPolicy, state: PoolState, *, due_ms: float, now_ms: float = 0.0) -> str:
    answer = policy.choose(Request(0.0, due_ms), state, now_ms)
    assert isinstance(answer, Decision)
    return answer.model


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(state=pools(), request=requests, now_ms=st.floats(-2e3, 2e3))
def test_every_answer_is_a_model_of_the_pool_or_a_rejection_with_its_reason(
    name: str, state: PoolState, request: Request, now_ms: float
) -> None:
    answer = routing_policy(name).choose(request, state, now_ms)
    assert answer.reason
    assert "{" not in answer.reason
    if isinstance(answer, Rejection):
        assert answer.status in (503, 504)
        assert (answer.status == 503) == (not state.models)
    else:
        assert answer.policy == name
        assert answer.waiting == len(state.waiting)
        known = {model.name: model.latency.mean_ms for model in state.models}
        assert known[answer.model] == answer.expected_ms or math.isnan(known[answer.model])


@pytest.mark.parametrize("name", sorted(set(NAMES) - BLIND))
@settings(max_examples=40, deadline=None)
@given(state=pools(), request=requests, now_ms=st.floats(-2e3, 2e3))
def test_an_unknown_latency_is_chosen_only_where_none_is_known(
    name: str, state: PoolState, request: Request, now_ms: float
) -> None:
    answer = routing_policy(name).choose(request, state, now_ms)
    if isinstance(answer, Decision) and math.isnan(answer.expected_ms):
        assert all(math.isnan(model.latency.mean_ms) for model in state.models)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=10, deadline=None)
@given(state=pools(), asked=st.lists(requests, min_size=5, max_size=20))
def test_the_same_seed_and_questions_give_the_same_answers(
    name: str, state: PoolState, asked: list[Request]
) -> None:
    seed = {"seed": 3} if "seed" in knobs_of(name) else {}
    one, two = routing_policy(name, **seed), routing_policy(name, **seed)
    for request in asked:
        first, second = one.choose(request, state, 0.0), two.choose(request, state, 0.0)
        assert type(first) is type(second)
        assert repr(first) == repr(second)  # NaN differs from itself


@pytest.mark.parametrize("name", sorted(ABLE))
@settings(max_examples=100, deadline=None)
@given(state=pools(), request=requests, now_ms=st.floats(-2e3, 2e3), seed=st.integers(0, 99))
def test_a_hopeless_model_is_never_chosen_while_another_has_a_chance(
    name: str, state: PoolState, request: Request, now_ms: float, seed: int
) -> None:
    knobs = {"seed": seed} if "seed" in knobs_of(name) else {}
    answer = routing_policy(name, reject_below=0.0, **knobs).choose(request, state, now_ms)
    if isinstance(answer, Rejection):
        return
    chance = {m.name: m.latency.probability(answer.budget_ms) for m in state.models}
    if any(p >= 1e-3 for p in chance.values()):
        assert chance[answer.model] >= 1e-3


@pytest.mark.parametrize("seed", range(20))
def test_an_unlucky_draw_does_not_make_a_small_chance_hopeless(seed: int) -> None:
    quick = PooledModel("quick", 1.0, LatencyEstimate(13.0, None))  # 6e-7 within 3 ms
    spread = PooledModel("spread", 1.0, LatencyEstimate(313.0, 842.0))  # 7e-3 within 3 ms
    state = PoolState(ranked([quick, spread]))
    policy = routing_policy("chance_constrained", seed=seed, shared=False)
    assert chosen(policy, state, due_ms=3.0) == "spread"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("budget", [0.0, -50.0])
def test_without_time_a_policy_that_looks_at_time_takes_the_fastest_or_rejects(
    name: str, budget: float
) -> None:
    answer = routing_policy(name).choose(Request(0.0, budget), pool(), 0.0)
    if name in {"fixed", "static_greedy"}:  # decided before the request came
        assert isinstance(answer, Decision)
        assert answer.model == "xl"
    elif name == "drift_plus_penalty":
        assert isinstance(answer, Rejection)
        assert answer.status == 504
    elif name != "pure_random":
        assert isinstance(answer, Decision)
        assert answer.model == "s"


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"pure_random"}))
def test_without_a_deadline_the_most_accurate_model_answers(name: str) -> None:
    if name == "related_random":
        return  # any eligible one will do
    assert chosen(routing_policy(name), pool(waiting=3, due_ms=math.inf), due_ms=math.inf) == "xl"


@pytest.mark.parametrize(
    ("name", "due_ms", "now_ms", "expected"),
    [
        ("dynamic_greedy", 25.0, 0.0, "l"),  # its mean is exactly the budget
        ("dynamic_greedy", 24.9, 0.0, "m"),
        ("dynamic_greedy", 100.0, 90.0, "xl"),  # the wait is not subtracted
        ("modipick", 150.0, 140.0, "xl"),  # nor here, as published
        ("related_accurate", 150.0, 0.0, "xl"),
        ("balanced", 108.0, 0.0, "xl"),  # mean + 2 deviations fit exactly
        ("balanced", 107.9, 0.0, "l"),
        ("balanced", 108.0, 1.0, "l"),  # the wait counts
        ("chance_constrained", 108.0, 90.0, "m"),
    ],
)
def test_budgets_choose_as_the_equations_say(
    name: str, due_ms: float, now_ms: float, expected: str
) -> None:
    assert chosen(routing_policy(name), pool(), due_ms=due_ms, now_ms=now_ms) == expected


def test_static_greedy_keeps_to_the_profile_when_the_model_has_become_slow() -> None:
    state = pool()
    for _ in range(50):
        state.models[0].latency.record(900.0, 0.0)
    assert state.models[0].latency.mean_ms > 800
    assert chosen(routing_policy("static_greedy", sla_ms=200.0), state, due_ms=200.0) == "xl"
    assert chosen(routing_policy("dynamic_greedy"), state, due_ms=200.0) == "l"


def test_the_published_pair_of_equal_latency_is_drawn_by_accuracy_alone() -> None:
    """algorithms.md H.1: NasNet Large and Fictional, Pr(Fictional) = 50 / (50 + 82.6) = .377."""
    state = pool(("large", 0.826, 112.61), ("fictional", 0.50, 112.61))
    policy = ModiPick(seed=1)
    n = 20_000
    drawn = sum(chosen(policy, state, due_ms=200.0) == "fictional" for _ in range(n)) / n
    expected = 50 / 132.6
    assert abs(drawn - expected) < 4 * math.sqrt(expected * (1 - expected) / n)


def test_modipick_draws_by_utility_with_the_pole_cut_off() -> None:
    """Brute force of equations 2 to 4 for a pool where one mean is exactly the soft limit."""
    state = pool(("a", 0.9, 80.0), ("b", 0.8, 78.0), ("c", 0.7, 20.0))
    hard, soft = 100.0, 80.0
    a, b = (m.latency for m in state.models[:2])
    utility_a = 0.9 * (hard - 80.0 - a.std_ms) / max(0.0, a.std_ms, 1e-3 * hard)
    utility_b = 0.8 * (hard - 78.0 - b.std_ms) / max(soft - 78.0, b.std_ms)
    expected = utility_b / (utility_a + utility_b)
    policy = ModiPick(seed=2)
    n = 20_000
    drawn = [chosen(policy, state, due_ms=hard) for _ in range(n)]
    assert "c" not in drawn  # 60 ms from the soft limit; the base is 0 ms from it, sd 3.2
    share = drawn.count("b") / n
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / n)


def test_balanced_leaves_time_for_those_behind() -> None:
    """Six alike and 500 ms: 83 ms each, too little for xl (108 with deviations)."""
    policy = routing_policy("balanced")
    assert chosen(policy, pool(waiting=3), due_ms=500.0) == "xl"  # 125 ms each
    assert chosen(policy, pool(waiting=5), due_ms=500.0) == "l"
    assert chosen(policy, pool(waiting=200), due_ms=500.0) == "s"
    assert chosen(routing_policy("balanced", headroom=0.4), pool(waiting=1), due_ms=500.0) == "l"


@settings(max_examples=100, deadline=None)
@given(
    due=st.lists(st.floats(10, 1000), max_size=8),
    servers=st.integers(1, 3),
    headroom=st.floats(0.1, 1),
)
def test_the_share_is_what_brute_force_finds(
    due: list[float], servers: int, headroom: float
) -> None:
    state = PoolState(pool().models, [Request(0.0, ms) for ms in due], servers)
    request = Request(0.0, 400.0)
    share = shared_ms(request, state, 0.0, headroom=headroom, quick_ms=1.0)
    shares = [400 * headroom] + [
        ms * headroom / (1 + (j + 1) / servers) for j, ms in enumerate(due)
    ]
    assert share == pytest.approx(min(shares)) or share < 1.0 > min(shares)


def test_those_who_are_late_whatever_is_done_take_no_share() -> None:
    lost = [Request(-100.0, 0.5), Request(-100.0, -20.0)]
    state = PoolState(pool().models, lost)
    assert shared_ms(Request(0.0, 400.0), state, 0.0, headroom=1.0, quick_ms=1.5) == 400.0


def test_drift_plus_penalty_prices_time_by_the_backlog() -> None:
    """xl scores .01 - W (100 - 25) / (SLA^2 V) more than l: nothing at W = .01 SLA^2 V / 75."""
    sla, penalty = 1000.0, 0.24
    turn = 0.01 * sla**2 * penalty / 75
    policy = routing_policy("drift_plus_penalty", penalty=penalty)
    assert chosen(policy, pool(), due_ms=sla, now_ms=turn - 1) == "xl"
    assert chosen(policy, pool(), due_ms=sla, now_ms=turn + 1) == "l"


def test_a_model_that_was_slow_once_is_tried_again_by_thompson_sampling() -> None:
    """Without it, a model whose mean is above the budget is never asked again."""
    state = pool(("good", 0.95, 50.0), ("quick", 0.80, 5.0))
    for _ in range(30):
        state.models[0].latency.record(130.0, 0.0)
    state.telemetry.observations = 5_000
    drawn = {
        thompson: [
            chosen(
                routing_policy("chance_constrained", thompson=thompson, seed=seed),
                state,
                due_ms=100.0,
            )
            for seed in range(400)
        ]
        for thompson in (False, True)
    }
    assert "good" not in drawn[False]
    assert drawn[True].count("good") > 4


def test_a_draw_has_the_spread_of_what_is_believed() -> None:
    """P(chosen) of a model that fits iff its drawn mean does: Phi((ln B - m - z s) / u)."""
    state = pool(("good", 0.95, 50.0), ("quick", 0.10, 1.0))
    latency = state.models[0].latency
    z95 = 1.6448536
    spread = latency.uncertainty(0)
    due = math.exp(latency.log_mean + z95 * latency.log_std + 0.5 * spread)
    policy = routing_policy("chance_constrained", sla_prob=0.95, seed=5)
    n = 4_000
    sure = 0
    for _ in range(n):
        answer = policy.choose(Request(0.0, due), state, 0.0)
        assert isinstance(answer, Decision)
        sure += answer.model == "good" and answer.probability >= 0.95
    expected = 0.6914625  # Phi(0.5)
    assert abs(sure / n - expected) < 4 * math.sqrt(expected * (1 - expected) / n)


def test_a_hopeless_request_is_rejected_where_that_is_asked_for() -> None:
    answer = routing_policy("chance_constrained", reject_below=0.05).choose(
        Request(0.0, 0.1), pool(), 0.0
    )
    assert isinstance(answer, Rejection)
    assert answer.status == 504


def test_the_most_accurate_comes_first_and_unknown_accuracies_last() -> None:
    unknown = PooledModel("u", math.nan, LatencyEstimate(1.0))
    slow, quick = (PooledModel(n, 0.9, LatencyEstimate(ms)) for n, ms in (("a", 9.0), ("b", 3.0)))
    best = PooledModel("best", 0.95, LatencyEstimate())
    assert [m.name for m in ranked([unknown, slow, quick, best])] == ["best", "b", "a", "u"]


def test_a_reason_names_the_numbers_it_rests_on() -> None:
    answer = routing_policy("balanced").choose(Request(0.0, 500.0), pool(waiting=5), 0.0)
    assert answer.reason == (
        "the most accurate that fits (27 ms) in 83.3 ms, its share with 5 waiting"
    )


@pytest.mark.parametrize(
    ("name", "knobs", "suggestion"),
    [("balnced", {}, "balanced"), ("balanced", {"headrom": 0.5}, "headroom")],
)
def test_a_misspelt_policy_or_knob_is_told_the_nearest(
    name: str, knobs: dict[str, float], suggestion: str
) -> None:
    with pytest.raises(UnknownNameError) as raised:
        routing_policy(name, **knobs)
    assert suggestion in raised.value.suggestions


@pytest.mark.parametrize(
    ("name", "knobs"),
    [
        ("balanced", {"headroom": 0.0}),
        ("balanced", {"headroom": 1.5}),
        ("balanced", {"deviations": -1.0}),
        ("chance_constrained", {"sla_prob": 1.1}),
        ("chance_constrained", {"reject_below": math.nan}),
        ("drift_plus_penalty", {"penalty": 0.0}),
        ("modipick", {"threshold_ms": -1.0}),
    ],
)
def test_a_knob_out_of_range_is_refused(name: str, knobs: dict[str, float]) -> None:
    with pytest.raises(BinderError):
        routing_policy(name, **knobs)


def test_queue_awareness_is_settled_by_the_name_of_the_policy() -> None:
    assert "queue_aware" not in knobs_of("modipick_queue_aware")
    policy = routing_policy("modipick_queue_aware")
    assert policy.name == "modipick_queue_aware"
    assert chosen(policy, pool(), due_ms=150.0, now_ms=140.0) == "s"


def test_the_default_is_a_policy() -> None:
    make: Callable[..., RoutingPolicy] = POLICIES[DEFAULT]
    assert make().name == DEFAULT


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"fixed", "pure_random"}))
@pytest.mark.parametrize(
    ("large_ms", "small_ms", "told"),
    [
        (90.0, 20.0, "the fastest"),
        (90.0, None, "the fastest of those whose latency is known"),
        (None, None, "the least accurate, which may be the fastest"),
    ],
)
def test_what_is_called_the_fastest_is_known_to_be_it(
    name: str, large_ms: float | None, small_ms: float | None, told: str
) -> None:
    """Where no model fits in 1 ms; some policies reject then."""
    known = [
        PooledModel(model, accuracy, LatencyEstimate(mean))
        for model, accuracy, mean in (("large", 0.9, large_ms), ("small", 0.8, small_ms))
    ]
    answer = routing_policy(name, **{"static_greedy": {"sla_ms": 1.0}}.get(name, {})).choose(
        Request(0.0, 1.0), PoolState(ranked(known)), 0.0
    )
    if isinstance(answer, Decision):
        assert told in answer.reason
        assert answer.reason.endswith(": the fastest") == (told == "the fastest")
        assert answer.model == ("large" if large_ms and not small_ms else "small")
    else:
        assert name == "drift_plus_penalty"
