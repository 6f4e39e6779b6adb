"""What a mistake usually means: a table of rules, each looks at one situation and may have a hint.

The first rule that has one wins, so the special ones stand before the general ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from sommelier.grammar.cascade_hints import CASCADE_RULES
from sommelier.grammar.deployment_hints import DEPLOYMENT_RULES
from sommelier.grammar.expectations import CLAUSES, END
from sommelier.grammar.fusion_hints import FUSION_RULES
from sommelier.grammar.link_hints import LINK_RULES
from sommelier.grammar.situation import Situation
from sommelier.grammar.source_hints import SOURCE_RULES
from sommelier.grammar.statement_hints import STATEMENT_RULES
from sommelier.grammar.vocabulary import (
    COUNTS,
    LATER,
    LESS,
    LONG_UNITS,
    MORE,
    NAME_KEYWORDS,
    SMART_QUOTES,
    SQL_ONLY,
    STARTERS,
    VALUES,
)
from sommelier.units import SPELLINGS


def hint_for(situation: Situation) -> str | None:
    """What to do, or None if no rule knows."""
    return next((hint for rule in RULES if (hint := rule(situation)) is not None), None)


def later(word: str) -> str:
    return f"{word.upper()} is not part of this version; .help lists the statements there are"


# ---- characters and signs


def _smart_quote(s: Situation) -> str | None:
    return "use straight quotes: '...'" if s.word and s.word[0] in SMART_QUOTES else None


def _double_equals(s: Situation) -> str | None:
    return "equality is one =" if s.word[:1] == "=" and s.last_type == "EQ" else None


def _reversed_sign(s: Situation) -> str | None:
    if s.last_type == "EQ" and s.kind == "CMP" and s.word in "<>":
        return f"write {s.word}="
    return None


def _boolean_sign(s: Situation) -> str | None:
    meant = {"&": "AND", "|": "OR", "!": "NOT"}.get(s.word[:1])
    return f"write {meant}" if meant and s.kind == "" else None


def _double_quoted_text(s: Situation) -> str | None:
    if s.word[:1] == '"' and "STRING" in s.accepts:
        inner = s.word.strip('"').replace("'", "''")
        return f"a text is in single quotes: '{inner}'"
    return None


# ---- words that are not here


def _joins_later(s: Situation) -> str | None:
    if s.upper in LATER:
        return later(s.word)
    if s.last_word.upper() in LATER and s.last_type in ("IDENT", "MODEL_NAME"):
        return later(s.last_word)
    return None


def _create_model(s: Situation) -> str | None:
    if "GRAFT" in s.accepts and s.upper not in LATER:
        return "write AS GRAFT donor INTO host AT SEGMENT 's1', or AS FUSION OF a, b"
    if "AS" in s.accepts and s.upper == "FROM" and "POOL" not in s.accepts:
        return "a file becomes a model with REGISTER MODEL"
    return None


def _version_in_from(s: Situation) -> str | None:
    if s.upper == "AT" and s.clause == "FROM":
        return "FROM takes no version; a version belongs to a model: CORR resnet50@2"
    return None


def _sql_only(s: Situation) -> str | None:
    if s.upper in SQL_ONLY and s.tokens and s.tokens[0].type == "SELECT":
        clause = "GROUP BY" if s.upper == "GROUP" else s.upper
        example = "SELECT task, count(*) FROM models GROUP BY task"
        return f"SELECT MODELS has no {clause}; ask in catalog SQL instead: {example}"
    return None


def _models_missing(s: Situation) -> str | None:
    if s.kind in ("IDENT", "MODEL_NAME") and s.last_type == "LPAR" and s.accepts == {"SELECT"}:
        return "a question stands here: (SELECT MODELS ...)"
    if s.last_type == "SELECT" and s.accepts >= {"MODELS"}:
        return "add MODELS: SELECT MODELS name; catalog SQL cannot stand inside another statement"
    return None


# ---- conditions


def _relative_words(s: Situation) -> str | None:
    limit = _limit(s.last_word, s.word.lower()) if s.last_type == "PERCENT" else None
    return None if limit is None else f"write {limit}"


def _missing_comparison(s: Situation) -> str | None:
    if s.kind not in VALUES or s.last_type != "IDENT" or "CMP" not in s.accepts:
        return None
    after = re.match(r"\s*(\w+)", s.text[s.start + len(s.word) :])
    if s.kind == "PERCENT" and after is not None:
        limit = _limit(s.word, after[1].lower())
        if limit is not None:
            return f"write {s.last_word} {limit}"
    return f"write {s.last_word} < {s.word}"


def _chained(s: Situation) -> str | None:
    if s.kind in ("CMP", "EQ", "NE") and "AND" in s.accepts and "CMP" not in s.accepts:
        return "compare once and join with AND, or write BETWEEN low AND high"
    return None


def _comma_for_and(s: Situation) -> str | None:
    if s.word == "," and "AND" in s.accepts and s.clause in ("WHERE", "ON", "CORR"):
        return "conditions are joined with AND"
    return None


def _between(s: Situation) -> str | None:
    opened = [t.type for t in s.tokens if t.type in ("BETWEEN", "AND")]
    if opened[-1:] == ["BETWEEN"] and s.accepts >= {"AND"} and "OR" not in s.accepts:
        return "write BETWEEN low AND high"
    return None


def _is_not_null(s: Situation) -> str | None:
    return "write IS NOT NULL" if s.kind == "NULL" and s.last_type == "NOT" else None


def _list_parentheses(s: Situation) -> str | None:
    if s.last_type == "IN" and s.accepts == {"LPAR"}:
        if s.upper == "SELECT":
            return "the question is in parentheses: IN (SELECT MODELS ...)"
        inside = f"({s.word}, ...)" if s.kind in ("STRING", *VALUES) else "('a', 'b')"
        return f"a list is in parentheses: IN {inside}"
    return None


def _text_needed(s: Situation) -> str | None:
    if s.kind == END:
        return None
    if s.last_type == "FITS":
        return f"the name of a device is quoted: FITS ON '{s.next_word or 'device'}'"
    if s.last_type in ("LIKE", "ILIKE", "REGEXP") and "STRING" in s.accepts:
        return f"a pattern is a text: {s.last_type} '{s.word or 'res'}%'"
    located = s.clause == "FROM" and "STRING" in s.accepts
    if s.last_type in ("ON_CONTEXT", "HAS") or s.accepts == {"STRING"} or located:
        shown = _run(s) if s.kind in ("IDENT", "MODEL_NAME") else "..."
        return f"a text is in single quotes: '{shown}'"
    return None


def _percentile(s: Situation) -> str | None:
    return "write for example AT p99" if s.accepts == {"PERCENTILE"} else None


def _unknown_unit(s: Situation) -> str | None:
    if s.last_type not in ("INT", "NUMBER") or s.kind not in ("IDENT", "MODEL_NAME"):
        return None
    if not s.accepts & {"STAR", "CONFIDENCE", "RSQB"} and s.clause != "USING":
        return None
    unit = LONG_UNITS.get(s.word.lower().rstrip("s"))
    if unit is not None:
        return f"write {s.last_word} {unit}"
    units = ", ".join(unit for units in SPELLINGS.values() for unit in units[1:4])
    return f"'{s.word}' is not a unit; there are {units}"


# ---- clauses


def _missing_reference(s: Situation) -> str | None:
    before = s.tokens[-2].type if len(s.tokens) > 1 else ""
    if before == "CORR" and s.last_word.upper() in CLAUSES:
        return "name the reference: CORR resnet50 95%"
    if s.last_type == "CORR" and "MODEL_NAME" in s.accepts:
        if s.kind in ("PERCENT", "CMP", "NUMBER", "WITHIN", END, *CLAUSES):
            return "name the reference: CORR resnet50 95%"
        if re.match(r"\d", s.word):
            return f'a name that starts with a digit is quoted: CORR "{_whole_name(s)}"'
    return None


def _equality_in_corr(s: Situation) -> str | None:
    if s.clause == "CORR" and s.kind in ("EQ", "NE") and "CMP" in s.accepts:
        return "write CORR resnet50 >= 95%"
    return None


def _resource_in_corr(s: Situation) -> str | None:
    named = s.kind in ("IDENT", "MODEL_NAME", "LATENCY", "MEMORY")  # the latter are keywords too
    if s.clause == "CORR" and s.last_type == "AND" and named:
        return "CORR takes equivalence, agreement, bound or accuracy; other limits go to ON"
    return None


def _number_needed(s: Situation) -> str | None:
    if s.last_type in ("LIMIT", "OFFSET", "TOP") and "INT" in s.accepts:
        count = COUNTS.get(s.word.lower(), 10)
        return f"{s.last_type} takes a whole number: {s.last_type} {count}"
    before = s.tokens[-2].type if len(s.tokens) > 1 else ""
    if before in ("LIMIT", "OFFSET", "TOP") and s.kind in VALUES:
        return f"{before} takes a whole number"
    return None


def _missing_by(s: Situation) -> str | None:
    return "write ORDER BY memory" if s.last_type == "ORDER" and s.accepts == {"BY"} else None


def _missing_parenthesis(s: Situation) -> str | None:
    if s.last_type in ("MIN", "MAX", "PARETO") and s.accepts == {"LPAR"}:
        return f"write {s.last_type} ({s.word or 'memory'})"
    return None


def _sql_from_first(s: Situation) -> str | None:
    if not s.tokens and s.upper == "FROM":
        return "catalog SQL starts with SELECT: SELECT name FROM models"
    return None


def _missing_equals(s: Situation) -> str | None:
    if s.accepts <= {"EQ", "TO"} and s.accepts and s.last is not None:
        return f"write {s.last_word} = {s.word or 'value'}"
    return None


def _trailing_comma(s: Situation) -> str | None:
    if s.last_type == "COMMA" and (s.kind in (END, "RPAR", "RSQB") or s.kind in CLAUSES):
        return "remove the comma"
    return None


# ---- structure


def _parentheses(s: Situation) -> str | None:
    depth = 0
    for token in s.tokens:
        depth += {"LPAR": 1, "RPAR": -1}.get(token.type, 0)
    if s.word == ")" and depth <= 0:
        return "no parenthesis is open here"
    if s.kind == END and depth > 0:
        return f"{depth} parenthes{'is is' if depth == 1 else 'es are'} not closed"
    return None


def _next_statement(s: Situation) -> str | None:
    misread = s.last_type == "IDENT" and s.last_word.upper() in STARTERS
    if (s.upper in STARTERS and END in s.accepts) or misread:
        return "end the statement before with ;"
    return None


def _keyword_as_name(s: Situation) -> str | None:
    last = s.last_word
    if s.last is not None and s.last_type == last.upper() and s.last_type in NAME_KEYWORDS:
        return f'if {last} is a name here, quote it: "{last}"'
    if s.upper == s.kind and s.accepts & {"IDENT", "MODEL_NAME"} and "NUMBER" not in s.accepts:
        return f'if {s.word} is a name here, quote it: "{s.word}"'
    return None


def _run(s: Situation) -> str:
    """Everything from the word at fault to the next space, comma or semicolon."""
    match = re.compile(r"[^\s,;']+").match(s.text, s.start)
    return match.group() if match else s.word


def _whole_name(s: Situation) -> str:
    match = re.compile(r"[\w./:@-]+").match(s.text, s.start)
    return match.group() if match else s.word


def _limit(percent: str, word: str) -> str | None:
    """`20% less` as the language writes it: < 80%."""
    value = float(percent.rstrip("% \t\r\n"))
    if word in LESS:
        return f"< {100 - value:g}%"
    return f"> {100 + value:g}%" if word in MORE else None


RULES: tuple[Callable[[Situation], str | None], ...] = (
    *(_smart_quote, _double_equals, _reversed_sign, _boolean_sign),
    *STATEMENT_RULES,
    *DEPLOYMENT_RULES,
    *SOURCE_RULES,
    *CASCADE_RULES,
    *FUSION_RULES,
    *LINK_RULES,
    *(_joins_later, _create_model, _version_in_from, _sql_only, _sql_from_first, _models_missing),
    *(_double_quoted_text, _relative_words, _missing_comparison, _equality_in_corr, _chained),
    *(
        _between,
        _is_not_null,
        _comma_for_and,
        _list_parentheses,
        _text_needed,
        _percentile,
        _unknown_unit,
    ),
    *(_missing_reference, _resource_in_corr, _number_needed, _missing_by, _missing_parenthesis),
    *(_missing_equals, _trailing_comma, _parentheses, _next_statement, _keyword_as_name),
)
