"""What the server tells of its paths is what it does, in both directions, over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from sommelier.runtime.server.http_messages import Limits
from sommelier.runtime.server.keys import OPEN
from sommelier.runtime.server.openapi import document
from sommelier.runtime.server.rest import RestApi
from sommelier.runtime.server.service import ModelService
from tests.runtime.server.asking import ask, hear, rest_server, say, status_of

LIMITS = Limits(body=1 << 20, headers=4 << 10, header_s=0.4)
OPERATIONS = [(m.upper(), path) for path, item in document()["paths"].items() for m in item]
INFERENCE = [(m, path) for m, path in OPERATIONS if path.endswith("/infer")]


@pytest.fixture(scope="module")
def port(apart: ModelService) -> Iterator[int]:
    with rest_server(apart, LIMITS) as port:
        yield port


def told(method: str, path: str) -> set[str]:
    """The statuses that the document has of an operation."""
    return set(document()["paths"][path][method.lower()]["responses"])


def asked(path: str, model: str = "mlp") -> str:
    return path.replace("{model}", model).replace("{version}", "1")


def head(method: str, path: str, *headers: str) -> bytes:
    return "\r\n".join([f"{method} {asked(path)} HTTP/1.1", *headers, "", ""]).encode()


# ---- paths


def test_every_documented_operation_is_answered(port: int) -> None:
    last = sorted(OPERATIONS, key=lambda one: (one[1].endswith("/load"), one[1]))
    for method, path in last:  # what is unloaded is loaded again
        status, _, body = ask(port, method, asked(path), b"{}" if method == "POST" else b"")
        assert status in ((400,) if path.endswith("/infer") else (200,)), (path, body)


def test_every_route_is_documented_with_its_method_and_nothing_else(apart: ModelService) -> None:
    async def routes() -> set[tuple[str, str]]:
        api = RestApi(apart, LIMITS)
        found = {(route.method, "/" + path) for path, route in api._routes.items()}
        api.close()
        return found

    found = {(method, path.replace("*", "{model}")) for method, path in asyncio.run(routes())}
    versions = {
        (method, path.replace("{model}", "{model}/versions/{version}"))
        for method, path in found
        if path.startswith("/v2/models/{model}")
    }
    assert len(versions) == 4
    assert found | versions == set(OPERATIONS)


def test_the_page_has_every_path_and_status_and_fetches_nothing(port: int) -> None:
    status, headers, body = ask(port, "GET", "/openapi.json")
    assert (status, headers["content-type"]) == (200, "application/json")
    found = json.loads(body)
    assert found["openapi"].startswith("3.1")
    assert found == json.loads(json.dumps(document()))
    _, headers, page = ask(port, "GET", "/docs")
    assert headers["content-type"].startswith("text/html")
    for method, path in OPERATIONS:
        assert f"{method} {path}<".encode() in page
        for one in told(method, path) - {"200"}:
            assert f"<td>{one}</td>".encode() in page
    assert b"http" not in page.replace(b"Http", b"")


def test_every_parameter_of_a_path_is_described() -> None:
    for method, path in OPERATIONS:
        operation = document()["paths"][path][method.lower()]
        names = [parameter["name"] for parameter in operation.get("parameters", [])]
        assert names == [name for name in ("model", "version") if f"{{{name}}}" in path]


# ---- statuses


@pytest.mark.parametrize(
    ("status", "lines"),
    [
        (400, []),  # no Host
        (413, ["host: x", f"content-length: {LIMITS.body + 1}"]),
        (431, ["host: x", "a: " + "b" * LIMITS.headers]),
    ],
)
def test_what_every_path_may_say_is_told_of_every_path(
    port: int, status: int, lines: list[str]
) -> None:
    for method, path in OPERATIONS:
        assert status_of(say(port, head(method, path, *lines))) == status, path
        assert str(status) in told(method, path), path


def test_a_target_that_is_too_long_is_told_of_every_path(port: int) -> None:
    for method, path in OPERATIONS:
        long = f"{asked(path)}?{'a' * LIMITS.headers}"
        assert status_of(say(port, f"{method} {long} HTTP/1.1\r\n\r\n".encode())) == 414
        assert "414" in told(method, path), path


def test_a_request_that_stops_is_told_of_every_path(port: int) -> None:
    with ExitStack() as open_ones:
        clients = [
            open_ones.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            for _ in OPERATIONS
        ]
        for client, (method, path) in zip(clients, OPERATIONS, strict=True):
            client.sendall(head(method, path, "host: x")[:-2])
        assert [status_of(hear(client)) for client in clients] == [408] * len(clients)
    assert all("408" in told(method, path) for method, path in OPERATIONS)


def test_a_key_is_told_of_who_wants_one(apart: ModelService) -> None:
    with rest_server(apart, api_keys=frozenset({"secret"})) as port:
        for method, path in OPERATIONS:
            refused = (
                status_of(say(port, head(method, path, "host: x", "connection: close"))) == 401
            )
            assert refused == ("401" in told(method, path)) == (path not in OPEN), path


def test_other_methods_are_405_and_told_of_every_path(port: int) -> None:
    taken: dict[str, set[str]] = {}
    for method, path in OPERATIONS:
        taken.setdefault(path, set()).add(method)
    for path, methods in taken.items():
        for method in {"GET", "POST", "PUT", "DELETE"} - methods:
            status, headers, body = ask(port, method, asked(path))
            assert (status, "error" in json.loads(body)) == (405, True), path
            allowed = set(headers["allow"].split(", "))
            assert allowed == methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())
        assert all("405" in told(method, path) for method in methods)


def test_an_unknown_model_is_404_and_told_where_a_path_names_one(port: int) -> None:
    for method, path in OPERATIONS:
        names = "{model}" in path
        assert ("404" in told(method, path)) == names, path
        if names:
            body = b"{}" if method == "POST" else b""
            assert ask(port, method, asked(path, "nope"), body)[0] == 404, path


def test_what_only_inference_says_is_told_of_inference_alone(port: int) -> None:
    assert len(INFERENCE) == 2
    for method, path in OPERATIONS:
        said = told(method, path) & {"415", "429", "504"}
        assert said == ({"415", "429", "504"} if (method, path) in INFERENCE else set()), path
    for method, path in OPERATIONS:
        if method == "POST" and not path.endswith("load"):
            status = ask(port, method, asked(path), b"{}", Content_Encoding="br")[0]
            assert (status == 415) == ((method, path) in INFERENCE), path


# ---- HEAD and OPTIONS


@pytest.mark.parametrize("path", ["/v2", "/metrics", "/v2/models/mlp", "/v2/health/live"])
def test_head_is_get_without_its_body(port: int, path: str) -> None:
    status, headers, body = ask(port, "HEAD", path)
    assert (status, body) == (200, b"")
    assert headers["content-type"] == ask(port, "GET", path)[1]["content-type"]
    assert int(headers["content-length"]) > 0


def test_head_of_what_takes_post_is_405(port: int) -> None:
    status, headers, body = ask(port, "HEAD", "/v2/models/mlp/infer")
    assert (status, headers["allow"], body) == (405, "POST, OPTIONS", b"")


def test_options_tells_what_a_path_takes_and_does_nothing(port: int) -> None:
    for path, allowed in {
        "/v2": "GET, HEAD, OPTIONS",
        "/v2/models/mlp/infer": "POST, OPTIONS",
        "/v2/models/mlp/versions/1/infer": "POST, OPTIONS",
        "/v2/repository/models/mlp/unload": "POST, OPTIONS",
        "*": "GET, HEAD, POST, OPTIONS",
    }.items():
        for _ in range(2):  # also when the path is known
            status, headers, body = ask(port, "OPTIONS", path)
            assert (status, headers["allow"], body) == (200, allowed, b""), path
            assert headers["content-length"] == "0"
    assert ask(port, "GET", "/v2/models/mlp/ready")[0] == 200, "not unloaded"
    assert ask(port, "OPTIONS", "/nowhere")[0] == 404
    assert ask(port, "GET", "*")[0] == 404
