"""What the grammar accepts at a place in the text, and how that is said to a person."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lark import Token, UnexpectedInput
from lark.exceptions import UnexpectedCharacters, UnexpectedToken
from lark.parsers.lalr_interactive_parser import InteractiveParser
from lark.utils import TextSlice

from sommelier.grammar.tables import language

CLAUSES = ("FROM", "CORR", "WHERE", "ON", "ORDER", "PICK", "LIMIT", "INCLUDING", "USING")
"""The clauses of SELECT in their canonical order; each may be written once."""

END = "$END"
MOST_EXPECTED = 9  # more than nine alternatives are not read

_DESCRIBED = {
    "IDENT": "a column or metric",
    "MODEL_NAME": "a name",
    "INT": "a whole number",
    "NUMBER": "a number",
    "PERCENT": "a percentage (80%)",
    "QUANTITY": "a quantity with a unit (200 MB)",
    "TIMES": "a factor (0.5x)",
    "STRING": "a text ('...')",
    "PARAM": "a parameter ($name)",
    "PERCENTILE": "a percentile (p99)",
    "CMP": "a comparison (< <= = ...)",
    "EQ": "=",
    "NE": "!=",
    "ON_CONTEXT": "ON 'device or dataset'",
    "WHY_NOT": "WHY NOT",
    "FITS": "FITS ON 'device'",
    "COMMA": ",",
    "LPAR": "(",
    "RPAR": ")",
    "LSQB": "[",
    "RSQB": "]",
    "PLUS": "+",
    "MINUS": "-",
    "STAR": "*",
    "SLASH": "/",
    "ARROW": "->",
    END: "end of statement",
}
_RANK = (
    *("SELECT", "SHOW", "IMPORT", "ANALYZE", "EXPLAIN", "DESCRIBE", "COMPARE", "CREATE"),
    *("MODELS", "DATASETS", "DEVICES", "JOBS", "POOLS", "SEGMENTS"),
    *("MODEL_NAME", "IDENT", "INT", "NUMBER", "PERCENT", "QUANTITY", "STRING", "PARAM"),
    *("CMP", "EQ", "PERCENTILE", "RPAR", "RSQB", "AND", "OR", "BY", "OF", *CLAUSES, END),
)
_ONCE = ("WITHIN", "FOR", "CONFIDENCE")  # of CREATE MODEL ... AS FUSION OF and of cascades
_ONCE_DEPLOYED = ("UNDER", "ROUTE", "FALLBACK")
_SAME_WORD = {"ON_CONTEXT": "ON", "OF_MODEL": "OF"}
_ARITHMETIC = frozenset(("PLUS", "MINUS", "STAR", "SLASH"))
_CONSTANTS = frozenset(("TRUE", "FALSE", "NULL"))


@dataclass(frozen=True, slots=True)
class Place:
    """How far a text can be read.

    tokens : what was read. accepts : names of the terminals that could follow. stopped : the token
    or character that could not be read, None at the end of the text.
    """

    tokens: tuple[Token, ...]
    accepts: frozenset[str]
    stopped: int | None


def read(text: str, start_symbol: str, *, begin: int = 0, end: int | None = None) -> Place:
    """Reads text[begin:end] as far as the grammar allows, without building nodes."""
    parser = _silent(text, start_symbol, begin, len(text) if end is None else end)
    tokens: list[Token] = []
    stopped: int | None = None
    try:
        tokens.extend(parser.iter_parse())  # what came before an error stays in the list
    except UnexpectedInput as error:
        stopped = position(error)
        tokens = [token for token in tokens if (token.start_pos or 0) < stopped]
        # The token at fault has already closed what it could: look at the state before it.
        parser = _silent(text, start_symbol, begin, begin)
        for token in tokens:
            parser.feed_token(token)
    accepts = frozenset(_accepts(parser))
    return Place(tuple(tokens), accepts - used_clauses(tokens), stopped)


def reach(text: str, start_symbol: str, begin: int, end: int) -> int:
    """The offset of the first token that cannot be read, or a large number if all is well."""
    place = read(text, start_symbol, begin=begin, end=end)
    if place.stopped is not None:
        return place.stopped
    return 2 * len(text) if END in place.accepts else end


def position(error: UnexpectedInput) -> int:
    """The offset of the token or character that could not be read."""
    if isinstance(error, UnexpectedToken):
        return error.token.start_pos or 0
    assert isinstance(error, UnexpectedCharacters)
    return error.pos_in_stream or 0


def asked_for(tokens: Sequence[Token]) -> str:
    """MODELS, LINKS, PLAN, FUSIONS or CASCADES: what the last SELECT asks for; '' outside one."""
    types = [token.type for token in tokens]
    if "SELECT" not in types:
        return ""
    after = types[len(types) - types[::-1].index("SELECT") :]
    return next((kind for kind in after if kind != "DISTINCT"), "")


def used_clauses(tokens: Sequence[Token]) -> frozenset[str]:
    """The clauses that the innermost open SELECT has already, and that it cannot have again."""
    stack: list[set[str]] = [set()]
    for token in tokens:
        if token.type == "LPAR":
            stack.append(set())
        elif token.type == "RPAR" and len(stack) > 1:
            stack.pop()
        elif token.type == "SELECT":
            stack[-1] = set()
        elif _is_once(token, tokens):
            stack[-1].add(token.type)
    return frozenset(stack[-1])


def _is_once(token: Token, tokens: Sequence[Token]) -> bool:
    clauses = (*CLAUSES, *_ONCE_DEPLOYED)
    return token.type in clauses or (token.type in _ONCE and _has_once(tokens))


def _has_once(tokens: Sequence[Token]) -> bool:
    """Whether WITHIN and the like are clauses here, and not parts of CORR, which takes several."""
    return tokens[0].type == "CREATE" or asked_for(tokens) == "CASCADES"


def keywords_in(terminals: Iterable[str]) -> list[str]:
    """The keywords among terminals, sorted; ON and OF in both of their roles are one word."""
    words = {_SAME_WORD.get(name, name) for name in terminals}
    return sorted(word for word in words if word not in _DESCRIBED or word == "FITS")


def is_keyword(word: str) -> bool:
    """Whether the word is one of the grammar's keywords, in capitals or not."""
    return any(terminal.name == word.upper() for terminal in language().terminals)


