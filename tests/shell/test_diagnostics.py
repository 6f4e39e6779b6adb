"""Errors as the person sees them."""

from __future__ import annotations

import re

import pytest

from sommelier.errors import (
    BinderError,
    CancelledError,
    ParserError,
    Span,
    StorageError,
    UnknownNameError,
)
from sommelier.shell.diagnostics import Origin, render_error

TEXT = "SELECT MODEL CORR resnet50 95% WERE task = 'x'"


def parser_error(text: str = TEXT, word: str = "WERE") -> ParserError:
    start = text.index(word)
    line = text.count("\n", 0, start) + 1
    column = start - (text.rfind("\n", 0, start) + 1) + 1
    return ParserError(
        f'syntax error at or near "{word}"',
        text=text,
        span=Span(line, column, start, start + len(word)),
        expected=("WHERE", "ON", "LIMIT"),
        suggestions=("WHERE",),
        hint="conditions on metadata follow WHERE",
    )


def test_a_syntax_error_has_the_shape_of_the_design() -> None:
    assert render_error(parser_error()).splitlines() == [
        'Parser Error: syntax error at or near "WERE"',
        "LINE 1: SELECT MODEL CORR resnet50 95% WERE task = 'x'",
        "                                       ^^^^",
        "Did you mean 'WHERE'?",
        "Expected: WHERE, ON, LIMIT",
        "Hint: conditions on metadata follow WHERE",
    ]


def test_only_the_line_at_fault_is_shown() -> None:
    lines = render_error(parser_error(TEXT.replace("95% ", "95%\n  "))).splitlines()
    assert lines[1:3] == ["LINE 2:   WERE task = 'x'", "          ^^^^"]


def test_in_a_script_the_place_comes_first_and_lines_count_from_its_start() -> None:
    text = render_error(parser_error("SELECT MODEL\nWERE x"), origin=Origin("q.sql", 17))
    assert text.startswith("q.sql:18:1: Parser Error: ")
    assert "LINE 18: WERE x" in text


@pytest.mark.parametrize("prefix", ["\t", "/* 模型 */ ", "e\u0301 "])
def test_the_caret_stands_below_its_word_whatever_is_before_it(prefix: str) -> None:
    from sommelier.shell.terminal import display_width

    source, caret = render_error(parser_error(prefix + TEXT)).splitlines()[1:3]
    assert caret.strip() == "^^^^"
    before = source[: source.index("WERE")]
    assert display_width(before) == len(caret) - 4


@pytest.mark.parametrize("width", [40, 60, 80])
@pytest.mark.parametrize("padding", [0, 40, 400])
def test_a_long_line_is_cut_around_the_caret(width: int, padding: int) -> None:
    text = "SELECT MODELS " + "x" * padding + " WERE " + "y" * 300
    source, caret = render_error(parser_error(text), width=width).splitlines()[1:3]
    assert len(source) <= width
    assert source[caret.index("^") : caret.index("^") + 4] == "WERE"


def test_an_error_at_the_end_of_the_text_has_a_caret_behind_it() -> None:
    error = ParserError("incomplete", text="SELECT", span=Span(1, 7, 6, 6))
    assert render_error(error).splitlines()[1:3] == ["LINE 1: SELECT", " " * 14 + "^"]


def test_an_empty_statement_does_not_break_the_caret() -> None:
    error = ParserError("nothing to do", text="", span=Span(1, 1, 0, 0))
    assert render_error(error).splitlines()[1:] == ["LINE 1: ", "        ^"]


def test_errors_without_a_place_have_title_suggestion_and_hint() -> None:
    error = UnknownNameError("no model 'resnet5'", suggestions=("resnet50", "resnet56"))
    assert render_error(error).splitlines() == [
        "Binder Error: no model 'resnet5'",
        "Did you mean 'resnet50' or 'resnet56'?",
    ]
    assert render_error(StorageError("busy", hint="wait")) == ("Storage Error: busy\nHint: wait")


def test_colours_are_only_added() -> None:
    plain = render_error(parser_error())
    coloured = render_error(parser_error(), colour=True)
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


def test_a_message_cannot_control_the_terminal() -> None:
    error = BinderError("no model 'a\x1b[2J'", suggestions=("\x1b]0;x\x07",), hint="\x9b")
    assert not set(render_error(error)) & set("\x1b\x07\x9b")


def test_a_cancelled_statement_is_one_line() -> None:
    assert render_error(CancelledError("stopped")) == "Cancelled: stopped"
    assert render_error(CancelledError("cancelled by you")) == "Cancelled by you"


def test_a_bug_is_one_sentence_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOMMELIER_DEBUG", raising=False)
    text = render_error(KeyError("x"))
    assert text.startswith("Internal Error: KeyError: 'x'\nHint: this is a bug")
    monkeypatch.setenv("SOMMELIER_DEBUG", "1")
    with pytest.raises(KeyError) as caught:
        {}["x"]
    assert "Traceback" in render_error(caught.value)
