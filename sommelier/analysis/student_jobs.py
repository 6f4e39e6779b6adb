"""CREATE CASCADE ... USING student = 'specialised': samples that calibration does not see, the
training in a sandbox, and what is kept of it: a model like any other, with its lineage.

What a training came to is in a folder beside the database until a statement has kept it, so that
the same one with another promise does not train again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis import datasets, preprocessing
from sommelier.analysis.aspects import Finding, Subject, Truth, sketch_task
from sommelier.analysis.cascade_data import KEPT, label_map
from sommelier.analysis.cascade_jobs import read_block
from sommelier.analysis.cascades.specialised import BATCH
from sommelier.analysis.execution import RunRequest
from sommelier.analysis.model_inputs import plan_feeds
from sommelier.analysis.output_kinds import class_count
from sommelier.analysis.probes import Probes, chosen_probes
from sommelier.analysis.student_work import (
    EPOCHS,
    FINDING,
    MODEL,
    StudentRequest,
    Trained,
    train_student,
)
from sommelier.errors import AnalysisError, StorageError
from sommelier.records import LabelSpace, Lineage, ModelRecord
from sommelier.storage.versions import version_of

if TYPE_CHECKING:
    from sommelier.analysis.datasets import LoadedDataset
    from sommelier.analysis.inspection import Inspection
    from sommelier.analysis.sandbox import Sandbox
    from sommelier.analysis.workers import Progress, Rooms
    from sommelier.records import Dataset
    from sommelier.storage.catalog import Catalog

Array = NDArray[Any]

SPECIALISED = "specialised"  # source of the models that are trained as students
SPECIALISED_FROM, DISTILLED_FROM = "specialised from", "distilled from"
FOLDER = "students"
LEAST = 100  # samples to learn from
MOST = 10_000
MOST_BYTES = 10**9  # of the inputs, all of which are in memory during training
LEAST_EPOCHS, LEAST_STEPS = 20, 1500  # where the statement does not say how many
POPULAR = 0.75  # of the teacher's answers, which the classes cover; EBJR's mix has 75 %
POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class StudentOptions:
    """classes : of the teacher; (): the fewest that cover a share `popular` of its answers.
    training : the dataset to learn from; None: what calibration leaves of its own. labels : learn
    from these too, where there are any. epochs : None for at least LEAST_EPOCHS and LEAST_STEPS."""

    classes: tuple[int, ...] = ()
    popular: float = POPULAR
    training: str | None = None
    labels: bool = True
    epochs: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Student:
    """A trained student that is not in the catalog yet. finding, raw (n, d) : what it answers to
    the samples of the calibration. flops : of one input, None where unknown."""

    record: ModelRecord
    path: Path
    inspection: Inspection
    trained: Trained
    request: StudentRequest
    finding: Finding
    raw: Array
    probes: Probes

    @property
    def flops(self) -> float | None:
        found = [m.value for m in self.inspection.measurements if m.metric == "flops"]
        return found[0] if found else None


# ---- what it learns from


def room_for_training(probes: Probes, options: StudentOptions) -> int | None:
    """How many samples calibration should take for half of the dataset to be left; None where the
    student learns from another one, or enough is left anyhow."""
    assert probes.dataset is not None, "cascades are calibrated on datasets"
    size = probes.dataset.samples
    apart = options.training is not None and options.training != probes.dataset.name
    return None if apart or 2 * probes.record.samples <= size else max(1, size // 2)


def plan_student(
    rooms: Rooms,
    small: ModelRecord,
    teacher: ModelRecord,
    calibration: Probes,
    options: StudentOptions,
) -> StudentRequest:
    """The training that is asked for. calibration : samples that it must not see.

    Raises UnknownNameError for the dataset, AnalysisError where too little is left to learn from.
    """
    catalog = rooms.catalog
    assert calibration.dataset is not None, "cascades are calibrated on datasets"
    record = calibration.dataset
    if options.training is not None:
        record = catalog.dataset(options.training)
    with datasets.reopen(record) as items:
        rows = _rows(items, record, small, calibration, options.seed)
        for model in (small, teacher):
            _check_fits(model, items, record)
        probes = chosen_probes(items, rows, seed=options.seed)
    labels = _labels(catalog, teacher, probes) if options.labels else None
    epochs = options.epochs or max(LEAST_EPOCHS, ceil(LEAST_STEPS / ceil(len(rows) / BATCH)))
    same = small.label_space_id in (None, teacher.label_space_id)
    request = StudentRequest(
        small, rooms.artifacts.path(str(small.artifact)), teacher,
        rooms.artifacts.path(str(teacher.artifact)), probes, catalog.directory, labels,
        options.classes, options.popular, same, epochs, options.seed,
    )  # fmt: skip
    return replace(request, folder=catalog.directory / FOLDER / _digest(request))


def _rows(
    items: LoadedDataset, record: Dataset, small: ModelRecord, calibration: Probes, seed: int
) -> NDArray[np.int64]:
    """Positions to learn from, ascending: all that calibration leaves, or as many as fit."""
    left = np.arange(len(items), dtype=np.int64)
    if calibration.dataset is not None and record.id == calibration.dataset.id:
        left = np.setdiff1d(left, np.asarray(calibration.indices))
    if len(left) < LEAST:
        raise AnalysisError(
            f"'{record.name}' has {len(items)} items, of which calibration leaves {len(left)} for"
            f" the student to learn from, and {LEAST} are the least",
            hint=f"samples = {max(1, len(items) // 2)} leaves half of them, or name another dataset"
            " to learn from: training = 'name'",
        )
    first = items.item(0)
    prepared = plan_feeds(small.inputs, small.preprocessing, first, 1).preprocessing
    assert prepared is not None, "an item of a dataset is always prepared, if by nothing"
    size = max(1, preprocessing.apply(prepared, first).nbytes)
    most = min(len(left), MOST, max(LEAST, MOST_BYTES // size))
    drawn = np.random.default_rng(seed).choice(left, size=most, replace=False)
    return np.sort(drawn).astype(np.int64)


def _check_fits(model: ModelRecord, items: LoadedDataset, record: Dataset) -> None:
    try:
        plan_feeds(model.inputs, model.preprocessing, items.item(0), 1)
    except AnalysisError as error:
        raise AnalysisError(
            f"'{record.name}' does not fit {model.name}: {error.message}", hint=error.hint
        ) from error


def _labels(catalog: Catalog, teacher: ModelRecord, probes: Probes) -> NDArray[np.int64] | None:
    """Labels (n,) in the teacher's classes, -1 unknown; None where they do not speak of those."""
    labels = probes.labels
    if labels is None or not (labels >= 0).any():
        return None
    own, space = teacher.label_space_id, probes.record.label_space_id
    try:
        found = label_map(
            _space(catalog, own),
            class_count(teacher.outputs, teacher.output_kind),
            labels,
            _space(catalog, space),
            catalog.label_map(own, space) if own and space else None,
        )
    except AnalysisError:  # other names, or another number of them
        return None
    back = {int(target): k for k, target in enumerate(found.targets) if target >= 0}
    return np.array([back.get(int(label), -1) for label in labels], dtype=np.int64)


