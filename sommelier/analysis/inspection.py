"""From a model file to what the catalog keeps of it: record, labels, costs, or why it is refused.

Nothing is executed. `inspect` works anywhere; `Inspector` runs it in a sandbox, because reading a
hostile file is a risk too.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

from sommelier.analysis import declared_facts as facts
from sommelier.errors import (
    AnalysisError,
    RejectedModelError,
    WorkerCrashedError,
    WorkerTimeoutError,
)
from sommelier.notes import joined
from sommelier.records import (
    Artifact,
    LabelSpace,
    Measurement,
    ModelRecord,
    OutputKind,
    Provenance,
    ResourceProfile,
)
from sommelier.storage.catalog_labels import UNNAMED

if TYPE_CHECKING:
    from onnx import ModelProto

    from sommelier.analysis.graph import Graph
    from sommelier.analysis.profiling import StaticProfile

RUNTIME_DOMAINS = re.compile(r"com\.microsoft(\.[a-z0-9.]+)?|ai\.onnx(\.[a-z.]+)?|")
"""Operator domains that ONNX Runtime has, beside those whose functions a file brings along."""

INSPECTION_SECONDS = 120.0
INSPECTION_BYTES = 8 * 10**9


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a file holds. measurements and profile carry the record's id."""

    record: ModelRecord
    label_space: LabelSpace | None
    measurements: tuple[Measurement, ...]
    profile: ResourceProfile | None


def inspect(path: Path, declared: Mapping[str, object] | None = None) -> Inspection:
    """What a model file holds.

    declared : facts its source states (Artifact.declared); also name, version, source, revision.
    What is declared wins over what is inferred. Raises RejectedModelError with the reason.
    """
    from sommelier.analysis import fingerprint, graph, profiling, tracing
    from sommelier.storage.external_data import files_of

    declared = declared or {}
    path = Path(path)
    model = graph.read_model(path)
    check_model(model)
    external = files_of(model, path.parent)
    traced, binding = tracing.trace(model)
    costs = profiling.profile_graph(traced, assumed=binding.assumed)
    record, label_space = _describe(path, model, traced, declared)
    record = replace(
        record,
        id=fingerprint.content_fingerprint(path, external),
        graph_hash=fingerprint.graph_hash(traced),
        weight_hash=fingerprint.weight_hash(traced, path.parent),
        minhash=_sketch(path),
        note=_note(declared, model, costs, record, label_space),
    )
    profile = None
    if costs.vector is not None:
        profile = ResourceProfile(record.id, costs.vector.astype("<f8").tobytes())
    return Inspection(record, label_space, static_measurements(record.id, costs), profile)


def _sketch(path: Path) -> bytes | None:
    """By which models that may share segments are found; None for a graph that is too large."""
    from sommelier.analysis.segments import segment_sketch

    try:
        sketch = segment_sketch(path)
    except AnalysisError:
        return None
    buffer = bytearray(sketch.bytesize())
    sketch.serialize(buffer)
    return bytes(buffer)


def describe(
    path: Path, declared: Mapping[str, object] | None = None
) -> tuple[ModelRecord, LabelSpace | None]:
    """Types, output kind and label names of a model file: its record without hashes and costs.

    Raises RejectedModelError with the reason.
    """
    from sommelier.analysis import graph, tracing

    model = graph.read_named(path)
    check_model(model)
    return _describe(path, model, tracing.trace(model)[0], declared or {})


def inspect_declared(artifact: Artifact) -> Inspection:
    """A record made of declared facts only.

    Its id is the hash of source, name and version: a second table adds numbers to the same row.
    """
    from sommelier.analysis.labels import label_space

    declared = artifact.declared
    identity = json.dumps([artifact.source, artifact.name, artifact.version])
    model_id = f"sha256:{hashlib.sha256(identity.encode()).hexdigest()}"
    names = facts.parse_labels(declared.get("labels"))
    space = label_space(_label_name(declared, artifact.name), names) if names else None
    record = ModelRecord(
        id=model_id,
        name=artifact.name,
        version=artifact.version or "1",
        source=artifact.source,
        revision=artifact.revision,
        inputs=facts.tensor_specs(declared, "inputs"),
        outputs=facts.tensor_specs(declared, "outputs"),
        output_kind=facts.output_kind(declared) or OutputKind.UNKNOWN,
        output_kind_inferred=facts.output_kind(declared) is None,
        label_space_id=space.id if space else None,
        preprocessing=facts.preprocessing(declared),
        producer=facts.text(declared, "producer"),
        note=facts.text(declared, "note"),
        created=facts.created(declared),
        task=facts.text(declared, "task"),
        family=facts.text(declared, "family"),
        license=facts.text(declared, "license"),
        homepage=facts.text(declared, "homepage"),
        tags=facts.texts(declared, "tags"),
    )
    measurements = tuple(replace(m, model_id=model_id) for m in artifact.measurements)
    return Inspection(record, space, measurements, None)


