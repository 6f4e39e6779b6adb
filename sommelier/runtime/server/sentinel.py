"""Watches runs in an event loop: one that takes unforeseen long is ended, and made elsewhere.

How long a model took says nothing of a request for it to take longer: a loop in its graph may run
as often as the request says, an image may be large. Then the loop, and every client, would wait.

A run is timed by how often the thread that watches woke meanwhile, not by a clock: where the whole
machine stands still, as virtual ones do, nobody wakes, and no model is blamed for it. What is not
ended is noticed if it computed for long after it was seen, as the clock of its thread tells: who
waits for a processor that others have is not.
"""

from __future__ import annotations

import math
import threading
import time
from threading import get_ident
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sommelier.runtime.answers import Cancellable

LIMIT_S = 0.05
_LOOKS = 4  # in that time
_LONG = 0.2  # of that time: a run that computes for so long, once it was seen, is noticed
_QUIET_S = 1.0  # without a run for so long the thread sleeps until the next one


class Sentinel:
    """For the runs of one thread; it costs each a microsecond.

    noticed : a run computed long, whether it was ended or not; who has read it clears it.
    """

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self._limit_s = limit_s
        self._quiet = round(_QUIET_S / limit_s * _LOOKS)
        self._running: Cancellable | None = None
        self._cut: Cancellable | None = None
        self._seen: Cancellable | None = None  # at the last look
        self._computed_s = math.nan  # by the thread when it was seen first
        self.noticed = False
        self._clock: int | None = None  # of the thread that is watched; None: there is none here
        self._awake = False
        self._wake = threading.Event()
        self._closed = False
        threading.Thread(target=self._look, name="sentinel", daemon=True).start()

    def begun(self, request: Cancellable) -> None:
        """The run of a request begins."""
        self._running = request
        if not self._awake:
            self._awake = True
            self._clock = _clock_of(get_ident())
            self._wake.set()

    def ended(self) -> bool:
        """It is over; whether it was cut short."""
        running, self._running = self._running, None
        if running is None:
            return False
        if running is self._seen and time.thread_time() - self._computed_s >= _LONG * self._limit_s:
            self.noticed = True
        return self._cut is running

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._wake.set()

    def _look(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            self._look_while_it_runs()
            if self._closed:
                return
            self._cut = None
            self._awake = False
            if self._running is not None:  # begun saw it awake
                self._awake = True
                self._wake.set()

    def _look_while_it_runs(self) -> None:
        """Until nothing has run for a while."""
        watched, seen, quiet = None, 0, 0
        while not self._closed and quiet < self._quiet:
            time.sleep(self._limit_s / _LOOKS)
            running = self._running
            seen = seen + 1 if running is watched else 0
            quiet = quiet + 1 if running is None else 0
            if running is not watched:
                self._computed_s, self._seen = self._clock_s(), running
            watched = running
            if running is not None and seen >= _LOOKS and self._cut is not running:
                self._cut = running
                running.cancel()

    def _clock_s(self) -> float:
        """How long the thread that is watched has computed; NaN where nobody knows."""
        if self._clock is None:
            return math.nan
        try:
            return time.clock_gettime(self._clock)
        except OSError:  # it has ended
            return math.nan


def _clock_of(thread: int) -> int | None:
    """The clock of a thread that runs, where the system has such."""
    find = getattr(time, "pthread_getcpuclockid", None)
    return None if find is None else find(thread)
