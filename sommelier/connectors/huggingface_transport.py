"""One answer of a hub's API, over the session of the hub's client: within bounds of time and size.

The client would read whatever comes, and unpack it; so bodies are asked for as they are, read in
pieces, and redirects are followed here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

from sommelier.connectors.web import (
    REDIRECTS,
    SMALL_BYTES,
    check_redirect,
    check_scheme,
    gathered,
    shown,
)
from sommelier.errors import ConnectorError

ANSWER_BYTES = SMALL_BYTES  # of a repository with 50 000 files; most answers have some kilobytes
ANSWER_SECONDS = 120.0  # of one answer from asking to its last byte, redirects included
SILENT_SECONDS = 30.0
_MOVED = frozenset({301, 302, 303, 307, 308})


def answered(
    url: str,
    asked: Mapping[str, Any] | None,
    headers: Callable[[str], Mapping[str, str]],
    *,
    limit: int = ANSWER_BYTES,
    seconds: float = ANSWER_SECONDS,
) -> Any:
    """The answer to a GET, a response of the client's library with its whole body, of any status.

    headers : what an address is told of who asks. Raises ConnectorError for an answer that is too
    long, takes too long or is packed, and for a redirect that is not followed; and what the
    client's library raises.
    """
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented, not in __all__
        get_session,
    )

    deadline, where = time.monotonic() + seconds, url
    for _ in range(REDIRECTS + 1):
        with get_session().stream(
            "GET",
            where,
            params=asked,
            headers={**headers(where), "Accept-Encoding": "identity"},
            timeout=max(0.1, min(SILENT_SECONDS, deadline - time.monotonic())),
            follow_redirects=False,
        ) as response:
            target = response.headers.get("Location")
            if response.status_code not in _MOVED or target is None:
                return _whole(response, limit, deadline)
        where, asked = _led(where, target, url), None
    raise ConnectorError(f"{shown(url)} was redirected more than {REDIRECTS} times")


def _led(where: str, location: str, asked: str) -> str:
    """Where an answer of `where` leads to. Raises ConnectorError if that is not followed."""
    target = urljoin(where, location)
    check_scheme(target, asked)
    check_redirect(where, target)
    if (urlsplit(where).scheme, urlsplit(target).scheme) == ("https", "http"):
        raise ConnectorError(
            f"{shown(asked)} leads from https to http: {shown(target)}",
            hint="an answer that anyone on the way could change is not taken",
        )
    return target


def _whole(response: Any, limit: int, deadline: float) -> Any:
    """The same response with its body, as it was sent."""
    url = str(response.url)
    packed = response.headers.get("Content-Encoding", "identity")
    if packed.strip().lower() not in ("", "identity"):
        raise ConnectorError(
            f"{shown(url)} answers in the encoding '{packed[:40]}', which was not asked for",
            hint="the server, or a proxy on the way, does not keep to HTTP",
        )
    body = gathered(response.iter_raw(), url, limit=limit, deadline=deadline)
    return type(response)(
        response.status_code,
        headers=response.headers,
        content=body,
        request=response.request,
    )
