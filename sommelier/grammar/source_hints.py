"""Hints for mistakes in statements about repositories, and in EXPORT."""

from __future__ import annotations

import re
from collections.abc import Callable

from sommelier.grammar.expectations import END
from sommelier.grammar.situation import Situation


def _repository(s: Situation) -> str | None:
    types = [token.type for token in s.tokens]
    if types[:1] != ["CREATE"] or "REPOSITORY" not in types or "USING" in types:
        return None
    if s.accepts == {"TYPE"}:
        return f"write CREATE REPOSITORY {s.last_word} TYPE torchhub AT 'pytorch/vision'"
    if "AT" in s.accepts and s.kind == "STRING":
        return f"write AT {s.word}"
    if "AT" in s.accepts and s.upper in ("FROM", "TO", "ON", "IN"):
        return f"say where it is by AT {s.next_word or chr(39) + 'pytorch/vision' + chr(39)}"
    return None


def _export(s: Situation) -> str | None:
    if not s.tokens or s.tokens[0].type != "EXPORT":
        return None
    if s.accepts == {"MODEL"}:
        name = s.word if s.upper != "MODELS" else s.next_word
        return f"one model at a time: EXPORT MODEL {name or 'name'} TO 'file.onnx'"
    if s.accepts == {"TO"}:
        path = s.word if s.kind == "STRING" else "'file.onnx'"
        return f"write EXPORT MODEL {s.last_word} TO {path}"
    return None


def _late_like(s: Situation) -> str | None:
    """`SHOW MODELS WHERE ... LIKE '%net%'`: LIKE of the statement, behind what it stands before."""
    types = [token.type for token in s.tokens]
    behind = next((kind for kind in ("WHERE", "LIMIT", "USING") if kind in types), None)
    listed = {"SHOW", "IMPORT"} & set(types) and "SELECT" not in types
    if s.kind not in ("LIKE", "ILIKE") or behind is None or not listed or END not in s.accepts:
        return None
    pattern = re.compile(r"\s*('[^']*')").match(s.text, s.start + len(s.word))
    text = pattern[1] if pattern else "'...'"
    condition = f", or is a condition: AND name {s.upper} {text}" if behind == "WHERE" else ""
    return f"LIKE {text} stands before {behind}{condition}"


SOURCE_RULES: tuple[Callable[[Situation], str | None], ...] = (_repository, _export, _late_like)
