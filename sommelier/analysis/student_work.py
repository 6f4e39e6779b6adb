"""A specialised student trained in a sandbox: two model files and samples go in, a file comes out.

Nothing here talks to a database; student_jobs.py chooses the samples and keeps what is found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis import datasets
from sommelier.analysis.cascade_data import raw_member
from sommelier.analysis.execution import OpenModel, RunRequest, open_model
from sommelier.analysis.fusion_requests import replace_file
from sommelier.analysis.links.reading import run_block
from sommelier.analysis.model_inputs import is_auxiliary
from sommelier.analysis.probes import Probes
from sommelier.errors import AnalysisError, StorageError
from sommelier.records import ModelRecord

if TYPE_CHECKING:
    from sommelier.analysis.cascades.members import Member
    from sommelier.analysis.inspection import Inspection
    from sommelier.analysis.links.formats import AnswerFormat

Array = NDArray[Any]

MODEL, EPOCHS, FINDING = "student.onnx", "epochs", "finding.json"
"""What is in a training's folder: the model, how many epochs are done, and what came of it."""
SOME = 8  # inputs on which a network is compared with ONNX Runtime
CREDIBLE = 0.5  # of labels, what the teacher must answer for them to be of its classes
RATE, RATE_ANEW = 1e-3, 3e-3  # relative; the first where the head begins with what it has to say
BATCH = 64


