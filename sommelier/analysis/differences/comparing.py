"""Two models layer by layer: where do they part, how does the error grow, which answers change.

issue [2/8] part 6. Structure aligns the layers, activations on the given samples confirm and
measure them; everything is read from the files, and nothing from a database.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from sommelier.analysis.differences.activations import MEMORY, Extent
from sommelier.analysis.differences.answering import answers, side_of
from sommelier.analysis.differences.disagreements import disagreements
from sommelier.analysis.differences.layers import Layer, layers_of
from sommelier.analysis.differences.lineage import (
    IDENTICAL,
    QUANTISED,
    SAME_WEIGHTS,
    THINNED,
    TUNED,
    LineageEvidence,
    weight_lineage,
)
from sommelier.analysis.differences.measuring import Errors, Floats, measure
from sommelier.analysis.differences.pairing import Pair, pair_layers
from sommelier.analysis.differences.report import LayerError, LayerReport, Unaligned
from sommelier.analysis.differences.sketches import sketches
from sommelier.analysis.differences.subjects import Given, Subject, subject
from sommelier.analysis.differences.tolerances import (
    DIVERGED,
    precision_tolerance,
    sample_tolerances,
)
from sommelier.analysis.quality.answered import compare_answers
from sommelier.analysis.segments.normal_form import NormalForm
from sommelier.analysis.segments.normalising import load, normal_form
from sommelier.errors import AnalysisError, RejectedModelError
from sommelier.records import Preprocessing

if TYPE_CHECKING:
    from onnx import ModelProto

SAMPLES = 128  # medians over samples settle; layers cost memory and time, answers do not
RELATED = 0.5
"""Median relative error below which the values of two layers have to do with each other. Unrelated
features are as far apart as they are large: 1 to 1.4; of one initialisation trained apart, 0.6."""
EARLY = 3  # aligned layers whose values are asked; later ones may be alike for other reasons
DERIVED = (IDENTICAL, SAME_WEIGHTS, QUANTISED, THINNED, TUNED)


def compare_layers(
    reference: Path | str | ModelProto,
    candidate: Path | str | ModelProto,
    inputs: Given | tuple[Given, Given],
    *,
    tolerance: float | None = None,
    samples: int = SAMPLES,
    labels: Any = None,
    preprocessing: tuple[Preprocessing | None, Preprocessing | None] = (None, None),
    memory: int = MEMORY,
    progress: Callable[[int, int], None] | None = None,
) -> LayerReport:
    """The layers of two ONNX models side by side, their errors, and the answers that change.

    inputs : (n, ...) items, or model inputs by name; a pair of these where the models take
    different ones. `preprocessing` turns items into model inputs, guessed from shapes where None.
    tolerance : largest relative L2 error of a layer on a sample; by precision if omitted
    (tolerances.py). samples : of the inputs, for the layers; answers are compared on all.
    labels : true class ids (n,) of all inputs, for accuracy and for examples.
    memory : bytes of activations kept at once, of which one pair of layers on one sample is the
    least; a model whose layers need more is run several times. progress : called with (samples
    run, samples to run).
    Raises AnalysisError for broken files, inputs that a model does not take, and models that fail.
    """
    pair = inputs if isinstance(inputs, tuple) else (inputs, inputs)
    with TemporaryDirectory() as folder:
        both = (
            subject(reference, pair[0], "reference", folder, preprocessing[0]),
            subject(candidate, pair[1], "candidate", folder, preprocessing[1]),
        )
        extent = Extent(_count(both, samples), memory, progress)
        forms = (_form(both[0]), _form(both[1]))
        lineage = weight_lineage(both[0].path, both[1].path)
        found = _layers(forms, both, extent, tolerance, lineage)
        return _with_answers(found, both, labels)


def _count(both: tuple[Subject, Subject], samples: int) -> int:
    first, second = (side.samples for side in both)
    if first != second:
        raise AnalysisError(f"{first} inputs for the reference and {second} for the other")
    if min(first, samples) < 1:
        raise AnalysisError("comparing layers needs at least one sample")
    return min(first, samples)


def _form(model: Subject) -> NormalForm:
    """The normal form with open axes as long as the first sample's."""
    feed, _ = next(iter(model.feeds(1, 1)))
    dims = {
        f"{name}[{axis}]": length
        for name, array in feed.items()
        for axis, length in enumerate(array.shape)
    }
    try:
        return normal_form(load(model.path), dims=dims)
    except RejectedModelError as error:
        raise AnalysisError(f"'{model.name}' cannot be compared: {error.message}") from error


