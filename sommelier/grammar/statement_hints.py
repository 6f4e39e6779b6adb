"""Hints for mistakes in statements other than SELECT, and for whole clauses that are not here."""

from __future__ import annotations

import re
from collections.abc import Callable

from sommelier.grammar.situation import Situation
from sommelier.grammar.vocabulary import CATALOG_VIEWS


def _view_is_read(s: Situation) -> str | None:
    """`SHOW EQUIVALENCES`: what SHOW does not list, a view of catalog SQL does."""
    first = s.tokens[0] if s.tokens else None
    if first is None or first.type != "SHOW" or len(s.tokens) > 2:
        return None
    name, last = s.word.lower(), s.last_word.lower()
    if s.accepts == {"OF"} and last in CATALOG_VIEWS:
        return f"write SHOW {last.upper()} OF resnet50; all of them: SELECT * FROM {last}"
    if name == "tables":
        return "SHOW TABLES stands alone; it lists what catalog SQL can read"
    return f"write SELECT * FROM {name}" if name in CATALOG_VIEWS else None


def file_as_reference(s: Situation) -> str | None:
    """`CORR FILE 'x.onnx'`: how a file becomes a reference."""
    before = s.tokens[-2].type if len(s.tokens) > 1 else ""
    if before == "CORR" and s.last_word.upper() == "FILE" and s.kind == "STRING":
        stem = re.split(r"[/\\\\]", s.word.strip("'"))[-1].rsplit(".", 1)[0]
        name = stem if re.fullmatch(r"[^\W\d][\w-]*", stem) else "x"
        return f"write REGISTER MODEL {name} FROM {s.word} first, then CORR {name}"
    return None


def _compare_more(s: Situation) -> str | None:
    if s.word != "," or not s.tokens or s.tokens[0].type != "COMPARE":
        return None
    pair = f"COMPARE {s.tokens[1]} WITH"
    if s.last is not None and len(s.tokens) == 4:
        third = s.next_word or "another"
        return f"two models are compared at a time: {pair} {s.last_word}; {pair} {third}"
    return "two models are compared at a time: COMPARE a WITH b" if len(s.tokens) == 2 else None


def _explain_options(s: Situation) -> str | None:
    types = [token.type for token in s.tokens]
    if types[:1] != ["EXPLAIN"] or "SELECT" in types:
        return None
    if s.upper == "FORMAT":
        return "options are in parentheses: EXPLAIN (FORMAT json) SELECT MODELS ..."
    if s.accepts == {"COMMA", "RPAR"}:
        return "options are parted by commas: EXPLAIN (ANALYZE, FORMAT json) SELECT MODELS ..."
    return None


STATEMENT_RULES: tuple[Callable[[Situation], str | None], ...] = (
    file_as_reference,
    _compare_more,
    _view_is_read,
    _explain_options,
)
