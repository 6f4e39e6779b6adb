"""Pages for people and questions of thin clients: who may ask, and what other sites must not.

What they say is made elsewhere, in another process (`Pages.ask`): a question to a database takes
longer than an inference, and must not hold up the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from sommelier.runtime.server.http_messages import Headers, HttpRequest, HttpResponse, Reply

logger = logging.getLogger(__name__)

PATHS = {
    "": "GET",
    "model": "GET",
    "jobs": "GET",
    "deployments": "GET",
    "complete": "GET",
    "explorer.css": "GET",
    "explorer.js": "GET",
    "query": "POST",
}
"""Methods by path, without the slash before it."""
DESCRIBED = (
    ("post", "/query", "A statement that reads, as JSON: columns, rows, notes; or where it errs"),
    ("get", "/", "The explorer: questions to the database, for people"),
    ("get", "/model", "A model: its profile, neighbours, lineage and segments, for people"),
    ("get", "/jobs", "Statements in the background, for people"),
    ("get", "/deployments", "What is deployed, and how it does here, for people"),
    ("get", "/complete", "What could stand behind the words of a statement"),
    ("get", "/explorer.css", "The explorer's looks"),
    ("get", "/explorer.js", "The explorer's completion"),
)
LARGEST = 256 << 10  # bytes of a question
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    b" connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_GUARDS = (
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),  # a statement is part of the address
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
_DEFAULT_PORTS = ("80", "443")


@dataclass(frozen=True, slots=True)
class Asked:
    """path : a key of PATHS. query : of the target, still percent-encoded."""

    path: str
    query: str = ""
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Said:
    """retry_after_s : when to come again, where that is known."""

    status: int
    body: bytes
    content_type: str = "text/html; charset=utf-8"
    retry_after_s: int | None = None


@dataclass(frozen=True, slots=True)
class Pages:
    """ask : called in the event loop, so it only begins; its future is done in another thread.

    hosts : names and addresses by which browsers may know this server, in lower case and without
    brackets; None for any address of digits, which nobody else's name can lead to.
    """

    ask: Callable[[Asked], Future[Said]]
    hosts: frozenset[str] | None = LOOPBACK

    def answer(self, request: HttpRequest, reply: Reply) -> Callable[[], None] | None:
        """Reply when the question is answered; what gives it up."""
        refused = refusal(request, self.hosts)
        if refused is not None:
            reply(refused)
            return None
        loop = asyncio.get_running_loop()
        future = self.ask(Asked(request.path.strip("/"), request.query, request.body))
        future.add_done_callback(lambda done: _told(done, loop, reply))

        def give_up() -> None:
            future.cancel()

        return give_up


def _told(done: Future[Said], loop: asyncio.AbstractEventLoop, reply: Reply) -> None:
    if done.cancelled():
        return
    error = done.exception()
    if error is not None:
        logger.error("a page failed", exc_info=error)
    said = done.result() if error is None else Said(500, b"this page failed", "text/plain")
    with contextlib.suppress(RuntimeError):  # the server has ended
        loop.call_soon_threadsafe(reply, _response(said))


def _response(said: Said) -> HttpResponse:
    headers: tuple[tuple[bytes, bytes], ...] = _GUARDS
    if said.retry_after_s is not None:
        headers = (*headers, (b"retry-after", b"%d" % said.retry_after_s))
    return HttpResponse(said.status, said.body, said.content_type.encode(), headers)


# ---- who may ask


def refusal(request: HttpRequest, hosts: frozenset[str] | None) -> HttpResponse | None:
    """What a request is told that comes from another site, or by a name that is not ours.

    A browser may be led here by any name (DNS rebinding), so the name has to be one of ours;
    its pages are read by nobody else then, for no answer allows it. Nothing but a link that a
    person follows may even begin a question.
    """
    headers = request.headers
    host = headers.get(b"host", b"").decode("latin-1").lower()
    if not is_ours(host, hosts):
        return _refused(421, f"this server is not called {host[:100]!r}: ask it by its address")
    if _is_foreign(headers, host):
        return _refused(403, "other sites may not ask this server")
    if request.method == "POST":
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            return _refused(415, "a question is application/json")
    if len(request.body) > LARGEST:
        return _refused(413, f"a question of {len(request.body)} bytes; at most {LARGEST} are read")
    return None


def is_ours(host: str, hosts: frozenset[str] | None) -> bool:
    """Whether a Host header names this server.

    >>> is_ours("127.0.0.1:8000", LOOPBACK), is_ours("[::1]", LOOPBACK)
    (True, True)
    >>> is_ours("evil.example:8000", LOOPBACK), is_ours("10.0.0.1", LOOPBACK), is_ours("", None)
    (False, False, False)
    >>> is_ours("10.0.0.1:8000", None), is_ours("evil.example", None), is_ours("localhost", None)
    (True, False, True)
    """
    name = _name_of(host)
    return name in LOOPBACK or (_is_address(name) if hosts is None else name in hosts)


def _name_of(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


def _is_address(name: str) -> bool:
    from ipaddress import ip_address

    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_foreign(headers: Headers, host: str) -> bool:
    """Whether a page of another site asks. A link that was followed is no such request."""
    origin = headers.get(b"origin", b"").decode("latin-1").lower()
    if origin and not _is_same(origin, host):
        return True
    site = headers.get(b"sec-fetch-site", b"none")
    if site in (b"none", b"same-origin"):
        return False
    followed = headers.get(b"sec-fetch-mode") == b"navigate"
    return not (followed and headers.get(b"sec-fetch-dest") == b"document")


def _is_same(origin: str, host: str) -> bool:
    """
    >>> _is_same("http://localhost:8000", "localhost:8000"), _is_same("null", "localhost")
    (True, False)
    """
    scheme, _, place = origin.partition("://")
    ports = ("", *(f":{port}" for port in _DEFAULT_PORTS))
    return scheme in ("http", "https") and any(
        place + mine == host + theirs for mine in ports for theirs in ports
    )


def _refused(status: int, why: str) -> HttpResponse:
    body = b'{"error": {"code": "refused", "message": %b}}' % _json_text(why)
    return HttpResponse(status, body, b"application/json", _GUARDS)


def _json_text(text: str) -> bytes:
    import json

    return json.dumps(text).encode()
