"""What a failed call is told in gRPC's words."""

from __future__ import annotations

import logging
from concurrent.futures import CancelledError

from sommelier.runtime.server.protocol import CANCELLED, ProtocolError

logger = logging.getLogger(__name__)

CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    413: "RESOURCE_EXHAUSTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""gRPC's code for each status of a ProtocolError; INTERNAL for any other."""


def failure(error: BaseException) -> tuple[str, str]:
    """(gRPC's code, message) of what a call raised; what is our fault is logged, not told."""
    if isinstance(error, CancelledError):
        return CODES[CANCELLED], "the request was cancelled"
    if isinstance(error, ProtocolError):
        return CODES.get(error.status, "INTERNAL"), error.message
    logger.error("a call failed", exc_info=error)
    return "INTERNAL", "internal error"
