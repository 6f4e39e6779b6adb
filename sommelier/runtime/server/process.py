"""The serving process: listens at once, loads its models meanwhile, and leaves without losing work.

SIGTERM: not ready from now on, everything is still answered for `drain_delay_s`, so that load
balancers look elsewhere; then no new connections, what was begun is finished for at most
`drain_timeout_s`, and the process ends. SIGINT does the same without the delay; a second signal
ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sommelier.errors import MissingDependencyError, StorageError
from sommelier.runtime.server.http_messages import Limits

if TYPE_CHECKING:
    from sommelier.runtime.server.body_room import BodyRoom
    from sommelier.runtime.server.grpc_server import GrpcServer
    from sommelier.runtime.server.http_server import HttpServer
    from sommelier.runtime.server.pages import Pages
    from sommelier.runtime.server.rest import RestApi
    from sommelier.runtime.server.service import ModelService

logger = logging.getLogger(__name__)

_FILES_A_CONNECTION = 2  # file descriptors: REST and gRPC
_OTHER_FILES = 256


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the certificate with its chain, and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where and how a process serves. port : 0 is any free one. grpc_port : None for no gRPC."""

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = None
    api_keys: frozenset[str] = frozenset()
    tls: TlsFiles | None = None
    drain_delay_s: float = 5.0
    drain_timeout_s: float = 30.0
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a server can be asked."""

    host: str
    port: int
    grpc_port: int | None


def serve(
    start: Callable[[], ModelService],
    settings: ServerSettings,
    *,
    listening: Callable[[Listening, ModelService], None],
    pages: Pages | None = None,
) -> int:
    """Serves until a signal ends it; how many requests were cut off.

    start : makes the service; called when signals are already heeded. listening : called when
    clients may come. pages : who answers people, and questions to the database. Raises
    MissingDependencyError without the extra `serve`, StorageError when the address is taken or the
    certificate cannot be read, and what `start` raises.
    """
    _need_extra()
    _allow_files(settings.limits.connections)
    with asyncio.Runner(loop_factory=_event_loop()) as runner:
        return runner.run(_Process(start, settings, listening, pages).run())


class _Process:
    """One run of the server."""

    def __init__(
        self,
        start: Callable[[], ModelService],
        settings: ServerSettings,
        listening: Callable[[Listening, ModelService], None],
        pages: Pages | None,
    ) -> None:
        self._start = start
        self._pages = pages
        self._settings = settings
        self._listening = listening
        self._signal: int | None = None
        self._signalled = asyncio.Event()

    async def run(self) -> int:
        """Until a signal ends it; how many requests were cut off."""
        tls = _tls_context(self._settings.tls)
        with self._heeding_signals():
            loop = asyncio.get_running_loop()
            starting: asyncio.Future[Any] = loop.run_in_executor(None, self._start)
            stopping: asyncio.Future[Any] = asyncio.ensure_future(self._signalled.wait())
            await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
            service = await starting  # a start takes no longer than reading the catalog
            if self._signal is not None:
                return 0
            return await self._serve(service, tls, stopping)

    async def _serve(
        self, service: ModelService, tls: ssl.SSLContext | None, stopping: asyncio.Future[Any]
    ) -> int:
        from sommelier.runtime.server.http_server import HttpServer
        from sommelier.runtime.server.rest import RestApi

        settings = self._settings
        api = RestApi(service, settings.limits, api_keys=settings.api_keys, pages=self._pages)
        server = HttpServer(api.handler(), settings.limits)
        try:
            host, port = await server.start(settings.host, settings.port, tls=tls)
        except OSError as error:
            raise _taken(settings.host, settings.port, error) from error
        grpc = None
        if settings.grpc_port is not None:
            grpc = _grpc(service, settings, server.room)
        self._listening(Listening(host, port, grpc.port if grpc else None), service)
        await stopping
        return await self._drain(service, server, api, grpc)

    async def _drain(
        self, service: ModelService, server: HttpServer, api: RestApi, grpc: GrpcServer | None
    ) -> int:
        settings = self._settings
        service.begin_drain()
        server.closing = True  # clients that stay connected are told to connect elsewhere
        if self._signal != signal.SIGINT:
            logger.info("draining: %g s for load balancers to notice", settings.drain_delay_s)
            await asyncio.sleep(settings.drain_delay_s)
        loop, until = asyncio.get_running_loop(), time.monotonic() + settings.drain_timeout_s
        if grpc is not None:
            stopped = loop.run_in_executor(None, grpc.stop, settings.drain_timeout_s)
        left = await server.stop(settings.drain_timeout_s)
        if grpc is not None:
            await stopped
        service.refuse()
        left_s = max(0.0, until - time.monotonic())
        left += await loop.run_in_executor(None, service.drained, left_s)
        api.close()
        return left

    @contextlib.contextmanager
    def _heeding_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT begin the end; asyncio's own handlers would not work on Windows."""
        loop = asyncio.get_running_loop()

        def heed(number: int, _: object) -> None:
            if self._signal is not None:
                sys.stderr.flush()
                os._exit(128 + number)  # a person who asks twice means it
            self._signal = number
            loop.call_soon_threadsafe(self._signalled.set)

        before = {n: signal.signal(n, heed) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _need_extra() -> None:
    try:
        import httptools  # noqa: F401
        import orjson  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"{error.name} is not installed, nothing can be served",
            hint='pip install "sommelier-db[serve]"',
        ) from error


def _event_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where there is one; else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    made: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return made


def _allow_files(connections: int) -> None:
    """As many open files as the connections need, if the system lets us."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES_A_CONNECTION * connections + _OTHER_FILES
    if soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _tls_context(files: TlsFiles | None) -> ssl.SSLContext | None:
    if files is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(files.certificate, files.key)
    except (OSError, ssl.SSLError) as error:
        raise StorageError(
            f"the certificate {files.certificate} with key {files.key} cannot be used: {error}",
            hint="both are PEM files, and belong together",
        ) from error
    return context


def _taken(host: str, port: int, error: OSError) -> StorageError:
    return StorageError(
        f"cannot listen on {host}:{port}: {error.strerror or error}",
        hint="--port takes another one, 0 any that is free",
    )


def _grpc(service: ModelService, settings: ServerSettings, room: BodyRoom) -> GrpcServer:
    from sommelier.runtime.server.grpc_server import GrpcSettings, start_grpc

    assert settings.grpc_port is not None, "asked for"
    tls = settings.tls
    return start_grpc(
        service,
        settings.host,
        settings.grpc_port,
        settings=GrpcSettings(
            api_keys=settings.api_keys,
            tls=(tls.certificate.read_bytes(), tls.key.read_bytes()) if tls else None,
            max_message_bytes=settings.limits.body,
        ),
        room=room,
    )
