"""Links from and to token sequences learn what can be learned, and no more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sommelier.analysis.links.formats import AnswerFormat, LinkAnswers
from sommelier.analysis.links.scoring import constant_answer, score
from sommelier.analysis.links.sequence_training import token_loss, train_sequence
from sommelier.analysis.links.sequences import IGNORED
from sommelier.analysis.links.splits import split
from sommelier.analysis.links.training import TrainingOptions
from sommelier.errors import AnalysisError, CancelledError
from tests.analysis.links.sentences import (
    ARCHITECTURES,
    CAPTION,
    END,
    QUICK,
    SENTENCE,
    STEPS,
    TARGETS,
    WORDS,
    captioning,
    digits,
    fitted,
    reading,
    rewritten,
    sentences,
    translation,
)

BRIEF = TrainingOptions(epochs=2)


def held_out(case, predicted=None):
    """The score of predictions for all samples, or of the link's own, on held-out ones."""
    rows = case.split.held_out
    given = case.predicted if predicted is None else predicted
    return score(case.target.format, given[rows], case.target.values[rows])


def constant(case):
    answer = constant_answer(case.target.format, case.target.values[case.split.train])
    return held_out(case, np.broadcast_to(answer, case.target.values.shape))


@pytest.mark.parametrize("how", TARGETS)
def test_sentences_are_rewritten_with_few_wrong_words(how):
    assert held_out(translation(how)).value < 0.05
    assert constant(translation(how)).value > 0.8


def test_a_classifier_is_enough_to_write_captions():
    assert held_out(captioning()).value < 0.05
    assert constant(captioning()).value > 0.4


def test_a_caption_tells_the_class():
    assert held_out(reading()).performance > 0.95
    np.testing.assert_allclose(reading().predicted.sum(axis=1), 1, atol=1e-5)


def test_an_unrelated_target_is_predicted_no_better_than_by_a_constant():
    shuffled = LinkAnswers(SENTENCE, sentences(seed=1).values)
    case = fitted(sentences(), shuffled)
    assert held_out(case).performance <= constant(case).performance + 0.05
    assert held_out(case).value < 1.2


@pytest.mark.parametrize(
    ("architecture", "case"), [(name, make) for name, make in ARCHITECTURES.items()]
)
def test_a_link_names_its_architecture_and_counts_its_numbers(architecture, case):
    link = case().link
    assert link.architecture == architecture
    assert link.method == "network"
    assert link.parameters == sum(p.numel() for p in link.network.state_dict().values()) - sum(
        buffer.numel() for buffer in link.network.buffers()
    )
    assert 0 < link.epochs <= QUICK.epochs


def test_tokens_end_once_and_stay_ended():
    for case in (translation("reverse"), captioning()):
        over = np.cumsum(case.predicted == END, axis=1) > 0
        assert (case.predicted[over] == END).all()
        assert case.predicted.dtype == np.int64


def test_scores_are_distributions_whose_likeliest_token_is_predicted():
    case = translation("reverse")
    scores = case.link.scores(case.source.values)
    assert scores.shape == (len(case.source), STEPS, WORDS)
    np.testing.assert_allclose(scores.sum(axis=2), 1, atol=1e-5)
    np.testing.assert_array_equal(scores.argmax(axis=2), case.predicted)
    behind = np.cumsum(case.predicted == END, axis=1) > 1
    assert (scores[behind][:, END] == 1).all()


def test_a_link_to_vectors_has_no_scores():
    with pytest.raises(AnalysisError, match="no scores"):
        reading().link.scores(digits()[1].values)


def test_a_shorter_reach_is_padded_to_the_steps_of_the_format():
    wide = replace(SENTENCE, steps=STEPS + 4)
    values = np.pad(sentences().values, ((0, 0), (0, 4)), constant_values=END)
    case = fitted(sentences(), LinkAnswers(wide, values), BRIEF)
    assert case.link.network.decoder.reach == STEPS + 1  # the end token too
    assert case.predicted.shape == values.shape
    assert (case.predicted[:, STEPS:] == END).all()
    np.testing.assert_allclose(case.link.scores(sentences().values).sum(axis=2), 1, atol=1e-5)


def test_the_loss_of_a_sample_is_the_mean_over_its_own_steps():
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    classes = torch.tensor([[1, 0, IGNORED], [2, 2, 3]])
    logs = logits.log_softmax(2)
    expected = [
        -(logs[0, 0, 1] + logs[0, 1, 0]) / 2,
        -(logs[1, 0, 2] + logs[1, 1, 2] + logs[1, 2, 3]) / 3,
    ]
    assert torch.allclose(token_loss(logits, classes), torch.stack(expected))
    silent = token_loss(logits[:1], torch.full((1, 3), IGNORED))
    assert silent.tolist() == [0]