def _layers(
    forms: tuple[NormalForm, NormalForm], both: tuple[Subject, Subject], extent: Extent,
    tolerance: float | None, lineage: LineageEvidence,
) -> LayerReport:  # fmt: skip
    ours, theirs = layers_of(forms[0]), layers_of(forms[1])
    models = (forms[0].model, forms[1].model)
    known = [
        sketches(model, side, layers, extent)
        for model, side, layers in zip(models, both, (ours, theirs), strict=True)
    ]
    pairs = pair_layers(ours, theirs, known[0], known[1])
    errors = measure(models, both, pairs, extent)
    general = precision_tolerance(forms)
    rows = _rows((ours, theirs), pairs, errors, tolerance, general)
    lineage = replace(lineage, names=(both[0].name, both[1].name))
    related = lineage.relation in DERIVED or _alike(rows)
    first = next((row for row in rows if row.beyond > DIVERGED), None) if related else None
    return LayerReport(
        (both[0].name, both[1].name), extent.samples, rows,
        _alone(ours, {p.reference for p in pairs}), _alone(theirs, {p.candidate for p in pairs}),
        first, related, lineage,
    )  # fmt: skip


def _rows(
    layers: tuple[Sequence[Layer], Sequence[Layer]], pairs: Sequence[Pair],
    errors: Sequence[Errors], tolerance: float | None, general: float,
) -> tuple[LayerError, ...]:  # fmt: skip
    medians: dict[int, float] = {}
    rows = []
    for pair, found in zip(pairs, errors, strict=True):
        ours, theirs = layers[0][pair.reference], layers[1][pair.candidate]
        taps = (pair.reference_tap, pair.candidate_tap)
        limits = sample_tolerances(taps, found.root, general)
        if tolerance is not None:
            limits = np.full(len(found.relative), tolerance)
        error = _median(found.relative)
        came = max((medians[k] for k in _aligned(pair.reference, layers[0], medians)), default=0.0)
        medians[pair.reference] = error
        rows.append(
            LayerError(
                ours.name, theirs.name, "+".join(taps[0].after), "+".join(taps[1].after), pair.by,
                found.elements, error, float(np.max(_whole(found.relative))),
                _median(found.cosine), float(np.max(_whole(found.largest))), _median(limits),
                float(np.mean(~(found.relative <= limits))), error - came,
                error / came if came > 0 else None, found.layout,
            )
        )  # fmt: skip
    return tuple(rows)


def _aligned(place: int, layers: Sequence[Layer], known: dict[int, float]) -> set[int]:
    """The nearest layers before it that were measured."""
    found: set[int] = set()
    seen: set[int] = set()
    waiting = list(layers[place].before)
    while waiting:
        k = waiting.pop()
        if k in seen:
            continue
        seen.add(k)
        if k in known:
            found.add(k)
        else:
            waiting.extend(layers[k].before)
    return found


def _alike(rows: Sequence[LayerError]) -> bool:
    """Whether the values of the first aligned layers have to do with each other.

    Asked where weights do not tell; behind an edit, and near constant outputs, errors tell nothing.
    """
    return not rows or min(row.error for row in rows[:EARLY]) < RELATED


def _alone(layers: Sequence[Layer], taken: set[int]) -> tuple[Unaligned, ...]:
    return tuple(Unaligned(x.name, x.kind) for i, x in enumerate(layers) if i not in taken)


def _with_answers(found: LayerReport, both: tuple[Subject, Subject], labels: Any) -> LayerReport:
    truth = None if labels is None else np.asarray(labels, dtype=np.int32)
    try:
        sides = [side_of(model, answers(model)) for model in both]
        compared = compare_answers(sides[0].answered, sides[1].answered, labels=truth)
        examples = disagreements(sides[0], sides[1], truth=truth, names=found.names)
    except AnalysisError as error:
        return replace(found, notes=(*found.notes, f"answers not compared: {error.message}"))
    return replace(found, answers=compared, examples=examples)


def _median(values: Floats) -> float:
    return float(np.median(_whole(values)))


def _whole(values: Floats) -> Floats:
    """NaN, which no tolerance covers, as infinity."""
    return np.where(np.isnan(values), np.inf, values)
