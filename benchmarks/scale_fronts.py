"""Pareto questions for benchmarks.scale, and two hand-written ways to answer them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from benchmarks.query_latency import Answer, PlainTable, Question

_FRONT = """
    SELECT name FROM (
        SELECT name, memory, accuracy, max(accuracy) OVER (
            ORDER BY memory, accuracy DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS best
        FROM models WHERE memory < ? AND accuracy IS NOT NULL)
    WHERE best IS NULL OR accuracy > best ORDER BY memory"""


def front_questions(
    memory: NDArray[np.float64], count: int, rng: np.random.Generator
) -> list[Question]:
    """Fronts of memory and accuracy below bounds, no two alike."""
    bounds = [
        round(float(np.quantile(memory, rng.uniform(0.3, 0.9))) / 1e6, 3) for _ in range(count)
    ]
    return [
        Question(
            f"SELECT MODELS name, memory, accuracy ON memory < {bound} MB"
            " PICK PARETO (memory, accuracy)",
            bound * 1e6, np.inf, np.inf, -1, -1,
        )
        for bound in bounds
    ]  # fmt: skip


class Fronts:
    """Those questions, answered from the plain table and from the plain columns."""

    def __init__(self, numbers: Mapping[str, NDArray[np.float64]], plain: PlainTable) -> None:
        self._memory, self._accuracy = numbers["memory"], numbers["accuracy"]
        self._plain = plain
        self._names = plain.add("accuracy", self._accuracy)

    def sql(self, question: Question) -> Answer:
        """The front as a window over memory: who is more accurate than all that are smaller."""
        return self._plain.rows(_FRONT, [question.memory])

    def scan(self, question: Question) -> Answer:
        """The same by sorting."""
        rows = np.flatnonzero((self._memory < question.memory) & ~np.isnan(self._accuracy))
        rows = rows[np.lexsort((-self._accuracy[rows], self._memory[rows]))]
        accuracy = self._accuracy[rows]
        best = np.maximum.accumulate(accuracy)
        front = np.ones(len(rows), dtype=bool)
        front[1:] = accuracy[1:] > best[:-1]
        found: Answer = self._names[rows[front]].tolist()
        return found
