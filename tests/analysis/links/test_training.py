"""Networks from vectors to vectors: gradients, groups, seeds, early stopping."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax

from sommelier.analysis.links.networks import hidden_units
from sommelier.analysis.links.perceptrons import (
    EPSILON,
    SMOOTHING,
    Perceptrons,
    Shape,
    initial,
    loss,
)
from sommelier.analysis.links.scoring import performance
from sommelier.analysis.links.splits import Split
from sommelier.analysis.links.training import (
    GROUP_NUMBERS,
    EarlyStopping,
    TrainingOptions,
    _groups,
    batches,
    train_vectors,
)
from sommelier.errors import CancelledError

from .vector_answers import certain, classes, labels, numbers, pair, rows_of, with_values, xor

KINDS = ("classes", "labels", "numbers")


def train(source, target, **options):
    (link,) = train_vectors([source], target, rows_of(target), TrainingOptions(**options))
    return link


def held_out(link, source, target):
    rows = rows_of(target).held_out
    return performance(target.format, link.predict(source.values[rows]), target.values[rows])


def some_lesson(kind, links=3):
    draw = torch.Generator().manual_seed(1)
    shape = Shape(5, 7, 4)
    nets = Perceptrons(shape, initial(shape, [5, 4, 3][:links], 0), kind)
    inputs = torch.randn(links, 16, 5, generator=draw)
    taught = torch.rand(16, 4, generator=draw) * (3 if kind == "numbers" else 1)
    return nets, inputs, taught / taught.sum(1, keepdim=True) if kind == "classes" else taught


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_the_loss(kind):
    nets, inputs, taught = some_lesson(kind)
    expected = nets.parameters.clone().requires_grad_()
    differentiable = Perceptrons(nets.shape, expected, kind)
    differentiable.losses(inputs, taught).sum().backward()
    torch.testing.assert_close(nets.differentiate(inputs, taught), expected.grad)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_those_of_rmsprop_with_the_defaults_of_the_paper_s_framework(kind):
    nets, inputs, taught = some_lesson(kind)
    parameters = nets.parameters.clone().requires_grad_()
    reference = Perceptrons(nets.shape, parameters, kind)
    optimiser = torch.optim.RMSprop([parameters], lr=0.01, alpha=SMOOTHING, eps=EPSILON)
    for _ in range(10):
        nets.step(inputs, taught, 0.01)
        optimiser.zero_grad()
        reference.losses(inputs, taught).sum().backward()
        optimiser.step()
    torch.testing.assert_close(nets.parameters, parameters.detach(), rtol=1e-3, atol=1e-4)


def test_losses_are_those_of_the_kinds_of_answers():
    outputs = torch.tensor([[2.0, -1.0]])
    soft = torch.tensor([[0.7, 0.3]])
    p = softmax([2.0, -1.0])
    assert loss("classes", outputs, soft).item() == pytest.approx(
        -(0.7 * np.log(p[0]) + 0.3 * np.log(p[1])), rel=1e-5
    )
    s = 1 / (1 + np.exp([-2.0, 1.0]))
    entropy = -(np.array([0.7, 0.3]) * np.log(s) + np.array([0.3, 0.7]) * np.log(1 - s))
    assert loss("labels", outputs, soft).item() == pytest.approx(entropy.mean(), rel=1e-5)
    # Huber: half the square within 1, linear beyond
    assert loss("numbers", outputs, torch.tensor([[1.5, 2.0]])).item() == pytest.approx(
        (0.5 * 0.5**2 + (3 - 0.5)) / 2
    )


@pytest.mark.parametrize("kind", ["classes", "labels"])
def test_soft_answers_are_learned_as_soft_as_they_are(kind):
    """A target that is .7 or .2 sure, told by a source that only says which."""
    told = np.random.default_rng(0).integers(0, 2, 600)
    sure = np.array([[0.7, 0.3], [0.2, 0.8]], dtype=np.float32)[told]
    make = classes if kind == "classes" else labels
    target = with_values(make(np.zeros((600, 2))), sure)
    link = train(certain(told, 2), target, epochs=30)
    np.testing.assert_allclose(link.predict(np.eye(2)[[0, 1]]), [[0.7, 0.3], [0.2, 0.8]], atol=0.03)


def test_numbers_are_learned_in_their_own_units():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(800, 2))
    target = numbers(np.abs(values[:, :1]) * 1e5 + 3e6)
    link = train(numbers(values * 1e-4), target)
    assert held_out(link, numbers(values * 1e-4), target) > 0.95


def test_what_no_linear_map_can_do_is_learned():
    source, target = xor()
    assert held_out(train(source, target), source, target) > 0.95


def test_links_of_a_group_come_out_as_if_trained_alone():
    """For so few epochs that rounding, which differs with the size of a product, has no time to
    grow; sources of other widths train beside, and every link stops when it would alone."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(400, 8))
    target = classes(3 * np.tanh(scores @ rng.normal(size=(8, 5))))
    sources = [
        classes(scores[:, :5]),
        labels(scores),
        numbers(scores[:, 2:8]),
        numbers(scores[:, :1]),
    ]
    rows = rows_of(target)
    options = TrainingOptions(epochs=4)
    together = train_vectors(sources, target, rows, options)
    for source, link in zip(sources, together, strict=True):
        (alone,) = train_vectors([source], target, rows, options)
        assert link.source == source.format
        assert link.epochs == alone.epochs
        np.testing.assert_allclose(
            link.predict(source.values), alone.predict(source.values), atol=1e-3
        )


