"""Numbers as answers: regression, embeddings, and raw outputs nobody decoded (algorithms.md A.2).

L2 distance is a metric; distance relative to the reference and cosine are not, and cosine is only
shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from sommelier.analysis import metrics
from sommelier.analysis.quality.measure import (
    Array,
    Figure,
    Floats,
    Mask,
    dataset_figure,
    mean_figure,
    same_shape,
)
from sommelier.errors import AnalysisError

SCALE_QUANTILE = 0.975  # algorithms.md A.2


def scale_of(outputs: Array) -> float:
    """What counts as far: the 97.5 % quantile of the distance of answers from their mean.

    outputs : (n, ...); samples with NaN are left out. 0 where all answers are equal.
    """
    rows = _rows(outputs)
    rows = rows[np.isfinite(rows).all(axis=1)]
    if not len(rows):
        raise AnalysisError("no sample was answered with finite numbers, so there is no scale")
    return float(np.quantile(np.linalg.norm(rows - rows.mean(axis=0), axis=1), SCALE_QUANTILE))


@dataclass(frozen=True, slots=True)
class Vectors:
    """min(1, L2 distance / scale). answers : (n, ...) numbers, compared as one vector a sample.

    scale : one for all models compared (see `scale_of`), or the triangle inequality is lost.
    Interchangeable are answers within `tolerance` of the reference's length (relative L2, which is
    not symmetric). truth : numbers of the same shape; MAE and R2 are figures of the dataset.
    """

    scale: float
    tolerance: float = metrics.INTERCHANGEABLE

    name: ClassVar[str] = "L2 distance / scale"
    symmetric: ClassVar[bool] = True
    pseudometric: ClassVar[bool] = True

    @property
    def predicate(self) -> str:
        return f"relative L2 <= {self.tolerance:g}"

    def losses(self, reference: Array, candidate: Array) -> Floats:
        distance = distances(reference, candidate)
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = np.where(distance == 0, 0.0, distance / self.scale)
        return np.where(np.isnan(scaled), 1.0, np.minimum(scaled, 1.0))

    def interchangeable(self, reference: Array, candidate: Array) -> Mask:
        return _relative(reference, candidate) <= self.tolerance

    def quality(self, answers: Array, truth: Array) -> tuple[Figure, ...]:
        given, wanted = _rows(answers), _rows(truth)
        same_shape(given, wanted)
        n, errors = len(given), np.abs(given - wanted).mean(axis=1)
        return (
            mean_figure("share within tolerance", self.interchangeable(wanted, given)),
            dataset_figure("MAE", n, lambda i: float(errors[i].mean()), higher_is_better=False),
            dataset_figure("R2", n, lambda i: r2(given[i], wanted[i])),
        )

    def describe(self, answer: Any) -> str:
        numbers = np.asarray(answer, dtype=np.float64).ravel()
        shown = ", ".join(f"{number:.4g}" for number in numbers[:4])
        return f"({shown}{', ...' if len(numbers) > 4 else ''})"


@dataclass(frozen=True, slots=True)
class RelativeVectors(Vectors):
    """min(1, L2 distance / length of the reference's answer); neither symmetric nor a metric."""

    scale: float = float("nan")

    name: ClassVar[str] = "relative L2 distance"
    symmetric: ClassVar[bool] = False
    pseudometric: ClassVar[bool] = False

    def losses(self, reference: Array, candidate: Array) -> Floats:
        relative = _relative(reference, candidate)
        return np.where(np.isnan(relative), 1.0, np.minimum(relative, 1.0))


def distances(reference: Array, candidate: Array) -> Floats:
    """L2 distance per sample, float64 (n,); NaN where an answer is not finite."""
    one, other = _rows(reference), _rows(candidate)
    same_shape(one, other)
    with np.errstate(invalid="ignore"):
        found = np.linalg.norm(other - one, axis=1)
    return np.where(np.isfinite(one).all(axis=1) & np.isfinite(other).all(axis=1), found, np.nan)


def cosine(reference: Array, candidate: Array) -> Floats:
    """Cosine similarity per sample in [-1, 1]; NaN for a zero vector. Shown, never a bound."""
    one, other = _rows(reference), _rows(candidate)
    same_shape(one, other)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    product = np.einsum("nd,nd->n", one, other)
    ratio = np.divide(product, lengths, out=np.full_like(product, np.nan), where=lengths > 0)
    return np.asarray(np.clip(ratio, -1.0, 1.0))


def r2(answers: Array, truth: Array) -> float:
    """Coefficient of determination, the mean over outputs that vary in the truth; NaN if none."""
    residual = ((answers - truth) ** 2).sum(axis=0)
    spread = ((truth - truth.mean(axis=0)) ** 2).sum(axis=0)
    varies = spread > 0
    return float(np.mean(1 - residual[varies] / spread[varies])) if varies.any() else float("nan")


def _relative(reference: Array, candidate: Array) -> Floats:
    one, other = _rows(reference), _rows(candidate)
    same_shape(one, other)
    return metrics.relative_l2(one, other)


def _rows(answers: Array) -> Floats:
    values = np.asarray(answers, dtype=np.float64)
    return values.reshape(len(values), -1)
