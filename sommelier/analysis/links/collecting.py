"""What AnswerCollector cannot keep for links: sequences of many lengths, and decoded boxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.links.formats import (
    PADDING,
    AnswerFormat,
    Form,
    LinkAnswers,
    natural,
    within_unit,
)
from sommelier.analysis.model_inputs import STATE_NAME
from sommelier.analysis.quality.decoders import Decoder
from sommelier.errors import AnalysisError

Array = NDArray[Any]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CollectedTokens:
    """The tokens a model answered, int64 (n, steps), PADDING after the end of shorter sequences.

    vocabulary : how many tokens it chose from, None where it gives ids. form : what it gives.
    dtype : of its own output.
    """

    ids: Indices
    vocabulary: int | None
    form: Form
    dtype: str

    def answers(self, *, classes: int | None = None, end: int | None = None) -> LinkAnswers:
        """The tokens as links take them.

        end : the token that ends a sequence; where it is not given and lengths differ, a token of
        its own is added. classes : size of the vocabulary of a model that gives ids.
        """
        least = int(self.ids.max(initial=0)) + 1
        width = max(self.vocabulary or least, classes or 0, 0 if end is None else end + 1)
        if end is None and (self.ids < 0).any():
            width, end = width + 1, width
        format = AnswerFormat(
            "tokens", width, self.form, steps=self.ids.shape[1], end=end, dtype=self.dtype
        )
        return natural(self.ids, format)


class TokenCollector:
    """Takes sequences run after run, whose lengths may differ, and pads them to the longest.

    Of an output of scores (n, steps, vocabulary) the best token of every step is kept, of an
    output of ids (n, steps) the ids. The first numeric output that is no recurrent state counts.
    """

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._parts: list[Indices] = []
        self._vocabulary: int | None = None
        self._form: Form = "ids"
        self._dtype = "int64"

    def add(self, outputs: list[Any], count: int, *, single: bool) -> None:
        """The outputs of one run for its first `count` samples; single : of one sample."""
        value = self._answer(outputs)
        scored = value.dtype.kind == "f"
        if single and value.ndim == (2 if scored else 1):
            value = value[None]
        if value.ndim != (3 if scored else 2) or len(value) < count:
            raise AnalysisError(
                f"an output of shape {list(value.shape)} holds no sequences of {count} inputs: "
                "token ids are (n, steps), scores (n, steps, vocabulary)"
            )
        self._dtype = str(value.dtype)
        if scored:
            self._note_scores(value)
            value = value.argmax(axis=2)
        self._parts.append(value[:count].astype(np.int64))

    def result(self) -> CollectedTokens:
        """What was collected. Raises AnalysisError if that is nothing."""
        if not self._parts:
            raise AnalysisError("the model gave no answers")
        longest = max(1, *(part.shape[1] for part in self._parts))
        padded = [
            np.pad(part, ((0, 0), (0, longest - part.shape[1])), constant_values=PADDING)
            for part in self._parts
        ]
        return CollectedTokens(np.concatenate(padded), self._vocabulary, self._form, self._dtype)

    def _answer(self, outputs: list[Any]) -> Array:
        for name, value in zip(self._names, outputs, strict=True):
            if (
                isinstance(value, np.ndarray)
                and value.dtype.kind in "fiu"
                and not STATE_NAME.search(name)
            ):
                return value
        raise AnalysisError("the model has no numeric output")

    def _note_scores(self, scores: Array) -> None:
        if self._vocabulary not in (None, scores.shape[2]):
            raise AnalysisError(
                f"the vocabulary differs from input to input ({self._vocabulary} and "
                f"{scores.shape[2]} tokens)"
            )
        self._vocabulary = int(scores.shape[2])
        if self._form != "logits" and scores.size:
            self._form = "probabilities" if within_unit(scores) else "logits"


def best_boxes(decoder: Decoder, outputs: Mapping[str, Array]) -> NDArray[np.float32]:
    """The surest box of every image, float32 (n, 4); corners in shares of the picture's sides.

    outputs : a known detector's raw outputs (n, ...) by name. All 0 where it finds nothing.
    """
    found = decoder.decode(outputs)
    best = [image.boxes[image.scores.argmax()] if len(image) else np.zeros(4) for image in found]
    return np.array(best, dtype=np.float32).reshape(-1, 4)
