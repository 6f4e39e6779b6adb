"""Two model files side by side: may they be compared, how often do they agree, where do they part.

Type check, then value check, then bound, for every kind of output; needs no database.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis import datasets
from sommelier.analysis.datasets import LoadedDataset
from sommelier.analysis.execution import RunRequest, answer_items, output_items
from sommelier.analysis.inspection import describe
from sommelier.analysis.model_inputs import plan_feeds
from sommelier.analysis.probes import dataset_probes
from sommelier.analysis.quality.answered import Answered, compare_answers, with_distances
from sommelier.analysis.quality.comparison import Confusion, PairComparison, compare
from sommelier.analysis.quality.decoders import known_decoder
from sommelier.analysis.quality.estimates import Estimate
from sommelier.analysis.quality.interfaces import (
    Fit,
    Interface,
    check_interface,
    paired_outputs,
)
from sommelier.analysis.quality.measure import Measure
from sommelier.analysis.quality.outputs import Outputs
from sommelier.analysis.quality.registry import (
    CLASS_KINDS,
    VECTOR_KINDS,
    answers_of,
    measure_for,
)
from sommelier.analysis.quality.vectors import Vectors, scale_of
from sommelier.errors import AnalysisError
from sommelier.records import LabelSpace, ModelRecord, OutputKind, Preprocessing

__all__ = [
    "Answered",
    "Confusion",
    "Estimate",
    "PairComparison",
    "compare_answers",
    "compare_models",
]

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Run:
    """One model, its items, and how they become its inputs."""

    path: Path
    items: LoadedDataset
    preprocessing: Preprocessing | None
    record: ModelRecord
    label_space: LabelSpace | None

    @property
    def interface(self) -> Interface:
        found = Interface.of_record(self.record, self.label_space)
        return replace(found, preprocessing=self.preprocessing)

    @property
    def request(self) -> RunRequest:
        probes = dataset_probes(self.items, samples=len(self.items), sampling="first")
        return RunRequest(self.path, self.record.output_kind, self.preprocessing, probes)


def compare_models(
    reference_path: Path | str,
    candidate_path: Path | str,
    inputs: Array | tuple[Array, Array],
    *,
    labels: Any = None,
    by: Sequence[Any] | Array | None = None,
    output_kind: OutputKind | None = None,
    preprocessing: tuple[Preprocessing | None, Preprocessing | None] = (None, None),
    label_spaces: tuple[LabelSpace | None, LabelSpace | None] = (None, None),
    confidence: float = 0.95,
) -> PairComparison:
    """The comparison of two ONNX files on inputs in memory.

    inputs : (n, ...) items for both, or one array each where the models take different ones;
    `preprocessing` turns items into model inputs and is guessed from shapes where it is None.
    labels : the truth, as the measure of the output kind takes it: class ids (n,) as the reference
    numbers them, values, one Detections an image. by : slice of each sample for the breakdown.
    output_kind : of both models, inferred from each graph if omitted; label_spaces : likewise, read
    from each file.
    Raises AnalysisError where the models cannot be compared, with the reason. Both run in this
    process: for files you do not trust use a database, whose ANALYZE runs models in a worker.
    """
    given = _items(inputs)
    paths = Path(reference_path), Path(candidate_path)
    reference, candidate = (
        _prepared(paths[side], given[side], preprocessing[side], output_kind, label_spaces[side])
        for side in (0, 1)
    )
    checked = check_interface(
        reference.interface, candidate.interface, inputs_given=isinstance(inputs, tuple)
    )
    if checked.fit is Fit.INCOMPATIBLE:
        raise AnalysisError(checked.reason or "the models cannot be compared", hint=checked.hint)
    classes = reference.record.output_kind in CLASS_KINDS
    found = (_compare_classes if classes else _compare_outputs)(
        (reference, candidate), labels, by, confidence
    )
    return replace(found, interface=checked, names=(paths[0].stem, paths[1].stem))


def _items(inputs: Array | tuple[Array, Array]) -> tuple[Array, Array]:
    """The items of each model, one for one."""
    ours, theirs = inputs if isinstance(inputs, tuple) else (inputs, inputs)
    if len(ours) != len(theirs):
        raise AnalysisError(f"{len(ours)} inputs for the reference and {len(theirs)} others")
    return ours, theirs


def _prepared(
    path: Path,
    items: Array,
    declared: Preprocessing | None,
    kind: OutputKind | None,
    space: LabelSpace | None,
) -> Run:
    record, own_space = describe(path, {} if kind is None else {"output_kind": kind})
    loaded = datasets.in_memory(np.asarray(items))
    used = _preprocessing(record, declared, loaded.item(0))
    return Run(path, loaded, used, record, space or own_space)


def _preprocessing(
    record: ModelRecord, declared: Preprocessing | None, item: Any
) -> Preprocessing | None:
    """What is declared, else what shapes suggest; a picture may have its channels moved last."""
    try:
        return plan_feeds(record.inputs, declared, item, 1).preprocessing
    except AnalysisError:
        if declared is not None or np.ndim(item) != 3:
            raise
        moved = Preprocessing((("layout", {"order": "NHWC"}),), assumed=True)
        try:
            return plan_feeds(record.inputs, moved, item, 1).preprocessing
        except AnalysisError:
            pass
        raise


def _compare_classes(
    pair: tuple[Run, Run], labels: Any, by: Any, confidence: float
) -> PairComparison:
    sides = [Answered.of_run(answer_items(run.request, run.items), run.label_space) for run in pair]
    truth = None if labels is None else np.asarray(labels, dtype=np.int32)
    return compare_answers(
        sides[0],
        sides[1],
        labels=truth,
        label_space=pair[0].label_space,
        by=by,
        confidence=confidence,
    )


def _compare_outputs(
    pair: tuple[Run, Run], truth: Any, by: Any, confidence: float
) -> PairComparison:
    """The outputs compared by the measure of their kind, and each of them as numbers beside it."""
    one, other = (output_items(run.request, run.items) for run in pair)
    kind = pair[0].record.output_kind
    matched = paired_outputs(pair[0].record.outputs, pair[1].record.outputs)
    names = {a.name: b.name for a, b in matched if a.name in one and b.name in other}
    renamed = {name: other[theirs] for name, theirs in names.items()}
    numbers = {
        name: Vectors(scale_of(one[name]))
        for name, theirs in renamed.items()
        if one[name].shape == theirs.shape and one[name].dtype.kind in "fiub"
    }
    decoded = _detections(pair, one, other) if kind is OutputKind.DETECTION else None
    if decoded is not None:
        measure: Measure = measure_for(kind)
        found = compare(measure, *decoded, truth=truth, by=by, confidence=confidence)
    elif kind in VECTOR_KINDS or kind is OutputKind.DETECTION:
        return _compare_numbers(numbers, one, renamed, truth, by, confidence)
    else:
        first = next(iter(names))
        answers = answers_of(kind, one.pop(first)), answers_of(kind, renamed[first])
        numbers.pop(first, None)
        measure = measure_for(kind, answers[0])
        found = compare(measure, *answers, truth=truth, by=by, confidence=confidence)
    parts = {
        name: compare(part, one[name], renamed[name], confidence=confidence)
        for name, part in numbers.items()
    }
    return replace(found, parts=parts)


def _detections(
    pair: tuple[Run, Run], one: dict[str, Array], other: dict[str, Array]
) -> tuple[Any, Any] | None:
    """Both models' boxes, None where a family is not known."""
    decoders = [known_decoder(run.record.outputs, run.record.inputs) for run in pair]
    if decoders[0] is None or decoders[1] is None:
        return None
    return decoders[0].decode(one), decoders[1].decode(other)


def _compare_numbers(
    measures: dict[str, Vectors],
    one: dict[str, Array],
    other: dict[str, Array],
    truth: Any,
    by: Any,
    confidence: float,
) -> PairComparison:
    if not measures:
        raise AnalysisError("the models have no numeric output of equal shape to compare")
    if len(measures) > 1:
        return compare(Outputs(measures), one, other, truth=truth, by=by, confidence=confidence)
    ((name, measure),) = measures.items()
    a, b = one[name], other[name]
    found = compare(measure, a, b, truth=truth, by=by, confidence=confidence)
    return with_distances(found, a, b)
