"""How the answers of several links to one target become its answer: numbers, applied with numpy.

A head knows no database and no training data; a plan carries it as JSON. Source: algorithms.md E.2.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.links.formats import (
    LEAST_PROBABILITY,
    AnswerFormat,
    natural,
)
from sommelier.analysis.probabilities import sigmoid, softmax
from sommelier.errors import AnalysisError

Array = NDArray[Any]
Floats = NDArray[np.float64]
HeadKind = Literal["ridge", "weights", "paper weights", "best source", "constant"]


@dataclass(frozen=True, slots=True)
class Head:
    """The ensemble h_Aj of the links from `sources` (in this order) to one target.

    kind 'ridge' : features(answers), one source after the other, @ weights + bias; weights float64
    (sum of the sources' features, outputs). 'weights' : sum of weights[i] times the answers of
    source i, weights (sources,). 'paper weights' : the same sum of logits, then softmax or sigmoid.
    'best source' : the answers of the only source. 'constant' : `bias`, a natural answer.
    scale : what an error of numbers is divided by where the head is judged (see `scoring.score`).
    """

    format: AnswerFormat
    kind: HeadKind
    sources: tuple[str, ...]
    weights: Floats
    bias: Array
    scale: float | None = None

    def __call__(self, answers: Mapping[str, Array], *, count: int | None = None) -> Array:
        """Natural answers (n, ...) from the links' natural answers by source name.

        answers of token targets : ids (n, steps), which count as certain, or scores (n, steps,
        vocabulary); whichever the head was fitted to. count : n, where there are no sources.
        Raises AnalysisError when a source's answers are missing.
        """
        missing = [name for name in self.sources if name not in answers]
        if missing:
            raise AnalysisError(
                f"the answers predicted from {', '.join(missing)} are needed",
                hint=f"given are those from {', '.join(answers) or 'no model'}",
            )
        if self.kind == "constant":
            rows = next((len(value) for value in answers.values()), 0) if count is None else count
            return np.tile(self.bias, (rows, 1))
        given = [answers[name] for name in self.sources]
        if self.kind == "best source":
            return answers_of(given[0], self.format)
        opened = [features_of(value, self.format) for value in given]
        return answers_of(self._mixed(opened), self.format)

    def _mixed(self, opened: list[Floats]) -> Floats:
        """Scores (n, outputs) from each source's features."""
        if self.kind == "ridge":
            return np.asarray(np.concatenate(opened, axis=1) @ self.weights + self.bias)
        if self.kind == "weights":
            return np.asarray(np.tensordot(self.weights, np.stack(opened), axes=1))
        logits = np.stack([as_logits(one, self.format) for one in opened])
        return activated(np.tensordot(self.weights, logits, axes=1), self.format)

    def to_json(self) -> str:
        """The head as one line of JSON, its weights in nine significant digits."""
        return json.dumps(
            {
                "format": json.loads(self.format.to_json()),
                "kind": self.kind,
                "sources": self.sources,
                "weights": _short(self.weights),
                "bias": self.bias.tolist() if self.bias.dtype.kind in "iu" else _short(self.bias),
                "scale": self.scale,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Head:
        """The head that `to_json` wrote; answers differ by rounding only."""
        read = json.loads(text)
        form = AnswerFormat(**read["format"])
        kind = np.int64 if form.kind == "tokens" and read["kind"] == "constant" else np.float64
        weights = np.asarray(read["weights"], dtype=np.float64)
        bias, scale = np.asarray(read["bias"], kind), read.get("scale")
        return cls(form, read["kind"], tuple(read["sources"]), weights, bias, scale)


def outputs_of(format: AnswerFormat) -> int:
    """How many numbers one answer is made of: one for each output, or step and token."""
    return format.width * format.steps if format.kind == "tokens" else format.width


def features_of(values: Array, format: AnswerFormat) -> Floats:
    """What an ensemble reads of one link's answers, float64 (n, outputs).

    Tokens become one-hot, scores of steps behind the end a certain `end`.
    """
    if format.kind != "tokens":
        return np.asarray(values, dtype=np.float64)
    ids = answers_of(values, format)
    cells = np.zeros((*ids.shape, format.width))
    if values.dtype.kind == "f":
        cells[:] = values.reshape(cells.shape)
        over = np.zeros(ids.shape, dtype=np.bool_)
        if format.end is not None:
            over[:, 1:] = ids[:, :-1] == format.end
        cells[over] = 0.0
    else:
        over = np.ones(ids.shape, dtype=np.bool_)
    cells[over, ids[over]] = 1.0
    return cells.reshape(len(ids), outputs_of(format))


def answers_of(values: Array, format: AnswerFormat) -> Array:
    """Natural answers from mixed features (n, outputs) or from one link's own answers.

    Classes are cut off at 0 and made to sum to 1, labels kept within [0, 1], tokens the likeliest
    up to the end. NaN stays NaN: no answer.
    """
    if format.kind == "tokens":
        ids = values
        if values.dtype.kind == "f":
            ids = values.reshape(len(values), format.steps, format.width).argmax(axis=2)
        return natural(ids, replace(format, form="ids")).values if len(ids) else ids
    if format.kind == "labels":
        return np.clip(values, 0.0, 1.0).astype(np.float32)
    if format.kind == "classes":
        shares = np.maximum(values, 0.0)
        total = shares.sum(axis=1, keepdims=True)
        even = np.where(total == 0, 1.0 / format.width, shares)
        return (even / np.where(total == 0, 1.0, total)).astype(np.float32)
    return np.asarray(values, dtype=np.float32)


def as_logits(features: Floats, format: AnswerFormat) -> Floats:
    """Logarithms of classes and tokens, log-odds of labels, other answers as they are."""
    if format.kind in ("numbers", "box"):
        return features
    inner = np.clip(features, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return np.asarray(np.log(inner) - (np.log1p(-inner) if format.kind == "labels" else 0.0))


def activated(logits: Floats, format: AnswerFormat) -> Floats:
    """The inverse of `as_logits`: softmax over classes or each step's tokens, sigmoid of labels."""
    if format.kind in ("numbers", "box"):
        return logits
    if format.kind == "labels":
        return sigmoid(logits)
    cells = logits.reshape(*logits.shape[:-1], -1, format.width)
    return softmax(cells).reshape(logits.shape)


def constant_head(format: AnswerFormat, answer: Array) -> Head:
    """The head of no sources: always this natural answer."""
    return Head(format, "constant", (), np.empty(0), answer)


def source_head(format: AnswerFormat, source: str) -> Head:
    """The head that passes one link's answers on."""
    return Head(format, "best source", (source,), np.ones(1), np.empty(0))


def _short(values: Array) -> Any:
    """Nested lists of numbers as short as nine significant digits make them."""
    flat = [float(f"{value:.9g}") for value in np.asarray(values, np.float64).ravel()]
    return np.reshape(np.array(flat), values.shape).tolist()
