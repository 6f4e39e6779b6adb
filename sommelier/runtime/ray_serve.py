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
from typing import TYPE_CHECKING, Any

from sommelier.errors import MissingDependencyError
from sommelier.runtime.server.http_messages import Handler, HttpRequest, HttpResponse, Limits
from sommelier.runtime.server.protocol import InferRequest, InferResponse, ProtocolError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from sommelier.runtime.server.rest import RestApi
    from sommelier.runtime.server.service import ModelService

Start = Callable[[], AbstractContextManager["ModelService"]]
ENDS = frozenset({"connection", "transfer-encoding", "keep-alive", "content-length"})
"""Headers between two machines, which the proxy writes itself."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How many replicas there are, and what each takes.

    replicas : a number, or {"min_replicas": 1, "max_replicas": 8, ...} as Ray Serve's
    `autoscaling_config` has it. cpus : of a node that a replica reserves. resources : others of
    Ray's, {"accelerator": 1}. ongoing : requests that a replica may have taken at a time; its own
    queue refuses sooner. drain_s : what a replica that is stopped has for what it took.
    """

    replicas: int | Mapping[str, Any] = 1
    cpus: float = 1.0
    resources: Mapping[str, float] = field(default_factory=dict)
    ongoing: int = 1024
    drain_s: float = 30.0


def application(start: Start, scale: Scale | None = None, *, name: str = "sommelier") -> Any:
    """An application for `ray.serve.run`. start : makes what a replica serves, on its node.

    HTTP is the Open Inference Protocol v2, as `sommelier serve` speaks it; handles call
    `handle.infer.remote(InferRequest)`. Raises MissingDependencyError without Ray Serve.
    """
    scale = scale or Scale()
    count = scale.replicas
    replica = _serve().deployment(Replica).options(
        name=name,
        num_replicas=count if isinstance(count, int) else None,
        autoscaling_config=None if isinstance(count, int) else dict(count),
        ray_actor_options={"num_cpus": scale.cpus, "resources": dict(scale.resources)},
        max_ongoing_requests=scale.ongoing,
        graceful_shutdown_timeout_s=scale.drain_s,
    )  # fmt: skip
    return replica.bind(start, scale.drain_s)


class Replica:
    """One serving process of the cluster; Ray Serve makes it and calls it."""

    def __init__(self, start: Start, drain_s: float) -> None:
        self._open = ExitStack()
        self._drain_s = drain_s
        self._service = self._open.enter_context(start())
        self._limits = Limits()
        self._http: Handler | None = None

    async def infer(self, request: InferRequest) -> InferResponse:
        """The answer to a handle's call. Raises ProtocolError."""
        return await asyncio.wrap_future(self._service.submit(request))

    async def __call__(self, request: Request) -> Response:
        """The answer to an HTTP request."""
        from starlette.responses import Response

        answer = await self._answer(request)
        headers = {name.decode(): value.decode() for name, value in answer.headers}
        kept = {name: value for name, value in headers.items() if name.lower() not in ENDS}
        kind = answer.content_type.decode()
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
        handler = self._handler()
        asked = HttpRequest(
            request.method, request.scope["raw_path"].decode(), dict(request.scope["headers"])
        )
        refused = handler.admit(asked)
        if refused is not None:
            return refused
        asked.body = await request.body()
        if len(asked.body) > self._limits.body:
            return handler.error(413, f"more than {self._limits.body} bytes")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[HttpResponse] = loop.create_future()

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

    def _handler(self) -> Handler:
        """Made in the event loop that calls it."""
        if self._http is None:
            from sommelier.runtime.server.rest import RestApi

            api: RestApi = RestApi(self._service, self._limits)
            self._open.callback(api.close)
            self._http = api.handler()
        return self._http


def _serve() -> Any:
    try:
        from ray import serve
    except ImportError as error:
        raise MissingDependencyError(
            "Ray Serve is not installed", hint='pip install "sommelier-db[ray]"'
        ) from error
    return serve
