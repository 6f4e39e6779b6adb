"""How well predicted answers stand for a model's own: one figure in [0, 1] by kind of answer.

The truth is what the target model itself answers. Metrics: algorithms.md E.1, as in the MLink
paper, section 6.1: accuracy, mAP, IoU, MAE, WER. A performance means nothing beside what the best
constant answer reaches, so `constant_answer` and `skill` belong to every score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.bounds import bootstrap, bound
from sommelier.analysis.links.formats import AnswerFormat
from sommelier.analysis.quality.measure import same_shape
from sommelier.analysis.quality.multilabel import RankedLabels
from sommelier.analysis.quality.overlap import paired_overlap
from sommelier.analysis.quality.sequences import decode_ids, edits
from sommelier.errors import AnalysisError

Array = NDArray[Any]
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Metric = Literal["accuracy", "mAP", "IoU", "MAE", "WER"]

HELD = 0.5  # the probability from which a label counts as given
SPREAD = (0.025, 0.975)  # algorithms.md E.1: an error is measured against this range of answers
RESAMPLES = 500  # of a figure that is no mean; its interval is an estimate whatever the number
CANDIDATES = 64  # constant boxes and sequences tried, the most frequent first
ROWS = 512  # samples on which they are tried


@dataclass(frozen=True, slots=True)
class Score:
    """How good predicted answers are, on `samples` samples.

    performance in [0, 1] with its interval low..high, which a theorem gives at `confidence` where
    `proved`, and which is an estimate elsewhere. terms : float64 (n,) with mean `performance`, or
    None where it is no mean over samples. per_sample : float64 (n,) in [0, 1], always: how good
    each prediction is (for labels: the share decided alike; else 1 - error, not below 0).
    value, value_low, value_high : the metric in its own `unit`; MAE and WER are better when lower.
    NaN where the metric is not defined: mAP of a target that never gives a label.
    """

    metric: Metric
    performance: float
    low: float
    high: float
    proved: bool
    method: str
    samples: int
    confidence: float
    terms: Floats | None
    per_sample: Floats
    value: float
    value_low: float
    value_high: float
    unit: str
    higher_is_better: bool


@dataclass(frozen=True, slots=True)
class _Measured:
    """A metric before anything is said of its uncertainty.

    value_of : the metric, in its own unit, of the samples at these positions. scale : what an
    error is divided by; None where the value is the performance. limits : how it is bounded.
    """

    metric: Metric
    value_of: Callable[[Indices], float]
    per_sample: Floats
    limits: Literal["proportion", "mean", "bootstrap"]
    scale: float | None = None

    @property
    def all(self) -> float:
        return self.value_of(np.arange(len(self.per_sample)))

    def performance(self, value: float) -> float:
        """In [0, 1], from the metric in its own unit."""
        if self.scale is None or np.isnan(value):
            return value
        if self.scale == 0:
            return float(value == 0)
        return max(0.0, 1.0 - value / self.scale)


def score(
    format: AnswerFormat,
    predicted: Array,
    truth: Array,
    *,
    confidence: float = 0.95,
    candidates: int = 1,
    scale: float | None = None,
) -> Score:
    """The Score of natural `predicted` values against the target's own natural `truth`.

    candidates : the interval holds for that many scores at once (Bonferroni). scale : what an error
    of numbers is divided by, `answer_range` of the target's TRAINING answers; None: of `truth`.
    A sample that either side has no answer to (NaN) counts as wrong.
    Raises AnalysisError for no samples and for shapes that differ.
    """
    found = _measured(format, predicted, truth, scale)
    value = found.all
    low, high, proved, method = _limits(found, confidence, candidates)
    good, one, other = (found.performance(each) for each in (value, low, high))
    is_mean = abs(float(found.per_sample.mean()) - good) < 1e-9 and found.metric != "mAP"
    return Score(
        metric=found.metric,
        performance=good,
        low=min(one, other),
        high=max(one, other),
        proved=proved,
        method=method,
        samples=len(found.per_sample),
        confidence=confidence,
        terms=found.per_sample if is_mean else None,
        per_sample=found.per_sample,
        value=value,
        value_low=low,
        value_high=high,
        unit="own" if found.metric == "MAE" else "fraction",
        higher_is_better=found.scale is None,
    )


def performance(
    format: AnswerFormat, predicted: Array, truth: Array, *, scale: float | None = None
) -> float:
    """`score(...).performance` without an interval: 100 times faster, for choosing among many."""
    found = _measured(format, predicted, truth, scale)
    return found.performance(found.all)


def per_sample(
    format: AnswerFormat, predicted: Array, truth: Array, *, scale: float | None = None
) -> Floats:
    """`score(...).per_sample` alone: how good each prediction is, float64 (n,) in [0, 1]."""
    return _measured(format, predicted, truth, scale).per_sample


def skill(performance: float, constant: float) -> float:
    """(p - p0) / (1 - p0): 1 for perfect, 0 for no better than the best constant, negative below.

    NaN where either is, and where the constant is perfect (p0 = 1) and leaves nothing to gain.
    """
    if not constant < 1:
        return float("nan")
    return (performance - constant) / (1 - constant)


def answer_range(values: Array) -> float:
    """q97.5 - q2.5 of each number, the mean over them; 0 where the answers never change.

    values : natural numbers (n, width); samples with NaN are left out.
    """
    low, high = np.quantile(_answered(values).astype(np.float64), SPREAD, axis=0)
    return float((high - low).mean())


def constant_answer(format: AnswerFormat, truth: Array) -> Array:
    """The constant that scores best on `truth`, natural (width,) or (steps,).

    Give it the target's training answers. Classes: shares of the top classes, the most frequent
    the largest; labels: mean probabilities; numbers: medians. Box and tokens: the best of medians
    or most frequent tokens and up to CANDIDATES answers seen (no closed form).
    """
    values = np.asarray(truth)
    if format.kind == "tokens":
        return _constant_tokens(format, values)
    values = _answered(values)
    if format.kind == "classes":
        counts = np.bincount(values.argmax(axis=1), minlength=format.width)
        return np.asarray(counts / counts.sum(), dtype=np.float32)
    if format.kind == "labels":
        return np.asarray(values.mean(axis=0, dtype=np.float64), dtype=np.float32)
    middle = np.asarray(np.median(values, axis=0), dtype=np.float32)
    return middle if format.kind == "numbers" else _constant_box(values, middle)


def _measured(
    format: AnswerFormat, predicted: Array, truth: Array, scale: float | None
) -> _Measured:
    given, wanted = np.asarray(predicted), np.asarray(truth)
    same_shape(given, wanted)
    if not len(wanted):
        raise AnalysisError("no samples to judge a link on")
    if format.kind == "tokens":
        return _of_tokens(format, given, wanted)
    known = np.isfinite(given).all(axis=1) & np.isfinite(wanted).all(axis=1)
    if format.kind == "numbers":
        return _of_numbers(given, wanted, known, answer_range(wanted) if scale is None else scale)
    if format.kind == "labels":
        return _of_labels(given, wanted, known)
    if format.kind == "box":
        terms = paired_overlap(given, wanted)
        return _Measured("IoU", _mean_of(terms), terms, "mean")
    right = known & (given.argmax(axis=1) == wanted.argmax(axis=1))
    terms = right.astype(np.float64)
    return _Measured("accuracy", _mean_of(terms), terms, "proportion")


def _of_labels(given: Array, wanted: Array, known: NDArray[np.bool_]) -> _Measured:
    held = wanted >= HELD
    ranked = RankedLabels(np.where(known[:, None], given, -1.0), held)
    alike = np.where(known, ((given >= HELD) == held).mean(axis=1), 0.0)
    return _Measured("mAP", ranked.of_samples, alike, "bootstrap")


def _of_numbers(given: Array, wanted: Array, known: NDArray[np.bool_], scale: float) -> _Measured:
    errors = np.abs(given.astype(np.float64) - wanted).mean(axis=1)
    # no answer counts as one that is off by the range; of one that never changes, as wrong
    errors = np.where(known, errors, scale or np.inf)
    shares = errors / scale if scale else (errors > 0).astype(np.float64)
    return _Measured("MAE", _mean_of(errors), np.maximum(1 - shares, 0.0), "bootstrap", scale)


def _of_tokens(format: AnswerFormat, given: Array, wanted: Array) -> _Measured:
    # the same pairs of sequences come again and again where links are compared
    pairs, pair = np.unique(np.concatenate([given, wanted], axis=1), axis=0, return_inverse=True)
    sides = (decode_ids(side, end=format.end) for side in np.split(pairs, [given.shape[1]], axis=1))
    counts = [(edits(a, b), len(b)) for a, b in zip(*sides, strict=True)]
    wrong, length = np.array(counts, dtype=np.float64)[pair.ravel()].T

    def rate(chosen: Indices) -> float:
        return float(wrong[chosen].sum() / max(1.0, length[chosen].sum()))

    good = np.maximum(1 - wrong / np.maximum(length, 1), 0.0)
    # sequences of one length take at most that many edits, so the rate is a mean of [0, 1]
    return _Measured("WER", rate, good, "mean" if format.end is None else "bootstrap", 1.0)


def _mean_of(terms: Floats) -> Callable[[Indices], float]:
    return lambda chosen: float(terms[chosen].mean())


def _limits(found: _Measured, confidence: float, candidates: int) -> tuple[float, float, bool, str]:
    """(low, high) of the metric in its own unit, proved, method."""
    terms = found.per_sample
    if found.limits == "proportion":
        right = int(terms.sum())
        ends = bound("proportion", right, len(terms), confidence=confidence, candidates=candidates)
    elif found.limits == "mean":
        ends = bound("mean", terms, confidence=confidence, candidates=candidates)
    else:
        return _resampled(found, 1 - (1 - confidence) / candidates)
    if found.scale is None:
        return ends.low, ends.high, ends.proved, ends.method
    return 1 - ends.high, 1 - ends.low, ends.proved, ends.method


def _resampled(found: _Measured, confidence: float) -> tuple[float, float, bool, str]:
    """Ends by bootstrap, an estimate.

    Where no resample differs, as for a perfect link, resampling says nothing; then the share of
    inputs that are unlike all n seen bounds how far the figure moves (Clopper-Pearson).
    """
    n, value = len(found.per_sample), found.all
    if np.isnan(value):
        return value, value, False, "undefined"
    if n > 1:
        ends = bootstrap(found.value_of, n, confidence=confidence, resamples=RESAMPLES)
        if np.isfinite([ends.low, ends.high]).all():
            return ends.low, ends.high, ends.proved, ends.method
    unseen = 1 - bound("proportion", n, n, confidence=confidence).low
    most = 1.0 if found.scale is None else found.scale
    return value * (1 - unseen), value + unseen * max(0.0, most - value), False, "unseen"


def _constant_box(values: Array, middle: Array) -> Array:
    rows = values[:: -(-len(values) // ROWS)]
    tried = [middle, *values[:: -(-len(values) // CANDIDATES)]]
    means = [paired_overlap(np.broadcast_to(box, rows.shape), rows).mean() for box in tried]
    return np.asarray(tried[int(np.argmax(means))], dtype=np.float32)


def _constant_tokens(format: AnswerFormat, values: Array) -> Array:
    seen, counts = np.unique(values, axis=0, return_counts=True)
    usual = [int(np.bincount(column).argmax()) for column in values.T]
    tried = [*seen[np.argsort(-counts, kind="stable")[:CANDIDATES]], np.array(usual)]
    rows = decode_ids(values[:: -(-len(values) // ROWS)], end=format.end)
    costs = [
        sum(edits(one, row) for row in rows) for one in decode_ids(np.array(tried), end=format.end)
    ]
    return np.asarray(tried[int(np.argmin(costs))], dtype=np.int64)


def _answered(values: Array) -> Array:
    found = np.asarray(values)[np.isfinite(values).all(axis=1)]
    if not len(found):
        raise AnalysisError("the target answered none of the samples")
    return found