def test_links_of_a_group_stop_by_themselves():
    rng = np.random.default_rng(99)
    useful, target = xor(600)
    noise = labels(rng.normal(size=(600, 2)))
    options = TrainingOptions(patience=3)
    together = train_vectors([noise, useful, noise], target, rows_of(target), options)
    (alone,) = train_vectors([useful], target, rows_of(target), options)
    assert together[0].epochs == together[2].epochs < together[1].epochs
    assert held_out(together[1], useful, target) == pytest.approx(
        held_out(alone, useful, target), abs=0.03
    )


def test_the_seed_decides_everything():
    source, target = pair("classes", "numbers")
    one, same, other = (train(source, target, epochs=5, seed=seed) for seed in (1, 1, 2))
    for ours, theirs in zip(one.layers, same.layers, strict=True):
        np.testing.assert_array_equal(ours.weight, theirs.weight)
        np.testing.assert_array_equal(ours.bias, theirs.bias)
    assert not np.allclose(one.layers[0].weight, other.layers[0].weight, atol=1e-3)


def test_held_out_answers_change_nothing():
    source, target = pair("classes", "classes")
    rows = rows_of(target)
    scrambled = target.values.copy()
    scrambled[rows.held_out] = scrambled[rows.held_out][::-1]
    options = TrainingOptions(epochs=3)
    (one,) = train_vectors([source], target, rows, options)
    (other,) = train_vectors([source], with_values(target, scrambled), rows, options)
    np.testing.assert_array_equal(one.layers[0].weight, other.layers[0].weight)


def test_an_answer_does_not_depend_on_the_others_of_its_batch():
    source, target = pair("classes", "classes")
    link = train(source, target, epochs=3)
    changed = source.values[:8].copy()
    changed[3] = np.roll(changed[3], 1)
    answers, others = link.predict(source.values[:8]), link.predict(changed)
    kept = np.arange(8) != 3
    np.testing.assert_array_equal(answers[kept], others[kept])
    np.testing.assert_allclose(link.predict(source.values[5:6])[0], answers[5], rtol=1e-5)


