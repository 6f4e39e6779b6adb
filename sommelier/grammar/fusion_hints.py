"""Hints for mistakes in statements about fusions, and about what runs in the background."""

from __future__ import annotations

import re
from collections.abc import Callable

from sommelier.grammar.expectations import END, asked_for
from sommelier.grammar.link_hints import names_at
from sommelier.grammar.situation import Situation

_FUSION = re.compile(r"\bFUSIONS?\b(?:\s+(?:OF|FROM|FOR|WITH)\b)?\s*\(?", re.IGNORECASE)
_MODEL = re.compile(
    r"CREATE\b(?:\s+OR\s+REPLACE)?\s+MODEL\b(?:\s+IF\s+NOT\s+EXISTS)?\s+(\S+)", re.IGNORECASE
)
_PERCENT = re.compile(r"\d+(?:\.\d+)?\s*%")
_NAMES = ("MODEL_NAME", "IDENT", "STRING")
_CLAUSES = ("WHERE", "ON", "ORDER", "LIMIT", "USING")
_BEHIND_NAMES = frozenset(("", "WITHIN", "FOR", "ASYNC", *_CLAUSES))


def _statement(s: Situation) -> str | None:
    """`FUSION OF a, b`, `CREATE FUSION x OF a, b`, `CREATE MODEL x FUSION OF a, b`."""
    types = [token.type for token in s.tokens]
    if not types and s.upper in ("FUSION", "FUSIONS", "FUSE"):
        start = s.start + len(s.word) if s.upper == "FUSE" else _after_fusion(s)
        return f"write CREATE MODEL name AS FUSION OF {names_at(s.text, start)}"
    if types[:1] != ["CREATE"] or s.upper not in ("FUSION", "FUSIONS"):
        return None
    if "MODEL" in s.accepts:
        return "write CREATE MODEL name AS FUSION OF a, b"
    if s.accepts == {"AS"} or "FUSION" in s.accepts:
        named = _MODEL.search(s.text)
        name = named[1] if named else "name"
        return f"write CREATE MODEL {name} AS FUSION OF {names_at(s.text, _after_fusion(s))}"
    return None


def _select(s: Situation) -> str | None:
    """`SELECT FUSIONS FROM a, b`, `SELECT FUSIONS a, b`, `SELECT FUSIONS OF a b`."""
    if asked_for(s.tokens) != "FUSIONS":
        return None
    types = [token.type for token in s.tokens]
    if "OF" not in types:
        unnamed = s.kind in (END, *_NAMES, *_CLAUSES)
        return "name the models: SELECT FUSIONS OF a, b" if unnamed else None
    if s.upper == "WITHIN":
        return f"write WHERE accuracy_drop < {_percent(s)}"
    if s.kind == "ON_CONTEXT" and "ON" in s.accepts:
        return "a device belongs to a limit: ON latency < 30 ms ON 'cpu'"
    return _between_models(s, types)


def _between_models(s: Situation, types: list[str]) -> str | None:
    """Where a comma is missing, or not meant, in `OF a b` and `OF POOL p, b`."""
    if s.word == "," and types[-3:] == ["OF", "POOL", "MODEL_NAME"]:
        return "a fusion is of one pool, or of models: OF a, b"
    if s.kind in ("MODEL_NAME", "IDENT") and "ON" in s.accepts and "COMMA" in s.accepts:
        listed = s.last_type in _NAMES and s.next_word.upper() in _BEHIND_NAMES
        return f"names are parted by commas: {s.last_word}, {s.word}" if listed else None
    return None


def _recipe(s: Situation) -> str | None:
    """What stands wrongly behind `CREATE MODEL x AS FUSION`."""
    types = [token.type for token in s.tokens]
    if types[:1] != ["CREATE"] or "FUSION" not in types:
        return None
    if s.last_type == "FUSION":
        return f"write AS FUSION OF {names_at(s.text, _after_fusion(s))}"
    if s.accepts == {"ACCURACY"}:
        return "a fusion is held to what each task loses: WITHIN 1% OF ACCURACY"
    if s.accepts == {"MEMORY"}:
        return "FOR MEMORY shares equal layers alone; limits are given ON latency < 60%"
    if s.upper == "WHERE":
        return f"write WITHIN {_percent(s)} OF ACCURACY"
    if "USING" in types and s.kind in ("WITHIN", "ON", "FOR"):
        return f"USING stands behind {s.upper}"
    return _between_models(s, types)


def _percent(s: Situation) -> str:
    """The percentage behind the word at fault, or one for example."""
    found = _PERCENT.search(s.text, s.start)
    return found.group() if found else "1%"


def _after_fusion(s: Situation) -> int:
    """Where the names behind the word FUSION would stand."""
    found = _FUSION.search(s.text)
    return found.end() if found else s.start


def _background(s: Situation) -> str | None:
    if s.last_type == "ASYNC" and s.kind != END:
        return "ASYNC stands at the end of the statement"
    if s.upper != "ASYNC":
        return None
    return "ANALYZE ... and CREATE MODEL name AS FUSION OF a, b ... take ASYNC, no other statement"


def _cancel(s: Situation) -> str | None:
    types = [token.type for token in s.tokens]
    if types[:1] != ["CANCEL"]:
        return None
    if s.last_type == "CANCEL":
        return f"write CANCEL JOB {s.word if s.kind == 'INT' else '7'}; SHOW JOBS lists them"
    if s.last_type == "JOB":
        return "a job has a number; SHOW JOBS lists them"
    return "one job is cancelled at a time" if s.word == "," else None


def _fused_model(s: Situation) -> str | None:
    """A fused model is a model: `DROP FUSION m`, `SHOW FUSION m`; `EXPLAIN FUSIONS OF a, b`."""
    types = [token.type for token in s.tokens]
    name = s.next_word or "m"
    if types == ["EXPLAIN"] and s.upper == "FUSIONS":
        return f"write EXPLAIN SELECT FUSIONS OF {names_at(s.text, _after_fusion(s))}"
    if types[:2] == ["EXPLAIN", "FUSION"] and len(types) == 3:
        if s.last_word.upper() != "OF" and s.word != ",":
            return None
        return "EXPLAIN FUSION tells of one fused model; candidates: SELECT FUSIONS OF a, b"
    if types[:1] in (["DESCRIBE"], ["DESC"]) and s.last_word.upper() == "FUSION" and s.word:
        return f"write EXPLAIN FUSION {s.word}"
    if s.upper != "FUSION":
        return None
    if types == ["DROP"]:
        return f"a fused model is a model: DROP MODEL {name}"
    return f"write EXPLAIN FUSION {name}" if types == ["SHOW"] else None


def _elsewhere(s: Situation) -> str | None:
    """`INCLUDING FUSIONS`, `ANALYZE a, b FOR FUSIONS`."""
    if s.upper not in ("FUSION", "FUSIONS"):
        return None
    if s.last_type == "INCLUDING":
        return "INCLUDING takes SEGMENTS; SELECT FUSIONS OF a, b is what looks for fusions"
    if s.tokens and s.tokens[0].type == "ANALYZE":
        return "write SELECT FUSIONS OF a, b"
    return None


FUSION_RULES: tuple[Callable[[Situation], str | None], ...] = (
    *(_background, _statement, _recipe, _select, _cancel, _fused_model, _elsewhere),
)
