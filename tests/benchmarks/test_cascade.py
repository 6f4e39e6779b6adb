"""The curves, answers and verdicts of benchmarks.cascade."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from scipy import stats

from benchmarks.cascade import curve
from benchmarks.cascade_student import _mixed
from benchmarks.cascade_trials import Trial, allowed, known_trials, trials
from benchmarks.cascade_zoo import Ladder, answers, flops_of, flops_of_widths, perceptron
from tests.analysis.cascades.populations import ladder
from tests.factories import tiny_classifier


def test_a_curve_is_the_accuracy_of_sending_on_the_least_sure_inputs_one_by_one() -> None:
    members, truth = ladder(np.random.default_rng(0), 60)
    student, teacher = members
    found = curve(student, teacher, truth, "margin")
    order = np.argsort(student.scores["margin"], kind="stable")
    for sent in range(61):
        ids = student.ids.copy()
        ids[order[:sent]] = teacher.ids[order[:sent]]
        assert found.joint[sent] == pytest.approx((ids == truth).mean())
    wanted = (teacher.ids == truth).mean()
    first = next(i for i in range(61) if found.joint[i] >= wanted - 1e-12)
    assert found.reached == pytest.approx(0.1 + first / 60)
    assert found.nearly <= found.reached


def test_sending_on_at_random_is_a_straight_line_between_both_accuracies() -> None:
    members, truth = ladder(np.random.default_rng(0), 200)
    found = curve(members[0], members[1], truth, "random")
    ends = [(one.ids == truth).mean() for one in members]
    assert found.joint[[0, -1]].tolist() == pytest.approx(ends)
    assert np.ptp(np.diff(found.joint)) < 1e-12
    assert found.reached == pytest.approx(1.1)


def test_what_goes_into_a_softmax_is_read_beside_what_comes_out(tmp_path) -> None:
    model = onnx.load(tiny_classifier(tmp_path / "m.onnx", softmax=True))
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    logits, served = answers(model, iter([x[:5], x[5:]]))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.allclose(shares, served, atol=1e-6)
    assert not np.allclose(logits, served)
    assert flops_of(model) == 2 * 4 * 3


def test_the_flops_of_a_perceptron_are_twice_its_weights() -> None:
    weights = sum(p.numel() for p in perceptron((24, 7)).parameters() if p.ndim == 2)
    assert flops_of_widths((24, 7)) == 2 * weights


def test_three_of_four_inputs_are_popular() -> None:
    labels = np.random.default_rng(0).integers(0, 20, 10_000)
    rows = _mixed(labels, np.arange(10_000), 0)
    assert (labels[rows] < 5).mean() == pytest.approx(0.75, abs=0.01)
    assert len(set(rows.tolist())) == len(rows)


def test_promises_of_a_known_population_are_kept_in_most_draws() -> None:
    cells = list(known_trials(draws=60, seed=0))
    assert len(cells) == 3
    assert all(cell.broken <= allowed(cells, 60) for cell in cells)


def test_few_violations_are_allowed_and_many_are_not() -> None:
    cells = [Trial("m", "r", "pool", 0, 500, 0.5)] * 10
    most = allowed(cells, 500)
    assert stats.binom.sf(most, 500, 0.05) <= 0.01 / 10 < stats.binom.sf(most - 1, 500, 0.05)


def test_draws_hold_promises_against_the_pool_and_against_the_rest() -> None:
    members, truth = ladder(np.random.default_rng(0), 3_000, stages=3)
    scores = [dict.fromkeys(("margin", "free_energy"), m.scores["margin"]) for m in members]
    rungs = [type(m)(m.name, m.ids, s, m.flops) for m, s in zip(members, scores, strict=True)]
    found = list(trials(Ladder("trained", rungs, truth), draws=3, quick=True, seed=0))
    assert {cell.question for cell in found} == {"pool", "rest"}
    assert [cell.rule for cell in found if not cell.proved] == ["crossing of energies (paper)"]
    assert all(0 <= cell.broken <= 3 for cell in found)
