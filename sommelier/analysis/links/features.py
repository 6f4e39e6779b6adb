"""What a link reads of a vector, and what it is taught of one: both ends of a vec-to-vec link.

Probabilities are read as logarithms or log-odds: a link between two classifiers is then nearly
linear. Everything is standardised by the training rows. Source: algorithms.md E.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.links.formats import LEAST_PROBABILITY, Kind, LinkAnswers
from sommelier.analysis.probabilities import sigmoid, softmax
from sommelier.errors import AnalysisError

Array = NDArray[Any]
Singles = NDArray[np.float32]
Activation = Literal["softmax", "shares", "sigmoid", "unit", "values"]

FARTHEST = 30.0  # standard deviations: a value that training never saw does not carry a link away
ROUNDING = 1e-6  # of a float32, relative; of a logarithm, that of its probability
HIGHEST_FLOOR = 0.25  # of answers that are all 0 or 1, and still below one half


@dataclass(frozen=True, slots=True)
class Features:
    """How natural vectors become the numbers a link reads.

    floor : probabilities closer to 0 (of labels: also to 1) count as this. mean, weight :
    float32 (width,), of the training rows; weight is 1 / deviation, 0 where nothing ever changes.
    Probabilities all have one weight.
    """

    kind: Kind
    floor: float
    mean: Singles
    weight: Singles

    @classmethod
    def of(cls, source: LinkAnswers, rows: Array) -> Features:
        """The features of these (training) rows. Raises AnalysisError where none has an answer."""
        seen = _answered(source.rows(rows))
        floor = _floor(seen) if source.format.kind in ("classes", "labels") else 0.0
        opened = _open(seen, source.format.kind, floor).astype(np.float64)
        deviation = _deviation(opened, source.format.kind)
        mean = opened.mean(axis=0).astype(np.float32)
        return cls(source.format.kind, floor, mean, inverse(deviation.astype(np.float32)))

    def __call__(self, values: Array) -> Singles:
        """float32 (n, width); 0, which is the mean, for a sample without an answer (NaN)."""
        opened = _open(np.asarray(values, dtype=np.float32), self.kind, self.floor)
        scaled = (opened - self.mean) * self.weight
        return np.asarray(np.nan_to_num(np.clip(scaled, -FARTHEST, FARTHEST), nan=0.0))


@dataclass(frozen=True, slots=True)
class Readout:
    """How a link's last linear outputs become natural answers.

    activation : 'softmax' and 'shares' (cut off at 0, divided by their sum) give classes,
    'sigmoid' and 'unit' (cut off at 0 and 1) labels, 'values' numbers and boxes: times `scale`,
    plus `offset`, both float32 (width,) and of the training rows.
    """

    activation: Activation
    offset: Singles
    scale: Singles

    @classmethod
    def of(cls, target: LinkAnswers, rows: Array) -> Readout:
        """The readout of a network whose loss is the one `losses` names for this kind."""
        width = target.format.width
        offset, scale = np.zeros(width, dtype=np.float32), np.ones(width, dtype=np.float32)
        if target.format.kind == "classes":
            return cls("softmax", offset, scale)
        if target.format.kind == "labels":
            return cls("sigmoid", offset, scale)
        seen = _answered(target.rows(rows)).astype(np.float64)
        scale = _deviation(seen, target.format.kind).astype(np.float32)
        return cls("values", seen.mean(axis=0).astype(np.float32), scale)

    def taught(self, values: Array) -> Singles:
        """What the outputs are compared with in training: probabilities, or standardised values."""
        centred = np.asarray(values, dtype=np.float32) - self.offset
        return np.asarray(centred * inverse(self.scale))

    def __call__(self, outputs: Array) -> Singles:
        """Natural answers float32 (n, width) from outputs (n, width)."""
        if self.activation == "softmax":
            return np.asarray(softmax(outputs), dtype=np.float32)
        if self.activation == "shares":
            shares = np.maximum(outputs, LEAST_PROBABILITY)
            return np.asarray(shares / shares.sum(axis=1, keepdims=True), dtype=np.float32)
        if self.activation == "sigmoid":
            return np.asarray(sigmoid(outputs), dtype=np.float32)
        if self.activation == "unit":
            return np.asarray(np.clip(outputs, 0.0, 1.0), dtype=np.float32)
        return np.asarray(outputs * self.scale + self.offset, dtype=np.float32)


def log_probabilities(target: LinkAnswers, rows: Array) -> Singles:
    """The target's logarithms (of each sample, their mean taken off) or log-odds, (n, width)."""
    opened = _open(target.values, target.format.kind, _floor(_answered(target.rows(rows))))
    if target.format.kind == "classes":
        opened = opened - opened.mean(axis=1, keepdims=True)
    return opened


def inverse(deviation: Singles) -> Singles:
    """1 / deviation, 0 where that is 0."""
    return np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 0)


def _answered(answers: LinkAnswers) -> Array:
    seen = answers.values[answers.answered]
    if not len(seen):
        raise AnalysisError(f"none of the {len(answers)} training samples has an answer")
    return seen


def _floor(probabilities: Array) -> float:
    """Half of the smallest probability seen: what a quantised model calls 0 is not e-16."""
    positive = probabilities[probabilities > 0]
    least = float(positive.min()) / 2 if positive.size else HIGHEST_FLOOR
    return float(np.clip(least, LEAST_PROBABILITY, HIGHEST_FLOOR))


def _open(values: Array, kind: Kind, floor: float) -> Singles:
    if kind == "classes":
        return np.asarray(np.log(np.maximum(values, np.float32(floor))))
    if kind == "labels":
        inner = np.clip(values, np.float32(floor), np.float32(1.0 - floor))
        return np.asarray(np.log(inner) - np.log(1 - inner))
    return values


def _deviation(values: NDArray[np.float64], kind: Kind) -> NDArray[np.float64]:
    """What a column's values are divided by; 0 where they never change.

    Logarithms have one unit, so they share one deviation: a class that is never near in training
    still counts as much as the others when it is.
    """
    if kind in ("classes", "labels"):
        shared = np.sqrt(values.var(axis=0).mean())
        return np.full(values.shape[1], shared if np.ptp(values, axis=0).max() > ROUNDING else 0.0)
    changes = np.ptp(values, axis=0) > ROUNDING * np.abs(values).max(axis=0)
    return np.where(changes, values.std(axis=0), 0.0)
