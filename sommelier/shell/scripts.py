"""Scripts cut into statements and dot commands, with the line each one starts on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sommelier.grammar.parser import is_complete, split_statements
from sommelier.shell.config import ConfigError

_COMMAND = re.compile(r"[.\\][A-Za-z?!]")
_BRINGS_MORE = re.compile(r"[.\\](read|i|run|n|watch|open|c|edit|e)\b")
_PARAMETER = re.compile(r"\$([A-Za-z_]\w*|\d+)")


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


def brings_more(item: Item) -> bool:
    """Whether the item is a command that runs statements which are not written in the script."""
    return item.is_command and _BRINGS_MORE.match(item.text) is not None


def parameters_in(text: str) -> set[str]:
    """Names after a `$`, those in quotes and comments too.

    >>> sorted(parameters_in("SELECT MODELS ON memory < $limit LIMIT $1"))
    ['1', 'limit']
    """
    return set(_PARAMETER.findall(text))


def check_parameters(given: Iterable[str], items: Sequence[Item]) -> None:
    """Raises ConfigError if a value was given for a name that nothing in the script mentions.

    A script that brings in others is not checked.
    """
    if any(brings_more(item) for item in items):
        return
    used = sorted(set().union(*(parameters_in(item.text) for item in items)))
    unused = [name for name in given if name not in used]
    if unused:
        import difflib

        raise ConfigError(
            f"no statement uses {', '.join(f'${name}' for name in unused)}",
            suggestions=tuple(f"${n}" for n in difflib.get_close_matches(unused[0], used, 3)),
            hint=f"used: {', '.join(f'${name}' for name in used) or 'none'}",
        )


def is_command(line: str) -> bool:
    """Whether a line typed where a statement could begin is a dot or backslash command.

    >>> is_command(".help"), is_command(r"\\d resnet50"), is_command("SELECT MODELS")
    (True, True, False)
    """
    return _COMMAND.match(line.lstrip()) is not None
