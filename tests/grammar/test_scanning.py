"""Where statements end, whatever texts and comments hold."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sommelier.grammar.parser import is_complete, split_statements
from sommelier.grammar.scanning import pieces


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("", []),
        (" ; ;; ", []),
        ("-- a; b", []),
        ("A; B", ["A", "B"]),
        ("A -- ; x\n ; B;", ["A", "B"]),
        ("/* ; */ A /* ; */ B /* c */;", ["A /* ; */ B"]),
        ("A ';' ; B \";\"", ["A ';'", 'B ";"']),
        ("A 'it''s ; ' ; B", ["A 'it''s ; '", "B"]),
        ("A 'open ; B; C", ["A 'open ; B; C"]),
        ("A /* open ; B", ["A /* open ; B"]),
        ("A $$ ; $$; B $t$ ; $$ $t$", ["A $$ ; $$", "B $t$ ; $$ $t$"]),
        ("A $1 ; B $x", ["A $1", "B $x"]),
        ("A E'\\' ;' ; B", ["A E'\\' ;'", "B"]),
        ("A name' ; '; B", ["A name' ; '", "B"]),
    ],
)
def test_statements_end_where_a_semicolon_is_one(text: str, statements: list[str]) -> None:
    assert split_statements(text) == statements


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("A;", True),
        ("A; -- b", True),
        ("A; /* b */ ", True),
        ("A", False),
        ("A; B", False),
        ("", False),
        (";", False),
        ("A ';", False),
        ("A -- ;", False),
        ("A /* ; ", False),
    ],
)
def test_a_statement_is_complete_at_its_semicolon(text: str, complete: bool) -> None:
    assert is_complete(text) is complete


@given(st.text(alphabet="a1 '\"-/*;$\n\\E(.", max_size=40))
def test_nothing_of_the_text_is_lost(text: str) -> None:
    found = pieces(text)
    assert "".join(piece.value for piece in found) == text
    assert all(text[p.start : p.start + len(p.value)] == p.value for p in found)


@example("'\r")
@given(st.text(max_size=60))
def test_any_text_can_be_split(text: str) -> None:
    for statement in split_statements(text):
        assert statement in text
        assert statement == statement.strip()
