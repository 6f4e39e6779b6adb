"""Values of deployments: models that answer requests together, what they promise, and which of
their inputs and outputs are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from sommelier.cascade_records import CascadePlan
from sommelier.records import TensorSpec
from sommelier.units import Dimension, format_value

DEFAULT_POLICY = "chance_constrained"  # by measurement: docs/benchmarks.md
DeploymentKind = Literal["models", "cascade", "plan"]
Knob = float | int | str


@dataclass(frozen=True, slots=True)
class DeployedModel:
    """A model that may answer.

    accuracy : in [0, 1], what routing weighs; measured on labels, else agreement with the reference
    of the deployment, which `basis` tells; None when neither is known. mean_ms, std_ms : of one
    sample on the deployment's device, None when it was never timed (std_ms also where only a mean
    is known). stand_ins : names of models of the deployment that may answer while this one loads,
    the most accurate first.
    """

    name: str
    model_id: str
    accuracy: float | None = None
    mean_ms: float | None = None
    std_ms: float | None = None
    stand_ins: tuple[str, ...] = ()
    basis: str | None = None  # "accuracy on 'cifar10'", "agreement with resnet56"

    @property
    def measured(self) -> float | None:
        """The accuracy if it is one on labels, and no agreement with another model."""
        return None if (self.basis or "").startswith("agreement") else self.accuracy


@dataclass(frozen=True, slots=True)
class DeploymentOptions:
    """How a deployment is run; None leaves it to the default of the runtime.

    queue : most requests that wait. servers : requests that run at once. memory_bytes : what its
    loaded models may take together. keep_alive_s : how long an unused model stays loaded.
    warm : how many models are loaded at the start, the most accurate first; None all that fit.
    batch : most samples of a request. threads : of one inference. device : 'cpu', 'cuda:1'.
    order : 'edf' or 'fifo'. admission : refuse at once what cannot be in time. hedge : ask a
    second, faster model while there is slack. batching : answer requests that a server gets at once
    in one run, where that was measured to be faster.
    """

    queue: int | None = None
    servers: int | None = None
    memory_bytes: int | None = None
    keep_alive_s: float | None = None
    warm: int | None = None
    batch: int | None = None
    threads: int | None = None
    device: str | None = None
    order: str | None = None
    admission: bool | None = None
    hedge: bool | None = None
    batching: bool | None = None


@dataclass(frozen=True, slots=True)
class Deployment:
    """What was deployed under a name, and the models it was planned to as of `catalog_version`.

    statement : canonical text, DEPLOY ...; it is run again when the catalog has changed.
    models : that may answer, the most accurate first; of a cascade its stages in turn, of a plan
    those it executes. cascade : of kind 'cascade'. plan : of kind 'plan', the name of a kept plan
    (storage.catalog_links) whose models must be as they were.
    escalate_at_most : the share of inputs a stage may send on, in [0, 1]; thresholds then follow
    what is asked (runtime.cascade). sla_ms, quantile : at least that share of the answers within
    sla_ms; None and 1.0 when nothing was promised. min_accuracy : in [0, 1], of any answer.
    policy, knobs : runtime.policies; None is its default. fallback : name of the model of last
    resort, which answers when routing refuses a request. task, dataset : what accuracy is about.
    notes : what a person should know of it, one sentence each.
    """

    name: str
    kind: DeploymentKind
    statement: str
    models: tuple[DeployedModel, ...]
    cascade: CascadePlan | None = None
    plan: str | None = None
    escalate_at_most: float | None = None
    sla_ms: float | None = None
    quantile: float = 1.0
    min_accuracy: float | None = None
    policy: str | None = None
    knobs: Mapping[str, Knob] = field(default_factory=dict)
    fallback: str | None = None
    options: DeploymentOptions = DeploymentOptions()
    task: str | None = None
    dataset: str | None = None
    catalog_version: int = 0
    created_at: datetime | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServedFigures:
    """How long requests took that a deployment answered with one model, kept by the catalog.

    mean_ms, std_ms, p50_ms, p99_ms : of the execution in the last run of the deployment, None
    before the first answer. queue_ms : mean time a request waited. requests : answered so far, over
    all its runs; of figures that are still to be kept, since they last were.
    """

    deployment: str
    model_id: str
    device: str
    batch: int
    requests: int
    mean_ms: float | None = None
    std_ms: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    queue_ms: float | None = None
    measured_at: datetime | None = None

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What they are about."""
        return self.deployment, self.model_id, self.device, self.batch


def promise(found: Deployment) -> str:
    """What UNDER says, in words; '' for nothing.

    >>> promise(Deployment("v", "models", "", (), sla_ms=50.0, quantile=0.99, min_accuracy=0.9))
    'latency < 50 ms at p99, accuracy >= 90%'
    """
    parts = []
    if found.sla_ms is not None:
        at = f" at p{found.quantile * 100:g}" if found.quantile < 1 else ""
        parts.append(f"latency < {format_value(found.sla_ms, Dimension.TIME)}{at}")
    if found.min_accuracy is not None:
        parts.append(f"accuracy >= {format_value(found.min_accuracy, Dimension.FRACTION)}")
    if found.options.memory_bytes is not None:
        parts.append(f"memory < {format_value(found.options.memory_bytes, Dimension.BYTES)}")
    return ", ".join(parts)


def counterparts(first: Sequence[TensorSpec], other: Sequence[TensorSpec]) -> dict[str, str]:
    """What another model calls inputs (or outputs) of the first, by the first one's names.

    A name that both have is the same tensor. The others are the same in their order, where there
    are as many and each fits in type and shape, or there is one alone; else they are left out.

    >>> a, b, c = (TensorSpec(name, "float32", ("n", 4)) for name in "abc")
    >>> counterparts((a, b), (b, a)), counterparts((a, b), (c, a))
    ({'a': 'a', 'b': 'b'}, {'a': 'a', 'b': 'c'})
    """
    names = {spec.name for spec in first} & {spec.name for spec in other}
    found = {spec.name: spec.name for spec in first if spec.name in names}
    if len(first) == len(other):
        left = [spec for spec in first if spec.name not in names]
        pairs = list(zip(left, (s for s in other if s.name not in names), strict=True))
        if len(first) == 1 or all(_alike(*pair) for pair in pairs):
            found |= {one.name: two.name for one, two in pairs}
    return found


def shapes_fit(one: TensorSpec, two: TensorSpec) -> bool:
    """Whether fixed lengths agree; the first axis is the batch."""
    if one.shape is None or two.shape is None:
        return True
    if len(one.shape) != len(two.shape):
        return False
    pairs = list(zip(one.shape, two.shape, strict=True))[1:]
    return all(a == b or not isinstance(a, int) or not isinstance(b, int) for a, b in pairs)


def _alike(one: TensorSpec, two: TensorSpec) -> bool:
    """Whether two tensors may mean the same: floats of any width, say, of shapes that fit."""
    return _kind(one.dtype) == _kind(two.dtype) and shapes_fit(one, two)


def _kind(dtype: str) -> str:
    return dtype.rstrip("0123456789")
