"""Turns what stopped the parser into a ParserError that says what, where, and what to write."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lark import Token, UnexpectedInput
from lark.exceptions import UnexpectedToken

from sommelier.errors import ParserError, Span
from sommelier.grammar.expectations import (
    CLAUSES,
    END,
    Place,
    described,
    is_keyword,
    keywords_in,
    position,
    reach,
    read,
)
from sommelier.grammar.hints import hint_for, later
from sommelier.grammar.link_hints import clause_elsewhere, links_between
from sommelier.grammar.scanning import Piece
from sommelier.grammar.situation import Situation
from sommelier.grammar.statement_hints import file_as_reference
from sommelier.grammar.vocabulary import LATER, PICKERS, SQL_AFTER_COLUMN

_ALIKE = 0.65  # difflib's ratio; below it a suggestion is noise
_OFFERED = 3
_ASKED = ("MODEL", "MODELS", "LINKS", "PLAN", "FUSIONS", "CASCADES")
_WORD = re.compile(r"[^\W\d]\w*")
_CHARACTERS = re.compile(r"[&|!<>=]+|\w+|.", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Text:
    """A statement inside a longer text, and the rule it is read by."""

    text: str
    begin: int
    end: int
    symbol: str

    def read(self) -> Place:
        return read(self.text, self.symbol, begin=self.begin, end=self.end)

    def reach_with(self, word: str, start: int, end: int) -> int:
        """How far reading gets with text[start:end] replaced, in offsets of the original text."""
        changed = self.text[:start] + word + self.text[end:]
        moved = len(word) - (end - start)
        return reach(changed, self.symbol, self.begin, self.end + moved) - moved


def syntax_error(
    error: UnexpectedInput, text: str, begin: int, end: int, symbol: str = "statement"
) -> ParserError:
    """The error to raise for what lark met in text[begin:end]."""
    source = _Text(text, begin, end, symbol)
    place = source.read()
    situation = _situation(error, source, place)
    stop = situation.start + max(1, len(situation.word))
    suggestions = _corrections(situation.word, place.accepts, situation.start, source)
    if not suggestions:
        trapped = _misread_keyword(source, place, situation)
        if trapped is not None:
            return trapped
    at_end = situation.kind == END
    fault = "at end of input" if at_end else f'at or near "{situation.word}"'
    return ParserError(
        f"syntax error {fault}",
        text=text,
        span=_span(text, situation.start, stop),
        expected=described(place),
        suggestions=suggestions,
        hint=hint_for(situation),
    )


def unterminated(text: str, piece: Piece) -> ParserError:
    """A text, quoted name or comment that is never closed."""
    what, close = {"'": ("string", "'"), '"': ("quoted name", '"')}.get(
        piece.value[0], ("comment", "*/")
    )
    return ParserError(
        f"unterminated {what}",
        text=text,
        span=_span(text, piece.start, len(text.rstrip())),
        hint=f"close it with {close}",
    )


def not_catalog_sql(text: str, words: Sequence[Piece]) -> ParserError | None:
    """The error for a SELECT that is not SELECT MODELS but was clearly meant to be; else None."""
    if words[0].upper != "SELECT" or len(words) < 2:
        return None
    first = words[1]
    after = words[2] if len(words) > 2 else None
    clause = _our_clause(words[1:])
    tables = any(word.upper == "FROM" for word in words)
    plain = after is None or (
        after.kind == "word" and (after.upper not in SQL_AFTER_COLUMN or not tables)
    )
    if plain or clause is not None:
        meant = difflib.get_close_matches(first.upper, _ASKED, 2, 0.75)
        if meant and first.kind == "word":
            ends = links_between(text[after.start :]) if after and "LINKS" in meant else None
            return _at(text, first, suggestions=tuple(meant), hint=ends)
    if first.upper == "SEGMENTS" and after is not None and plain:
        return _at(text, first, hint="segments are shown by SHOW SEGMENTS OF model")
    if first.upper in LATER and after is not None and plain:
        return _at(text, first, hint=later(first.value))
    if clause is not None:
        shown = " ".join(word.value for word in words[1 : words.index(clause)] if word.value != ",")
        return _at(
            text,
            clause,
            hint=f"add MODELS: SELECT MODELS{' ' if shown else ''}{shown} {clause.upper} ...",
        )
    return None


def _our_clause(words: Sequence[Piece]) -> Piece | None:
    """CORR or PICK where SQL could not have such a word."""
    for piece, following in pairwise(words):
        named = following.kind in ("word", "text") and following.upper not in SQL_AFTER_COLUMN
        if piece.upper == "CORR" and named:
            return piece
        if piece.upper == "PICK" and following.upper in PICKERS:
            return piece
    return None


def _at(
    text: str, piece: Piece, *, suggestions: tuple[str, ...] = (), hint: str | None = None
) -> ParserError:
    return ParserError(
        f'syntax error at or near "{piece.value}"',
        text=text,
        span=_span(text, piece.start, piece.start + len(piece.value)),
        suggestions=suggestions,
        hint=hint,
    )


def _situation(error: UnexpectedInput, source: _Text, place: Place) -> Situation:
    if isinstance(error, UnexpectedToken) and error.token.type == END:
        last = place.tokens[-1].end_pos if place.tokens else source.begin
        return Situation(source.text, "", END, last or 0, place.tokens, place.accepts)
    start = position(error)
    if isinstance(error, UnexpectedToken):
        word, kind = str(error.token), error.token.type
        if source.text.startswith("->", start):
            word, kind = "->", ""
    else:
        match = _CHARACTERS.match(source.text, start, source.end)
        word, kind = match.group() if match else "", ""
    return Situation(source.text, word, kind, start, place.tokens, place.accepts)


def _corrections(
    word: str, accepts: Iterable[str], start: int, source: _Text, *, beyond: int | None = None
) -> tuple[str, ...]:
    """Keywords like `word` with which reading gets further, best first."""
    if not _WORD.fullmatch(word) or len(word) < 2 or word.upper() in LATER:
        return ()
    alike = difflib.get_close_matches(word.upper(), keywords_in(accepts), _OFFERED, _ALIKE)
    if is_keyword(word):  # at the wrong place, and no misspelling but for an s
        alike = [keyword for keyword in alike if keyword.rstrip("S") == word.upper().rstrip("S")]
    stop = start + len(word)
    goal = stop if beyond is None else beyond
    reached = {keyword: source.reach_with(keyword, start, stop) for keyword in alike}
    best = max(reached.values(), default=0)
    if best <= goal:
        return ()
    return tuple(keyword for keyword in alike if reached[keyword] == best)


def _misread_keyword(source: _Text, place: Place, situation: Situation) -> ParserError | None:
    """`SELECT MODEL COR resnet50`: COR was read as a column, so reading stops one word too late."""
    last = place.tokens[-1] if place.tokens else None
    if last is None or last.type not in ("IDENT", "MODEL_NAME"):
        return None
    start = last.start_pos or 0
    before = read(source.text, source.symbol, begin=source.begin, end=start)
    hint = None
    found: tuple[str, ...] = ()
    if last.upper() in LATER:
        hint = file_as_reference(situation) or later(last)
    elif last.upper() in CLAUSES and before.tokens and before.tokens[-1].type == "COMMA":
        hint = f"remove the comma before {last.upper()}"
    elif last.upper() in (*CLAUSES, "TO"):
        hint = clause_elsewhere(before.tokens, source.text, start)
    else:
        found = _corrections(str(last), before.accepts, start, source, beyond=situation.start)
    if not found and hint is None:
        return None
    return ParserError(
        f'syntax error at or near "{last}"',
        text=source.text,
        span=_token_span(last),
        expected=described(before),
        suggestions=found,
        hint=hint,
    )


def _token_span(token: Token) -> Span:
    start, end = token.start_pos or 0, token.end_pos or 0
    return Span(token.line or 1, token.column or 1, start, end)


def _span(text: str, start: int, end: int) -> Span:
    line_start = text.rfind("\n", 0, start) + 1
    return Span(text.count("\n", 0, start) + 1, start - line_start + 1, start, end)
