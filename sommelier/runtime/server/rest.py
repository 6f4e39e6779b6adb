"""The Open Inference Protocol v2 over HTTP: paths and keys; a thin layer on ModelService.

Everything runs in the thread of the event loop but what takes long: loading models, and reading and
writing large or compressed bodies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote
from weakref import WeakValueDictionary

from sommelier.runtime.server.compression import accepts_gzip
from sommelier.runtime.server.http_messages import (
    Handler,
    HttpRequest,
    HttpResponse,
    Limits,
    Reply,
)
from sommelier.runtime.server.keys import NO_KEY, OPEN, has_key, password
from sommelier.runtime.server.lane import Lane, lane_of
from sommelier.runtime.server.metrics import CONTENT_TYPE
from sommelier.runtime.server.openapi import document, page
from sommelier.runtime.server.pages import PATHS, Pages
from sommelier.runtime.server.protocol import NOT_FOUND, ProtocolError
from sommelier.runtime.server.rest_inference import (
    HEADER_LENGTH,
    REMEMBERED,
    Target,
    header_size,
    read_before,
    read_json,
)
from sommelier.runtime.server.rest_requests import (
    Inference,
    Place,
    error_response,
    failure_response,
    json_response,
)
from sommelier.runtime.server.service import ModelService

_THREADS = 2
_PATHS = 256  # that are remembered
_HTML = b"text/html; charset=utf-8"
_ALLOW = {
    "GET": b"GET, HEAD, OPTIONS",
    "POST": b"POST, OPTIONS",
    "*": b"GET, HEAD, POST, OPTIONS",  # of the server as a whole
}


@dataclass(frozen=True, slots=True)
class _Route:
    """Who answers a path."""

    method: str
    answer: Callable[[HttpRequest, Target, Reply], Callable[[], None] | None]


class RestApi:
    """What `HttpServer` asks. One per event loop; close it when the server has stopped."""

    def __init__(
        self,
        service: ModelService,
        limits: Limits,
        *,
        api_keys: frozenset[str] = frozenset(),
        pages: Pages | None = None,
    ) -> None:
        """api_keys : one of them must come with a request; none: anybody may ask. pages : who
        answers people and questions to the database; None: nobody."""
        self._service = service
        self._pages = pages
        self._limits = limits
        self._keys = tuple(key.encode() for key in api_keys)
        self._loop = asyncio.get_running_loop()
        self._slow = ThreadPoolExecutor(_THREADS, thread_name_prefix="repository")
        self._place = Place(service, self._loop, limits.body)
        self._routes = self._table()
        self._known: dict[tuple[str, str], tuple[_Route, Target]] = {}
        self._lanes: WeakValueDictionary[bytes, Lane] = (
            WeakValueDictionary()
        )  # connections have them

    def handler(self) -> Handler:
        """For `HttpServer`."""
        return Handler(self._admit, self._answer, error_response, self._lane)

    def close(self) -> None:
        """End the threads."""
        self._place.close()
        self._slow.shutdown(wait=False, cancel_futures=True)

    # ---- every request

    def _admit(self, request: HttpRequest) -> HttpResponse | None:
        if not self._keys or request.path in OPEN:
            return None
        headers = request.headers
        if has_key(self._keys, headers.get(b"authorization", b""), headers.get(b"x-api-key", b"")):
            return None
        refused = error_response(401, NO_KEY)
        refused.headers = ((b"www-authenticate", b"Bearer"),)
        if self._pages is not None and request.path[1:] in PATHS:  # browsers can do that alone
            if has_key(self._keys, b"", password(headers.get(b"authorization", b""))):
                return None
            refused.headers += ((b"www-authenticate", b'Basic realm="the key as password"'),)
        return refused

    def _answer(self, request: HttpRequest, reply: Reply) -> Callable[[], None] | None:
        try:
            found = self._known.get((request.method, request.path))
            route, target = found or self._routed(request)
            return route.answer(request, target, reply)
        except Exception as error:
            reply(failure_response(error))
            return None

    def _lane(self, request: HttpRequest, head: bytes) -> Lane | None:
        """Where requests that begin as this one go; the same for all connections, as long as one
        of them has it: those of heads that never come again are gone with the next one."""
        size = header_size(request.headers.get(HEADER_LENGTH, b""))
        if not 0 < size <= min(REMEMBERED, len(request.body)):
            return None
        prefix = head + request.body[:size]
        found = self._lanes.get(prefix)
        if found is None:
            found = self._new_lane(request, prefix, size)
            if found is not None:
                self._lanes[prefix] = found
        return found

    def _new_lane(self, request: HttpRequest, prefix: bytes, size: int) -> Lane | None:
        if b"content-encoding" in request.headers:
            return None
        try:
            route, target = self._routed(request)
            asked = read_before(request.body[:size])
        except ProtocolError:
            return None
        if route.answer != self._infer:
            return None
        whole = len(prefix) + len(request.body) - size
        gzip = accepts_gzip(request.headers)
        return lane_of(self._place, target, asked, prefix, whole, gzip=gzip)

    def _routed(self, request: HttpRequest) -> tuple[_Route, Target]:
        """Who answers, and what the path names; it is remembered, for few paths are asked often."""
        found = self._resolved(request)
        if len(self._known) >= _PATHS:
            self._known.clear()
        self._known[request.method, request.path] = found
        return found

    def _resolved(self, request: HttpRequest) -> tuple[_Route, Target]:
        target = Target("", "")
        if request.path == "*" and request.method == "OPTIONS":
            return _other_methods("*"), target
        parts = [unquote(part) for part in request.path.rstrip("/").split("/")[1:]]
        match parts:
            case ["v2", "models", "stats"]:
                key = "v2/models/stats"
            case ["v2", "models", model, "versions", version, *rest]:
                key, target = "/".join(["v2/models/*", *rest]), Target(model, version)
            case ["v2", "models", model, *rest]:
                key, target = "/".join(["v2/models/*", *rest]), Target(model, "")
            case ["v2", "repository", "models", model, verb]:
                key, target = f"v2/repository/models/*/{verb}", Target(model, "")
            case [] | [_] if self._pages is not None and (key := "".join(parts)) in PATHS:
                return self._of_pages(request, PATHS[key], self._pages), target
            case _:
                key = "/".join(parts)
        route = self._routes.get(key)
        if route is None or request.path == "*":
            raise ProtocolError(NOT_FOUND, "Not Found")
        return _by_method(request, route), target

    def _of_pages(self, request: HttpRequest, method: str, pages: Pages) -> _Route:
        return _by_method(request, _Route(method, lambda r, _, reply: pages.answer(r, reply)))

    # ---- what there is

    def _table(self) -> dict[str, _Route]:
        service = self._service
        described: dict[str, Callable[[HttpRequest, Target], HttpResponse]] = {
            "": lambda _, __: HttpResponse(200, page(), _HTML),
            "docs": lambda _, __: HttpResponse(200, page(self._pages is not None), _HTML),
            "openapi.json": lambda _, __: json_response(document(self._pages is not None)),
            "metrics": lambda _, __: HttpResponse(
                200, service.metrics_text().encode(), CONTENT_TYPE.encode()
            ),
            "v2": lambda _, __: json_response(service.server_metadata()),
            "v2/health/live": lambda _, __: json_response({"live": service.live()}),
            "v2/health/ready": lambda _, __: _readiness(service.ready(), service.live()),
            "v2/models/stats": lambda _, __: json_response(service.statistics()),
            "v2/models/*": lambda _, t: json_response(service.metadata(t.model, t.version)),
            "v2/models/*/ready": lambda _, t: _model_readiness(
                t.model, service.ready(t.model, t.version)
            ),
            "v2/models/*/stats": lambda _, t: json_response(service.statistics(t.model, t.version)),
        }
        routes = {path: _Route("GET", _at_once(answer)) for path, answer in described.items()}
        posts = {
            "v2/repository/index": _at_once(self._index),
            "v2/repository/models/*/load": self._load,
            "v2/repository/models/*/unload": self._unload,
            "v2/models/*/infer": self._infer,
        }
        return routes | {path: _Route("POST", answer) for path, answer in posts.items()}

    def _index(self, request: HttpRequest, _: Target) -> HttpResponse:
        asked = read_json(request.body) if request.body else {}
        return json_response(self._service.index(asked.get("ready") is True))

    def _load(self, request: HttpRequest, target: Target, reply: Reply) -> None:
        given = _repository_parameters(request)
        self._in_thread(lambda: self._service.load(target.model, given), reply)

    def _unload(self, request: HttpRequest, target: Target, reply: Reply) -> None:
        given = _repository_parameters(request)
        self._in_thread(lambda: self._service.unload(target.model, given), reply)

    def _in_thread(self, work: Callable[[], None], reply: Reply) -> None:
        def run() -> None:
            try:
                work()
                response = HttpResponse(200)
            except Exception as error:
                response = failure_response(error)
            self._loop.call_soon_threadsafe(reply, response)

        self._slow.submit(run)

    def _infer(self, request: HttpRequest, target: Target, reply: Reply) -> Callable[[], None]:
        inference = Inference(self._place, request, target, reply)
        inference.start()
        return inference.cancel


def _by_method(request: HttpRequest, route: _Route) -> _Route:
    method = "GET" if request.method == "HEAD" else request.method
    return route if method == route.method else _other_methods(route.method)


def _other_methods(taken: str) -> _Route:
    """For OPTIONS, and for methods that a path does not take: tells which ones it does."""
    allow = ((b"allow", _ALLOW[taken]),)

    def answer(request: HttpRequest, _: Target) -> HttpResponse:
        if request.method == "OPTIONS":
            return HttpResponse(200, headers=allow)
        refused = error_response(405, f"{request.path[:200]} takes {taken}")
        refused.headers = allow
        return refused

    return _Route(taken, _at_once(answer))


def _at_once(
    answer: Callable[[HttpRequest, Target], HttpResponse],
) -> Callable[[HttpRequest, Target, Reply], None]:
    return lambda request, target, reply: reply(answer(request, target))


def _readiness(ready: bool, live: bool) -> HttpResponse:
    """Both keys: kserve's client reads `ready` and `live`, Triton's only the status."""
    return json_response({"ready": ready, "live": live}, status=200 if ready else 503)


def _model_readiness(name: str, ready: bool) -> HttpResponse:
    return json_response({"name": name, "ready": ready}, status=200 if ready else 400)


def _repository_parameters(request: HttpRequest) -> dict[str, Any]:
    """What a load or unload asks for. Raises ProtocolError."""
    found = read_json(request.body).get("parameters") if request.body else None
    if found is not None and not isinstance(found, dict):
        raise ProtocolError(400, "'parameters' is no object")
    return found or {}
