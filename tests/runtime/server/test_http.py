"""HTTP/1.1 over real sockets, with a handler that tells what it was asked."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from sommelier.runtime.server.http_messages import (
    Handler,
    HttpRequest,
    HttpResponse,
    Limits,
    Reply,
)
from sommelier.runtime.server.http_server import HttpServer
from tests.runtime.server.asking import hear, http_server, say, status_of, wait_until

LIMITS = Limits(
    body=1 << 20, headers=8 << 10, connections=16, buffered=3 << 20,
    header_s=0.4, body_s=0.4, idle_s=0.6, write_s=0.6,
)  # fmt: skip

LARGE = 16 << 20  # more than the system's buffers hold


class Echo:
    """Answers with the method, path and size of the body; /slow after 0.2 s, /never never."""

    def __init__(self) -> None:
        self.cancelled: list[str] = []

    def handler(self) -> Handler:
        return Handler(self._admit, self._answer, self._error)

    def _admit(self, request: HttpRequest) -> HttpResponse | None:
        return HttpResponse(401, b"no") if request.path == "/secret" else None

    def _answer(self, request: HttpRequest, reply: Reply) -> Callable[[], None] | None:
        said = request.headers.get(b"said", b"").decode()
        words = f"{request.method} {request.path} {len(request.body)}{said}"
        told = HttpResponse(200, words.encode())
        match request.path:
            case "/slow":
                asyncio.get_running_loop().call_later(0.2, reply, told)
            case "/large":
                reply(HttpResponse(200, bytes(LARGE)))
            case "/never":
                pass
            case _:
                reply(told)
        return lambda: self.cancelled.append(request.path)

    @staticmethod
    def _error(status: int, message: str) -> HttpResponse:
        return HttpResponse(status, message.encode())


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def server(echo: Echo) -> Iterator[tuple[HttpServer, int]]:
    with http_server(echo.handler, LIMITS) as running:
        yield running


@pytest.fixture
def port(server: tuple[HttpServer, int]) -> Iterator[int]:
    yield server[1]
    assert status_of(say(server[1], get("/after"), wait_s=5)) == 200, "it lives on"
    until = time.monotonic() + 3
    while server[0].room.used and time.monotonic() < until:
        time.sleep(0.02)
    assert server[0].room.used == 0, "room for bodies is given back"


def get(path: str, *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "host: x", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def post(body: bytes, *headers: str) -> bytes:
    lines = ["POST /p HTTP/1.1", "host: x", *(headers or (f"content-length: {len(body)}",))]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("http://x:80/v2/health", "/v2/health"),
        ("HTTP://x/2?q=http://y/3", "/2"),
        ("https://x", "/"),
        ("http://x?q=/3", "/"),
    ],
)
def test_a_target_may_name_the_server(port: int, target: str, path: str) -> None:
    assert say(port, get(target)).endswith(f"GET {path} 0".encode())


def test_a_body_in_pieces_is_put_together(port: int) -> None:
    whole = post(b"x" * 1000)
    pieces = [whole[i : i + 100] for i in range(0, len(whole), 100)]
    assert say(port, *pieces, pause_s=0.005).endswith(b"POST /p 1000")


def test_chunks_are_put_together(port: int) -> None:
    chunked = post(b"5\r\nhello\r\n3;a=b\r\nyou\r\n0\r\n\r\n", "transfer-encoding: chunked")
    assert say(port, chunked).endswith(b"POST /p 8")


def test_pipelined_requests_are_answered_in_turn(port: int) -> None:
    answer = say(port, get("/slow") + get("/2") + post(b"abc") + get("/4"))
    bodies = [b"GET /slow 0", b"GET /2 0", b"POST /p 3", b"GET /4 0"]
    assert [answer.count(body) for body in bodies] == [1] * 4
    assert sorted(bodies, key=answer.index) == bodies


def test_a_connection_stays_and_close_is_obeyed(port: int) -> None:
    close = get("/2", "connection: close")
    assert say(port, get("/1"), close, get("/3"), pause_s=0.02).count(b"200 OK") == 2
    assert say(port, get("/1") + close + get("/3")).count(b"HTTP/1.1") == 2
    assert b"connection: close" in say(port, b"GET / HTTP/1.0\r\n\r\n")


def test_head_has_the_headers_of_get_and_no_body(port: int) -> None:
    answer = say(port, b"HEAD /h HTTP/1.1\r\nhost: x\r\n\r\n")
    assert b"content-length: 9\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("status", "head"),
    [
        (401, "HEAD /secret HTTP/1.1\r\nhost: x"),
        (413, "HEAD / HTTP/1.1\r\nhost: x\r\ncontent-length: 1048577"),
        (408, "HEAD / HTTP/1.1\r\nhost: x\r\ncontent-length: 5"),
    ],
)
def test_a_refused_head_has_no_body_either(port: int, status: int, head: str) -> None:
    for before in (b"", get("/slow"), post(b"abc")):
        answer = say(port, before + head.encode() + b"\r\n\r\n")
        last = answer[answer.rindex(b"HTTP/1.1 ") :]
        assert status_of(last) == status
        assert b"content-length: 0" not in last, "that of the answer to GET"
        assert last.endswith(b"\r\n\r\n")


def test_http_1_1_needs_one_host_and_http_1_0_none(port: int) -> None:
    assert b"Host" in say(port, b"GET / HTTP/1.1\r\n\r\n")
    assert status_of(say(port, b"GET / HTTP/1.1\r\nHOST:\r\nconnection: close\r\n\r\n")) == 200
    assert status_of(say(port, b"GET / HTTP/1.0\r\n\r\n")) == 200
    answer = say(port, get("/1") + b"GET /2 HTTP/1.1\r\n\r\n" + get("/3"))
    assert [answer.count(what) for what in (b"200 OK", b"400 Bad", b"GET /3")] == [1, 1, 0]


def test_expect_continue_is_told_to_go_on(port: int) -> None:
    head, body = post(b"abc", "content-length: 3", "expect: 100-continue").split(b"\r\n\r\n")
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(head + b"\r\n\r\n")
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        assert hear(client).endswith(b"POST /p 3")


def test_an_offer_to_upgrade_is_answered_by_http_1(port: int) -> None:
    assert status_of(say(port, get("/", "connection: upgrade", "upgrade: h2c"))) == 200


@pytest.mark.parametrize("cut", [None, 20, 90, 120, 150])
@pytest.mark.parametrize("length", ["content-length: 5", "transfer-encoding: chunked"])
def test_a_body_behind_an_offer_to_upgrade_is_read(port: int, cut: int | None, length: str) -> None:
    """As Java's HttpClient and curl --http2 send it, twice on a connection, cut anywhere."""
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAI")
    body = b"hello" if "5" in length else b"5\r\nhello\r\n0\r\n\r\n"
    sent = post(body, length, *offer) * 2
    answer = say(port, *([sent] if cut is None else [sent[:cut], sent[cut:]]), pause_s=0.05)
    assert answer.count(b"200 OK") == 2
    assert answer.count(b"POST /p 5") == 2


