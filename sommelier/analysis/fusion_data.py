"""Which models can be fused, and on which data: the input they share, and what is right per task.

Fused models see one input, so their inputs and their preprocessing must be the same. Each task may
have labels of its own; where it has none, what the model itself answers is the measure.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis import datasets, preprocessing
from sommelier.analysis.alignment import pairs
from sommelier.analysis.datasets import LoadedDataset
from sommelier.analysis.jobs import AnalysisOptions, AnalysisPlan, open_datasets
from sommelier.analysis.labels import NO_LABEL, map_labels
from sommelier.analysis.links.formats import CLASS_KINDS
from sommelier.analysis.model_inputs import plan_feeds
from sommelier.analysis.output_kinds import class_count
from sommelier.analysis.probes import Probes, dataset_probes
from sommelier.errors import AnalysisError
from sommelier.records import ModelRecord, Preprocessing, TensorSpec

if TYPE_CHECKING:
    from sommelier.storage.catalog import Catalog

MOST_SAMPLES = 10_000  # of a dataset, where the statement does not say how many
MOST_BYTES = 10**9  # of their inputs, all of which are in memory while a fusion learns
NO_LABELS = "-"  # for a model, in labels = 'd1, -, d3'
Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class DataOptions:
    """dataset : whose items are the inputs; None: one that all models can answer. labels : datasets
    with the labels, one a model in order, as 'd1, -, d3'; None: the labels of the inputs' dataset
    where they are of a model's classes. samples : None for as many as there are, at most `most`."""

    dataset: str | None = None
    labels: str | None = None
    samples: int | None = None
    seed: int = 0
    most: int = MOST_SAMPLES


@dataclass(frozen=True, slots=True)
class TaskLabels:
    """What is right for one task. ids : int32 (samples,), the model's own class ids, -1 unknown.

    verified : their meaning is known by names or the user's word; else only the number of classes
    is the same, and they should be used only if the model itself answers them.
    """

    dataset: str
    ids: Ids
    verified: bool


@dataclass(frozen=True, slots=True)
class FusionData:
    """Models that can be fused, and what they answer; can be sent to another process.

    tasks : the models' names, with the version where a name occurs twice; outputs of the fused
    model are called '<task>/<output>'. probes : the inputs; None where no dataset fits all models.
    labels : per task. notes : what a reader of results should know of the data.
    """

    records: tuple[ModelRecord, ...]
    paths: tuple[Path, ...]
    tasks: tuple[str, ...]
    probes: Probes | None
    labels: tuple[TaskLabels | None, ...]
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> dict[str, Path]:
        """The models' files by task."""
        return dict(zip(self.tasks, self.paths, strict=True))

    @property
    def dataset(self) -> str | None:
        """Name of the dataset the inputs are of."""
        return None if self.probes is None else self.probes.record.name

    @property
    def samples(self) -> int:
        """How many inputs there are; 0 where no dataset fits."""
        return 0 if self.probes is None else self.probes.record.samples


def fusion_data(
    catalog: Catalog, models: Sequence[ModelRecord], options: DataOptions = DataOptions()
) -> FusionData:
    """The models with the data they can be fused on.

    Raises AnalysisError that says which two models differ in what, for fewer than two models, one
    without a file or one named twice, and for labels that are not of a model's classes;
    DatasetError for a dataset that cannot be read; StorageError for a file that is gone.
    """
    check_models(models)
    paths = tuple(catalog.artifacts.path(str(model.artifact)) for model in models)
    tasks = task_names(models)
    with ExitStack() as stack:
        chosen, notes = _chosen(catalog, models, options, stack)
        if chosen is None:
            _check_prepared(models, [model.preprocessing for model in models])
            if options.labels is not None:
                raise AnalysisError(
                    "labels need a dataset of the inputs they belong to", hint=notes[0]
                )
            return FusionData(
                tuple(models), paths, tasks, None, (None,) * len(models), tuple(notes)
            )
        probes = _drawn(chosen, models[0], options, notes)
        labels = _labels(catalog, models, chosen, probes, options, stack, notes)
    return FusionData(tuple(models), paths, tasks, probes, labels, tuple(notes))


# ---- the models


def check_models(models: Sequence[ModelRecord]) -> None:
    """Raises AnalysisError for models that are no two or more files for the same input."""
    if len(models) < 2:
        raise AnalysisError(f"a fusion needs two models or more, not {len(models)}")
    for model in models:
        if model.artifact is None:
            raise AnalysisError(f"{model.name} is metadata only: there is no file to fuse")
    id_, count = Counter(model.id for model in models).most_common(1)[0]
    if count > 1:
        twice = next(model.name for model in models if model.id == id_)
        raise AnalysisError(f"{twice} is named twice", hint="a model is fused with others")
    first = models[0]
    for model in models[1:]:
        if not _same_inputs(first.inputs, model.inputs):
            raise AnalysisError(
                f"{model.name} takes {_shown(model.inputs)}, and {first.name} takes"
                f" {_shown(first.inputs)}",
                hint="only models that take the same input can be fused",
            )


