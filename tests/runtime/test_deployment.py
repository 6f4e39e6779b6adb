"""Deployments of every kind answer as their models do; a switch under load loses nothing."""

from __future__ import annotations

import concurrent.futures
import itertools
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sommelier.analysis.links.formats import AnswerFormat
from sommelier.cascade_records import CascadePlan, CascadePromise, CascadeStage
from sommelier.deployment_records import DeployedModel, DeploymentOptions
from sommelier.errors import RejectedError
from sommelier.runtime.answers import Ticket
from sommelier.runtime.cascade import Cascade
from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.ledger import ServedLedger
from sommelier.runtime.session_cache import ServedModel, SessionCache
from sommelier.runtime.telemetry import size_class
from sommelier.runtime.watching import AGAIN_S, Watch
from tests.runtime.deploying import (
    FOREVER,
    X,
    deployed,
    deployment,
    ladder,
    outputs_of,
    pool_of,
    slow,
)

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(40, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, cache: SessionCache) -> dict[str, ServedModel]:
    folder = tmp_path_factory.mktemp("models")
    models = {**ladder(folder), "slow": slow(folder)}
    with pool_of(cache) as pool:  # prepared once for all tests
        for model in models.values():
            pool.add(model)
            pool.load(model.name)
    return models


def row(k: int) -> dict[str, np.ndarray]:
    return {"x": ROWS[k : k + 1]}


# ---- models


