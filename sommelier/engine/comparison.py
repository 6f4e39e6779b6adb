"""The answer of CORR: which rows agree with the references as asked, and with what bounds.

A reference meets each model on the best probe set they share, so that its answer is made of parts
(comparison_parts.py): one for each probe set, and the bounds over bridges. No row is in two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Union

import numpy as np

from sommelier.engine.bound_methods import CP, BoundMethod
from sommelier.engine.comparison_parts import (
    Floats,
    Interval,
    Mask,
    Measured,
    Rows,
    Streamed,
    StreamedPairs,
    Transitive,
)
from sommelier.engine.plan import CorrBound

if TYPE_CHECKING:
    from sommelier.engine.comparison_datasets import Across
    from sommelier.storage.candidates import Candidates

Part = Union[Measured, Streamed, Transitive, "Across"]

NO_PART = -1


class Comparison:
    """The candidates of one reference that reached CORR.

    measured : those of the preferred probe set, even if there are none, then those of others.
    streamed : pairs without common sketches that early stopping decided. transitive : the rest.
    Neither where a method observes and bounds nothing.
    """

    def __init__(
        self,
        candidates: Candidates,
        reached: Mask,
        method: BoundMethod = CP,
        pairs: StreamedPairs | None = None,
    ) -> None:
        self.candidates = candidates
        self.method = method
        others = [Measured(other, reached, method) for other in candidates.others]
        first = Measured(candidates, reached, method)
        self.measured = (first, *(part for part in others if part.count))
        self.streamed: tuple[Streamed, ...] = ()
        if pairs is not None and method.bounds:
            reached = reached.copy()
            for part in candidates.parts:
                reached[part.ranking.among(reached)] = False
            self.streamed = (Streamed(pairs, reached),)
            reached[self.streamed[0].rows] = False
        bounded = [
            Transitive(part.transitive, reached, part.probe_set_id)
            for part in candidates.parts
            if part.transitive is not None and method.bounds
        ]
        self.transitive = tuple(part for part in bounded if part.count)
        self.streamed = tuple(part for part in self.streamed if part.count)
        self.parts: tuple[Part, ...] = self.measured + self.streamed + self.transitive
        self.count = sum(part.count for part in self.parts)

    @property
    def simple(self) -> bool:
        """Whether one probe set decides, so that agreements sort as equivalence does."""
        return len(self.parts) == 1 and self.method.strict

    @property
    def rows(self) -> Rows:
        """Every row compared."""
        return _joined([part.rows for part in self.parts])

    def passing(self, bounds: tuple[CorrBound, ...], tests: float, *, possible: bool) -> Rows:
        """The rows that meet every bound, best first in each part; or with `possible` may meet.

        tests : how many claims share alpha.
        """
        return _joined([part.passing(bounds, tests, possible=possible) for part in self.parts])

    def undecided(self, bounds: tuple[CorrBound, ...], tests: float) -> int:
        """How many measured rows may meet the bounds but do not certainly; 0 where not counted."""
        return sum(part.undecided(bounds, tests) for part in self.measured)

    def undecidable(self, row: int, bounds: tuple[CorrBound, ...], tests: float) -> str | None:
        """Why a row can meet one of the bounds by no answer at all; None if it could."""
        for part in self.parts:
            if row in part.rows:
                told = [part.undecidable(bound, tests) for bound in bounds]
                return next((text for text in told if text is not None), None)
        return None

    def head(self, keep: int) -> int:
        """Of a simple comparison: how many rows that passed are as good as the `keep`-th."""
        return self.measured[0].head(keep)

    def counts(self, rows: Rows, size: int) -> Floats:
        """Of a simple comparison: the agreements of `rows`; NaN for rows not compared."""
        return self.measured[0].counts(rows, size)

    def interval(self, rows: Rows, alpha: float, size: int) -> Interval:
        """The bounds of `rows` at one-sided level alpha; NaN for rows that are not compared.

        size : number of rows in the catalog.
        """
        result = Interval(*(np.full(len(rows), np.nan) for _ in range(4)))
        for part in self.parts:
            at = part.positions(rows, size)
            known = at >= 0
            _assign(result, known, part.interval_at(at[known], alpha))
        return result

    def part_numbers(self, rows: Rows, size: int) -> Rows:
        """Which of `parts` each row was compared in, NO_PART where in none."""
        if len(self.parts) == 1:
            return np.zeros(len(rows), dtype=np.int64)
        numbers = np.full(len(rows), NO_PART, dtype=np.int64)
        for number, part in enumerate(self.parts):
            numbers[part.positions(rows, size) >= 0] = number
        return numbers


def _joined(lists: list[Rows]) -> Rows:
    return lists[0] if len(lists) == 1 else np.concatenate(lists)


def _assign(result: Interval, where: Mask, values: Interval) -> None:
    for name in ("lower", "upper", "agreement", "samples"):
        getattr(result, name)[where] = getattr(values, name)
