"""Two models' answers as a sketch keeps them, class ids or vectors, and their comparison."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis import metrics
from sommelier.analysis.answers import ModelAnswers
from sommelier.analysis.labels import LabelMap, map_labels
from sommelier.analysis.probes import Probes
from sommelier.analysis.quality.breakdown import group_name
from sommelier.analysis.quality.classes import TopClass
from sommelier.analysis.quality.comparison import (
    Confusion,
    Example,
    PairComparison,
    QualityPair,
    compare,
    of_losses,
    quality_pair,
    worst_samples,
)
from sommelier.analysis.quality.label_order import label_order_mismatch
from sommelier.analysis.quality.measure import Array, Mask, mean_figure
from sommelier.analysis.quality.registry import measure_for
from sommelier.analysis.quality.vectors import cosine
from sommelier.errors import AnalysisError
from sommelier.records import NO_ANSWER, LabelSpace, OutputKind, OutputSketch

CONFUSIONS = 5


@dataclass(frozen=True, slots=True)
class Answered:
    """One side of a comparison: its answers and the names of its classes, where they are known."""

    kind: str
    answers: Array
    exact: bool
    classes: int | None
    topk_ids: Array | None
    label_space: LabelSpace | None

    @classmethod
    def of_run(cls, found: ModelAnswers, label_space: LabelSpace | None = None) -> Answered:
        return cls(
            found.kind, found.answers, found.exact, found.classes, found.topk_ids, label_space
        )

    @classmethod
    def of_sketch(cls, sketch: OutputSketch, label_space: LabelSpace | None) -> Answered:
        """The stored answers of a model."""
        if sketch.kind == "labels":
            answers: Array = np.frombuffer(sketch.answers, dtype=np.uint32)
        else:
            answers = np.frombuffer(sketch.answers, dtype=np.float32).reshape(-1, sketch.width)
        ids = sketch.topk_ids
        best = None if ids is None else np.frombuffer(ids, dtype=np.uint32)
        topk = None if best is None else best.reshape(len(answers), -1)
        return cls(sketch.kind, answers, sketch.exact, sketch.classes, topk, label_space)


def compare_answers(
    reference: Answered,
    candidate: Answered,
    *,
    probes: Probes | None = None,
    labels: NDArray[np.int32] | None = None,
    label_space: LabelSpace | None = None,
    by: Any = None,
    confidence: float = 0.95,
) -> PairComparison:
    """The comparison of two sets of answers to the same samples.

    labels : true label ids (n,) in `label_space`, -1 where unknown; those of `probes` if omitted.
    by : slice of each sample for the breakdown; true labels, else the reference's classes, if
    omitted. Raises AnalysisError where the answers cannot be compared, with the reason.
    """
    if reference.kind != candidate.kind:
        raise AnalysisError(f"{reference.kind} cannot be compared with {candidate.kind}")
    if len(reference.answers) != len(candidate.answers):
        raise AnalysisError("the models answered different numbers of samples")
    if reference.kind == "vectors":
        return _compare_vectors(reference, candidate, by, confidence)
    if labels is None and probes is not None:
        labels = probes.labels
    truth = None
    if labels is not None:
        truth = _Truth(labels, label_space, probes.classes if probes else None)
    return _compare_classes(reference, candidate, truth, by, confidence)


@dataclass(frozen=True, slots=True)
class _Truth:
    labels: NDArray[np.int32]
    space: LabelSpace | None
    classes: int | None

    def rightness(self, side: Answered) -> Mask:
        """Where a model is right, over the labelled samples."""
        return metrics.correctness(side.answers, self.labels, self._map(side)).first

    def _map(self, side: Answered) -> LabelMap:
        """From the model's classes to the labels'; bare class ids are taken at their word."""
        theirs = self.classes if self.space is None else len(self.space.labels)
        if side.label_space is None and side.classes is None:
            answered = side.answers[side.answers != NO_ANSWER]
            seen = max(int(answered.max(initial=0)), int(self.labels.max(initial=0))) + 1
            own: int | None = theirs or seen
        else:
            own = side.classes if side.label_space is None else len(side.label_space.labels)
        return map_labels(side.label_space, self.space, classes=own, target_classes=theirs or own)


def _compare_vectors(
    reference: Answered, candidate: Answered, by: Any, confidence: float
) -> PairComparison:
    if reference.classes != candidate.classes:
        raise AnalysisError(
            f"outputs of {reference.classes} and of {candidate.classes} numbers cannot be compared"
        )
    measure = measure_for(OutputKind.UNKNOWN, reference.answers)
    found = compare(measure, reference.answers, candidate.answers, by=by, confidence=confidence)
    return replace(
        with_distances(found, reference.answers, candidate.answers),
        exact=reference.exact and candidate.exact,
    )


def with_distances(found: PairComparison, reference: Array, candidate: Array) -> PairComparison:
    """The comparison of vectors with the median relative distance and cosine beside it."""
    one, other = (np.asarray(side).reshape(len(side), -1) for side in (reference, candidate))
    medians = []
    for values in (metrics.relative_l2(one, other), cosine(one, other)):
        finite = values[np.isfinite(values)]
        medians.append(float(np.median(finite)) if finite.size else None)
    return replace(found, distance=medians[0], cosine=medians[1])


def _compare_classes(
    reference: Answered,
    candidate: Answered,
    truth: _Truth | None,
    by: Any,
    confidence: float,
) -> PairComparison:
    to_candidate = map_labels(
        reference.label_space,
        candidate.label_space,
        classes=_class_count(reference, candidate),
        target_classes=_class_count(candidate, reference),
    )
    same = metrics.same_class(reference.answers, candidate.answers, to_candidate)
    overlap = None
    if reference.topk_ids is not None and candidate.topk_ids is not None:
        shared = metrics.top_k_overlap(reference.topk_ids, candidate.topk_ids, to_candidate)
        overlap = float(shared.mean())
    qualities: tuple[QualityPair, ...] = ()
    if truth is not None and len(right := truth.rightness(reference)):
        figures = [mean_figure("accuracy", r) for r in (right, truth.rightness(candidate))]
        qualities = (quality_pair(figures[0], figures[1], confidence),)
    groups, names = _groups(reference, truth) if by is None else (by, None)
    found = of_losses(~same, same, by=groups, names=names, confidence=confidence)
    order = None
    if to_candidate.kind == "positional":
        classes = len(to_candidate.targets)
        order = label_order_mismatch(reference.answers, candidate.answers, classes)
    return replace(
        found,
        measure=TopClass.name,
        predicate=TopClass.predicate,
        labels=to_candidate.kind,
        confusions=_confusions(reference, candidate, ~same),
        overlap=overlap,
        qualities=qualities,
        examples=_class_examples(reference, candidate, same),
        label_order=order,
    )


def _groups(reference: Answered, truth: _Truth | None) -> tuple[Array, tuple[str, ...] | None]:
    """Samples by true label where there are labels, else by what the reference says."""
    own = reference.label_space.labels if reference.label_space else None
    if truth is None:
        return reference.answers, own
    if truth.space is not None:
        return truth.labels, truth.space.labels
    return truth.labels, own  # without a space of their own, labels are numbers of these classes


def _class_count(side: Answered, other: Answered) -> int | None:
    """The classes of a model that answers bare ids are taken to be those of the other model."""
    if side.classes is not None or side.label_space is not None:
        return side.classes
    if other.classes is not None:
        return other.classes
    real = np.concatenate([side.answers, other.answers])
    return int(real[real != NO_ANSWER].max(initial=0)) + 1


def _confusions(
    reference: Answered, candidate: Answered, different: NDArray[np.bool_]
) -> tuple[Confusion, ...]:
    pairs = np.stack([reference.answers[different], candidate.answers[different]], axis=1)
    kinds, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:CONFUSIONS]
    return tuple(
        Confusion(_name(reference, kinds[i, 0]), _name(candidate, kinds[i, 1]), int(counts[i]))
        for i in order
    )


def _class_examples(reference: Answered, candidate: Answered, same: Mask) -> tuple[Example, ...]:
    return tuple(
        Example(
            int(i),
            _name(reference, reference.answers[i]),
            _name(candidate, candidate.answers[i]),
            1.0,
        )
        for i in worst_samples(~same, same)
    )


def _name(side: Answered, class_id: int) -> str:
    return group_name(class_id, side.label_space.labels if side.label_space else None)
