"""Compressed bodies: read up to a limit, and written where a client asks for it."""

from __future__ import annotations

import zlib

from sommelier.runtime.server.http_messages import Headers
from sommelier.runtime.server.protocol import BAD_REQUEST, ProtocolError

_WINDOWS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}  # of zlib: with which header
_RAW_DEFLATE = -15  # what some clients call deflate
_LEVEL = 1  # five times as quick as 6, and floats hardly shrink further


def decompressed(body: bytes, encoding: bytes, limit: int) -> bytes:
    """The content of a body. limit : bytes it may have; no more are ever made of it.

    Raises ProtocolError: 413 for more, 415 for an encoding that is not known, 400 for what is
    damaged or cut short.
    """
    if encoding in (b"", b"identity"):
        return body
    if encoding not in _WINDOWS:
        told = encoding[:40].decode("latin-1")
        raise ProtocolError(415, f"the encoding '{told}' is not read; gzip and deflate are")
    window = _WINDOWS[encoding]
    if encoding == b"deflate" and not _is_zlib(body):
        window = _RAW_DEFLATE
    reader = zlib.decompressobj(window)
    try:
        content = reader.decompress(body, limit + 1)
    except zlib.error as error:
        raise ProtocolError(BAD_REQUEST, f"the body is damaged: {error}") from None
    if len(content) > limit:
        raise ProtocolError(413, f"the body is more than {limit} bytes once decompressed")
    if not reader.eof or reader.unused_data:
        raise ProtocolError(BAD_REQUEST, "the compressed body does not end where it should")
    return content


def compressed(body: bytes) -> bytes:
    """A body as gzip."""
    writer = zlib.compressobj(_LEVEL, wbits=31)
    return writer.compress(body) + writer.flush()


def accepts_gzip(headers: Headers) -> bool:
    """Whether a client asks for gzip.

    >>> accepts_gzip({b"accept-encoding": b"deflate, gzip;q=0.5"})
    True
    >>> accepts_gzip({b"accept-encoding": b"gzip;q=0, deflate"})
    False
    """
    for part in headers.get(b"accept-encoding", b"").lower().split(b","):
        name, _, weight = part.partition(b";")
        if name.strip() == b"gzip":
            return weight.strip() not in (b"q=0", b"q=0.0", b"q=0.00", b"q=0.000")
    return False


def _is_zlib(body: bytes) -> bool:
    """Whether it begins with the header of zlib (RFC 1950)."""
    return len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
