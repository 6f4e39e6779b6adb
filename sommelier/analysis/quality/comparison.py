"""Two models' answers to the same samples, compared by a measure: what is found, and its intervals.

Needs no runtime and no database: an engine that has stored answers can call it as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sommelier.analysis.quality import estimates
from sommelier.analysis.quality.breakdown import Group, breakdown
from sommelier.analysis.quality.estimates import Estimate
from sommelier.analysis.quality.interfaces import Compatibility
from sommelier.analysis.quality.label_order import LabelOrder
from sommelier.analysis.quality.measure import (
    Array,
    Figure,
    Floats,
    Losses,
    Mask,
    Measure,
)
from sommelier.analysis.quality.outputs import Outputs

EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Confusion:
    """One way of disagreeing: what each model says, and on how many samples."""

    reference: str
    candidate: str
    count: int


@dataclass(frozen=True, slots=True)
class Example:
    """A sample whose answers are not interchangeable: its position, both answers, and the loss."""

    sample: int
    reference: str
    candidate: str
    loss: float


@dataclass(frozen=True, slots=True)
class QualityPair:
    """A labelled figure of both models, and reference - candidate on the same samples."""

    name: str
    reference: Estimate
    candidate: Estimate
    difference: Estimate
    higher_is_better: bool = True


@dataclass(frozen=True, slots=True, repr=False)
class PairComparison:
    """How a candidate compares with a reference on one set of inputs; printing it shows a table.

    agreement : share of samples with interchangeable answers, two-sided Clopper-Pearson.
    measure, predicate : the loss and what 'interchangeable' means, in words. loss : its mean;
    losses : float64 (samples,) in [0, 1]. groups : mean loss by class or slice. qualities : the
    labelled figures. parts : each output by itself, where there are several. interface : the type
    check.
    overlap : mean share of the reference's five best classes among the candidate's five.
    distance : median relative L2 distance of the output vectors; cosine : its median.
    exact : False where they come from projected outputs and are estimates. labels : 'named',
    'explicit', 'positional' or None. difference : accuracy(reference) - accuracy(candidate),
    paired.
    """

    samples: int
    agreements: int
    agreement: Estimate
    confidence: float
    exact: bool = True
    labels: str | None = None
    confusions: tuple[Confusion, ...] = ()
    overlap: float | None = None
    distance: float | None = None
    cosine: float | None = None
    measure: str = ""
    predicate: str = ""
    loss: Estimate | None = None
    losses: Floats | None = field(default=None, compare=False)
    groups: tuple[Group, ...] = ()
    examples: tuple[Example, ...] = ()
    qualities: tuple[QualityPair, ...] = ()
    parts: Mapping[str, PairComparison] = field(default_factory=dict)
    interface: Compatibility | None = None
    label_order: LabelOrder | None = None
    names: tuple[str, str] = ("reference", "candidate")
    notes: tuple[str, ...] = ()

    @property
    def reference_accuracy(self) -> Estimate | None:
        found = self._accuracy()
        return None if found is None else found.reference

    @property
    def candidate_accuracy(self) -> Estimate | None:
        found = self._accuracy()
        return None if found is None else found.candidate

    @property
    def difference(self) -> Estimate | None:
        found = self._accuracy()
        return None if found is None else found.difference

    def _accuracy(self) -> QualityPair | None:
        return next((pair for pair in self.qualities if pair.name == "accuracy"), None)

    def __str__(self) -> str:
        from sommelier.analysis.quality.text import comparison_table

        return comparison_table(self)

    __repr__ = __str__


def compare(
    measure: Measure,
    reference: Any,
    candidate: Any,
    *,
    truth: Any = None,
    by: Array | Sequence[Any] | None = None,
    names: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> PairComparison:
    """The comparison of two models' answers to the same samples by a measure.

    reference, candidate, truth : as the measure takes them. by : class or slice of each sample for
    the breakdown, with `names` for integer ones. Raises AnalysisError where the answers do not fit.
    """
    losses = measure.losses(reference, candidate)
    same = measure.interchangeable(reference, candidate)
    figures = (
        [] if truth is None
        else list(zip(measure.quality(reference, truth), measure.quality(candidate, truth),
                      strict=True))
    )  # fmt: skip
    parts = {}
    if isinstance(measure, Outputs):
        parts = {
            name: compare(part, reference[name], candidate[name], confidence=confidence)
            for name, part in measure.parts.items()
        }
    found = of_losses(losses, same, by=by, names=names, confidence=confidence)
    return replace(
        found,
        measure=measure.name,
        predicate=measure.predicate,
        qualities=tuple(quality_pair(*pair, confidence) for pair in figures),
        examples=_examples(measure, reference, candidate, losses, same),
        parts=parts,
    )


def of_losses(
    losses: Losses,
    same: Mask,
    *,
    by: Array | Sequence[Any] | None = None,
    names: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> PairComparison:
    """What losses and interchangeability alone say: agreement, mean loss, breakdown.

    losses : as `Measure.losses` gives them.
    """
    count = int(np.count_nonzero(same))
    groups = () if by is None else breakdown(losses, by=by, names=names, confidence=confidence)
    return PairComparison(
        samples=len(losses),
        agreements=count,
        agreement=estimates.share(count, len(losses), confidence),
        confidence=confidence,
        loss=estimates.mean(losses, confidence),
        losses=np.asarray(losses, dtype=np.float64),
        groups=groups,
    )


def quality_pair(reference: Figure, candidate: Figure, confidence: float) -> QualityPair:
    """Both models' figure with intervals, and the paired difference."""
    return QualityPair(
        reference.name,
        estimates.of_figure(reference, confidence),
        estimates.of_figure(candidate, confidence),
        estimates.difference(reference, candidate, confidence),
        reference.higher_is_better,
    )


def worst_samples(losses: Losses, same: Mask, limit: int = EXAMPLES) -> Array:
    """Positions of samples that are not interchangeable, largest loss first, then in order."""
    differing = np.flatnonzero(~same)
    return differing[np.argsort(-losses[differing].astype(np.float64), kind="stable")][:limit]


def _examples(
    measure: Measure, reference: Any, candidate: Any, losses: Losses, same: Mask
) -> tuple[Example, ...]:
    def said(answers: Any, sample: int) -> str:
        if isinstance(measure, Outputs):
            return measure.describe({name: answers[name][sample] for name in measure.parts})
        return measure.describe(answers[sample])

    return tuple(
        Example(int(i), said(reference, i), said(candidate, i), float(losses[i]))
        for i in worst_samples(losses, same)
    )
