"""Frozen values of cascades: models asked in turn until one is sure enough of its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

Loss = Literal["disagreement", "accuracy drop", "loss"]


@dataclass(frozen=True, slots=True)
class CascadeStage:
    """A model of a cascade, and when its answer stands.

    score : name of the score of its answers (analysis.cascades.scores); None for the last model,
    whose answers always stand. threshold : the least score that stands; inf sends every input on,
    and a score that is NaN is always sent on. flops : of one input, None when unknown.
    quantiles : of the scores of the `samples` calibration inputs that reached the stage, from the
    0th to the 100th in equal steps; () when unknown. A NaN counts as -inf.
    """

    model: str
    score: str | None = None
    threshold: float = inf
    temperature: float = 1.0
    flops: float | None = None
    quantiles: tuple[float, ...] = ()
    samples: int = 0


@dataclass(frozen=True, slots=True)
class CascadePromise:
    """What a calibration proved of inputs like its samples: with probability at least `confidence`
    over the draw of the samples, the mean of `loss` of answering by the cascade and not by its last
    model is at most `at_most`. samples : how many the proof used."""

    loss: Loss
    at_most: float
    confidence: float
    samples: int


@dataclass(frozen=True, slots=True)
class CascadePlan:
    """Models from the cheapest to the one that is trusted; reason : one sentence about thresholds.

    promise : None where nothing was proved, as of thresholds that were set by hand.
    """

    stages: tuple[CascadeStage, ...]
    promise: CascadePromise | None = None
    reason: str = ""

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Of all stages but the last."""
        return tuple(stage.threshold for stage in self.stages[:-1])


def expected_flops(flops: Sequence[float], answered: Sequence[float]) -> float:
    """FLOPs of one input on average; two stages: (N_S F_S + N_T (F_S + F_T)) / N.

    flops : of each stage. answered : how many inputs (or what share) each stage answered; an input
    pays for every stage up to the one that answers it. NaN when none were answered.
    Source: EBJR section 3.1.
    """
    total = sum(answered)
    spent, so_far = 0.0, 0.0
    for cost, count in zip(flops, answered, strict=True):
        so_far += cost
        spent += count * so_far
    return spent / total if total else float("nan")
