"""HTTP/1.1 on asyncio: who is connected, for how long, and until when the server listens.

A protocol of its own on httptools rather than uvicorn, which has no setting for a limit on the time
that headers and body may take, on the size of headers, on all bodies together, and closes where
408, 413 or 431 would tell; this is also quicker (docs/serving.md). What is served is none of its
business.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import partial
from typing import Any

from sommelier.runtime.server.body_room import BodyRoom
from sommelier.runtime.server.http_connection import HttpConnection
from sommelier.runtime.server.http_messages import Handler, Limits
from sommelier.runtime.server.known_head import HEADS
from sommelier.runtime.server.listening import last_connections, listening_socket


@dataclass(eq=False)
class HttpServer:
    """Listens, and keeps the connections. Only for the thread of its event loop.

    room : that bodies take, of other servers' requests too where they are given it. heads : that
    known heads take.
    """

    handler: Handler
    limits: Limits = field(default_factory=Limits)
    connections: set[HttpConnection] = field(default_factory=set)
    room: BodyRoom = field(init=False)
    heads: BodyRoom = field(default_factory=partial(BodyRoom, HEADS))
    closing: bool = False
    date: bytes = b""
    _listener: asyncio.Server | None = None
    _socket: socket.socket | None = None
    _tls: ssl.SSLContext | None = None
    _sweeper: asyncio.TimerHandle | None = None

    def __post_init__(self) -> None:
        self.room = BodyRoom(self.limits.buffered)

    async def start(
        self, host: str, port: int, *, tls: ssl.SSLContext | None = None
    ) -> tuple[str, int]:
        """The address it listens on. port : 0 takes a free one. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._socket = listening_socket(host, port, self.limits.connections)
        self._tls = tls
        self._listener = await loop.create_server(
            lambda: HttpConnection(self, loop), sock=self._socket, **self._with_tls()
        )
        address = self._socket.getsockname()
        self._sweep(loop)
        return str(address[0]), int(address[1])

    async def stop(self, timeout_s: float) -> int:
        """Take no more connections, answer what was begun, close; how many requests were left.

        A request whose first bytes have arrived counts as begun. A connection that is idle is
        closed a moment later, because a request may be on its way.
        """
        loop = asyncio.get_running_loop()
        if self._sweeper is not None:
            self._sweeper.cancel()
        self.closing = True
        last = await self._end_listening(loop)
        until = loop.time() + timeout_s
        while (self.connections or not all(t.done() for t in last)) and loop.time() < until:
            for connection in list(self.connections):
                connection.close_soon()
                connection.check_time(loop.time())
            await asyncio.sleep(0.02)
        for connecting in last:
            connecting.cancel()
        left = sum(connection.busy for connection in self.connections)
        for connection in list(self.connections):
            connection.abort()
        await asyncio.sleep(0)  # what was aborted tells its requests
        return left

    async def _end_listening(self, loop: asyncio.AbstractEventLoop) -> list[asyncio.Task[object]]:
        """Close the socket; who has connected before is served."""
        if self._listener is None or self._socket is None:
            return []
        found = last_connections(self._socket)
        self._listener.close()
        connecting = [
            asyncio.ensure_future(self._serve_last(loop, connection)) for connection in found
        ]
        await asyncio.sleep(0)
        return connecting

    async def _serve_last(
        self, loop: asyncio.AbstractEventLoop, connection: socket.socket
    ) -> object:
        with contextlib.suppress(OSError):  # it has gone
            await loop.connect_accepted_socket(
                lambda: HttpConnection(self, loop), connection, **self._with_tls()
            )
        return None

    def _with_tls(self) -> dict[str, Any]:
        if self._tls is None:
            return {}
        return {"ssl": self._tls, "ssl_handshake_timeout": self.limits.header_s}

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look at everybody's time now and then: a timer a request would cost more."""
        self.date = formatdate(usegmt=True).encode()
        now = loop.time()
        for connection in list(self.connections):
            connection.check_time(now)
        limits = self.limits
        shortest = min(limits.header_s, limits.body_s, limits.idle_s, limits.write_s)
        self._sweeper = loop.call_later(min(1.0, max(0.02, shortest / 4)), self._sweep, loop)
