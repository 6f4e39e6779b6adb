"""HTTP/1.1 on asyncio: who is connected, for how long, and until when the server listens.

A protocol of its own on httptools rather than uvicorn, which has no setting for a limit on the time
that headers and body may take, on the size of headers, on all bodies together, and closes where
408, 413 or 431 would tell; this is also quicker (docs/serving.md). What is served is none of its
business.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from email.utils import formatdate

from sommelier.runtime.server.http_connection import HttpConnection
from sommelier.runtime.server.http_messages import Handler, Limits


@dataclass(eq=False)
class HttpServer:
    """Listens, and keeps the connections. Only for the thread of its event loop."""

    handler: Handler
    limits: Limits = field(default_factory=Limits)
    connections: set[HttpConnection] = field(default_factory=set)
    buffered: int = 0
    closing: bool = False
    date: bytes = b""
    _listener: asyncio.Server | None = None
    _sweeper: asyncio.TimerHandle | None = None

    async def start(
        self, host: str, port: int, *, tls: ssl.SSLContext | None = None
    ) -> tuple[str, int]:
        """The address it listens on. port : 0 takes a free one. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            lambda: HttpConnection(self, loop),
            host,
            port,
            ssl=tls,
            ssl_handshake_timeout=self.limits.header_s if tls else None,
            backlog=self.limits.connections,
        )
        self._sweep(loop)
        address = self._listener.sockets[0].getsockname()
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
        if self._listener is not None:
            self._listener.close()
        until = loop.time() + timeout_s
        while self.connections and loop.time() < until:
            for connection in list(self.connections):
                connection.close_soon()
                connection.check_time(loop.time())
            await asyncio.sleep(0.02)
        left = sum(connection.busy for connection in self.connections)
        for connection in list(self.connections):
            connection.abort()
        await asyncio.sleep(0)  # what was aborted tells its requests
        return left

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look at everybody's time now and then: a timer a request would cost more."""
        self.date = formatdate(usegmt=True).encode()
        now = loop.time()
        for connection in list(self.connections):
            connection.check_time(now)
        limits = self.limits
        shortest = min(limits.header_s, limits.body_s, limits.idle_s, limits.write_s)
        self._sweeper = loop.call_later(min(1.0, max(0.02, shortest / 4)), self._sweep, loop)