def test_an_offer_to_upgrade_with_the_wish_to_close_is_the_last(port: int) -> None:
    once = post(b"hello", "content-length: 5", "connection: upgrade, close", "upgrade: h2c")
    assert say(port, once * 2).count(b"200 OK") == 1


@pytest.mark.parametrize(
    ("status", "pieces"),
    [
        (400, [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"]),  # TLS to a server without
        (400, [b"GARBAGE\r\n\r\n"]),
        (400, [b"\x00" * 5000]),
        (400, [get("/", "content-length: -1")]),
        (400, [get("/", "content-length: 1e3")]),
        (400, [get("/", "content-length: 3", "content-length: 4")]),
        (400, [post(b"0\r\n\r\n", "content-length: 5", "transfer-encoding: chunked")]),
        (400, [post(b"zz\r\nhello\r\n", "transfer-encoding: chunked")]),
        (400, [get("/", "bad header")]),
        (400, [b"GET / HTTP/1.1\r\n\r\n"]),  # no host
        (400, [b"POST /p HTTP/1.1\r\ncontent-length: 3\r\n\r\n", b"abc"]),
        (400, [get("/", "Host: y")]),  # two
        (400, [get("/secret", "host: x")]),
        (400, [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]),
        (401, [get("/secret", "content-length: 1000000")]),
        (408, [b"GET / HTT"]),
        (408, [b"GET / HTTP/1.1\r\n", b"a: b\r\n", b"c: d\r\n"]),
        (408, [post(b"half", "content-length: 100")]),
        (408, [post(b"5\r\nhello\r\n", "transfer-encoding: chunked")]),
        (413, [post(b"", "content-length: 1048577")]),
        (413, [post(b"", "content-length: 99999999999999999")]),
        (413, [post(b"x" * 1_048_577)]),
        (413, [post(b"100001\r\n" + b"x" * 1_048_577, "transfer-encoding: chunked")]),
        (414, [b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n"]),
        (414, [b"GET /", *[b"a" * 1000] * 9]),
        (431, [get("/", "a: " + "b" * 9000)]),
        (431, [b"GET / HTTP/1.1\r\na: ", *[b"b" * 1000] * 9]),
        (431, [get("/", *[f"a{i}: b" for i in range(101)])]),
        (431, [get("/", *["same: b"] * 2000)]),
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused_with_a_status(
    port: int, status: int, pieces: list[bytes]
) -> None:
    assert status_of(say(port, *pieces, pause_s=0.01)) == status


@pytest.mark.parametrize(
    ("pieces", "told"),
    [
        ([b"G"], "headers"),
        ([b"GET / HTT"], "headers"),
        ([b"GET / HTTP/1.1\r\nhost: x\r\n"], "headers"),
        ([post(b"half", "content-length: 100")], "body"),
        ([post(b"", "content-length: 100"), b"half"], "body"),
        ([post(b"5\r\nhello\r\n", "transfer-encoding: chunked")], "body"),
        ([get("/1"), post(b"half", "content-length: 100")], "body"),
        ([post(b"x" * 600_000, "content-length: 1000000")], "body"),
    ],
)
def test_half_a_request_whose_client_sends_no_more_is_400(
    server: tuple[HttpServer, int], port: int, pieces: list[bytes], told: str
) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        for piece in pieces:
            client.sendall(piece)
            time.sleep(0.02)
        client.shutdown(socket.SHUT_WR)
        answer = hear(client)
    last = answer[answer.rindex(b"HTTP/1.1 ") :]
    assert (status_of(last), told in last.decode()) == (400, True), last
    assert b"connection: close" in last
    assert answer.count(b"HTTP/1.1 ") == len([piece for piece in pieces if piece == get("/1")]) + 1
    wait_until(lambda: not server[0].connections, within_s=5)


def test_who_sent_whole_requests_or_nothing_may_stop_sending(port: int) -> None:
    for sent, answers in ((b"", 0), (b"\r\n", 0), (get("/1") + post(b"abc"), 2)):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(sent)
            time.sleep(0.1)
            client.shutdown(socket.SHUT_WR)
            answer = hear(client)
        assert [answer.count(b"HTTP/1.1 "), answer.count(b"200 OK")] == [answers] * 2


def test_who_stops_sending_while_it_is_answered_has_gone_away(port: int, echo: Echo) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(get("/never") + b"GET / HTT")
        time.sleep(0.1)
        client.shutdown(socket.SHUT_WR)
        assert hear(client) == b""
    wait_until(lambda: echo.cancelled == ["/never"], within_s=5)


def test_a_client_that_drips_a_header_is_cut_off_in_time(port: int) -> None:
    started = time.monotonic()
    answer = say(port, *[b"GET / HTTP/1.1\r\n", *[b"a: b\r\n"] * 40], pause_s=0.1)
    assert status_of(answer) in (408, None)
    assert time.monotonic() - started < 6.5


def test_a_connection_that_says_nothing_is_closed(port: int) -> None:
    started = time.monotonic()
    assert say(port, b"") == b""
    assert time.monotonic() - started < 5
    assert say(port, b"\r\n\r\n") == b""
    assert say(port, get("/"), wait_s=5).count(b"200 OK") == 1  # and one that fell silent


def test_trailers_change_no_header(port: int) -> None:
    chunked = post(b"1\r\nx\r\n0\r\nsaid: more\r\n\r\n", "transfer-encoding: chunked")
    assert say(port, chunked).endswith(b"POST /p 1")
    assert say(port, get("/p", "said: more")).endswith(b"GET /p 0more")


def test_who_goes_away_cancels_what_it_asked(port: int, echo: Echo) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(get("/never"))
        time.sleep(0.1)
        assert echo.cancelled == []
    until = time.monotonic() + 3
    while not echo.cancelled and time.monotonic() < until:
        time.sleep(0.01)
    assert echo.cancelled == ["/never"]


def test_who_does_not_read_is_cut_off(server: tuple[HttpServer, int]) -> None:
    with socket.create_connection(("127.0.0.1", server[1])) as client:
        client.sendall(get("/large"))
        until = time.monotonic() + 20
        while not server[0].connections and time.monotonic() < until:
            time.sleep(0.01)
        while server[0].connections and time.monotonic() < until:
            time.sleep(0.05)
        assert not server[0].connections


def test_pipelining_without_reading_does_not_pile_up_answers(
    server: tuple[HttpServer, int],
) -> None:
    with socket.create_connection(("127.0.0.1", server[1])) as client:
        client.sendall(get("/large") * 50)
        time.sleep(0.2)
        waiting = [c._transport.get_write_buffer_size() for c in server[0].connections]
        assert max(waiting) <= LARGE + 1000  # one answer


def test_more_connections_than_allowed_are_refused(server: tuple[HttpServer, int]) -> None:
    port = server[1]
    many = [socket.create_connection(("127.0.0.1", port)) for _ in range(LIMITS.connections)]
    until = time.monotonic() + 5
    while len(server[0].connections) < LIMITS.connections and time.monotonic() < until:
        time.sleep(0.01)
    assert status_of(say(port, wait_s=5)) == 503
    for client in many:
        client.close()
    until = time.monotonic() + 5
    while server[0].connections and time.monotonic() < until:
        time.sleep(0.01)
    assert status_of(say(port, get("/"), wait_s=5)) == 200


def test_all_bodies_together_are_limited(port: int) -> None:
    head = b"POST /p HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n"
    clients = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(4)]
    for client in clients:
        client.sendall(head + b"x" * 900_000)
    statuses = sorted(status_of(hear(client)) or 0 for client in clients)
    for client in clients:
        client.close()
    assert statuses == [408, 408, 408, 503]


def test_stopping_answers_what_was_begun(echo: Echo) -> None:
    with http_server(echo.handler) as (_, port):
        slow = socket.create_connection(("127.0.0.1", port), timeout=5)
        slow.sendall(get("/slow"))
        half = socket.create_connection(("127.0.0.1", port), timeout=5)
        half.sendall(post(b"ab", "content-length: 4"))
        idle = socket.create_connection(("127.0.0.1", port), timeout=5)
        time.sleep(0.1)
        late = idle.dup()

        def finish() -> None:
            time.sleep(0.2)
            half.sendall(b"cd")
            late.sendall(get("/late"))

        import threading

        threading.Thread(target=finish).start()
    assert hear(slow).endswith(b"GET /slow 0")
    assert hear(half).endswith(b"POST /p 4")
    assert hear(idle).endswith(b"GET /late 0")
    for client in (slow, half, idle, late):
        client.close()
