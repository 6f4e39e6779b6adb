"""Ctrl-C while a statement runs: the first cancels it, the second leaves the shell."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Generic, TypeVar

from sommelier.errors import CancelledError

T = TypeVar("T")
_LOOK_EVERY_S = 0.2


class AbandonedError(KeyboardInterrupt):
    """Ctrl-C was pressed twice: the statement is still running, the process should end now."""


def run_cancellable(
    work: Callable[[], T], *, cancel: Callable[[], None], announce: Callable[[], None]
) -> T:
    """What `work` returns. The first Ctrl-C calls `cancel`, and `announce` if that takes a while.

    The work runs in a thread of its own, so that a signal is heard while C code computes. Off the
    main thread, where Python delivers no signals, it runs in place. Raises CancelledError if it was
    cancelled, AbandonedError at the second Ctrl-C.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    running = _Running(work)
    presses = 0

    def on_interrupt(_signal: int, _frame: FrameType | None) -> None:
        nonlocal presses
        presses += 1
        if presses > 1:
            raise AbandonedError
        cancel()  # once: a second call would interrupt what work does to leave things in order

    previous = signal.signal(signal.SIGINT, on_interrupt)
    try:
        running.start()
        announced = False
        while not running.done.wait(_LOOK_EVERY_S):
            if presses and not announced:
                announce()
                announced = True
    finally:
        signal.signal(signal.SIGINT, previous)
    if running.errors:
        raise _as_cancelled(running.errors[0]) if presses else running.errors[0]
    return running.results[0]


class _Running(Generic[T]):
    """Work in a thread of its own, and what came of it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self.results: list[T] = []
        self.errors: list[BaseException] = []
        self.done = threading.Event()
        self._work = work

    def start(self) -> None:
        threading.Thread(target=self._run, name="statement", daemon=True).start()

    def _run(self) -> None:
        try:
            self.results.append(self._work())
        except BaseException as error:  # handed to the main thread
            self.errors.append(error)
        finally:
            self.done.set()


def _as_cancelled(error: BaseException) -> BaseException:
    """The error of work that was told to stop; whatever gave up first, it was cancelled."""
    if isinstance(error, CancelledError):
        return error
    cancelled = CancelledError("the statement was stopped by Ctrl-C")
    cancelled.__cause__ = error
    return cancelled
