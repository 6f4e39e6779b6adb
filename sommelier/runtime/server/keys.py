"""API keys, alike for REST and gRPC: `Authorization: Bearer KEY`, or `X-API-Key: KEY`."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable
from pathlib import Path

from sommelier.errors import StorageError

OPEN = frozenset({"/v2/health/live", "/v2/health/ready"})
"""Paths of REST that orchestrators ask without a key."""
NO_KEY = "this server wants a key: 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"


def has_key(keys: Iterable[bytes], authorization: bytes, api_key: bytes) -> bool:
    """Whether one of two header fields has a valid key, whatever the other one has: it may be for a
    proxy. authorization, api_key : values of `Authorization` and `X-API-Key`, empty without them.

    >>> has_key([b"sesame"], b"bearer sesame", b"")
    True
    >>> has_key([b"sesame"], b"Basic dTpw", b"sesame")
    True
    """
    scheme, _, bearer = authorization.strip().partition(b" ")
    given = (bearer.strip() if scheme.lower() == b"bearer" else b"", api_key.strip())
    matches = [hmac.compare_digest(one, key) for key in keys for one in given if one]
    return any(matches)  # all were compared, in equal time


def password(authorization: bytes) -> bytes:
    """The password of HTTP's Basic scheme, by which a browser can bring a key; b"" without one.

    >>> password(b"Basic dTpzZXNhbWU="), password(b"Bearer sesame"), password(b"Basic ?")
    (b'sesame', b'', b'')
    """
    scheme, _, given = authorization.strip().partition(b" ")
    if scheme.lower() != b"basic":
        return b""
    try:
        return base64.b64decode(given.strip(), validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


def keys_of(path: Path) -> frozenset[str]:
    """The keys of a file, one a line; empty lines and those that begin with # are none. Raises
    StorageError where there is none."""
    try:
        lines = path.expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(
            f"cannot read the keys of {path}: {error}", hint="who serves has to be able to read it"
        ) from error
    found = (line.strip() for line in lines)
    keys = frozenset(line for line in found if line and not line.startswith("#"))
    if not keys:
        raise StorageError(f"{path} has no keys", hint="write one a line")
    return keys
