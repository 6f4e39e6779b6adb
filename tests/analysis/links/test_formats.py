"""Answers reach links as probabilities, numbers, boxes and tokens, whatever form they came in."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, softmax

from sommelier.analysis.answers import AnswerCollector
from sommelier.analysis.links.collecting import TokenCollector
from sommelier.analysis.links.formats import (
    PADDING,
    AnswerFormat,
    as_given,
    format_of,
    natural,
)
from sommelier.errors import AnalysisError
from sommelier.records import OutputKind, TensorSpec

RNG = np.random.default_rng(0)
LOGITS = (3 * RNG.normal(size=(50, 7))).astype(np.float32)
ODDS = softmax(LOGITS.astype(np.float64), axis=1)


def collected(kind, *outputs, names=("y",)):
    """What AnswerCollector stores of a model that gives these outputs, in two runs."""
    collector = AnswerCollector(kind, list(names))
    collector.add([output[:20] for output in outputs], 20, single=False)
    collector.add([output[20:] for output in outputs], len(outputs[0]) - 20, single=False)
    return collector.result().outputs["outputs"]


def eight_bits(odds, least):
    """Probabilities as TFLite quantises them: scale 1/256, zero point `least`."""
    return np.clip(np.rint(odds * 256) + least, least, least + 255)


@pytest.mark.parametrize(
    ("given", "form", "scale", "tolerance"),
    [
        (LOGITS, "logits", 1.0, 1e-6),
        (np.log(ODDS), "logits", 1.0, 1e-6),
        (ODDS.astype(np.float32), "probabilities", 1.0, 1e-6),
        (100 * ODDS, "scaled", 100.0, 1e-6),
        (eight_bits(ODDS, 0).astype(np.uint8), "scaled", 256.0, 1.5 / 256),
        (eight_bits(ODDS, -128).astype(np.int8), "scaled", 256.0, 1.5 / 256),
    ],
    ids=["logits", "log", "probabilities", "percent", "uint8", "int8"],
)
def test_classes_become_their_probabilities_whatever_their_form(given, form, scale, tolerance):
    block = collected(OutputKind.CLASSIFICATION, given)
    format = format_of(OutputKind.CLASSIFICATION, block)
    assert (format.kind, format.width, format.form) == ("classes", 7, form)
    assert format.scale == scale
    values = natural(block, format).values
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, ODDS, atol=tolerance)
    np.testing.assert_allclose(values.sum(axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize("least", [0, -128])
def test_quantised_probabilities_come_back_bit_by_bit(least):
    dtype = "uint8" if least == 0 else "int8"
    many = softmax(4 * RNG.normal(size=(30, 1001)), axis=1)
    given = eight_bits(many, least).astype(dtype)
    assert (given.astype(int) - least).sum(axis=1).mean() < 250  # most are rounded to nothing
    specs = (TensorSpec("y", dtype, ("n", 1001)),)
    block = collected(OutputKind.CLASSIFICATION, given)
    format = format_of(OutputKind.CLASSIFICATION, block, outputs=specs)
    assert format.dtype == dtype
    back = as_given(natural(block, format).values, format)
    assert back.dtype == given.dtype
    np.testing.assert_array_equal(back, given)


def test_logits_come_back_up_to_a_shift_of_all_classes():
    format = format_of(OutputKind.CLASSIFICATION, LOGITS)
    back = as_given(natural(LOGITS, format).values, format)
    shift = back - LOGITS
    np.testing.assert_allclose(shift, np.broadcast_to(shift[:, :1], shift.shape), atol=1e-4)
    assert back.dtype == LOGITS.dtype


def test_a_class_that_is_ruled_out_has_a_logit_all_the_same():
    """Logarithms of probabilities that are 0, in every row."""
    logits = np.random.default_rng(0).normal(size=(20, 4))
    logits[:, 2] = -np.inf
    found = natural(logits, format_of(OutputKind.CLASSIFICATION, logits))
    assert found.format.form == "logits"
    assert found.answered.all()
    assert (found.values[:, 2] == 0).all()
    with pytest.raises(AnalysisError, match="infinite"):
        format_of(OutputKind.CLASSIFICATION, np.full((3, 4), np.inf))


def test_quantised_logits_are_not_taken_for_probabilities():
    scores = np.clip(np.rint(20 * LOGITS + 128), 0, 255).astype(np.uint8)
    format = format_of(OutputKind.CLASSIFICATION, scores)
    assert format.form == "logits"
    top = natural(scores, format).values.argmax(axis=1)
    np.testing.assert_array_equal(top, scores.argmax(axis=1))


def test_class_ids_become_one_hot_rows_and_come_back():
    ids = RNG.integers(0, 5, size=40)
    block = collected(OutputKind.CLASS_IDS, ids)
    format = format_of(OutputKind.CLASS_IDS, block, classes=8)
    found = natural(block, format)
    assert (format.form, format.width, format.dtype) == ("ids", 8, "int64")
    np.testing.assert_array_equal(found.values, np.eye(8)[ids])
    np.testing.assert_array_equal(as_given(found.values, format), ids[:, None])


def test_an_id_below_zero_is_no_answer():
    format = format_of(OutputKind.CLASS_IDS, np.array([[1], [-1], [0]]))
    found = natural(np.array([[1], [-1], [0]]), format)
    np.testing.assert_array_equal(found.answered, [True, False, True])
    np.testing.assert_array_equal(as_given(found.values, format)[:, 0], [1, -1, 0])


@pytest.mark.parametrize(("given", "form"), [(LOGITS, "logits"), (expit(LOGITS), "probabilities")])
def test_labels_are_probabilities_each_on_its_own(given, form):
    format = format_of(OutputKind.MULTILABEL, given)
    found = natural(given, format)
    assert (format.kind, format.form) == ("labels", form)
    np.testing.assert_allclose(found.values, expit(LOGITS), atol=1e-6)
    np.testing.assert_allclose(as_given(found.values, format), given, rtol=1e-3)


def test_numbers_stay_numbers_in_their_own_type():
    whole = RNG.integers(-90, 90, size=(30, 3)).astype(np.int32)
    specs = (TensorSpec("pose", "int32", ("n", 3)),)
    block = collected(OutputKind.REGRESSION, whole)
    format = format_of(OutputKind.REGRESSION, block, outputs=specs)
    assert (format.kind, format.width, format.dtype) == ("numbers", 3, "int32")
    back = as_given(natural(block, format).values + 0.3, format)
    assert back.dtype == np.int32
    np.testing.assert_array_equal(back, whole)


def test_four_numbers_of_a_detector_are_a_box():
    corners = RNG.random((20, 4))
    assert format_of(OutputKind.DETECTION, corners).kind == "box"
    assert format_of(OutputKind.DETECTION, RNG.random((20, 8))).kind == "numbers"


def test_flattened_scores_become_tokens_by_the_vocabulary_in_the_record():
    scores = RNG.normal(size=(40, 6, 11)).astype(np.float32)
    specs = (TensorSpec("y", "float32", ("n", "steps", 11)),)
    block = collected(OutputKind.SEQUENCE, scores)
    assert block.shape == (40, 66)
    format = format_of(OutputKind.SEQUENCE, block, outputs=specs)
    assert (format.kind, format.width, format.steps, format.end) == ("tokens", 11, 6, None)
    found = natural(block, format)
    assert found.values.dtype == np.int64
    np.testing.assert_array_equal(found.values, scores.argmax(axis=2))
    back = as_given(found.values, format).reshape(40, 6, 11)
    np.testing.assert_array_equal(back.argmax(axis=2), found.values)
    given = as_given(found.values, format, scores=softmax(scores.astype(np.float64), axis=2))
    assert given.shape == block.shape
    assert given.dtype == np.float32
    shift = given.reshape(scores.shape) - scores
    np.testing.assert_allclose(shift, shift[..., :1] + np.zeros(11), atol=1e-4)


def test_token_ids_stay_and_nothing_follows_the_end():
    ids = np.array([[5, 0, 3, 3], [4, 4, 4, 0], [1, 2, 3, 4]])
    block = collected(OutputKind.SEQUENCE, np.tile(ids, (10, 1)))
    specs = (TensorSpec("y", "int64", ("n", 4)),)
    format = format_of(OutputKind.SEQUENCE, block, outputs=specs, end=0)
    assert (format.width, format.steps, format.end, format.form) == (6, 4, 0, "ids")
    found = natural(block, format).values[:3]
    np.testing.assert_array_equal(found, [[5, 0, 0, 0], [4, 4, 4, 0], [1, 2, 3, 4]])
    assert as_given(found, format).dtype == np.int64


def test_sequences_of_many_lengths_are_padded_with_a_token_of_their_own():
    collector = TokenCollector(["state_h", "y"])
    lengths = [3, 1, 4]
    scores = [RNG.normal(size=(length, 5)).astype(np.float32) for length in lengths]
    for each in scores:
        collector.add([np.zeros(2), each[None]], 1, single=True)
    found = collector.result()
    assert found.vocabulary == 5
    answers = found.answers()
    assert (answers.format.width, answers.format.end, answers.format.steps) == (6, 5, 4)
    assert answers.format.form == "logits"
    for row, each in zip(answers.values, scores, strict=True):
        np.testing.assert_array_equal(row[: len(each)], each.argmax(axis=1))
        assert (row[len(each) :] == 5).all()


def test_padding_and_the_models_own_end_are_one_token():
    collector = TokenCollector(["y"])
    collector.add([np.array([[3, 1, 2]])], 1, single=True)
    collector.add([np.array([[4, 3, 3, 3, 2]])], 1, single=True)
    answers = collector.result().answers(end=2)
    np.testing.assert_array_equal(answers.values, [[3, 1, 2, 2, 2], [4, 3, 3, 3, 2]])
    assert answers.format.width == 5
    assert PADDING not in answers.values


def test_a_format_survives_json():
    format = AnswerFormat("tokens", 11, "logits", steps=6, end=10, dtype="float16")
    assert AnswerFormat.from_json(format.to_json()) == format


def test_rows_are_the_answers_of_those_samples():
    found = natural(LOGITS, format_of(OutputKind.CLASSIFICATION, LOGITS))
    np.testing.assert_array_equal(found.rows([4, 2]).values, found.values[[4, 2]])
    assert len(found.rows([4, 2])) == 2


@pytest.mark.parametrize(
    ("kind", "block", "message"),
    [
        (OutputKind.UNKNOWN, np.zeros((3, 5000), np.float32), "5000 outputs is too wide"),
        (OutputKind.REGRESSION, np.full((3, 2), np.nan), "every answer is NaN"),
        (OutputKind.SEGMENTATION, np.zeros((3, 16)), "a class for every pixel"),
        (OutputKind.SEQUENCE, RNG.normal(size=(3, 16)), "neither token ids nor scores"),
        (OutputKind.CLASSIFICATION, RNG.random((3, 1)), "a single score"),
        (OutputKind.REGRESSION, np.zeros((0, 2)), "no answers"),
        (OutputKind.REGRESSION, np.array([["a"]]), "no numbers"),
    ],
)
def test_what_no_link_is_made_for_is_refused_with_the_reason(kind, block, message):
    with pytest.raises(AnalysisError, match=message):
        format_of(kind, block)


@pytest.mark.parametrize(
    ("format", "raw", "message"),
    [
        (AnswerFormat("classes", 7, "logits"), np.zeros((2, 6)), "6 outputs, where 7"),
        (AnswerFormat("classes", 3, "ids"), np.array([[3]]), "class 3 among 3"),
        (AnswerFormat("tokens", 3, "ids", steps=2), np.array([[1, 3]]), "token 3 in a vocab"),
        (AnswerFormat("tokens", 3, "ids", steps=2), np.array([[1, 1, 1]]), "3 tokens, where 2"),
        (AnswerFormat("tokens", 3, "ids", steps=2), np.array([[1]]), "give `end`"),
        (AnswerFormat("tokens", 3, "logits", steps=2), np.zeros((2, 10)), "no 2 steps of scores"),
    ],
)
def test_answers_of_another_format_are_refused(format, raw, message):
    with pytest.raises(AnalysisError, match=message):
        natural(raw, format)


def test_constant_answers_have_a_format():
    same = np.tile([[0.2, 0.8]], (9, 1))
    assert format_of(OutputKind.CLASSIFICATION, same).form == "probabilities"
    assert format_of(OutputKind.REGRESSION, np.zeros((9, 2))).kind == "numbers"
