"""What a request brought is freed with its answer, not when the interpreter looks for cycles."""

from __future__ import annotations

import gc
import json
import re
import tracemalloc
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from typing import Any

import numpy as np
import pytest

from sommelier.errors import SommelierError
from sommelier.runtime.server.grpc_server import GrpcSettings, start_grpc
from sommelier.runtime.server.http_messages import Handler, HttpRequest, HttpResponse, Reply
from sommelier.runtime.server.protocol import InferRequest, InferResponse
from sommelier.runtime.server.service import ModelService
from tests.runtime.server.asking import http_server, post, triton_inputs, wait_until

X = np.ones((1, 4), np.float32)
FIT = {"x": X}
UNFIT = {"x": np.ones((1, 5), np.float32)}
FOREVER = {"x": X, "trips": np.array(2**60, np.int64)}
SOON = {"sommelier_deadline_ms": 30}
LATE = "its deadline passed|ms are left"  # once it is known how slow it is
LARGE = 8 << 20


@pytest.fixture
def service(apart: ModelService) -> ModelService:
    return apart


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def kept() -> list[object]:
    """Requests and answers that somebody refers to."""
    return [o for o in gc.get_objects() if type(o) in (InferRequest, InferResponse)]


def submitted(service: ModelService, request: InferRequest) -> str:
    try:
        error = service.submit(request).exception(60)
    except SommelierError as refused:
        return str(refused)
    return "" if error is None else str(error)


def inferred(service: ModelService, request: InferRequest) -> str:
    try:
        service.infer(request)
    except SommelierError as error:
        return str(error)
    return ""


def cancelled(service: ModelService, request: InferRequest) -> str:
    future = service.submit(request)
    future.cancel()
    return str(future.exception(60))


@pytest.mark.parametrize(
    ("ask", "name", "inputs", "wishes", "told"),
    [
        (submitted, "mlp", FIT, {}, ""),
        (inferred, "mlp", FIT, {}, ""),
        (submitted, "mlp", UNFIT, {}, "shape"),
        (inferred, "mlp", UNFIT, {}, "shape"),
        (submitted, "slow", FOREVER, SOON, LATE),
        (inferred, "slow", FOREVER, SOON, LATE),
        (cancelled, "slow", FOREVER, {}, "cancelled"),
    ],
)
def test_a_request_ends_with_its_answer(
    service: ModelService,
    uncollected: None,
    ask: Callable[[ModelService, InferRequest], str],
    name: str,
    inputs: dict[str, Any],
    wishes: dict[str, Any],
    told: str,
) -> None:
    for _ in range(3):
        assert re.search(told, ask(service, InferRequest(name, inputs, parameters=wishes)))
    wait_until(lambda: not kept(), within_s=5)


def test_a_request_over_http_ends_with_its_answer(
    service: ModelService, port: int, uncollected: None
) -> None:
    inputs = [
        {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]},
        {"name": "trips", "datatype": "INT64", "shape": [], "data": [2**60]},
    ]
    body = json.dumps({"inputs": inputs, "parameters": SOON}).encode()
    assert post(port, "/v2/models/slow/infer", body)[0] in (504, 429)
    assert post(port, "/v2/models/mlp/infer", body)[0] == 400
    assert post(port, "/v2/models/mlp/infer", json.dumps({"inputs": inputs[:1]}).encode())[0] == 200
    wait_until(lambda: not kept(), within_s=5)


def test_a_request_over_grpc_ends_with_its_answer(service: ModelService, uncollected: None) -> None:
    triton = pytest.importorskip("tritonclient.grpc")

    def told(client: Any, name: str, inputs: dict[str, Any], **wishes: Any) -> str:
        try:
            client.infer(name, triton_inputs(inputs), **wishes)
        except triton.InferenceServerException as error:
            return str(error.status())
        return "OK"

    server = start_grpc(service, "127.0.0.1", 0, settings=GrpcSettings())
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        assert told(client, "mlp", FIT) == "OK"
        assert "INVALID" in told(client, "mlp", UNFIT)
        assert told(client, "slow", FOREVER, parameters=SOON) != "OK"
        answers: list[Any] = []
        client.start_stream(lambda result, error: answers.append(error or result))
        client.async_stream_infer("mlp", triton_inputs(FIT))
        client.async_stream_infer("mlp", triton_inputs(UNFIT))
        client.async_stream_infer("slow", triton_inputs(FOREVER), parameters=SOON)
        wait_until(lambda: len(answers) == 3)
        client.stop_stream()
        wait_until(lambda: not kept(), within_s=5)
    server.stop(1)


def test_a_connection_that_is_idle_keeps_no_body() -> None:
    def handler() -> Handler:
        def answer(request: HttpRequest, reply: Reply) -> None:
            reply(HttpResponse(200, b"%d" % len(request.body)))

        return Handler(lambda _: None, answer, lambda status, _: HttpResponse(status))

    tracemalloc.start()
    with http_server(handler) as (_, port):
        clients = [HTTPConnection("127.0.0.1", port) for _ in range(4)]
        body = bytes(LARGE)
        for client in clients:
            client.request("POST", "/", body)
            assert client.getresponse().read() == b"%d" % LARGE
        del body
        in_use = tracemalloc.get_traced_memory()[0]
        for client in clients:
            client.close()
    tracemalloc.stop()
    assert in_use < 2 * LARGE  # the last one may not be freed yet
