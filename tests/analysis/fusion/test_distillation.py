"""Fine-tuning is reproducible, converges where it can, needs no labels, and can be stopped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sommelier.analysis.fusion.distillation import (
    HIGHEST_RATE,
    MEMORY,
    Epoch,
    FineTuning,
    _Mean,
    answer,
    fine_tune,
    suitable_batch,
    suitable_rate,
    teach,
)
from sommelier.analysis.fusion.lessons import Lessons, divide
from sommelier.errors import AnalysisError, CancelledError
from tests.analysis.fusion.toys import FEATURES, TwoLinear, TwoTasks, lessons, logits, numbers

FORMATS = (logits(3), logits(4))
LONG = FineTuning(epochs=40, batch=64, learning_rate=0.02, predictor=None)


@pytest.fixture(scope="module")
def taught() -> Lessons:
    return lessons(TwoTasks(1), FORMATS)


def _weights(module: nn.Module) -> list[Tensor]:
    return [value.clone() for value in module.state_dict().values()]


def test_equal_seeds_give_equal_weights_and_other_seeds_others(taught: Lessons) -> None:
    def trained(seed: int) -> tuple[list[Tensor], object]:
        module = TwoTasks(2)
        curve = fine_tune(module, taught, FineTuning(epochs=3, seed=seed, predictor=None))
        return _weights(module), [epoch.scores for epoch in curve.epochs]

    first, scores = trained(7)
    again, same = trained(7)
    other, _ = trained(8)
    assert scores == same
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("formats", [FORMATS, (numbers(3), numbers(4))])
def test_a_convex_problem_is_solved_and_its_curve_rises_in_the_limit(formats: tuple) -> None:
    taught = lessons(TwoLinear(1), formats)
    curve = fine_tune(TwoLinear(2), taught, LONG)
    losses = [epoch.loss for epoch in curve.epochs[1:]]
    smooth = np.convolve(losses, np.ones(8) / 8, mode="valid")
    assert (np.diff(smooth) < 0)[smooth[1:] > 1e-6].all()  # below that, rounding of float32
    assert losses[-1] < 1e-3 * losses[0]
    assert curve.best.drop <= 0.01
    assert curve.best.drop < 0.1 * curve.epochs[0].drop


@pytest.mark.parametrize("loss", ["kl", "l1", "huber"])
def test_every_loss_recovers_the_teacher_from_its_answers_alone(loss: str) -> None:
    taught = lessons(TwoLinear(1), FORMATS)
    curve = fine_tune(TwoLinear(2), taught, replace(LONG, loss=loss))
    assert curve.best.drop <= 0.02
    assert taught.truths == (None, None)


def test_labels_change_what_is_measured_and_not_what_is_learned() -> None:
    plain = lessons(TwoTasks(1), FORMATS)
    rng = np.random.default_rng(3)
    labels = tuple(rng.integers(0, width, 1000) for width in (3, 4))
    plain_curve, curve = (
        fine_tune(TwoTasks(2), material, FineTuning(epochs=4, predictor=None))
        for material in (plain, replace(plain, truths=labels))
    )
    losses = [[epoch.loss for epoch in one.epochs[1:]] for one in (plain_curve, curve)]
    assert losses[0] == losses[1]
    assert plain_curve.best.drop > 0.05
    assert max(curve.best.scores) < 0.45  # the labels are random
    assert abs(curve.best.drop) < 0.1  # the teacher is as wrong


def test_the_state_of_least_drop_is_kept(taught: Lessons) -> None:
    module = TwoTasks(2)
    curve = fine_tune(module, taught, FineTuning(epochs=6, learning_rate=0.2, predictor=None))
    drops = [epoch.drop for epoch in curve.epochs]
    assert curve.kept == drops.index(min(drops))
    rows = taught.splits.select
    judged = taught.judge(answer(module, taught.inputs_of(rows)), rows)
    assert max(j.drop for j in judged) == pytest.approx(curve.best.drop)


def test_training_ends_when_the_tolerance_is_reached(taught: Lessons) -> None:
    options = FineTuning(epochs=100, learning_rate=0.02, tolerance=0.1)
    curve = fine_tune(TwoTasks(2), taught, options)
    assert curve.stopped == "reached"
    assert curve.epochs[-1].drop <= 0.1 < curve.epochs[-2].drop
    assert curve.trained < 100


def test_a_module_that_already_answers_alike_is_not_trained(taught: Lessons) -> None:
    module = TwoTasks(1)
    before = _weights(module)
    curve = fine_tune(module, taught, FineTuning(tolerance=0.0))
    assert (curve.stopped, curve.trained) == ("reached", 0)
    assert all(torch.equal(a, b) for a, b in zip(before, _weights(module), strict=True))


@pytest.mark.parametrize("predictor", ["power law", "convergence rate"])
def test_training_ends_when_the_tolerance_is_out_of_reach(predictor: str) -> None:
    """The teacher is no linear map, so the student's curve flattens far below it."""
    taught = lessons(TwoTasks(1, hidden=64), FORMATS)
    for p in (module := TwoLinear(2)).maps[0].parameters():
        p.requires_grad_(False)  # the first task never gets better than chance
    options = FineTuning(epochs=50, tolerance=0.01, predictor=predictor, learning_rate=0.01)
    curve = fine_tune(module, taught, options)
    assert curve.stopped == "out of reach"
    assert curve.trained <= 6


def test_measuring_seldom_measures_the_last_epoch_too(taught: Lessons) -> None:
    options = FineTuning(epochs=7, every=3, predictor=None)
    curve = fine_tune(TwoTasks(2), taught, options)
    assert [epoch.epoch for epoch in curve.epochs] == [0, 3, 6, 7]


