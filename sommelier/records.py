"""Frozen values that cross rooms. Base units throughout: bytes, FLOPs, ms, fractions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from pathlib import Path


class Provenance(Enum):
    """Where a number comes from, best first."""

    MEASURED = "measured"
    ESTIMATED = "estimated"
    DECLARED = "declared"


class OutputKind(Enum):
    """What a model answers, which decides how two answers are compared."""

    CLASSIFICATION = "classification"  # (n, classes) scores
    CLASS_IDS = "class_ids"  # integers, no scores
    REGRESSION = "regression"
    DETECTION = "detection"
    SEQUENCE = "sequence"  # (n, steps, vocabulary) scores
    EMBEDDING = "embedding"
    MULTILABEL = "multilabel"  # (n, labels) scores, any number of which may hold
    SEGMENTATION = "segmentation"  # a class for every pixel
    RANKING = "ranking"  # (n, k) item ids, best first
    DISTRIBUTION = "distribution"  # (n, outcomes) probabilities that matter as such
    UNKNOWN = "unknown"


NO_ANSWER = 0xFFFFFFFF
"""In OutputSketch.answers of kind 'labels': the model gave no answer."""

FIRST = -1
"""ProbeSet.seed of "the first n in the dataset's order", of all of them, or of chosen ones."""

Dim = int | str | None
"""An axis length; a str or None is dynamic and kept as written in the file."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A named input or output. dtype is numpy's name ('float32', 'int64', 'uint8', 'str')."""

    name: str
    dtype: str
    shape: tuple[Dim, ...] | None  # None: the file does not say

    def __str__(self) -> str:
        dims = (
            "?"
            if self.shape is None
            else ",".join("?" if d in (None, "") else str(d) for d in self.shape)
        )
        return f"{self.name}:{self.dtype}[{dims}]"


@dataclass(frozen=True, slots=True)
class LabelSpace:
    """The names of a classifier's outputs, in output order. `id` is the hash of the names."""

    id: str
    name: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Declarative steps from a dataset item to one model input; see analysis/preprocessing.py.

    steps : (name, arguments) in order, e.g. ("normalize", {"mean": [...], "std": [...]}).
    assumed : nobody declared it, it was inferred from shapes.
    """

    steps: tuple[tuple[str, Mapping[str, object]], ...]
    assumed: bool = False


@dataclass(frozen=True, slots=True)
class Conversion:
    """That a model is not ONNX yet. format : a key of analysis.conversion.CONVERTERS, such as
    'torchscript'; options : plain values that its converter understands; hint : of its refusal."""

    format: str
    options: Mapping[str, object] = field(default_factory=dict)
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Artifact:
    """A model found by a connector: a local file, or declared metadata without weights.

    path is None for metadata-only rows. `declared` holds facts its source states, with the keys
    task, family, license, tags, labels, preprocessing, output_kind, producer, created, note and
    homepage. conversion : what makes ONNX of the file or folder at `path`, if that is needed.
    """

    name: str
    version: str | None
    source: str  # connector name: folder, wheel, table ...
    revision: str | None  # exact origin: path, 'magika==1.0.3:magika/models/...', row number
    path: Path | None
    declared: Mapping[str, object] = field(default_factory=dict)
    measurements: tuple[Measurement, ...] = ()
    conversion: Conversion | None = None


@dataclass(frozen=True, slots=True)
class Rejection:
    """A file that was not accepted as a model, and why."""

    source: str
    revision: str
    reason: str


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """What the catalog knows of a model besides its numbers.

    id : content fingerprint, 'sha256:...' of the file and its external data (or of the declared
    metadata when there is no file). name@version is unique; `aliases` are other names of the same
    bytes. graph_hash ignores weights, names and producer; weight_hash ignores the graph.
    minhash : serialised datasketch LeanMinHash of operators, their n-grams and weight shapes.
    """

    id: str
    name: str
    version: str
    source: str
    revision: str | None = None
    task: str | None = None
    family: str | None = None
    license: str | None = None
    tags: tuple[str, ...] = ()
    format: str | None = None  # 'onnx', or None for metadata-only rows
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    output_kind: OutputKind = OutputKind.UNKNOWN
    output_kind_inferred: bool = True
    label_space_id: str | None = None
    preprocessing: Preprocessing | None = None
    opset: int | None = None
    producer: str | None = None
    graph_hash: str | None = None
    weight_hash: str | None = None
    minhash: bytes | None = None
    artifact: str | None = None  # key in the artifact store
    note: str | None = None
    homepage: str | None = None
    created: datetime | None = None
    aliases: tuple[str, ...] = ()
    proposal: str | None = None  # 'segments': found by analysis, a model once someone creates it


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number about one model, with its context and provenance.

    metric is a key of metrics.METRICS, value in its base unit. low/high : interval or error band
    where one is known. model_id may be empty inside an Artifact, before the model has an id.
    """

    model_id: str
    metric: str
    value: float
    provenance: Provenance
    method: str  # 'liveness', 'onnxruntime', 'operator-table', 'results-imagenet.csv' ...
    device: str | None = None
    batch: int | None = None
    percentile: int | None = None
    dataset: str | None = None
    precision: str | None = None
    threads: int | None = None
    low: float | None = None
    high: float | None = None
    count: int | None = None  # runs or samples behind the value
    source: str | None = None
    recorded_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ResourceProfile:
    """Where a model spends its resources. vector : non-negative float64, PROFILE_DIMS long,
    FLOPs and bytes by operator family and depth, each half summing to 1 (or all 0)."""

    model_id: str
    vector: bytes


