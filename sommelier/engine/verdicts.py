"""What EXPLAIN WHY says of one condition, and the table of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sommelier.engine.rendering import grid

TABLE_WIDTH = 100  # columns of text

_HEADS = ("predicate", "value", "bound", "verdict", "nearest relaxation")
_STRENGTH = ("false", "unknown", "undecidable", "possible", "true")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One condition of the query about one model. verdict : true, false, unknown, possible (the
    interval straddles the threshold), or undecidable (no answers to so few probes would do).

    parts : what the verdict was folded from, one for each reference and bound.
    """

    predicate: str
    value: str
    bound: str
    verdict: str
    relaxation: str = ""
    parts: tuple[Verdict, ...] = ()

    @property
    def strength(self) -> int:
        """How near to true: a conjunction has the least of its parts, a disjunction the most."""
        return _STRENGTH.index(self.verdict)


def verdict_word(true: bool, unknown: bool = False) -> str:
    """
    >>> verdict_word(False, unknown=True)
    'unknown'
    """
    return "true" if true else "unknown" if unknown else "false"


def verdict_table(verdicts: Sequence[Verdict]) -> list[str]:
    """Lines of at most 100 columns; parts are indented, columns that say nothing left out."""
    rows = []
    for verdict in verdicts:
        rows.append(_cells(verdict, verdict.predicate))
        rows += [_cells(part, f"  {part.predicate}") for part in verdict.parts]
    kept = [i for i in range(len(_HEADS)) if any(row[i] for row in rows)]
    heads = [_HEADS[i] for i in kept]
    return grid(heads, [[row[i] for i in kept] for row in rows], width=TABLE_WIDTH)


def _cells(verdict: Verdict, predicate: str) -> tuple[str, ...]:
    return predicate, verdict.value, verdict.bound, verdict.verdict, verdict.relaxation


def verdict_data(verdict: Verdict) -> dict[str, Any]:
    """A verdict as plain data; `parts` only where there are some."""
    data = asdict(verdict)
    if not verdict.parts:
        del data["parts"]
    return data
