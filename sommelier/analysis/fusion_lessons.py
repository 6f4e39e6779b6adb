"""What models that are fused see and answer: inputs and lessons, made where models are run.

Call it inside a sandbox: it runs model files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis import datasets
from sommelier.analysis.answers import OutputCollector
from sommelier.analysis.execution import RunRequest, open_model
from sommelier.analysis.fusion.lessons import Lessons, Splits, divide
from sommelier.analysis.fusion_data import FusionData, TaskLabels
from sommelier.analysis.links.formats import CLASS_KINDS, AnswerFormat, format_of, natural
from sommelier.analysis.links.splits import LEAST
from sommelier.analysis.model_inputs import feeds, plan_feeds
from sommelier.analysis.output_kinds import class_count
from sommelier.analysis.segment_study import some_probes
from sommelier.errors import AnalysisError
from sommelier.records import ModelRecord, OutputKind

if TYPE_CHECKING:
    from sommelier.analysis.fusion.blocks import Blocks

Array = NDArray[Any]
BATCH = 64
CREDIBLE = 0.5  # of labels that only their number ties to a model's classes, what it must answer


@dataclass(frozen=True, slots=True)
class Taught:
    """lessons : of the models' outputs, in order. names, owners : what each of these outputs is
    called in a fused model, '<task>/<output>', and which model it is of.

    notes : which labels are not used, and why.
    """

    lessons: Lessons
    names: tuple[str, ...]
    owners: tuple[int, ...]
    notes: tuple[str, ...]


def inputs_of(data: FusionData, most: int | None = None) -> tuple[Array, ...]:
    """(n, ...) of each input of the first model, for all samples, or `most` drawn at random.

    Raises AnalysisError without data, and for a model without a batch axis.
    """
    if data.probes is None or data.probes.dataset is None:
        raise AnalysisError(
            "fusions learn from data, and no dataset fits all the models",
            hint="REGISTER DATASET d FROM 'file.npz'; labels are not needed",
        )
    record, probes = data.records[0], data.probes
    if most is not None:
        probes = some_probes(probes, most)
    assert probes.indices is not None, "probes of a dataset have places in it"
    with datasets.reopen(data.probes.dataset, verify=False) as items:
        first = items.item(int(probes.indices[0]))
        plan = plan_feeds(record.inputs, record.preprocessing, first, BATCH)
        if plan.batch < 1:
            raise AnalysisError(
                f"{record.name} has no batch axis, so its samples are not told apart"
            )
        made = [
            {name: value[:count] for name, value in feed.items()}
            for feed, count in feeds(record.inputs, plan, probes, items)
        ]
    return tuple(np.concatenate([feed[spec.name] for feed in made]) for spec in record.inputs)


def dims_of(data: FusionData, inputs: tuple[Array, ...]) -> dict[str, int]:
    """Lengths of the axes that the models leave open, but the batch, as these inputs have them."""
    named = {spec.name: made for spec, made in zip(data.records[0].inputs, inputs, strict=True)}
    axes = [
        (spec.shape or (), named.get(spec.name, made).shape)
        for record in data.records
        for spec, made in zip(record.inputs, inputs, strict=True)
    ]
    return {
        dim: length
        for dims, shape in axes
        for dim, length in zip(dims[1:], shape[1:], strict=False)
        if isinstance(dim, str)
    }


def lessons_of(data: FusionData, models: Mapping[str, Blocks], seed: int) -> Taught:
    """What the models answer to the data, and what is right, divided for fusing.

    models : in blocks, whose outputs are the tasks. Raises AnalysisError when a model fails.
    """
    inputs = inputs_of(data)
    splits = divide(len(inputs[0]), seed)
    answers: list[Array] = []
    formats: list[AnswerFormat] = []
    truths: list[Array | None] = []
    names: list[str] = []
    owners: list[int] = []
    notes: list[str] = []
    for place, (record, blocks) in enumerate(zip(data.records, models.values(), strict=True)):
        given = _answers(data, place)
        main = _main_output(record, given)
        for name in blocks.outputs:
            if name not in given:
                raise AnalysisError(f"output '{name}' of {record.name} is a state, not an answer")
            kind = record.output_kind if name == main else OutputKind.REGRESSION
            format_ = _format(record, kind, given[name])
            labels = _in_each_part(data, place, splits, notes) if name == main else None
            answers.append(given[name])
            formats.append(format_)
            truths.append(_truth(record, format_, given[name], labels, notes))
            names.append(f"{data.tasks[place]}/{name}")
            owners.append(place)
    whole = Lessons(inputs, tuple(answers), tuple(formats), tuple(truths), splits)
    return Taught(whole, tuple(names), tuple(owners), tuple(notes))


def _answers(data: FusionData, place: int) -> Mapping[str, Array]:
    """Every output (n, ...) of one model by name, by ONNX Runtime."""
    record, probes = data.records[place], data.probes
    assert probes is not None, "inputs_of was called before"
    assert probes.dataset is not None, "inputs_of was called before"
    request = RunRequest(data.paths[place], record.output_kind, record.preprocessing, probes)
    with datasets.reopen(probes.dataset, verify=False) as items:
        try:
            return open_model(request, items).run(probes, OutputCollector)
        except AnalysisError as error:
            raise AnalysisError(f"{record.name}: {error.message}", hint=error.hint) from error


def _main_output(record: ModelRecord, answers: Mapping[str, Array]) -> str:
    """The output that the record's kind is of, as answers.py reads it: of a classifier the first
    with a row of scores."""
    if record.output_kind is OutputKind.CLASSIFICATION:
        for name, value in answers.items():
            sides = [size for size in value.shape[1:] if size != 1]
            if len(sides) == 1 and value.dtype.kind in "fiu":
                return name
    return next(iter(answers))


def _format(record: ModelRecord, kind: OutputKind, given: Array) -> AnswerFormat:
    classes = class_count(record.outputs, kind)
    try:
        return format_of(kind, given, outputs=record.outputs, classes=classes)
    except AnalysisError as error:
        raise AnalysisError(f"{record.name}: {error.message}", hint=error.hint) from error


def _in_each_part(
    data: FusionData, place: int, splits: Splits, notes: list[str]
) -> TaskLabels | None:
    """A model's labels, where there are enough to choose by and to measure by."""
    labels = data.labels[place]
    if labels is None:
        return None
    parts = (splits.select, splits.certify)
    known = [int((labels.ids[rows] >= 0).sum()) for rows in parts]
    if all(count >= least for count, least in zip(known, LEAST[1:], strict=True)):
        return labels
    notes.append(
        f"'{labels.dataset}' has labels of {data.records[place].name} for {known[0]} of the samples"
        f" that choose and {known[1]} of those that measure, where {LEAST[1]} and {LEAST[2]} are"
        " needed: its measure is agreement with it"
    )
    return None


def _truth(
    record: ModelRecord,
    format_: AnswerFormat,
    given: Array,
    labels: TaskLabels | None,
    notes: list[str],
) -> Array | None:
    """The labels, where they are of the model's classes."""
    if labels is None or record.output_kind not in CLASS_KINDS or format_.kind != "classes":
        return None
    if not labels.verified:
        known = labels.ids >= 0
        answered = natural(given, format_).values.argmax(axis=1)
        right = float((answered == labels.ids)[known].mean())
        if right < CREDIBLE:
            notes.append(
                f"{record.name} answers {right:.0%} of the labels of '{labels.dataset}', which have"
                " no names: they are not taken for its own, and its measure is agreement with it"
            )
            return None
    return labels.ids
