"""Seven models of one scene with answers of every kind, and linear links between all of them.

A scene is a digit at a place; the models see it with noise, as the boxes of algorithms.md E.3 do.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.links.ensemble import LinkEnsemble
from sommelier.analysis.links.formats import AnswerFormat, LinkAnswers
from sommelier.analysis.links.heads import answers_of, features_of
from sommelier.analysis.links.splits import Split, split

Array = NDArray[Any]

NAMES = ("class", "parity", "ge5", "attributes", "box", "ink", "caption")
COSTS = (3.7, 1.0, 1.0, 1.5, 3.0, 0.8, 4.6)  # algorithms.md E.3
ATTRIBUTES = ((0, 6, 8, 9, 4), (2, 3, 5, 7), (0, 8, 1), (1, 4, 7))
END = 2  # of a caption: [digit word], 'right', 'low', end
CAPTION = AnswerFormat("tokens", 15, "ids", steps=4, end=END)


@dataclass(frozen=True)
class Boxes:
    """The models' answers, the split, and what each link predicts: predicted[target][source]."""

    answers: dict[str, LinkAnswers]
    predicted: dict[str, dict[str, Array]]
    split: Split

    def ensemble(self, target: str, **options: Any) -> LinkEnsemble:
        return LinkEnsemble(self.answers[target], self.predicted[target], self.split, **options)


@cache
def seven_boxes(n: int = 700, seed: int = 0) -> Boxes:
    answers = _answers(n, np.random.default_rng(seed))
    parts = split(n, seed)
    predicted = {
        target: {
            source: linear_link(answers[source], answers[target], parts)
            for source in NAMES
            if source != target
        }
        for target in NAMES
    }
    return Boxes(answers, predicted, parts)


def linear_link(source: LinkAnswers, target: LinkAnswers, parts: Split) -> Array:
    """What least squares on the training rows predicts: natural answers, scores of tokens."""
    z = features_of(source.values, source.format)
    z = np.column_stack([z, np.ones(len(z))])
    y = features_of(target.values, target.format)
    seen = z[parts.train]
    weights = np.linalg.solve(seen.T @ seen + np.eye(z.shape[1]), seen.T @ y[parts.train])
    found = z @ weights
    if target.format.kind == "tokens":
        cells = found.reshape(len(found), target.format.steps, target.format.width)
        return np.clip(cells, 0.0, 1.0).astype(np.float32)
    return answers_of(found, target.format)


def softmax(logits: Array) -> Array:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), dtype=np.float32)


def classes(probabilities: Array) -> LinkAnswers:
    width = probabilities.shape[1]
    return LinkAnswers(AnswerFormat("classes", width, "probabilities"), probabilities)


def numbers(values: Array) -> LinkAnswers:
    found = np.asarray(values, dtype=np.float32)
    return LinkAnswers(AnswerFormat("numbers", found.shape[1], "values"), found)


def labels(probabilities: Array) -> LinkAnswers:
    found = np.asarray(probabilities, dtype=np.float32)
    return LinkAnswers(AnswerFormat("labels", found.shape[1], "probabilities"), found)


def _answers(n: int, rng: np.random.Generator) -> dict[str, LinkAnswers]:
    digit = rng.integers(0, 10, n)
    place, size = rng.uniform(0, 0.5, (n, 2)), rng.uniform(0.3, 0.5, n)

    def seen(share: float) -> Array:  # the digit as one model reads it
        return np.where(rng.random(n) < share, digit, rng.integers(0, 10, n))

    def sure(truth: Array, width: int) -> LinkAnswers:
        return classes(softmax(4.0 * np.eye(width)[truth] + rng.normal(size=(n, width))))

    attribute = seen(0.9)
    given = np.array([np.isin(attribute, group) for group in ATTRIBUTES]).T
    corners = np.column_stack([place, place + size[:, None]])
    ink = 0.1 * np.array([6, 2, 5, 5, 4, 5, 6, 3, 7, 6])[seen(0.95)] + size
    return {
        "class": sure(seen(0.8), 10),
        "parity": sure(seen(0.85) % 2, 2),
        "ge5": sure((seen(0.85) >= 5).astype(np.int64), 2),
        "attributes": labels(1 / (1 + np.exp(-6 * (given - 0.5) + rng.normal(size=(n, 4))))),
        "box": LinkAnswers(
            AnswerFormat("box", 4, "values"),
            (corners + 0.02 * rng.normal(size=(n, 4))).astype(np.float32),
        ),
        "ink": numbers(ink[:, None] + 0.05 * rng.normal(size=(n, 1))),
        "caption": LinkAnswers(CAPTION, _captions(seen(0.8), place)),
    }


def _captions(digit: Array, place: Array) -> Array:
    found = np.full((len(digit), CAPTION.steps), END, dtype=np.int64)
    found[:, 0] = 3 + digit
    right, low = place[:, 0] > 0.25, place[:, 1] > 0.25
    found[right, 1] = 13
    found[low & right, 2] = 14
    found[low & ~right, 1] = 14
    return found
