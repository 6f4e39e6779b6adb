"""Requests of clients that are answered by one decision, and those that come behind them."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sommelier.deployment_records import DeploymentOptions
from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.pool import ModelPool
from sommelier.runtime.session_cache import ServedModel, SessionCache
from sommelier.runtime.stint import STINT_MS, Stint
from tests.runtime.deploying import AT_ONCE, FOREVER, deployed, deployment, pool_of
from tests.runtime.test_dispatcher import fragile

Array = NDArray[Any]
XS = [np.full((1, 4), value, np.float32) for value in (0.1, 0.2, 0.3, 0.4)]
BAD = np.full((1, 4), 100.0, np.float32)


class Clock:
    """That of serving, which may be put forward."""

    def __init__(self) -> None:
        self.ahead_ms = 0.0

    def __call__(self) -> float:
        return time.perf_counter() * 1e3 + self.ahead_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def models(
    files: dict[str, ServedModel], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, ServedModel]:
    """`fragile` fails where x is 100."""
    return {**files, "fragile": fragile(tmp_path_factory.mktemp("fragile"))}


@pytest.fixture
def pool(cache: SessionCache) -> Iterator[ModelPool]:
    with pool_of(cache) as pool:
        yield pool


@pytest.fixture
def running(
    pool: ModelPool, models: dict[str, ServedModel], clock: Clock
) -> Iterator[RunningDeployment]:
    """Of `small` alone, which promises nothing."""
    with RunningDeployment(deployment(deployed("small")), models, pool, clock=clock) as running:
        assert running.wait_ready(60)
        yield running


def stint_of(running: RunningDeployment, *xs: Array) -> Stint:
    stint = running.open_stint([{"x": x} for x in xs], at_most_ms=1e9, same=True)
    assert stint is not None
    return stint


def answers(stint: Stint, *further: Array) -> list[Mapping[str, Array]]:
    """Of those that it was opened for, or of these."""
    told: list[Mapping[str, Array]] = []
    requests = [{"x": x} for x in further] or None
    stint.answer(lambda outputs, *_: told.append(outputs), requests)
    return told


def joins(running: RunningDeployment, model: str, *, joined: bool) -> None:
    """As if measured."""
    with running.pool.lease(model) as predictor:
        predictor.joins = joined


@pytest.mark.parametrize("joined", [True, False])
def test_what_comes_behind_is_answered_by_the_same_decision(
    running: RunningDeployment, joined: bool
) -> None:
    joins(running, "small", joined=joined)
    stint = stint_of(running, *XS[:2])
    found = answers(stint)
    assert stint.open
    found += answers(stint, XS[2], XS[3], XS[0])
    found += answers(stint, XS[1])
    stint.end()
    stint.end()  # nothing happens
    asked = [XS[0], XS[1], XS[2], XS[3], XS[0], XS[1]]
    for outputs, x in zip(found, asked, strict=True):
        wanted = running.infer({"x": x}).outputs
        assert np.allclose(outputs["logits"], wanted["logits"], atol=1e-5)
    counts = running._dispatcher.counts
    assert (counts.answered, counts.by_model) == (12, {"small": 12})
    assert running._dispatcher.running == 0
    assert [requests for _, requests, _, _ in stint.runs] == ([2, 3, 1] if joined else [1] * 6)


def test_an_answer_of_it_is_as_any_other(running: RunningDeployment) -> None:
    stint = stint_of(running, *XS[:2])
    answer = stint.as_answer({"logits": XS[0]}, 1.0, 2.0)
    stint.end()
    alone = running.infer({"x": XS[0]})
    assert (answer.model, answer.deployment, answer.policy) == ("small", "vision", alone.policy)
    assert (answer.queue_ms, answer.infer_ms, answer.total_ms) == (1.0, 2.0, 3.0)


@pytest.mark.parametrize("changes", [{"sla_ms": 60_000.0}, {"models": deployed("small", "middle")}])
def test_where_there_is_a_choice_each_group_is_decided_about(
    pool: ModelPool, models: dict[str, ServedModel], changes: dict[str, Any]
) -> None:
    plan = replace(deployment(deployed("small")), **changes)
    with RunningDeployment(plan, models, pool) as running:
        assert running.wait_ready(60)
        stint = stint_of(running, *XS)
        assert len(answers(stint)) == 4
        assert not stint.open
        stint.end()


def test_it_is_over_after_its_time(running: RunningDeployment, clock: Clock) -> None:
    stint = stint_of(running, *XS)
    assert len(answers(stint)) == 4
    assert stint.open
    clock.ahead_ms += STINT_MS
    assert not stint.open
    stint.end()


def test_who_waits_has_its_turn(running: RunningDeployment) -> None:
    stint = stint_of(running, *XS)
    ticket = running.submit({"x": XS[0]})  # the one server is busy
    assert not stint.open
    assert len(answers(stint)) == 4
    assert not ticket.done()
    stint.end()
    assert ticket.result(20).model == "small"


def test_a_deployment_that_drains_waits_for_its_end_only(running: RunningDeployment) -> None:
    stint = stint_of(running, *XS)
    assert len(answers(stint)) == 4
    assert running.drain(0.01) == 1
    assert not stint.open
    stint.end()
    assert running.drain(5.0) == 0


def test_it_does_not_outlive_a_switch(running: RunningDeployment, models: dict[str, Any]) -> None:
    stint = stint_of(running, *XS)
    answers(stint)
    running.replan(deployment(deployed("middle")), models)
    assert not stint.open
    stint.end()
    assert running.infer({"x": XS[0]}).model == "middle"


def test_a_deployment_that_was_closed_leaves_nothing_behind(
    running: RunningDeployment, pool: ModelPool
) -> None:
    stint = stint_of(running, *XS)
    answers(stint)
    running.close()
    assert not stint.open
    assert answers(stint, XS[0]) == []  # its run was cancelled
    assert stint.ended
    assert pool.ready() == ()


@pytest.mark.parametrize("joined", [True, False])
def test_who_was_told_before_a_failure_has_its_answer(
    pool: ModelPool, models: dict[str, ServedModel], joined: bool
) -> None:
    with RunningDeployment(deployment(deployed("fragile")), models, pool) as running:
        assert running.wait_ready(60)
        joins(running, "fragile", joined=joined)
        stint = stint_of(running, *XS[:2])
        answers(stint)
        told = answers(stint, XS[0], XS[1], BAD, XS[2])
        assert len(told) == (0 if joined else 2)
        assert stint.ended
        counts = running._dispatcher.counts
        assert (counts.answered, counts.failed) == (2 + len(told), 0), "others are asked alone"
        assert running.infer({"x": XS[0]}).model == "fragile"


def test_a_run_is_ended_from_another_thread(
    pool: ModelPool, models: dict[str, ServedModel]
) -> None:
    with RunningDeployment(deployment(deployed("slow")), models, pool) as running:
        assert running.wait_ready(60)
        stint = running.open_stint([FOREVER] * 2, at_most_ms=1e9, same=True)
        assert stint is not None
        timer = threading.Timer(0.1, stint.cancel)
        timer.start()
        assert answers(stint) == []
        timer.join()
        assert stint.ended
        assert not stint.open
        assert running._dispatcher.running == 0


def test_what_goes_wrong_with_an_answer_is_logged_and_ends_it(
    running: RunningDeployment, caplog: pytest.LogCaptureFixture
) -> None:
    stint = stint_of(running, *XS)

    def fails(*_: object) -> None:
        raise ZeroDivisionError

    with caplog.at_level(logging.ERROR):
        stint.answer(fails)
    assert stint.ended
    assert "ZeroDivisionError" in caplog.text
    assert running._dispatcher.running == 0


def test_an_interrupt_frees_the_server(running: RunningDeployment) -> None:
    stint = stint_of(running, *XS)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stint.answer(interrupted)
    assert stint.ended
    assert running._dispatcher.running == 0
    assert running.infer({"x": XS[0]}).model == "small"
    assert running.drain(5.0) == 0


def test_several_servers_go_on_beside_it(pool: ModelPool, models: dict[str, ServedModel]) -> None:
    plan = deployment(deployed("small"), options=DeploymentOptions(servers=2))
    with RunningDeployment(plan, models, pool) as running:
        assert running.wait_ready(60)
        stint = stint_of(running, *XS)
        assert running.infer({"x": XS[0]}).model == "small"
        assert stint.open
        stint.end()


def rows(running: RunningDeployment) -> dict[int, tuple[int, int, bool]]:
    """By samples of a run: requests, runs that were learned from, whether they waited."""
    found = running.telemetry.summary()
    return {row.batch: (row.requests, row.samples, row.queue_mean_ms > 0) for row in found}


@pytest.mark.parametrize("joined", [True, False])
def test_telemetry_counts_each_request_by_the_size_of_its_run(
    running: RunningDeployment, joined: bool
) -> None:
    joins(running, "small", joined=joined)
    running._now.interface.joins = joined
    stint = stint_of(running, *XS[:2])
    answers(stint)
    for _ in range(20):
        answers(stint, *XS)
    stint.end()
    if joined:
        assert {size: row[:2] for size, row in rows(running).items() if row[0]} == {
            2: (2, 1), 4: (80, 3),
        }  # fmt: skip
    else:
        assert rows(running)[1] == (82, 11, True), "who runs in turn waits for those before"


def test_telemetry_keeps_the_runs_before_a_failure(
    pool: ModelPool, models: dict[str, ServedModel]
) -> None:
    with RunningDeployment(deployment(deployed("fragile")), models, pool) as running:
        assert running.wait_ready(60)
        joins(running, "fragile", joined=False)
        stint = stint_of(running, *XS)
        answers(stint)
        answers(stint, XS[0], BAD)
        assert rows(running)[1][:2] == (5, 1)


def test_a_run_that_was_cut_is_learned_by_its_own_size(
    pool: ModelPool, models: dict[str, ServedModel]
) -> None:
    with RunningDeployment(deployment(deployed("slow")), models, pool) as running:
        assert running.wait_ready(60)
        running.infer(AT_ONCE)
        before = running.telemetry.estimate("slow").samples
        stint = running.open_stint([FOREVER] * 2, at_most_ms=1e9, same=True)
        assert stint is not None
        timer = threading.Timer(0.1, stint.cancel)
        timer.start()
        assert answers(stint) == []
        timer.join()
        assert running.telemetry.estimate("slow").samples == before + 1
        assert running.telemetry.estimate("slow", batch=2).samples == 0


def test_as_many_run_in_turn_as_take_a_moment_one_by_one(
    pool: ModelPool, models: dict[str, ServedModel]
) -> None:
    """What is known of one run of so many samples says nothing of runs in turn."""
    with RunningDeployment(deployment(deployed("small")), models, pool) as running:
        assert running.wait_ready(60)
        interface = running._now.interface
        interface.together = 128
        running.telemetry.profile("small", 0.9, 0.1)
        running.telemetry.profile("small", 9.0, 1.0, batch=128)
        for joined, most in ((True, 128), (False, 11)):
            interface.joins = joined
            running._asked = None
            assert running.together == most
        assert running.open_stint([{"x": XS[0]}] * 12, at_most_ms=10.0, same=True) is None
        stint = running.open_stint([{"x": XS[0]}] * 11, at_most_ms=10.0, same=True)
        assert stint is not None
        stint.end()


def test_closing_refuses_nobody_who_has_an_answer(running: RunningDeployment) -> None:
    stint = stint_of(running, *XS)
    answers(stint)
    running.close()
    stint.end()
    assert running._dispatcher.counts.rejected == {}


def test_nothing_of_requests_that_were_answered_is_kept(running: RunningDeployment) -> None:
    first, behind = XS[0].copy(), XS[1].copy()
    stint = stint_of(running, first, XS[1])
    answers(stint)
    answers(stint, behind)
    refs = [weakref.ref(first), weakref.ref(behind)]
    del first, behind
    assert stint.open
    assert [ref() for ref in refs] == [None, None]
    stint.end()


def test_requests_of_several_samples_are_judged_by_what_theirs_take(
    running: RunningDeployment,
) -> None:
    running._now.interface.joins = False
    running.telemetry.profile("small", 0.2, 0.1)
    running.telemetry.profile("small", 4.0, 0.1, batch=4)
    requests = [{"x": np.repeat(XS[0], 4, axis=0)}] * 2
    assert running.open_stint(requests, at_most_ms=2.0, same=True) is None
    stint = running.open_stint(requests, at_most_ms=9.0, same=True)
    assert stint is not None
    stint.end()


def test_the_pool_knows_how_many_used_a_model(running: RunningDeployment, pool: ModelPool) -> None:
    """Else one with a neighbour that is asked now and then would be the one that is evicted."""
    rate = pool._entry("small").rate
    before = rate.weight
    stint = stint_of(running, *XS)
    for _ in range(5):
        answers(stint, *XS)
    stint.end()
    assert rate.weight - before == pytest.approx(20, abs=1)


def test_what_was_believed_before_it_was_tried_follows_single_runs(
    running: RunningDeployment,
) -> None:
    """Runs in turn are never recorded as one run of all."""
    telemetry = running.telemetry
    telemetry.profile("small", 9.0, 0.1)
    assert telemetry.expected("small", 4).mean_ms == 36.0
    for at in range(200):
        telemetry.record("small", 0.1, float(at))
    assert telemetry.expected("small", 4).mean_ms == pytest.approx(0.4, rel=0.1)
    telemetry.record("small", 0.7, 300.0, batch=4)
    tried = telemetry.expected("small", 4).mean_ms
    telemetry.record("small", 0.2, 301.0)
    assert telemetry.expected("small", 4).mean_ms == tried
