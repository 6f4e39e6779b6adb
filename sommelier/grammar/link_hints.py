"""Hints for mistakes in statements about links and plans; clauses of them that are elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from lark import Token

from sommelier.grammar.expectations import CLAUSES, END, asked_for
from sommelier.grammar.situation import Situation
from sommelier.grammar.spelling import unquoted, write_text

_NAME = r"""(?:[$\w][\w.]*(?:[-/:@][\w.]+)*|"[^"]*"|'[^']*')"""
_NAMES = rf"{_NAME}(?:\s*,\s*{_NAME})*"
_ARROW = r"(?:\bTO\b|->)"
_ENDS = re.compile(rf"\s*(?:FROM\s+)?({_NAME})\s*{_ARROW}\s*({_NAME})", re.IGNORECASE)
_FROM = re.compile(rf"\s*FROM\s+(?!POOL\b|VIEW\b)({_NAME})", re.IGNORECASE)
_TO = re.compile(rf"\s*TO\s+({_NAME})", re.IGNORECASE)
_LISTED = re.compile(rf"\s*((?:POOL\s+)?{_NAMES})", re.IGNORECASE)
_LINK = re.compile(
    rf"CREATE\b(?:\s+OR\s+REPLACE)?\s+LINK\b(?:\s+IF\s+NOT\s+EXISTS)?(?:(?:\s+{_NAME})?\s+FROM\b)?"
    rf"\s+(?P<sources>{_NAMES})(?:\s*{_ARROW}\s*(?P<target>{_NAME}))?",
    re.IGNORECASE,
)
_HAS = {
    "LINKS": ("WHERE", "ORDER", "LIMIT", "USING"),
    "PLAN": ("ON", "PICK", "USING"),
    "FUSIONS": ("WHERE", "ON", "ORDER", "LIMIT", "USING"),
    "CASCADES": ("CORR", "WHERE", "ON", "ORDER", "LIMIT", "USING"),
}
_INSTEAD = {
    ("LINKS", "CORR"): "how well a model predicts another is performance, in WHERE",
    ("LINKS", "ON"): "all conditions go to WHERE",
    ("LINKS", "PICK"): "write ORDER BY performance DESC LIMIT 1",
    ("LINKS", "FROM"): "write WHERE source = 'model'",
    ("PLAN", "FROM"): "write SELECT PLAN FOR a, b or SELECT PLAN FOR POOL p",
    ("PLAN", "WHERE"): "the budget goes to ON",
    ("PLAN", "ORDER"): "its answer is one plan",
    ("PLAN", "LIMIT"): "its answer is one plan",
    ("CASCADES", "PICK"): "write ORDER BY flops LIMIT 1",
    ("CASCADES", "FROM"): "write WHERE student = 'model', or CORR teacher",
    ("FUSIONS", "CORR"): "what a task loses is accuracy_drop, in WHERE",
    ("FUSIONS", "PICK"): "write ORDER BY latency LIMIT 1",
    ("FUSIONS", "FROM"): "write SELECT FUSIONS OF a, b or SELECT FUSIONS OF POOL p",
}


def links_between(text: str) -> str | None:
    """The question that `a TO b`, `FROM a` or `TO b` at the start of `text` means."""
    conditions: dict[str, str] = {}
    if both := _ENDS.match(text):
        conditions = {"source": both[1], "target": both[2]}
    elif source := _FROM.match(text):
        conditions = {"source": source[1]}
    elif target := _TO.match(text):
        conditions = {"target": target[1]}
    if not conditions:
        return None
    written = (f"{end} = {write_text(unquoted(name))}" for end, name in conditions.items())
    return f"write SELECT LINKS WHERE {' AND '.join(written)}"


def names_at(text: str, start: int) -> str:
    """The names, or POOL and its name, that stand at text[start:]; 'a, b' if there are none."""
    found = _LISTED.match(text, start)
    return found[1] if found else "a, b"


def clause_elsewhere(tokens: Sequence[Token], text: str, start: int) -> str | None:
    """What to write for a clause at text[start:] that is not one of the question's (`_HAS`)."""
    asked = asked_for(tokens)
    match = re.compile(r"\w+").match(text, start)
    word = match.group().upper() if match else ""
    if asked not in _HAS:
        return None
    if asked == "LINKS" and (between := links_between(text[start:])) is not None:
        return between
    if word not in CLAUSES or word in _HAS[asked]:
        return None
    rest = _INSTEAD.get((asked, word), "SELECT MODELS has it")
    return f"SELECT {asked} has no {'ORDER BY' if word == 'ORDER' else word}; {rest}"


# ---- CREATE LINK


def _create_link(s: Situation) -> str | None:
    types = [token.type for token in s.tokens]
    if types[:1] != ["CREATE"] or "LINK" not in types or "USING" in types:
        return None
    sources, target = _ends(s)
    whole = f"write CREATE LINK FROM {sources} TO {target}"
    if types[-1] == "LINK" and s.kind == END:
        return whole
    if "FROM" in s.accepts and types[-1] == "MODEL_NAME":
        return (
            f"write CREATE LINK {s.last_word} FROM source TO target" if s.upper == "AS" else whole
        )
    if "TO" in s.accepts:
        return _before_target(s, whole)
    if s.word == "," and "USING" in s.accepts:
        return f"a link has one target: CREATE LINK FROM {sources} TO {s.next_word or 'other'}"
    if s.upper == "ON" and "USING" in s.accepts:
        return "samples are named with USING dataset = 'name'"
    return None