def test_one_seed_gives_one_link_and_leaves_the_callers_draws_alone():
    source, target = sentences(), rewritten(sentences(), "map")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = (
        fitted(source, target, replace(BRIEF, seed=seed)).link.scores(source.values)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_training_stops_when_asked_to():
    asked = iter([False, False, True])
    with pytest.raises(CancelledError):
        train_sequence(
            sentences(), sentences(), split(len(sentences()), 0), QUICK, lambda: next(asked)
        )


def test_training_stops_early_where_nothing_is_left_to_learn():
    empty = LinkAnswers(SENTENCE, np.full((100, STEPS), END))
    case = fitted(empty, empty, TrainingOptions(epochs=100, patience=1))
    assert case.link.epochs < 100
    assert held_out(case).value == 0


def test_sequences_of_one_step_without_an_end_are_links_too():
    draw = np.random.default_rng(0)
    ids = draw.integers(0, 4, (200, 1))
    format = AnswerFormat("tokens", 4, "ids")
    case = fitted(LinkAnswers(format, ids), LinkAnswers(format, (ids + 1) % 4))
    assert held_out(case).value == 0


def test_numbers_are_predicted_in_their_own_unit():
    source = sentences()
    lengths = (source.values != END).sum(axis=1, keepdims=True)
    target = LinkAnswers(AnswerFormat("numbers", 1, "values"), (1000.0 + 50 * lengths))
    case = fitted(source, LinkAnswers(target.format, target.values.astype(np.float32)))
    assert held_out(case).value < 5  # of 1000 to 1150


def test_samples_without_an_answer_are_not_learned_from():
    words, shares = digits()[1], digits()[0].values.copy()
    rows = split(len(words), 0)
    shares[rows.train[::3]] = np.nan
    link = train_sequence(words, LinkAnswers(digits()[0].format, shares), rows, BRIEF)
    assert np.isfinite(link.predict(words.values)).all()


def test_a_missing_vector_gets_the_answer_to_an_average_one():
    link = captioning().link
    missing = np.full((1, 10), np.nan, dtype=np.float32)
    average = np.exp(link.features.mean)[None]
    np.testing.assert_array_equal(link.predict(missing), link.predict(average))


def test_a_large_vocabulary_costs_what_is_used_of_it():
    words = sentences().values
    large = replace(SENTENCE, width=4000)
    case = fitted(LinkAnswers(large, words), LinkAnswers(large, words), BRIEF)
    small = fitted(sentences(), sentences(), BRIEF)
    assert case.link.parameters == small.link.parameters
    np.testing.assert_array_equal(case.predicted, small.predicted)
    assert case.link.scores(words[:2]).shape == (2, STEPS, 4000)


def test_tokens_that_training_never_showed_are_read_as_nothing_in_particular():
    link = translation("copy").link
    known = link.predict(np.array([[1, 2, END]]))
    unknown = link.predict(np.array([[99, 2, END], [-7, 2, END]]))
    assert known.shape == (1, STEPS)
    np.testing.assert_array_equal(unknown[0], unknown[1])


def test_thousands_of_words_in_longer_sentences_train_within_memory():
    draw = np.random.default_rng(0)
    format = AnswerFormat("tokens", 3000, "ids", steps=20, end=END)
    answers = LinkAnswers(format, draw.integers(1, 3000, (60, 20)))
    case = fitted(answers, answers, TrainingOptions(epochs=1))
    assert case.predicted.shape == (60, 20)


def test_sequences_too_long_for_attention_are_refused():
    format = AnswerFormat("tokens", 4, "ids", steps=400)
    answers = LinkAnswers(format, np.ones((40, 400), dtype=np.int64))
    with pytest.raises(AnalysisError, match="400 and 400 tokens are too long"):
        fitted(answers, answers)


def test_vectors_at_both_ends_are_not_for_this_module():
    with pytest.raises(AnalysisError, match="neither"):
        fitted(digits()[0], digits()[0])


def test_captions_that_are_always_one_are_learned_at_once():
    always = LinkAnswers(CAPTION, np.tile([1, 4, END], (100, 1)))
    case = fitted(always, always, BRIEF)
    assert held_out(case).value == 0
