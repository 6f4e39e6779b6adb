"""Where the shell writes: answers to stdout or a file, talk to stderr, both to a log if asked."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from sommelier.shell.terminal import is_terminal, paint, terminal_height, wants_colour

_ANSI = re.compile(r"\x1b\[[0-9;]*[mK]")
_PAGED = "less"
_LESS = "SRXF"  # chop long lines, keep colours and screen, leave at once if all fits


class Console:
    """The shell's streams. `once` and `output` send answers to a file instead of stdout."""

    def __init__(
        self, out: TextIO | None = None, err: TextIO | None = None, *, color: str = "auto"
    ) -> None:
        self.out = out or sys.stdout
        self.err = err or sys.stderr
        self.color = color
        self._file: TextIO | None = None
        self._only_next = False
        self._log: TextIO | None = None
        for stream in (self.out, self.err):
            if hasattr(stream, "reconfigure"):  # odd names must not stop an answer
                stream.reconfigure(errors="backslashreplace")

    @property
    def answers_to_terminal(self) -> bool:
        """Whether a person sees the answers, not a pipe or a file."""
        return self._file is None and is_terminal(self.out)

    @property
    def colour(self) -> bool:
        """Whether answers may have colours."""
        return self._file is None and wants_colour(self.color, self.out)

    @property
    def talk_colour(self) -> bool:
        """Whether messages may have colours."""
        return wants_colour(self.color, self.err)

    def answer(self, pieces: Iterable[str], *, pager: str | None = None) -> None:
        """Writes data. pager : a command that shows it when it is higher than the terminal.

        Raises BrokenPipeError when the reader of stdout went away.
        """
        if pager is not None and self.answers_to_terminal:
            text = "".join(pieces)
            pieces = [text]
            if text.count("\n") >= terminal_height() - 2 and _page(text, pager):
                self._record(text)
                return
        target = self._file or self.out
        for piece in pieces:
            target.write(piece)
            self._record(piece)
        target.flush()
        if self._only_next:
            self.output(None)

    def talk(self, text: str, style: str | None = None) -> None:
        """Writes a message for the person, after the answers written so far."""
        self.out.flush()
        line = paint(text, style, self.talk_colour) if style else text
        self.err.write(line + "\n")
        self.err.flush()
        self._record(line + "\n")

    def output(self, path: str | None, *, once: bool = False) -> None:
        """Sends answers to the file `path` (the next one only with once); None: to stdout."""
        file = Path(path).expanduser().open("w", encoding="utf-8") if path is not None else None
        if self._file is not None:
            self._file.close()
        self._file, self._only_next = file, once

    def log(self, path: str | None) -> None:
        """Appends everything written from now on to the file `path`; None ends it."""
        file = Path(path).expanduser().open("a", encoding="utf-8") if path is not None else None
        if self._log is not None:
            self._log.close()
        self._log = file

    def note_statement(self, text: str) -> None:
        """Writes a statement to the log, if there is one."""
        self._record(f"> {text.strip()}\n")

    def close(self) -> None:
        """Closes the files of output and log."""
        self.output(None)
        self.log(None)

    def _record(self, text: str) -> None:
        if self._log is not None:
            self._log.write(_ANSI.sub("", text))
            self._log.flush()


def pager_command(setting: str) -> str | None:
    """The pager to use for the setting 'auto', 'off' or a command; None = none.

    >>> pager_command("off") is None, pager_command("more -d")
    (True, 'more -d')
    """
    if setting == "off":
        return None
    import shutil

    return setting if setting != "auto" else shutil.which(_PAGED)


def _page(text: str, command: str) -> bool:
    """Whether the pager could be started; it has then shown the text."""
    import shlex
    import subprocess

    environ = {"LESS": _LESS} | dict(os.environ)
    try:
        process = subprocess.Popen(
            shlex.split(command), stdin=subprocess.PIPE, env=environ, text=True, encoding="utf-8"
        )
    except (OSError, ValueError):
        return False
    try:
        process.communicate(text)
    except BrokenPipeError:  # quit before the end
        process.wait()
    return True