def task_names(models: Sequence[ModelRecord]) -> tuple[str, ...]:
    """A name for each task: its model's, with the version where two models have the same name."""
    counts = Counter(model.name for model in models)
    return tuple(m.name if counts[m.name] == 1 else f"{m.name}@{m.version}" for m in models)


def _same_inputs(ours: Sequence[TensorSpec], theirs: Sequence[TensorSpec]) -> bool:
    """Inputs of equal names belong together, inputs of other names in their order."""
    if {spec.name for spec in ours} == {spec.name for spec in theirs}:
        named = {spec.name: spec for spec in theirs}
        theirs = [named[spec.name] for spec in ours]
    pairs_ = zip_longest(ours, theirs)
    return all(one and other and _alike(one, other) for one, other in pairs_)


def _alike(one: TensorSpec, other: TensorSpec) -> bool:
    """Whether types are equal, and lengths where both are stated, but for the batch axis."""
    if one.dtype != other.dtype:
        return False
    if one.shape is None or other.shape is None:
        return True
    if len(one.shape) != len(other.shape):
        return False
    stated = zip(one.shape[1:], other.shape[1:], strict=True)
    return all(a == b for a, b in stated if isinstance(a, int) and isinstance(b, int))


def _shown(inputs: Sequence[TensorSpec]) -> str:
    return ", ".join(str(spec) for spec in inputs)


# ---- the inputs


def _chosen(
    catalog: Catalog, models: Sequence[ModelRecord], options: DataOptions, stack: ExitStack
) -> tuple[LoadedDataset | None, list[str]]:
    """The dataset that is named; else of those that all models can answer the one whose labels are
    of most models' classes, and of these the largest; with notes, the first why there is none."""
    named = () if options.dataset is None else (options.dataset,)
    plan = AnalysisPlan(AnalysisOptions(datasets=named))
    fitting: list[tuple[int, LoadedDataset]] = []
    reasons = []
    for opened in open_datasets(catalog, plan, stack):
        misfits = ((m.name, opened.misfit(m, catalog, strict=False)) for m in models)
        wrong = next(((name, why) for name, why in misfits if why is not None), None)
        if wrong is not None:
            reasons.append(f"'{opened.name}' does not fit {wrong[0]}: {wrong[1]}")
            continue
        _check_prepared(
            models,
            [plan_feeds(m.inputs, m.preprocessing, opened.first, 1).preprocessing for m in models],
        )
        known = sum(_own_labels(catalog, m, opened.items) is not None for m in models)
        fitting.append((known, opened.items))
    if fitting:
        _, chosen = max(fitting, key=lambda found: (found[0], len(found[1])))
        others = [items.record.name for _, items in fitting if items is not chosen]
        if others:
            plan.remarks.append(
                f"inputs are of '{chosen.record.name}'; {', '.join(others)} would fit too"
            )
        return chosen, plan.remarks
    why = "; ".join(reasons) or "no dataset is registered"
    if named:
        raise AnalysisError(f"not all models can answer the dataset: {why}")
    return None, [f"no dataset that all models can answer: {why}", *plan.remarks]


def _check_prepared(
    models: Sequence[ModelRecord], prepared: Sequence[Preprocessing | None]
) -> None:
    """Raises AnalysisError where two models see the same item in different ways."""
    texts = [_steps(model, steps) for model, steps in zip(models, prepared, strict=True)]
    for model, text in zip(models, texts, strict=True):
        if text != texts[0]:
            raise AnalysisError(
                f"{model.name} prepares its input by {text or 'nothing'}, and {models[0].name} by"
                f" {texts[0] or 'nothing'}",
                hint="only models with the same preprocessing can be fused; ALTER MODEL name SET"
                " preprocessing = 'steps.json' where it is declared wrongly",
            )


def _steps(model: ModelRecord, prepared: Preprocessing | None) -> str:
    """What is done to an item, and what other inputs are filled with, as comparable text."""
    if prepared is None:
        return ""
    places = {spec.name: place for place, spec in enumerate(model.inputs)}
    filled = {places.get(name, name): v for name, v in preprocessing.fills(prepared).items()}
    steps = [_step(name, arguments) for name, arguments in prepared.steps if name != "fill"]
    return ", ".join([*steps, *([_step("fill", filled)] if filled else [])])


def _step(name: str, arguments: Any) -> str:
    return f"{name}{json.dumps(arguments, sort_keys=True, default=str) if arguments else ''}"


