"""What is kept of a fusion: a model like any other, measured, sketched and with its lineage."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from sommelier.analysis import datasets
from sommelier.analysis.aspects import Finding, Subject, Truth, sketch_task
from sommelier.analysis.fusion_data import FusionData
from sommelier.analysis.fusion_outcomes import outputs_of
from sommelier.analysis.latency import measure
from sommelier.analysis.links.formats import CLASS_KINDS
from sommelier.analysis.metrics import Correctness, accuracy_measurements
from sommelier.analysis.probes import Probes, dataset_probes
from sommelier.errors import AnalysisError, StorageError, UnknownNameError
from sommelier.fusion_records import FusedModel
from sommelier.records import Lineage, Measurement, ModelRecord, OutputKind, Provenance
from sommelier.storage.versions import version_of

if TYPE_CHECKING:
    from pathlib import Path

    from sommelier.analysis.fusion_plans import FusionRequest
    from sommelier.analysis.fusion_requests import FusionFinding
    from sommelier.analysis.sandbox import Sandbox
    from sommelier.analysis.workers import Rooms
    from sommelier.storage.catalog import Catalog

FUSION = "fusion"  # source of the models that are fused of others
FUSED_FROM = "fused from"


def original_latencies(rooms: Rooms, data: FusionData, sandbox: Sandbox) -> dict[str, float]:
    """Milliseconds of one run of each model by task, by one thread of the CPU at batch 1.

    What the catalog has measured counts; the rest is measured now and kept, so that the same
    search predicts the same next time. Raises AnalysisError for a model that does not run.
    """
    found = {}
    for task, record, path in zip(data.tasks, data.records, data.paths, strict=True):
        known = _known_latency(rooms.catalog.measurements(record.id))
        if known is None:
            measured = _timed(record.id, path, sandbox)
            rooms.catalog.add_measurements(measured)
            known = _known_latency(measured)
        if known is None:
            raise AnalysisError(f"the latency of {record.name} could not be measured")
        found[task] = known
    return found


def _timed(model_id: str, path: Path, sandbox: Sandbox) -> list[Measurement]:
    """Latency and throughput. The memory gained says nothing here: the process has run others."""
    found = sandbox.call(measure, path, model_id=model_id)
    return [m for m in found if m.metric != "measured_memory"]


def _known_latency(measurements: list[Measurement]) -> float | None:
    values = [
        m.value
        for m in measurements
        if m.metric == "latency" and m.provenance is Provenance.MEASURED
        and (m.device, m.batch, m.percentile, m.threads) == ("cpu", 1, 50, 1)
    ]  # fmt: skip
    return values[0] if values else None


def keep_model(
    rooms: Rooms,
    request: FusionRequest,
    fusion: FusedModel,
    finding: FusionFinding,
    sandbox: Sandbox,
) -> FusedModel:
    """The fusion with its model, which is in the catalog with everything known of it, or is not.

    Raises StorageError when it cannot be kept, AnalysisError when one of its models or its name is
    not what it was when the search began.
    """
    inspection = finding.inspection
    assert finding.path is not None, "there is a file"
    assert inspection is not None, "the file was inspected"
    key = rooms.artifacts.put(finding.path)
    record = replace(fused_record(inspection.record, request), artifact=key)
    path = rooms.artifacts.path(key)
    latency = _timed(record.id, path, sandbox)
    answers, probes = _answers(rooms.catalog, Subject(record, path), request.data, sandbox)
    catalog = rooms.catalog
    with catalog.transaction():
        _check_unchanged(catalog, request)
        if request.replaced is not None and request.replaced.id != record.id:
            catalog.drop_model(request.replaced.id)
        kept = catalog.add_model(record).record
        accuracy = _held_out_accuracy(fusion, request.data, record.id)
        catalog.add_measurements([*inspection.measurements, *latency, *accuracy])
        if inspection.profile is not None:
            catalog.add_profile(inspection.profile)
        if answers.sketch is not None and probes is not None:
            catalog.add_probe_set(probes.record)
            rooms.sketches.add(answers.sketch)
        catalog.add_lineage(_lineage(kept, request.data))
        fusion = replace(fusion, model_id=kept.id)
        catalog.add_fusion(fusion)
        catalog.add_fusion_steps(fusion.id, finding.trace)
    return replace(fusion, name=kept.name)


def fused_record(built: ModelRecord, request: FusionRequest) -> ModelRecord:
    """The record of a fused model: the file's own facts, and the originals' about inputs.

    Where the first model tells classes, questions compare the first output, which is its own, as
    of any model with several outputs; other answers together are of no known kind.
    """
    data = request.data
    first = data.records[0]
    classes = first.output_kind in CLASS_KINDS
    return replace(
        built,
        name=request.fusion.name,
        version=request.version or "1",
        source=FUSION,
        revision=f"fusion of {', '.join(data.tasks)}",
        output_kind=first.output_kind if classes else OutputKind.UNKNOWN,
        output_kind_inferred=first.output_kind_inferred,
        label_space_id=first.label_space_id if classes else None,
        preprocessing=first.preprocessing,
        note=_told(request, built),
        created=None,
    )


def _told(request: FusionRequest, built: ModelRecord) -> str:
    """Which output answers as which model, and what later measurements on its data are worth."""
    data = request.data
    names = outputs_of(data, [spec.name for spec in built.outputs])
    told = [f"{', '.join(outputs)} answers as {task}" for task, outputs in names.items()]
    if data.dataset is not None and request.options.method != "equal layers":
        told.append(
            f"it learned from samples of '{data.dataset}', so what is measured on all of them"
            " flatters it"
        )
    return "; ".join(told if built.note is None else [*told, built.note])


def _lineage(record: ModelRecord, data: FusionData) -> tuple[Lineage, ...]:
    names = outputs_of(data, [spec.name for spec in record.outputs])
    return tuple(
        Lineage(record.id, parent.id, FUSED_FROM, "built", json.dumps({"outputs": names[task]}))
        for task, parent in zip(data.tasks, data.records, strict=True)
    )


def _check_unchanged(catalog: Catalog, request: FusionRequest) -> None:
    """Whether the models, and whom the name belongs to, are as they were when it began."""
    fusion, replaced = request.fusion, request.replaced
    for task, record in zip(fusion.tasks, request.data.records, strict=True):
        try:
            same = version_of(catalog.model(record.id)) == task.version
        except UnknownNameError:
            same = False
        if not same:
            raise AnalysisError(
                f"the model {task.name} was changed or dropped while it was fused",
                hint="CREATE MODEL ... AS FUSION again",
            )
    try:
        taken = catalog.resolve(fusion.name, request.version)
    except UnknownNameError:
        return
    if replaced is None or taken.id != replaced.id:
        raise StorageError(
            f"another model was called '{fusion.name}' while its fusion was searched for",
            hint="the search is kept: rename that model, then the same statement goes on",
        )


def _held_out_accuracy(fusion: FusedModel, data: FusionData, model_id: str) -> list[Measurement]:
    """Of the first task, whose classes questions compare: on what it did not learn from."""
    task, labels = fusion.tasks[0], data.labels[0]
    if labels is None or task.metric != "accuracy" or task.baseline is None or task.drop is None:
        return []
    right = round((task.baseline - task.drop) * task.samples)
    found = Correctness(first=np.arange(task.samples) < right, among_five=None)
    return accuracy_measurements(
        found, model_id=model_id, dataset=labels.dataset, method="held-out probes"
    )


def _answers(
    catalog: Catalog, subject: Subject, data: FusionData, sandbox: Sandbox
) -> tuple[Finding, Probes | None]:
    """What it answers to the probes that other models are compared on; nothing where it cannot."""
    if data.probes is None or data.probes.dataset is None:
        return Finding(), None
    with datasets.reopen(data.probes.dataset, verify=False) as items:
        probes = dataset_probes(items)
    own, space = subject.record.label_space_id, probes.record.label_space_id
    subject = replace(subject, label_space=catalog.label_space(own) if own else None)
    truth = Truth(
        probes,
        catalog.label_space(space) if space else None,
        catalog.label_map(own, space) if own and space else None,
    )
    try:
        return sketch_task(subject, truth, sandbox), probes
    except AnalysisError as error:
        return Finding(remark=error.message), None
