"""Every malformed statement is answered with place, expectation and a way out.

The golden file holds statements and the exact answers; after a wanted change, rewrite it with
`UPDATE_GOLDEN=1 pytest tests/grammar/test_errors.py` and read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sommelier.errors import ParserError, Span
from sommelier.grammar.expectations import MOST_EXPECTED
from sommelier.grammar.parser import parse, parse_script
from sommelier.grammar.vocabulary import LATER

GOLDEN = Path(__file__).parent / "fixtures" / "errors.txt"
RULE = "-" * 80


def _cases() -> list[tuple[str, str]]:
    blocks = GOLDEN.read_text().strip("\n").split(f"\n{RULE}\n")
    return [(head, answer) for head, _, answer in (block.partition("\n\n") for block in blocks)]


def _answer(statement: str) -> ParserError:
    with pytest.raises(ParserError) as caught:
        parse(statement)
    return caught.value


@pytest.mark.parametrize(("statement", "answer"), _cases())
def test_the_answer_to_a_mistake(statement: str, answer: str) -> None:
    assert str(_answer(statement)) == answer


def test_the_golden_file_is_written_on_request() -> None:
    if os.environ.get("UPDATE_GOLDEN"):
        blocks = [f"{statement}\n\n{_answer(statement)}" for statement, _ in _cases()]
        GOLDEN.write_text(f"\n{RULE}\n".join(blocks) + "\n")
    assert len(_cases()) >= 60


@pytest.mark.parametrize("statement", [statement for statement, _ in _cases()])
def test_an_error_carries_what_it_says(statement: str) -> None:
    error = _answer(statement)
    assert error.text == statement
    assert error.code == "parser"
    assert error.span is not None
    assert (error.line, error.column) == (error.span.line, error.span.column)
    assert error.span.start <= error.span.end <= len(statement) + 1
    assert len(error.expected) <= MOST_EXPECTED
    assert error.expected or error.hint or error.suggestions


def test_all_fields_of_one_error() -> None:
    error = _answer("SELECT MODEL CORR resnet50 95%\nWERE task = 'x'")
    assert error.message == 'syntax error at or near "WERE"'
    assert error.span == Span(line=2, column=1, start=31, end=35)
    assert error.suggestions == ("WHERE",)
    assert error.expected[:3] == ("AND", "FROM", "WHERE")


@pytest.mark.parametrize("word", sorted(LATER))
def test_a_word_of_a_later_version_is_said_to_be_one(word: str) -> None:
    error = _answer(f"{word} x")
    assert error.hint is not None
    assert error.hint.startswith(f"{word} is not part of this version")
    assert error.suggestions == ()


@pytest.mark.parametrize("text", ["", "  ", ";;", "-- only a comment", "/* ; */"])
def test_nothing_is_no_statement(text: str) -> None:
    assert _answer(text).message == "there is no statement"
    assert parse_script(text) == ()


def test_a_caret_stands_under_its_word_behind_tabs_and_carriage_returns() -> None:
    lines = str(_answer("SELECT MODELS\r\n\tWERE a = 1\r\n")).split("\n")
    assert lines[1] == "LINE 2: \tWERE a = 1"
    assert lines[2] == "        \t^^^^"


@pytest.mark.parametrize("separator", ["\u2028", "\x0b", "\x0c", "\x85"])
def test_odd_line_separators_do_not_hide_the_error(separator: str) -> None:
    error = _answer(f"SELECT MODELS WHERE name = '{separator}' WERE")
    assert error.line == 1
    assert "^^^^" in str(error)
