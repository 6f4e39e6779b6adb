"""A permuted label list is found; models that merely disagree are not accused of one."""

from __future__ import annotations

import numpy as np
import pytest

from sommelier.analysis.quality import label_order_mismatch
from sommelier.analysis.quality.label_order import PROBES
from sommelier.records import NO_ANSWER


def answers(rng, classes, agreement, n=PROBES):
    """Two models' classes that agree on about this share."""
    one = rng.integers(0, classes, n)
    return one, np.where(rng.random(n) < agreement, one, rng.integers(0, classes, n))


def shift(classes):
    """A renumbering that moves every class."""
    return np.roll(np.arange(classes), 1)


@pytest.mark.parametrize("agreement", [0.8, 0.95])
def test_a_renumbering_is_found_with_64_probes(agreement):
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(50):
        one, other = answers(rng, 10, agreement)
        suspicion = label_order_mismatch(one, shift(10)[other], 10)
        found += suspicion is not None and (suspicion.permutation == shift(10)).mean() >= 0.8
    assert found >= 45


def test_more_probes_recover_the_renumbering_exactly():
    one, other = answers(np.random.default_rng(2), 10, 0.8, n=1000)
    permutation = np.random.default_rng(3).permutation(10)
    suspicion = label_order_mismatch(one, permutation[other], 10)
    assert (suspicion.permutation == permutation).all()
    assert suspicion.permuted == pytest.approx(0.82, abs=0.05)
    assert suspicion.low < suspicion.permuted
    assert "label order mismatch suspected" in str(suspicion)
    assert f"0->{permutation[0]}" in str(suspicion)


@pytest.mark.parametrize("classes", [2, 10, 100, 1000])
def test_unrelated_models_are_not_accused(classes):
    rng = np.random.default_rng(4)
    accused = sum(
        label_order_mismatch(*answers(rng, classes, 0.0), classes) is not None for _ in range(100)
    )
    assert accused <= 1


def test_fitting_and_testing_on_the_same_probes_would_accuse_unrelated_models():
    from sommelier.analysis.quality.label_order import _permutation

    one, other = answers(np.random.default_rng(5), 1000, 0.0)
    fitted = _permutation(one, other, 1000)
    assert np.mean(fitted[one] == other) > 0.9  # the check as algorithms.md A.1 prints it


def test_two_swapped_classes_are_found_though_most_answers_agree():
    rng = np.random.default_rng(7)
    one, other = answers(rng, 10, 0.97, n=2000)
    swap = np.array([1, 0, *range(2, 10)])
    found = label_order_mismatch(one, swap[other], 10)
    assert found.agreement > 0.7
    assert (found.permutation == swap).all()


def test_models_that_always_say_the_same_are_not_accused():
    assert label_order_mismatch(np.full(64, 3), np.full(64, 5), 10) is None


def test_models_that_agree_are_not_accused_and_missing_answers_do_not_count():
    one, other = answers(np.random.default_rng(6), 10, 0.9)
    assert label_order_mismatch(one, other, 10) is None
    silent = np.full(64, NO_ANSWER, np.uint32)
    assert label_order_mismatch(silent, one, 10) is None
