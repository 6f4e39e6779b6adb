"""A message of a gRPC call from its arrival on: what it takes is counted until it is answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sommelier.runtime.server.body_room import NO_ROOM, BodyRoom
from sommelier.runtime.server.protocol import OVERLOADED, ProtocolError


class Received:
    """A message and the room it takes until `let_go`, or until nobody refers to it: a call may end
    before it is looked at."""

    __slots__ = ("_fits", "_room", "_size", "message")

    def __init__(self, room: BodyRoom, serialized: bytes, read: Callable[[bytes], Any]) -> None:
        """Raises what `read` raises."""
        self._room, self._size = room, len(serialized)
        self._fits = room.take(self._size)
        self.message = read(serialized)

    def check(self) -> None:
        """Raises ProtocolError (429) where all messages together take too much memory."""
        if not self._fits:
            raise ProtocolError(OVERLOADED, NO_ROOM)

    def let_go(self) -> None:
        """Give back its room, once."""
        size, self._size = self._size, 0
        if size:
            self._room.give(size)

    __del__ = let_go


def reader(room: BodyRoom, read: Callable[[bytes], Any]) -> Callable[[bytes], Received]:
    """What makes a Received of a message's bytes."""
    return lambda serialized: Received(room, serialized, read)
