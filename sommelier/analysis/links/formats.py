"""Answers of any model in the form links work with, and back into the model's own form.

A link sees probabilities where a model gives logits, quantised scores or class ids; boxes as
corners; token ids where it gives scores over a vocabulary. What kind of answer a column is, the
catalog knows (OutputKind); in which form it is given is told from the numbers.
Source: algorithms.md E.1.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.model_inputs import STATE_NAME
from sommelier.analysis.probabilities import sigmoid
from sommelier.errors import AnalysisError
from sommelier.records import OutputKind, TensorSpec

Array = NDArray[Any]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Indices = NDArray[np.int64]

Kind = Literal["classes", "labels", "numbers", "box", "tokens"]
Form = Literal["probabilities", "logits", "scaled", "ids", "values"]

MAX_WIDTH = 4096  # a layer from and to so many outputs has 17 million numbers
CLASS_KINDS = (OutputKind.CLASSIFICATION, OutputKind.CLASS_IDS)
PADDING = -1  # the token id after the end of a shorter sequence, as collected
EIGHT_BITS = 256.0  # the sum of probabilities in 8 bits; TFLite fixes the scale of Softmax to 1/256
SUM_TOLERANCE = 0.05  # of rows of probabilities, by which their sums may differ
LEAST_PROBABILITY = 1e-7  # of which a logarithm is taken; float32 tells it from 0 and 1


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """What a model answers, and how it writes it.

    width : classes, labels, numbers; 4 of a box; size of the vocabulary of tokens. form : how the
    model gives it. scale : for form 'scaled', probability = (value - least of dtype) / scale.
    steps : tokens in the longest sequence. end : the token that ends and pads sequences, None where
    all have `steps` tokens. dtype : numpy's name of the model's own output type.
    """

    kind: Kind
    width: int
    form: Form
    scale: float = 1.0
    steps: int = 1
    end: int | None = None
    dtype: str = "float32"

    def to_json(self) -> str:
        """The format as one line of JSON, the same for equal formats."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> AnswerFormat:
        """The format that `to_json` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class LinkAnswers:
    """One model's answers in natural form, one row a sample.

    values : float32 (n, width) - probabilities of classes with sum 1, probabilities of labels,
    numbers, corners x1 y1 x2 y2 (all 0: no box) - or int64 (n, steps) token ids padded with `end`.
    A row with NaN is a sample the model gave no answer to.
    """

    format: AnswerFormat
    values: Array

    def __len__(self) -> int:
        return len(self.values)

    @property
    def answered(self) -> Mask:
        """Where the model answered, bool (n,)."""
        if self.values.dtype.kind != "f":
            return np.ones(len(self.values), dtype=np.bool_)
        return np.asarray(np.isfinite(self.values).all(axis=1))

    def rows(self, indices: Array) -> LinkAnswers:
        """The answers of the samples at these positions."""
        return LinkAnswers(self.format, self.values[indices])


def format_of(
    kind: OutputKind,
    block: Array,
    *,
    outputs: Sequence[TensorSpec] = (),
    classes: int | None = None,
    end: int | None = None,
) -> AnswerFormat:
    """The format of the raw answers (n, d) that AnswerCollector keeps, told from their numbers.

    outputs : the record's output specs, which give the model's own dtype and the vocabulary of
    flattened sequences. classes : of a model that answers ids, or its vocabulary; otherwise one
    more than the largest id seen. end : the token that ends sequences.
    Raises AnalysisError for answers no link is made for: wider than MAX_WIDTH, all NaN, a class
    for every pixel.
    """
    values = np.asarray(block)
    if values.ndim == 1:
        values = values[:, None]
    _check_some_answer(values)
    if kind is OutputKind.SEGMENTATION:
        raise AnalysisError("a class for every pixel is not an answer a link can predict")
    if kind is OutputKind.SEQUENCE or (kind is OutputKind.RANKING and _are_ids(values)):
        found = _tokens_format(values, outputs, classes, end)
    elif kind in CLASS_KINDS or (kind is OutputKind.DISTRIBUTION and values.ndim == 2):
        found = _classes_format(values, _dtype(values, outputs), classes)
    elif kind is OutputKind.MULTILABEL:
        form: Form = "probabilities" if within_unit(values) else "logits"
        found = AnswerFormat("labels", _size(values), form, dtype=_dtype(values, outputs))
    elif kind is OutputKind.DETECTION and values.shape[1:] == (4,):
        found = AnswerFormat("box", 4, "values", dtype=_dtype(values, outputs))
    else:
        found = AnswerFormat("numbers", _size(values), "values", dtype=_dtype(values, outputs))
    if found.width > MAX_WIDTH:
        raise AnalysisError(
            f"an answer of {found.width} outputs is too wide to be learned (at most {MAX_WIDTH})",
            hint="decode it first: a detector's raw outputs become a box, pixels become a class",
        )
    return found


def natural(raw: Array, format: AnswerFormat) -> LinkAnswers:
    """Raw answers of a model in natural form.

    raw : (n, d) as AnswerCollector keeps them; of sequences also scores (n, steps, vocabulary), or
    token ids (n, steps) of an integer type, PADDING after the end. Shorter ones are padded.
    Raises AnalysisError where the answers do not have this format.
    """
    values = np.asarray(raw)
    values = values[:, None] if values.ndim == 1 else values
    _check_some_answer(values)
    if format.kind == "tokens":
        return LinkAnswers(format, _token_ids(values, format))
    flat = values.reshape(len(values), -1)
    width = 1 if format.form == "ids" else format.width
    if flat.shape[1] != width:
        raise AnalysisError(f"answers of {flat.shape[1]} outputs, where {width} are expected")
    if format.kind == "classes":
        return LinkAnswers(format, _class_probabilities(flat, format))
    found = flat.astype(np.float64)
    if format.kind == "labels":
        found = sigmoid(found) if format.form == "logits" else np.clip(found, 0.0, 1.0)
    return LinkAnswers(format, found.astype(np.float32))


def as_given(values: Array, format: AnswerFormat, *, scores: Array | None = None) -> Array:
    """Natural answers in the model's own form and dtype, so that they can stand for its answers.

    Logits are the logarithms of the probabilities (a shift of all classes is lost). Ids are (n, 1).
    Tokens are ids (n, steps) or, of a model that gives scores, (n, steps * vocabulary): from
    `scores`, the step probabilities (n, steps, vocabulary), or else all on the token. An `end`
    that was added for padding stays a token of its own.
    """
    given = np.asarray(values)
    if format.kind == "tokens":
        return _tokens_as_given(given, format, scores)
    if format.form == "ids":
        ids = np.where(np.isfinite(given).all(axis=1), given.argmax(axis=1), PADDING)
        return np.asarray(ids[:, None].astype(_integer(format.dtype)))
    if format.form == "logits":
        sure = np.clip(given.astype(np.float64), LEAST_PROBABILITY, 1.0 - LEAST_PROBABILITY)
        odds = np.log(sure) if format.kind == "classes" else np.log(sure) - np.log1p(-sure)
        return _cast(odds, format.dtype)
    if format.form == "scaled":
        return _cast(given.astype(np.float64) * format.scale + _least(format.dtype), format.dtype)
    return _cast(given, format.dtype)


def _classes_format(values: Array, dtype: str, classes: int | None) -> AnswerFormat:
    if _size(values) == 1 and _are_ids(values):
        seen = int(np.nanmax(values)) + 1
        width = max(seen, classes or 0)
        return AnswerFormat("classes", max(width, 2), "ids", dtype=dtype)
    flat = values.reshape(len(values), -1)
    if _size(values) == 1:
        raise AnalysisError(
            "a single score is no choice of a class; declare the model 'multilabel'"
        )
    known = flat[(flat < np.inf).all(axis=1)].astype(np.float64)  # of a logarithm, -inf is one of 0
    if not len(known):
        raise AnalysisError("every answer has an infinite score")
    if _signed_bytes(known):
        dtype = "int8"
    total = _row_sum(known - _least(dtype))
    if total is None:
        return AnswerFormat("classes", flat.shape[1], "logits", dtype=dtype)
    form: Form = "probabilities" if total == 1.0 else "scaled"
    return AnswerFormat("classes", flat.shape[1], form, scale=total, dtype=dtype)


def _row_sum(values: Floats) -> float | None:
    """What rows of probabilities add up to: 1, 100, 256; None where they are scores.

    8-bit probabilities of many classes add up to less, where most are rounded to 0.
    """
    if (values < 0).any():
        return None
    if (values <= 1).all():
        return 1.0  # also where each is in [0, 1] on its own: they are made to sum to 1
    sums = values.sum(axis=1)
    if values.max() <= 255 and (values == np.floor(values)).all():
        return EIGHT_BITS if sums.max() <= EIGHT_BITS * (1 + SUM_TOLERANCE) else None
    usual = float(np.median(sums))
    if np.abs(sums - usual).max() > SUM_TOLERANCE * usual:
        return None
    return 1.0 if abs(usual - 1) <= SUM_TOLERANCE else float(round(usual))


def _signed_bytes(values: Floats) -> bool:
    """Whether these are 8-bit probabilities with -128 for 0."""
    whole = values.min() == -128 and values.max() <= 127 and (values == np.floor(values)).all()
    return bool(whole) and _row_sum(values + 128) is not None


def _class_probabilities(flat: Array, format: AnswerFormat) -> NDArray[np.float32]:
    if format.form == "ids":
        return _one_hot(flat[:, 0], format.width)
    values = flat.astype(np.float64)
    if format.form == "logits":
        values = np.exp(values - values.max(axis=1, keepdims=True))
    elif format.form == "scaled":
        values = _unrounded((values - _least(format.dtype)) / format.scale)
    values = np.maximum(values, 0.0)
    total = values.sum(axis=1, keepdims=True)
    shares = np.divide(values, total, out=np.full_like(values, 1 / format.width), where=total != 0)
    return np.asarray(shares, dtype=np.float32)


def _unrounded(shares: Floats) -> Floats:
    """Shares that sum to 1 and round back to the given ones.

    What rounding took is spread evenly over all, what it gave is taken from those above 0: at most
    half a step each, as no value was rounded by more.
    """
    short = 1 - shares.sum(axis=1, keepdims=True)
    open_to = (short > 0) | (shares > 0)
    return np.asarray(shares + open_to * short / np.maximum(open_to.sum(axis=1, keepdims=True), 1))


def _one_hot(ids: Array, width: int) -> NDArray[np.float32]:
    known = np.isfinite(ids) & (ids >= 0)
    chosen = np.where(known, ids, 0).astype(np.int64)
    if chosen.max(initial=0) >= width:
        raise AnalysisError(f"class {chosen.max()} among {width} classes")
    found = np.full((len(ids), width), np.nan, dtype=np.float32)
    found[known] = 0.0
    found[known, chosen[known]] = 1.0
    return found


def _tokens_format(
    values: Array, outputs: Sequence[TensorSpec], classes: int | None, end: int | None
) -> AnswerFormat:
    vocabulary = values.shape[2] if values.ndim == 3 else _vocabulary(values, outputs)
    dtype = _dtype(values, outputs)
    if vocabulary is not None:
        steps = _size(values) // vocabulary
        form: Form = "probabilities" if within_unit(values) else "logits"
        ids = values.reshape(len(values), steps, vocabulary)
        padded = bool(np.isnan(ids[:, 1:]).all(axis=2).any())
        if padded and end is None:
            vocabulary, end = vocabulary + 1, vocabulary
        return AnswerFormat("tokens", vocabulary, form, steps=steps, end=end, dtype=dtype)
    if not _are_ids(values):
        raise AnalysisError(
            "these sequences are neither token ids nor scores over a known vocabulary",
            hint="give the record's outputs: the last axis is the vocabulary",
        )
    width = max(int(np.nanmax(values)) + 1, classes or 0, 0 if end is None else end + 1)
    if end is None and (values < 0).any():
        width, end = width + 1, width
    return AnswerFormat("tokens", width, "ids", steps=values.shape[1], end=end, dtype=dtype)


def _vocabulary(values: Array, outputs: Sequence[TensorSpec]) -> int | None:
    """The last axis of the one output of scores that fills the block."""
    answers = [spec for spec in outputs if not STATE_NAME.search(spec.name)]
    if len(answers) != 1 or answers[0].shape is None or len(answers[0].shape) < 3:
        return None
    last = answers[0].shape[-1]
    return last if isinstance(last, int) and last > 1 and _size(values) % last == 0 else None


def _token_ids(values: Array, format: AnswerFormat) -> Indices:
    if format.form == "ids" or values.dtype.kind in "iu":
        ids = np.nan_to_num(values.reshape(len(values), -1), nan=PADDING).astype(np.int64)
    else:
        cells = _cells(values, format)
        missing = np.isnan(cells).any(axis=2)
        ids = np.where(missing, PADDING, np.nan_to_num(cells, nan=-np.inf).argmax(axis=2))
    if ids.shape[1] > format.steps:
        raise AnalysisError(f"a sequence of {ids.shape[1]} tokens, where {format.steps} are most")
    if ids.max(initial=0) >= format.width:
        raise AnalysisError(f"token {ids.max()} in a vocabulary of {format.width}")
    return _padded(ids, format)


def _cells(values: Array, format: AnswerFormat) -> Array:
    """Scores (n, steps, the model's own vocabulary): without the `end` added for padding."""
    own = values.shape[2] if values.ndim == 3 else _size(values) // format.steps
    if own not in (format.width, format.width - 1) or _size(values) % own:
        raise AnalysisError(
            f"answers of {_size(values)} outputs are no {format.steps} steps of scores over "
            f"{format.width} tokens"
        )
    return values.reshape(len(values), -1, own)


def _padded(ids: Indices, format: AnswerFormat) -> Indices:
    """(n, steps): nothing but `end` from the first `end` or padding on."""
    short = format.steps - ids.shape[1]
    if format.end is None:
        if short or (ids < 0).any():
            raise AnalysisError("shorter sequences need a token that ends them: give `end`")
        return ids.astype(np.int64)
    wide = np.pad(ids, ((0, 0), (0, short)), constant_values=PADDING)
    over = np.maximum.accumulate((wide < 0) | (wide == format.end), axis=1)
    return np.where(over, format.end, wide).astype(np.int64)


def _tokens_as_given(ids: Array, format: AnswerFormat, scores: Array | None) -> Array:
    if format.form == "ids":
        return np.asarray(ids.astype(_integer(format.dtype)))
    sure = np.eye(format.width)[ids] if scores is None else np.asarray(scores, np.float64)
    if format.form == "logits":
        sure = np.log(np.clip(sure, LEAST_PROBABILITY, 1.0))
    return _cast(sure.reshape(len(ids), -1), format.dtype)


def _check_some_answer(values: Array) -> None:
    if not len(values):
        raise AnalysisError("there are no answers")
    if values.dtype.kind not in "fiub":
        raise AnalysisError(f"answers of type {values.dtype} are no numbers")
    if values.dtype.kind == "f" and np.isnan(values.reshape(len(values), -1)).any(axis=1).all():
        raise AnalysisError("every answer is NaN")


def _dtype(values: Array, outputs: Sequence[TensorSpec]) -> str:
    """The dtype of the output that fills the block, as its spec says; else the block's own."""
    for spec in outputs:
        if spec.shape and not STATE_NAME.search(spec.name) and spec.dtype != "str":
            known = [side for side in spec.shape[1:] if isinstance(side, int)]
            if len(known) < len(spec.shape) - 1 or int(np.prod(known)) == _size(values):
                return spec.dtype
    return str(values.dtype)


def _size(values: Array) -> int:
    return int(np.prod(values.shape[1:]))


def _are_ids(values: Array) -> bool:
    known = values[np.isfinite(values)]
    return values.dtype.kind in "iu" or bool((known == np.floor(known)).all())


def within_unit(values: Array) -> bool:
    """Whether all numbers but NaN can be probabilities."""
    return bool(np.nanmin(values) >= 0 and np.nanmax(values) <= 1)


def _least(dtype: str) -> int:
    """The value that stands for probability 0: -128 of int8, else 0."""
    return -128 if dtype == "int8" else 0


def _integer(dtype: str) -> str:
    return dtype if np.dtype(dtype).kind in "iu" else "int64"


def _cast(values: Array, dtype: str) -> Array:
    """The values in `dtype`, rounded and kept within its range where it is an integer type."""
    if np.dtype(dtype).kind not in "iu":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)
