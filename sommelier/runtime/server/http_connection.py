"""One connection of HTTP/1.1: requests are read, answered one at a time, and their time is watched.

What is pipelined behind a request waits, and reading stops meanwhile. Whatever a client sends, it
gets an answer or is cut off, and the others do not notice.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, cast

import httptools

from sommelier.runtime.server.body_room import NO_ROOM
from sommelier.runtime.server.http_messages import REASONS, HttpRequest, HttpResponse
from sommelier.runtime.server.known_head import KnownHead, known_head

if TYPE_CHECKING:
    from sommelier.runtime.server.http_server import HttpServer

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_MOST_HEADERS = 100
_SWALLOWED = 64 << 20  # bytes of a refused request that are read: else it never sees the answer
_SMALL = 64 << 10
_LINGER_S = 5.0
_NO_REQUEST = HttpRequest("", "", {})
_QUIET_S = 0.5  # a connection is idle for so long before a server that stops closes it


class _RefusedError(Exception):
    """Ends parsing; the connection has put its answer in the queue."""


class HttpConnection(asyncio.Protocol):
    """Reads requests and writes their answers in turn."""

    __slots__ = (
        "_answering",
        "_at_once",
        "_body",
        "_buffered",
        "_cancel",
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
        self._answering: HttpRequest | None = None
        self._at_once = False  # the handler has been called and has not returned

    @property
    def busy(self) -> bool:
        """Whether the handler has a request of it."""
        return self._answering is not None

    # ---- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop has a class of its own
        self._read_until = self._loop.time() + self._server.limits.idle_s
        connections = self._server.connections
        connections.add(self)
        if len(connections) > self._server.limits.connections:
            refusal = self._server.handler.error(503, "too many connections; try again later")
            refusal.close = True
            self._write(refusal, "GET")

    def connection_lost(self, _: Exception | None) -> None:
        self._server.connections.discard(self)
        self._release(self._buffered)
        self._pending.clear()
        self._read_until = self._write_until = math.inf
        self._swallowed = 0
        cancel, self._cancel = self._cancel, None
        self._answering = None
        if cancel is not None:
            cancel()

    def data_received(self, data: bytes) -> None:
        if self._swallowed >= 0:
            self._swallow(len(data))
            return
        if self._reading:
            self._parse(data)
        elif not self._is_known(data):
            pending = len(self._pending)
            self._parse(data)
            if len(self._pending) == pending + 1 and self._swallowed < 0 and not self._reading:
                self._known = known_head(data, self._pending[-1])
        self._answer_next()

    def _is_known(self, data: bytes) -> bool:
        """Takes a request whose head came before, as the parser would."""
        if self._known is None or (request := self._known.request(data)) is None:
            return False
        size = len(request.body)
        if not self._server.room.take(size):
            self._server.room.give(size)
            return False
        self._buffered += size
        self._read_until = math.inf
        self._pending.append(request)
        return True

    def _parse(self, data: bytes) -> None:
        in_headers = self._in_headers
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # another protocol is offered; the answer is HTTP/1.1
            self._swallowed = 0
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

    def eof_received(self) -> None:
        """The client sends no more: half a request is told so. Who waits for an answer has gone, as
        far as can be seen, and the connection is closed behind what was written."""
        if self._reading and self._swallowed < 0 and self._is_idle:
            part = "headers" if self._in_headers else "body"
            self._refuse(400, f"the client stopped sending in the {part} of its request")
            self._reading = False  # no more of it will come
            self._answer_next()

    def pause_writing(self) -> None:
        self._write_until = self._loop.time() + self._server.limits.write_s

    def resume_writing(self) -> None:
        self._write_until = math.inf
        self._answer_next()

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
        self._read_until = self._loop.time() + limits.body_s
        self._keep_alive = self._parser.should_keep_alive()
        method = self._parser.get_method().decode()
        path, _, query = self._target.decode("latin-1").partition("?")
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
        request, self._request = self._request, _NO_REQUEST  # its body is not to outlive its answer
        request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._pending.append(request)
        self._body, self._size = [], 0
        self._reading = False
        self._read_until = math.inf
        if not self._keep_alive:
            self._swallowed = 0

    # ---- the server

    def check_time(self, now: float) -> None:
        """Ends what takes too long; called now and then."""
        if now > self._write_until or (now > self._read_until and self._swallowed >= 0):
            self.abort()
        elif now > self._read_until:
            if self._reading:
                self._refuse(408, "the request did not arrive in time")
                self._answer_next()
            else:
                self._transport.close()

    def close_soon(self) -> None:
        """No more requests than those that are being read or answered, or are on their way."""
        if self._is_idle and not self._reading:
            self._read_until = min(self._read_until, self._loop.time() + _QUIET_S)

    def abort(self) -> None:
        """Cut the client off."""
        self._transport.abort()

    # ---- answers, in turn

    @property
    def _is_idle(self) -> bool:
        return self._answering is None and not self._pending

    def _answer_next(self) -> None:
        """Answers what was read, until one takes longer or the client does not read."""
        while self._pending and self._answering is None and self._write_until == math.inf:
            first = self._pending.popleft()
            if isinstance(first, HttpResponse):
                self._write(first, self._request.method)
                break
            self._answering, self._at_once = first, True
            cancel = self._server.handler.answer(first, partial(self._answered, first))
            self._at_once = False
            if self._answering is first:
                self._cancel = cancel
        paused = bool(self._pending)
        if paused != self._paused:
            self._pause(paused=paused)

    def _answered(self, request: HttpRequest, response: HttpResponse) -> None:
        """The handler's answer to a request; of two the first counts, and none once the client is
        gone."""
        if self._answering is not request:
            return
        self._answering = self._cancel = None
        self._release(len(request.body))
        done = not self._pending and not self._reading
        response.close |= done and (self._swallowed >= 0 or self._server.closing)
        self._write(response, request.method)
        if not self._at_once and self._pending and not self._transport.is_closing():
            self._answer_next()

    def _pause(self, *, paused: bool) -> None:
        if self._transport.is_closing():
            return
        self._paused = paused
        if paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _write(self, response: HttpResponse, method: str) -> None:
        head = [
            REASONS[response.status],
            b"content-length: %d\r\ndate: %b\r\n" % (len(response.body), self._server.date),
        ]
        if response.body:
            head.append(b"content-type: %b\r\n" % response.content_type)
        head += [b"%b: %b\r\n" % header for header in response.headers]
        head.append(b"connection: close\r\n\r\n" if response.close else b"\r\n")
        body = b"" if method == "HEAD" else response.body
        if len(body) <= _SMALL:
            self._transport.write(b"".join([*head, body]))
        else:  # rather a second system call than a copy
            self._transport.write(b"".join(head))
            self._transport.write(body)
        if response.close:
            self._finish()
        elif not self._reading and not self._pending:
            self._read_until = self._loop.time() + self._server.limits.idle_s

    def _finish(self) -> None:
        """Ends the connection behind an answer, having let a client that still sends read it."""
        self._swallowed = max(self._swallowed, 0)
        if not self._reading:
            self._transport.close()
            return
        self._read_until = self._loop.time() + _LINGER_S
        if self._transport.can_write_eof():
            self._transport.write_eof()

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

    def _swallow(self, size: int) -> None:
        self._swallowed += size
        if self._swallowed > _SWALLOWED and self._is_idle:
            self.abort()

    def _release(self, size: int) -> None:
        """Gives back room that bodies took."""
        if size:
            self._server.room.give(size)
            self._buffered -= size

    def _drop_body(self) -> None:
        """Of the request that is being read and will not be answered."""
        self._release(self._size)
        self._body, self._size = [], 0
