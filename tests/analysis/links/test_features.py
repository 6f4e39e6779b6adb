"""What a link reads of a vector and what it is taught, both standardised by training rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit, softmax

from sommelier.analysis.links.features import FARTHEST, Features, Readout, log_probabilities
from sommelier.errors import AnalysisError

from .vector_answers import certain, classes, labels, numbers, with_values

rng = np.random.default_rng(0)
SCORES = 2 * rng.normal(size=(300, 5))
TRAIN = np.arange(200)


def test_classes_are_read_as_logarithms_and_labels_as_log_odds_up_to_shift_and_scale():
    for answers, opened in (
        (classes(SCORES), np.log(softmax(SCORES, axis=1))),
        (labels(SCORES), logit(expit(SCORES))),
    ):
        read = Features.of(answers, TRAIN)(answers.values)
        centred = opened - opened[TRAIN].mean(axis=0)
        scale = np.sqrt((centred[TRAIN] ** 2).mean())
        np.testing.assert_allclose(read, centred / scale, atol=1e-4)


def test_numbers_are_standardised_each_by_the_training_rows_alone():
    values = SCORES * [1, 10, 100, 1e-3, 1] + [0, 5, -7, 1e-2, 1e4]
    changed = values.copy()
    changed[200:] = 1e6  # not training rows
    features = Features.of(numbers(changed), TRAIN)
    read = features(values[TRAIN])
    np.testing.assert_allclose(read.mean(axis=0), 0, atol=1e-2)  # float32 beside 1e4
    np.testing.assert_allclose(read.std(axis=0), 1, atol=1e-2)


def test_certain_classes_are_finite_and_no_probability_is_further_off_than_half_the_least_seen():
    read = Features.of(certain(rng.integers(0, 4, 300), 4), TRAIN)
    assert np.abs(read(np.eye(4, dtype=np.float32))).max() < 10
    quantised = with_values(classes(SCORES), np.round(softmax(SCORES, axis=1) * 256) / 256)
    assert Features.of(quantised, TRAIN).floor == pytest.approx(1 / 512)


def test_missing_answers_read_as_the_average_and_wild_ones_stay_within_reach():
    features = Features.of(numbers(SCORES), TRAIN)
    read = features(np.array([[np.nan] * 5, [np.inf] * 5, [-1e30] * 5, [0] * 5]))
    np.testing.assert_array_equal(read[0], 0)
    np.testing.assert_array_equal(read[1], FARTHEST)
    np.testing.assert_array_equal(read[2], -FARTHEST)
    assert np.isfinite(read).all()


def test_a_number_that_never_changes_is_not_divided_by_its_rounding():
    values = np.column_stack([SCORES[:, 0], np.full(300, 0.1)])
    values[:, 1] += 1e-9 * rng.normal(size=300)
    features = Features.of(numbers(values), TRAIN)
    assert features.weight[1] == 0
    assert not features(values + np.array([0, 5]))[:, 1].any()


def test_rows_without_an_answer_do_not_count_and_none_at_all_is_an_error():
    holes = SCORES.copy()
    holes[::2] = np.nan
    np.testing.assert_allclose(
        Features.of(numbers(holes), TRAIN).mean, SCORES[1:200:2].mean(axis=0), rtol=1e-5
    )
    with pytest.raises(AnalysisError, match="none of the 200 training samples has an answer"):
        Features.of(numbers(np.full((300, 5), np.nan)), TRAIN)


def test_a_readout_undoes_what_is_taught():
    target = numbers(SCORES * [1, 10, 100, 1e-3, 1] + 3)
    readout = Readout.of(target, TRAIN)
    taught = readout.taught(target.values)
    np.testing.assert_allclose(taught[TRAIN].std(axis=0), 1, atol=1e-3)
    np.testing.assert_allclose(readout(taught), target.values, rtol=1e-4, atol=1e-4)


def test_every_activation_gives_answers_of_its_kind():
    outputs = (10 * rng.normal(size=(50, 5))).astype(np.float32)
    outputs[:, 0] = 1 - outputs[:, 1:].sum(axis=1)  # as regressed probabilities do, they sum to 1
    offset, scale = np.zeros(5, np.float32), np.ones(5, np.float32)
    for activation in ("softmax", "shares"):
        found = Readout(activation, offset, scale)(outputs)
        assert (found >= 0).all()
        np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
        np.testing.assert_array_equal(found.argmax(axis=1), outputs.argmax(axis=1))
    np.testing.assert_allclose(
        Readout("sigmoid", offset, scale)(outputs), expit(outputs), rtol=1e-4, atol=1e-6
    )
    unit = Readout("unit", offset, scale)(outputs)
    np.testing.assert_array_equal(unit, np.clip(outputs, 0, 1))


def test_logarithms_of_a_target_differ_from_its_logits_by_a_shift_of_each_sample():
    given = log_probabilities(classes(SCORES), TRAIN)
    np.testing.assert_allclose(given, SCORES - SCORES.mean(axis=1, keepdims=True), atol=1e-3)
