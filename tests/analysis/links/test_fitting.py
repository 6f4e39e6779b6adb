"""Links to one target: which are made, of which kind, and what is said of them."""

from __future__ import annotations

import math
import sys

import numpy as np
import onnxruntime
import pytest

from sommelier.analysis.links.fitting import FittedLink, LinkOptions, fit_links
from sommelier.analysis.links.formats import AnswerFormat, LinkAnswers
from sommelier.analysis.links.judging import clearly_better, exceeds
from sommelier.analysis.links.scoring import constant_answer, score
from sommelier.errors import AnalysisError, CancelledError, MissingDependencyError

from .vector_answers import PAIRS, classes, labels, numbers, pair, rows_of, with_values, xor

BLIND = LinkOptions(screen=False)


def link(source, target, options=LinkOptions()):  # noqa: B008  # a frozen value
    return fit_links({"source": source}, target, options)["source"]


def linear_pair(samples=1500):
    """A target whose logits are a linear map of the source's log-odds, but for some noise."""
    rng = np.random.default_rng(0)
    odds = 2 * rng.normal(size=(samples, 6))
    mixed = odds @ rng.normal(size=(6, 5)) / 2
    return labels(odds), classes(mixed + 0.1 * rng.normal(size=mixed.shape))


def unrelated(samples=1500):
    rng = np.random.default_rng(0)
    return classes(2 * rng.normal(size=(samples, 4))), classes(2 * rng.normal(size=(samples, 4)))


def test_a_linear_link_is_kept_where_no_network_can_be_better():
    source, target = linear_pair()
    found = link(source, target)
    assert (found.state, found.method, found.epochs) == ("linked", "linear", 0)
    assert found.score.performance > 0.95
    assert found.score.performance >= link(source, target, LinkOptions(method="network")).score.low


def test_a_network_replaces_the_linear_link_where_that_cannot_work():
    source, target = xor()
    found = link(source, target)
    assert (found.state, found.method) == ("linked", "network")
    assert found.epochs > 0
    assert found.score.performance > 0.95
    linear = link(source, target, LinkOptions(method="linear", screen=False))
    assert linear.state == "useless"
    assert linear.score.performance < 0.65


def test_an_unrelated_target_is_not_linkable_or_else_useless():
    source, target = unrelated()
    screened, blind = link(source, target), link(source, target, BLIND)
    assert screened.state == "not linkable"
    assert "do not depend" in screened.reason
    assert screened.onnx is None
    assert screened.score is None
    assert math.isnan(screened.skill)
    assert blind.state == "useless"
    assert "not better, beyond chance" in blind.reason
    assert blind.skill < 0.15


def test_links_to_noise_are_called_useless_but_for_the_rate_that_the_confidence_allows():
    linked = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        target = classes(rng.normal(size=(300, 3)))
        sources = {str(i): numbers(rng.normal(size=(300, 2))) for i in range(5)}
        options = LinkOptions(screen=False, method="linear", seed=seed)
        linked += sum(f.state == "linked" for f in fit_links(sources, target, options).values())
    # of 100 links at most 2.5 % on average, so that 8 or more has probability 0.3 %
    assert linked < 8


@pytest.mark.parametrize(("given", "wanted"), PAIRS)
def test_the_score_is_that_of_the_predictions_on_held_out_samples(given, wanted):
    source, target = pair(given, wanted)
    found = link(source, target, BLIND)
    held = rows_of(target).held_out
    assert found.predicted.shape == target.values.shape
    truth = target.values[held]
    scale = None
    if wanted == "numbers":
        taught = target.values[rows_of(target).train]
        scale = float(np.subtract(*np.quantile(taught, [0.975, 0.025], axis=0)).mean())
    again = score(target.format, found.predicted[held], truth, scale=scale)
    assert found.score.performance == pytest.approx(again.performance, rel=1e-6)
    constant = constant_answer(target.format, target.values[rows_of(target).train])
    floor = score(target.format, np.tile(constant, (len(truth), 1)), truth, scale=scale)
    assert found.constant.performance == pytest.approx(floor.performance, rel=1e-6)
    gain = (again.performance - floor.performance) / (1 - floor.performance)
    assert found.skill == pytest.approx(gain, rel=1e-6)
    assert found.training + found.validation + found.held_out == len(target)


def test_the_exported_model_gives_the_predictions():
    source, target = linear_pair(400)
    found = link(source, target)
    session = onnxruntime.InferenceSession(found.onnx)
    (answers,) = session.run(None, {"source": source.values})
    np.testing.assert_allclose(answers, found.predicted, atol=1e-4)


def test_the_seed_decides_everything():
    source, target = xor(300)
    one, same, other = (
        link(source, target, LinkOptions(seed=seed, method="network")) for seed in (1, 1, 2)
    )
    assert one.onnx == same.onnx != other.onnx
    assert one.score.performance == same.score.performance


def test_sources_of_any_kind_are_fitted_together_and_told_in_their_order():
    rng = np.random.default_rng(0)
    told = rng.integers(0, 3, 300)
    target = classes(5 * np.eye(3)[told] + rng.normal(size=(300, 3)))
    words = LinkAnswers(AnswerFormat("tokens", 5, "ids", steps=2), np.stack([told, told], axis=1))
    sources = {
        "words": words,
        "copy": classes(5 * np.eye(3)[told]),
        "noise": numbers(rng.normal(size=(300, 2))),
        "ids": numbers(told[:, None].astype(float)),
    }
    found = fit_links(sources, target, LinkOptions(epochs=20))
    assert list(found) == list(sources)
    assert [f.architecture for f in found.values()] == ["seq-to-vec"] + ["vec-to-vec"] * 3
    assert [f.state for f in found.values()] == ["linked", "linked", "not linkable", "linked"]
    assert found["copy"].skill > 0.85


