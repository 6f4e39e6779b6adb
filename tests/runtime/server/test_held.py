"""Requests to a model of the event loop wait until another thread is done with it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sommelier.runtime.answers import Ticket
from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.pool import ModelPool
from sommelier.runtime.server import rest_requests
from sommelier.runtime.server.served import single_model
from sommelier.runtime.server.service import ModelService
from sommelier.runtime.session_cache import ServedModel
from tests import factories
from tests.runtime.server.asking import post, rest_server, wait_until
from tests.runtime.server.conftest import ready

X = np.ones((1, 4), np.float32)
BODY = json.dumps(
    {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]},
            {"name": "trips", "datatype": "INT64", "shape": [], "data": [1]},
        ]
    }
).encode()
PATH = "/v2/models/loop/infer"


@pytest.fixture
def running(tmp_path: Path, pool: ModelPool) -> Iterator[RunningDeployment]:
    """Of one quick model, which takes as long as a request says."""
    file = factories.loop_model(tmp_path / "loop.onnx", trips=None)
    with single_model(ServedModel.of_file(file, "loop"), pool) as found:
        assert found.wait_ready(60)
        found._now.interface.together = 8  # as if measured: how fast this machine is counts not
        for _ in range(30):
            found.infer({"x": X, "trips": np.array(1)})
        yield found


@pytest.fixture
def port(pool: ModelPool, running: RunningDeployment) -> Iterator[int]:
    with rest_server(ready(ModelService(pool, [running]))) as found:
        yield found


def occupied(running: RunningDeployment) -> Ticket:
    """A thread runs the model until this is cancelled."""
    ticket = running.submit({"x": X, "trips": np.array(2**60)})
    wait_until(lambda: running.state().running == 1)
    return ticket


def test_a_request_is_kept_while_a_thread_runs_its_model(
    port: int, running: RunningDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest_requests, "MOST_HELD", 1_000_000)
    came: list[object] = []
    hold = RunningDeployment.hold

    def told(deployment: RunningDeployment, held: Any) -> Any:
        found = hold(deployment, held)
        if held is None and found is not None:
            came.append(found)
        return found

    monkeypatch.setattr(RunningDeployment, "hold", told)
    ticket = occupied(running)
    with ThreadPoolExecutor(4) as clients:
        answers = [clients.submit(post, port, PATH, BODY) for _ in range(4)]
        wait_until(lambda: len(came) == 4)
        assert not any(answer.done() for answer in answers)
        assert running.state().waiting == 0
        ticket.cancel()
        for answer in answers:
            status, _, body = answer.result(20)
            assert status == 200
            assert json.loads(body)["parameters"]["sommelier_queue_ms"] > 0  # it was kept


def test_it_waits_with_others_where_that_takes_longer(
    port: int, running: RunningDeployment
) -> None:
    ticket = occupied(running)
    with ThreadPoolExecutor(1) as client:
        answer = client.submit(post, port, PATH, BODY)
        wait_until(lambda: running.state().waiting == 1)
        ticket.cancel()
        assert answer.result(20)[0] == 200


def test_who_goes_away_meanwhile_is_not_answered(
    port: int, running: RunningDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest_requests, "MOST_HELD", 1_000_000)
    ticket = occupied(running)
    before = running.state().answered
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(BODY)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(head.encode() + BODY)
        assert post(port, "/v2/models/none/infer", BODY)[0] == 404  # the first one has been read
    assert post(port, "/v2/models/none/infer", BODY)[0] == 404
    ticket.cancel()
    wait_until(lambda: not running.engaged)
    assert post(port, PATH, BODY)[0] == 200
    assert running.state().answered == before + 1
