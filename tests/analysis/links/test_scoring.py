"""Scores are the metrics of the field, their intervals hold, and constants are what they claim."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score

from sommelier.analysis.links.formats import AnswerFormat
from sommelier.analysis.links.scoring import (
    answer_range,
    constant_answer,
    performance,
    score,
    skill,
)
from sommelier.analysis.quality.multilabel import RankedLabels
from sommelier.errors import AnalysisError

CLASSES = AnswerFormat("classes", 4, "probabilities")
LABELS = AnswerFormat("labels", 5, "probabilities")
NUMBERS = AnswerFormat("numbers", 3, "values")
BOX = AnswerFormat("box", 4, "values")
TOKENS = AnswerFormat("tokens", 6, "ids", steps=5, end=0)
FIXED = AnswerFormat("tokens", 6, "ids", steps=5)


def one_hot(ids, width=4):
    return np.eye(width, dtype=np.float32)[ids]


def boxes(rng, n):
    corner = rng.random((n, 2)) * 0.5
    return np.concatenate([corner, corner + 0.1 + 0.4 * rng.random((n, 2))], axis=1)


def overlap(a, b):
    """IoU by area, one pair at a time."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return width * height / (sum(area) - width * height)


def edit_distance(a, b):
    """Levenshtein by its recursion."""
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    table[:, 0], table[0] = np.arange(len(a) + 1), np.arange(len(b) + 1)
    for i, j in itertools.product(range(len(a)), range(len(b))):
        table[i + 1, j + 1] = min(
            table[i, j + 1] + 1, table[i + 1, j] + 1, table[i, j] + (a[i] != b[j])
        )
    return table[-1, -1]


def until_end(row):
    return list(itertools.takewhile(lambda token: token != 0, row))


def test_accuracy_counts_equal_top_classes_with_the_exact_binomial_interval():
    rng = np.random.default_rng(1)
    truth, given = rng.dirichlet(np.ones(4), 80), rng.dirichlet(np.ones(4), 80)
    found = score(CLASSES, given, truth, confidence=0.9)
    right = sum(int(np.argmax(a)) == int(np.argmax(b)) for a, b in zip(given, truth, strict=True))
    exact = stats.binomtest(right, 80).proportion_ci(0.9, method="exact")
    assert found.performance == found.value == right / 80
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    assert found.proved
    assert found.terms.mean() == found.performance


def test_map_is_the_mean_average_precision_of_the_labels_that_occur():
    rng = np.random.default_rng(2)
    truth = (rng.random((60, 5)) < 0.3).astype(float)
    truth[:, 4] = 0
    given = np.round(rng.random((60, 5)), 1)  # with ties
    found = score(LABELS, given, truth)
    expected = average_precision_score(truth[:, :4], given[:, :4], average="macro")
    assert found.performance == pytest.approx(expected)
    assert found.low <= found.performance <= found.high
    assert not found.proved
    assert found.terms is None
    assert found.per_sample.mean() == pytest.approx(((given >= 0.5) == (truth >= 0.5)).mean())


def test_ranking_once_gives_the_map_of_every_resample():
    rng = np.random.default_rng(3)
    truth, given = rng.random((40, 6)) < 0.1, np.round(rng.random((40, 6)), 1)
    ranked = RankedLabels(given, truth)
    for _ in range(20):
        chosen = rng.integers(0, 40, 40)
        occurs = truth[chosen].any(axis=0)
        expected = average_precision_score(
            truth[chosen][:, occurs], given[chosen][:, occurs], average="macro"
        )
        assert ranked.of_samples(chosen) == pytest.approx(expected)


def test_a_target_that_never_gives_a_label_has_no_map():
    found = score(LABELS, np.full((20, 5), 0.3), np.zeros((20, 5)))
    assert np.isnan([found.performance, found.low, found.high, found.value]).all()


def test_iou_is_the_mean_overlap_of_areas():
    rng = np.random.default_rng(4)
    truth, given = boxes(rng, 50), boxes(rng, 50)
    found = score(BOX, given, truth)
    expected = [overlap(a, b) for a, b in zip(given, truth, strict=True)]
    np.testing.assert_allclose(found.terms, expected)
    assert found.performance == pytest.approx(np.mean(expected))
    assert found.proved
    assert found.low < found.performance < found.high


def test_an_error_of_numbers_is_measured_against_the_range_of_training_answers():
    rng = np.random.default_rng(5)
    train, truth = rng.normal(size=(400, 3)) * [1, 2, 3], rng.normal(size=(90, 3)) * [1, 2, 3]
    given = truth + 0.3 * rng.normal(size=truth.shape)
    scale = answer_range(train)
    spans = [np.subtract(*np.percentile(train[:, i], [97.5, 2.5])) for i in range(3)]
    assert scale == pytest.approx(np.mean(spans))
    found = score(NUMBERS, given, truth, scale=scale)
    assert found.value == pytest.approx(np.abs(given - truth).mean())
    assert found.performance == pytest.approx(1 - found.value / scale)
    assert found.value_low < found.value < found.value_high
    assert found.low == pytest.approx(1 - found.value_high / scale)
    assert not found.higher_is_better
    assert found.terms.mean() == pytest.approx(found.performance)


