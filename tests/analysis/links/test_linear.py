"""Linear links: ridge regression, of probabilities, of their logarithms, or of a copy's rest."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from sommelier.analysis.links.linear import PENALTIES, Axes, Ridge, fit_linear
from sommelier.analysis.links.scoring import performance
from sommelier.errors import AnalysisError

from .vector_answers import PAIRS, classes, labels, numbers, pair, rows_of, with_values


def held_out(link, source, target):
    rows = rows_of(target).held_out
    return performance(target.format, link.predict(source.values[rows]), target.values[rows])


@pytest.mark.parametrize("shape", [(60, 8), (8, 60)])
@pytest.mark.parametrize("penalty", [1e-4, 0.1, 100.0])
def test_a_layer_is_the_solution_of_the_normal_equations(shape, penalty):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=shape) + 3, rng.normal(size=(shape[0], 4)) - 2
    centred = x - x.mean(axis=0)
    weight = np.linalg.solve(
        centred.T @ centred + shape[0] * penalty * np.eye(shape[1]), centred.T @ y
    )
    ridge = Ridge.of(Axes.of(x), y)
    layer = ridge.layer(penalty)
    np.testing.assert_allclose(layer.weight, weight, atol=1e-4)
    np.testing.assert_allclose(layer.bias, y.mean(axis=0) - x.mean(axis=0) @ weight, atol=1e-3)
    (outputs,) = ridge.outputs(x, [penalty])
    np.testing.assert_allclose(outputs, x @ layer.weight + layer.bias, atol=1e-3)


def test_an_endless_penalty_leaves_the_mean_or_the_scaled_copy():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3))
    y = 2.5 * x + 1
    mean = Ridge.of(Axes.of(x), y).layer(float("inf"))
    copy = Ridge.of(Axes.of(x), y, x).layer(float("inf"))
    assert not mean.weight.any()
    np.testing.assert_allclose(mean.bias, y.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(copy.weight, 2.5 * np.eye(3), atol=1e-5)
    np.testing.assert_allclose(copy.bias, 1, atol=1e-5)


def test_a_linear_map_of_logits_is_found_exactly():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(400, 6))
    source = classes(scores)
    mixing = rng.normal(size=(6, 9)) / 3  # no probability falls below the least that is told apart
    target = classes(source_logits(source) @ mixing + rng.normal(size=9))
    link = fit_linear(source, target, rows_of(target))
    assert link.method == "linear"
    assert link.readout.activation == "softmax"
    np.testing.assert_allclose(link.predict(source.values), target.values, atol=1e-3)


def test_an_affine_map_of_numbers_is_found_exactly_whatever_its_units():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(300, 3)) * [1, 1e3, 1e-3]
    target = numbers(values @ rng.normal(size=(3, 2)) + [7, -1e3])
    link = fit_linear(numbers(values), target, rows_of(target))
    error = np.abs(link.predict(values) - target.values) / target.values.std(axis=0)
    assert error.max() < 1e-3


def test_classes_that_no_training_sample_shows_are_copied():
    rng = np.random.default_rng(0)
    true = rng.permutation(300)  # every class once
    scores = 8 * np.eye(300)[true] + rng.normal(size=(300, 300))
    source, target = classes(scores), classes(2 * scores + rng.normal(size=(300, 300)))
    alike = performance(target.format, source.values, target.values)
    link = fit_linear(source, target, rows_of(target))
    assert alike > 0.9
    assert held_out(link, source, target) >= alike - 0.05


def test_a_source_that_says_nothing_leaves_nearly_the_mean_answer():
    rng = np.random.default_rng(0)
    source, target = classes(rng.normal(size=(600, 4))), classes(2 * rng.normal(size=(600, 3)))
    answers = fit_linear(source, target, rows_of(target)).predict(source.values)
    assert answers.std(axis=0).max() < 0.1 * target.values.std(axis=0).min()


@pytest.mark.parametrize(("given", "wanted"), PAIRS)
def test_answers_are_natural_for_every_kind(given, wanted):
    source, target = pair(given, wanted)
    link = fit_linear(source, target, rows_of(target))
    answers = link.predict(source.values)
    assert answers.shape == target.values.shape
    assert answers.dtype == np.float32
    assert np.isfinite(answers).all()
    if wanted in ("classes", "labels"):
        assert 0 <= answers.min() <= answers.max() <= 1
    if wanted == "classes":
        np.testing.assert_allclose(answers.sum(axis=1), 1, rtol=1e-5)


def test_held_out_answers_change_nothing():
    source, target = pair("classes", "classes")
    rows = rows_of(target)
    scrambled = target.values.copy()
    scrambled[rows.held_out] = scrambled[rows.held_out][::-1]
    one = fit_linear(source, target, rows)
    other = fit_linear(source, with_values(target, scrambled), rows)
    np.testing.assert_array_equal(one.layers[0].weight, other.layers[0].weight)


def test_samples_the_target_did_not_answer_are_left_out():
    source, target = pair("labels", "numbers")
    rows = rows_of(target)
    holes = target.values.copy()
    holes[rows.train[::3]] = np.nan
    link = fit_linear(source, with_values(target, holes), rows)
    assert np.isfinite(link.predict(source.values)).all()
    assert held_out(link, source, target) > 0.8 * held_out(
        fit_linear(source, target, rows), source, target
    )
    with pytest.raises(AnalysisError, match="answered 0 of"):
        fit_linear(source, with_values(target, np.full_like(holes, np.nan)), rows)


def test_a_wide_source_costs_no_more_than_its_samples():
    rng = np.random.default_rng(0)
    source = labels(rng.normal(size=(120, 3000)))
    target = labels(rng.normal(size=(120, 2)))
    assert fit_linear(source, target, rows_of(target)).seconds < 2  # 3 000 wide axes: half a minute


def test_penalties_span_from_none_to_all():
    assert PENALTIES[0] < 1e-4
    assert PENALTIES[-1] == float("inf")


def source_logits(source):
    logs = np.log(source.values.astype(np.float64))
    np.testing.assert_allclose(softmax(logs, axis=1), source.values, rtol=1e-5)
    return logs