# ---- what is wrong


def test_a_source_without_answers_is_told_and_does_not_stop_the_others():
    source, target = linear_pair(300)
    silent = with_values(source, np.full_like(source.values, np.nan))
    found = fit_links({"silent": silent, "source": source}, target, BLIND)
    assert found["silent"].state == "not linkable"
    assert found["silent"].reason == "the source answered none of the training samples"
    assert found["source"].state == "linked"


def test_a_target_that_always_answers_the_same_needs_no_link():
    source, _ = linear_pair(300)
    constant = classes(np.tile([5.0, 0.0], (300, 1)))
    assert link(source, constant).state == "not linkable"
    found = link(source, constant, BLIND)
    assert found.state == "useless"
    assert math.isnan(found.skill)


def test_samples_without_an_answer_of_the_target_do_not_count():
    source, target = linear_pair(400)
    holes = target.values.copy()
    holes[::4] = np.nan
    found = link(source, with_values(target, holes))
    assert found.training + found.validation + found.held_out == 300
    assert found.state == "linked"
    assert np.isfinite(found.predicted).all()


def test_too_few_samples_and_samples_of_another_number_are_refused():
    source, target = linear_pair(300)
    with pytest.raises(AnalysisError, match="20 samples are too few to learn"):
        link(source.rows(range(20)), target.rows(range(20)))
    with pytest.raises(AnalysisError, match="'source' answered 299 samples and the target 300"):
        link(source.rows(range(299)), target)


def test_tokens_have_no_linear_link():
    words = LinkAnswers(
        AnswerFormat("tokens", 5, "ids", steps=2),
        np.random.default_rng(0).integers(0, 5, (300, 2)),
    )
    target = classes(5.0 * np.eye(5)[words.values[:, 0]])
    found = link(words, target, LinkOptions(method="linear"))
    assert found.state == "not linkable"
    assert "not tokens" in found.reason


def test_without_torch_links_are_linear_and_networks_are_an_error(monkeypatch):
    source, target = xor(300)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert link(source, target, BLIND).method == "linear"
    with pytest.raises(MissingDependencyError, match="needs torch"):
        link(source, target, LinkOptions(method="network"))


def test_a_device_that_is_not_there_is_an_error():
    source, target = xor(300)
    with pytest.raises(AnalysisError, match="no device 'cuda:99'"):
        link(source, target, LinkOptions(device="cuda:99"))


def test_work_is_told_and_can_be_cancelled_at_any_point():
    source, target = xor(300)
    told = []
    fit_links({"s": source}, target, progress=lambda *event: told.append(event))
    assert [event[0] for event in told] == ["screening", "training", "judging"]
    asked = 0

    def cancelled(after):
        nonlocal asked
        asked += 1
        return asked > after

    for after in (0, 1, 2, 5):
        asked = 0
        with pytest.raises(CancelledError):
            fit_links({"s": source}, target, cancelled=lambda n=after: cancelled(n))


# ---- better than the best constant answer


def test_a_link_exceeds_the_constant_by_pairs_of_samples():
    """12 of 300 samples more is beyond chance when all others are the same."""
    format = AnswerFormat("classes", 2, "logits")
    truth = np.eye(2)[np.r_[np.zeros(240, int), np.ones(60, int)]]
    always = np.tile([1.0, 0.0], (300, 1))
    constant = score(format, always, truth)
    better = always.copy()
    better[240:252] = [0.0, 1.0]
    assert exceeds(score(format, better, truth), constant)
    assert score(format, better, truth).low < constant.performance  # unpaired, it would not
    assert not exceeds(constant, constant)
    slightly = always.copy()
    slightly[240:242] = [0.0, 1.0]
    assert not exceeds(score(format, slightly, truth), constant)


def test_ten_wins_and_one_loss_are_no_chance_in_whatever_order():
    """Sign test: 2 P(at least 10 of 11 heads) = .012."""
    format = AnswerFormat("classes", 2, "logits")
    rows = np.r_[np.zeros(22, int), np.ones(21, int)]
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(43)
        truth = np.eye(2)[rows[order]]
        constant = score(format, np.tile([1.0, 0.0], (43, 1)), truth)
        given = np.tile([1.0, 0.0], (43, 1))
        ones = np.flatnonzero(truth[:, 1])
        given[[*ones[:10], int(np.flatnonzero(truth[:, 0])[0])]] = [0.0, 1.0]
        assert exceeds(score(format, given, truth), constant)


def test_options_train_as_they_say():
    training = LinkOptions(epochs=3, batch=8, seed=5, device="cuda", threads=2).training
    assert (training.epochs, training.batch, training.seed) == (3, 8, 5)
    assert (training.device, training.threads) == ("cuda", 2)
    assert isinstance(link(*linear_pair(300)), FittedLink)


def test_a_network_has_to_be_better_by_more_than_a_standard_error():
    """Of 100 samples, alike but for some: 4 - 3 more is chance, 9 - 3 more is not."""
    format = AnswerFormat("classes", 2, "logits")
    truth = np.tile([1.0, 0.0], (100, 1))

    def right_but(*wrong):
        answers = truth.copy()
        answers[list(wrong)] = [0.0, 1.0]
        return score(format, answers, truth)

    linear = right_but(*range(9))
    assert not clearly_better(right_but(*range(9)), linear)
    assert not clearly_better(right_but(*range(4, 12)), linear)  # gains 4, loses 3
    assert clearly_better(right_but(*range(9, 12)), linear)  # gains 9, loses 3
    assert not clearly_better(linear, right_but(*range(9, 12)))
