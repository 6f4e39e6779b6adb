"""Colours for statements at the prompt: a pygments lexer whose keywords are the grammar's."""

from __future__ import annotations

import re

from prompt_toolkit.lexers import PygmentsLexer
from prompt_toolkit.styles import Style
from pygments.lexer import RegexLexer, words
from pygments.token import Comment, Keyword, Name, Number, Operator, Punctuation, String, Text

from sommelier.grammar.completion import keywords
from sommelier.metrics import ANSWER_COLUMNS, METRICS
from sommelier.units import SPELLINGS

STYLE = Style.from_dict(
    {
        "prompt": "bold",
        "continuation": "ansibrightblack",
        "bottom-toolbar": "noreverse ansibrightblack",
        "bottom-toolbar.strong": "noreverse bold",
        "completion-menu.completion": "bg:#303030 #d0d0d0",
        "completion-menu.completion.current": "bg:#5f5f87 #ffffff",
        "completion-menu.meta.completion": "bg:#262626 #9e9e9e",
        "completion-menu.meta.completion.current": "bg:#45456b #d0d0d0",
        "pygments.keyword": "ansiblue bold",
        "pygments.name.builtin": "ansicyan",
        "pygments.name.variable": "ansimagenta",
        "pygments.name.function": "ansiyellow",
        "pygments.literal.string": "ansigreen",
        "pygments.literal.number": "ansiyellow",
        "pygments.comment": "ansibrightblack italic",
    }
)
_UNITS = "|".join(unit for units in SPELLINGS.values() for unit in units if unit != "%")
_ALONE = {"prefix": r"(?<![\w.$@/-])", "suffix": r"(?![\w.@/-])"}  # not inside a model's name


class StatementLexer(RegexLexer):  # type: ignore[misc]  # pygments ships no types
    """Keywords, metrics, names, texts, quantities, parameters, comments and dot commands."""

    name = "Sommelier"
    flags = re.IGNORECASE
    tokens = {  # noqa: RUF012 - pygments' protocol
        "root": [
            (r"\A\s*[.\\][A-Za-z?]\w*", Name.Function),
            (r"--[^\n]*|/\*(?:.|\n)*?(?:\*/|\Z)", Comment),
            (r"'(?:[^']|'')*(?:'|\Z)", String),
            (r'"(?:[^"]|"")*(?:"|\Z)', Name),
            (r"\$\w+|\?", Name.Variable),
            (words((*METRICS, *ANSWER_COLUMNS), **_ALONE), Name.Builtin),
            (words(tuple(keywords()), **_ALONE), Keyword),
            (rf"\d+(?:\.\d+)?(?:e[+-]?\d+)?(?:\s?(?:%|x\b|(?:{_UNITS})\b))?", Number),
            (r"[<>=!]=?|[-+*/]", Operator),
            (r"[A-Za-z_][\w.]*(?:[-/:@][\w.]+)*", Name),
            (r"[(),;\[\].]", Punctuation),
            (r"\s+|.", Text),
        ]
    }


def statement_lexer() -> PygmentsLexer:
    """The lexer for the prompt."""
    return PygmentsLexer(StatementLexer)
