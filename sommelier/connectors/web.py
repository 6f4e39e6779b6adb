"""HTTP as connectors speak it: few redirects, no other scheme, refusals in words, small reads."""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import string
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from types import MappingProxyType
from urllib.parse import SplitResult, quote, unquote_to_bytes, urljoin, urlsplit

from sommelier.connectors.naming import printable
from sommelier.errors import ConnectorError, first_line
from sommelier.units import Dimension, format_value

NO_HEADERS: Mapping[str, str] = MappingProxyType({})
REDIRECTS = 5
SMALL_BYTES = 16 << 20  # an answer of an API, not a model
PATIENCE_SECONDS = 60.0  # the longest a server may stay silent, or ask us to wait
TRIES = 4  # of one request: busy servers are asked again
BUSY = frozenset({429, 502, 503, 504})
_CHUNK = 1 << 20
_READABLE = frozenset({200, 206, 304, 416})
_MOVED = frozenset({301, 302, 303, 307, 308})
_SECRET = frozenset({"authorization", "cookie", "proxy-authorization", "private-token"})


class UnreachableError(ConnectorError):
    """No answer came at all: no network, no such host, nobody listening."""


class NothingThereError(ConnectorError):
    """The server says that there is nothing at this address (404, 410)."""


class BrokenOffError(Exception):
    """The connection ended before the body did."""


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
    check_scheme(url, url)
    for _ in range(redirects + 1):
        response = _answer(where, sent, deadline)
        with response:
            if response.status not in _MOVED:
                yield response
                return
            target = _target(where, response.headers.get("Location") or "")
        check_scheme(target, asked)
        if urlsplit(target).netloc != urlsplit(where).netloc:
            check_redirect(where, target)
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
        raise _too_long(url, limit)
    return body


def gathered(parts: Iterable[bytes], url: str, *, limit: int, deadline: float) -> bytes:
    """The body of a small answer that another library receives. deadline : of time.monotonic().

    Raises ConnectorError if it has more than `limit` bytes or takes too long.
    """
    body = bytearray()
    for part in parts:
        body += part
        if len(body) > limit:
            raise _too_long(url, limit)
        if time.monotonic() > deadline:
            raise ConnectorError(f"{shown(url)} takes too long to answer", hint="try again later")
    return bytes(body)


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
    deadline = time.monotonic() + PATIENCE_SECONDS * TRIES
    try:
        for part in chunks(response, count):
            parts.append(part)
            if time.monotonic() > deadline:
                raise BrokenOffError("it takes too long")
    except BrokenOffError as error:
        raise ConnectorError(f"{shown(url)} broke off: {error}", hint="try again") from error
    return b"".join(parts)


def chunks(
    response: http.client.HTTPResponse, count: int | None = None, *, before: int = 0
) -> Iterator[bytes]:
    """The body as it comes, at most `count` bytes of it. before : bytes of the file that precede
    it, for the message.

    Raises BrokenOffError if the connection fails or the body is shorter than its Content-Length;
    one without it and without chunks ends where the connection does, which cannot be told apart.
    """
    stated, came = response.length, 0  # http.client has checked what it says
    while count is None or came < count:
        try:
            chunk = response.read1(_CHUNK if count is None else min(count - came, _CHUNK))
        except (OSError, http.client.HTTPException) as error:
            raise BrokenOffError(first_line(error)) from error
        if not chunk:
            if stated is not None and came < stated:
                raise BrokenOffError(f"{before + came} of {before + stated} bytes came")
            return
        came += len(chunk)
        yield chunk


