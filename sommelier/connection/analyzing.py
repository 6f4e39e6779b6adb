"""ANALYZE: which models, on which data, then the job that measures them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sommelier.connection.statements import Call
    from sommelier.grammar import nodes


def analyze(statement: nodes.Analyze, call: Call) -> tuple[str, int, tuple[str, ...]]:
    raise TypeError
