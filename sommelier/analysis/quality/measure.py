"""What a measure of disagreement promises, and the labelled figures it gives (algorithms.md A.2).

Two quantities are never mixed: disagreement (needs no labels) and quality of result (needs them).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sommelier.errors import AnalysisError

Array = NDArray[Any]
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]
Losses = Floats | Mask


@dataclass(frozen=True, slots=True)
class Figure:
    """One model's quality of result on one labelled dataset.

    terms : float64 (n,) in [0, 1] with mean `value`, so that bounds for means apply; None where the
    figure is not a mean of per-sample terms (mAP, F1, mIoU, R2) and only a bootstrap can be given.
    counted : the terms are 0 or 1 by definition, not by chance: counting them bounds the figure.
    resampled : the figure of the samples at these positions, repetitions allowed.
    samples : labelled samples n.
    """

    name: str
    value: float
    samples: int
    terms: Floats | None
    resampled: Callable[[Indices], float]
    higher_is_better: bool = True
    counted: bool = False


class Measure(Protocol):
    """How far apart two answers to one input are, for one kind of output.

    Answers are one entry a sample: an array (n, ...) or a sequence of n values; each measure says
    which. A sample that a model does not answer (NaN, NO_ANSWER) has loss 1 with every answer, its
    own included, and is interchangeable with none.
    """

    @property
    def name(self) -> str:
        """The loss in words: 'top-1 class differs'."""

    @property
    def predicate(self) -> str:
        """What makes two answers interchangeable, in words: 'same class'."""

    @property
    def symmetric(self) -> bool:
        """Whether the order of reference and candidate does not matter to the loss."""

    @property
    def pseudometric(self) -> bool:
        """Whether the loss obeys the triangle inequality, sample by sample."""

    def losses(self, reference: Any, candidate: Any) -> Losses:
        """Disagreement per sample in [0, 1], float64 (n,); bool if 0 or 1 by definition."""

    def interchangeable(self, reference: Any, candidate: Any) -> Mask:
        """Where one answer may stand in for the other, bool (n,)."""

    def quality(self, answers: Any, truth: Any) -> tuple[Figure, ...]:
        """The labelled figures of one model's answers; unlabelled samples are left out."""

    def describe(self, answer: Any) -> str:
        """One sample's answer in a few words."""


def mean_figure(name: str, terms: Array) -> Figure:
    """A figure that is the mean of per-sample terms in [0, 1]; booleans are counted."""
    given = np.asarray(terms)
    values = np.asarray(given, dtype=np.float64)

    def resampled(chosen: Indices) -> float:
        return float(values[chosen].mean()) if len(chosen) else float("nan")

    value = resampled(np.arange(len(values)))
    return Figure(name, value, len(values), values, resampled, counted=given.dtype == np.bool_)


def dataset_figure(
    name: str, samples: int, resampled: Callable[[Indices], float], *, higher_is_better: bool = True
) -> Figure:
    """A figure of the dataset as a whole, for which no bound for means holds."""
    value = resampled(np.arange(samples)) if samples else float("nan")
    return Figure(name, value, samples, None, resampled, higher_is_better)


def same_length(reference: Sequence[Any] | Array, candidate: Sequence[Any] | Array) -> int:
    """The number of samples. Raises AnalysisError if the two differ."""
    if len(reference) != len(candidate):
        raise AnalysisError(
            f"the models answered different numbers of samples ({len(reference)} and "
            f"{len(candidate)})"
        )
    return len(reference)


def same_shape(reference: Array, candidate: Array) -> None:
    """Raises AnalysisError if the answers to a sample are not of one shape."""
    same_length(reference, candidate)
    if reference.shape != candidate.shape:
        raise AnalysisError(
            f"answers of shape {list(reference.shape[1:])} and of {list(candidate.shape[1:])} "
            "cannot be compared"
        )
