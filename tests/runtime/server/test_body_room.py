"""The bodies of all requests have one room, whichever protocol brings them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from sommelier.runtime.server.body_room import BodyRoom
from sommelier.runtime.server.grpc_server import start_grpc
from sommelier.runtime.server.http_messages import Handler, Limits
from sommelier.runtime.server.rest import RestApi
from sommelier.runtime.server.service import ModelService
from tests.runtime.server.asking import (
    hear,
    http_server,
    post,
    status_of,
    triton_inputs,
    wait_until,
)

triton = pytest.importorskip("tritonclient.grpc")

ROOM = 300_000
HALF = 200_000
X = np.ones((1, 4), np.float32)
FOREVER = {"x": X, "trips": np.array(2**60, np.int64)}
LARGE = np.ones((HALF // 16, 4), np.float32)  # more samples than the model takes


@pytest.fixture
def service(apart: ModelService) -> ModelService:
    return apart


@contextmanager
def both(service: ModelService) -> Iterator[tuple[BodyRoom, int, Any]]:
    """(their room, port of REST, client of gRPC)"""
    apis: list[RestApi] = []

    def handler() -> Handler:
        apis.append(RestApi(service, Limits(), api_keys=frozenset()))
        return apis[0].handler()

    with http_server(handler, Limits(buffered=ROOM)) as (http, port):
        grpc = start_grpc(service, "127.0.0.1", 0, room=http.room)
        with triton.InferenceServerClient(f"127.0.0.1:{grpc.port}") as client:
            yield http.room, port, client
        grpc.stop(1)
    apis[0].close()


def refused(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(triton.InferenceServerException) as caught:
        call()
    return caught.value.status().removeprefix("StatusCode."), caught.value.message()


def test_what_rest_reads_is_no_room_for_grpc(service: ModelService) -> None:
    path = "/v2/models/mlp/infer"
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {HALF + 1}\r\n\r\n".encode()
    with (
        both(service) as (room, port, client),
        socket.create_connection(("127.0.0.1", port), timeout=10) as rest,
    ):
        rest.sendall(head + bytes(HALF))
        wait_until(lambda: room.used == HALF)
        code, told = refused(lambda: client.infer("mlp", triton_inputs({"x": LARGE})))
        assert (code, "too much memory" in told) == ("RESOURCE_EXHAUSTED", True)
        assert client.infer("mlp", triton_inputs({"x": X})).as_numpy("logits").shape == (1, 3)
        wait_until(lambda: room.used == HALF)
        rest.sendall(b"\n")
        rest.settimeout(1)
        assert status_of(hear(rest)) == 400
        assert room.used == 0
        assert (
            refused(lambda: client.infer("mlp", triton_inputs({"x": LARGE})))[0]
            == "INVALID_ARGUMENT"
        )
        wait_until(lambda: room.used == 0)


def test_what_grpc_answers_is_no_room_for_rest(service: ModelService) -> None:
    with both(service) as (room, port, client):
        running = client.async_infer(
            "slow",
            triton_inputs(FOREVER),
            lambda result, error: None,
            parameters={"note": "x" * HALF},
        )
        wait_until(lambda: room.used > HALF)
        assert post(port, "/v2/models/mlp/infer", bytes(HALF))[0] == 503
        assert (
            refused(lambda: client.infer("mlp", triton_inputs({"x": LARGE})))[0]
            == "RESOURCE_EXHAUSTED"
        )
        running.cancel()
        wait_until(lambda: room.used == 0)
        assert post(port, "/v2/models/mlp/infer", bytes(HALF))[0] == 400


def test_one_message_of_a_stream_is_refused_and_the_stream_goes_on(service: ModelService) -> None:
    answers: dict[str, str] = {}

    def take(result: Any, error: Any) -> None:
        response = None if result is None else result.get_response()
        answers[str(len(answers)) if response is None else response.id] = str(error or "")

    with both(service) as (room, _, client):
        client.start_stream(take)
        note = {"note": "x" * HALF}
        client.async_stream_infer(
            "slow", triton_inputs(FOREVER), request_id="held", parameters=note
        )
        wait_until(lambda: room.used > HALF)
        client.async_stream_infer(
            "mlp", triton_inputs({"x": X}), request_id="large", parameters=note
        )
        client.async_stream_infer("mlp", triton_inputs({"x": X}), request_id="small")
        wait_until(lambda: len(answers) == 2)
        assert "too much memory" in "".join(answers.values())
        assert answers["small"] == ""
        client.stop_stream(cancel_requests=True)
        wait_until(lambda: room.used == 0)