@dataclass(frozen=True, slots=True)
class Device:
    """A machine part models may have to fit on. memory_bytes and peak rates may be unknown."""

    name: str
    memory_bytes: float | None
    peak_flops_per_s: float | None
    bandwidth_bytes_per_s: float | None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """A registered dataset. id : content hash; kind : image, array, file or text."""

    id: str
    name: str
    kind: str
    path: Path
    samples: int
    item_shape: tuple[int, ...] | None
    dtype: str | None
    labelled: bool
    label_space_id: str | None
    options: Mapping[str, object] = field(default_factory=dict)
    held_out: bool | None = None


@dataclass(frozen=True, slots=True)
class ProbeSet:
    """The inputs a group of models answered: a dataset's first/seeded samples, or synthetic ones.

    id : hash of what decides the inputs (dataset id, sample indices, seed, signature).
    indices : int64[samples] positions in the dataset, where samples and seed do not give them:
    items chosen because another dataset has one of the same id, say (seed is then FIRST).
    """

    id: str
    dataset_id: str | None
    name: str  # dataset name, or 'synthetic:<signature>'
    samples: int
    seed: int
    synthetic: bool
    labels: bytes | None  # int32[samples] true label ids in the dataset's label space
    label_space_id: str | None
    indices: bytes | None = None


@dataclass(frozen=True, slots=True)
class OutputSketch:
    """What one model answered on one probe set.

    kind 'labels' : answers uint32 (samples,), the model's own class ids, 0xFFFFFFFF = no answer.
    kind 'vectors': answers float32 (samples, width), exact outputs when width is the output size,
    else a seeded Johnson-Lindenstrauss projection (exact=False: distances are estimates).
    """

    model_id: str
    probe_set_id: str
    kind: str
    answers: bytes
    width: int
    exact: bool
    label_space_id: str | None
    classes: int | None
    topk_ids: bytes | None = None  # uint32 (samples, 5)
    topk_scores: bytes | None = None  # float16 (samples, 5)
    failures: int = 0  # samples answered with NaN


@dataclass(frozen=True, slots=True)
class EquivalenceEdge:
    """How often `candidate` answers as `reference` does, on one probe set.

    agreements of samples; lower/upper : Clopper-Pearson bounds of the agreement at `confidence`.
    difference : accuracy(reference) - accuracy(candidate) where labels exist.
    method : 'sketch', 'sketch-estimated' (projected vectors), 'transitive', 'random5',
    'anytime' (k of n at a stopping time).
    labels : 'named', 'positional' or None.
    """

    reference_id: str
    candidate_id: str
    probe_set_id: str | None
    samples: int
    agreements: int
    lower: float
    upper: float
    confidence: float
    method: str
    labels: str | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None


@dataclass(frozen=True, slots=True)
class SegmentMatch:
    """A part of `host` whose place a part of `donor` can take, and what that changes.

    kind : 'common' (the same operators, the donor's weights) or 'interface' (other operators with
    equal shapes at entry and exit). Entries and exits are tensor names; `definition` is the JSON
    from which the hybrid is built. identical : equal weights, so nothing changes.
    estimated : share of answers that noise of the segment's difference changes; no guarantee.
    certified : of `certified_samples` probes at most so many answers change, which is proved.
    measured : of `samples` probes so many changed when the hybrid was run. None where it is not
    known, and `note` says why. host_right, hybrid_right : correct answers to `labelled` probes.
    hybrid_id : the model that was built and run.
    """

    host_id: str
    donor_id: str
    name: str  # 's1', 's2', ... in the order of the host
    kind: str
    host_entry: str
    host_exit: str
    donor_entry: str
    donor_exit: str
    operators: int
    identical: bool
    definition: str
    flops: float | None = None
    donor_flops: float | None = None
    params: float | None = None
    donor_params: float | None = None
    probe_set_id: str | None = None
    samples: int = 0
    estimated: float | None = None
    certified: int | None = None
    certified_samples: int = 0
    measured: int | None = None
    labelled: int = 0
    host_right: int | None = None
    hybrid_right: int | None = None
    hybrid_id: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Lineage:
    """That a model comes from another one, and how that is known.

    relation : 'host', 'donor' (of a graft), 'fused from', 'identical weights', 'quantised',
    'fine-tuned', 'unrelated'. provenance : 'built' (we made it), 'verified' (the weights are
    equal), 'evidence' (their distance speaks for it) or 'declared'.
    detail : JSON; the recipe of a hybrid, or the evidence.
    """

    model_id: str
    parent_id: str
    relation: str
    provenance: str
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class AnalysisTask:
    """A unit of work an analysis worker can do on its own. key makes it idempotent."""

    key: str
    job_id: int
    aspect: str  # resources, latency, sketch, segments, lineage
    model_id: str
    parameters: Mapping[str, object]
    state: str = "pending"  # pending, running, done, failed, skipped
    reason: str | None = None
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """A statement that takes long: its tasks, and how far it is.

    reason : why it ended as it did, or what came of it. progress : the share that is done, of its
    tasks or of what a background job does now; None = unknown. doing : that, in words. process :
    the id of the process that runs it, or ran it.
    """

    id: int
    statement: str
    state: str  # running, done, failed, cancelled, interrupted
    total: int
    done: int
    failed: int
    skipped: int
    started_at: datetime
    finished_at: datetime | None = None
    background: bool = False
    progress: float | None = None
    doing: str | None = None
    reason: str | None = None
    process: int | None = None


@dataclass(frozen=True, slots=True)
class TextPredicate:
    """One condition on a metadata column; the storage room compiles it to SQL.

    operator : = != < <= > >= like ilike regexp in is_null has_any has_all. A row whose column is
    NULL is neither true nor false (except for is_null).
    """

    column: str
    operator: str
    values: tuple[str, ...] = ()
