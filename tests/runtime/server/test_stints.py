"""Requests that come while others are answered go on with the same decision, as long as they may.

A run is held while further clients send, so that what they sent is read right behind it.
"""

from __future__ import annotations

import json
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sommelier.deployment_records import DeploymentOptions
from sommelier.runtime.pool import ModelPool
from sommelier.runtime.predictor import Predictor
from sommelier.runtime.server import lane
from sommelier.runtime.server.counted_stint import CountedStint
from sommelier.runtime.server.http_messages import HttpResponse
from sommelier.runtime.server.protocol import InferRequest
from sommelier.runtime.server.rest_requests import Place
from sommelier.runtime.server.served import single_model
from sommelier.runtime.server.service import ModelService
from sommelier.runtime.session_cache import ServedModel
from tests import factories
from tests.runtime.server.asking import ready, wait_until
from tests.runtime.server.test_lane import (
    Client,
    Running,
    clients,
    lane_of,
    post,
    read,
    rounds,
    serving,
)

FEATURES = 4
X = np.ones((1, FEATURES), np.float32)
XS = [np.full((1, FEATURES), i, np.float32) for i in range(4)]
Array = np.ndarray[Any, Any]


@pytest.fixture
def service(pool: ModelPool, tmp_path: Path) -> Iterator[ModelService]:
    """Serves `mlp`, whose requests run in turn, and `solo`, whose are answered one by one."""
    file = factories.mlp_classifier(tmp_path / "mlp.onnx")
    alone = DeploymentOptions(batching=False)
    with (
        single_model(ServedModel.of_file(file, "mlp"), pool) as deployment,
        single_model(ServedModel.of_file(file, "solo"), pool, alone) as solo,
    ):
        found = ready(ModelService(pool, [deployment, solo]))
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