def test_answers_are_those_of_the_model_that_is_named(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    names = ("large", "middle", "small")
    wanted = outputs_of(cache, {name: files[name] for name in names}, {"x": ROWS[:8]})
    with pool_of(cache) as pool:
        record = deployment(
            deployed(*names, large=5.0, middle=1.0, small=0.1), policy="pure_random", sla_ms=1e4
        )
        with RunningDeployment(record, files, pool) as running:
            assert running.wait_ready(60)
            tickets = [(k, running.submit(row(k % 8))) for k in range(60)]
            answers = [(k, ticket.result(30)) for k, ticket in tickets]
            state = running.state()
    for k, answer in answers:
        one = wanted[answer.model]["logits"][k % 8 : k % 8 + 1]  # kernels of 8 rows sum otherwise
        np.testing.assert_allclose(answer.outputs["logits"], one, rtol=1e-4, atol=1e-6)
        assert answer.deployment == "vision"
        assert answer.policy == "pure_random"
        assert 0 <= answer.queue_ms <= answer.total_ms
        assert 0 < answer.infer_ms <= answer.total_ms
    served = {model.name: model.answered for model in state.models}
    assert set(served) == set(names)
    assert min(served.values()) > 0
    assert sum(served.values()) == state.answered == 60


def test_only_models_known_to_be_accurate_enough_answer_and_else_the_fallback(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    models = deployed("middle", "small", middle=1.0, small=0.1)
    with pool_of(cache) as pool:
        running = RunningDeployment(deployment(models), files, pool)
        with running:
            assert running.wait_ready(60)
            assert running.infer({"x": X}, min_accuracy=0.92).model == "middle"
            with pytest.raises(RejectedError, match=r"reaches an accuracy of 0\.94") as refused:
                running.infer({"x": X}, min_accuracy=0.94)
            assert refused.value.status == 503
            running.replan(deployment(models, fallback="large"), files)
            found = running.infer({"x": X}, min_accuracy=0.94)
            assert (found.model, found.policy) == ("large", "fallback")
            assert found.reason.startswith("large is the fallback: ")


def test_a_stand_in_answers_while_a_model_is_loaded_and_then_the_model(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    options = DeploymentOptions(warm=1)
    small, large = deployed("small", "large", small=0.1, large=0.5)
    large = DeployedModel("large", large.model_id, 0.95, 0.5, None, ("small",))
    with pool_of(cache) as pool:
        record = deployment([small, large], options=options, policy="fixed")
        with RunningDeployment(record, files, pool) as running:
            assert running.wait_ready(60)
            assert pool.ready() == ("small",)
            found = running.infer({"x": X})
            assert found.model == "small"
            assert found.reason.startswith("large is being loaded and small stands in for it: ")
            until = time.monotonic() + 30
            while running.infer({"x": X}).model != "large":
                assert time.monotonic() < until
                time.sleep(0.005)


def test_requests_wait_for_the_first_model_as_long_as_they_have_time(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    with pool_of(cache) as pool:
        record = deployment(deployed("large"), options=DeploymentOptions(warm=0))
        with RunningDeployment(record, files, pool) as running:
            assert not running.ready
            assert running.infer({"x": X}).model == "large"
            pool.unload("large")  # nothing loads it, but a request would: it is welcome
            assert (running.state().status, running.state().models[0].state) == ("ready", "absent")
            assert running.ready
            tickets = [running.submit({"x": X}) for _ in range(5)]
            assert {ticket.result(30).model for ticket in tickets} == {"large"}


def test_a_model_without_room_is_refused_with_the_reason(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    record = deployment(deployed("large"))
    with pool_of(cache, host_bytes=1000) as pool, RunningDeployment(record, files, pool) as running:
        with pytest.raises(RejectedError, match="no room for large") as refused:
            running.infer({"x": X})
        assert refused.value.status == 503
        assert "no room" in str(running.state().models[0].reason)


def test_a_second_model_is_asked_when_the_first_takes_long_and_nobody_waits(
    tmp_path: Path, cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    """The same network twice, of which one is said to take 1 ms and is asked for hours."""
    twin = ServedModel("twin", files["slow"].path, files["slow"].id)
    quick = DeployedModel("slow", "id", 0.95, 1.0, 0.1)
    other = DeployedModel("twin", "id", 0.9, 0.5, 0.1)
    options = DeploymentOptions(servers=2, hedge=True)
    with pool_of(cache, servers=2) as pool:
        record = deployment([quick, other], options=options, policy="fixed")
        with RunningDeployment(record, {**files, "twin": twin}, pool) as running:
            assert running.wait_ready(60)
            ticket = running.submit(FOREVER)
            until = time.monotonic() + 20
            while running.state().running < 2:
                assert time.monotonic() < until
                time.sleep(0.005)
            assert running.state().hedged == 1
            ticket.cancel()  # both runs end
            while running.state().running:
                assert time.monotonic() < until
                time.sleep(0.005)


# ---- cascades


def cascade_of(*thresholds: float) -> CascadePlan:
    logits = AnswerFormat("classes", 3, "logits").to_json()
    names = ("small", "middle", "large")
    stages = [
        CascadeStage(name, "margin", threshold, format=logits)
        for name, threshold in zip(names, thresholds, strict=False)
    ]
    return CascadePlan((*stages, CascadeStage(names[len(thresholds)], format=logits)))


def by_hand(
    plan: CascadePlan, raw: dict[str, dict[str, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """(answers (n, 3), stage (n,)): asking every model and taking the first that is sure."""
    n = len(ROWS)
    stages = np.full(n, len(plan.stages) - 1)
    answers = raw[plan.stages[-1].model]["logits"].copy()
    for k in reversed(range(len(plan.stages) - 1)):
        stage = plan.stages[k]
        logits = raw[stage.model]["logits"]
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares = np.sort(shares / shares.sum(axis=1, keepdims=True), axis=1)
        sure = shares[:, -1] - shares[:, -2] >= stage.threshold
        stages[sure], answers[sure] = k, logits[sure]
    return answers, stages


@pytest.mark.parametrize("thresholds", [(0.5,), (0.6, 0.5), (2.0, 2.0), (-1.0, 0.0)])
def test_a_cascade_answers_as_asking_its_stages_by_hand(
    thresholds: tuple[float, ...], cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    plan = cascade_of(*thresholds)
    names = [stage.model for stage in plan.stages]
    parts = [
        outputs_of(cache, {n: files[n] for n in names}, {"x": ROWS[k : k + 8]})
        for k in range(0, 40, 8)
    ]
    raw = {n: {"logits": np.concatenate([part[n]["logits"] for part in parts])} for n in names}
    answers, stages = by_hand(plan, raw)
    record = deployment(deployed(*names), kind="cascade", cascade=plan)
    with pool_of(cache, servers=2) as pool, RunningDeployment(record, files, pool) as running:
        assert running.wait_ready(60)
        assert running.policy == "cascade"
        one_by_one = [running.infer(row(k)) for k in range(40)]
        tickets = [running.submit({"x": ROWS[k : k + 8]}) for k in range(0, 40, 8)]
        together = [ticket.result(30) for ticket in tickets]
        kept, models = running.state().kept, running.state().models
    assert [answer.stage for answer in one_by_one] == stages.tolist()
    assert [answer.model for answer in one_by_one] == [names[k] for k in stages]
    np.testing.assert_allclose(
        np.concatenate([answer.outputs["logits"] for answer in one_by_one]), answers, rtol=1e-5
    )
    assert [k for answer in together for k in answer.stages] == stages.tolist()
    np.testing.assert_allclose(
        np.concatenate([answer.outputs["logits"] for answer in together]), answers, rtol=1e-5
    )
    counted = np.bincount(stages, minlength=len(names))
    assert kept == tuple(2 * counted)
    assert [model.samples for model in models] == list(kept)
    asked = [*one_by_one, *together]
    told = [sum(stage in answer.stages for answer in asked) for stage in range(len(names))]
    assert [model.answered for model in models] == told
    assert {answer.models for answer in asked} == {tuple(names)}
    last = len(names) - 1
    for answer in one_by_one:
        assert np.isnan(answer.scores[0]) == (answer.stage == last)
        place = ("first", "second", "third")[int(answer.stage or 0)]
        assert answer.reason.startswith(f"{place} stage of {len(names)}")


def test_a_stage_is_timed_by_the_samples_that_come_to_it(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    """8 samples to the first stage; to the second those that the first is not sure of."""
    plan = cascade_of(0.2)
    names = [stage.model for stage in plan.stages]
    record = deployment(deployed(*names), kind="cascade", cascade=plan)
    with pool_of(cache) as pool, RunningDeployment(record, files, pool) as running:
        assert running.wait_ready(60)
        answers = [running.infer({"x": ROWS[k : k + 8]}) for k in range(0, 40, 8)]
        timed = {(s.model, s.batch): s.samples for s in running.telemetry.summary() if s.samples}
    sent = Counter(size_class(sum(answer.stages)) for answer in answers if sum(answer.stages))
    assert set(sent) - {8}  # else the test would say nothing
    assert timed == {(names[0], 8): 5, **{(names[1], size): n for size, n in sent.items()}}
    assert [answer.samples for answer in answers] == [8] * 5


def test_a_fallback_stands_in_time_for_requests_of_several_samples(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    """60 ms are enough for one sample of the second stage, and not for eight."""
    record = deployment(
        deployed("small", "middle", small=0.1, middle=20.0), kind="cascade",
        cascade=cascade_of(0.0), fallback="small",
    )  # fmt: skip
    with pool_of(cache) as pool, RunningDeployment(record, files, pool) as running:
        assert running.wait_ready(60)
        assert isinstance(running.cascade, Cascade)
        running.cascade.thresholds = [2.0]  # nothing is sure
        eight = running.infer({"x": ROWS[:8]}, deadline_ms=60)
        one = running.infer(row(0), deadline_ms=60)
    assert (eight.model, one.model) == ("small", "middle")
    assert "too short for the next stage" in eight.note


def test_thresholds_are_set_while_it_runs(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    record = deployment(deployed("small", "middle"), kind="cascade", cascade=cascade_of(0.0))
    with pool_of(cache) as pool, RunningDeployment(record, files, pool) as running:
        assert running.wait_ready(60)
        assert running.infer(row(0)).model == "small"
        assert isinstance(running.cascade, Cascade)
        running.cascade.thresholds = [2.0]
        assert running.infer(row(0)).model == "middle"
        assert running.state().thresholds == (2.0,)


def test_escalate_at_most_sends_on_no_larger_share_of_the_calibration_scores(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    scores = tuple(np.linspace(0.0, 1.0, 101))
    logits = AnswerFormat("classes", 3, "logits").to_json()
    stages = (
        CascadeStage("small", "margin", 0.9, quantiles=scores, samples=1000, format=logits),
        CascadeStage("middle", format=logits),
    )
    record = deployment(
        deployed("small", "middle"), kind="cascade",
        cascade=CascadePlan(stages, CascadePromise("disagreement", 0.01, 0.95, 1000)),
        escalate_at_most=0.25,
    )  # fmt: skip
    with pool_of(cache) as pool, RunningDeployment(record, files, pool) as running:
        assert running.state().thresholds == (0.25,)


def test_a_stage_that_cannot_be_loaded_is_left_out_for_one_that_is_trusted_more(
    tmp_path: Path, cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    gone = ServedModel("small", tmp_path / "gone.onnx", "id")
    record = deployment(deployed("small", "middle"), kind="cascade", cascade=cascade_of(-1.0))
    models = {**files, "small": gone}
    with pool_of(cache) as pool, RunningDeployment(record, models, pool) as running:
        assert running.wait_ready(60)
        found = running.infer(row(0))
        assert (found.model, found.stage) == ("middle", 1)
        assert running.state().models[0].state == "failed"


# ---- switching


def test_a_switch_under_load_loses_nothing_and_unloads_what_nobody_uses(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    wanted = outputs_of(cache, {n: files[n] for n in ("large", "middle", "small")}, {"x": ROWS[:8]})
    plans = [("large", "small"), ("middle",), ("small",), ("large",)]
    stop, lost = threading.Event(), []
    served: list[tuple[int, str, np.ndarray]] = []

    def send(running: RunningDeployment, seed: int) -> None:
        rng = np.random.default_rng(seed)
        while not stop.is_set():
            k = int(rng.integers(8))
            try:
                found = running.infer(row(k)) if seed % 2 else running.submit(row(k)).result(30)
            except Exception as error:
                lost.append(error)
                return
            served.append((k, found.model, found.outputs["logits"]))

    with pool_of(cache, servers=2) as pool:
        options = DeploymentOptions(servers=2)
        first = deployment(deployed(*plans[0]), options=options)
        with RunningDeployment(first, files, pool) as running:
            assert running.wait_ready(60)
            threads = [threading.Thread(target=send, args=(running, s)) for s in range(4)]
            for thread in threads:
                thread.start()
            for names in (*plans[1:], *plans):
                switch = running.replan(deployment(deployed(*names), options=options), files)
                assert switch.failed == {}
                before = len(served)
                until = time.monotonic() + 20
                while len(served) < before + 50 and not lost:
                    assert time.monotonic() < until
                    time.sleep(0.001)
            stop.set()
            for thread in threads:
                thread.join(30)
            assert lost == []
            assert running.drain(10) == 0
            until = time.monotonic() + 20
            while set(pool.ready()) != {"large"}:
                assert time.monotonic() < until, pool.states()
                time.sleep(0.01)
            assert running.state().answered == len(served)
    assert pool.ready() == ()
    assert {model for _, model, _ in served} == {"large", "middle", "small"}
    for k, model, logits in served:
        one = wanted[model]["logits"][k : k + 1]
        np.testing.assert_allclose(logits, one, rtol=1e-4, atol=1e-6)


def test_another_content_under_the_same_name_is_another_model(
    tmp_path: Path, cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    newer = ServedModel("large", files["small"].path, files["small"].id)
    wanted = outputs_of(cache, {n: files[n] for n in ("large", "small")}, {"x": X})
    with (
        pool_of(cache) as pool,
        RunningDeployment(deployment(deployed("large")), files, pool) as running,
    ):
        assert running.wait_ready(60)
        for _ in range(3):
            running.infer({"x": X})
        switch = running.replan(deployment(deployed("large")), {"large": newer})
        assert switch.added == switch.dropped == ("large",)
        found = running.infer({"x": X})
        assert found.model == "large"
        assert np.array_equal(found.outputs["logits"], wanted["small"]["logits"])
        assert running.telemetry.estimate("large").samples == 1


def test_deployments_share_a_pool_and_a_model_stays_while_one_of_them_uses_it(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    with pool_of(cache) as pool:
        one = RunningDeployment(deployment(deployed("small")), files, pool)
        two = RunningDeployment(deployment(deployed("small", "middle")), files, pool)
        assert one.wait_ready(60)
        assert two.wait_ready(60)
        two.close()
        until = time.monotonic() + 20
        while "middle" in pool.ready():
            assert time.monotonic() < until
            time.sleep(0.01)
        assert one.infer({"x": X}).model == "small"
        one.close()


def test_every_request_has_exactly_one_answer_whatever_happens(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    """Threads submit, cancel and switch at random until the deployment is closed under them."""
    plans = [("large", "small"), ("small", "slow"), ("middle",)]
    options = DeploymentOptions(servers=2, queue=8)
    told: dict[int, list[str]] = {}
    lock = threading.Lock()

    def work(running: RunningDeployment, seed: int) -> list[Ticket]:
        rng, tickets = np.random.default_rng(seed), []
        for step in range(120):
            key = 1000 * seed + step
            try:
                ticket = running.submit(
                    row(int(rng.integers(8))),
                    deadline_ms=float(rng.choice([0.5, 5, 1e5])),
                    priority=int(rng.integers(2)),
                )
            except RejectedError:
                continue

            def note(done: concurrent.futures.Future, key: int = key) -> None:
                with lock:
                    told.setdefault(key, []).append(
                        "cancelled" if done.cancelled() else type(done.exception()).__name__
                    )

            ticket.add_done_callback(note)
            tickets.append(ticket)
            if rng.random() < 0.3:
                ticket.cancel()
        return tickets

    def switch(running: RunningDeployment) -> None:
        for k in range(12):
            names = plans[k % len(plans)]
            running.replan(deployment(deployed(*names), options=options), files)

    with pool_of(cache, servers=2) as pool:
        running = RunningDeployment(deployment(deployed("small"), options=options), files, pool)
        assert running.wait_ready(60)
        with concurrent.futures.ThreadPoolExecutor(7) as threads:
            asked = [threads.submit(work, running, seed) for seed in range(6)]
            switching = threads.submit(switch, running)
            tickets = [ticket for future in asked for ticket in future.result(60)]
            switching.result(60)
        running.close()
        state = running.state()
    assert concurrent.futures.wait(tickets, 10).not_done == set()
    assert len(told) == len(tickets)
    assert all(len(outcomes) == 1 for outcomes in told.values())
    outcomes = [outcome for (outcome,) in told.values()]
    assert set(outcomes) <= {"cancelled", "NoneType", "RejectedError"}
    assert outcomes.count("NoneType") <= state.answered  # one may be cancelled as it is answered
    assert (state.waiting, state.running, state.failed) == (0, 0, 0)


def test_closing_in_the_middle_leaves_no_request_without_an_answer(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    record = deployment(deployed("small"), options=DeploymentOptions(queue=10**6))
    for seed in range(10):
        with pool_of(cache) as pool:
            running = RunningDeployment(record, files, pool)
            closing = threading.Timer(0.01 * seed, running.close)
            closing.start()
            tickets, refused = [], ""
            while not refused:
                try:
                    tickets.append(running.submit(row(0)))
                except RejectedError as error:
                    refused = error.message
            closing.join(20)
            assert "closed" in refused
            assert concurrent.futures.wait(tickets, 10).not_done == set()


# ---- watching


def test_times_far_from_those_planned_by_are_a_reason_once_and_a_warning_as_long_as_they_last(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    record, now_s = deployment(deployed("small", small=1000.0)), 0.0
    with pool_of(cache) as pool, RunningDeployment(record, files, pool) as running:
        assert running.wait_ready(60)
        watch = Watch(running, clock=lambda: now_s)
        assert watch.look() is None
        for _ in range(200):  # the 1000 ms are forgotten
            running.telemetry.record("small", 2.0, 0.0)
        reason = watch.look()
        assert reason is not None
        assert reason.endswith("not the 1e+03 ms planned by")
        assert watch.look() is None
        assert any(told.endswith("the 1e+03 ms planned by") for told in running.state().warnings)
        running.replan(deployment(deployed("small", small=500.0)), files)
        watch.planned("what planning told")
        now_s = 1e6
        for _ in range(200):
            running.telemetry.record("small", 2.2, 0.0)
        assert watch.look() is None, "it was planned again for these times before"
        told = running.state().warnings
        assert told[0] == "what planning told"
        assert told[1].endswith("not the 500 ms planned by"), "which are not true either"
        mean = running.telemetry.estimate("small").mean_ms
        running.replan(deployment(deployed("small", small=mean)), files)
        watch.planned()
        assert running.state().warnings == ()


def test_times_that_come_and_go_are_planned_for_every_five_minutes_at_most(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    record, now_s = deployment(deployed("small", small=10.0)), 0.0
    planned = []
    with pool_of(cache) as pool, RunningDeployment(record, files, pool) as running:
        watch = Watch(running, clock=lambda: now_s)
        for minute in range(60):
            for _ in range(200):
                running.telemetry.record("small", 40.0 if minute % 2 else 10.0, 0.0)
            now_s = 60.0 * minute
            if watch.look() is not None:
                planned.append(minute)
    assert planned[0] == 1
    assert min(later - sooner for sooner, later in itertools.pairwise(planned)) >= AGAIN_S / 60
    assert len(planned) > 5, "but they are"


def test_a_model_that_has_no_room_is_a_warning_and_no_reason_to_plan_again(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    record = deployment(deployed("large"))
    with pool_of(cache, host_bytes=1000) as pool, RunningDeployment(record, files, pool) as running:
        assert not running.wait_ready(60)
        assert Watch(running).look() is None
        assert "there is no room for large" in running.state().warnings


# ---- the ledger


def test_a_ledger_counts_every_request_once_over_switches_and_failed_writes(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    ledger, kept = ServedLedger(), Counter[str]()

    def keep() -> None:
        figures = ledger.figures()
        kept.update({figure.model_id: figure.requests for figure in figures})
        ledger.kept(figures)

    with pool_of(cache) as pool:
        small, large = (deployment(deployed(name)) for name in ("small", "large"))
        with RunningDeployment(small, files, pool) as running:
            for new in (large, small, large):
                for _ in range(7):
                    running.infer({"x": X})
                ledger.collect(running)
                ledger.collect(running)
                running.replan(new, files)
                running.wait_ready(60)
            keep()
            assert ledger.figures() == []
            running.infer({"x": X})
            ledger.collect(running)
            lost = ledger.figures()  # the write that failed
            running.infer({"x": X})
            ledger.collect(running)
            assert [figure.requests for figure in lost] == [1]
            keep()
        with RunningDeployment(small, files, pool) as again:  # under the same name
            again.infer({"x": X})
            ledger.collect(again)
            keep()
    assert kept == {"id of small": 15, "id of large": 9}


# ---- limits of the process

CYCLES = """
import gc, sys
from pathlib import Path
from sommelier.deployment_records import DeployedModel, Deployment
from sommelier.runtime import memory
from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.ledger import ServedLedger
from sommelier.runtime.pool import ModelPool
from sommelier.runtime.ledger import ServedLedger
from sommelier.runtime.session_cache import ServedModel, SessionCache
from sommelier.runtime.sessions import SessionSettings
record = Deployment("d", "models", "DEPLOY", (DeployedModel("m", "id"),))
models = {"m": ServedModel("m", Path(sys.argv[2]), sys.argv[3])}
with ModelPool(SessionCache(Path(sys.argv[1])), SessionSettings(batch=8)) as pool:
    for cycle in range(101):
        with RunningDeployment(record, models, pool) as running:
            running.infer({"x": [[1.0, 2.0, 3.0, 4.0]]})
        while pool.ready():
            pass
        if cycle == 0:
            base = memory.private_bytes()
heavy = ("torch", "onnx", "duckdb", "sqlalchemy", "pandas", "lark", "scipy")
print((memory.private_bytes() - base) / 2**20, *(name for name in heavy if name in sys.modules))
"""


def test_a_hundred_deployments_leave_nothing_and_load_nothing_heavy(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    """A process that serves: under 10 MiB more than after the first one, and no torch, no database,
    no parser."""
    model = files["large"]
    done = subprocess.run(
        [sys.executable, "-c", CYCLES, str(cache.root), str(model.path), model.id],
        capture_output=True, text=True, timeout=200, check=True,
    )  # fmt: skip
    grown, *heavy = done.stdout.split()
    assert float(grown) < 10
    assert heavy == []