def _digest(request: StudentRequest) -> str:
    """The same for requests that train the same student."""
    labels = "" if request.labels is None else hashlib.sha256(request.labels.tobytes()).hexdigest()
    decides = [
        version_of(request.small), version_of(request.teacher), request.probes.record.id, labels,
        request.classes, request.popular, request.same_classes, request.epochs, request.seed,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:32]


# ---- training


def train(
    rooms: Rooms,
    request: StudentRequest,
    calibration: Probes,
    name: str,
    sandbox: Sandbox,
    progress: Progress,
) -> Student:
    """The student, trained now or by a statement before, with its answers to the calibration's
    samples. Raises AnalysisError where it cannot be trained or answers nothing."""
    _open_folder(request.folder)
    progress("training", 0, request.epochs, request.small.name)
    try:
        trained, inspection = _watched(request, sandbox, progress)
    except BaseException:
        if not (request.folder / FINDING).exists():
            shutil.rmtree(request.folder, ignore_errors=True)
        raise
    record = student_record(inspection.record, request, trained, name)
    progress("answering", 0, 1, name)
    subject = Subject(record, request.folder / MODEL, _space(rooms.catalog, record.label_space_id))
    finding, raw = _answers(rooms.catalog, subject, calibration, sandbox)
    return Student(record, subject.path, inspection, trained, request, finding, raw, calibration)


def _answers(
    catalog: Catalog, subject: Subject, probes: Probes, sandbox: Sandbox
) -> tuple[Finding, Array]:
    """What it answers to the samples: as the catalog keeps it, and as it is."""
    own, space = subject.record.label_space_id, probes.record.label_space_id
    explicit = catalog.label_map(own, space) if own and space else None
    finding = sketch_task(subject, Truth(probes, _space(catalog, space), explicit), sandbox)
    if finding.outputs is not None and KEPT in finding.outputs:
        return finding, finding.outputs[KEPT]
    record = subject.record
    asked = RunRequest(
        subject.path, record.output_kind, record.preprocessing, probes, threads=sandbox.threads
    )
    return finding, sandbox.call(read_block, asked, record)


