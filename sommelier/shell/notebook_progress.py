"""Progress of a long statement in a notebook: one output that changes and is empty at the end."""

from __future__ import annotations

import html
import threading
import time
from types import TracebackType
from typing import Any

from IPython.display import DisplayHandle, display

from sommelier.shell.progress import DELAY_S, Step, bar, next_step

REDRAW_S = 0.25
WIDTH = 100  # columns of the text


class NotebookProgress:
    """Receives reports of one statement, from any thread; use as a context manager. A statement
    that is faster than half a second shows nothing."""

    def __init__(self) -> None:
        self._step: Step | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="progress", daemon=True)
        self._handle: DisplayHandle | None = None

    def __call__(
        self, phase: str, done: int, total: int | None = None, current: str | None = None
    ) -> None:
        """Take note of a report."""
        self._step = next_step(self._step, (phase, done, total, current), time.monotonic())

    def __enter__(self) -> NotebookProgress:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()
        if self._handle is not None:
            self._handle.update({"text/plain": "", "text/html": ""}, raw=True)

    def _draw(self) -> None:
        if self._stopped.wait(DELAY_S):
            return
        while True:
            if self._step is not None:
                self._show(shown(self._step, time.monotonic()))
            if self._stopped.wait(REDRAW_S):
                return

    def _show(self, data: dict[str, str]) -> None:
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


def shown(step: Step, now: float) -> dict[str, Any]:
    """A report as text and as HTML. now : s, of the clock of `step`."""
    text = bar(step, now, width=WIDTH)
    most = f' max="{step.total}" value="{step.done}"' if step.total else ""
    said = html.escape(text.replace("█", "").replace("░", ""))
    return {"text/plain": text, "text/html": f"<progress{most}></progress> <code>{said}</code>"}
