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
from sommelier.analysis.quality.multilabel import mean_precision
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
class _Trust:
    confidence: float
    candidates: int


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
    given, wanted = np.asarray(predicted), np.asarray(truth)
    same_shape(given, wanted)
    if not len(wanted):
        raise AnalysisError("no samples to judge a link on")
    trust = _Trust(confidence, candidates)
    if format.kind == "classes":
        return _of_classes(given, wanted, trust)
    if format.kind == "labels":
        return _of_labels(given, wanted, trust)
    if format.kind == "box":
        return _of_boxes(given, wanted, trust)
    if format.kind == "numbers":
        return _of_numbers(given, wanted, trust, answer_range(wanted) if scale is None else scale)
    return _of_tokens(given, wanted, trust, format.end)


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
    known = values[np.isfinite(values).all(axis=1)]
    if not len(known):
        return float("nan")
    low, high = np.quantile(known.astype(np.float64), SPREAD, axis=0)
    return float((high - low).mean())


def constant_answer(format: AnswerFormat, truth: Array) -> Array:
    """The constant that scores best on `truth`, natural (width,) or (steps,).

    Give it the target's training answers. Classes: shares of the top classes, the most frequent
    the largest; labels: mean probabilities; numbers: medians. Box and tokens: the best of medians
    or most frequent tokens and up to CANDIDATES answers seen (no closed form).
    """
    values = np.asarray(truth)
    if format.kind == "tokens":
        return _constant_tokens(values, format.end)
    values = values[np.isfinite(values).all(axis=1)]
    if not len(values):
        raise AnalysisError("the target answered none of the samples")
    if format.kind == "classes":
        counts = np.bincount(values.argmax(axis=1), minlength=format.width)
        return np.asarray(counts / counts.sum(), dtype=np.float32)
    if format.kind == "labels":
        return np.asarray(values.mean(axis=0, dtype=np.float64), dtype=np.float32)
    middle = np.asarray(np.median(values, axis=0), dtype=np.float32)
    return middle if format.kind == "numbers" else _constant_box(values, middle)


def _of_classes(given: Array, wanted: Array, trust: _Trust) -> Score:
    right = _known(given, wanted) & (_top(given) == _top(wanted))
    found = bound("proportion", int(right.sum()), len(right), **_asked(trust))
    terms = right.astype(np.float64)
    return _plain("accuracy", terms, (found.low, found.high), (True, found.method), trust)


def _of_boxes(given: Array, wanted: Array, trust: _Trust) -> Score:
    terms = paired_overlap(given, wanted)
    found = bound("mean", terms, **_asked(trust))
    return _plain("IoU", terms, (found.low, found.high), (found.proved, found.method), trust)


def _of_labels(given: Array, wanted: Array, trust: _Trust) -> Score:
    known = _known(given, wanted)
    scores, held = np.where(known[:, None], given, -1.0), wanted >= HELD
    alike = np.where(known, ((given >= HELD) == held).mean(axis=1), 0.0)

    def precision(chosen: Indices) -> float:
        return mean_precision(scores[chosen], held[chosen])

    value = precision(np.arange(len(held)))
    ends, how = _resampled(precision, len(held), trust)
    return Score(
        "mAP", value, *ends, *how, len(held), trust.confidence, None, alike,
        value, *ends, "", True,
    )  # fmt: skip


def _of_numbers(given: Array, wanted: Array, trust: _Trust, scale: float) -> Score:
    known = _known(given, wanted)
    errors = np.abs(given.astype(np.float64) - wanted).mean(axis=1)
    errors = np.where(known, errors, scale)  # no answer is as far off as an answer gets

    def error(chosen: Indices) -> float:
        return float(errors[chosen].mean())

    return _of_errors("MAE", error, _share(errors, scale), scale, trust)