def _drawn(
    items: LoadedDataset, model: ModelRecord, options: DataOptions, notes: list[str]
) -> Probes:
    samples = options.samples
    if samples is None:
        samples = min(len(items), options.most, max(1, MOST_BYTES // _item_bytes(items, model)))
        if samples < len(items) and options.most >= MOST_SAMPLES:  # else the caller chose so
            notes.append(f"{samples} of {len(items)} items of '{items.record.name}' are used")
    return dataset_probes(items, samples=samples, seed=options.seed)


def _item_bytes(items: LoadedDataset, model: ModelRecord) -> int:
    """Of the input made of one item."""
    first = items.item(0)
    prepared = plan_feeds(model.inputs, model.preprocessing, first, 1).preprocessing
    assert prepared is not None, "an item of a dataset is always prepared, if by nothing"
    return max(1, preprocessing.apply(prepared, first).nbytes)


# ---- what is right


def _labels(
    catalog: Catalog,
    models: Sequence[ModelRecord],
    items: LoadedDataset,
    probes: Probes,
    options: DataOptions,
    stack: ExitStack,
    notes: list[str],
) -> tuple[TaskLabels | None, ...]:
    assert probes.indices is not None, "probes of a dataset have places in it"
    rows = probes.indices
    if options.labels is None:
        found = [_own_labels(catalog, model, items) for model in models]
        return tuple(None if one is None else _rows(one, rows) for one in found)
    names = [name.strip() for name in options.labels.split(",")]
    if len(names) != len(models):
        raise AnalysisError(
            f"labels name {len(names)} datasets for {len(models)} models",
            hint="one a model in their order, - for none: labels = 'digits, -, speakers'",
        )
    given: list[TaskLabels | None] = []
    for model, name in zip(models, names, strict=True):
        if name == NO_LABELS:
            given.append(None)
            continue
        other = stack.enter_context(datasets.reopen(catalog.dataset(name)))
        given.append(_rows(_given_labels(catalog, model, items, other, notes), rows))
    return tuple(given)


def _rows(labels: TaskLabels, rows: NDArray[np.int64]) -> TaskLabels:
    return TaskLabels(labels.dataset, labels.ids[rows], labels.verified)


def _own_labels(catalog: Catalog, model: ModelRecord, items: LoadedDataset) -> TaskLabels | None:
    """Labels of all items in the model's classes; None where they do not speak of those."""
    try:
        return _in_classes(catalog, model, items)
    except AnalysisError:  # other names, or another number of them
        return None


def _given_labels(
    catalog: Catalog,
    model: ModelRecord,
    items: LoadedDataset,
    other: LoadedDataset,
    notes: list[str],
) -> TaskLabels:
    """Labels of all items from the dataset that the user named for this model."""
    name = other.record.name
    refused = f"'{name}' has no labels of the classes of {model.name}"
    try:
        found = _in_classes(catalog, model, other)
    except AnalysisError as error:
        raise AnalysisError(f"{refused}: {error.message}", hint=error.hint) from error
    if found is None:
        raise AnalysisError(refused)
    ids = found.ids
    if other.record.id != items.record.id:
        paired = pairs(items, other)
        ids = np.full(len(items), NO_LABEL, dtype=np.int32)
        ids[paired.source] = found.ids[paired.target]
        notes += [] if paired.note is None or paired.note in notes else [paired.note]
    return TaskLabels(name, ids, verified=True)


def _in_classes(catalog: Catalog, model: ModelRecord, items: LoadedDataset) -> TaskLabels | None:
    """A dataset's labels as the model's class ids; None where it has none, or the model no classes.

    Raises AnalysisError where they are of other classes. A label that stands for several of the
    model's classes is unknown.
    """
    width = class_count(model.outputs, model.output_kind)
    own = catalog.label_space(model.label_space_id) if model.label_space_id else None
    unnamed = own is None and width is None
    if items.labels is None or model.output_kind not in CLASS_KINDS or unnamed:
        return None
    space = items.label_space
    explicit = None if own is None or space is None else catalog.label_map(own.id, space.id)
    found = map_labels(own, space, classes=width, target_classes=items.classes, explicit=explicit)
    hit = found.targets != NO_LABEL
    size = 1 + max(int(found.targets.max(initial=0)), int(items.labels.max(initial=0)))
    classes = np.full(size, NO_LABEL, dtype=np.int32)
    classes[found.targets[hit]] = np.flatnonzero(hit)
    classes[np.bincount(found.targets[hit], minlength=size) > 1] = NO_LABEL
    ids = np.where(items.labels >= 0, classes[items.labels], NO_LABEL).astype(np.int32)
    if not (ids >= 0).any():
        return None
    return TaskLabels(items.record.name, ids, verified=found.kind != "positional")
