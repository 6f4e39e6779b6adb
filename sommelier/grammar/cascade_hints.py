"""Hints for mistakes in statements about cascades."""

from __future__ import annotations

import re
from collections.abc import Callable

from sommelier.grammar.expectations import END, asked_for
from sommelier.grammar.situation import Situation

_NAME = r"""(?:[$\w][\w.]*(?:[-/:@][\w.]+)*|"[^"]*")"""
_BETWEEN = r"(?:\s*(?:->|,)\s*|\s+TO\s+)"
_LISTED = re.compile(
    rf"\b(?:FROM|CASCADES?(?:\s+{_NAME}\s+AS)?)\s+(?!FROM\b)({_NAME}(?:{_BETWEEN}{_NAME})+)",
    re.IGNORECASE,
)
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")


def _turns(s: Situation) -> str:
    """The models in turn as they were meant: 'a TO b'."""
    found = _LISTED.search(s.text)
    return " TO ".join(re.split(_BETWEEN, found[1], flags=re.IGNORECASE)) if found else "a TO b"


def _create(s: Situation) -> str | None:
    types = [token.type for token in s.tokens]
    if types[:1] != ["CREATE"] or "CASCADE" not in types or "USING" in types:
        return None
    named = _LISTED.search(s.text)
    if s.word in ("-", "->", ">", ",") and "FROM" in types:
        return f"write FROM {_turns(s)}"
    if "FROM" not in types:
        bare = s.kind == END or named is None
        return "write CREATE CASCADE name FROM a TO b" if bare else _whole(s)
    if s.accepts <= {"TO"}:
        return f"name the model that is trusted: FROM {s.last_word} TO b"
    if s.upper == "ON" and "USING" in s.accepts:
        return "samples are named with USING dataset = 'name'"
    return _promise(s)


def _whole(s: Situation) -> str:
    return f"write CREATE CASCADE FROM {_turns(s)}"


def _promise(s: Situation) -> str | None:
    """`WITHIN 1% ACCURACY`, `WITHIN 1% OF EQUIVALENCE`."""
    if s.accepts == {"ACCURACY", "AGREEMENT"}:
        return "what may be lost: OF ACCURACY, or OF AGREEMENT with the last model"
    if s.upper in ("ACCURACY", "AGREEMENT") and "OF" in s.accepts:
        return f"write WITHIN {s.last_word} OF {s.upper}"
    return None


def _select(s: Situation) -> str | None:
    if asked_for(s.tokens) != "CASCADES":
        return None
    if s.last_type == "MODEL_NAME" and s.kind in ("PERCENT", "CMP", "AGREEMENT", "ACCURACY"):
        found = _PERCENT.search(s.text, s.start)
        share = "1" if found is None else f"{100 - float(found[1]):g}"
        return f"write WITHIN {share}% OF {'AGREEMENT' if s.kind == 'AGREEMENT' else 'ACCURACY'}"
    return _promise(s)


def _other(s: Situation) -> str | None:
    """`CASCADE a TO b`, `SHOW CASCADE n`, `EXPLAIN CASCADES`."""
    types = [token.type for token in s.tokens]
    if not types and s.upper in ("CASCADE", "CASCADES"):
        return _whole(s)
    if types == ["SHOW"] and s.upper == "CASCADE":
        return f"SHOW CASCADES lists them; one of them: DESCRIBE CASCADE {s.next_word or 'n'}"
    if types == ["EXPLAIN"] and s.upper == "CASCADES":
        return "write EXPLAIN SELECT CASCADES, or EXPLAIN CASCADE name"
    return None


CASCADE_RULES: tuple[Callable[[Situation], str | None], ...] = (_create, _select, _other)
