"""The reading half of a connection of HTTP/1.1: what httptools says of its bytes becomes requests.

Limits hold while a request is read; what breaks one is refused in its turn, and nothing behind it
is taken.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import httptools

from sommelier.runtime.server.body_room import NO_ROOM
from sommelier.runtime.server.http_messages import HttpRequest, HttpResponse
from sommelier.runtime.server.known_head import KnownHead

if TYPE_CHECKING:
    from sommelier.runtime.server.http_server import HttpServer

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_MOST_HEADERS = 100
_OFFER = frozenset({b"connection", b"upgrade", b"http2-settings"})  # of another protocol
_NO_REQUEST = HttpRequest("", "", {})


class _RefusedError(Exception):
    """Ends parsing; the connection has put its answer in the queue."""


class HttpReading(asyncio.Protocol):
    """Puts what it reads into `_pending`, in order; HttpConnection answers it."""

    _transport: asyncio.Transport

    __slots__ = (
        "_answering",
        "_at_once",
        "_body",
        "_buffered",
        "_cancel",
        "_declined",
        "_header_bytes",
        "_headers",
        "_in_headers",
        "_keep_alive",
        "_known",
        "_loop",
        "_parser",
        "_paused",
        "_pending",
        "_read_until",
        "_reading",
        "_request",
        "_server",
        "_size",
        "_swallowed",
        "_target",
        "_transport",
        "_write_until",
    )

    def __init__(self, server: HttpServer, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self._parser = httptools.HttpRequestParser(self)
        self._pending: deque[HttpRequest | HttpResponse] = deque()
        self._reading = False  # between the first byte of a request and its last
        self._in_headers = False
        self._paused = False
        self._declined = False  # its request offers another protocol, and is to be read again
        self._swallowed = -1  # bytes since no more requests are taken; -1: they are
        self._keep_alive = True
        self._known: KnownHead | None = None
        self._cancel: Callable[[], None] | None = None
        self._buffered = self._size = self._header_bytes = 0
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._request = _NO_REQUEST
        self._write_until = math.inf
        self._read_until = math.inf
        self._answering: HttpRequest | KnownHead | None = None  # by its head: it is in a lane
        self._at_once = False  # the handler has been called and has not returned

    @property
    def _is_idle(self) -> bool:
        return self._answering is None and not self._pending

    # ---- bytes

    def _is_known(self, data: bytes) -> bool:
        """Takes a request whose head came before, as the parser would."""
        if self._known is None or (request := self._known.request(data)) is None:
            return False
        if not self._takes(len(request.body)):
            return False
        self._pending.append(request)
        return True

    def _takes(self, size: int) -> bool:
        """Whether there is room for a body of so many bytes, which has come whole."""
        if not self._server.room.take(size):
            self._server.room.give(size)
            return False
        self._buffered += size
        self._read_until = math.inf
        return True

    def _parse(self, data: bytes) -> None:
        in_headers = self._in_headers
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as told:
            self._decline(data[told.args[0] :])
            return
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, _RefusedError):
                raise
        except httptools.HttpParserError as error:
            if self._swallowed < 0:  # else it is what follows the last request
                self._refuse(400, f"this is no HTTP/1.1: {error}")
        if in_headers and self._in_headers and self._swallowed < 0:  # one header without an end
            self._header_bytes += len(data)
            if self._header_bytes > self._server.limits.headers:
                self._refuse(431, self._too_many_bytes)

    def _decline(self, rest: bytes) -> None:
        """Reads a request without its offer of another protocol: for the parser its body is of
        that one already. Java's client offers HTTP/2 with each POST."""
        if not self._declined:  # CONNECT
            self._swallowed = 0
            return
        self._declined = False
        first = b"%b %b HTTP/%b" % (
            self._parser.get_method(), self._target, self._parser.get_http_version().encode(),
        )  # fmt: skip
        kept = [b"%b: %b" % header for header in self._headers.items() if header[0] not in _OFFER]
        if b"close" in self._headers.get(b"connection", b"").lower():
            kept.append(b"connection: close")
        self._parser = httptools.HttpRequestParser(self)
        self._parse(b"\r\n".join([first, *kept, b"", rest]))

    # ---- httptools

    def on_message_begin(self) -> None:
        self._reading = self._in_headers = True
        self._read_until = self._loop.time() + self._server.limits.header_s
        self._target, self._headers, self._body = b"", {}, []
        self._header_bytes = self._size = 0

    def on_url(self, part: bytes) -> None:
        self._target += part
        self._header_bytes += len(part)
        if self._header_bytes > self._server.limits.headers:
            self._stop(414, self._too_many_bytes)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_headers:
            return  # a trailer
        name = name.lower()
        if name == b"host" and name in self._headers:
            self._stop(400, "this request has more than one Host header")
        self._headers[name] = value
        self._header_bytes += len(name) + len(value) + 4
        if self._header_bytes > self._server.limits.headers:
            self._stop(431, self._too_many_bytes)
        if len(self._headers) > _MOST_HEADERS:
            self._stop(431, f"more than {_MOST_HEADERS} headers")

    def on_headers_complete(self) -> None:
        limits = self._server.limits
        self._in_headers = False
        self._declined = self._parser.should_upgrade() and self._parser.get_method() != b"CONNECT"
        if self._declined:
            return
        self._read_until = self._loop.time() + limits.body_s
        self._keep_alive = self._parser.should_keep_alive()
        method = self._parser.get_method().decode()
        target = self._target.decode("latin-1")
        if target[:1] != "/":
            target = self._without_authority(target)
        path, _, query = target.partition("?")
        self._request = HttpRequest(method, path, self._headers, query=query)
        if b"host" not in self._headers and self._parser.get_http_version() > "1.0":
            self._stop(400, "a request of HTTP/1.1 needs a Host header")
        length = self._headers.get(b"content-length", b"")
        if length and int(length) > limits.body:  # digits: the parser saw to it
            self._stop(413, f"a body of {int(length)} bytes; at most {limits.body} are taken")
        refusal = self._server.handler.admit(self._request)
        if refusal is not None:
            self._stop_with(refusal)
        if self._headers.get(b"expect", b"").lower() == b"100-continue" and self._is_idle:
            self._transport.write(_CONTINUE)

    def _without_authority(self, target: str) -> str:
        """The path and query of a target that names the server too, as clients of a proxy send it
        (RFC 9112, 3.2.2): what it names counts, not the Host header."""
        scheme, found, rest = target.partition("://")
        if not found or scheme.lower() not in ("http", "https"):
            return target
        authority = re.split("[/?]", rest, maxsplit=1)[0]
        self._headers[b"host"] = authority.encode("latin-1")
        path = rest[len(authority) :]
        return path if path[:1] == "/" else f"/{path}"

    def on_body(self, part: bytes) -> None:
        limits = self._server.limits
        self._size += len(part)
        if self._size > limits.body:
            self._stop(413, f"a body of more than {limits.body} bytes")
        self._buffered += len(part)
        if not self._server.room.take(len(part)):
            self._stop(503, NO_ROOM)
        self._body.append(part)

    def on_message_complete(self) -> None:
        if self._declined:
            return
        request, self._request = self._request, _NO_REQUEST  # its body is not to outlive its answer
        request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._pending.append(request)
        self._body, self._size = [], 0
        self._target, self._headers = b"", {}  # nor its head
        self._reading = False
        self._read_until = math.inf
        if not self._keep_alive:
            self._swallowed = 0

    # ---- refusals

    def _stop(self, status: int, reason: str) -> None:
        """Refuses the request that is being read, from inside the parser."""
        self._stop_with(self._server.handler.error(status, reason))

    def _stop_with(self, response: HttpResponse) -> None:
        response.close = True
        self._pending.append(response)
        self._swallowed = 0
        self._read_until = math.inf
        self._drop_body()
        raise _RefusedError

    def _refuse(self, status: int, reason: str) -> None:
        """The same from outside the parser."""
        response = self._server.handler.error(status, reason)
        response.close = True
        self._pending.append(response)
        self._swallowed = 0
        self._read_until = math.inf
        self._reading = True  # there may be more of it on the way
        self._drop_body()

    @property
    def _too_many_bytes(self) -> str:
        return f"more than {self._server.limits.headers} bytes of headers"

    def _release(self, size: int) -> None:
        """Gives back room that bodies took."""
        if size:
            self._server.room.give(size)
            self._buffered -= size

    def _drop_body(self) -> None:
        """Of the request that is being read and will not be answered."""
        self._release(self._size)
        self._body, self._size = [], 0
