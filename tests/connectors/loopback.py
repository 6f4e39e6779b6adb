"""HTTP servers for tests, on loopback: what they answer is given as routes, with faults at will.

with serving({"/model.onnx": Page(b"...", etag='"1"')}) as server:
    download(f"{server.url}/model.onnx")
    assert server.requests[0].path == "/model.onnx"
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Page:
    """What a path answers. Ranges are served and ETags compared unless a fault says otherwise.

    cut : bytes of the body that are sent before the connection is closed. claim : the length the
    header states, whatever is sent. chunked : no length is stated. times : answers of this page
    before `then` takes over.
    """

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    etag: str | None = None
    ranges: bool = True
    cut: int | None = None
    claim: int | str | None = None
    chunked: bool = False
    times: int | None = None
    then: Page | None = None

    @classmethod
    def of_json(cls, value: object, **rest: object) -> Self:
        headers = {"Content-Type": "application/json"}
        return cls(json.dumps(value).encode(), headers=headers, **rest)  # type: ignore[arg-type]


def redirect(location: str, status: int = 302) -> Page:
    return Page(status=status, headers={"Location": location})


@dataclass(frozen=True)
class Request:
    """What was asked. query : {name: values}; headers : names in lower case."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes = b""


Route = Page | Callable[[Request], Page]


@dataclass
class Server:
    """A running server: its address, and every request in order of arrival."""

    url: str
    routes: dict[str, Route]
    requests: list[Request] = field(default_factory=list)
    answered: dict[int, int] = field(default_factory=dict)

    def page(self, request: Request) -> Page:
        """The page of the path itself, or of the longest route ending in '/' that begins it."""
        self.requests.append(request)
        matches = [r for r in self.routes if r.endswith("/") and request.path.startswith(r)]
        key = request.path if request.path in self.routes else max(matches, key=len, default=None)
        route = self.routes.get(key) if key is not None else None
        page = Page(b"nothing here", 404) if route is None else route
        if not isinstance(page, Page):
            page = page(request)
        while page.times is not None and page.then is not None:
            self.answered[id(page)] = self.answered.get(id(page), 0) + 1
            if self.answered[id(page)] <= page.times:
                break
            page = page.then
        return page


@contextmanager
def serving(routes: Mapping[str, Route], *, port: int = 0) -> Iterator[Server]:
    """A server on a port of 127.0.0.1, by default a free one, until the block ends; routes may be
    added meanwhile."""
    server = Server("", dict(routes))

    class Handler(_Handler):
        site = server

    with running(Handler, port) as server.url:
        yield server


@contextmanager
def running(handler: type[BaseHTTPRequestHandler], port: int = 0) -> Iterator[str]:
    """The address of a server on 127.0.0.1 that answers until the block ends."""
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as http:
        http.daemon_threads = True
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_address[1]}"
        finally:
            http.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10
    site: Server

    def do_GET(self) -> None:
        self._respond()

    def do_HEAD(self) -> None:
        self._respond()

    def do_POST(self) -> None:
        self._respond(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def log_message(self, *_: object) -> None:
        """Nothing: the requests are kept."""

    def _respond(self, sent: bytes = b"") -> None:
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = parse_qs(parts.query, keep_blank_values=True)
        page = self.site.page(Request(self.command, parts.path, query, headers, sent))
        status, body, extra = _answer(page, headers)
        self.send_response(status)
        for name, value in {**page.headers, **extra}.items():
            self.send_header(name, value)
        if page.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        else:
            length = len(body) if page.claim is None else page.claim
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            with suppress(ConnectionError):
                self.wfile.write(body if page.cut is None else body[: page.cut])
        broken = page.cut is not None and page.cut < len(body)
        if broken or (page.claim is not None and page.claim != len(body)):
            self.close_connection = True


def _answer(page: Page, asked: Mapping[str, str]) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers that answer conditions and ranges as RFC 9110 says."""
    extra = {} if page.etag is None else {"ETag": page.etag}
    if page.status != 200:
        return page.status, page.body, extra
    if page.etag is not None and asked.get("if-none-match") == page.etag:
        return 304, b"", extra
    span = asked.get("range", "")
    current = asked.get("if-range") in (None, page.etag)
    if not (page.ranges and current and span.startswith("bytes=")):
        return 200, page.body, extra
    first, _, last = span.removeprefix("bytes=").partition("-")
    start, end = int(first), min(int(last or len(page.body)), len(page.body) - 1)
    if start >= len(page.body):
        return 416, b"", extra | {"Content-Range": f"bytes */{len(page.body)}"}
    extra["Content-Range"] = f"bytes {start}-{end}/{len(page.body)}"
    return 206, page.body[start : end + 1], extra
