"""Probabilities as answers: Jensen-Shannon distance, perplexity (algorithms.md A.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sommelier.analysis.probabilities import softmax
from sommelier.analysis.quality.measure import (
    Array,
    Figure,
    Floats,
    Mask,
    dataset_figure,
    mean_figure,
    same_shape,
)


@dataclass(frozen=True, slots=True)
class Distributions:
    """Jensen-Shannon distance, the square root of the divergence to base 2, which is a metric.

    answers : (n, outcomes) or (n, steps, outcomes) probabilities, or scores, which softmax makes
    probabilities; with steps it is the mean over them. truth : integer (n,) or (n, steps), negative
    where unknown. Perplexity is a figure of the dataset.
    """

    name: ClassVar[str] = "Jensen-Shannon distance"
    predicate: ClassVar[str] = "same most probable outcome"
    symmetric: ClassVar[bool] = True
    pseudometric: ClassVar[bool] = True

    def losses(self, reference: Array, candidate: Array) -> Floats:
        one, other = probabilities(reference), probabilities(candidate)
        same_shape(one, other)
        found = np.sqrt(np.clip(_divergence(one, other), 0.0, 1.0))
        steps = np.where(np.isnan(found), 1.0, found).reshape(len(found), -1)
        return np.asarray(steps.mean(axis=1))

    def interchangeable(self, reference: Array, candidate: Array) -> Mask:
        one, other = np.asarray(reference), np.asarray(candidate)
        same_shape(one, other)
        known = ~(np.isnan(one).any(axis=-1) | np.isnan(other).any(axis=-1))
        same = known & (one.argmax(axis=-1) == other.argmax(axis=-1))
        return np.asarray(same.reshape(len(same), -1).all(axis=1))

    def quality(self, answers: Array, truth: Array) -> tuple[Figure, ...]:
        given = probabilities(answers)
        wanted = np.asarray(truth).reshape(given.shape[:-1])
        given, wanted = (
            part.reshape(len(part), -1, *part.shape[wanted.ndim :]) for part in (given, wanted)
        )  # (n, steps, outcomes), (n, steps)
        known = wanted >= 0
        labelled = known.any(axis=1)
        given, wanted, known = given[labelled], wanted[labelled], known[labelled]
        steps = known.sum(axis=1)
        chosen = np.take_along_axis(given, np.maximum(wanted, 0)[..., None], axis=2)[..., 0]
        surprise = -np.log(np.maximum(chosen, np.finfo(np.float64).tiny))
        lost = np.where(known, surprise, 0.0).sum(axis=1)
        right = (known & (given.argmax(axis=2) == wanted)).sum(axis=1) / steps
        return (
            mean_figure("top-1 accuracy", right),
            dataset_figure(
                "perplexity",
                len(steps),
                lambda i: float(np.exp(lost[i].sum() / steps[i].sum())),
                higher_is_better=False,
            ),
        )

    def describe(self, answer: Array) -> str:
        odds = probabilities(np.asarray(answer)[None])[0].reshape(-1, np.shape(answer)[-1])[0]
        best = int(odds.argmax())
        return f"{best} ({odds[best]:.0%})"


def probabilities(answers: Array) -> Floats:
    """Rows that sum to 1: as they are where they already do, else softmax of the scores.

    Probabilities are told from scores by all of them being >= 0 and every row summing to 1 within
    1e-3 (float16 sums of many outcomes).
    """
    values = np.asarray(answers, dtype=np.float64)
    finite = values[~np.isnan(values).any(axis=-1)]
    total = values.sum(axis=-1, keepdims=True)
    if (finite >= 0).all() and np.allclose(finite.sum(axis=-1), 1.0, atol=1e-3):
        return np.asarray(values / total)
    return softmax(values)


def _divergence(one: Floats, other: Floats) -> Floats:
    """Jensen-Shannon divergence over the last axis, in bits: in [0, 1]."""
    middle = (one + other) / 2
    return (_relative_entropy(one, middle) + _relative_entropy(other, middle)) / 2


def _relative_entropy(one: Floats, other: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(one == 0, 0.0, one * np.log2(one / other))
    return np.asarray(terms.sum(axis=-1))