def test_a_fault_of_ours_leaves_nobody_without_an_answer(
    service: ModelService, running: Running, monkeypatch: pytest.MonkeyPatch, wanted: list[Array]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a fault")

    requests = [post("mlp", {"x": x}) for x in XS]
    with clients(running.port, 4) as those:
        rounds(running, those, requests)
        monkeypatch.setattr(service, "open_stint", fail)
        meet(running, those, requests)
        for client, answer in zip(those, wanted, strict=True):
            assert np.allclose(told(client), answer, atol=1e-5)


def test_what_is_written_between_runs_is_not_the_models_time(
    service: ModelService, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large answers to be compressed take longer than the sentinel allows to a run."""
    compressed = lane.zipped

    def slowly(response: HttpResponse) -> HttpResponse:
        until = time.thread_time() + 0.03
        while time.thread_time() < until:
            pass
        return compressed(response)

    monkeypatch.setattr(lane, "zipped", slowly)
    monkeypatch.setattr(lane, "WORTH", 1)
    monkeypatch.setattr(lane, "KEPT_MS", 0.0)
    request = post("mlp", {"x": X}, headers="Accept-Encoding: gzip\r\n")
    with clients(running.port, 4) as those:
        for _ in range(4):
            answers = rounds(running, those, [request] * 4)
            assert [headers[b"content-encoding"] for _, headers, _ in answers] == [b"gzip"] * 4
        lanes = [lane_of(connection) for connection in running.server.connections]
        assert [found._place.away for found in lanes if found is not None] == [{}] * 4


def test_what_is_pipelined_behind_an_answer_waits_for_the_others(
    service: ModelService, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not begin in the middle of their runs."""
    busy: list[str] = []
    within: list[list[str]] = []
    run, answer_now = Place.run, service.answer_now

    def noted(place: Place, name: str, *rest: Any) -> None:
        busy.append(name)
        run(place, name, *rest)
        busy.clear()

    def asked(*rest: Any, **more: Any) -> Any:
        within.append(list(busy))
        return answer_now(*rest, **more)

    request, other = post("mlp", {"x": X}), post("solo", {"x": X})
    with clients(running.port, 3) as those:
        monkeypatch.setattr(Place, "run", noted)
        monkeypatch.setattr(service, "answer_now", asked)
        for client in those:  # they are connected then
            client.send(b"GET /v2/health/live HTTP/1.1\r\nHost: here\r\n\r\n")
            assert client.answer()[0] == 200
        meet(running, those, [request + other, request, request])
        assert [client.answer()[0] for client in those] == [200] * 3
        assert those[0].answer()[0] == 200
    assert within == [[]], "only `solo`, when no other one runs"


def test_nothing_of_requests_that_were_answered_is_kept(
    service: ModelService, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their bytes count as free: lanes of idle connections must not hold them."""
    given: list[weakref.ref[Array]] = []
    inputs = lane.Lane._inputs

    def noted(of: lane.Lane, group: Any) -> Any:
        found = inputs(of, group)
        given.extend(weakref.ref(own["x"]) for own in found)
        return found

    monkeypatch.setattr(lane.Lane, "_inputs", noted)
    request = post("mlp", {"x": X})
    with clients(running.port, 4) as those:
        rounds(running, those, [request] * 4)
        rounds(running, those, [request] * 4)
        wait_until(lambda: service.deployments[0]._dispatcher.running == 0)
        assert len(given) == 8
        wait_until(lambda: all(ref() is None for ref in given))


def test_other_callers_have_their_turn_under_load(
    service: ModelService, running: Running, wanted: list[Array]
) -> None:
    """As gRPC's threads ask, which find the one server busy most of the time."""
    request, over = post("mlp", {"x": X}), threading.Event()
    with clients(running.port, 4) as those:

        def ask(client: Client) -> None:
            while not over.is_set():
                client.send(request)
                assert client.answer()[0] == 200

        threads = [threading.Thread(target=ask, args=(client,)) for client in those]
        for thread in threads:
            thread.start()
        waited = []
        for _ in range(30):
            began = time.monotonic()
            found = service.submit(InferRequest("mlp", {"x": XS[2]})).result(20)
            waited.append(time.monotonic() - began)
            assert np.allclose(next(iter(found.outputs.values())), wanted[2], atol=1e-5)
        over.set()
        for thread in threads:
            thread.join(20)
    assert sorted(waited)[15] < 0.09, "of a stint's 100 ms"


def test_a_fault_at_the_end_of_a_stint_leaves_nobody_without_an_answer(
    running: Running, held: Held, monkeypatch: pytest.MonkeyPatch, wanted: list[Array]
) -> None:
    end, faults = CountedStint.end, []

    def fails(stint: CountedStint) -> None:
        end(stint)
        faults.append(1)
        raise RuntimeError("a fault")

    requests = [post("mlp", {"x": x}) for x in XS]
    other = post("mlp", {"x": X}, id="another lane, which ends it")
    with clients(running.port, 4) as those:
        rounds(running, those, [*requests[:2], other, other])
        monkeypatch.setattr(CountedStint, "end", fails)
        held.first = [sending(those[2:], [other] * 2)]
        meet(running, those[:2], requests[:2])
        for client, place in zip(those, (0, 1, 1, 1), strict=True):
            assert np.allclose(told(client), wanted[place], atol=1e-5)
        wait_until(lambda: len(faults) >= 2)


def test_an_answer_that_cannot_be_written_ends_that_connection_only(
    running: Running, monkeypatch: pytest.MonkeyPatch, wanted: list[Array]
) -> None:
    body, calls = lane.Alike.body, []

    def fails_once(*given: Any) -> bytes:
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        return body(*given)

    request = post("mlp", {"x": X})
    with clients(running.port, 3) as those:
        rounds(running, those, [request] * 3)
        monkeypatch.setattr(lane.Alike, "body", fails_once)
        meet(running, those, [request] * 3)
        assert np.allclose(told(those[0]), wanted[1], atol=1e-5)
        assert np.allclose(told(those[2]), wanted[1], atol=1e-5)
        with pytest.raises((AssertionError, ConnectionError)):
            those[1].answer()