def test_a_cancelled_training_leaves_the_best_state_so_far(taught: Lessons) -> None:
    calls = iter(range(10**6))
    batches_per_epoch = -(-len(taught.splits.fine_tune) // 64)
    module = TwoTasks(2)
    with pytest.raises(CancelledError):
        fine_tune(module, taught, LONG, cancelled=lambda: next(calls) >= 3 * batches_per_epoch)
    other = TwoTasks(2)
    curve = fine_tune(other, taught, replace(LONG, epochs=3))
    assert curve.kept == 3
    assert all(torch.equal(a, b) for a, b in zip(_weights(module), _weights(other), strict=True))


def test_a_loss_that_is_no_number_ends_training_with_the_best_state(taught: Lessons) -> None:
    module = TwoTasks(2)
    curve = fine_tune(module, taught, FineTuning(learning_rate=1e30, loss="l1", predictor=None))
    assert curve.stopped == "diverged"
    assert all(bool(torch.isfinite(value).all()) for value in _weights(module))


def test_normalisation_statistics_and_dropout_are_frozen() -> None:
    def net(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)
        )

    inputs = np.random.default_rng(0).normal(3.0, 2.0, size=(200, FEATURES)).astype(np.float32)
    taught = Lessons((inputs,), teach([net(1)], [inputs]), (logits(3),), (None,), divide(200, 0))
    module = net(2).train()
    mean = module[1].running_mean.clone()
    fine_tune(module, taught, FineTuning(epochs=2, predictor=None))
    assert torch.equal(mean, module[1].running_mean)
    assert module.training


def test_a_task_of_weight_zero_is_not_learned() -> None:
    # every answer to the second task is as good as any, so that the last state is kept
    whole = lessons(TwoLinear(1), FORMATS)
    only_first = replace(whole, truths=(None, np.zeros(1000, dtype=np.int64)))
    module = TwoLinear(2)
    start, head = (one.weight.clone() for one in module.maps)
    fine_tune(module, only_first, FineTuning(epochs=2, weights=(1.0, 0.0), predictor=None))
    assert torch.equal(head, module.maps[1].weight)
    assert not torch.equal(start, module.maps[0].weight)


class _Pair(nn.Module):
    """Reads two inputs."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.left, self.right = nn.Linear(FEATURES, 3), nn.Embedding(5, 3)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        both: Tensor = self.left(x) + self.right(ids)
        return both


def test_modules_with_several_inputs_are_trained() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(600, FEATURES)).astype(np.float32), rng.integers(0, 5, 600)
    taught = Lessons(inputs, teach([_Pair(1)], inputs), (logits(3),), (None,), divide(600, 0))
    assert fine_tune(_Pair(2), taught, LONG).best.drop <= 0.02


def test_what_cannot_be_trained_is_refused_with_the_reason(taught: Lessons) -> None:
    with pytest.raises(AnalysisError, match="1 weights for 2 tasks"):
        fine_tune(TwoTasks(2), taught, FineTuning(weights=(1.0,)))
    with pytest.raises(AnalysisError, match=r"3 outputs for 2 tasks"):
        fine_tune(TwoTasks(2, outputs=(3, 4, 5)), taught)
    ids = replace(taught, formats=(replace(logits(3), form="ids"), logits(4)))
    with pytest.raises(AnalysisError, match="no gradient"):
        fine_tune(TwoTasks(2), ids)
    with pytest.raises(AnalysisError, match="no parameters"):
        fine_tune(TwoTasks(2).requires_grad_(False), taught)
    swapped = replace(taught, answers=taught.answers[::-1], formats=FORMATS[::-1])
    with pytest.raises(AnalysisError, match="cannot be taught answers of shape"):
        fine_tune(_Cut(), swapped)


class _Cut(nn.Module):
    """Four and three outputs when it is measured, four and four when it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.net = TwoTasks(2, outputs=(4, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        first, second = self.net(x)
        return (first, second) if torch.is_grad_enabled() else (first, second[:, :3])


def test_what_is_kept_is_a_running_mean_and_training_goes_on_from_the_weights() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    mean = _Mean([parameter])
    expected = torch.zeros(3)
    for step in range(1, 700):
        with torch.no_grad():
            parameter += torch.tensor([1.0, -2.0, 0.0])
        mean.update()
        expected += (parameter.detach() - expected) * max(9 / (step + 9), 1 - MEMORY)
    before = parameter.detach().clone()
    with mean.applied():
        assert torch.allclose(parameter, expected, rtol=1e-4)
    assert torch.equal(parameter, before)
    # what rises by 1 a step is behind by the steps that the mean reaches back
    assert float(before[0] - expected[0]) == pytest.approx(MEMORY / (1 - MEMORY), rel=0.01)


def test_batch_and_rate_suit_the_samples_and_the_width() -> None:
    assert [suitable_batch(n) for n in (100, 1600, 50_000)] == [16, 25, 64]
    wide, narrow = (list(nn.Linear(width, width).parameters()) for width in (800, 8))
    assert suitable_rate(wide) == pytest.approx(0.2 / 800)
    assert suitable_rate(narrow) == HIGHEST_RATE
    filters = list(nn.Conv2d(100, 400, 3).parameters())
    assert suitable_rate(filters) == pytest.approx(0.2 / 100)


@pytest.mark.parametrize("drops", [(float("nan"), 0.0), (0.0, float("nan"))])
def test_a_task_whose_drop_is_no_number_is_hidden_by_no_other(drops: tuple[float, float]) -> None:
    unknown, bad = Epoch(1, 0.1, (1.0, 1.0), drops), Epoch(2, 0.1, (0.1, 0.1), (0.9, 0.9))
    assert np.isnan(unknown.drop)
    assert bad.rank < unknown.rank
