"""Requests that come while others are answered go on with the same decision, as long as they may.

A run is held while further clients send, so that what they sent is read right behind it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sommelier.runtime.pool import ModelPool
from sommelier.runtime.predictor import Predictor
from sommelier.runtime.server.protocol import InferRequest
from sommelier.runtime.server.served import single_model
from sommelier.runtime.server.service import ModelService
from sommelier.runtime.session_cache import ServedModel
from tests import factories
from tests.runtime.server.asking import ready, wait_until
from tests.runtime.server.test_lane import Client, Running, clients, post, read, rounds, serving

FEATURES = 4
X = np.ones((1, FEATURES), np.float32)
XS = [np.full((1, FEATURES), i, np.float32) for i in range(4)]
Array = np.ndarray[Any, Any]


@pytest.fixture
def service(pool: ModelPool, tmp_path: Path) -> Iterator[ModelService]:
    """Serves `mlp`, whose requests run in turn."""
    file = factories.mlp_classifier(tmp_path / "mlp.onnx")
    with single_model(ServedModel.of_file(file, "mlp"), pool) as deployment:
        found = ready(ModelService(pool, [deployment]))
        deployment._now.interface.together = 8  # as if measured, as is `joins`
        with pool.lease(deployment.models[0]) as predictor:
            predictor.joins = False
        yield found


@pytest.fixture
def running(service: ModelService) -> Iterator[Running]:
    with serving(service) as found:
        yield found


class Held:
    """first : what the next runs of a model do before they begin, in order; None: nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.first: list[Callable[[Any], object] | None] = []
        run = Predictor.run

        def held(predictor: Predictor, feed: Any, cancellation: Any = None) -> Any:
            first = self.first.pop(0) if self.first else None
            if first is not None:
                first(cancellation)
            return run(predictor, feed, cancellation)

        monkeypatch.setattr(Predictor, "run", held)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(monkeypatch)


@pytest.fixture
def opened(service: ModelService, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of how many requests each decision was."""
    found: list[int] = []
    open_stint = service.open_stint

    def noted(served: Any, requests: Any, *rest: Any, **more: Any) -> Any:
        found.append(len(requests))
        return open_stint(served, requests, *rest, **more)

    monkeypatch.setattr(service, "open_stint", noted)
    return found


def sending(those: list[Client], requests: list[bytes]) -> Callable[[Any], None]:
    """While a run is held, these come."""

    def send(_: Any) -> None:
        for client, request in zip(those, requests, strict=True):
            client.send(request)
        time.sleep(0.02)  # it is on its way through loopback; below what the sentinel allows

    return send


def meet(running: Running, those: list[Client], requests: list[bytes]) -> None:
    with running.held():
        for client, request in zip(those, requests, strict=True):
            client.send(request)


@pytest.fixture
def wanted(service: ModelService) -> list[Array]:
    """The answers to XS, asked one by one."""
    found = [service.infer(InferRequest("mlp", {"x": x})).outputs for x in XS]
    return [next(iter(outputs.values())) for outputs in found]


def told(client: Client) -> Array:
    (found,) = read(client.answer())[1].values()
    return found


def test_who_comes_meanwhile_goes_on_with_the_decision(
    service: ModelService,
    running: Running,
    held: Held,
    opened: list[int],
    wanted: list[Array],
) -> None:
    requests = [post("mlp", {"x": x}) for x in XS]
    with clients(running.port, 4) as those:
        rounds(running, those, requests)
        opened.clear()
        held.first = [sending(those[2:], requests[2:])]
        meet(running, those[:2], requests[:2])
        for client, answer in zip(those, wanted, strict=True):
            assert np.allclose(told(client), answer, atol=1e-5)
    assert opened == [2]
    # its books are kept when nobody comes any more
    wait_until(lambda: service.deployments[0]._dispatcher.running == 0)
    (stats,) = service.statistics("mlp")["model_stats"]
    assert stats["inference_count"] == stats["execution_count"] == 4 * len(XS)


def test_another_request_to_the_name_ends_it(
    service: ModelService,
    running: Running,
    held: Held,
    opened: list[int],
    wanted: list[Array],
) -> None:
    """It must not wait for a server that is kept for others."""
    requests = [post("mlp", {"x": x}) for x in XS]
    asked = {"inputs": [{"name": "x", "shape": X.shape, "datatype": "FP32", "data": X.tolist()}]}
    body = json.dumps(asked).encode()
    head = (
        f"POST /v2/models/mlp/infer HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with clients(running.port, 4) as those:
        rounds(running, those, requests)
        opened.clear()
        late = sending([those[3], those[0]], [head.encode() + body, requests[0]])
        held.first = [late]
        meet(running, those[1:3], requests[1:3])
        status, _, answer = those[3].answer()
        assert status == 200
        assert np.allclose(json.loads(answer)["outputs"][0]["data"], wanted[1], atol=1e-5)
        for client, found in zip(those[:3], wanted, strict=False):
            assert np.allclose(told(client), found, atol=1e-5)
    assert opened == [2]
    wait_until(lambda: service.deployments[0]._dispatcher.running == 0)


def test_a_run_that_takes_long_is_ended_and_all_are_answered(
    service: ModelService,
    running: Running,
    held: Held,
    opened: list[int],
    wanted: list[Array],
) -> None:
    """One of those that came behind hangs: the sentinel ends it, and it is asked in a thread."""
    requests = [post("mlp", {"x": x}) for x in XS]
    ended: list[bool] = []

    def hangs(cancellation: Any) -> None:
        until = time.monotonic() + 10
        while not cancellation.cancelled and time.monotonic() < until:
            time.sleep(0.001)
        ended.append(cancellation.cancelled)

    with clients(running.port, 4) as those:
        rounds(running, those, requests)
        opened.clear()
        held.first = [sending(those[2:], requests[2:]), None, None, hangs]
        meet(running, those[:2], requests[:2])
        for client, answer in zip(those, wanted, strict=True):
            assert np.allclose(told(client), answer, atol=1e-5)
        assert ended == [True]
        assert opened == [2]
        (stats,) = service.statistics("mlp")["model_stats"]
        assert stats["inference_stats"]["fail"]["count"] == 0
        # it left the event loop: what meets is answered in threads
        meet(running, those, requests)
        assert [client.answer()[0] for client in those] == [200] * 4
        assert opened == [2]


def test_a_name_is_unloaded_under_load(service: ModelService, running: Running) -> None:
    """It need not wait until clients pause: those who come behind are told."""
    request = post("mlp", {"x": X})
    statuses: list[list[int]] = [[] for _ in range(4)]
    with clients(running.port, 4) as those:

        def ask(place: int) -> None:
            while 400 not in statuses[place]:
                those[place].send(request)
                statuses[place].append(those[place].answer()[0])

        threads = [threading.Thread(target=ask, args=(place,)) for place in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: all(len(found) > 50 for found in statuses))
        service.unload("mlp")
        for thread in threads:
            thread.join(20)
    assert all(found[-1] == 400 and set(found[:-1]) == {200} for found in statuses)
    assert "mlp" not in service.pool.ready()
    (stats,) = service.statistics("mlp")["model_stats"]
    assert stats["inference_count"] == sum(map(len, statuses)) - 4
    assert stats["inference_stats"]["fail"]["count"] == 4
