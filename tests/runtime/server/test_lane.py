"""Requests that begin alike and meet: answered together by their bytes, each as if it were alone.

The event loop is held while all clients send, so that one round of it reads what they sent.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from tritonclient.utils import deserialize_bytes_tensor

from sommelier.runtime.pool import ModelPool
from sommelier.runtime.server.http_connection import HttpConnection
from sommelier.runtime.server.http_messages import Handler, Limits
from sommelier.runtime.server.http_server import HttpServer
from sommelier.runtime.server.lane import Lane
from sommelier.runtime.server.protocol import InferRequest
from sommelier.runtime.server.rest import RestApi
from sommelier.runtime.server.served import single_model
from sommelier.runtime.server.service import ModelService
from sommelier.runtime.session_cache import ServedModel
from tests import factories
from tests.onnx_writer import FLOAT, INT64, save_model
from tests.runtime.server.asking import http_server, ready, wait_until

CLIENTS = 5
FEATURES = 4
WIDTH = 64
Array = np.ndarray[Any, Any]


@pytest.fixture(params=[True, False], ids=["joined", "in turn"])
def service(
    request: pytest.FixtureRequest, pool: ModelPool, tmp_path: Path
) -> Iterator[ModelService]:
    """`mlp`; `table`, which fails on an index beyond it; `halves`, of two inputs and outputs."""
    table = save_model(
        tmp_path / "table.onnx", [helper.make_node("Gather", ["w", "x"], ["y"])],
        {"x": (INT64, ["N", 1])}, {"y": (FLOAT, ["N", 1, 2])},
        {"w": np.arange(20, dtype=np.float32).reshape(10, 2)},
    )  # fmt: skip
    halves = save_model(
        tmp_path / "halves.onnx",
        [
            helper.make_node("Add", ["a", "b"], ["sum"]),
            helper.make_node("Sub", ["a", "b"], ["difference"]),
        ],
        {"a": (FLOAT, ["N", WIDTH]), "b": (FLOAT, ["N", WIDTH])},
        {"sum": (FLOAT, ["N", WIDTH]), "difference": (FLOAT, ["N", WIDTH])}, {},
    )  # fmt: skip
    files = {
        "mlp": factories.mlp_classifier(tmp_path / "mlp.onnx"),
        "table": table,
        "halves": halves,
    }
    running = [single_model(ServedModel.of_file(file, name), pool) for name, file in files.items()]
    service = ready(ModelService(pool, running))
    for deployment in running:
        deployment._now.interface.together = 8  # as if measured, as is `joins`
        with pool.lease(deployment.models[0]) as predictor:
            predictor.joins = request.param
    yield service
    for deployment in running:
        deployment.close()


@dataclass
class Running:
    """A server whose event loop can be held."""

    server: HttpServer
    port: int
    loop: asyncio.AbstractEventLoop

    @contextmanager
    def held(self) -> Iterator[None]:
        """What is sent inside the block is read in one round, at its end."""
        holds, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            holds.set()
            go_on.wait(10)

        self.loop.call_soon_threadsafe(hold)
        assert holds.wait(10)
        yield
        time.sleep(0.05)  # it is on its way through loopback
        go_on.set()


@pytest.fixture
def running(service: ModelService) -> Iterator[Running]:
    with serving(service) as found:
        yield found


@contextmanager
def serving(service: ModelService, **options: Any) -> Iterator[Running]:
    apis: list[RestApi] = []
    loops: list[asyncio.AbstractEventLoop] = []

    def handler() -> Handler:
        loops.append(asyncio.get_running_loop())
        apis.append(RestApi(service, Limits(), **options))
        return apis[0].handler()

    with http_server(handler) as (server, port):
        yield Running(server, port, loops[0])
    apis[0].close()


class Client:
    """A connection that is kept, as clients do."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._heard = b""

    def send(self, request: bytes) -> None:
        self.socket.sendall(request)

    def answer(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """(status, headers, body) of the next answer."""
        while b"\r\n\r\n" not in self._heard:
            self._hear()
        head, _, rest = self._heard.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in lines[1:])
        size = int(headers[b"content-length"])
        while len(rest) < size:
            self._heard = rest
            self._hear()
            rest = self._heard
        self._heard = rest[size:]
        return int(lines[0].split()[1]), headers, rest[:size]

    def _hear(self) -> None:
        part = self.socket.recv(1 << 16)
        assert part, "the server closed the connection"
        self._heard += part


