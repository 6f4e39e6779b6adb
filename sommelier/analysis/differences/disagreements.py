"""The samples that two models answer differently, those first on which both are sure.

Works on answers that are stored or were just made; nothing is run here. How sure a model is of a
sample is told by its margin, best score minus second best, as a rank among all its samples, so
that logits, probabilities and quantised scores can be put side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis import metrics
from sommelier.analysis.labels import LabelMap, map_labels
from sommelier.analysis.quality.answered import Answered
from sommelier.analysis.quality.breakdown import group_name
from sommelier.errors import AnalysisError
from sommelier.records import NO_ANSWER, LabelSpace, OutputSketch

Array = NDArray[Any]
Floats = NDArray[np.float64]
NO_LABEL = -1


@dataclass(frozen=True, slots=True)
class Side:
    """One model's answers with the scores of its best classes. scores : (n, 5) best first, None
    where it gives none."""

    answered: Answered
    scores: Array | None = None

    @classmethod
    def of_sketch(cls, sketch: OutputSketch, label_space: LabelSpace | None) -> Side:
        """The stored answers of a model."""
        answered = Answered.of_sketch(sketch, label_space)
        if sketch.topk_scores is None:
            return cls(answered)
        scores = np.frombuffer(sketch.topk_scores, dtype=np.float16)
        return cls(answered, scores.reshape(len(answered.answers), -1))

    def margins(self) -> Floats | None:
        """float64 (n,), best minus second best score; None without scores or a second class."""
        if self.scores is None or self.scores.shape[1] < 2:
            return None
        best = self.scores[:, :2].astype(np.float64)
        return np.asarray(best[:, 0] - best[:, 1], np.float64)

    def certainty(self) -> Floats | None:
        """float64 (n,) in 0..1: on which share of all samples its margin is no larger."""
        margins = self.margins()
        if margins is None:
            return None
        ordered = np.sort(margins[np.isfinite(margins)])
        if not len(ordered):
            return None
        ranks = np.searchsorted(ordered, margins, side="right") / len(ordered)
        return np.where(np.isfinite(margins), ranks, 0.0)

    def name(self, class_id: int) -> str:
        """The class by name where names are known."""
        if class_id == NO_ANSWER:
            return "no answer"
        space = self.answered.label_space
        return group_name(class_id, space.labels if space else None)


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One sample. index : in the dataset. score, margin : of the model's own answer, in its own
    units; certainty : rank of the margin among all its samples, 0..1; None without scores. right :
    'reference', 'candidate', 'neither', None where the truth is not known. distance : relative L2
    of vectors, None for classes."""

    index: int
    reference: str
    candidate: str
    truth: str | None = None
    right: str | None = None
    reference_score: float | None = None
    candidate_score: float | None = None
    reference_margin: float | None = None
    candidate_margin: float | None = None
    reference_certainty: float | None = None
    candidate_certainty: float | None = None
    distance: float | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Disagreements:
    """The rows asked for, the number of all, and of how many samples; printing shows a table."""

    rows: tuple[Disagreement, ...]
    total: int
    samples: int
    names: tuple[str, str] = ("reference", "candidate")

    def as_dict(self) -> dict[str, Any]:
        """Plain data: numbers, text, lists and dictionaries."""
        return asdict(self)

    def __str__(self) -> str:
        from sommelier.analysis.differences.text import disagreement_table

        return disagreement_table(self)

    __repr__ = __str__


def disagreements(
    reference: Side,
    candidate: Side,
    *,
    truth: NDArray[np.int32] | None = None,
    truth_space: LabelSpace | None = None,
    indices: Array | None = None,
    names: tuple[str, str] = ("reference", "candidate"),
    limit: int | None = 20,
) -> Disagreements:
    """Where two models answered the same samples differently, both sure and different first.

    truth : int32 (n,) label ids in `truth_space` (without one, as the reference numbers them), -1
    unknown. indices : of the samples in their dataset, 0..n-1 if omitted. limit : rows at most.
    Order : the smaller of both certainties, falling; vectors by relative distance, falling.
    Raises AnalysisError for answers that cannot be compared.
    """
    ours, theirs = reference.answered, candidate.answered
    if ours.kind != theirs.kind:
        raise AnalysisError(f"{ours.kind} cannot be compared with {theirs.kind}")
    if len(ours.answers) != len(theirs.answers):
        raise AnalysisError(
            f"the models answered different numbers of samples ({len(ours.answers)} and "
            f"{len(theirs.answers)})"
        )
    places = np.arange(len(ours.answers)) if indices is None else np.asarray(indices)
    if ours.kind == "vectors":
        return _vectors(ours.answers, theirs.answers, places, names, limit)
    to_candidate = _class_map(ours, theirs)
    same = metrics.same_class(ours.answers, theirs.answers, to_candidate)
    found = np.flatnonzero(~same)
    order = found[_by_certainty(reference, candidate, found)][:limit]
    known = None if truth is None else _Truth(np.asarray(truth), truth_space, reference, candidate)
    details = _Details(reference, candidate)
    rows = tuple(_row(int(i), int(places[i]), reference, candidate, known, details) for i in order)
    return Disagreements(rows, len(found), len(same), names)


