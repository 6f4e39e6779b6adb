"""Scripts cut into statements and dot commands, with the line each one starts on."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sommelier.grammar.parser import is_complete, split_statements

_COMMAND = re.compile(r"[.\\][A-Za-z?!]")


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to do. line : where it starts in its script, from 1."""

    text: str
    line: int
    is_command: bool


class ScriptReader:
    """Takes a script line by line and hands back what became complete.

    A line that starts with `.` or `\\` where a statement could begin is a command and ends with
    its line; a statement ends with `;`.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._next_line = 1
        self._first_line = 1

    def feed(self, line: str) -> list[Item]:
        """What `line` (one line of the script, with or without its end) completes."""
        number = self._next_line
        self._next_line += 1
        line = line.rstrip("\r\n")
        if not self._lines:
            self._first_line = number
            if is_command(line):
                return [Item(line.strip(), number, True)]
            if not line.strip():
                return []
        self._lines.append(line)
        return self.finish() if is_complete("\n".join(self._lines)) else []

    def finish(self) -> list[Item]:
        """What is left at the end of the script; its last statement needs no `;`."""
        text, self._lines = "\n".join(self._lines), []
        items, position = [], 0
        for statement in split_statements(text):
            start = max(text.find(statement, position), position)
            lead = len(statement) - len(statement.lstrip())
            line = self._first_line + text.count("\n", 0, start + lead)
            position = start + len(statement)
            items.append(Item(statement.strip(), line, False))
        return items


def read_script(text: str) -> list[Item]:
    """Everything a script does, in order."""
    reader = ScriptReader()
    items = [item for line in text.splitlines() for item in reader.feed(line)]
    return items + reader.finish()


def is_command(line: str) -> bool:
    """Whether a line typed where a statement could begin is a dot or backslash command.

    >>> is_command(".help"), is_command(r"\\d resnet50"), is_command("SELECT MODELS")
    (True, True, False)
    """
    return _COMMAND.match(line.lstrip()) is not None
