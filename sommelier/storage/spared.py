"""Threads that an interrupt passes over.

A job in the background shares DuckDB's one connection with the statement in front of it, and Ctrl-C
is meant for that statement alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType


class SparedThreads:
    """Knows whether a spared thread is in the connection at this moment.

    As a context manager it goes around what a thread does there, inside the connection's lock. No
    interrupt is sent while a spared thread is in, and none can come in while one is being sent.
    """

    def __init__(self) -> None:
        self._threads: set[int] = set()
        self._inside = 0
        self._gate = threading.RLock()  # re-entrant: a signal handler may interrupt its own thread

    @contextmanager
    def this_thread(self) -> Iterator[None]:
        """The calling thread is spared until the end of the block."""
        self._threads.add(threading.get_ident())
        try:
            yield
        finally:
            self._threads.discard(threading.get_ident())

    def __contains__(self, thread: int) -> bool:
        return thread in self._threads

    def interrupt(self, send: Callable[[], None]) -> None:
        """Calls `send`, unless it would reach a spared thread."""
        with self._gate:
            if not self._inside:
                send()

    def __enter__(self) -> None:
        if threading.get_ident() in self._threads:
            with self._gate:
                self._inside += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if threading.get_ident() in self._threads:
            with self._gate:
                self._inside -= 1
