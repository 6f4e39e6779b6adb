"""What the shell knows of the terminal: is there one, how wide is it, may it have colours."""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from collections.abc import Mapping
from typing import TextIO

_STYLES = {
    "error": "1;31",
    "caret": "1;31",
    "label": "2",
    "suggestion": "32",
    "hint": "36",
    "head": "1",
    "null": "2",
    "frame": "2",
    "note": "2",
    "bar": "32",
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_ZERO_WIDTH = ("Mn", "Me", "Cf")


def is_terminal(stream: TextIO) -> bool:
    """Whether a person reads (or types) at the other end of `stream`."""
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def wants_colour(choice: str, stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether to colour what goes to `stream`.

    choice : auto, always or never; auto follows NO_COLOR (no-color.org), FORCE_COLOR, then
    whether the stream is a terminal that is not dumb.
    """
    if choice != "auto":
        return choice == "always"
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR"):
        return True
    return is_terminal(stream) and environ.get("TERM") != "dumb"


def paint(text: str, style: str, colour: bool) -> str:
    """The text in one of the shell's styles, unchanged when colours are off.

    >>> paint("no", "error", True), paint("no", "error", False)
    ('\\x1b[1;31mno\\x1b[0m', 'no')
    """
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if colour and text else text


def terminal_width(default: int = 80) -> int:
    """Columns of the terminal; COLUMNS wins, `default` where there is none."""
    return max(20, shutil.get_terminal_size((default, 24)).columns)


def terminal_height(default: int = 24) -> int:
    """Lines of the terminal; LINES wins."""
    return shutil.get_terminal_size((80, default)).lines


def visible(text: str) -> str:
    """The text with control and direction-changing characters spelled out, on one line.

    A model's name comes from a stranger's file: it must not move the cursor or recolour the screen.

    >>> visible("a\\x1b[2Jb"), visible("two\\nlines")
    ('a\\\\x1b[2Jb', 'two\\\\nlines')
    """
    return _CONTROL.sub(_spell, text)


def _spell(match: re.Match[str]) -> str:
    named = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
    code = ord(match[0])
    return named.get(match[0], f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def display_width(text: str) -> int:
    """Columns the text takes on a terminal: 2 for wide East Asian characters, 0 for accents.

    >>> display_width("model"), display_width("模型"), display_width("e\\u0301")
    (5, 4, 1)
    """
    if text.isascii():
        return len(text)
    return sum(_character_width(character) for character in text)


def fit(text: str, width: int) -> str:
    """The text cut to `width` columns; an ellipsis stands for what is gone.

    Prose loses its end, a single word its middle: names and paths differ at both ends.

    >>> fit("two words", 6), fit("magika_v2_1", 7), fit("resnet", 6), fit("模型库", 4)
    ('two w…', 'mag…2_1', 'resnet', '模…')
    """
    if display_width(text) <= width:
        return text
    if " " in text:
        return _head(text, width - 1) + "…"
    tail = _head(text[::-1], (width - 1) // 2)[::-1]
    return _head(text, width - 1 - display_width(tail)) + "…" + tail


def _head(text: str, width: int) -> str:
    used = 0
    for index, character in enumerate(text):
        used += _character_width(character)
        if used > width:
            return text[:index]
    return text


def wrap(text: str, width: int | None) -> str:
    """The text broken between words, so that no line is wider than `width`; None: as it is.

    >>> wrap("a note of some length", 12)
    'a note of\\n  some\\n  length'
    """
    if width is None or len(text) <= width:
        return text
    import textwrap

    lines = textwrap.wrap(
        text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines)


def pad(text: str, width: int, *, right: bool = False) -> str:
    """The text filled with spaces to `width` columns, on its left when `right`-aligned."""
    space = " " * max(0, width - display_width(text))
    return space + text if right else text + space


def _character_width(character: str) -> int:
    if unicodedata.category(character) in _ZERO_WIDTH:
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
