"""Progress of a long statement: a bar on stderr after half a second, or plain lines, or nothing."""

from __future__ import annotations

import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TextIO

from sommelier.shell.terminal import fit, is_terminal, paint, terminal_width, visible

DELAY_S = 0.5  # a statement that is faster shows nothing
REDRAW_S = 0.1
PLAIN_EVERY_S = 5.0
_BAR_WIDTH = 24
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


@dataclass(frozen=True, slots=True)
class Step:
    """What was reported last. started : when its phase began, seconds of the clock."""

    phase: str
    done: int
    total: int | None
    current: str | None
    started: float
    first: int  # `done` when the phase began, so that resumed work does not flatter the rate


class Progress(ABC):
    """Receives reports of one statement, from any thread, and draws them in a thread of its own; a
    statement that is faster than half a second shows nothing. Use as a context manager."""

    redraw_s = REDRAW_S

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, draws: bool = True) -> None:
        """draws : whether anything is drawn."""
        self._clock = clock
        self._step: Step | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="progress", daemon=True)
        self._draws = draws

    def __call__(
        self, phase: str, done: int, total: int | None = None, current: str | None = None
    ) -> None:
        """Take note of a report, which costs a tuple."""
        last, now = self._step, self._clock()
        if last is None or last.phase != phase or done < last.done:
            self._step = Step(phase, done, total, current, now, done)
        else:
            self._step = Step(phase, done, total, current, last.started, last.first)

    def __enter__(self) -> Self:
        if self._draws:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        if self._draws:
            self._thread.join()
        self._clear()

    def _draw(self) -> None:
        if self._stopped.wait(DELAY_S):
            return
        while True:
            if self._step is not None:
                self._show(self._step, self._clock())
            if self._stopped.wait(self.redraw_s):
                return

    @abstractmethod
    def _show(self, step: Step, now: float) -> None:
        """Draw what was reported last."""

    @abstractmethod
    def _clear(self) -> None:
        """Take away what was drawn, if anything was."""


class ProgressBar(Progress):
    """On a stream.

    mode : 'bar', 'plain' (a line per phase and every five seconds), 'none', or 'auto': a bar if
    the stream (stderr) is a terminal, else none.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        mode: str = "auto",
        colour: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream or sys.stderr
        automatic = "bar" if is_terminal(self._stream) else "none"
        self._mode = automatic if mode == "auto" else mode
        super().__init__(clock=clock, draws=self._mode == "bar")
        self._colour = colour
        self._drawn = False
        self._lock = threading.Lock()  # two threads write: the drawing one and who says something
        self._plain_at: float | None = None

    def __call__(
        self, phase: str, done: int, total: int | None = None, current: str | None = None
    ) -> None:
        """Take note of a report."""
        last = self._step
        super().__call__(phase, done, total, current)
        if self._mode == "plain":
            self._write_plain(self._clock(), new_phase=last is None or last.phase != phase)

    def say(self, text: str) -> None:
        """Writes a line of its own above the bar."""
        with self._lock:
            clear = "\r\x1b[K" if self._drawn else ""
            self._stream.write(f"{clear}{text}\n")
            self._stream.flush()

    def _show(self, step: Step, now: float) -> None:
        line = bar(step, now, width=terminal_width() - 1, colour=self._colour)
        with self._lock:
            self._stream.write(f"\r{line}\x1b[K")
            self._stream.flush()
            self._drawn = True

    def _clear(self) -> None:
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _write_plain(self, now: float, *, new_phase: bool) -> None:
        step = self._step
        due = self._plain_at is None or now - self._plain_at >= PLAIN_EVERY_S
        if step is None or not (new_phase or due or step.done == step.total):
            return
        self._plain_at = now
        self._stream.write(plain(step) + "\n")
        self._stream.flush()


def bar(step: Step, now: float, *, width: int, colour: bool = False) -> str:
    """One line of at most `width` columns: phase, bar, n/N, rate, ETA, what is being done.

    >>> bar(Step("sketch", 12, 48, "resnet20", 0.0, 0), 6.0, width=70)
    'sketch ██████░░░░░░░░░░░░░░░░░░ 12/48  2/s  ETA 0:18  resnet20'
    """
    elapsed = now - step.started
    rate = (step.done - step.first) / elapsed if elapsed > 0 else 0.0
    parts = [f"{step.done}/{step.total}" if step.total else _spinner(now) + f" {step.done}"]
    if rate > 0:
        parts.append(_rate(rate))
    if step.total and rate > 0 and step.done < step.total:
        parts.append(f"ETA {_clock_time((step.total - step.done) / rate)}")
    elif rate <= 0:
        parts.append(_clock_time(elapsed))
    if step.current:
        parts.append(visible(step.current))
    head = visible(step.phase) + " "
    drawn = _blocks(step.done / step.total) + " " if step.total else ""
    if len(head) + len(drawn) + len(parts[0]) > width:
        drawn = ""
    line = fit(head + drawn + "  ".join(parts), width)
    return line.replace(drawn, paint(drawn, "bar", colour), 1) if drawn and colour else line


def plain(step: Step) -> str:
    """The report as one line for a log.

    >>> plain(Step("sketch", 12, 48, "resnet20", 0.0, 0))
    'sketch 12/48 resnet20'
    """
    count = f"{step.done}/{step.total}" if step.total else str(step.done)
    return " ".join(visible(part) for part in (step.phase, count, step.current) if part)


def _blocks(share: float) -> str:
    return ("█" * int(max(0.0, min(1.0, share)) * _BAR_WIDTH)).ljust(_BAR_WIDTH, "░")


def _spinner(now: float) -> str:
    return _SPINNER[int(now * 10) % len(_SPINNER)]


def _rate(per_second: float) -> str:
    """
    >>> _rate(31.4), _rate(2.0), _rate(0.05)
    ('31/s', '2/s', '3/min')
    """
    if per_second >= 10:
        return f"{per_second:.0f}/s"
    if per_second >= 0.5:
        return f"{per_second:.1f}".removesuffix(".0") + "/s"
    return f"{per_second * 60:.1f}".removesuffix(".0") + "/min"


def _clock_time(seconds: float) -> str:
    """
    >>> _clock_time(18.4), _clock_time(3725)
    ('0:18', '1:02:05')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