def test_groups_are_of_similar_width_and_fit_into_memory():
    assert _groups([10, 3, 20, 5, 2000], outputs=5, hidden=32) == [[1, 3], [0, 2], [4]]
    wide = _groups([1000] * 20, outputs=1000, hidden=1000)
    assert sorted(place for group in wide for place in group) == list(range(20))
    assert {len(group) for group in wide} == {GROUP_NUMBERS // (1000 * 2000)}
    assert _groups([4096], outputs=4096, hidden=2048) == [[0]]


# ---- early stopping


def test_the_state_of_least_loss_is_kept_and_patience_counts_from_it():
    best = EarlyStopping(1, patience=3)
    losses = [1.0, 0.9, 0.95, 0.8, 0.81, 0.82, 0.83]
    goes_on = [
        best.goes_on(0, value, torch.tensor([float(epoch)])) for epoch, value in enumerate(losses)
    ]
    assert goes_on == [True] * 6 + [False]
    assert best.states[0].item() == 3
    assert best.losses == [0.8]
    assert best.epochs == [6]  # the first call was before training


def test_a_loss_that_is_no_number_ends_training_with_the_best_state_before():
    best = EarlyStopping(1, patience=None)
    assert best.goes_on(0, 1.0, torch.tensor([1.0]))
    assert not best.goes_on(0, float("nan"), torch.tensor([float("nan")]))
    assert best.states[0].item() == 1


def test_a_link_that_learns_noise_stops_early_and_is_no_worse_than_before_it_began():
    rng = np.random.default_rng(0)
    source, target = classes(rng.normal(size=(200, 4))), classes(4 * rng.normal(size=(200, 4)))
    rows = rows_of(target)
    seen = source.values[rows.validation]
    taught = torch.from_numpy(target.values[rows.validation])

    def validated(link):
        with np.errstate(divide="ignore"):
            outputs = torch.from_numpy(np.log(link.predict(seen)))
        return loss("classes", outputs, taught).mean().item()

    before, stopped, patient = (
        train(source, target, epochs=epochs, patience=patience)
        for epochs, patience in ((0, 10), (100, 10), (100, None))
    )
    assert 10 <= stopped.epochs < 100
    assert patient.epochs == 100
    assert validated(patient) <= validated(stopped) <= validated(before)


def test_training_that_diverges_leaves_a_link_that_answers():
    source, target = pair("numbers", "numbers")
    link = train(source, target, learning_rate=1e30, epochs=5)
    assert np.isfinite(link.predict(source.values)).all()


def test_missing_answers_of_a_source_are_taken_for_average_ones():
    source, target = pair("numbers", "classes")
    holes = source.values.copy()
    holes[::7] = np.nan
    holes[3] = np.inf
    link = train(with_values(source, holes), target, epochs=5)
    answers = link.predict(holes)
    assert np.isfinite(answers).all()
    np.testing.assert_array_equal(answers[0], answers[7])


def test_samples_the_target_did_not_answer_are_as_if_they_were_not_there():
    source, target = pair("classes", "classes")
    rows = rows_of(target)
    holes = target.values.copy()
    holes[rows.train[::4]] = np.nan
    fewer = Split(np.delete(rows.train, np.s_[::4]), rows.validation, rows.held_out)
    options = TrainingOptions(epochs=3)
    (one,) = train_vectors([source], with_values(target, holes), rows, options)
    (other,) = train_vectors([source], target, fewer, options)
    np.testing.assert_array_equal(one.layers[0].weight, other.layers[0].weight)


# ---- batches, threads, devices


def test_every_epoch_shows_every_sample_once_in_batches_of_nearly_one_size():
    epochs = list(batches(101, TrainingOptions(epochs=3, batch=32)))
    assert len(epochs) == 3
    for epoch in epochs:
        assert sorted(torch.cat(epoch).tolist()) == list(range(101))
        assert {len(batch) for batch in epoch} == {25, 26}
    assert not torch.equal(epochs[0][0], epochs[1][0])


def test_a_cancelled_training_ends_between_epochs():
    source, target = pair("classes", "classes")
    calls = iter([False, False, True])
    with pytest.raises(CancelledError):
        train_vectors([source], target, rows_of(target), TrainingOptions(), lambda: next(calls))


def test_hidden_units_are_twice_the_outputs_within_limits():
    assert hidden_units(1, 1000) == 32  # twice a scalar would be two
    assert hidden_units(100, 1000) == 200
    assert hidden_units(1000, 550) == 550  # so many units learn so many samples by heart
    assert hidden_units(4096, 10**6) == 2048


@pytest.mark.slow
def test_a_link_of_100_outputs_trains_on_1000_samples_in_two_seconds_of_one_core():
    rng = np.random.default_rng(0)
    scores = 2 * rng.normal(size=(1000, 100))
    source, target = classes(scores), classes(3 * np.tanh(scores @ rng.normal(size=(100, 100))))
    rows = Split(np.arange(1000), np.arange(0, 1000, 7), np.arange(0))
    started = time.process_time()
    (link,) = train_vectors([source], target, rows, TrainingOptions(patience=None))
    assert link.epochs == 100
    assert time.process_time() - started < 2


def test_options_are_the_paper_s():
    options = TrainingOptions()
    assert (options.learning_rate, options.epochs, options.batch) == (0.01, 100, 32)
    assert replace(options, patience=None) != options
