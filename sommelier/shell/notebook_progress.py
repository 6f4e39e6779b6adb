"""Progress of a long statement in a notebook: one output that changes and is empty at the end."""

from __future__ import annotations

import html
from typing import Any

from IPython.display import DisplayHandle, display

from sommelier.shell.progress import Progress, Step, bar

WIDTH = 100  # columns of the text


class NotebookProgress(Progress):
    """In the output of a cell."""

    redraw_s = 0.25

    def __init__(self) -> None:
        super().__init__()
        self._handle: DisplayHandle | None = None

    def _show(self, step: Step, now: float) -> None:
        data = shown(step, now)
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)

    def _clear(self) -> None:
        if self._handle is not None:
            self._handle.update({"text/plain": "", "text/html": ""}, raw=True)


def shown(step: Step, now: float) -> dict[str, Any]:
    """A report as text and as HTML. now : s, of the clock of `step`."""
    text = bar(step, now, width=WIDTH)
    most = f' max="{step.total}" value="{step.done}"' if step.total else ""
    said = html.escape(text.replace("█", "").replace("░", ""))
    return {"text/plain": text, "text/html": f"<progress{most}></progress> <code>{said}</code>"}
