"""Text before it is parsed: where statements end, and which of them are catalog SQL.

Quotes and comments are understood as DuckDB does ($$ texts and E'..' as well), because catalog
SQL passes through here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from sommelier.grammar.vocabulary import CATALOG_VIEWS

_PIECE = re.compile(
    r"""
      (?P<comment>   --[^\n]* | /\*(?:[^*]|\*(?!/))*\*/ )
    | (?P<text>      (?<!\w)[eE]'(?:\\.|''|[^'\\])*'(?!') | '(?:[^']|'')*'(?!')
                   | "(?:[^"]|"")*"(?!")
                   | \$(?P<tag>[^\W\d]*)\$(?:.|\n)*?\$(?P=tag)\$ )
    | (?P<open>      ['"] | /\* )
    | (?P<end>       ; )
    | (?P<space>     \s+ )
    | (?P<word>      \$?\w+ )
    | (?P<sign>      . )
    """,
    re.VERBOSE,
)
_SHOW_TABLES = (["SHOW", "TABLES"], ["SHOW", "ALL", "TABLES"])
_ASKED = frozenset({"MODEL", "MODELS", "LINKS", "PLAN", "FUSIONS", "CASCADES"})
_NO_SOURCES = frozenset({"LINKS", "PLAN", "FUSIONS", "CASCADES"})  # these have no FROM
_OURS = frozenset({"CORR", "PICK"})
_NO_PROJECTION = frozenset({".", ",", "::", "AS", "[", "||"})


class Piece(NamedTuple):
    """kind : comment, text, open (of something unclosed), end (`;`), space, word, sign."""

    kind: str
    value: str
    start: int

    @property
    def upper(self) -> str:
        return self.value.upper()


class Stretch(NamedTuple):
    """A statement's place in the text, without its `;` and what surrounds it, and its words."""

    start: int
    end: int
    closed: bool  # a `;` follows
    words: tuple[Piece, ...]  # what is neither space nor comment


def pieces(text: str) -> list[Piece]:
    """All of the text in order; an unclosed text or comment is one `open` piece to the end."""
    found: list[Piece] = []
    for match in _PIECE.finditer(text):  # `sign` matches anything: nothing is skipped
        kind, start = match.lastgroup, match.start()
        if kind == "open":
            return [*found, Piece(kind, text[start:], start)]
        found.append(Piece("text" if kind == "tag" else str(kind), match[0], start))
    return found


def statements(text: str) -> list[Stretch]:
    """The statements in the text; empty ones and those that are only comments are left out."""
    found: list[Stretch] = []
    words: list[Piece] = []
    for piece in [*pieces(text), Piece("end", "", len(text))]:
        kind = piece.kind
        if kind == "space" or kind == "comment":
            continue
        if kind != "end":
            words.append(piece)
        elif words:
            stop = words[-1].start + len(words[-1].value.rstrip())  # an open text goes to the end
            found.append(Stretch(words[0].start, stop, piece.value == ";", tuple(words)))
            words = []
    return found


def is_catalog_sql(tokens: Sequence[Piece]) -> bool:
    """Whether a statement is SQL over the catalog's views: SELECT or WITH, and not SELECT MODEL(S),
    SELECT LINKS, SELECT PLAN, SELECT FUSIONS or SELECT CASCADES.

    `SELECT model.name` and `SELECT model, device` are SQL: nothing of ours continues like that.
    So are `SELECT model FROM profiles`, a column of a view, and SHOW [ALL] TABLES.
    """
    if not tokens or tokens[0].upper not in ("SELECT", "WITH"):
        return [piece.upper for piece in tokens] in _SHOW_TABLES
    if tokens[0].upper == "WITH":
        return True
    rest = tokens[1:]
    if rest and rest[0].upper == "DISTINCT":
        rest = rest[1:]
    if not rest or rest[0].upper not in _ASKED:
        return True
    if _reads_a_view(rest[1:]) or (rest[0].upper in _NO_SOURCES and _reads_a_table(rest[1:])):
        return True
    following = "".join(piece.upper for piece in rest[1:2])
    doubled = "".join(piece.value for piece in rest[1:3])
    number = following == "." and doubled[1:2].isdigit()  # SELECT MODELS .5
    return (following in _NO_PROJECTION and not number) or doubled in _NO_PROJECTION


def _reads_a_table(rest: Sequence[Piece]) -> bool:
    """Whether FROM and what can only be SQL follow: `(SELECT`, `schema.table`, `range(`."""
    values = [piece.value for piece in rest[:3]]
    return len(rest) > 1 and rest[0].upper == "FROM" and ("(" in values[1:] or "." in values[2:])


def _reads_a_view(rest: Sequence[Piece]) -> bool:
    """Whether `FROM view ...` follows, and no clause that SQL does not have."""
    if len(rest) < 2 or rest[0].upper != "FROM":
        return False
    if rest[1].value.strip('"').lower() not in CATALOG_VIEWS:
        return False
    clauses = {piece.upper for piece in rest[2:] if piece.kind == "word"}
    joined = "JOIN" in clauses  # then ON and USING are SQL's
    ours = _OURS if joined else _OURS | {"ON", "USING"}
    return not clauses & ours
