"""A listening socket that can end without resetting who has just connected."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import sys

_ATTACH_FILTER = 26  # SO_ATTACH_FILTER of Linux
_DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)  # classic BPF: return 0


def listening_socket(host: str, port: int, backlog: int) -> socket.socket:
    """Bound and listening; not blocking. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    listener = socket.create_server(address[:2], family=family, backlog=backlog)
    listener.setblocking(False)
    return listener


def last_connections(listener: socket.socket) -> list[socket.socket]:
    """The connections that the system has accepted and nobody has taken yet; no more will come.

    Closing a listening socket resets those. On Linux a filter drops what asks to connect from now
    on, unanswered, so that none comes between the last one here and the closing of the socket.
    """
    if sys.platform == "linux":
        program = ctypes.create_string_buffer(_DROP_ALL)
        told = struct.pack("HL", 1, ctypes.addressof(program))
        with contextlib.suppress(OSError):  # without it one may be lost, no more
            listener.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, told)
    found = []
    with contextlib.suppress(OSError):  # BlockingIOError at the end
        while True:
            connection, _ = listener.accept()
            connection.setblocking(False)
            found.append(connection)
    return found