def inspect_artifact(artifact: Artifact) -> Inspection:
    """What a connector found: its file inspected, with the declared numbers beside the counted."""
    if artifact.path is None:
        return inspect_declared(artifact)
    origin = {"name": artifact.name, "version": artifact.version, "source": artifact.source,
              "revision": artifact.revision}  # fmt: skip
    found = inspect(artifact.path, {**artifact.declared, **origin})
    stated = tuple(replace(m, model_id=found.record.id) for m in artifact.measurements)
    return replace(found, measurements=found.measurements + stated)


class Inspector:
    """Inspects artifacts one after the other in one sandbox."""

    def __init__(
        self,
        *,
        time_limit_s: float = INSPECTION_SECONDS,
        memory_limit_bytes: int | None = INSPECTION_BYTES,
    ) -> None:
        from sommelier.analysis.sandbox import Sandbox

        self._sandbox = Sandbox(time_limit_s=time_limit_s, memory_limit_bytes=memory_limit_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sandbox.close()

    def inspect(self, artifact: Artifact) -> Inspection:
        """As `inspect_artifact`; a file the reader crashes, stalls or fails on is rejected too."""
        if artifact.path is None:
            return inspect_declared(artifact)
        try:
            return self._sandbox.call(inspect_artifact, artifact)
        except (WorkerCrashedError, WorkerTimeoutError) as error:
            raise RejectedModelError(f"cannot be read safely: {error.message}") from error
        except AnalysisError as error:
            raise RejectedModelError(f"cannot be read: {error.message}") from error


def check_model(model: ModelProto) -> None:
    """Refuse what cannot be a model here: no answer, an unknown opset, foreign operators."""
    from onnx import defs

    from sommelier.analysis.graph import opset_imports

    if not model.graph.output:
        raise RejectedModelError("not an ONNX model: its graph has no outputs")
    opsets = opset_imports(model)
    newest = defs.onnx_opset_version()
    if opsets[""] > newest:
        raise RejectedModelError(
            f"it needs opset {opsets['']}, but the installed onnx knows opsets up to {newest}",
            hint="upgrade onnx and onnxruntime, or export the model for an older opset",
        )
    if opsets[""] < 1:
        raise RejectedModelError(f"its opset is {opsets['']}; opsets start at 1")
    own = {(function.domain, function.name) for function in model.functions}
    for domain, op in sorted(_operators(model)):
        if (domain, op) in own:
            continue
        if RUNTIME_DOMAINS.fullmatch(domain) is None:
            raise RejectedModelError(
                f"operator '{op}' is of domain '{domain}', which ONNX Runtime does not have"
            )
        known = domain.startswith("com.microsoft") or defs.has(op, newest, domain)
        if not known and not _ever_defined(op, domain):
            raise RejectedModelError(f"operator '{op}' does not exist in ONNX")


def static_measurements(
    model_id: str, costs: StaticProfile, *, batch: int = 1
) -> tuple[Measurement, ...]:
    """What the graph says: exact counts as measured, liveness as estimated; unknowns left out.

    batch : the one `costs` were counted at. FLOPs are per input, so only batch 1 states them.
    """
    now = datetime.now(UTC)

    def number(metric: str, value: float | None, how: Provenance, method: str) -> list[Measurement]:
        if value is None:
            return []
        at = batch if method == "liveness" else None
        return [Measurement(model_id, metric, float(value), how, method, batch=at, recorded_at=now)]

    peak = costs.peak_activation_bytes
    total = None if peak is None else peak + costs.weight_bytes
    exact, estimated = Provenance.MEASURED, Provenance.ESTIMATED
    flops = costs.flops if batch == 1 else None
    return (
        *number("params", costs.params, exact, "graph"),
        *number("size", costs.weight_bytes, exact, "graph"),
        *number("flops", flops, estimated if costs.assumed else exact, "graph"),
        *number("layers", costs.layers, exact, "graph"),
        *number("activation_memory", peak, estimated, "liveness"),
        *number("memory", total, estimated, "liveness"),
    )


def _describe(
    path: Path, model: ModelProto, traced: Graph, declared: Mapping[str, object]
) -> tuple[ModelRecord, LabelSpace | None]:
    """The record without hashes, and the label space."""
    from sommelier.analysis import graph, output_kinds, signature
    from sommelier.analysis.labels import label_space

    inputs, outputs = signature.input_specs(model.graph), signature.output_specs(model.graph)
    task = facts.text(declared, "task")
    said = facts.output_kind(declared)
    kind = said or output_kinds.infer_output_kind(traced, inputs, outputs, task=task or "")
    name = facts.text(declared, "name") or path.stem
    space = None
    names = facts.labels(declared, facts.metadata(model), traced)
    classes = output_kinds.class_count(outputs, kind)
    if names and (classes is None or classes == len(names)):
        space = label_space(_label_name(declared, name), names)
    record = ModelRecord(
        id="",
        name=name,
        version=facts.text(declared, "version") or "1",
        source=facts.text(declared, "source") or "folder",
        revision=facts.text(declared, "revision") or str(path),
        format="onnx",
        inputs=inputs,
        outputs=outputs,
        output_kind=kind,
        output_kind_inferred=said is None,
        label_space_id=space.id if space else None,
        preprocessing=facts.preprocessing(declared),
        opset=graph.opset_imports(model)[""],
        producer=facts.text(declared, "producer") or _producer(model),
        created=facts.created(declared),
        task=task,
        family=facts.text(declared, "family"),
        license=facts.text(declared, "license"),
        homepage=facts.text(declared, "homepage"),
        tags=facts.texts(declared, "tags"),
    )
    return record, space


def _producer(model: ModelProto) -> str | None:
    """Name and version of the tool that wrote the file, as far as it says."""
    said = (model.producer_name, model.producer_version.removesuffix("None"))
    return " ".join(part.strip() for part in said if part.strip()) or None


def _label_name(declared: Mapping[str, object], model_name: str) -> str:
    return facts.text(declared, "label_space") or f"{UNNAMED}{model_name}"


def _note(
    declared: Mapping[str, object],
    model: ModelProto,
    costs: StaticProfile,
    record: ModelRecord,
    space: LabelSpace | None,
) -> str | None:
    """What a reader of the record should know, in sentences."""
    parts = [facts.text(declared, "note") or ""]
    if not any(o.domain in ("", "ai.onnx") for o in model.opset_import):
        parts.append("it imports no opset, which means opset 1")
    if costs.assumed:
        chosen = ", ".join(f"{name} = {length}" for name, length in costs.assumed.items())
        parts.append(f"costs are for {chosen}, which nobody stated")
    parts += [f"unknown {reason}" for reason in costs.unknown]
    stated = facts.parse_labels(declared.get("labels"))
    if stated and space is None:
        parts.append(f"its {len(stated)} declared labels do not fit its output {record.outputs[0]}")
    return joined(parts) or None


def _operators(model: ModelProto) -> set[tuple[str, str]]:
    """(domain, operator) of every node, those in subgraphs and functions included."""
    found: set[tuple[str, str]] = set()
    waiting = [model.graph.node, *(function.node for function in model.functions)]
    while waiting:
        for node in waiting.pop():
            domain = "" if node.domain == "ai.onnx" else node.domain
            found.add((domain, node.op_type))
            for attribute in node.attribute:
                waiting += [attribute.g.node] if attribute.HasField("g") else []
                waiting += [g.node for g in attribute.graphs]
    return found


def _ever_defined(op: str, domain: str) -> bool:
    """Whether an operator existed in some opset (Upsample and Scatter were withdrawn)."""
    from onnx import defs

    return any(defs.has(op, version, domain) for version in range(1, defs.onnx_opset_version()))