@dataclass(frozen=True, slots=True)
class StudentRequest:
    """Whom to train on what; can be sent to another process.

    small : whose layers and weights the student begins with. probes : the samples it learns from.
    labels : (n,) in the teacher's classes, -1 unknown; None: it learns from the teacher alone.
    classes : of the teacher, that it learns; (): the fewest that cover a share `popular` of the
    teacher's answers. same_classes : the small model's
    are the teacher's, or nobody said what they are.
    """

    small: ModelRecord
    small_path: Path
    teacher: ModelRecord
    teacher_path: Path
    probes: Probes
    folder: Path
    labels: NDArray[np.int64] | None
    classes: tuple[int, ...]
    popular: float
    same_classes: bool
    epochs: int
    seed: int
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of a training. classes : that the student knows. covered : share of the samples
    that the teacher answers with one of them. labelled : samples whose label was learned."""

    classes: tuple[int, ...]
    covered: float
    samples: int
    labelled: int
    remark: str | None = None


def train_student(request: StudentRequest) -> tuple[Trained, Inspection]:
    """Trains it, unless the folder has it, and writes its file there.

    Raises AnalysisError for models that cannot be teacher or student, and classes that the teacher
    has not; StorageError when the folder cannot be written.
    """
    from sommelier.analysis.computing import check_device, torch_threads
    from sommelier.analysis.inspection import inspect

    path, finding = request.folder / MODEL, request.folder / FINDING
    if not finding.exists():
        check_device("cpu")
        try:
            with torch_threads(request.threads):
                trained = _trained(request)
            replace_file(finding, json.dumps(asdict(trained)).encode())
        except OSError as error:
            raise StorageError(
                f"the student could not be written to {request.folder}: {error.strerror or error}",
                hint="free some space, or allow writing there",
            ) from error
    told = json.loads(finding.read_text(encoding="utf-8"))
    return Trained(**{**told, "classes": tuple(told["classes"])}), inspect(path)


def _trained(request: StudentRequest) -> Trained:
    from sommelier.analysis.cascades.specialised import (
        Spread,
        Training,
        popular_classes,
        specialise,
    )
    from sommelier.analysis.cascades.student_network import student_network, written

    lessons = _lessons(request)
    teacher, inputs, labels = lessons.teacher, lessons.inputs, lessons.labels
    assert teacher.logits is not None, "checked by _scored"
    width = teacher.logits.shape[1]
    classes = request.classes or popular_classes(teacher.ids, width, request.popular)
    some = np.ascontiguousarray(inputs[:SOME])
    try:
        network = student_network(
            request.small_path, some, len(classes) + 1, dims=lessons.dims,
            of_probabilities=lessons.format.form != "logits", seed=request.seed,
        )  # fmt: skip
    except AnalysisError as error:
        raise AnalysisError(
            f"{request.small.name} cannot be trained: {error.message}", hint=error.hint
        ) from error
    knows = request.same_classes and network.head.in_features == width > len(classes)
    if knows:
        network.begin_with(classes)
    rate = RATE if knows else RATE_ANEW
    training = Training(request.epochs, rate, request.seed, relative=True)
    specialise(
        network, inputs, teacher.logits, classes, labels=labels, training=training,
        told=lambda epochs: (request.folder / EPOCHS).write_text(str(epochs)),
    )  # fmt: skip
    name = request.teacher.outputs[0].name  # every stage of a cascade answers under one name
    model = written(network, Spread.of(classes, width), some, name)
    replace_file(request.folder / MODEL, model.SerializeToString())
    covered = float(np.isin(teacher.ids, classes).mean())
    labelled = 0 if labels is None else int((labels >= 0).sum())
    return Trained(classes, covered, len(inputs), labelled, lessons.remark)


@dataclass(frozen=True, slots=True)
class _Lessons:
    """inputs (n, ...) of the small model, the teacher's answers to them, labels (n,) or None.

    format : how the small model writes its answers. dims : lengths of its open axes.
    """

    inputs: Array
    teacher: Member
    labels: NDArray[np.int64] | None
    format: AnswerFormat
    dims: Mapping[str, int]
    remark: str | None


def _lessons(request: StudentRequest) -> _Lessons:
    probes, small = request.probes, request.small
    assert probes.dataset is not None, "students learn from datasets"
    with datasets.reopen(probes.dataset, verify=False) as items:
        model = open_model(_run(request.small_path, small, request), items)
        inputs = _inputs(model, small, probes)
        teacher, _ = _scored(
            open_model(_run(request.teacher_path, request.teacher, request), items),
            request.teacher, probes,
        )  # fmt: skip
        _, format = _scored(model, small, probes)
    known = teacher.ids >= 0
    if not known.all():
        teacher, inputs = teacher.rows(known), inputs[known]
    labels = None if request.labels is None else request.labels[known]
    labels, remark = _credible(labels, teacher)
    shape = model.inputs[0].shape or ()
    dims = {
        dim: length
        for dim, length in zip(shape[1:], inputs.shape[1:], strict=False)
        if isinstance(dim, str)
    }
    return _Lessons(inputs, teacher, labels, format, dims, remark)


def _run(path: Path, record: ModelRecord, request: StudentRequest) -> RunRequest:
    return RunRequest(
        path, record.output_kind, record.preprocessing, request.probes, BATCH, request.threads
    )


def _inputs(model: OpenModel, record: ModelRecord, probes: Probes) -> Array:
    """(n, ...) as the model takes them."""
    if len(model.inputs) != 1 or is_auxiliary(model.inputs[0]):
        names = ", ".join(str(spec) for spec in model.inputs)
        raise AnalysisError(
            f"{record.name} cannot be trained: it takes {names}, and a student has one input"
        )
    if model.plan.batch < 1:
        raise AnalysisError(
            f"{record.name} cannot be trained: it has no batch axis, so its samples are not told"
            " apart"
        )
    name = model.inputs[0].name
    return np.concatenate([feed[name][:count] for feed, count in model.feeds(probes)])


def _scored(model: OpenModel, record: ModelRecord, probes: Probes) -> tuple[Member, AnswerFormat]:
    """What a model answers, with logits or logarithms of probabilities of all classes."""
    found, format = raw_member(record, run_block(model, probes, record), None)
    if found.logits is None:
        raise AnalysisError(
            f"{record.name} answers with class numbers alone",
            hint="a student is made of, and learns from, logits or probabilities of classes",
        )
    return found, format


def _credible(
    labels: NDArray[np.int64] | None, teacher: Member
) -> tuple[NDArray[np.int64] | None, str | None]:
    """(the labels, None), or (None, why they are not used)."""
    if labels is None or not (labels >= 0).any():
        return None, None
    known = labels >= 0
    right = float((teacher.ids == labels)[known].mean())
    if right >= CREDIBLE:
        return labels, None
    return None, (
        f"{teacher.name} answers {right:.0%} of the labels: they are not taken for its classes, and"
        " the student learned from its answers alone"
    )
