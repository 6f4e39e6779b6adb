"""Frozen values of cascades: models asked in turn until one is sure enough of its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import inf
from typing import Literal

from sommelier.errors import SommelierError

Loss = Literal["disagreement", "accuracy drop", "loss"]


@dataclass(frozen=True, slots=True)
class CascadeStage:
    """A model of a cascade, and when its answer stands.

    score : name of the score of its answers (analysis.cascades.scores); None for the last model,
    whose answers always stand. threshold : the least score that stands; inf sends every input on,
    and a score that is NaN is always sent on. flops : of one input, None when unknown.
    quantiles : of the scores of the `samples` calibration inputs that reached the stage, from the
    0th to the 100th in equal steps; () when unknown. A NaN counts as -inf. format :
    analysis.links.AnswerFormat as JSON, how the model writes its answers; None: as the answers
    show, logits or probabilities. output : which of its outputs they are; None: the first.
    """

    model: str
    score: str | None = None
    threshold: float = inf
    temperature: float = 1.0
    flops: float | None = None
    quantiles: tuple[float, ...] = ()
    samples: int = 0
    format: str | None = None
    output: str | None = None


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


@dataclass(frozen=True, slots=True)
class CascadeMember:
    """A model of a kept cascade, in the order they are asked.

    version : the model's when the cascade was calibrated (storage.versions.version_of); the catalog
    fills it in where it is missing. answered : share of the calibration samples that it answered,
    an estimate for others. accuracy : on the samples, None without labels. ranking : of the scores
    that were compared, (name, area under the risk-coverage curve), the best first.
    """

    model_id: str
    version: str = ""
    answered: float | None = None
    accuracy: float | None = None
    ranking: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class KeptCascade:
    """A cascade under a name. members : of plan.stages, one by one; stages have the names that the
    models have now, or had when it was kept.

    loss : its mean over the samples, an estimate; what was proved is plan.promise. flops : of one
    input on average, flops_share : of the last model's, both estimates; None when a model's are
    unknown. statement : makes it anew. stale : why it must not be used, filled in by the catalog.
    """

    name: str
    plan: CascadePlan
    members: tuple[CascadeMember, ...]
    loss: float | None = None
    flops: float | None = None
    flops_share: float | None = None
    dataset: str | None = None
    probe_set_id: str | None = None
    seed: int = 0
    notes: tuple[str, ...] = ()
    statement: str = ""
    created_at: datetime | None = field(default=None, compare=False)
    stale: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The models, from the first asked to the one that is trusted."""
        return tuple(stage.model for stage in self.plan.stages)


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


def threshold_for_share(stage: CascadeStage, routed: float) -> float:
    """A threshold that sends on at most this share of the calibration samples that have a score.

    An estimate for other inputs; for ESCALATE AT MOST 10%. Raises SommelierError without quantiles.
    """
    if not stage.quantiles or not 0 <= routed <= 1:
        raise SommelierError(
            f"no threshold of {stage.model} is known to send on {routed:.0%}",
            hint="calibrate the cascade; a share lies between 0% and 100%",
        )
    return stage.quantiles[int(routed * (len(stage.quantiles) - 1) + 1e-9)]
