"""Two models side by side: how often they agree, where they part, and which is right more often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis import datasets, metrics
from sommelier.analysis.answers import NO_ANSWER, ModelAnswers
from sommelier.analysis.confidence import clopper_pearson, paired_difference
from sommelier.analysis.execution import RunRequest, answer_items
from sommelier.analysis.labels import LabelMap, map_labels
from sommelier.analysis.probes import Probes, dataset_probes
from sommelier.errors import AnalysisError
from sommelier.records import LabelSpace, OutputKind, OutputSketch, Preprocessing

Array = NDArray[Any]

CONFUSIONS = 5


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval at the comparison's confidence."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Confusion:
    """One way of disagreeing: what each model says, and on how many samples."""

    reference: str
    candidate: str
    count: int


@dataclass(frozen=True, slots=True)
class PairComparison:
    """How a candidate compares with a reference on one set of inputs.

    agreement : share of samples with interchangeable answers, two-sided Clopper-Pearson.
    overlap : mean share of the reference's five best classes among the candidate's five.
    distance : median relative L2 distance of the output vectors. exact : False where it comes from
    projected outputs and is an estimate. labels : 'named', 'explicit', 'positional' or None.
    difference : accuracy(reference) - accuracy(candidate), paired.
    """

    samples: int
    agreements: int
    agreement: Estimate
    confidence: float
    exact: bool
    labels: str | None
    confusions: tuple[Confusion, ...] = ()
    overlap: float | None = None
    distance: float | None = None
    reference_accuracy: Estimate | None = None
    candidate_accuracy: Estimate | None = None
    difference: Estimate | None = None


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


def compare_models(
    reference_path: Path | str,
    candidate_path: Path | str,
    inputs: Array | tuple[Array, Array],
    *,
    labels: Sequence[int] | None = None,
    output_kind: OutputKind = OutputKind.CLASSIFICATION,
    preprocessing: tuple[Preprocessing | None, Preprocessing | None] = (None, None),
    confidence: float = 0.95,
) -> PairComparison:
    """The comparison of two ONNX files on inputs in memory; needs no database.

    inputs : (n, ...) items for both, or one array each where the models take different ones;
    `preprocessing` turns items into model inputs and is guessed from shapes where it is None.
    Both models run in this process: for files you do not trust use a database, whose ANALYZE runs
    models in a worker process.
    """
    pair = inputs if isinstance(inputs, tuple) else (inputs, inputs)
    if len(pair[0]) != len(pair[1]):
        raise AnalysisError(f"{len(pair[0])} inputs for the reference and {len(pair[1])} others")
    sides = []
    for path, items, spec in zip(
        (reference_path, candidate_path), pair, preprocessing, strict=True
    ):
        loaded = datasets.in_memory(np.asarray(items))
        probes = dataset_probes(loaded, samples=len(loaded), sampling="first")
        request = RunRequest(Path(path), output_kind, spec, probes)
        sides.append(Answered.of_run(answer_items(request, loaded)))
    truth = None if labels is None else np.asarray(labels, dtype=np.int32)
    return compare_answers(sides[0], sides[1], labels=truth, confidence=confidence)


def compare_answers(
    reference: Answered,
    candidate: Answered,
    *,
    probes: Probes | None = None,
    labels: NDArray[np.int32] | None = None,
    label_space: LabelSpace | None = None,
    confidence: float = 0.95,
) -> PairComparison:
    """The comparison of two sets of answers to the same samples.

    labels : true label ids (n,) in `label_space`, -1 where unknown; those of `probes` if omitted.
    Raises AnalysisError where the answers cannot be compared, with the reason.
    """
    if reference.kind != candidate.kind:
        raise AnalysisError(f"{reference.kind} cannot be compared with {candidate.kind}")
    if len(reference.answers) != len(candidate.answers):
        raise AnalysisError("the models answered different numbers of samples")
    if reference.kind == "vectors":
        return _compare_vectors(reference, candidate, confidence)
    if labels is None and probes is not None:
        labels = probes.labels
    classes = probes.classes if probes else None
    rights = None
    if labels is not None:
        rights = tuple(
            metrics.correctness(
                side.answers, labels, _truth_map(side, labels, label_space, classes)
            ).first
            for side in (reference, candidate)
        )
    return _compare_classes(reference, candidate, rights, confidence)


def _compare_vectors(reference: Answered, candidate: Answered, confidence: float) -> PairComparison:
    if reference.classes != candidate.classes:
        raise AnalysisError(
            f"outputs of {reference.classes} and of {candidate.classes} numbers cannot be compared"
        )
    distances = metrics.relative_l2(reference.answers, candidate.answers)
    agreements = int(np.count_nonzero(distances <= metrics.INTERCHANGEABLE))
    finite = distances[np.isfinite(distances)]
    return PairComparison(
        samples=len(distances),
        agreements=agreements,
        agreement=_proportion(agreements, len(distances), confidence),
        confidence=confidence,
        exact=reference.exact and candidate.exact,
        labels=None,
        distance=float(np.median(finite)) if finite.size else None,
    )


def _compare_classes(
    reference: Answered,
    candidate: Answered,
    rights: tuple[NDArray[np.bool_], ...] | None,
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
    accuracies: tuple[Estimate | None, ...] = (None, None)
    difference = None
    if rights is not None and len(rights[0]):
        accuracies = tuple(_proportion(int(r.sum()), len(r), confidence) for r in rights)
        only_reference = int(np.count_nonzero(rights[0] & ~rights[1]))
        only_candidate = int(np.count_nonzero(rights[1] & ~rights[0]))
        found = paired_difference(only_reference, only_candidate, len(rights[0]), confidence)
        difference = Estimate(*found)
    return PairComparison(
        samples=len(same),
        agreements=int(same.sum()),
        agreement=_proportion(int(same.sum()), len(same), confidence),
        confidence=confidence,
        exact=True,
        labels=to_candidate.kind,
        confusions=_confusions(reference, candidate, ~same),
        overlap=overlap,
        reference_accuracy=accuracies[0],
        candidate_accuracy=accuracies[1],
        difference=difference,
    )


def _truth_map(
    side: Answered, labels: NDArray[np.int32], truth: LabelSpace | None, classes: int | None
) -> LabelMap:
    """From the model's classes to the labels'; bare class ids are taken at their word."""
    theirs = classes if truth is None else len(truth.labels)
    if side.label_space is None and side.classes is None:
        answered = side.answers[side.answers != NO_ANSWER]
        seen = max(int(answered.max(initial=0)), int(labels.max(initial=0))) + 1
        own: int | None = theirs or seen
    else:
        own = side.classes if side.label_space is None else len(side.label_space.labels)
    return map_labels(side.label_space, truth, classes=own, target_classes=theirs or own)


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


def _name(side: Answered, class_id: int) -> str:
    if class_id == NO_ANSWER:
        return "no answer"
    names = side.label_space.labels if side.label_space else ()
    return names[class_id] if class_id < len(names) else str(class_id)


def _proportion(right: int, count: int, confidence: float) -> Estimate:
    low, high = clopper_pearson(right, count, confidence)
    return Estimate(right / count, float(low), float(high))
