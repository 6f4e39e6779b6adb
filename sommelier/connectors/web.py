"""HTTP as connectors speak it: few redirects, no other scheme, refusals in words, small reads."""

from __future__ import annotations

import http.client
import json
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from types import MappingProxyType
from urllib.parse import urljoin, urlsplit

from sommelier.connectors.naming import printable
from sommelier.errors import ConnectorError, first_line
from sommelier.units import Dimension, format_value

NO_HEADERS: Mapping[str, str] = MappingProxyType({})
REDIRECTS = 5
SMALL_BYTES = 16 << 20  # an answer of an API, not a model
PATIENCE_SECONDS = 60.0  # the longest a server may stay silent, or ask us to wait
TRIES = 4  # of one request: busy servers are asked again
BUSY = frozenset({429, 502, 503, 504})
_READABLE = frozenset({200, 206, 304, 416})
_MOVED = frozenset({301, 302, 303, 307, 308})
_SECRET = frozenset({"authorization", "cookie", "proxy-authorization", "private-token"})


class UnreachableError(ConnectorError):
    """No answer came at all: no network, no such host, nobody listening."""


class NothingThereError(ConnectorError):
    """The server says that there is nothing at this address (404, 410)."""


@contextmanager
def opened(
    url: str,
    *,
    headers: Mapping[str, str] = NO_HEADERS,
    redirects: int = REDIRECTS,
    deadline: float | None = None,
) -> Iterator[http.client.HTTPResponse]:
    """The answer to a GET, with a status of 200, 206, 304 or 416; closed afterwards.

    deadline : of time.monotonic(). A busy server (429, 502, 503, 504) is asked again after its
    Retry-After, up to TRIES times. Secrets among the headers do not follow to another host.
    Raises ConnectorError for every other answer, and where none comes.
    """
    asked, where, sent = url, url, dict(headers)
    deadline = time.monotonic() + PATIENCE_SECONDS * TRIES if deadline is None else deadline
    for _ in range(redirects + 1):
        check_scheme(where, asked)
        response = _answer(where, sent, deadline)
        with response:
            if response.status not in _MOVED:
                yield response
                return
            target = urljoin(where, response.headers.get("Location") or "")
        if urlsplit(target).netloc != urlsplit(where).netloc:
            sent = {name: v for name, v in sent.items() if name.lower() not in _SECRET}
        if (urlsplit(where).scheme, urlsplit(target).scheme) == ("https", "http"):
            raise ConnectorError(
                f"{shown(asked)} leads from https to http: {shown(target)}",
                hint="an answer that anyone on the way could change is not taken",
            )
        where = target
    raise ConnectorError(
        f"{shown(asked)} was redirected more than {redirects} times, last to {shown(where)}",
        hint="the server may be sending us in circles; look at the address in a browser",
    )


def read(
    url: str,
    *,
    headers: Mapping[str, str] = NO_HEADERS,
    limit: int = SMALL_BYTES,
) -> bytes:
    """The body of a small answer. Raises ConnectorError if it has more than `limit` bytes."""
    with opened(url, headers=headers) as response:
        body = received(response, limit + 1, url)
    if len(body) > limit:
        raise ConnectorError(
            f"{shown(url)} answers with more than {format_value(limit, Dimension.BYTES)}",
            hint="this should be a small description; is it the right address?",
        )
    return body


def read_json(url: str, *, headers: Mapping[str, str] = NO_HEADERS) -> object:
    """The JSON value at an address. Raises ConnectorError if there is none."""
    body = read(url, headers={"Accept": "application/json", **headers})
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ConnectorError(
            f"{shown(url)} does not answer with JSON: {first_line(error)}"
        ) from error


def read_range(
    url: str, first: int, count: int, *, headers: Mapping[str, str] = NO_HEADERS
) -> bytes:
    """At most `count` bytes from byte `first` on; fewer at the end of the file.

    No more is read even where a server ignores the Range; such a server can only be asked for the
    beginning. Raises ConnectorError.
    """
    span = f"bytes={first}-{first + count - 1}"
    with opened(url, headers={**headers, "Range": span}) as response:
        if response.status == 416:
            return b""
        if first and response.status != 206:
            raise ConnectorError(f"{shown(url)} cannot be read in parts: the server has no Range")
        return received(response, count, url)


