"""Where reading stopped, as the rules that give hints look at it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lark import Token

from sommelier.grammar.expectations import CLAUSES


@dataclass(frozen=True, slots=True)
class Situation:
    """Where reading stopped.

    word : the text at fault, '' at the end. kind : its terminal, '$END' at the end, '' for a
    character that no terminal begins with. tokens : what was read before. accepts : terminals
    that could follow.
    """

    text: str
    word: str
    kind: str
    start: int
    tokens: tuple[Token, ...]
    accepts: frozenset[str]

    @property
    def upper(self) -> str:
        return self.word.upper()

    @property
    def last(self) -> Token | None:
        return self.tokens[-1] if self.tokens else None

    @property
    def last_type(self) -> str:
        return self.tokens[-1].type if self.tokens else ""

    @property
    def last_word(self) -> str:
        return str(self.tokens[-1]) if self.tokens else ""

    @property
    def clause(self) -> str:
        """The clause of SELECT that is being read, '' outside of one."""
        return next((t.type for t in reversed(self.tokens) if t.type in CLAUSES), "")

    @property
    def next_word(self) -> str:
        """The word or name behind the one at fault, '' if none follows at once."""
        match = re.compile(r"\s*([\w./:@-]+)").match(self.text, self.start + len(self.word))
        return match[1] if match else ""
