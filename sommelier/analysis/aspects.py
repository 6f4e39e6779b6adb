"""What one task of ANALYZE does: runs a model in a sandbox and states what was found.

A task function talks to no database; workers.py keeps what it returns, all in one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sommelier.analysis import metrics
from sommelier.analysis.answers import NO_ANSWER, ModelAnswers
from sommelier.analysis.execution import RunRequest, answer_probes, sketch_of
from sommelier.analysis.labels import LabelMap, map_labels
from sommelier.analysis.probes import Probes
from sommelier.analysis.sandbox import Sandbox
from sommelier.errors import AnalysisError
from sommelier.records import EquivalenceEdge, LabelSpace, Measurement, ModelRecord, OutputSketch

if TYPE_CHECKING:
    from sommelier.analysis.link_jobs import LinkFinding
    from sommelier.analysis.operator_timing import ModelTimes
    from sommelier.analysis.segment_jobs import SegmentFinding

OperatorRow = tuple[str, str, float, int]


@dataclass(frozen=True, slots=True)
class Subject:
    """A model as a task sees it."""

    record: ModelRecord
    path: Path
    label_space: LabelSpace | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What a task found out. remark : what the user should know though the task is done."""

    measurements: tuple[Measurement, ...] = ()
    sketch: OutputSketch | None = None
    outputs: Mapping[str, Any] | None = None
    times: ModelTimes | None = None
    segments: SegmentFinding | None = None
    edge: EquivalenceEdge | None = None
    links: LinkFinding | None = None
    remark: str | None = None


@dataclass(frozen=True, slots=True)
class Truth:
    """True labels of a probe set. explicit : the user's map from the model's labels, if any."""

    probes: Probes
    label_space: LabelSpace | None
    explicit: Mapping[str, str] | None = None


# ---- sketches and accuracy


def sketch_task(subject: Subject, truth: Truth, sandbox: Sandbox) -> Finding:
    """The model's answers to the probe set, and its accuracy where the probes have labels."""
    record, probes = subject.record, truth.probes
    request = RunRequest(
        subject.path, record.output_kind, record.preprocessing, probes, threads=sandbox.threads
    )
    answers = sandbox.call(answer_probes, request)
    space = record.label_space_id
    sketch = sketch_of(answers, model_id=record.id, probes=probes, label_space_id=space)
    remarks = []
    if answers.failures:
        remarks.append(f"{answers.failures} of {probes.record.samples} probes had no answer (NaN)")
    if answers.assumed_preprocessing:
        remarks.append("preprocessing was assumed from the shapes, nobody declared it")
    measured: list[Measurement] = []
    if probes.labels is not None and answers.kind == "labels":
        try:
            measured = measured_accuracy(subject, truth, answers)
        except AnalysisError as error:
            remarks.append(f"no accuracy: {error.message}")
    return Finding(tuple(measured), sketch, answers.outputs, remark="; ".join(remarks) or None)


def measured_accuracy(subject: Subject, truth: Truth, answers: ModelAnswers) -> list[Measurement]:
    """Accuracy on the probes that have true labels; needs truth.probes.labels. Raises AnalysisError
    when the model's classes are others."""
    labels = truth.probes.labels
    assert labels is not None
    classes = answers.classes
    if classes is None and subject.label_space is None:  # bare class ids are taken at their word
        given = answers.answers[answers.answers != NO_ANSWER]
        classes = max(truth.probes.classes or 0, int(given.max(initial=0)) + 1)
    to_labels: LabelMap = map_labels(
        subject.label_space,
        truth.label_space,
        classes=classes,
        target_classes=truth.probes.classes,
        explicit=truth.explicit,
    )
    if to_labels.coverage == 0:
        raise AnalysisError("its classes are others than the dataset's")
    ids = answers.topk_ids
    found = metrics.correctness(
        answers.answers,
        labels,
        to_labels,
        topk_ids=None if ids is None else ids.astype(np.uint32),
    )
    dataset = truth.probes.record.name
    return metrics.accuracy_measurements(found, model_id=subject.record.id, dataset=dataset)


# ---- cost


def latency_task(subject: Subject, parameters: Mapping[str, Any], sandbox: Sandbox) -> Finding:
    """Measured latency, throughput and memory, and the times of the model's operators."""
    from sommelier.analysis.latency import RunSettings, measure
    from sommelier.analysis.operator_timing import time_operators

    model_id = subject.record.id
    settings = {name: parameters[name] for name in ("batch", "threads", "device", "runs", "seed")}
    measured = sandbox.call(measure, subject.path, model_id=model_id, **settings)
    try:
        times = sandbox.call(
            time_operators, subject.path, RunSettings(**settings), model_id=model_id
        )
    except AnalysisError as error:
        return Finding(tuple(measured), remark=f"operators not timed: {error.message}")
    return Finding(tuple(measured), times=times)


def resources_task(
    subject: Subject,
    parameters: Mapping[str, Any],
    sandbox: Sandbox,
    table: tuple[OperatorRow, ...],
) -> Finding:
    """The static profile at the asked batch, and the latency an operator table predicts."""
    batch = int(parameters["batch"])
    measured, remark = sandbox.call(static_profile, subject.path, subject.record.id, batch, table)
    return Finding(tuple(measured), remark=remark)


def static_profile(
    path: Path, model_id: str, batch: int, table: tuple[OperatorRow, ...]
) -> tuple[list[Measurement], str | None]:
    """Counts of the graph at `batch`; runs in the sandbox, because the file may be hostile.

    The second value says why no latency could be estimated; None if it was, or without a table.
    """
    from sommelier.analysis import graph, operators, profiling
    from sommelier.analysis.inspection import static_measurements

    model = graph.read_model(path)
    costs = profiling.profile(model, batch=batch)
    found = list(static_measurements(model_id, costs, batch=batch))
    if not table:
        return found, None
    try:
        fitted = operators.OperatorTable.from_rows(table, device=table[0][0])
        estimate = operators.estimate(model, fitted, batch=batch)
    except AnalysisError as error:
        return found, f"no latency estimate: {error.message}"
    return [*found, estimate.measurement(model_id)], None