def described(place: Place) -> tuple[str, ...]:
    """At most nine alternatives as a person would name them, the telling ones first."""
    names = set(place.accepts)
    names.discard("WHY_NOT")  # WHY says it
    if "OF_MODEL" in names:
        names = (names - {"OF_MODEL"}) | {"OF"}
    if "CMP" in names:
        names -= {"EQ", "NE"}
    if "NUMBER" in names:
        names -= {"INT"}
    if names - _ARITHMETIC:  # these follow every number and say little
        names -= _ARITHMETIC
    if {"IDENT", "NUMBER"} <= names:
        names -= _CONSTANTS
    ranked = sorted(names, key=lambda name: (_rank(name), name))[:MOST_EXPECTED]
    return tuple(_option_or(name, place.tokens) for name in ranked)


def names_option(tokens: Sequence[Token]) -> bool:
    """Whether a name that follows is that of an option or setting."""
    last = tokens[-1].type if tokens else ""
    clause = next((t.type for t in reversed(tokens) if t.type in (*CLAUSES, "SET")), "")
    listed = last == "COMMA" and clause in ("USING", "SET")
    return last in ("USING", "SET", "RESET") or listed


def _option_or(name: str, tokens: Sequence[Token]) -> str:
    if name == "IDENT" and names_option(tokens):
        return "an option"
    return _DESCRIBED.get(name, name)


def _rank(name: str) -> int:
    if name in _RANK:
        return _RANK.index(name)
    return len(_RANK) + (name in _DESCRIBED and name != "FITS")


def _silent(text: str, start_symbol: str, begin: int, end: int) -> InteractiveParser:
    """A parser at the start of text[begin:end] that calls no rule."""
    parser = language().parse_interactive(TextSlice(text, begin, end), start=start_symbol)
    callbacks: Any = {}
    parser.parser_state.parse_conf.callbacks = callbacks
    return parser


def _accepts(parser: InteractiveParser) -> set[str]:
    typed: Any = parser  # lark's method has no return type
    found: set[str] = typed.accepts()
    return found