def _of_tokens(given: Array, wanted: Array, trust: _Trust, end: int | None) -> Score:
    sides = decode_ids(given, end=end), decode_ids(wanted, end=end)
    wrong = np.array([edits(a, b) for a, b in zip(*sides, strict=True)], dtype=np.float64)
    length = np.array([len(sequence) for sequence in sides[1]], dtype=np.float64)

    def rate(chosen: Indices) -> float:
        return float(wrong[chosen].sum() / max(1.0, length[chosen].sum()))

    return _of_errors("WER", rate, wrong / np.maximum(length, 1), 1.0, trust)


def _of_errors(
    metric: Metric, error: Callable[[Indices], float], shares: Floats, scale: float, trust: _Trust
) -> Score:
    """Performance max(0, 1 - error / scale). shares : each sample's error / scale."""
    n = len(shares)
    value = error(np.arange(n))
    (low, high), how = _resampled(error, n, trust, most=scale)
    good, worst, best = (_performance(each, scale) for each in (value, high, low))
    terms = 1 - shares
    mean = bool((shares <= 1).all()) and abs(float(terms.mean()) - good) < 1e-9
    return Score(
        metric, good, worst, best, *how, n, trust.confidence, terms if mean else None,
        np.maximum(terms, 0.0), value, max(low, 0.0), high, "", False,
    )  # fmt: skip


def _performance(error: float, scale: float) -> float:
    if scale == 0:
        return float(error == 0)
    return max(0.0, 1.0 - error / scale) if error == error else float("nan")


def _share(errors: Floats, scale: float) -> Floats:
    if scale == 0:
        return (errors > 0).astype(np.float64)
    return errors / scale


def _plain(
    metric: Metric,
    terms: Floats,
    ends: tuple[float, float],
    how: tuple[bool, str],
    trust: _Trust,
) -> Score:
    """A mean of terms that is its own performance."""
    value = float(terms.mean())
    return Score(
        metric, value, *ends, *how, len(terms), trust.confidence, terms, terms,
        value, *ends, "", True,
    )  # fmt: skip


def _resampled(
    statistic: Callable[[Indices], float], n: int, trust: _Trust, *, most: float = 1.0
) -> tuple[tuple[float, float], tuple[bool, str]]:
    """The ends of a statistic in 0..most, and (proved, method): an estimate.

    Where no resample differs, as for a perfect link, resampling says nothing; then the share of
    inputs that differ from all n seen bounds how far the statistic moves (Clopper-Pearson).
    """
    level = 1 - (1 - trust.confidence) / trust.candidates
    found = bootstrap(statistic, n, confidence=level, resamples=RESAMPLES) if n > 1 else None
    if found is not None and np.isfinite([found.low, found.high]).all():
        return (found.low, found.high), (found.proved, found.method)
    unseen = 1 - bound("proportion", n, n, confidence=level).low
    value = statistic(np.arange(n))
    return (value * (1 - unseen), value + unseen * max(0.0, most - value)), (False, "unseen")


def _constant_box(values: Array, middle: Array) -> Array:
    rows = values[:: -(-len(values) // ROWS)]
    tried = [middle, *values[:: -(-len(values) // CANDIDATES)]]
    means = [paired_overlap(np.broadcast_to(box, rows.shape), rows).mean() for box in tried]
    return np.asarray(tried[int(np.argmax(means))], dtype=np.float32)


def _constant_tokens(values: Array, end: int | None) -> Array:
    seen, counts = np.unique(values, axis=0, return_counts=True)
    usual = [np.bincount(column).argmax() for column in values.T]
    tried = [*seen[np.argsort(-counts, kind="stable")[:CANDIDATES]], np.array(usual)]
    rows = decode_ids(values[:: -(-len(values) // ROWS)], end=end)
    costs = [sum(edits(one, row) for row in rows) for one in decode_ids(np.array(tried), end=end)]
    return np.asarray(tried[int(np.argmin(costs))], dtype=np.int64)


def _known(given: Array, wanted: Array) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(given).all(axis=1) & np.isfinite(wanted).all(axis=1))


def _top(values: Array) -> Indices:
    return np.asarray(np.nan_to_num(values, nan=0.0).argmax(axis=1))


def _asked(trust: _Trust) -> dict[str, Any]:
    return {"confidence": trust.confidence, "candidates": trust.candidates}
