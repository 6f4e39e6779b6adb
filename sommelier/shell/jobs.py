"""Background jobs in the shell: told of when they end, and asked about before the shell leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from sommelier.shell.exits import ExitCode
from sommelier.shell.interrupt import AbandonedError, run_cancellable
from sommelier.shell.progress import ProgressBar
from sommelier.shell.terminal import fit, paint, terminal_width, visible, wrap
from sommelier.units import Dimension, format_value

if TYPE_CHECKING:
    from sommelier.records import Job
    from sommelier.shell.session import ShellSession

_LOOK_EVERY_S = 0.2
_STYLES = {"done": "suggestion", "failed": "error"}


def announce(session: ShellSession) -> list[Job]:
    """Tells of the background jobs that ended since this was last called; those jobs."""
    jobs = session.connection.background.ended() if session.is_open else []
    for job in jobs:
        style = _STYLES.get(job.state, "hint")
        session.console.talk(fit(ended(job), terminal_width()), style)
        if job.reason:
            session.console.talk(wrap(f"  {visible(job.reason)}", terminal_width()))
    return jobs


def ended(job: Job) -> str:
    """A line such as `[7] done in 12.4 s: CREATE MODEL audio_multi AS FUSION OF ...`."""
    took = ""
    if job.finished_at is not None:
        elapsed_ms = (job.finished_at - job.started_at).total_seconds() * 1e3
        took = f" {'in' if job.state == 'done' else 'after'}"
        took += f" {format_value(elapsed_ms, Dimension.TIME)}"
    return f"[{job.id}] {job.state}{took}: {visible(job.statement)}"


def finish(session: ShellSession) -> None:
    """Waits for the background jobs of a script, whose first Ctrl-C cancels them.

    The session's exit code says if one failed or was cancelled. After a statement that was stopped
    by Ctrl-C nobody wants to wait: closing interrupts them.
    """
    if not session.is_open or session.exit_code == ExitCode.INTERRUPTED:
        return
    background = session.connection.background
    running = background.running()
    if running and not session.quiet:
        session.console.talk(f"waiting for {_called(running)}; Ctrl-C cancels", "note")
    stopped = bool(running) and not _wait(session, on_ctrl_c=background.stop)
    jobs = announce(session)
    if stopped:
        session.exit_code = ExitCode.INTERRUPTED
    elif any(job.state == "failed" for job in jobs):
        session.exit_code = ExitCode.QUERY_ERROR


def may_leave(session: ShellSession) -> bool:
    """Whether a person who wants to leave is to: asked when background jobs run."""
    if not session.is_open or not (running := session.connection.background.running()):
        return True
    if session.ask is None:
        finish(session)
        return True
    which = _called(running)
    verb = "is" if len(running) == 1 else "are"
    question = f"{which} {verb} running. Leave: [w]ait, [s]top, or stay? [w/s/N] "
    answer = session.ask(question).strip().lower()
    if answer in ("s", "stop"):
        return True  # closing the connection stops them
    if answer in ("w", "wait"):
        waiting_ended = _wait(session, on_ctrl_c=None)
        announce(session)
        if waiting_ended:
            return True
    session.console.talk(f"leave once more to stop {which}", "note")
    return False


def _wait(session: ShellSession, *, on_ctrl_c: Callable[[], None] | None) -> bool:
    """Whether the background jobs ended without a Ctrl-C; None: that ends the waiting only."""
    background = session.connection.background
    pressed = threading.Event()

    def press() -> None:
        pressed.set()
        if on_ctrl_c is not None:
            on_ctrl_c()

    def look() -> None:
        for job in background.running():
            while not (pressed.is_set() and on_ctrl_c is None):
                if background.wait(job.id, _LOOK_EVERY_S, progress=bar).state != "running":
                    break

    console = session.console
    bar = ProgressBar(console.err, mode=session.config.progress, colour=console.talk_colour)
    cancelling = paint("cancelling ... (Ctrl-C again leaves at once)", "note", console.talk_colour)
    try:
        with bar:
            run_cancellable(look, cancel=press, announce=lambda: bar.say(cancelling))
    except AbandonedError:
        session.abandon()
        raise
    return not pressed.is_set()


def _called(jobs: list[Job]) -> str:
    numbers = ", ".join(str(job.id) for job in jobs)
    return f"job {numbers}" if len(jobs) == 1 else f"jobs {numbers}"