def _space(catalog: Catalog, id_: str | None) -> LabelSpace | None:
    return None if id_ is None else catalog.label_space(id_)


def _open_folder(folder: Path) -> None:
    """The folder, and no other: only the last training is taken up again."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / EPOCHS).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"a student needs the folder {folder}: {error.strerror or error}",
            hint="nothing was begun; free some space, or allow writing there",
        ) from error
    for other in folder.parent.iterdir():
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)


def _watched(
    request: StudentRequest, sandbox: Sandbox, progress: Progress
) -> tuple[Trained, Inspection]:
    """What the child found; meanwhile its epochs are told, and Ctrl-C ends it."""
    with ThreadPoolExecutor(1) as pool:
        future: Future[tuple[Trained, Inspection]] = pool.submit(
            sandbox.call, train_student, request
        )
        try:
            told = -1
            while not future.done():
                wait([future], timeout=POLL_S)
                done = _epochs(request.folder)
                if done > told:
                    told = done
                    progress("training", done, request.epochs, request.small.name)
        except BaseException:
            sandbox.close()
            raise
    return future.result()


def _epochs(folder: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int((folder / EPOCHS).read_text(encoding="utf-8"))
    return 0


# ---- keeping


def student_record(
    built: ModelRecord, request: StudentRequest, trained: Trained, name: str
) -> ModelRecord:
    """The record of a student: its file's own facts, the small model's about inputs, the teacher's
    about classes."""
    small, teacher = request.small, request.teacher
    told = (
        f"it answers {len(trained.classes)} classes as {teacher.name} does and leaves the others to"
        f" it; it learned from samples of '{request.probes.record.name}', so what is measured on"
        " all of them flatters it"
    )
    return replace(
        built,
        name=name,
        version="1",
        source=SPECIALISED,
        revision=f"{small.name}, specialised by {teacher.name}",
        output_kind=teacher.output_kind,
        output_kind_inferred=teacher.output_kind_inferred,
        label_space_id=teacher.label_space_id,
        preprocessing=small.preprocessing,
        task=teacher.task,
        note=told if built.note is None else f"{told}; {built.note}",
        created=None,
    )


def keep_student(
    rooms: Rooms,
    student: Student,
    replaced: ModelRecord | None,
    keep: Callable[[ModelRecord], None],
) -> None:
    """Makes the student a model of the catalog, in one step with what `keep` does with its record.

    replaced : a student of that name that goes. Raises StorageError where it cannot be kept,
    AnalysisError when one of its models has changed since the training began.
    """
    catalog, request = rooms.catalog, student.request
    record = replace(student.record, artifact=rooms.artifacts.put(student.path))
    with catalog.transaction():
        for parent in (request.small, request.teacher):
            if version_of(catalog.model(parent.id)) != version_of(parent):
                raise AnalysisError(f"the model {parent.name} was changed during the training")
        if replaced is not None and replaced.id != record.id:
            catalog.drop_model(replaced.id)
        kept = catalog.add_model(record).record
        catalog.add_measurements([*student.inspection.measurements, *student.finding.measurements])
        if student.inspection.profile is not None:
            catalog.add_profile(student.inspection.profile)
        catalog.add_probe_set(student.probes.record)
        if student.finding.sketch is not None:
            rooms.sketches.add(student.finding.sketch)
        if student.finding.outputs is not None:
            outputs = dict(student.finding.outputs)
            rooms.sketches.add_outputs(version_of(kept), student.probes.record.id, outputs)
        catalog.add_lineage(_lineage(kept, student))
        keep(kept)
    shutil.rmtree(request.folder, ignore_errors=True)


def _lineage(kept: ModelRecord, student: Student) -> tuple[Lineage, ...]:
    request, trained = student.request, student.trained
    recipe = {
        "classes": list(trained.classes), "samples": trained.samples,
        "labelled": trained.labelled, "dataset": request.probes.record.name,
        "epochs": request.epochs, "seed": request.seed,
    }  # fmt: skip
    parents = ((request.small, SPECIALISED_FROM), (request.teacher, DISTILLED_FROM))
    return tuple(
        Lineage(kept.id, parent.id, relation, "built", json.dumps(recipe))
        for parent, relation in parents
    )
