"""Ctrl-C while a statement runs."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from sommelier.errors import CancelledError
from sommelier.shell.interrupt import AbandonedError, run_cancellable


def press_after(*delays: float) -> None:
    """Ctrl-C, as the terminal sends it, after each delay."""

    def press() -> None:
        for delay in delays:
            time.sleep(delay)
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()


def test_work_returns_its_value_and_leaves_the_handler_as_it_was() -> None:
    before = signal.getsignal(signal.SIGINT)
    assert run_cancellable(lambda: 42, cancel=list, announce=list) == 42
    assert signal.getsignal(signal.SIGINT) is before


def test_errors_of_work_are_raised_as_they_are() -> None:
    with pytest.raises(KeyError):
        run_cancellable(lambda: {}["x"], cancel=list, announce=list)


def test_the_first_press_cancels_once_and_is_announced_once() -> None:
    cancelled = threading.Event()
    said: list[str] = []
    calls: list[float] = []

    def cancel() -> None:
        calls.append(time.monotonic())
        cancelled.set()

    def work() -> None:
        assert cancelled.wait(5)
        time.sleep(0.6)  # leaves things in order, which a second call would interrupt
        raise CancelledError("stopped")

    press_after(0.1)
    with pytest.raises(CancelledError, match="stopped"):
        run_cancellable(work, cancel=cancel, announce=lambda: said.append("cancelling"))
    assert said == ["cancelling"]
    assert len(calls) == 1


def test_whatever_gives_up_first_a_cancelled_statement_is_cancelled() -> None:
    cancelled = threading.Event()

    def work() -> None:
        assert cancelled.wait(5)
        raise OSError("interrupted system call")

    press_after(0.1)
    with pytest.raises(CancelledError):
        run_cancellable(work, cancel=cancelled.set, announce=list)


def test_work_that_finishes_in_spite_of_the_press_keeps_its_answer() -> None:
    cancelled = threading.Event()
    press_after(0.1)
    assert run_cancellable(lambda: cancelled.wait(5), cancel=cancelled.set, announce=list)


def test_the_second_press_abandons_work_that_cannot_stop() -> None:
    press_after(0.1, 0.2)
    release = threading.Event()
    with pytest.raises(AbandonedError):
        run_cancellable(lambda: release.wait(5), cancel=list, announce=list)
    release.set()


def test_off_the_main_thread_work_runs_in_place() -> None:
    threads: list[int] = []

    def outer() -> None:
        run_cancellable(lambda: threads.append(threading.get_ident()), cancel=list, announce=list)

    thread = threading.Thread(target=outer)
    thread.start()
    thread.join()
    assert threads == [thread.ident]
