"""Requests that begin as the one before on their connection: they are not parsed again.

Clients send the same head again and again; to compare its bytes takes a hundredth of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sommelier.runtime.server.http_messages import HttpRequest, HttpResponse

if TYPE_CHECKING:
    from sommelier.runtime.server.lane import Lane

LARGEST = 1 << 20  # bytes of a request; what is larger comes in parts
HEADS = 16 << 20  # bytes that the heads of all connections take, those that are idle with them
_END = b"\r\n\r\n"
_OTHERWISE = (b"transfer-encoding", b"expect", b"upgrade")  # the body does not end with its length


@dataclass(frozen=True, slots=True)
class KnownHead:
    """text : with the empty line behind it. size, body_size : of the whole request, and of what is
    behind the head. like : one that had it, without its body. lane : for those that begin as it
    does."""

    text: bytes
    size: int
    body_size: int
    like: HttpRequest
    lane: Lane | None = None

    @property
    def cost(self) -> int:
        """Bytes that it takes, about: the text is in its headers and its lane again."""
        return 3 * len(self.text) + (4 << 10)

    def request(self, data: bytes) -> HttpRequest | None:
        """The request that these bytes are, if they are one with this head and nothing else."""
        if len(data) != self.size or not data.startswith(self.text):
            return None
        like = self.like
        return HttpRequest(like.method, like.path, like.headers, data[len(self.text) :], like.query)


def known_head(
    data: bytes,
    parsed: HttpRequest | HttpResponse,
    lane: Callable[[HttpRequest, bytes], Lane | None] = lambda *_: None,
) -> KnownHead | None:
    """Of the request that was parsed from these bytes and no others, which were answered by keeping
    the connection; None where it is not to be known by its bytes alone. lane : as of Handler."""
    if isinstance(parsed, HttpResponse) or len(data) > LARGEST:
        return None
    end = data.find(_END) + len(_END)
    headers = parsed.headers
    if len(data) - end != len(parsed.body) or any(name in headers for name in _OTHERWISE):
        return None
    like = HttpRequest(parsed.method, parsed.path, headers, query=parsed.query)
    return KnownHead(data[:end], len(data), len(parsed.body), like, lane(parsed, data[:end]))
