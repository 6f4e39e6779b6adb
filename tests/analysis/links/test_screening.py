"""Before training a link, the screen says whether there is anything to learn, and how much."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.special import expit, softmax
from scipy.stats import binom

from sommelier.analysis.links.formats import AnswerFormat, LinkAnswers
from sommelier.analysis.links.screening import COLUMNS, PERMUTATIONS, screen

ACCENT = np.array([3, 0, 2, 1, 0, 2])  # of each speaker, as in the Free Spoken Digits


def classes(scores):
    format = AnswerFormat("classes", scores.shape[1], "logits")
    return LinkAnswers(format, softmax(scores, axis=1).astype(np.float32))


def chosen(ids, width, rng, sureness=6.0):
    """A classifier that picks these classes, with noise in its other scores."""
    return classes(rng.normal(size=(len(ids), width)) + sureness * 2 * np.eye(width)[ids])


def numbers(values, kind="numbers"):
    return LinkAnswers(AnswerFormat(kind, values.shape[1], "values"), values.astype(np.float32))


def labels(odds):
    format = AnswerFormat("labels", odds.shape[1], "probabilities")
    return LinkAnswers(format, odds.astype(np.float32))


def tokens(ids, width, end=None):
    return LinkAnswers(AnswerFormat("tokens", width, "ids", steps=ids.shape[1], end=end), ids)


def all_rows(answers):
    return np.arange(len(answers))


def test_the_speaker_tells_the_accent_and_the_accent_only_part_of_the_speaker():
    rng = np.random.default_rng(0)
    speaker = rng.integers(0, 6, 600)
    said, accent = chosen(speaker, 6, rng), chosen(ACCENT[speaker], 4, rng)
    there = screen(said, accent, all_rows(said))
    back = screen(accent, said, all_rows(said))
    assert there.linkable
    assert there.predicted > 0.97
    assert there.dependence > 0.9
    assert there.p_value == 1 / (PERMUTATIONS + 1)
    assert back.linkable
    # two accents have one speaker each, two have two, so 4 of 6 speakers are right at best
    assert back.predicted == pytest.approx(4 / 6, abs=0.08)
    assert 0.3 < back.dependence < there.dependence


def test_false_alarms_on_independent_answers_are_as_rare_as_the_level_says():
    small, alarms, trials, n = 0, 0, 200, 60
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        source = classes(3 * rng.normal(size=(n, 8)))
        target = chosen(rng.choice(5, n, p=[0.4, 0.3, 0.1, 0.1, 0.1]), 5, rng)
        found = screen(source, target, all_rows(source), seed=seed)
        small += found.p_value <= 0.05
        alarms += found.linkable
    # of an exact test; both ends are passed with probability .001
    assert binom.ppf(0.0005, trials, 0.05) <= small <= binom.ppf(0.9995, trials, 0.05)
    assert alarms <= small


def test_independent_numbers_boxes_labels_and_tokens_are_rarely_called_linkable():
    makers = [
        lambda rng: numbers(rng.standard_t(2, size=(120, 3))),
        lambda rng: numbers(rng.random((120, 4)).cumsum(axis=1), "box"),
        lambda rng: labels(expit(2 * rng.normal(size=(120, 6)))),
        lambda rng: tokens(rng.integers(0, 9, (120, 5)), 9),
    ]
    alarms = 0
    for seed in range(25):
        for i, source in enumerate(makers):
            rng = np.random.default_rng([seed, i])
            target = makers[(i + seed) % 4](np.random.default_rng([seed, i, 1]))
            alarms += screen(source(rng), target, np.arange(120), seed=seed).linkable
    assert alarms <= binom.ppf(0.9995, 100, 0.05)


def test_a_dependence_that_is_not_linear_is_found():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(500, 1))
    source, target = numbers(x), numbers(np.cos(3 * x) + 0.1 * rng.normal(size=x.shape))
    found = screen(source, target, all_rows(source))
    assert abs(np.corrcoef(x[:, 0], target.values[:, 0])[0, 1]) < 0.1
    assert found.linkable
    assert found.dependence > 0.9


def test_dependence_on_numbers_is_the_squared_correlation():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(1000, 1))
    y = 0.6 * x + 0.8 * rng.normal(size=x.shape)
    found = screen(numbers(x), numbers(y), np.arange(1000))
    assert found.dependence == pytest.approx(0.36, abs=0.05)


def test_dependence_between_classes_is_goodman_and_kruskals_tau():
    rng = np.random.default_rng(3)
    table = rng.dirichlet(np.ones(12)).reshape(4, 3)
    drawn = rng.choice(12, 1000, p=table.ravel())
    source, target = chosen(drawn // 3, 4, rng), chosen(drawn % 3, 3, rng)
    column = table.sum(axis=0)
    kept = (table**2 / table.sum(axis=1, keepdims=True)).sum()
    tau = (kept - (column**2).sum()) / (1 - (column**2).sum())
    found = screen(source, target, np.arange(1000))
    assert found.dependence == pytest.approx(tau, abs=0.04)
    best = table.max(axis=1).sum()  # the accuracy of Bayes' rule on the table
    assert found.predicted == pytest.approx(best, abs=0.04)


def test_a_sequence_tells_a_class_and_a_class_the_sequence_it_stands_for():
    rng = np.random.default_rng(4)
    spelled = rng.integers(1, 8, (6, 4))
    ids = rng.integers(0, 6, 400)
    source, target = chosen(ids, 6, rng), tokens(spelled[ids], 8, end=0)
    assert screen(source, target, np.arange(400)).predicted > 0.95
    assert screen(target, source, np.arange(400)).predicted > 0.95


def test_a_box_follows_from_its_corner_and_size():
    rng = np.random.default_rng(5)
    corner = rng.random((400, 2)) * 0.5
    size = 0.2 + 0.3 * rng.random((400, 2))
    box = numbers(np.concatenate([corner, corner + size], axis=1), "box")
    source = numbers(np.concatenate([corner, size], axis=1))
    found = screen(source, box, np.arange(400))
    assert found.linkable
    assert found.predicted > 0.95


@pytest.mark.parametrize(
    "make",
    [
        lambda rng: chosen(np.full(80, 2), 5, rng),  # scores change, the class does not
        lambda rng: labels(np.tile([0.9, 0.2], (80, 1)) + 0.05 * rng.random((80, 2))),
        lambda rng: numbers(np.full((80, 2), 3.5)),
        lambda rng: tokens(np.tile([4, 1, 2], (80, 1)), 5),
    ],
    ids=["classes", "labels", "numbers", "tokens"],
)
def test_a_target_that_answers_always_the_same_is_said_so(make):
    rng = np.random.default_rng(6)
    found = screen(numbers(rng.normal(size=(80, 3))), make(rng), np.arange(80))
    assert not found.linkable
    assert found.reason == "the target answers always the same"
    assert found.predicted == 1.0
    assert np.isnan([found.skill, found.p_value, found.dependence]).all()


def test_a_source_that_answers_always_the_same_is_said_so():
    rng = np.random.default_rng(7)
    target = chosen(rng.integers(0, 3, 80), 3, rng)
    found = screen(numbers(np.full((80, 2), 0.1)), target, np.arange(80))
    assert not found.linkable
    assert found.reason == "the source answers always the same"
    assert np.isnan(found.predicted)


def test_a_dependence_that_changes_no_decision_is_not_worth_a_link():
    rng = np.random.default_rng(8)
    rare = rng.random(1000) < np.repeat([0.05, 0.25], 500)  # always the minority
    source = chosen(np.repeat([0, 1], 500), 2, rng)
    found = screen(source, chosen(rare.astype(int), 2, rng), np.arange(1000))
    assert found.p_value <= 0.05
    assert found.skill <= 0.05
    # of boxes in two places, far apart, the source changes how often, but not which is usual
    left = np.where(rng.random(1000) < np.repeat([0.2, 0.4], 500), 0.9, 0.0)
    box = numbers(np.stack([left, left, left + 0.1, left + 0.1], axis=1), "box")
    nothing = screen(source, box, np.arange(1000))
    assert nothing.p_value <= 0.05
    assert not nothing.linkable
    assert "one answer for all scores 0.7" in nothing.reason


def test_samples_without_an_answer_are_left_out():
    rng = np.random.default_rng(9)
    x = rng.normal(size=(200, 2))
    y = x.copy()
    x[::10], y[5::10] = np.nan, np.nan
    found = screen(numbers(x), numbers(y), np.arange(200))
    assert "160 samples" in found.reason
    nothing = screen(numbers(np.full((9, 1), np.nan)), numbers(x[1:10]), np.arange(9))
    assert nothing.reason == "both models answered 0 of 9 samples"


def test_only_the_rows_given_are_looked_at():
    rng = np.random.default_rng(10)
    x, y = rng.normal(size=(2, 300, 2))
    y[150:] = x[150:]
    assert not screen(numbers(x), numbers(y), np.arange(150)).linkable
    assert screen(numbers(x), numbers(y), np.arange(150, 300)).linkable


def test_a_seed_repeats_the_screen():
    rng = np.random.default_rng(11)
    x = rng.normal(size=(200, 3))
    source, target = numbers(x), numbers(x + 2 * rng.normal(size=x.shape))
    one, same = (screen(source, target, np.arange(200), seed=4) for _ in range(2))
    assert one == same
    assert screen(source, target, np.arange(200), seed=5) != one


def test_a_thousand_samples_of_a_hundred_outputs_take_milliseconds():
    rng = np.random.default_rng(12)
    x = rng.normal(size=(1000, 100))
    source = classes(x)
    target = classes(x @ rng.normal(size=(100, 100)))
    started = time.process_time()
    found = screen(source, target, np.arange(1000))
    assert time.process_time() - started < 1.0  # 0.04 s where nothing else runs
    assert found.linkable
    wide = classes(rng.normal(size=(1000, 10 * COLUMNS)))
    assert not screen(wide, target, np.arange(1000)).linkable


def test_equal_classes_can_be_copied_though_no_sample_shows_most_of_them():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 500, 200)  # a class in three is seen, most of these once
    said = chosen(np.where(rng.random(200) < 0.7, true, rng.integers(0, 500, 200)), 500, rng)
    wanted = chosen(true, 500, rng)
    found = screen(said, wanted, all_rows(said))
    assert found.linkable
    assert found.predicted == pytest.approx(0.7, abs=0.1)
    elsewhere = LinkAnswers(said.format, rng.permuted(said.values, axis=1))  # no common class
    assert not screen(elsewhere, wanted, all_rows(said)).linkable
