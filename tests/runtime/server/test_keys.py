"""One key opens REST and gRPC in the same ways, and what is no key opens neither."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from sommelier.runtime.server.grpc_server import GrpcSettings, start_grpc
from sommelier.runtime.server.keys import has_key
from sommelier.runtime.server.messages import INFERENCE
from sommelier.runtime.server.service import ModelService
from tests.runtime.server.asking import ask, rest_server, status_of

grpc = pytest.importorskip("grpc")

KEYS = frozenset({"sesame", "other"})
Admits = Callable[[dict[str, str]], bool]


@pytest.fixture(scope="module")
def rest(apart: ModelService) -> Iterator[int]:
    with rest_server(apart, api_keys=KEYS) as port:
        yield port


@pytest.fixture(scope="module")
def by_rest(rest: int) -> Admits:
    """Whether REST takes a request with these headers."""

    def admits(headers: dict[str, str]) -> bool:
        status = ask(rest, "GET", "/v2", b"", **headers)[0]
        assert status in (200, 401)
        return status == 200

    return admits


@pytest.fixture(scope="module")
def by_grpc(apart: ModelService) -> Iterator[Admits]:
    """Whether gRPC takes a call with these metadata."""
    server = start_grpc(apart, "127.0.0.1", 0, settings=GrpcSettings(api_keys=KEYS))
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = channel.unary_unary(f"/{INFERENCE}/ServerMetadata")

        def admits(headers: dict[str, str]) -> bool:
            metadata = [(name.lower(), value) for name, value in headers.items()]
            try:
                call(b"", timeout=60, metadata=metadata)
            except grpc.RpcError as error:
                if error.code().name != "UNAUTHENTICATED":
                    raise
                return False
            return True

        yield admits
    server.stop(0)


@pytest.mark.parametrize(
    ("headers", "admitted"),
    [
        ({}, False),
        ({"Authorization": "Bearer sesame"}, True),
        ({"Authorization": "bearer other"}, True),
        ({"Authorization": "BEARER   sesame"}, True),
        ({"Authorization": "Bearer sesam"}, False),
        ({"Authorization": "Bearer sesamee"}, False),
        ({"Authorization": "Bearer"}, False),
        ({"Authorization": "sesame"}, False),  # of no scheme
        ({"Authorization": "Basic sesame"}, False),
        ({"Authorization": "Bearersesame"}, False),
        ({"X-API-Key": "sesame"}, True),
        ({"X-API-Key": "Bearer sesame"}, False),
        ({"X-API-Key": "Sesame"}, False),
        ({"X-API-Key": ""}, False),
        ({"Authorization": "Basic dXNlcjpwYXNz", "X-API-Key": "sesame"}, True),  # of a proxy
        ({"Authorization": "Bearer of-a-proxy", "X-API-Key": "sesame"}, True),
        ({"Authorization": "Bearer sesame", "X-API-Key": "wrong"}, True),
        ({"Authorization": "Bearer wrong", "X-API-Key": "wrong"}, False),
        ({"Authorization": "Bearer", "X-API-Key": "other"}, True),
    ],
    ids=str,
)
def test_a_key_is_taken_by_both_or_by_neither(
    by_rest: Admits, by_grpc: Admits, headers: dict[str, str], admitted: bool
) -> None:
    assert (by_rest(headers), by_grpc(headers)) == (admitted, admitted)


def test_spaces_around_a_key_are_no_part_of_it(rest: int) -> None:
    for line in ("x-api-key: sesame \t", "authorization:  Bearer sesame  "):
        with socket.create_connection(("127.0.0.1", rest), timeout=10) as client:
            client.sendall(f"GET /v2 HTTP/1.1\r\nhost: x\r\n{line}\r\n\r\n".encode())
            assert status_of(client.recv(1000)) == 200, line


def test_nothing_is_no_key_even_where_one_of_the_keys_is_empty() -> None:
    assert not has_key((b"",), b"", b"")
    assert not has_key((b"",), b"Bearer ", b" ")
    assert not has_key((), b"Bearer sesame", b"sesame")


def test_a_key_is_asked_for_but_by_health(rest: int) -> None:
    assert ask(rest, "GET", "/v2/health/ready")[0] == 200
    for path in ("/v2", "/metrics", "/docs", "/v2/models/mlp", "/nowhere"):
        status, headers, _ = ask(rest, "GET", path)
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
        for wrong in ("Bearer sesam", "Basic sesame", "sesame"):
            assert ask(rest, "GET", path, Authorization=wrong)[0] == 401
        assert ask(rest, "GET", path, X_Api_Key="")[0] == 401
        assert ask(rest, "GET", path, Authorization="Bearer sesame")[0] != 401
        assert ask(rest, "GET", path, X_Api_Key="other")[0] != 401


def test_a_body_without_a_key_is_not_read(rest: int) -> None:
    head = b"POST /v2/models/mlp/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", rest), timeout=5) as client:
        client.sendall(head)  # and nothing more
        assert status_of(client.recv(1000)) == 401