def stored_disagreements(
    reference: OutputSketch,
    candidate: OutputSketch,
    *,
    label_spaces: tuple[LabelSpace | None, LabelSpace | None] = (None, None),
    **options: Any,
) -> Disagreements:
    """The same from two models' stored answers to one probe set; options as `disagreements`.

    Raises AnalysisError for sketches of different probe sets, and of projected outputs.
    """
    if reference.probe_set_id != candidate.probe_set_id:
        raise AnalysisError(
            "the models answered different probe sets",
            hint="ANALYZE both on the same dataset with the same number of samples",
        )
    sides = [
        Side.of_sketch(sketch, space)
        for sketch, space in zip((reference, candidate), label_spaces, strict=True)
    ]
    return disagreements(sides[0], sides[1], **options)


def _class_map(ours: Answered, theirs: Answered) -> LabelMap:
    """The classes of a model that answers bare ids are taken to be those of the other model."""
    counts = [side.classes for side in (ours, theirs)]
    if None in counts:
        real = np.concatenate([ours.answers, theirs.answers])
        seen = int(real[real != NO_ANSWER].max(initial=0)) + 1
        stated = next((count for count in counts if count is not None), seen)
        counts = [stated if count is None else count for count in counts]
    return map_labels(
        ours.label_space, theirs.label_space, classes=counts[0], target_classes=counts[1]
    )


def _by_certainty(reference: Side, candidate: Side, found: Array) -> Array:
    """Positions in `found`; where only one model gives scores its certainty decides."""
    known = [c[found] for c in (reference.certainty(), candidate.certainty()) if c is not None]
    if not known:
        return np.arange(len(found))
    return np.argsort(-np.min(known, axis=0), kind="stable")


class _Details:
    """Scores, margins and certainties of both sides, computed once."""

    def __init__(self, reference: Side, candidate: Side) -> None:
        self._columns: dict[str, Array | None] = {}
        for name, side in (("reference", reference), ("candidate", candidate)):
            best = None if side.scores is None else side.scores[:, 0]
            self._columns[f"{name}_score"] = best
            self._columns[f"{name}_margin"] = side.margins()
            self._columns[f"{name}_certainty"] = side.certainty()

    def at(self, sample: int) -> Mapping[str, float | None]:
        values = {k: None if c is None else float(c[sample]) for k, c in self._columns.items()}
        return {k: v if v is not None and np.isfinite(v) else None for k, v in values.items()}


class _Truth:
    """The true classes, by name and as each model numbers them."""

    def __init__(
        self, labels: Array, space: LabelSpace | None, reference: Side, candidate: Side
    ) -> None:
        own = reference.answered
        self.labels = labels
        self.space = space if space is not None else own.label_space
        self.right = [self._right(side) for side in (reference, candidate)]

    def _right(self, side: Side) -> NDArray[np.bool_]:
        mine = side.answered
        classes = max(int(self.labels.max(initial=0)) + 1, mine.classes or 0)
        if mine.label_space is None or self.space is None:
            size = len(self.space.labels) if self.space else classes
            mapped = map_labels(None, None, classes=size, target_classes=size).apply(mine.answers)
        else:
            mapped = map_labels(mine.label_space, self.space).apply(mine.answers)
        return np.asarray((mapped == self.labels) & (mine.answers != NO_ANSWER))

    def name(self, sample: int) -> str | None:
        label = int(self.labels[sample])
        if label == NO_LABEL:
            return None
        return group_name(label, self.space.labels if self.space else None)

    def verdict(self, sample: int) -> str | None:
        if int(self.labels[sample]) == NO_LABEL:
            return None
        first, second = (bool(right[sample]) for right in self.right)
        return "reference" if first else "candidate" if second else "neither"


def _row(
    sample: int, index: int, reference: Side, candidate: Side, truth: _Truth | None,
    details: _Details,
) -> Disagreement:  # fmt: skip
    return Disagreement(
        index,
        reference.name(int(reference.answered.answers[sample])),
        candidate.name(int(candidate.answered.answers[sample])),
        None if truth is None else truth.name(sample),
        None if truth is None else truth.verdict(sample),
        **details.at(sample),
    )


def _vectors(
    ours: Array, theirs: Array, places: Array, names: tuple[str, str], limit: int | None
) -> Disagreements:
    distance = metrics.relative_l2(ours, theirs)
    found = np.flatnonzero(~metrics.interchangeable(ours, theirs))
    order = found[np.argsort(-np.nan_to_num(distance[found], nan=np.inf), kind="stable")][:limit]
    rows = tuple(
        Disagreement(
            int(places[i]), _numbers(ours[i]), _numbers(theirs[i]), distance=float(distance[i])
        )
        for i in order
    )
    return Disagreements(rows, len(found), len(ours), names)


def _numbers(values: Array) -> str:
    shown = ", ".join(f"{v:.4g}" for v in values[:4])
    return f"[{shown}{', ...' if len(values) > 4 else ''}]"