def _ends(s: Situation) -> tuple[str, str]:
    """Sources and target of the CREATE LINK that was meant, as they were written."""
    match = _LINK.match(s.text, s.tokens[0].start_pos or 0)
    if match is None:
        return "source", "target"
    return match["sources"], match["target"] or "target"


def _before_target(s: Situation, whole: str) -> str:
    if s.word == "->":
        return whole
    if s.last_word.upper() == "TO":
        return f"name the sources: FROM source TO {s.word or 'target'}"
    if s.kind in ("MODEL_NAME", "IDENT", "STRING"):
        return f"names are parted by commas: {s.last_word}, {s.word}"
    return f"name the model whose answers are predicted; {whole}"


def _link_by_ends(s: Situation) -> str | None:
    """`DROP LINK a TO b`, `SHOW LINKS OF a`, `ANALYZE a FOR LINKS TO b`, `LINK a TO b`."""
    types = [token.type for token in s.tokens]
    if types[:1] in (["DROP"], ["DESCRIBE"], ["DESC"]) and types[1:2] == ["LINK"]:
        return "a link has one name; SHOW LINKS lists them" if END in s.accepts else None
    if types == ["SHOW", "LINKS"] and s.upper in ("OF", "FROM", "TO"):
        rest = re.sub(r"^OF\b", "FROM", s.text[s.start :], flags=re.IGNORECASE)
        return links_between(rest)
    if types[:1] == ["ANALYZE"] and types[-1] == "LINKS" and s.upper in ("FROM", "TO"):
        return "write CREATE LINK FROM source TO target"
    if not types and s.upper == "LINK":
        return "write CREATE LINK FROM source TO target"
    return None


# ---- SELECT LINKS and SELECT PLAN


def _elsewhere(s: Situation) -> str | None:
    if s.word == ">" and s.last_type == "MINUS" and asked_for(s.tokens) == "LINKS":
        start = s.tokens[-2].start_pos or 0  # SELECT LINKS a -> b
        return links_between(s.text[start:])
    return clause_elsewhere(s.tokens, s.text, s.start) if s.word else None


def _singular(s: Situation) -> str | None:
    if s.last_type == "SELECT" and s.accepts >= {"LINKS", "PLAN"}:
        return {"LINK": "write SELECT LINKS", "PLANS": "write SELECT PLAN FOR a, b"}.get(s.upper)
    if s.last_type == "SHOW" and s.upper == "PLAN":
        return f"SHOW PLANS lists them; one of them: DESCRIBE PLAN {s.next_word or 'p'}"
    return None


def _plan_for(s: Situation) -> str | None:
    before = [token.type for token in s.tokens[-4:]]
    if s.upper == "PLAN" and (not before or before == ["EXPLAIN"]):
        return " ".join(["write", *before, "SELECT PLAN FOR a, b"])
    if s.last_type == "PLAN" and s.accepts == {"FOR"}:
        start = s.start + len(s.word) * (s.upper in ("FROM", "OF", "WITH"))
        named = "a, b" if s.kind == "ON" else names_at(s.text, start)
        return f"write SELECT PLAN FOR {named}"
    if s.word == "," and before == ["PLAN", "FOR", "POOL", "MODEL_NAME"]:
        return "a plan is for one pool, or for models: FOR a, b"
    if asked_for(s.tokens) != "PLAN":
        return None
    if s.kind == "ON_CONTEXT" and "ON" in s.accepts:
        return "a device belongs to a limit: ON latency < 30 ms ON 'cpu'"
    if s.kind in ("MODEL_NAME", "IDENT") and "ON" in s.accepts and "COMMA" in s.accepts:
        return f"names are parted by commas: {s.last_word}, {s.word}"
    return None


def _create_plan(s: Situation) -> str | None:
    types = [token.type for token in s.tokens]
    if types[:1] != ["CREATE"] or "PLAN" not in types or "FOR" in types:
        return None
    if s.last_type == "SELECT":
        return "a plan is kept of SELECT PLAN FOR a, b; of SELECT MODELS a pool"
    named = [token for token in s.tokens if token.type == "MODEL_NAME"]
    name = "p" if not named or named[0].upper() == "AS" else str(named[0])
    return (
        f"write CREATE PLAN {name} AS SELECT PLAN FOR a, b"
        if s.accepts <= {"AS", "SELECT"}
        else None
    )


def _models_asked(s: Situation) -> str | None:
    """`CREATE POOL p AS SELECT PLAN`, `WHY a IN (SELECT LINKS)`: these are about models."""
    if s.last_type != "SELECT" or s.upper not in _HAS or "MODELS" not in s.accepts:
        return None
    pool = s.tokens[0].type == "CREATE" and "LPAR" not in [token.type for token in s.tokens]
    if pool and s.upper == "PLAN":
        return "write CREATE PLAN p AS SELECT PLAN FOR a, b"
    return "only SELECT MODELS can stand here"


def _including_links(s: Situation) -> str | None:
    if s.last_type == "INCLUDING" and s.upper == "LINKS":
        return "INCLUDING takes SEGMENTS; SELECT PLAN is what predicts models through links"
    return None


LINK_RULES: tuple[Callable[[Situation], str | None], ...] = (
    *(_create_link, _link_by_ends, _create_plan, _models_asked, _plan_for, _singular),
    *(_including_links, _elsewhere),
)
