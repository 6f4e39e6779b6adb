"""A server in a thread, and clients that say exactly what they are told to."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.runtime.server.http_messages import Handler, Limits
from sommelier.runtime.server.http_server import HttpServer
from sommelier.runtime.server.rest import RestApi
from sommelier.runtime.server.service import ModelService


@contextmanager
def http_server(
    make_handler: Callable[[], Handler], limits: Limits | None = None
) -> Iterator[tuple[HttpServer, int]]:
    """(server, port): it listens on loopback until the end of the block.

    make_handler : called in the thread of the event loop.
    """
    started: dict[str, Any] = {}
    ready = threading.Event()

    def run() -> None:
        async def main() -> None:
            server = HttpServer(make_handler(), limits or Limits())
            _, port = await server.start("127.0.0.1", 0)
            stop = asyncio.Event()
            started.update(server=server, port=port, loop=asyncio.get_running_loop(), stop=stop)
            ready.set()
            await stop.wait()
            started["left"] = await server.stop(5.0)

        try:
            asyncio.run(main())
        finally:
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(30)
    try:
        yield started["server"], started["port"]
    finally:
        started["loop"].call_soon_threadsafe(started["stop"].set)
        thread.join(30)
        assert not thread.is_alive()


def say(port: int, *pieces: bytes, pause_s: float = 0.0, wait_s: float = 10.0) -> bytes:
    """What the server answers to raw bytes, until it closes or `wait_s` passed without a byte."""
    with socket.create_connection(("127.0.0.1", port), timeout=wait_s) as client:
        try:
            for piece in pieces:
                client.sendall(piece)
                time.sleep(pause_s)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has heard enough; what it said may be read
        return hear(client)


def hear(client: socket.socket) -> bytes:
    """All that comes until the other side closes, or the socket's time is up."""
    heard = b""
    try:
        while piece := client.recv(1 << 16):
            heard += piece
    except (TimeoutError, ConnectionResetError):
        pass
    return heard


def status_of(answer: bytes) -> int | None:
    """The status of the first answer; None if there is none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else None


@contextmanager
def rest_server(
    service: ModelService, limits: Limits | None = None, *, api_keys: frozenset[str] = frozenset()
) -> Iterator[int]:
    """The port where REST answers until the end of the block."""
    limits = limits or Limits()

    apis: list[RestApi] = []

    def handler() -> Handler:
        apis.append(RestApi(service, limits, api_keys=api_keys))
        return apis[0].handler()

    with http_server(handler, limits) as (_, port):
        yield port
    apis[0].close()


def ready(service: ModelService, within_s: float = 60.0) -> ModelService:
    """The service once it takes requests."""
    until = time.monotonic() + within_s
    while not service.ready():
        assert time.monotonic() < until, service.index()
        time.sleep(0.02)
    return service


def wait_until(true: Callable[[], bool], within_s: float = 20.0) -> None:
    """Waits, and fails when it is over."""
    until = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def post(
    port: int, path: str, body: bytes = b"", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """(status, headers in lower case, body) of a POST."""
    return ask(port, "POST", path, body, **headers)


def ask(
    port: int, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """The same of any method. headers : their names with _ for -."""
    client = HTTPConnection("127.0.0.1", port, timeout=30)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    client.request(method, path, body, named)
    answer = client.getresponse()
    found = {name.lower(): value for name, value in answer.getheaders()}
    content = answer.read()
    client.close()
    return answer.status, found, content


def triton_inputs(inputs: dict[str, NDArray[Any]]) -> list[Any]:
    """Tensors as Triton's gRPC client takes them."""
    import tritonclient.grpc as triton

    found = []
    for name, array in inputs.items():
        kind = "INT64" if array.dtype == np.int64 else "FP32"
        found.append(triton.InferInput(name, list(array.shape), kind))
        found[-1].set_data_from_numpy(array)
    return found