def test_errors_beyond_the_range_make_the_performance_no_mean_of_terms():
    truth = np.zeros((30, 3))
    given = truth + np.where(np.arange(30) < 3, 5.0, 0.1)[:, None]
    found = score(NUMBERS, given, truth, scale=1.0)
    assert found.performance == pytest.approx(1 - (3 * 5 + 27 * 0.1) / 30)
    assert found.terms is None
    np.testing.assert_allclose(found.per_sample, [0.0] * 3 + [0.9] * 27)


def test_far_off_numbers_have_performance_zero_not_below():
    found = score(NUMBERS, np.full((30, 3), 9.0), np.zeros((30, 3)), scale=1.0)
    assert (found.performance, found.low, found.value) == (0.0, 0.0, 9.0)


def test_wer_is_all_edits_over_all_tokens():
    rng = np.random.default_rng(6)
    truth, given = rng.integers(0, 6, (40, 5)), rng.integers(0, 6, (40, 5))
    truth[:, 0] = 1
    found = score(TOKENS, given, truth)
    pairs = [(until_end(a), until_end(b)) for a, b in zip(given, truth, strict=True)]
    expected = sum(edit_distance(a, b) for a, b in pairs) / sum(len(b) for _, b in pairs)
    assert found.value == pytest.approx(expected)
    assert found.performance == pytest.approx(max(0, 1 - expected))
    assert found.terms is None
    assert not found.proved


def test_wer_of_sequences_of_one_length_is_a_mean_with_a_proved_interval():
    rng = np.random.default_rng(7)
    truth = rng.integers(0, 6, (60, 5))
    given = np.where(rng.random((60, 5)) < 0.2, 0, truth)
    found = score(FIXED, given, truth)
    assert found.proved
    assert found.terms.mean() == pytest.approx(found.performance)
    assert found.value_low == pytest.approx(1 - found.high)


@pytest.mark.parametrize(
    ("format", "make"),
    [
        (CLASSES, lambda rng: one_hot(rng.integers(0, 4, 50))),
        (LABELS, lambda rng: (rng.random((50, 5)) < 0.5).astype(np.float32)),
        (NUMBERS, lambda rng: rng.normal(size=(50, 3))),
        (BOX, lambda rng: boxes(rng, 50)),
        (TOKENS, lambda rng: rng.integers(1, 6, (50, 5))),
        (FIXED, lambda rng: rng.integers(0, 6, (50, 5))),
    ],
    ids=["classes", "labels", "numbers", "box", "tokens", "fixed"],
)
def test_perfect_answers_score_one_and_leave_room_for_what_was_not_seen(format, make):
    truth = make(np.random.default_rng(8))
    found = score(format, truth, truth)
    assert found.performance == found.high == 1.0
    unseen = 1 - 0.025 ** (1 / 50)  # Clopper-Pearson for 0 of 50
    assert 0 < 1 - found.low <= 2 * unseen
    assert performance(format, truth, truth) == 1.0
    assert skill(found.performance, 0.4) == 1.0


@pytest.mark.parametrize(
    ("format", "draw", "expected"),
    [
        (
            CLASSES,
            lambda rng: (one_hot(rng.integers(0, 4, 60)), one_hot(rng.integers(0, 4, 60))),
            0.25,
        ),
        (
            NUMBERS,
            lambda rng: (np.zeros((60, 3)), rng.uniform(-1, 1, (60, 3))),
            1 - 0.5 / 1.9,  # E|u| = 1/2; the 95 % range of a uniform on [-1, 1] is 1.9
        ),
        (
            FIXED,
            lambda rng: (np.ones((60, 5), int), rng.integers(0, 2, (60, 5))),
            0.5,
        ),
    ],
    ids=["classes", "numbers", "tokens"],
)
def test_the_interval_holds_as_often_as_it_says(format, draw, expected):
    rng = np.random.default_rng(9)
    runs, missed = 200, 0
    for _ in range(runs):
        given, truth = draw(rng)
        found = score(format, given, truth, scale=1.9)
        missed += not found.low <= expected <= found.high
    # at 95 % 10 of 200 are missed on average; 20 or more have probability .002
    assert missed < 20


