"""Docstrings of this project, which are plain text, as the markup that Sphinx reads."""

from __future__ import annotations

import inspect
import re
from typing import Any

from sommelier import errors

_EXCEPTIONS = [
    name
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, Exception)
]
_RAISED = re.compile(rf"\b({'|'.join(_EXCEPTIONS)})\b")
_LITERAL = re.compile(r"(`[^`]+`)")
_SPECIAL = re.compile(r"[*|]|(?<=\w)_(?!\w)")
_PARAMETER = re.compile(r"(?:^|(?<=[.;)`'} ] ))(\w+) : ")
_RAISES = re.compile(r"(?:^|(?<=\. ))(?=Raises [A-Z])")
_STATEMENT = re.compile(r"[A-Z]{3,} ")


def restructured(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Replaces the lines of a docstring; what Sphinx calls for each of them."""
    if any(lines):
        lines[:] = markup("\n".join(lines), parameters(obj)).split("\n")


def skip_constructor(
    app: Any, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """True for what makes an object: users get theirs from `connect` and what it hands out."""
    return True if name in ("__init__", "__new__") else None


def parameters(obj: Any) -> frozenset[str]:
    """The names of what a function takes; none for anything else."""
    try:
        return frozenset(inspect.signature(obj).parameters)
    except (TypeError, ValueError):
        return frozenset()


def markup(text: str, names: frozenset[str] = frozenset()) -> str:
    """reStructuredText of a plain docstring; names : of the parameters it may explain.

    >>> print(markup("The rows.  count : at most so many. Raises ParserError at once.", {"count"}))
    The rows.
    <BLANKLINE>
    :param count: at most so many.
    <BLANKLINE>
    Raises :py:exc:`~sommelier.errors.ParserError` at once.
    <BLANKLINE>
    >>> print(markup("See `path` of *args."))
    See ``path`` of \\*args.
    <BLANKLINE>
    """
    return "\n".join(_block(block, names) for block in re.split(r"\n\s*\n", text.strip("\n")))


def _block(block: str, names: frozenset[str]) -> str:
    if block.lstrip().startswith(">>>"):
        return block + "\n"
    if all(line.startswith("    ") for line in block.splitlines()):
        language = "sql" if _STATEMENT.match(block.lstrip()) else "text"
        return f".. code-block:: {language}\n\n{block}\n"
    return _paragraph(" ".join(block.split()), names)


def _paragraph(text: str, names: frozenset[str]) -> str:
    """Sentences, then what is said of parameters, then what is raised."""
    text, *raised = (
        _RAISES.split(text, maxsplit=1) if not text.startswith("Raises ") else ("", text)
    )
    said, *rest = _PARAMETER.split(text)
    parts = [_inline(said.strip())] if said.strip() else []
    fields = []
    for parameter, sentence in zip(rest[::2], rest[1::2], strict=True):
        if parameter in names:
            fields.append(f":param {parameter}: {_inline(sentence.strip())}")
        else:
            fields.append(f"``{parameter}`` : {_inline(sentence.strip())}\n")
    if fields:
        parts.append("\n".join(fields))
    parts.extend(_inline(sentence.strip()) for sentence in raised)
    return "\n\n".join(parts) + "\n"


def _inline(text: str) -> str:
    """Literals between double backticks, our exceptions as links, nothing else as markup."""
    pieces = []
    for piece in _LITERAL.split(text):
        if _LITERAL.fullmatch(piece):
            pieces.append(f"`{piece}`")
        else:
            plain = _SPECIAL.sub(r"\\\g<0>", piece)
            pieces.append(_RAISED.sub(r":py:exc:`~sommelier.errors.\1`", plain))
    return "".join(pieces)
