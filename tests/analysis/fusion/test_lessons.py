"""Splits are disjoint and reproducible; answers are judged by labels, or by the teacher."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sommelier.analysis.fusion.lessons import Judged, Lessons, divide
from sommelier.analysis.links.formats import AnswerFormat
from sommelier.errors import AnalysisError
from tests.analysis.fusion.toys import logits, numbers

N = 200
RNG = np.random.default_rng(0)


def _lessons(format: AnswerFormat, answers: np.ndarray, truth: np.ndarray | None) -> Lessons:
    return Lessons((np.zeros((N, 1)),), (answers,), (format,), (truth,), divide(N, 0))


@pytest.mark.parametrize("n", [50, 101, 1000])
def test_three_splits_are_disjoint_and_leave_nobody_out(n: int) -> None:
    parts = divide(n, 3)
    whole = np.concatenate([parts.fine_tune, parts.select, parts.certify])
    assert sorted(whole) == list(range(n))
    assert (len(parts.select), len(parts.certify)) == (round(0.2 * n), round(0.4 * n))
    assert np.array_equal(divide(n, 3).certify, parts.certify)
    assert not np.array_equal(divide(n, 4).certify, parts.certify)


def test_too_few_samples_are_refused_with_how_many_are_needed() -> None:
    with pytest.raises(AnalysisError, match="at least"):
        divide(12, 0)


def test_with_labels_the_drop_is_the_difference_of_the_accuracies() -> None:
    truth = RNG.integers(0, 3, N)
    teacher, fused = RNG.normal(size=(2, N, 3))
    rows = np.arange(50, 150)
    [judged] = _lessons(logits(3), teacher, truth).judge([fused[rows]], rows)
    accuracies = [(side[rows].argmax(1) == truth[rows]).mean() for side in (teacher, fused)]
    assert (judged.reference, judged.score) == pytest.approx(tuple(accuracies))
    assert judged.drop == pytest.approx(accuracies[0] - accuracies[1])
    assert not judged.graded


def test_without_labels_the_drop_is_the_disagreement_with_the_teacher() -> None:
    teacher, fused = RNG.normal(size=(2, N, 3))
    [judged] = _lessons(logits(3), teacher, None).judge([fused], np.arange(N))
    assert judged.teacher is None
    assert judged.drop == pytest.approx((teacher.argmax(1) != fused.argmax(1)).mean())


@pytest.mark.parametrize("right", [503, 588, 597])
def test_a_drop_of_exactly_the_threshold_is_within_it(right: int) -> None:
    """3 of 600 are half of 1 %, however accurate the model is: differences of rounded accuracies
    lie beyond it for most of them."""
    fused, teacher = ((np.arange(600) < count).astype(float) for count in (right - 3, right))
    assert Judged(fused, teacher, graded=False).drop == 3 / 600 == 0.01 / 2


def test_the_accuracy_lost_is_at_most_the_disagreement() -> None:
    """What the page on fusion says of drops without labels."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        truth, (teacher, fused) = rng.integers(0, 3, N), rng.normal(size=(2, N, 3))
        drops = [
            _lessons(logits(3), teacher, known).judge([fused], np.arange(N))[0].drop
            for known in (truth, None)
        ]
        assert abs(drops[0]) <= drops[1]


def test_samples_without_a_label_are_left_out() -> None:
    truth = np.where(np.arange(N) < 120, RNG.integers(0, 3, N), -1)
    teacher, fused = RNG.normal(size=(2, N, 3))
    lessons = _lessons(logits(3), teacher, truth)
    [judged] = lessons.judge([fused], np.arange(N))
    assert len(judged.fused) == 120
    [same] = lessons.judge([fused[:120]], np.arange(120))
    assert judged.drop == same.drop
    with pytest.raises(AnalysisError, match="none of 20 samples has a label"):
        lessons.judge([fused[150:170]], np.arange(150, 170))


def test_an_answer_that_is_no_number_is_wrong() -> None:
    teacher = RNG.normal(size=(N, 3))
    fused = teacher.copy()
    fused[:10] = np.nan
    [judged] = _lessons(logits(3), teacher, None).judge([fused], np.arange(N))
    assert judged.score == 1 - 10 / N


def test_numbers_are_right_in_part_by_the_range_of_the_teachers() -> None:
    teacher = RNG.uniform(size=(N, 2))
    lessons = _lessons(numbers(2), teacher, None)
    seen = teacher[lessons.splits.fine_tune]
    low, high = np.quantile(seen, [0.025, 0.975], axis=0)
    [judged] = lessons.judge([teacher + 0.1], np.arange(N))
    assert judged.score == pytest.approx(1 - 0.1 / (high - low).mean(), abs=1e-4)
    assert judged.graded


def test_labels_and_tokens_are_right_in_part() -> None:
    labels = AnswerFormat("labels", 4, "probabilities")
    answers = np.full((N, 4), 0.9)
    [judged] = _lessons(labels, answers, None).judge([np.tile([0.9, 0.9, 0.9, 0.1], (N, 1))],
                                                     np.arange(N))  # fmt: skip
    assert judged.score == 0.75
    tokens = AnswerFormat("tokens", 3, "logits", steps=2)
    scores = np.zeros((N, 2, 3))
    scores[:, :, 1] = 5
    truth = np.tile([1, 2], (N, 1))
    [judged] = _lessons(tokens, scores, truth).judge([scores], np.arange(N))
    assert (judged.score, judged.drop) == (0.5, 0.0)


def test_lessons_that_do_not_belong_together_are_refused() -> None:
    lessons = _lessons(logits(3), np.zeros((N, 3)), None)
    with pytest.raises(AnalysisError, match="formats of 1 and truths of 2"):
        replace(lessons, truths=(None, None))
    with pytest.raises(AnalysisError, match="of 199, 200 samples do not belong"):
        replace(lessons, answers=(np.zeros((N - 1, 3)),))
    with pytest.raises(AnalysisError, match="2 outputs for 1 tasks"):
        lessons.judge([np.zeros((N, 3))] * 2, np.arange(N))