def test_more_candidates_make_the_interval_that_of_a_smaller_risk():
    rng = np.random.default_rng(10)
    truth, given = one_hot(rng.integers(0, 4, 90)), one_hot(rng.integers(0, 4, 90))
    many = score(CLASSES, given, truth, confidence=0.95, candidates=5)
    strict = score(CLASSES, given, truth, confidence=0.99)
    assert (many.low, many.high) == pytest.approx((strict.low, strict.high))


@pytest.mark.parametrize(("format", "width"), [(CLASSES, 4), (LABELS, 5), (NUMBERS, 3), (BOX, 4)])
def test_a_sample_without_an_answer_counts_as_wrong(format, width):
    rng = np.random.default_rng(11)
    truth = boxes(rng, 20) if format is BOX else rng.random((20, width))
    given = truth.copy()
    given[:5] = np.nan
    found = score(format, given, truth, scale=1.0)
    np.testing.assert_allclose(found.per_sample, [0.0] * 5 + [1.0] * 15)
    if format is not LABELS:
        assert found.performance == pytest.approx(0.75)


def test_no_answer_is_wrong_where_the_target_never_changes_too():
    truth = np.ones((10, 1))
    given = np.where(np.arange(10)[:, None] < 4, np.nan, truth)
    found = score(AnswerFormat("numbers", 1, "values"), given, truth, scale=0.0)
    assert found.performance == 0.0
    assert found.per_sample.mean() == 0.6


def test_the_quick_performance_is_that_of_the_score():
    rng = np.random.default_rng(12)
    truth, given = rng.normal(size=(30, 3)), rng.normal(size=(30, 3))
    assert performance(NUMBERS, given, truth) == score(NUMBERS, given, truth).performance


def test_no_constant_class_beats_the_constant_answer():
    rng = np.random.default_rng(13)
    truth = one_hot(rng.choice(4, 100, p=[0.1, 0.5, 0.15, 0.25]))
    found = constant_answer(CLASSES, truth)
    assert found.sum() == pytest.approx(1.0)
    best = max(performance(CLASSES, one_hot(np.full(100, c)), truth) for c in range(4))
    assert performance(CLASSES, np.tile(found, (100, 1)), truth) == best


def test_no_constant_number_beats_the_median():
    truth = np.random.default_rng(14).exponential(size=(101, 3))
    found = constant_answer(NUMBERS, truth)
    mine = performance(NUMBERS, np.tile(found, (101, 1)), truth)
    for other in (truth.mean(axis=0), found + 0.05, found - 0.05, np.zeros(3)):
        assert mine >= performance(NUMBERS, np.tile(other, (101, 1)), truth) - 1e-7


def test_no_box_seen_beats_the_constant_box():
    truth = boxes(np.random.default_rng(15), 60)
    found = np.tile(constant_answer(BOX, truth), (60, 1))
    best = max(performance(BOX, np.tile(each, (60, 1)), truth) for each in truth)
    assert performance(BOX, found, truth) >= best - 1e-6


def test_the_constant_box_is_none_where_most_pictures_have_none():
    truth = boxes(np.random.default_rng(16), 60)
    truth[:40] = 0
    np.testing.assert_array_equal(constant_answer(BOX, truth), np.zeros(4))
    found = performance(BOX, np.zeros((60, 4)), truth)
    assert found == pytest.approx(40 / 60)


def test_no_sequence_seen_beats_the_constant_sequence():
    rng = np.random.default_rng(17)
    truth = rng.choice(6, (50, 5), p=[0.2, 0.4, 0.1, 0.1, 0.1, 0.1])
    found = performance(TOKENS, np.tile(constant_answer(TOKENS, truth), (50, 1)), truth)
    best = max(performance(TOKENS, np.tile(each, (50, 1)), truth) for each in truth)
    assert found >= best


@pytest.mark.parametrize(
    ("p", "constant", "expected"),
    [(0.9, 0.5, 0.8), (0.5, 0.5, 0.0), (0.2, 0.5, -0.6), (1.0, 0.0, 1.0)],
)
def test_skill_is_the_share_of_what_the_constant_leaves_to_gain(p, constant, expected):
    assert skill(p, constant) == pytest.approx(expected)


@pytest.mark.parametrize(("p", "constant"), [(1.0, 1.0), (np.nan, 0.5), (0.5, np.nan)])
def test_skill_is_unknown_where_nothing_is_left_to_gain_or_known(p, constant):
    assert np.isnan(skill(p, constant))


def test_no_samples_and_unlike_shapes_are_refused():
    with pytest.raises(AnalysisError, match="no samples"):
        score(NUMBERS, np.zeros((0, 3)), np.zeros((0, 3)))
    with pytest.raises(AnalysisError, match="cannot be compared"):
        score(NUMBERS, np.zeros((4, 3)), np.zeros((4, 2)))
    with pytest.raises(AnalysisError, match="answered none"):
        constant_answer(NUMBERS, np.full((4, 3), np.nan))
