"""A request whose head came before is not parsed again, and nobody can tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sommelier.runtime.server.http_connection import HttpConnection
from sommelier.runtime.server.http_messages import (
    Handler,
    HttpRequest,
    HttpResponse,
    Limits,
    Reply,
)
from sommelier.runtime.server.http_server import HttpServer
from sommelier.runtime.server.known_head import KnownHead, known_head

LIMITS = Limits(body=64, headers=512, buffered=100_000)


class Wire(asyncio.Transport):
    """What a connection wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.closed = b"", False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def _told(request: HttpRequest, reply: Reply) -> Callable[[], None] | None:
    said = request.headers.get(b"said", b"")
    told = [request.method.encode(), request.path.encode(), said, request.body]
    if request.path != "/never":
        reply(HttpResponse(200, b"|".join(told)))
    return None


def _server(limits: Limits = LIMITS) -> HttpServer:
    handler = Handler(lambda _: None, _told, lambda status, text: HttpResponse(status, b"no"))
    return HttpServer(handler, limits)


def _connection(server: HttpServer) -> tuple[HttpConnection, Wire]:
    connection, wire = HttpConnection(server, asyncio.get_running_loop()), Wire()
    connection.connection_made(wire)
    return connection, wire


def _answers(chunks: list[bytes]) -> tuple[bytes, bool, int]:
    """(what was written without dates, whether it was closed, room that bodies still take)."""

    async def run() -> tuple[bytes, bool, int]:
        server = _server()
        connection, wire = _connection(server)
        for chunk in chunks:
            if not wire.closed:
                connection.data_received(chunk)
        told = wire.written.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")  # only who waits for it
        return told, wire.closed, server.room.used

    return asyncio.run(run())


def _post(body: bytes, *headers: str, path: str = "/a") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


REQUESTS = (
    _post(b"one"),
    _post(b"two"),
    _post(b"three"),
    _post(b"one", "said: hello"),
    _post(b"one", path="/b"),
    _post(b""),
    _post(b"\r\n\r"),
    _post(b"POST /a HTTP/1.1\r\n\r\n"),
    _post(b"x" * 64),
    _post(b"x" * 65),  # too large
    _post(b"one", "connection: close"),
    _post(b"one", "expect: 100-continue"),
    b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n",
    b"HEAD /a HTTP/1.1\r\nhost: x\r\n\r\n",
    b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n",
    b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n",
    b"\r\n" + _post(b"one"),
    b"POST /a HTTP/1.1\r\ncontent-length: 3\r\n\r\none",  # no host
    b"GET /a HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
    b"HEAD /a HTTP/1.1\r\nhost: x\r\ncontent-length: 65\r\n\r\n",  # refused
    b"nonsense\r\n\r\n",
)
some = st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=6)


@settings(max_examples=300, deadline=None)
@given(requests=some, cuts=st.lists(st.integers(0, 600), max_size=3))
def test_however_requests_arrive_their_answers_are_the_same(
    requests: list[bytes], cuts: list[int]
) -> None:
    whole = b"".join(requests)
    places = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    pieces = [whole[a:b] for a, b in pairwise(places)]
    one_by_one = _answers([whole[i : i + 1] for i in range(len(whole))])  # no head is known so
    assert _answers(requests)[0] == one_by_one[0]
    assert _answers(pieces)[0] == one_by_one[0]
    assert _answers(requests)[1:] == one_by_one[1:]


def test_a_head_that_came_before_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    parse = HttpConnection._parse

    def counted(self: HttpConnection, data: bytes) -> None:
        parsed.append(data)
        parse(self, data)

    monkeypatch.setattr(HttpConnection, "_parse", counted)
    requests = [_post(body) for body in (b"one", b"two", b"six", b"seven", b"eight")]
    written, _, room = _answers(requests)
    assert parsed == [requests[0], requests[3]]
    assert [word in written for word in (b"one", b"two", b"six", b"seven", b"eight")] == [True] * 5
    assert room == 0


def test_its_body_needs_room_as_every_other() -> None:
    async def run() -> bytes:
        server = _server(Limits(body=64, buffered=100))
        first, wire = _connection(server)
        first.data_received(_post(b"x" * 64))
        other, _ = _connection(server)
        other.data_received(_post(b"x" * 64, path="/never"))
        first.data_received(_post(b"y" * 64))
        assert server.room.used == 64
        return wire.written

    written = asyncio.run(run())
    assert written.count(b"HTTP/1.1 200") == 1
    assert written.count(b"HTTP/1.1 503") == 1


def test_what_is_not_told_by_its_bytes_alone_is_not_known() -> None:
    body = HttpRequest("POST", "/a", {b"content-length": b"3"}, b"one")
    text = _post(b"one")
    found = known_head(text, body)
    assert found is not None
    again = found.request(_post(b"two"))
    assert again is not None
    assert (again.path, again.body) == ("/a", b"two")
    assert found.request(_post(b"four")) is None
    assert found.request(_post(b"two", path="/b")) is None
    assert known_head(text + b"x", body) is None
    assert known_head(text, HttpResponse(400)) is None
    expecting = HttpRequest("POST", "/a", {b"expect": b"100-continue"}, b"one")
    assert known_head(text, expecting) is None
    assert isinstance(found, KnownHead)
