"""What travels through the filter pipeline: the rows still in, and what each stage did."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sommelier.engine.answers import CorrAnswers
from sommelier.engine.plan import LogicalPlan
from sommelier.engine.predicates import Block
from sommelier.engine.world import World

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class StageReport:
    """One stage of the filter pipeline: what went in, what came out, how long it took."""

    name: str
    detail: str
    rows_in: int
    rows_out: int
    milliseconds: float
    unknown: int = 0


@dataclass(slots=True)
class State:
    """The pipeline's working state.

    mask : which models are in, until CORR; rows : the same as row numbers, from then on.
    matched : rows before PICK and LIMIT.
    """

    mask: Mask
    rows: Rows | None = None
    answers: CorrAnswers | None = None
    matched: int = 0
    stages: list[StageReport] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return int(np.count_nonzero(self.mask)) if self.rows is None else len(self.rows)

    def row_numbers(self) -> Rows:
        if self.rows is None:
            self.rows = np.flatnonzero(self.mask)
        return self.rows

    def block(self, world: World) -> Block:
        """The rows that are in, for conditions and values over them."""
        return Block(world, self.row_numbers(), self.answers)


@dataclass(frozen=True, slots=True)
class Step:
    """What a stage says it did: its words, and how many rows it could not decide."""

    detail: Callable[[], str]
    unknown: int = 0


Stage = Callable[[LogicalPlan, State, World], Step | None]
"""A stage narrows the state, and answers None when the plan does not need it."""


def run_stage(name: str, stage: Stage, plan: LogicalPlan, state: State, world: World) -> None:
    """Runs one stage and appends its report."""
    before, started = state.count, time.perf_counter()
    step = stage(plan, state, world)
    if step is None:
        return
    after = state.count
    took = (time.perf_counter() - started) * 1e3
    state.stages.append(StageReport(name, step.detail(), before, after, took, step.unknown))
