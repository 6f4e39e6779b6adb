"""Losses equal their formulas, written out in numpy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import expit, softmax

from sommelier.analysis.fusion.losses import TEMPERATURE, loss_of
from sommelier.analysis.links.formats import AnswerFormat
from sommelier.errors import AnalysisError
from tests.analysis.fusion.toys import logits, numbers

Array = NDArray[Any]

RNG = np.random.default_rng(0)
LABELS = AnswerFormat("labels", 5, "logits")


def _value(format: AnswerFormat, ours: Array, theirs: Array, name: Any = "auto") -> float:
    first, second = (torch.from_numpy(np.asarray(side)) for side in (ours, theirs))
    return float(loss_of(format, second, name)(first, second))


def _pair(*shape: int) -> tuple[Array, Array]:
    return RNG.normal(size=shape) * 2, RNG.normal(size=shape) * 2


def test_classes_are_compared_by_the_divergence_of_softened_answers() -> None:
    z, t = _pair(50, 4)
    p, q = softmax(t / 2, axis=1), softmax(z / 2, axis=1)
    expected = 4 * (p * np.log(p / q)).sum(axis=1).mean()
    assert TEMPERATURE == 2
    assert _value(logits(4), z, t) == pytest.approx(expected)


def test_probabilities_and_their_logits_have_one_loss() -> None:
    z, t = _pair(50, 4)
    given = replace(logits(4), form="probabilities")
    alike = _value(given, softmax(z, axis=1), softmax(t, axis=1))
    assert alike == pytest.approx(_value(logits(4), z, t), rel=1e-6)
    both = _pair(50, 5)
    sure = _value(replace(LABELS, form="probabilities"), *(expit(side) for side in both))
    assert sure == pytest.approx(_value(LABELS, *both), rel=1e-5)


def test_each_label_is_a_choice_of_two() -> None:
    z, t = _pair(50, 5)
    p, q = expit(t / 2), expit(z / 2)
    expected = 4 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()
    assert _value(LABELS, z, t) == pytest.approx(expected)


def test_each_token_of_a_sequence_is_a_choice() -> None:
    z, t = _pair(20, 6, 4)
    tokens = AnswerFormat("tokens", 4, "logits", steps=6)
    expected = _value(logits(4), z.reshape(120, 4), t.reshape(120, 4))
    assert _value(tokens, z, t) == pytest.approx(expected)
    assert _value(tokens, z.reshape(20, 24), t.reshape(20, 24)) == pytest.approx(expected)


def test_numbers_are_compared_in_deviations_of_the_teachers() -> None:
    z, t = _pair(50, 3)
    t[:, 2] *= 1000
    gap = np.abs(z - t) / t.std(axis=0)
    expected = np.where(gap < 1, gap**2 / 2, gap - 0.5).mean()
    assert _value(numbers(3), z, t) == pytest.approx(expected)
    shifted = 1000 * z, 1000 * t
    assert _value(numbers(3), *shifted) == pytest.approx(expected)


def test_a_number_that_never_changes_has_a_finite_loss() -> None:
    z, t = _pair(50, 1)
    assert np.isfinite(_value(numbers(1), z, np.ones_like(t)))


def test_l1_is_the_mean_absolute_difference_as_the_paper_has_it() -> None:
    z, t = _pair(50, 4)
    for format in (logits(4), numbers(4)):
        assert _value(format, z, t, "l1") == pytest.approx(np.abs(z - t).mean())


@pytest.mark.parametrize("format", [logits(4), replace(LABELS, width=4), numbers(4)])
@pytest.mark.parametrize("name", ["auto", "l1", "huber"])
def test_a_loss_is_zero_for_the_teachers_answers_and_positive_for_others(
    format: AnswerFormat, name: str
) -> None:
    z, t = _pair(50, 4)
    assert _value(format, t, t, name) == pytest.approx(0, abs=1e-12)
    assert _value(format, z, t, name) > 0


def test_the_gradient_is_that_of_the_formula() -> None:
    z, t = (torch.from_numpy(side) for side in _pair(8, 4))
    z.requires_grad_(True)
    for format in (logits(4), replace(LABELS, width=4), numbers(4)):
        loss = loss_of(format, t)
        assert torch.autograd.gradcheck(lambda ours, loss=loss: loss(ours, t), (z,))


def test_what_has_no_gradient_or_formula_is_refused() -> None:
    taught = torch.zeros(4, 3)
    with pytest.raises(AnalysisError, match="ids have no gradient"):
        loss_of(replace(logits(3), form="ids"), taught)
    with pytest.raises(AnalysisError, match="scaled have no gradient"):
        loss_of(replace(logits(3), form="scaled"), taught)
    with pytest.raises(AnalysisError, match="KL compares choices"):
        loss_of(numbers(3), taught, "kl")
    with pytest.raises(AnalysisError, match="no loss 'mse'"):
        loss_of(numbers(3), taught, "mse")  # type: ignore[arg-type]  # the message is the test
