"""How much memory the bodies of all requests take together, whichever protocol brought them."""

from __future__ import annotations

from threading import Lock

NO_ROOM = "the bodies of all requests take too much memory; try again later"


class BodyRoom:
    """Counts the bytes of bodies that are being read or answered. Safe for threads."""

    def __init__(self, limit: int) -> None:
        """limit : bytes."""
        self.limit = limit
        self.used = 0
        self._lock = Lock()

    def take(self, size: int) -> bool:
        """Take room for so many bytes; False where that is more than there is: they are counted all
        the same, until they are given back."""
        with self._lock:
            self.used += size
            return self.used <= self.limit

    def give(self, size: int) -> None:
        """So many bytes are freed."""
        with self._lock:
            self.used -= size
