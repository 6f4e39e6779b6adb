"""Requests and responses of HTTP as values, what a client may take, and who answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sommelier.runtime.server.lane import Lane

Headers = dict[bytes, bytes]

REASONS = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode())
    for status in HTTPStatus
} | {499: b"HTTP/1.1 499 Client Closed Request\r\n"}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may take. Bytes and seconds.

    body : of one request, before and after decompression. headers : of one request with its
    target. connections : at the same time. buffered : of all bodies that are being read or
    answered, those of gRPC with them. header_s, body_s : from the first byte of a request until its
    headers, then its body are there. idle_s : between requests. write_s : how long a client may
    take nothing of an answer.
    """

    body: int = 64 << 20
    headers: int = 32 << 10
    connections: int = 1_024
    buffered: int = 512 << 20
    header_s: float = 10.0
    body_s: float = 60.0
    idle_s: float = 75.0
    write_s: float = 60.0


@dataclass(slots=True, eq=False)
class HttpRequest:
    """A whole request. path, query : of its target, still percent-encoded. headers : names in
    lower case; of those that are repeated, the last. alone : it is not put together with others."""

    method: str
    path: str
    headers: Headers
    body: bytes = b""
    query: str = ""
    alone: bool = False


@dataclass(slots=True)
class HttpResponse:
    """What is written. close : the connection ends with it."""

    status: int
    body: bytes = b""
    content_type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    close: bool = False


Reply = Callable[[HttpResponse], None]


@dataclass(frozen=True, slots=True)
class Handler:
    """Who answers, in the thread of the event loop.

    admit : looks at the headers before the body is read; a response refuses it. A head that was
    admitted is not asked about again when it comes again on its connection. answer : calls
    its second argument once, at once or later; it returns what gives the request up when the
    client is gone, or None. error : the response for what HTTP itself refuses. lane : gets a
    request and its head; where others that begin alike may go, or None.
    """

    admit: Callable[[HttpRequest], HttpResponse | None]
    answer: Callable[[HttpRequest, Reply], Callable[[], None] | None]
    error: Callable[[int, str], HttpResponse]
    lane: Callable[[HttpRequest, bytes], Lane | None] = lambda *_: None
