"""Ctrl-C while a statement runs: the first cancels it, the second leaves the shell."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

from sommelier.errors import CancelledError

T = TypeVar("T")
_ASK_AGAIN_S = 0.2


class AbandonedError(KeyboardInterrupt):
    """Ctrl-C was pressed twice: the statement is still running, the process should end now."""


def run_cancellable(
    work: Callable[[], T], *, cancel: Callable[[], None], announce: Callable[[], None]
) -> T:
    """What `work` returns, while Ctrl-C calls `cancel` (again and again, until work gives up).

    The work runs in a thread of its own, so that a signal is heard while C code computes. Off the
    main thread, where Python delivers no signals, it runs in place. Raises CancelledError if it was
    cancelled, AbandonedError at the second Ctrl-C.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    results: list[T] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # handed to the main thread below
            errors.append(error)
        finally:
            done.set()

    presses = 0

    def on_interrupt(_signal: int, _frame: FrameType | None) -> None:
        nonlocal presses
        presses += 1
        if presses > 1:
            raise AbandonedError
        cancel()

    previous = signal.signal(signal.SIGINT, on_interrupt)
    try:
        threading.Thread(target=run, name="statement", daemon=True).start()
        announced = False
        while not done.wait(_ASK_AGAIN_S):
            if presses:
                if not announced:
                    announce()
                announced = True
                cancel()
    finally:
        signal.signal(signal.SIGINT, previous)
    if errors:
        raise _as_cancelled(errors[0]) if presses else errors[0]
    return results[0]


def _as_cancelled(error: BaseException) -> BaseException:
    """The error of work that was told to stop; whatever gave up first, it was cancelled."""
    if isinstance(error, CancelledError):
        return error
    cancelled = CancelledError("the statement was stopped by Ctrl-C")
    cancelled.__cause__ = error
    return cancelled