def post(
    model: str, inputs: dict[str, Array], *, headers: str = "", binary: bool = True, **more: Any
) -> bytes:
    """A request with raw tensors."""
    names = {"float32": "FP32", "int64": "INT64"}
    told = [
        {"name": name, "shape": x.shape, "datatype": names[str(x.dtype)],
         "parameters": {"binary_data_size": x.nbytes}}
        for name, x in inputs.items()
    ]  # fmt: skip
    asked = {"inputs": told, "parameters": {"binary_data_output": binary}, **more}
    head = json.dumps(asked).encode()
    raw = b"".join(x.tobytes() for x in inputs.values())
    lines = (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: here\r\n{headers}"
        f"Inference-Header-Content-Length: {len(head)}\r\n"
        f"Content-Length: {len(head) + len(raw)}\r\n\r\n"
    )
    return lines.encode() + head + raw


def read(answer: tuple[int, dict[bytes, bytes], bytes]) -> tuple[dict[str, Any], dict[str, Array]]:
    """The JSON of an answer, and its tensors."""
    status, headers, body = answer
    assert status == 200, body
    size = int(headers[b"inference-header-content-length"])
    told, start, found = json.loads(body[:size]), size, {}
    for output in told["outputs"]:
        end = start + output["parameters"]["binary_data_size"]
        array = np.frombuffer(body[start:end], np.float32)
        found[output["name"]] = array.reshape(output["shape"])
        start = end
    assert start == len(body)
    return told, found


@contextmanager
def clients(port: int, count: int = CLIENTS) -> Iterator[list[Client]]:
    with ExitStack() as stack:
        found = [Client(port) for _ in range(count)]
        for client in found:
            stack.callback(client.socket.close)
        yield found


def rounds(
    running: Running, those: Sequence[Client], requests: Sequence[bytes]
) -> list[tuple[int, dict[bytes, bytes], bytes]]:
    """The answers to requests that meet, of clients that sent the same once before."""
    for client, request in zip(those, requests, strict=True):
        client.send(request)
        client.answer()
    with running.held():
        for client, request in zip(those, requests, strict=True):
            client.send(request)
    return [client.answer() for client in those]


def lane_of(connection: HttpConnection) -> Lane | None:
    assert connection._known is not None
    return connection._known.lane


def alone(service: ModelService, model: str, inputs: dict[str, Array]) -> dict[str, Array]:
    return dict(service.infer(InferRequest(model, inputs)).outputs)


def test_each_gets_the_answer_to_its_own_tensor(service: ModelService, running: Running) -> None:
    rng = np.random.default_rng(0)
    xs = [rng.normal(size=(2, FEATURES)).astype(np.float32) for _ in range(CLIENTS)]
    before = service.statistics("mlp")["model_stats"][0]
    with clients(running.port) as those:
        answers = rounds(running, those, [post("mlp", {"x": x}, id="a") for x in xs])
        assert len({lane_of(connection) for connection in running.server.connections}) == 1
    for x, answer in zip(xs, answers, strict=True):
        told, outputs = read(answer)
        (found,) = outputs.values()
        (wanted,) = alone(service, "mlp", {"x": x}).values()
        assert np.allclose(found, wanted, atol=1e-5)
        assert (told["model_name"], told["model_version"], told["id"]) == ("mlp", "1", "a")
        assert told["parameters"]["sommelier_model"] == "mlp"
    shared = [read(answer)[0]["parameters"].get("sommelier_together") for answer in answers]
    assert shared == [4, 4, 4, 4, None]  # of two samples each, eight go together
    after = service.statistics("mlp")["model_stats"][0]
    assert after["inference_count"] - before["inference_count"] == 6 * CLIENTS
    runs = after["execution_count"] - before["execution_count"]
    assert runs in (2 * CLIENTS + 2, 3 * CLIENTS)  # four share one, or run in turn


def test_what_is_written_is_what_is_written_alone(running: Running) -> None:
    x = np.ones((1, FEATURES), np.float32)
    with clients(running.port, 2) as those:
        first, second = rounds(running, those, [post("mlp", {"x": x})] * 2)
        those[0].send(post("mlp", {"x": x}, id="other"))
        told, outputs = read(those[0].answer())
    for answer in (first, second):
        ours, found = read(answer)
        assert answer[1].keys() == first[1].keys()
        assert answer[1][b"content-type"] == b"application/octet-stream"
        assert ours["parameters"].pop("sommelier_together") == 2
        assert [ours[key] for key in ("model_name", "outputs")] == [
            told[key] for key in ("model_name", "outputs")
        ]
        assert all(np.allclose(found[name], outputs[name], atol=1e-6) for name in outputs)


