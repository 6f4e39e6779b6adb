"""Help on statements and clauses, made from the grammar file itself, so that it cannot go stale."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from functools import cache

from sommelier.errors import UnknownNameError
from sommelier.grammar.tables import GRAMMAR

_TOPIC = re.compile(r"//# (?P<name>[\w ]+): (?P<sentence>.+)")
_EXAMPLE = re.compile(r"//> (?P<example>.+)")
_ALIAS = re.compile(r"\s*->\s*\w+")
_RULE_START = re.compile(r"[?!]*(?P<name>[a-z_]+):\s*(?P<body>.*)")
_SIGNS = {
    "LPAR": '"("',
    "RPAR": '")"',
    "LSQB": '"["',
    "RSQB": '"]"',
    "EQ": "=",
    "NE": "<>",
    "CMP": "(< | <= | > | >=)",
    "PLUS": "+",
    "MINUS": "-",
    "STAR": '"*"',
    "ARROW": '"->"',
    "SLASH": "/",
    "STRING": "'text'",
    "IDENT": "name",
    "MODEL_NAME": "model-name",
    "INT": "10",
    "NUMBER": "0.5",
    "PERCENT": "80%",
    "TIMES": "0.5x",
    "QUANTITY": "200MB",
    "PARAM": "$parameter",
    "PERCENTILE": "p99",
    "ON_CONTEXT": "ON",
    "OF_MODEL": "OF",
    "WHY_NOT": "WHY NOT",
}
_WIDTH = 70
_SYMBOL = re.compile(r"\b[A-Z_]+\b")


@dataclass(frozen=True, slots=True)
class Topic:
    """A block of the grammar: rules is (name, body) in order, body as it is shown."""

    name: str
    sentence: str
    examples: tuple[str, ...]
    rules: tuple[tuple[str, str], ...]


def help_text(topic: str) -> str:
    """Syntax and examples of a statement, a clause, or whatever has this keyword.

    Raises UnknownNameError with the nearest topics.
    """
    asked = " ".join(topic.casefold().split())
    known = {entry.name: entry for entry in topics()}
    found = [known[asked]] if asked in known else _related(asked)
    if not found:
        import difflib

        raise UnknownNameError(
            f"there is no help on '{topic}'",
            suggestions=tuple(difflib.get_close_matches(asked, known, 3, 0.5)),
            hint=f"topics: {', '.join(known)}",
        )
    return "\n\n".join(_shown(entry) for entry in found)


@cache
def topics() -> tuple[Topic, ...]:
    """All help topics in the order of the grammar file."""
    rules, _ = GRAMMAR.read_text(encoding="utf-8").split("// ---- terminals")
    blocks = re.split(r"\n(?=//# )", rules)
    return tuple(_topic(block) for block in blocks if block.startswith("//# "))


def _related(asked: str) -> list[Topic]:
    """Topics that begin with the words, else those whose syntax has the keyword."""
    named = [entry for entry in topics() if entry.name.startswith(asked) and asked]
    if named or not asked.isalpha():
        return named
    keyword = re.compile(rf"\b{asked.upper()}\b")
    return [entry for entry in topics() if any(keyword.search(body) for _, body in entry.rules)]


def _topic(block: str) -> Topic:
    head = _TOPIC.match(block)
    assert head is not None, block
    examples = tuple(match["example"] for match in _EXAMPLE.finditer(block))
    lines = [line for line in block.splitlines() if line and not line.startswith("//")]
    return Topic(head["name"], head["sentence"], examples, tuple(_rules(lines)))


def _rules(lines: list[str]) -> list[tuple[str, str]]:
    rules: list[tuple[str, list[str]]] = []
    for line in lines:
        start = _RULE_START.match(line)
        if start is not None:
            rules.append((start["name"], [start["body"]]))
        else:
            rules[-1][1].append(line.strip())
    return [(name, _readable(" ".join(body))) for name, body in rules]


def _readable(body: str) -> str:
    """A rule's body with literals as they are typed and without what only the parser needs."""
    text = _ALIAS.sub("", body)
    text = re.sub(r'"([^"]+)"', r"\1", text)
    text = _SYMBOL.sub(lambda match: _SIGNS.get(match.group(), match.group()), text)
    text = re.sub(r"(\w+) \(, \1\)\*", r"\1, ...", text)
    return re.sub(r"\s+", " ", text).strip()


def _shown(topic: Topic) -> str:
    lines = [f"{topic.name.upper()}: {topic.sentence}", ""]
    width = max(len(name) for name, _ in topic.rules)
    for name, body in topic.rules:
        first, *rest = _broken(body)
        lines.append(f"  {name:<{width}}  {first}")
        lines += [f"  {'':<{width}}  {line}" for line in rest]
    lines += ["", *(f"  {example}" for example in topic.examples)]
    return "\n".join(lines)


def _broken(body: str) -> list[str]:
    """A long body in lines, broken at its outermost alternatives."""
    if len(body) <= _WIDTH:
        return [body]
    if not re.search(r"[^\w| ]", body.split(" | (")[0]):  # a list of words
        return textwrap.wrap(body, _WIDTH)
    parts, depth, start = [], 0, 0
    for index, letter in enumerate(body):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(letter, 0)
        if letter == "|" and depth == 0:
            parts.append(body[start:index].strip())
            start = index
    parts.append(body[start:].strip())
    return parts
