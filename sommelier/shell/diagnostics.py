"""Errors as a person reads them: what is wrong, a caret under it, what would work instead."""

from __future__ import annotations

import os
import traceback
from dataclasses import dataclass

from sommelier.errors import CancelledError, QueryError, SommelierError
from sommelier.shell.terminal import display_width, paint, visible, wrap

_SMALLEST_WINDOW = 24  # columns of a long source line that are always shown around the caret


class SystemRefusalError(SommelierError):
    """The operating system refused a file or a device, in its own words."""

    code = "system"
    title = "System Error"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a statement came from: a script's name and the line it starts on."""

    name: str
    line: int


def render_error(
    error: BaseException,
    *,
    colour: bool = False,
    width: int | None = None,
    origin: Origin | None = None,
) -> str:
    """The lines to print for an error, without a final newline.

    width : columns available; a longer source line is cut around the caret. origin : adds
    `script.sql:17:5:` in front and counts lines from the script's start.
    """
    if isinstance(error, OSError):
        error = SystemRefusalError(_refusal(error))
    if not isinstance(error, SommelierError):
        return _internal_error(error, colour)
    if isinstance(error, CancelledError):
        message = visible(error.message)
        titled = message.lower().startswith(error.title.lower())
        shown = message[:1].upper() + message[1:] if titled else f"{error.title}: {message}"
        hint = [f"Hint: {_paragraph(error.hint)}"] if error.hint else []
        return "\n".join(paint(line, "note", colour) for line in (shown, *hint))
    lines = [_place(error, origin) + paint(f"{error.title}:", "error", colour)]
    lines[0] += " " + _paragraph(error.message)
    if isinstance(error, QueryError):
        lines += _excerpt(error, origin, width, colour)
    if error.suggestions:
        lines.append(paint(f"Did you mean {_either(error.suggestions)}?", "suggestion", colour))
    if isinstance(error, QueryError) and error.expected:
        lines.append(wrap(f"Expected: {', '.join(error.expected)}", width))
    if error.hint:
        lines.append(paint(wrap(f"Hint: {_paragraph(error.hint)}", width), "hint", colour))
    return "\n".join(lines)


def _place(error: SommelierError, origin: Origin | None) -> str:
    if origin is None:
        return ""
    if isinstance(error, QueryError) and error.span is not None:
        return f"{origin.name}:{origin.line + error.span.line - 1}:{error.span.column}: "
    return f"{origin.name}:{origin.line}: "


def _excerpt(
    error: QueryError, origin: Origin | None, width: int | None, colour: bool
) -> list[str]:
    """The line at fault and the caret line below it; nothing when the error has no place."""
    if error.text is None or error.span is None:
        return []
    sources = error.text.splitlines() or [""]
    source = sources[min(error.span.line, len(sources)) - 1]
    start = min(error.span.column - 1, len(source))
    end = min(max(error.span.end - error.span.start, 1) + start, max(len(source), start + 1))
    number = error.span.line + (origin.line - 1 if origin else 0)
    label = f"LINE {number}: "
    before, marked, after = source[:start], source[start:end], source[end:]
    if width is not None:
        before, marked, after = _window(before, marked, after, width - len(label))
    # A tab or a control character takes one column here, so that the caret stays below its word.
    before, marked, after = (_flat(part) for part in (before, marked, after))
    indent = " " * (len(label) + display_width(before))
    carets = "^" * max(1, display_width(marked))
    return [
        paint(label, "label", colour) + before + marked + after,
        indent + paint(carets, "caret", colour),
    ]


def _window(before: str, marked: str, after: str, room: int) -> tuple[str, str, str]:
    """The three parts cut to `room` columns, the marked words kept in view."""
    room = max(room, _SMALLEST_WINDOW)
    if len(before) + len(marked) + len(after) <= room:
        return before, marked, after
    marked = marked if len(marked) < room - 8 else marked[: room - 9] + "…"
    left = min(len(before), max(4, (room - len(marked)) * 2 // 3))
    if len(before) > left:
        before = "…" + before[len(before) - left + 1 :]
    rest = room - len(before) - len(marked)
    if len(after) > rest:
        after = after[: max(0, rest - 1)] + "…"
    return before, marked, after


def _flat(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _paragraph(text: str) -> str:
    """The message line by line, control characters spelled out."""
    return "\n".join(visible(line) for line in text.splitlines()) or "(no message)"


def _either(names: tuple[str, ...]) -> str:
    quoted = [f"'{visible(name)}'" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def _refusal(error: OSError) -> str:
    reason = (error.strerror or str(error)).lower()
    return f"{error.filename}: {reason}" if error.filename else reason


def _internal_error(error: BaseException, colour: bool) -> str:
    what = f" {type(error).__name__}: {visible(str(error))}"
    lines = [paint("Internal Error:", "error", colour) + what]
    if os.environ.get("SOMMELIER_DEBUG"):
        lines += "".join(traceback.format_exception(error)).rstrip().splitlines()
    else:
        lines.append("Hint: this is a bug; SOMMELIER_DEBUG=1 shows where it happened")
    return "\n".join(lines)