def test_several_inputs_and_outputs_keep_their_places(running: Running) -> None:
    pairs = [
        {"a": np.full((1, WIDTH), i, np.float32), "b": np.full((1, WIDTH), 10.0, np.float32)}
        for i in range(CLIENTS)
    ]
    with clients(running.port) as those:
        answers = rounds(running, those, [post("halves", pair) for pair in pairs])
        wanted = [{"name": "difference"}]
        few = rounds(running, those, [post("halves", pair, outputs=wanted) for pair in pairs])
    for i, (answer, less) in enumerate(zip(answers, few, strict=True)):
        told, outputs = read(answer)
        assert told["parameters"]["sommelier_together"] == CLIENTS
        assert outputs["sum"].tolist() == [[i + 10.0] * WIDTH]
        assert outputs["difference"].tolist() == [[i - 10.0] * WIDTH]
        assert {name: found.tolist() for name, found in read(less)[1].items()} == {
            "difference": [[i - 10.0] * WIDTH]
        }


def test_answers_of_several_shapes_and_texts_are_told_as_they_are(
    pool: ModelPool, tmp_path: Path
) -> None:
    """Runs in turn may bring outputs of other shapes, which depend on the numbers."""
    found = save_model(
        tmp_path / "found.onnx",
        [
            helper.make_node("NonZero", ["x"], ["places"]),
            helper.make_node("Cast", ["x"], ["text"], to=TensorProto.STRING),
        ],
        {"x": (FLOAT, ["N", FEATURES])},
        {"places": (INT64, [2, "M"]), "text": (TensorProto.STRING, ["N", FEATURES])}, {},
    )  # fmt: skip
    xs = [np.array([row], np.float32) for row in ([1, 0, 0, 0], [1, 2.5, 0, 0], [0, 0, 0, 0.125])]
    with single_model(ServedModel.of_file(found, "found"), pool) as deployment:
        service = ready(ModelService(pool, [deployment]))
        for wanted in (["places"], ["places", "text"]):
            requests = [
                post("found", {"x": x}, outputs=[{"name": name} for name in wanted]) for x in xs
            ]
            with serving(service) as running, clients(running.port, 3) as those:
                answers = rounds(running, those, requests)
            for x, (status, headers, body) in zip(xs, answers, strict=True):
                assert status == 200, body
                size = int(headers[b"inference-header-content-length"])
                told, raw = json.loads(body[:size]), body[size:]
                assert told["parameters"]["sommelier_together"] == 3
                sizes = [output["parameters"]["binary_data_size"] for output in told["outputs"]]
                assert sum(sizes) == len(raw)
                shape = told["outputs"][0]["shape"]
                places = np.frombuffer(raw[: sizes[0]], np.int64).reshape(shape)
                assert places.tolist() == [list(axis) for axis in np.nonzero(x)]
                if len(wanted) == 2:
                    texts = deserialize_bytes_tensor(raw[sizes[0] :])
                    assert [float(text) for text in texts] == x.ravel().tolist()


def test_one_that_fails_does_not_fail_the_others(running: Running) -> None:
    indices = [np.array([[i]], np.int64) for i in (1, 2, 3)]
    requests = [post("table", {"x": index}) for index in indices]
    bad = post("table", {"x": np.array([[99]], np.int64)})
    with clients(running.port, 3) as those:
        rounds(running, those, requests)
        with running.held():
            for client, request in zip(those, (requests[0], bad, requests[2]), strict=True):
                client.send(request)
        answers = [client.answer() for client in those]
    assert [status for status, _, _ in answers] == [200, 400, 200]
    assert b"failed on its input" in answers[1][2]
    assert read(answers[2])[1]["y"].ravel().tolist() == [6, 7]


def test_a_client_that_leaves_is_missed_by_nobody(running: Running) -> None:
    xs = [np.full((1, FEATURES), i, np.float32) for i in range(3)]
    requests = [post("mlp", {"x": x}) for x in xs]
    with clients(running.port, 3) as those:
        before = rounds(running, those, requests)
        with running.held():
            for client, request in zip(those, requests, strict=True):
                client.send(request)
            those[1].socket.close()
        for place in (0, 2):
            assert read(those[place].answer())[1].keys() == read(before[place])[1].keys()
        wait_until(lambda: len(running.server.connections) == 2)
        assert running.server.room.used == 0


