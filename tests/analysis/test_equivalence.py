"""A comparison of two models equals what running both and counting by hand says."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from sommelier.analysis.confidence import clopper_pearson, paired_difference
from sommelier.analysis.datasets import in_memory
from sommelier.analysis.equivalence import Answered, compare_answers, compare_models
from sommelier.analysis.execution import RunRequest, answer_items
from sommelier.analysis.labels import label_space
from sommelier.analysis.probes import dataset_probes
from sommelier.analysis.segments import common_segments
from sommelier.errors import AnalysisError, RejectedModelError
from sommelier.records import OutputKind
from tests.factories import class_id_model, embedding_model, tiny_classifier

X = np.random.default_rng(1).normal(size=(400, 4)).astype(np.float32)


def scores(path):
    return onnxruntime.InferenceSession(str(path)).run(None, {"x": X})[0]


def test_agreement_accuracy_and_their_difference_equal_direct_execution(tmp_path):
    one = tiny_classifier(tmp_path / "a.onnx", seed=0)
    two = tiny_classifier(tmp_path / "b.onnx", seed=1)
    labels = np.random.default_rng(2).integers(0, 3, 400)
    found = compare_models(one, two, X, labels=labels, confidence=0.9)
    a, b = scores(one).argmax(1), scores(two).argmax(1)
    agreements = int((a == b).sum())
    low, high = map(float, clopper_pearson(agreements, 400, 0.9))
    assert (found.samples, found.agreements) == (400, agreements)
    assert (found.agreement.low, found.agreement.high) == pytest.approx((low, high))
    assert found.reference_accuracy.value == np.mean(a == labels)
    assert found.candidate_accuracy.value == np.mean(b == labels)
    only = [np.sum((a == labels) & (b != labels)), np.sum((b == labels) & (a != labels))]
    expected = paired_difference(int(only[0]), int(only[1]), 400, 0.9)
    difference = found.difference
    assert (difference.value, difference.low, difference.high) == pytest.approx(expected)
    assert abs(found.difference.value) <= 1 - found.agreement.value  # algorithms.md A.2
    assert found.overlap == 1  # all three classes are among the best five
    assert found.labels == "positional"


def test_the_most_frequent_disagreements_are_named(tmp_path):
    names = label_space("pets", ["cat", "dog", "bird"])
    reference = side([0] * 5 + [1] * 3 + [2], names)
    candidate = side([1] * 3 + [0] * 2 + [2] * 3 + [0xFFFFFFFF], names)
    found = compare_answers(reference, candidate)
    shown = [(c.reference, c.candidate, c.count) for c in found.confusions]
    assert shown == [("cat", "dog", 3), ("dog", "bird", 3), ("bird", "no answer", 1)]
    assert found.agreements == 2
    assert found.labels == "named"


def test_classes_are_matched_by_name_between_vocabularies():
    ours, theirs = label_space("o", ["background", "a", "b"]), label_space("t", ["b", "a"])
    found = compare_answers(side([0, 1, 2, 2], ours), side([0, 1, 0, 1], theirs))
    assert found.agreements == 2
    labels = np.array([1, 1, 0, 0], dtype=np.int32)
    truth = compare_answers(
        side([0, 1, 2, 2], ours), side([0, 1, 0, 1], theirs), labels=labels, label_space=theirs
    )
    assert truth.reference_accuracy.value == 0.75
    assert truth.candidate_accuracy.value == 0.5


def test_a_model_that_answers_ids_compares_with_one_that_answers_scores(tmp_path):
    ids = class_id_model(tmp_path / "i.onnx", seed=3)
    full = tiny_classifier(tmp_path / "s.onnx", seed=3)
    found = compare_models(full, ids, X, labels=np.zeros(400, int))
    assert (found.agreements, found.overlap) == (400, None)
    assert found.difference.value == 0


def test_embeddings_compare_by_relative_distance(tmp_path):
    one = embedding_model(tmp_path / "a.onnx", seed=0)
    two = embedding_model(tmp_path / "b.onnx", seed=1)
    same = compare_models(one, one, X, output_kind=OutputKind.EMBEDDING)
    other = compare_models(one, two, X, output_kind=OutputKind.EMBEDDING)
    assert (same.agreements, same.distance) == (400, 0)
    by_hand = np.linalg.norm(scores(two) - scores(one), axis=1) / np.linalg.norm(
        scores(one), axis=1
    )
    assert other.distance == pytest.approx(np.median(by_hand), rel=1e-5)
    assert other.agreements == np.sum(by_hand <= 0.05)


def test_projected_outputs_are_marked_as_estimates(tmp_path):
    wide = embedding_model(tmp_path / "w.onnx", width=700)
    items = in_memory(X)
    probes = dataset_probes(items, sampling="first")
    request = RunRequest(wide, OutputKind.EMBEDDING, None, probes)
    kept = Answered.of_run(answer_items(request, items))
    assert kept.answers.shape == (400, 256)  # what a catalog keeps of 700 numbers
    found = compare_answers(kept, kept)
    assert not found.exact
    assert "estimates" in str(found)
    assert compare_models(wide, wide, X).exact  # two files are compared at full width


def test_what_cannot_be_compared_says_why(tmp_path):
    three = tiny_classifier(tmp_path / "3.onnx")
    four = tiny_classifier(tmp_path / "4.onnx", classes=4)
    with pytest.raises(AnalysisError, match="3 classes cannot be matched with 4"):
        compare_models(three, four, X)
    narrow = Answered("vectors", np.zeros((2, 8), np.float32), True, 8, None, None)
    wide = Answered("vectors", np.zeros((2, 9), np.float32), True, 9, None, None)
    with pytest.raises(AnalysisError, match="outputs of 8 and of 9"):
        compare_answers(narrow, wide)
    with pytest.raises(AnalysisError, match="labels cannot be compared with vectors"):
        compare_answers(side([0, 1], None), narrow)
    with pytest.raises(AnalysisError, match="400 inputs for the reference and 399"):
        compare_models(three, three, (X, X[1:]))


def side(answers, names):
    return Answered("labels", np.array(answers, np.uint32), True, None, None, names)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    whole = tiny_classifier(tmp_path / "whole.onnx")
    missing = tmp_path / "missing.onnx"
    with pytest.raises(RejectedModelError, match=r"missing\.onnx: cannot be read"):
        compare_models(whole, missing, X)
    with pytest.raises(RejectedModelError, match=r"missing\.onnx: cannot be read"):
        common_segments(whole, missing)
