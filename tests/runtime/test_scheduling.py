"""Queues with exact limits, admission, expiry and turns, against brute force."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sommelier.errors import BinderError
from sommelier.runtime.policies import DEFAULT, routing_policy
from sommelier.runtime.policy import Decision, PooledModel, Rejection, Request
from sommelier.runtime.queueing import Order, QueueRules, RequestQueue
from sommelier.runtime.scheduling import Scheduler, Turn
from sommelier.runtime.telemetry import Telemetry

LADDER = (("big", 0.95, 10.0), ("small", 0.90, 1.0))
requests = st.builds(
    lambda due, priority: Request(0.0, due, priority),
    st.sampled_from([1.0, 2.0, 5.0, math.inf]),
    st.integers(0, 2),
)


def scheduler(
    rules: QueueRules | None = None, *, policy: str = "balanced", servers: int = 1
) -> Scheduler:
    telemetry = Telemetry()
    models = [PooledModel(n, a, telemetry.profile(n, ms, 0.04 * ms)) for n, a, ms in LADDER]
    return Scheduler(routing_policy(policy), models, telemetry, rules=rules, servers=servers)


def started(turn: Turn | None) -> Decision:
    assert turn is not None
    assert isinstance(turn.answer, Decision)
    return turn.answer


@pytest.mark.parametrize("order", ["edf", "fifo"])
@settings(max_examples=60, deadline=None)
@given(coming=st.lists(requests, max_size=20), leaving=st.lists(st.integers(0, 19), max_size=5))
def test_a_queue_serves_in_the_order_of_a_sorted_list(
    order: Order, coming: list[Request], leaving: list[int]
) -> None:
    queue = RequestQueue(order)
    for request in coming:
        ahead = queue.ahead_of(request)
        queue.add(request)
        assert queue.waiting[ahead] is request
    gone = [coming[at] for at in set(leaving) if at < len(coming)]
    for request in gone:
        assert queue.remove(request)
        assert not queue.remove(request)
    kept = [request for request in coming if request not in gone]
    kept.sort(key=lambda r: (r.priority, r.deadline_ms if order == "edf" else 0.0))  # stable
    assert queue.next_expiry_ms() == min((r.deadline_ms for r in kept), default=math.inf)
    assert [queue.take() for _ in range(len(queue))] == kept


@settings(max_examples=60, deadline=None)
@given(coming=st.lists(requests, max_size=20), now=st.sampled_from([0.5, 1.0, 3.0, 5.0]))
def test_exactly_those_whose_deadline_has_come_expire(coming: list[Request], now: float) -> None:
    queue = RequestQueue()
    for request in coming:
        queue.add(request)
    expired = queue.take_expired(now)
    assert set(expired) == {request for request in coming if request.deadline_ms <= now}
    assert len(queue) == len(coming) - len(expired)
    assert queue.next_expiry_ms() > now
    assert list(queue.waiting) == [queue.take() for _ in range(len(queue))]


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_the_limit_of_the_queue_is_exact_and_does_not_count_running_requests(limit: int) -> None:
    serving = scheduler(QueueRules(limit=limit))
    running = Request(0.0)
    assert serving.submit(running, 0.0) is None
    started(serving.next_turn(0.0))
    for _ in range(limit):
        assert serving.submit(Request(0.0), 0.0) is None
    refused = serving.submit(Request(0.0), 0.0)
    assert refused is not None
    assert refused.status == 429
    assert f"{limit} requests wait" in refused.reason
    assert refused.retry_after_ms is not None
    assert refused.retry_after_ms > 0


def test_admission_refuses_what_would_be_late_behind_the_others() -> None:
    """One request runs until 10; n wait and take 1 each; then 1 + 2 x .04: late from 11.08 + n."""
    serving = scheduler()
    serving.submit(Request(0.0, 15.0), 0.0)
    assert started(serving.next_turn(0.0)).model == "big"
    for _ in range(3):
        assert serving.submit(Request(0.0, 14.08), 0.0) is None
    late = serving.submit(Request(0.0, 14.08 - 0.01), 0.0)  # earlier deadline: none before it
    assert late is None
    refused = serving.submit(Request(0.0, 14.5), 0.0)  # four before it: 15.08
    assert refused is not None
    assert refused.status == 429
    assert refused.retry_after_ms == pytest.approx(0.58)


def test_after_the_time_to_retry_an_equal_request_is_accepted() -> None:
    serving = scheduler()
    serving.submit(Request(0.0, 12.0), 0.0)
    started(serving.next_turn(0.0))
    refused = serving.submit(Request(0.0, 5.0), 0.0)
    assert refused is not None
    assert refused.retry_after_ms is not None
    later = refused.retry_after_ms + 1e-9
    assert serving.submit(Request(later, later + 5.0), later) is None


def test_a_deadline_no_model_can_meet_is_refused_without_a_time_to_retry() -> None:
    refused = scheduler().submit(Request(0.0, 1.05), 0.0)
    assert refused is not None
    assert (refused.status, refused.retry_after_ms) == (429, None)
    assert "fastest model needs 1.08 ms" in refused.reason


def test_a_model_that_was_slow_for_a_while_is_tried_again_until_it_is_seen_to_be_quick() -> None:
    """SLA 50 ms, a request every 100 ms; for ten of them the only model takes 200 ms, not 5."""
    telemetry, refused, now = Telemetry(), [], 0.0
    model = PooledModel("only", 0.9, telemetry.profile("only", 5.0, 0.5))
    serving = Scheduler(routing_policy(DEFAULT), [model], telemetry)
    for number in range(200):
        now += 100.0
        if serving.submit(Request(now, now + 50.0), now) is not None:
            refused.append(number)
            continue
        turn = serving.next_turn(now)
        assert turn is not None
        took_ms = 200.0 if 30 <= number < 40 else 5.0
        now += took_ms
        serving.finished(turn, took_ms, now)
    assert refused, "as long as it seems too slow"
    assert max(refused) < 190
    assert telemetry.estimate("only").mean_ms < 10.0


def test_a_pause_of_the_machine_refuses_requests_for_a_moment_only() -> None:
    """SLA 50 ms, a request every 10 ms to a model of 2 ms, of which three take 80 ms."""
    telemetry, refused, now, free = Telemetry(), [], 0.0, 0.0
    model = PooledModel("only", 0.9, telemetry.profile("only", 2.0, 0.1))
    serving = Scheduler(routing_policy(DEFAULT), [model], telemetry)
    for number in range(300):
        now = max(10.0 * number, free)
        if serving.submit(Request(now, now + 50.0), now) is not None:
            refused.append(now)
            continue
        turn = serving.next_turn(now)
        assert turn is not None
        took_ms = 80.0 if 100 <= number < 103 else 2.0
        free = now + took_ms
        serving.finished(turn, took_ms, free)
    assert refused
    assert max(refused) - min(refused) < 100.0


def test_what_was_measured_before_serving_refuses_for_ever_and_a_guess_does_not() -> None:
    serving = scheduler()
    for now in (0.0, 1e6):
        assert serving.submit(Request(now, now + 1.05), now) is not None
    assert serving.submit(Request(1e6, 1e6 + 1.05, samples=8), 1e6) is None


def test_without_admission_and_expiry_a_late_request_is_still_answered() -> None:
    serving = scheduler(QueueRules(admission=False, expire=False))
    assert serving.submit(Request(0.0, 0.5), 0.0) is None
    assert serving.next_timer_ms() == math.inf
    assert serving.expire(9.0) == []
    assert started(serving.next_turn(9.0)).model == "small"


def test_a_waiting_request_expires_at_its_deadline_and_the_timer_says_when() -> None:
    serving = scheduler(QueueRules(admission=False))
    serving.submit(Request(0.0), 0.0)
    started(serving.next_turn(0.0))
    waits, patient = Request(0.0, 4.0), Request(0.0, 40.0)
    serving.submit(patient, 0.0)
    serving.submit(waits, 0.0)
    assert serving.next_timer_ms() == 4.0
    assert serving.expire(3.99) == []
    (expired,) = serving.expire(4.0)
    assert expired.request is waits
    assert isinstance(expired.answer, Rejection)
    assert expired.answer.status == 504
    assert serving.next_timer_ms() == 40.0


def test_a_request_whose_deadline_has_come_is_not_started() -> None:
    serving = scheduler(QueueRules(admission=False))
    serving.submit(Request(0.0, 2.0), 0.0)
    turn = serving.next_turn(2.0)
    assert turn is not None
    assert isinstance(turn.answer, Rejection)
    assert serving.idle == 1
    refused = serving.submit(Request(0.0, 2.0), 2.0)
    assert refused is not None
    assert refused.status == 504


def test_no_more_requests_run_than_there_are_servers() -> None:
    serving = scheduler(servers=2)
    for _ in range(3):
        serving.submit(Request(0.0), 0.0)
    first, second = serving.next_turn(0.0), serving.next_turn(0.0)
    assert first is not None
    assert second is not None
    assert serving.next_turn(0.0) is None
    serving.finished(first, 10.0, 10.0)
    assert started(serving.next_turn(10.0))
    assert serving.next_turn(10.0) is None


def test_what_ran_is_learned_and_what_failed_is_not() -> None:
    serving = scheduler()
    for execution in (12.0, None):
        serving.submit(Request(0.0), 0.0)
        turn = serving.next_turn(0.0)
        assert turn is not None
        serving.finished(turn, execution, 12.0)
    big = serving.models[0].latency
    assert (big.samples, big.mean_ms) == (1, pytest.approx(10.2))
    assert serving.telemetry.observations == 1


def test_a_run_of_another_batch_or_device_is_learned_apart() -> None:
    serving = scheduler()
    serving.submit(Request(0.0), 0.0)
    turn = serving.next_turn(0.0)
    assert turn is not None
    serving.finished(turn, 40.0, 40.0, batch=8)
    assert serving.models[0].latency.samples == 0
    assert serving.telemetry.estimate("big", batch=8).mean_ms == 40.0


def test_smaller_priorities_are_served_first_and_deadlines_within_them() -> None:
    serving = scheduler()
    asked = [Request(0.0, 90.0, 1), Request(0.0, 50.0, 2), Request(0.0, 80.0, 1), Request(0.0)]
    for request in asked:
        serving.submit(request, 0.0)
    served = []
    for at in range(4):
        turn = serving.next_turn(float(at))
        assert turn is not None
        served.append(asked.index(turn.request))
        serving.finished(turn, 1.0, at + 1.0)
    assert served == [3, 2, 0, 1]


def test_a_least_accuracy_leaves_only_the_models_that_reach_it() -> None:
    serving = scheduler(QueueRules(admission=False, expire=False))
    serving.submit(Request(0.0, 0.5, min_accuracy=0.94), 0.0)
    assert started(serving.next_turn(0.0)).model == "big"
    refused = serving.submit(Request(0.0, min_accuracy=0.99), 0.0)
    assert refused is not None
    assert refused.status == 503
    assert "0.99" in refused.reason


def test_a_cancelled_request_no_longer_waits() -> None:
    serving = scheduler()
    request = Request(0.0, 50.0)
    serving.submit(request, 0.0)
    assert serving.cancel(request)
    assert not serving.cancel(request)
    assert serving.next_turn(0.0) is None


def test_models_may_be_replaced_while_one_runs() -> None:
    serving = scheduler()
    serving.submit(Request(0.0, 100.0), 0.0)
    serving.submit(Request(0.0, 100.0), 0.0)
    running = serving.next_turn(0.0)
    assert running is not None
    serving.models = serving.models[1:]
    serving.finished(running, 10.0, 10.0)
    assert started(serving.next_turn(10.0)).model == "small"


def test_an_empty_pool_accepts_nothing() -> None:
    serving = scheduler()
    serving.models = ()
    refused = serving.submit(Request(0.0), 0.0)
    assert refused is not None
    assert refused.status == 503


@pytest.mark.parametrize("rules", [{"limit": 0}, {"order": "lifo"}])
def test_rules_that_serve_nobody_are_refused(rules: dict[str, int]) -> None:
    with pytest.raises(BinderError):
        QueueRules(**rules)  # type: ignore[arg-type]  # what a statement might hold


def test_no_server_is_refused() -> None:
    with pytest.raises(BinderError):
        scheduler(servers=0)


def test_a_request_of_many_samples_is_planned_with_the_time_they_take() -> None:
    """big takes 10 ms a sample and small 1 ms, so of 8 samples 80 and 8 ms are believed at first;
    measured ones count from then on."""
    serving = scheduler(QueueRules(admission=False))
    serving.submit(Request(0.0, 40.0, samples=8), 0.0)
    turn = serving.next_turn(0.0)
    assert started(turn).model == "small"
    assert started(turn).expected_ms == pytest.approx(8.0)
    assert turn is not None
    serving.finished(turn, 8.0, 8.0)
    for _ in range(40):
        serving.telemetry.record("big", 12.0, 0.0, batch=8)
    serving.submit(Request(10.0, 50.0, samples=7), 10.0)
    assert started(serving.next_turn(10.0)).model == "big"


def test_the_fallback_answers_where_the_policy_finds_none_but_not_after_the_deadline() -> None:
    telemetry = Telemetry()
    serving = Scheduler(routing_policy("fixed", model="gone"), [], telemetry, fallback="last")
    assert serving.submit(Request(0.0, 10.0), 0.0) is None
    turn = serving.next_turn(0.0)
    assert started(turn).model == "last"
    assert started(turn).reason == "last is the fallback: no model is loaded that may answer"
    late = serving.answer(Request(0.0, 10.0), 10.0)
    assert isinstance(late, Rejection)
    assert late.status == 504


@pytest.mark.parametrize(("accuracy", "wished"), [(0.90, None), (0.96, "last"), (math.nan, None)])
def test_the_fallback_need_not_keep_what_is_promised_but_what_the_request_asks_for(
    accuracy: float, wished: str | None
) -> None:
    telemetry = Telemetry()
    models = [
        PooledModel(name, share, telemetry.profile(name, 1.0))
        for name, share in (("good", 0.93), ("last", accuracy))
    ]
    serving = Scheduler(routing_policy("fixed", model="gone"), models, telemetry, fallback="last")
    promised = serving.answer(Request(0.0, min_accuracy=0.95), 0.0)
    assert isinstance(promised, Decision)
    assert promised.model == "last"
    request = Request(0.0, min_accuracy=0.95, wished=True)
    found = serving.answer(request, 0.0)
    refused = serving.refusal(request, 0.0)
    if wished is not None:
        assert isinstance(found, Decision)
        assert found.model == wished
        assert refused is None
    else:
        assert isinstance(found, Rejection)
        assert "reaches an accuracy of 0.95" in found.reason
        assert refused is not None
        assert refused.status == 503
        assert refused.reason == "no model of this deployment reaches an accuracy of 0.95"


def test_who_waits_again_gets_back_the_place_of_its_arrival_and_who_is_not_ready_is_passed_by() -> (
    None
):
    serving = scheduler(QueueRules(order="fifo"))
    first, second, third = (Request(float(k)) for k in range(3))
    for request in (first, second, third):
        serving.submit(request, 2.0)
    assert serving.take() is first
    serving.requeue(first)
    assert list(serving.queue.waiting) == [first, second, third]
    assert serving.take(lambda request: request is not first) is second
    assert serving.take(lambda request: False) is None
    assert list(serving.queue.waiting) == [first, third]
