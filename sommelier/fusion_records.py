"""Frozen values of fusions: several models made one, what their tasks lost, how it was found, and
what could be made one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class FusionTask:
    """One of the models that were fused, and what its task lost.

    version : the model's when the fusion was begun (storage.versions.version_of); the catalog fills
    in version and name where they are missing when the fusion is kept.
    metric : 'accuracy' against labels, 'agreement' with the model itself without them; 'score' and
    'likeness' where answers are right in part.
    baseline, drop : the model's own performance on `samples` held-out samples, and that minus the
    fused model's; below 0 when the fused one is better. drop_low, drop_high : its interval, paired
    over the samples; proved : it is a bound.
    """

    model_id: str
    name: str = ""
    version: str = ""
    metric: str | None = None
    baseline: float | None = None
    drop: float | None = None
    drop_low: float | None = None
    drop_high: float | None = None
    samples: int = 0
    proved: bool = False


@dataclass(frozen=True, slots=True)
class FusedModel:
    """Several models as one that shares computation, or the search for it.

    id : 'fusion:' and a hash of what decides it (storage.versions.fusion_id). name : that of the
    model it is to become; once there is one, `model_id` says which and the name follows it.
    state : 'searching', 'fused', 'none found' (nothing within the threshold and limits),
    'cancelled', 'interrupted' or 'failed'; `reason` says why. `stale` says which of the models has
    changed since or is gone; the catalog fills it in.
    method : 'search', 'merged weights', 'equal layers'. graph : the abs-graph as JSON, what is
    shared; options : JSON, everything else that decides the outcome; device : of the latencies.
    drop_threshold : what each task may lose; confidence : of the intervals of the tasks.
    training, selection, held_out : how many samples were trained on, chosen on, measured on.
    budget_ms, elapsed_ms : time allowed and spent; evaluations : candidates that were trained.
    params, flops, memory, latency_ms : of the fused model, and base_* : of the models it is made of
    together, measured in the same run.
    """

    id: str
    name: str
    state: str
    tasks: tuple[FusionTask, ...]
    model_id: str | None = None
    method: str | None = None
    reason: str | None = None
    options: str | None = None
    graph: str | None = None
    drop_threshold: float | None = None
    confidence: float | None = None
    dataset: str | None = None
    probe_set_id: str | None = None
    training: int = 0
    selection: int = 0
    held_out: int = 0
    seed: int = 0
    budget_ms: float | None = None
    elapsed_ms: float | None = None
    evaluations: int = 0
    device: str | None = None
    params: float | None = None
    flops: float | None = None
    memory: float | None = None
    latency_ms: float | None = None
    base_params: float | None = None
    base_flops: float | None = None
    base_memory: float | None = None
    base_latency_ms: float | None = None
    job_id: int | None = None
    created_at: datetime | None = None
    stale: str | None = None


@dataclass(frozen=True, slots=True)
class FusionStep:
    """One step of the search for a fusion; `step` counts from 0.

    action : what was done with the candidate, 'merged', 'filtered', 'trained', 'stopped early' ...
    pair : what began to share, or all that is shared, as people read it. drop_predicted,
    drop_measured : the largest of all tasks, on the samples that choose. accepted : whether it is
    the best so far; None where it was not decided. elapsed_ms : since the search began.
    """

    step: int
    action: str
    pair: str | None = None
    flops: float | None = None
    latency_ms: float | None = None
    drop_predicted: float | None = None
    drop_measured: float | None = None
    epochs: int = 0
    elapsed_ms: float | None = None
    accepted: bool | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class FusionCost:
    """What one run at batch 1 costs, of one model, of several one after the other, or of a fusion.

    None when unknown. Of a fusion flops and params are exact; memory (weights and the most that is
    alive of features at once) and latency_ms are estimates.
    """

    flops: float | None
    params: float | None
    memory: float | None = None
    latency_ms: float | None = None


@dataclass(frozen=True, slots=True)
class RankedFusion:
    """A way to share computation that was not trained: a row of SELECT FUSIONS.

    shares : what reads what it did not read in its own model, 'speaker_net 3 reads digit_net 2'.
    promise : what fusions are ranked by, more is better. risk : linear residuals along the task
    that loses most (0 none, 1 a block's whole features); drop : predicted for the worst task after
    fine-tuning, a fraction. Both are estimates, None without samples.
    """

    shares: tuple[str, ...]
    cost: FusionCost
    promise: float
    risk: float | None = None
    drop: float | None = None


@dataclass(frozen=True, slots=True)
class FusionRanking:
    """What could be made of some models, the most promising first, without training.

    together : the models one after the other, by the same estimate as the fusions; alone : each of
    them, in their order. basis : of the latencies, 'operator table', 'measured originals',
    or 'FLOPs' where none is known. samples : inputs on which risks and drops were predicted, 0 for
    none. considered : ways to share that were looked at, of which `fusions` are the best.
    dataset : whose inputs the samples are.
    """

    fusions: tuple[RankedFusion, ...]
    together: FusionCost
    alone: tuple[FusionCost, ...]
    basis: str
    samples: int = 0
    considered: int = 0
    dataset: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FusionBlocks:
    """How models are cut, before any of them runs.

    blocks : of each model, in their order. pairs : (host, guest, count) by places of models: how
    many blocks of the guest could read what some block of the host reads; guest and host may be
    the same model, of which blocks are then left out.
    """

    blocks: tuple[int, ...]
    pairs: tuple[tuple[int, int, int], ...]