def received(response: http.client.HTTPResponse, count: int, url: str) -> bytes:
    """At most `count` bytes of the body. Raises ConnectorError if the connection breaks."""
    parts: list[bytes] = []
    left = count
    deadline = time.monotonic() + PATIENCE_SECONDS * TRIES
    try:
        while left > 0 and (part := response.read1(min(left, 1 << 20))):
            parts.append(part)
            left -= len(part)
            if time.monotonic() > deadline:
                raise TimeoutError("it takes too long")
    except (OSError, http.client.HTTPException) as error:
        raise ConnectorError(
            f"{shown(url)} broke off: {first_line(error)}", hint="try again"
        ) from error
    return b"".join(parts)


def check_scheme(url: str, asked: str) -> None:
    """Raises ConnectorError unless `url`, to which `asked` led, is an http or https address."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        led = "" if url == asked else f" (redirected from {shown(asked)})"
        raise ConnectorError(
            f"{shown(url)} is no http or https address{led}", hint="nothing else is followed"
        )


def shown(url: str) -> str:
    """An address for a message: without its query and user, which may hold secrets."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return printable(f"{parts.scheme}://{host}{parts.path}" if host else url)[:300]


def _answer(url: str, headers: Mapping[str, str], deadline: float) -> http.client.HTTPResponse:
    """The answer of one address, asked again while it is busy; redirects are left to the caller."""
    for attempt in range(1, TRIES + 1):
        response = _asked(url, headers, deadline)
        if response.status in _READABLE or response.status in _MOVED:
            return response
        with response:
            wait = _wait(response, attempt)
            if wait is None or time.monotonic() + wait > deadline:
                raise _refused(url, response)
        time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def _asked(url: str, headers: Mapping[str, str], deadline: float) -> http.client.HTTPResponse:
    """One answer, of whatever status. Raises UnreachableError if none comes."""
    opener = urllib.request.OpenerDirector()  # without the handlers of files, ftp and redirects
    for handler in (urllib.request.ProxyHandler, urllib.request.HTTPHandler):
        opener.add_handler(handler())
    opener.add_handler(urllib.request.HTTPSHandler())
    given = {"User-Agent": "sommelier", "Accept-Encoding": "identity", **headers}
    timeout = max(0.1, min(PATIENCE_SECONDS, deadline - time.monotonic()))
    try:
        request = urllib.request.Request(url, headers=given)
        response: http.client.HTTPResponse = opener.open(request, timeout=timeout)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        why = first_line(reason) if isinstance(reason, BaseException) else str(reason)
        raise UnreachableError(
            f"{shown(url)} cannot be reached: {why}",
            hint="check the address, the network and the proxy settings",
        ) from error
    return response


def _wait(response: http.client.HTTPResponse, attempt: int) -> float | None:
    """Seconds until the request may be repeated; None if it may not."""
    if response.status not in BUSY or attempt == TRIES:
        return None
    asked = retry_after(response.headers)
    wait = 2.0 ** (attempt - 1) if asked is None else asked
    return wait if wait <= PATIENCE_SECONDS else None


def retry_after(headers: Message) -> float | None:
    """Seconds a server asks us to wait; None where it does not say, or says a date."""
    text = (headers.get("Retry-After") or "").strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _refused(url: str, response: http.client.HTTPResponse) -> ConnectorError:
    """What a status means, and what to do about it."""
    code, reason, where = response.status, printable(response.reason[:80]), shown(url)
    if code in (401, 403):
        return ConnectorError(
            f"{where} refuses us ({code} {reason})",
            hint="it may need a token, or its terms to be accepted on its page first",
        )
    if code in (404, 410):
        return NothingThereError(
            f"there is nothing at {where} ({code} {reason})",
            hint="check the name and the revision; it may have been moved or deleted",
        )
    if code in BUSY:
        wait = retry_after(response.headers)
        return ConnectorError(
            f"{where} is busy ({code} {reason}), asked several times",
            hint="try again later" if wait is None else f"try again in {wait:.0f} s",
        )
    return ConnectorError(f"{where} answers {code} {reason}", hint="try again later")
