"""Scale-out on a Ray cluster: replicas of a serving process, each with a dispatcher of its own.

Replicas are stateless: what they serve comes from the database and its files, which every node must
be able to read (a shared folder). Each one queues, chooses models and refuses as `sommelier serve`
does, by what it has measured on its own node; Ray Serve's proxies only share requests out. A call
takes Ray some milliseconds (runtime.md 5), so this is for more than one machine, not for speed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sommelier.errors import MissingDependencyError
from sommelier.runtime.server.body_room import NO_ROOM, BodyRoom
from sommelier.runtime.server.http_messages import Handler, HttpRequest, HttpResponse, Limits
from sommelier.runtime.server.keys import keys_of
from sommelier.runtime.server.protocol import (
    CANCELLED,
    UNAVAILABLE,
    InferRequest,
    InferResponse,
    ProtocolError,
)

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from sommelier.runtime.server.rest import RestApi
    from sommelier.runtime.server.service import ModelService

Start = Callable[[], AbstractContextManager["ModelService"]]
ENDS = frozenset({"connection", "transfer-encoding", "keep-alive", "content-length"})
"""Headers between two machines, which the proxy writes itself."""
END_S = 15.0  # beyond `Scale.drain_s`: Ray looks every two seconds, and figures are kept


@dataclass(frozen=True, slots=True)
class Scale:
    """How many replicas there are, and what each takes.

    replicas : a number, or {"min_replicas": 1, "max_replicas": 8, ...} as Ray Serve's
    `autoscaling_config` has it. cpus : of a node that a replica reserves. resources : others of
    Ray's, {"accelerator": 1}. ongoing : requests that a replica may have taken at a time; its own
    queue refuses sooner. drain_s : what a replica that is stopped has for what it took. limits : of
    bodies, for each replica; those of headers and connections are Ray's proxy's own.
    """

    replicas: int | Mapping[str, Any] = 1
    cpus: float = 1.0
    resources: Mapping[str, float] = field(default_factory=dict)
    ongoing: int = 1024
    drain_s: float = 30.0
    limits: Limits = field(default_factory=Limits)


def application(
    start: Start,
    scale: Scale | None = None,
    *,
    name: str = "sommelier",
    api_key_file: Path | None = None,
) -> Any:
    """An application for `ray.serve.run`. start : makes what a replica serves, on its node.

    HTTP is the Open Inference Protocol v2, as `sommelier serve` speaks it; handles call
    `handle.infer.remote(InferRequest)`. api_key_file : keys, one a line, of which HTTP requests
    need one; each replica reads it on its node, so that Ray is never told a key. Raises
    MissingDependencyError without Ray Serve.
    """
    scale = scale or Scale()
    count = scale.replicas
    replica = _serve().deployment(Replica).options(
        name=name,
        num_replicas=count if isinstance(count, int) else None,
        autoscaling_config=None if isinstance(count, int) else dict(count),
        ray_actor_options={"num_cpus": scale.cpus, "resources": dict(scale.resources)},
        max_ongoing_requests=scale.ongoing,
        graceful_shutdown_timeout_s=scale.drain_s + END_S,
    )  # fmt: skip
    return replica.bind(start, scale.drain_s, api_key_file, scale.limits)


class Replica:
    """One serving process of the cluster; Ray Serve makes it and calls it."""

    def __init__(
        self,
        start: Start,
        drain_s: float,
        api_key_file: Path | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Raises StorageError for keys that cannot be read: nobody is served without them then."""
        self._keys = frozenset() if api_key_file is None else keys_of(api_key_file)
        self._open = ExitStack()
        self._drain_s = drain_s
        self._service = self._open.enter_context(start())
        self._limits = limits or Limits()
        self._room = BodyRoom(self._limits.buffered)
        self._http: Handler | None = None

    async def infer(self, request: InferRequest) -> InferResponse:
        """The answer to a handle's call, which needs no key. Raises ProtocolError."""
        return await asyncio.wrap_future(self._service.submit(request))

    async def __call__(self, request: Request) -> Response:
        """The answer to an HTTP request."""
        from starlette.responses import Response

        answer = await self._answer(request)
        headers = {name.decode(): value.decode() for name, value in answer.headers}
        kept = {name: value for name, value in headers.items() if name.lower() not in ENDS}
        kind = answer.content_type.decode() if answer.body else None
        return Response(answer.body, answer.status, kept, media_type=kind)

    def check_health(self) -> None:
        """Ray Serve replaces a replica for which this raises."""
        if not self._service.live():
            raise ProtocolError(503, "the replica does not answer any more")

    def __del__(self) -> None:
        """Finish what was taken; Ray Serve calls this once nothing new comes."""
        if hasattr(self, "_service"):  # it was started
            self._service.refuse()
            self._service.drained(self._drain_s)
            self._open.close()

    async def _answer(self, request: Request) -> HttpResponse:
        handler, limits = self._handler(), self._limits
        asked = HttpRequest(request.method, _path(request.scope), dict(request.scope["headers"]))
        length = asked.headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > limits.body:
            told = f"a body of {int(length)} bytes; at most {limits.body} are taken"
            return handler.error(413, told)
        refused = handler.admit(asked)
        if refused is not None:
            return refused
        try:
            asked.body = await self._body(request)
        except ProtocolError as error:
            return handler.error(error.status, error.message)
        try:
            return await _answered(handler, asked)
        finally:
            self._room.give(len(asked.body))

    async def _body(self, request: Request) -> bytes:
        """What comes behind the headers; it has taken room. Raises ProtocolError as soon as it is
        too much, and where it does not come."""
        limits, pieces, size, whole = self._limits, [], 0, False
        try:
            async with asyncio.timeout(limits.body_s):
                while not whole:
                    message = await request.receive()
                    if message["type"] == "http.disconnect":
                        raise ProtocolError(CANCELLED, "the client is gone")
                    piece: bytes = message.get("body", b"")
                    size += len(piece)
                    fits = self._room.take(len(piece))
                    if size > limits.body:
                        raise ProtocolError(413, f"a body of more than {limits.body} bytes")
                    if not fits:
                        raise ProtocolError(UNAVAILABLE, NO_ROOM)
                    pieces.append(piece)
                    whole = not message.get("more_body", False)
        except TimeoutError:
            raise ProtocolError(408, "the request did not arrive in time") from None
        finally:
            if not whole:
                self._room.give(size)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _handler(self) -> Handler:
        """Made in the event loop that calls it."""
        if self._http is None:
            from sommelier.runtime.server.rest import RestApi

            api: RestApi = RestApi(self._service, self._limits, api_keys=self._keys)
            self._open.callback(api.close)
            self._http = api.handler()
        return self._http


async def _answered(handler: Handler, asked: HttpRequest) -> HttpResponse:
    """The answer; who gives up waiting for it ends what is done for it."""
    answer: asyncio.Future[HttpResponse] = asyncio.get_running_loop().create_future()

    def reply(said: HttpResponse) -> None:
        if not answer.done():  # else the client is gone
            answer.set_result(said)

    cancel = handler.answer(asked, reply)
    try:
        return await answer
    except asyncio.CancelledError:
        if cancel is not None:
            cancel()
        raise


def _path(scope: Mapping[str, Any]) -> str:
    """Of the request's target, as it came but without the application's prefix."""
    path: str = scope["raw_path"].decode("latin-1")
    return path.removeprefix(quote(scope.get("root_path", "")))


def _serve() -> Any:
    try:
        from ray import serve
    except ImportError as error:
        raise MissingDependencyError(
            "Ray Serve is not installed", hint='pip install "sommelier-db[ray]"'
        ) from error
    return serve
