"""Frozen values of model links: what predicts one model's answers from others', and what to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

PREDICTED, TARGET = "predicted", "target"  # names of the arrays kept of a link: natural answers


@dataclass(frozen=True, slots=True)
class ModelLink:
    """What predicts `target`'s answers from the answers of `source_ids` (several: an ensemble).

    id : 'link:' and a hash of what decides the link (storage.versions.link_id); name is unique.
    The versions are those its models had when it was fitted (storage.versions.version_of); once one
    of them differs or a model is gone, `stale` says so and the link is never used. The catalog
    fills `stale` and the names when it reads a link: a model that is gone has the name it had when
    the link was kept.
    state : 'linked', 'useless' (no better than a constant answer), 'not linkable' (screened out)
    or 'failed'; `reason` says why.
    performance, low, high, constant, skill : in [0, 1] on `held_out` samples, measured against the
    target's own answers; `constant` is the best constant answer's performance, skill what the link
    adds to it. value, value_low, value_high : the same in the metric's own `unit`.
    screen : the performance predicted before training. proved : the interval is a proved bound.
    samples, validation, held_out : how many samples were trained on, validated on, measured on.
    dataset, target_dataset : where the inputs came from; the target's is None when it is the same.
    probe_set_id, source_probe_set_id : likewise of the inputs; predictions are kept with the first,
    the target's.
    params, flops, memory, size : of the link's own network, bytes where they are bytes.
    artifact : key of the ONNX file; source_format, target_format : analysis.links.AnswerFormat as
    JSON (a list of them for the sources of an ensemble); options : JSON.
    """

    id: str
    name: str
    source_ids: tuple[str, ...]
    target_id: str
    source_versions: tuple[str, ...]
    target_version: str
    state: str
    architecture: str | None = None  # 'vec-to-vec', 'seq-to-vec', 'vec-to-seq', 'seq-to-seq'
    method: str | None = None  # 'linear', 'network', or how an ensemble weighs its sources
    metric: str | None = None  # 'accuracy', 'mAP', 'IoU', 'MAE', 'WER'
    performance: float | None = None
    low: float | None = None
    high: float | None = None
    proved: bool = False
    value: float | None = None
    value_low: float | None = None
    value_high: float | None = None
    unit: str | None = None
    constant: float | None = None
    skill: float | None = None
    screen: float | None = None
    reason: str | None = None
    probe_set_id: str | None = None
    dataset: str | None = None
    target_dataset: str | None = None
    samples: int = 0
    validation: int = 0
    held_out: int = 0
    seed: int = 0
    options: str | None = None
    params: float | None = None
    flops: float | None = None
    memory: float | None = None
    size: float | None = None
    latency_ms: float | None = None
    artifact: str | None = None
    source_format: str | None = None
    target_format: str | None = None
    created_at: datetime | None = None
    source_probe_set_id: str | None = None
    source_names: tuple[str, ...] = ()
    target_name: str = ""
    stale: str | None = None

    @property
    def usable(self) -> bool:
        """Whether its predictions may stand for the target's answers."""
        return self.state == "linked" and self.stale is None


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """One model of an ActivationPlan: executed, or predicted from executed ones.

    source_ids, link_ids : what predicts it, in the same order; both empty when it is executed or
    when nothing is better than its constant answer. head : JSON, how the links' answers are
    weighed. performance, low, high, skill : of the answer it gets (1 when it is executed).
    version : the model's when the plan was made (storage.versions.version_of); the catalog
    fills it in where it is missing when the plan is saved.
    """

    model_id: str
    name: str
    executed: bool
    source_ids: tuple[str, ...] = ()
    link_ids: tuple[str, ...] = ()
    head: str | None = None
    performance: float | None = None
    low: float | None = None
    high: float | None = None
    skill: float | None = None
    version: str = ""


@dataclass(frozen=True, slots=True)
class ActivationPlan:
    """Which of a group of models to execute under a budget, and which to predict.

    objective : 'accuracy' or 'skill'. budget, cost, total : metric to amount in its base unit;
    what was allowed, what the plan costs with its links, what executing every model costs.
    accuracy, low, high, skill : means over the models; the interval accounts for the plan having
    been chosen, proved says whether it is a bound. upper : the optimum, or a bound of it; gap :
    upper - the plan's value, 0 when it is optimal. considered : how many subsets were compared.
    """

    models: tuple[PlannedModel, ...]
    objective: str
    budget: Mapping[str, float]
    cost: Mapping[str, float]
    total: Mapping[str, float]
    accuracy: float
    low: float | None
    high: float | None
    proved: bool
    confidence: float
    skill: float | None
    upper: float | None
    gap: float | None
    method: str
    considered: int
    notes: tuple[str, ...] = ()
    probe_set_id: str | None = None
    samples: int = 0  # held-out samples behind the interval

    @property
    def executed(self) -> tuple[PlannedModel, ...]:
        """The models to execute, in order."""
        return tuple(model for model in self.models if model.executed)

    @property
    def predicted(self) -> tuple[PlannedModel, ...]:
        """The models that are not executed, in order."""
        return tuple(model for model in self.models if not model.executed)


@dataclass(frozen=True, slots=True)
class SavedPlan:
    """A plan under a name. query : the question it answers; stale : why it must not be used."""

    name: str
    query: str
    plan: ActivationPlan
    created_at: datetime | None = field(default=None, compare=False)
    stale: str | None = None