def test_a_request_behind_one_in_a_lane_waits_for_its_turn(running: Running) -> None:
    """One client sends two requests at once, and another one its own."""
    requests = [post("mlp", {"x": np.full((1, FEATURES), i, np.float32)}) for i in range(3)]
    with clients(running.port, 2) as those:
        wanted = [read(answer)[1] for answer in rounds(running, those, requests[:2])]
        with running.held():
            those[0].send(requests[0])
            those[1].send(requests[1])
        those[0].send(requests[2])
        found = [read(those[0].answer())[1], read(those[1].answer())[1], read(those[0].answer())[1]]
    for name, array in found[0].items():
        assert np.allclose(array, wanted[0][name], atol=1e-5)
        assert np.allclose(found[1][name], wanted[1][name], atol=1e-5)
        assert not np.allclose(found[2][name], wanted[0][name], atol=1e-5)


def test_a_name_that_is_unloaded_is_told_so(service: ModelService, running: Running) -> None:
    request = post("mlp", {"x": np.ones((1, FEATURES), np.float32)})
    with clients(running.port, 3) as those:
        rounds(running, those, [request] * 3)
        service.unload("mlp")
        with running.held():
            for client in those:
                client.send(request)
        answers = [client.answer() for client in those]
        assert [status for status, _, _ in answers] == [400] * 3
        assert all(b"not ready" in body for _, _, body in answers)
        failures = service.metrics.tally("mlp")
        with failures.counts() as counts:
            assert sum(counts.failures.values()) == 3  # each is counted once


def test_a_server_that_stops_answers_and_closes(service: ModelService) -> None:
    request = post("mlp", {"x": np.ones((1, FEATURES), np.float32)})
    with serving(service) as running, clients(running.port, 3) as those:
        rounds(running, those, [request] * 3)
        with running.held():
            for client in those:
                client.send(request)
            running.loop.call_soon_threadsafe(
                lambda: running.loop.create_task(running.server.stop(5.0))
            )
        answers = [client.answer() for client in those]
        assert [status for status, _, _ in answers] == [200] * 3
        for client in those:
            assert client.socket.recv(1) == b""


@pytest.mark.parametrize(
    "more",
    [
        {"parameters": {"binary_data_output": True, "sommelier_deadline_ms": 1e4}},
        {"parameters": {"binary_data_output": True, "priority": 1}},
        {"binary": False},
    ],
)
def test_what_is_not_plain_goes_the_usual_way(running: Running, more: dict[str, Any]) -> None:
    request = post("mlp", {"x": np.ones((1, FEATURES), np.float32)}, **more)
    with clients(running.port, 2) as those:
        answers = rounds(running, those, [request] * 2)
        assert {lane_of(connection) for connection in running.server.connections} == {None}
    assert [status for status, _, _ in answers] == [200, 200]


def test_large_answers_are_compressed_for_who_takes_that(running: Running) -> None:
    rows = np.arange(4 * WIDTH, dtype=np.float32).reshape(4, WIDTH)
    few, many = {"a": rows[:1], "b": rows[:1]}, {"a": rows, "b": rows}
    for inputs, zipped in ((few, False), (many, True)):
        request = post("halves", inputs, headers="Accept-Encoding: gzip\r\n")
        with clients(running.port, 2) as those:
            answers = rounds(running, those, [request] * 2)
            assert None not in {lane_of(connection) for connection in running.server.connections}
        for status, headers, body in answers:
            assert (headers.get(b"content-encoding") == b"gzip") is zipped
            _told, outputs = read((status, headers, gzip.decompress(body) if zipped else body))
            assert np.array_equal(outputs["sum"], 2 * inputs["a"])


def test_a_key_is_asked_for_on_each_connection(service: ModelService) -> None:
    x = {"x": np.ones((1, FEATURES), np.float32)}
    with (
        serving(service, api_keys=frozenset({"secret"})) as running,
        clients(running.port, 3) as those,
    ):
        good = post("mlp", x, headers="Authorization: Bearer secret\r\n")
        bad = post("mlp", x, headers="Authorization: Bearer wrong!\r\n")
        rounds(running, those[:2], [good, good])
        with running.held():
            those[0].send(good)
            those[1].send(good)
            those[2].send(bad)
        assert [client.answer()[0] for client in those] == [200, 200, 401]
