"""A request that is kept for a moment was accepted: its time runs, and it is answered."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from sommelier.deployment_records import DeployedModel, Deployment, DeploymentOptions
from sommelier.runtime.answers import Cancellable
from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.pool import ModelPool
from sommelier.runtime.server import rest_requests
from sommelier.runtime.server.served import single_model
from sommelier.runtime.server.service import ModelService
from sommelier.runtime.session_cache import ServedModel
from tests import factories
from tests.runtime.server.asking import post, rest_server, wait_until
from tests.runtime.server.conftest import ready
from tests.runtime.server.test_held import BODY, PATH, X, occupied

Reply = tuple[int, object, bytes]
ONE = {"x": X, "trips": 1}


@pytest.fixture
def model(tmp_path: Path) -> ServedModel:
    return ServedModel.of_file(factories.loop_model(tmp_path / "loop.onnx", trips=None), "loop")


def quick(running: RunningDeployment) -> RunningDeployment:
    """It runs in the event loop."""
    assert running.wait_ready(60)
    running._now.interface.together = 8  # as if measured: how fast this machine is counts not
    for _ in range(30):
        running.infer(ONE, deadline_ms=1e5)
    return running


@pytest.fixture
def running(model: ServedModel, pool: ModelPool) -> Iterator[RunningDeployment]:
    with single_model(model, pool) as found:
        yield quick(found)


@contextmanager
def kept(
    pool: ModelPool, running: RunningDeployment, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[ModelService, Callable[[], object], Future[Reply]]]:
    """(service, what ends the run that a request waits for, the answer of that request)."""
    monkeypatch.setattr(rest_requests, "MOST_HELD", 1_000_000)
    service = ready(ModelService(pool, [running]))
    with rest_server(service) as port, ThreadPoolExecutor(1) as client:
        ticket = occupied(running)
        try:
            answer = client.submit(post, port, PATH, BODY)
            wait_until(lambda: running._dispatcher._requests.count == 2)  # it is kept
            yield service, ticket.cancel, answer
        finally:
            ticket.cancel()


def later(what: Callable[[], object]) -> None:
    threading.Timer(0.1, what).start()


def test_its_time_is_its_time_in_the_queue(
    pool: ModelPool, running: RunningDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kept(pool, running, monkeypatch) as (service, go_on, answer):
        time.sleep(0.2)
        go_on()
        told = json.loads(answer.result(20)[2])["parameters"]
        assert told["sommelier_queue_ms"] >= 200
        stats = service.statistics("loop")["model_stats"][0]["inference_stats"]
    assert stats["queue"]["ns"] >= 2e8
    assert stats["success"]["ns"] >= stats["queue"]["ns"]
    assert running.drain(5) == 0


@pytest.mark.parametrize("on_time", [True, False])
def test_the_deadline_of_the_deployment_counts_from_its_arrival(
    on_time: bool, model: ServedModel, pool: ModelPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed = (DeployedModel("loop", model.id, accuracy=0.9, mean_ms=0.05),)
    options = DeploymentOptions(admission=False)
    sla_ms = 20_000.0 if on_time else 50.0
    deployment = Deployment("loop", "models", "", deployed, options=options, sla_ms=sla_ms)
    with RunningDeployment(deployment, {"loop": model}, pool) as running:
        quick(running)
        with kept(pool, running, monkeypatch) as (_, go_on, answer):
            if on_time:
                go_on()
                assert answer.result(20)[0] == 200
            else:  # though the run that it waits for goes on
                status, _, body = answer.result(20)
                assert (status, b"50 ms were given" in body) == (504, True)
        assert running.drain(5) == 0


def test_it_is_answered_when_its_name_is_unloaded(
    pool: ModelPool, running: RunningDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kept(pool, running, monkeypatch) as (service, go_on, answer):
        later(go_on)
        service.unload("loop")
        assert answer.result(20)[0] == 200


def test_it_is_answered_when_its_name_is_dropped(
    pool: ModelPool, running: RunningDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kept(pool, running, monkeypatch) as (service, go_on, answer):
        service.remove("loop")
        later(go_on)
        assert running.drain(20) == 0
        assert answer.result(20)[0] == 200


def test_it_joins_others_though_its_name_was_dropped(
    pool: ModelPool, running: RunningDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was kept as often as may be."""
    with kept(pool, running, monkeypatch) as (service, go_on, answer):
        service.remove("loop")
        running.refuse()
        monkeypatch.setattr(rest_requests, "MOST_HELD", 0)
        wait_until(lambda: running.state().waiting == 1)
        go_on()
        assert answer.result(20)[0] == 200
    assert running.drain(5) == 0


def test_a_deployment_that_is_closed_refuses_it(
    pool: ModelPool, running: RunningDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kept(pool, running, monkeypatch) as (_, _go_on, answer):
        running.close()
        assert answer.result(20)[0] == 503


def test_nobody_is_kept_by_who_refuses_or_is_idle(running: RunningDeployment) -> None:
    assert running.hold() is None
    ticket = occupied(running)
    held = running.hold()
    assert held is not None
    running.refuse()
    assert running.hold() is None
    ticket.cancel()
    assert running.drain(0.2) == 1
    running.let_go()
    assert running.drain(5) == 0


def test_a_run_that_is_ended_for_another_thread_does_not_count(running: RunningDeployment) -> None:
    def end(run: Cancellable) -> None:
        later(run.cancel)

    with pytest.raises(CancelledError):
        running.try_infer({"x": X, "trips": np.array(2**60)}, at_most_ms=1e3, begun=end)
    assert running._dispatcher.counts.cancelled == 0
    assert running.drain(5) == 0