def check_scheme(url: str, asked: str) -> None:
    """Raises ConnectorError unless `url`, to which `asked` led, is an http or https address."""
    parts = parts_of(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        led = "" if url == asked else f" (redirected from {shown(asked)})"
        raise ConnectorError(
            f"{shown(url)} is no http or https address{led}", hint="nothing else is followed"
        )


def check_redirect(where: str, target: str) -> None:
    """Raises ConnectorError where an address of the internet leads to this machine or its network.

    What is asked for there would be asked by us, for whoever wrote the address. A name that cannot
    be resolved here, as behind a proxy, counts as one of the internet.
    """
    if _is_near(target) and not _is_near(where):
        raise ConnectorError(
            f"{shown(where)} leads into a private network: {shown(target)}",
            hint="what is there is not asked for by others; name that address if you mean it",
        )


def parts_of(url: str) -> SplitResult:
    """An address, taken apart; all parts are empty if it is none.

    >>> parts_of("https://[").scheme, parts_of("https://host:port/").scheme
    ('', '')
    """
    try:
        parts = urlsplit(url)
        return parts if parts.port != 0 else urlsplit("")
    except ValueError:  # a bracket without its pair, a port that is no number
        return urlsplit("")


def shown(url: str) -> str:
    """An address for a message: without its query and user, which may hold secrets."""
    parts = parts_of(url)
    host = parts.netloc.rpartition("@")[2]
    return printable(f"{parts.scheme}://{host}{parts.path}" if host else without_secrets(url))[:300]


def without_secrets(text: str) -> str:
    """Another library's message, its addresses without query and user.

    >>> without_secrets("403 for https://me:pw@host/a.onnx?X-Amz-Signature=1f (tried twice)")
    '403 for https://host/a.onnx (tried twice)'
    """
    without_queries = re.sub(r"(?<=\S)[?#][^\s'\"<>]+", "", text)
    return re.sub(r"//[^/\s@]*@", "//", without_queries)


def without_login(url: str) -> tuple[str, dict[str, str]]:
    """An address without name and password, and the header that says them; {} if it has none."""
    parts = urlsplit(url)
    who, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, {}
    encoded = base64.b64encode(unquote_to_bytes(who if ":" in who else f"{who}:")).decode()
    return parts._replace(netloc=host).geturl(), {"Authorization": f"Basic {encoded}"}


def retry_after(text: str | None) -> float | None:
    """Seconds that a Retry-After asks for, as a number or a date of HTTP; None if it is neither.

    >>> retry_after("120"), retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), retry_after("soon")
    (120.0, 0.0, None)
    """
    seconds = _count(text)
    return _until(text or "") if seconds is None else float(seconds)


def _target(where: str, location: str) -> str:
    """Where an answer of `where` leads to; the location itself if that is no address at all.

    Headers are read as Latin-1, so that the bytes of others come back, as urllib has it.
    """
    try:
        return urljoin(where, quote(location, safe=string.punctuation, encoding="latin-1"))
    except ValueError:
        return location


def _too_long(url: str, limit: int) -> ConnectorError:
    return ConnectorError(
        f"{shown(url)} answers with more than {format_value(limit, Dimension.BYTES)}",
        hint="this should be a small description; is it the right address?",
    )


def _is_near(url: str) -> bool:
    """Whether a host is this machine, or of a network that is not the internet."""
    host = parts_of(url).hostname or ""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
        known = [ip_address(address.partition("%")[0]) for address in found]
    except (OSError, ValueError):
        return False
    return any(not (getattr(one, "ipv4_mapped", None) or one).is_global for one in known)


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
    """One answer, of whatever status. Raises UnreachableError if none comes, ConnectorError for an
    address that cannot be sent."""
    opener = urllib.request.OpenerDirector()  # without the handlers of files, ftp and redirects
    for handler in (urllib.request.ProxyHandler, urllib.request.HTTPHandler):
        opener.add_handler(handler())
    opener.add_handler(urllib.request.HTTPSHandler())
    bare, login = without_login(url)
    given = {"User-Agent": "sommelier", "Accept-Encoding": "identity", **login, **headers}
    timeout = max(0.1, min(PATIENCE_SECONDS, deadline - time.monotonic()))
    try:
        request = urllib.request.Request(bare, headers=given)
        response: http.client.HTTPResponse = opener.open(request, timeout=timeout)
    except (http.client.InvalidURL, UnicodeError) as error:  # nobody was asked
        raise ConnectorError(
            f"{shown(url)} is no address that can be asked: {without_secrets(first_line(error))}",
            hint="write what is no plain letter of it as %XX",
        ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        why = first_line(reason) if isinstance(reason, BaseException) else str(reason)
        raise UnreachableError(
            f"{shown(url)} cannot be reached: {without_secrets(why)}",
            hint="check the address, the network and the proxy settings",
        ) from error
    return response


def _wait(response: http.client.HTTPResponse, attempt: int) -> float | None:
    """Seconds until the request may be repeated; None if it may not."""
    busy = response.status in BUSY or _used_up(response)
    if not busy or attempt == TRIES:
        return None
    asked = _asked_to_wait(response)
    wait = 2.0 ** (attempt - 1) if asked is None else asked
    return wait if wait <= PATIENCE_SECONDS else None


def _asked_to_wait(response: http.client.HTTPResponse) -> float | None:
    """Seconds a server asks us to wait: Retry-After, or X-RateLimit-Reset where our requests are
    counted and none is left. None where it says neither."""
    text = (response.headers.get("Retry-After") or "").strip()
    if text:
        return retry_after(text)
    reset = _count(response.headers.get("X-RateLimit-Reset")) if _used_up(response) else None
    return None if reset is None else max(0.0, reset - time.time())  # seconds since 1970


def _used_up(response: http.client.HTTPResponse) -> bool:
    """Whether a server that counts our requests, as GitHub's does, answers no more for now."""
    left = _count(response.headers.get("X-RateLimit-Remaining"))
    return response.status in (403, 429) and left == 0


def _until(date: str) -> float | None:
    """Seconds until a date of HTTP, 0 if it has passed; None if it is none."""
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _count(text: str | None) -> int | None:
    """A number of a header; None if it is none."""
    digits = (text or "").strip()
    return int(digits) if re.fullmatch(r"[0-9]{1,12}", digits) else None


def _refused(url: str, response: http.client.HTTPResponse) -> ConnectorError:
    """What a status means, and what to do about it."""
    code, reason, where = response.status, printable(response.reason[:80]), shown(url)
    if code in (404, 410):
        return NothingThereError(
            f"there is nothing at {where} ({code} {reason})",
            hint="check the name and the revision; it may have been moved or deleted",
        )
    wait = _asked_to_wait(response)
    when = "later" if wait is None else f"in {wait:.0f} s"
    if _used_up(response):
        return ConnectorError(
            f"{where} answers no more requests for now ({code} {reason})",
            hint=f"try again {when}; a token may allow more",
        )
    if code in (401, 403):
        return ConnectorError(
            f"{where} refuses us ({code} {reason})",
            hint="it may need a token, or its terms to be accepted on its page first",
        )
    if code in BUSY:
        return ConnectorError(
            f"{where} is busy ({code} {reason}), asked several times", hint=f"try again {when}"
        )
    return ConnectorError(f"{where} answers {code} {reason}", hint="try again later")
