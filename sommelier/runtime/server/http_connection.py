"""One connection of HTTP/1.1: requests are read, answered one at a time, and their time is watched.

What is pipelined behind a request waits, and reading stops meanwhile. Whatever a client sends, it
gets an answer or is cut off, and the others do not notice.
"""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import TYPE_CHECKING, cast

from sommelier.runtime.server.http_messages import REASONS, HttpRequest, HttpResponse
from sommelier.runtime.server.http_reading import HttpReading
from sommelier.runtime.server.known_head import KnownHead, known_head

if TYPE_CHECKING:
    from sommelier.runtime.server.lane import Alike, Own

_SWALLOWED = 64 << 20  # bytes of a refused request that are read: else it never sees the answer
_SMALL = 64 << 10
_LINGER_S = 5.0
_QUIET_S = 0.5  # a connection is idle for so long before a server that stops closes it


class HttpConnection(HttpReading):
    """Reads requests and writes their answers in turn."""

    __slots__ = ()

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
        self._know(None)
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
        if self._enters(data):
            return
        if self._reading:
            self._parse(data)
        elif not self._is_known(data):
            pending = len(self._pending)
            self._parse(data)
            if len(self._pending) == pending + 1 and self._swallowed < 0 and not self._reading:
                self._know(known_head(data, self._pending[-1], self._server.handler.lane))
        self._answer_next()

    def _know(self, head: KnownHead | None) -> None:
        """Its requests may begin with this head from now on; not where those of all connections
        take too much memory: then they are parsed."""
        heads = self._server.heads
        if self._known is not None:
            heads.give(self._known.cost)
        if head is not None and not heads.take(head.cost):
            heads.give(head.cost)
            head = None
        self._known = head

    def _enters(self, data: bytes) -> bool:
        """Whether a whole request went to the lane of those that begin as it does."""
        known = self._known
        if known is None or known.lane is None or len(data) != known.size:
            return False
        busy = self._reading or self._pending or self._answering or self._server.closing
        if busy or self._write_until != math.inf or not data.startswith(known.lane.prefix):
            return False
        room, size = self._server.room, known.body_size
        if not room.take(size):
            room.give(size)
            return False
        self._buffered += size
        self._read_until = math.inf
        self._answering = known
        known.lane.take(self, data)
        return True

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
        self._write(self._last(response), request.method)
        if not self._at_once and self._pending and not self._transport.is_closing():
            self._loop.call_soon(self._answer_next)  # others may be told behind this one

    def _last(self, response: HttpResponse) -> HttpResponse:
        """An answer that closes the connection where no other one will follow."""
        done = not self._pending and not self._reading
        response.close |= done and (self._swallowed >= 0 or self._server.closing)
        return response

    def answer_alike(self, answer: Alike, own: Own, raw: bytes) -> None:
        """The answer to the request that is in a lane."""
        known = self._answering
        if not isinstance(known, KnownHead):  # the client is gone
            return
        self._answering = None
        self._server.room.give(known.body_size)
        self._buffered -= known.body_size
        if answer.zipped or self._swallowed >= 0 or self._server.closing:
            self._write(self._last(answer.whole(own, raw)), "POST")
        else:
            if not answer.head:
                answer.head = self._head_of(answer.response, answer.size(raw))
            self._transport.write(answer.body(answer.head, own, raw))
            if not self._reading and not self._pending:  # as _wait, which is a call more
                self._read_until = self._loop.time() + self._server.limits.idle_s
        if self._pending and not self._transport.is_closing():
            self._loop.call_soon(self._answer_next)

    def leave_lane(self, data: bytes, *, alone: bool) -> None:
        """The request that is in a lane is answered as any other; alone : without others."""
        known = self._answering
        if not isinstance(known, KnownHead):
            return
        self._answering = None
        request = known.request(data)
        assert request is not None, "it had this head"
        request.alone = alone
        self._pending.appendleft(request)
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
        head = self._head_of(response, len(response.body))
        body = b"" if method == "HEAD" else response.body
        if len(body) <= _SMALL:
            self._transport.write(head + body)
        else:  # rather a second system call than a copy
            self._transport.write(head)
            self._transport.write(body)
        if response.close:
            self._finish()
        else:
            self._wait()

    def _head_of(self, response: HttpResponse, size: int) -> bytes:
        """size : bytes of the body."""
        head = [
            REASONS[response.status],
            b"content-length: %d\r\ndate: %b\r\n" % (size, self._server.date),
        ]
        if size:
            head.append(b"content-type: %b\r\n" % response.content_type)
        head += [b"%b: %b\r\n" % header for header in response.headers]
        head.append(b"connection: close\r\n\r\n" if response.close else b"\r\n")
        return b"".join(head)

    def _wait(self) -> None:
        """For the next request, if it has not begun to come."""
        if not self._reading and not self._pending:
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

    def _swallow(self, size: int) -> None:
        self._swallowed += size
        if self._swallowed > _SWALLOWED and self._is_idle:
            self.abort()
