"""Samples on which two models differ: the same as counting by hand, the surest first."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sommelier.analysis.answers import top_k
from sommelier.analysis.differences import (
    Side,
    disagreements,
    run_disagreements,
    stored_disagreements,
)
from sommelier.analysis.labels import label_space
from sommelier.analysis.quality.answered import Answered
from sommelier.errors import AnalysisError
from sommelier.records import NO_ANSWER, OutputSketch
from tests.factories import embedding_model, tiny_classifier

NAMES = ("ant", "bee", "cat", "dog")


def side(scores, names=None):
    ids, best = top_k(scores)
    space = None if names is None else label_space("animals", names)
    answers = Answered("labels", ids[:, 0], True, scores.shape[1], ids, space)
    return Side(answers, best)


def sketch(scores, probe_set="p"):
    ids, best = top_k(scores)
    return OutputSketch(
        "m", probe_set, "labels", ids[:, 0].tobytes(), 1, True, None, scores.shape[1],
        ids.tobytes(), best.tobytes(),
    )  # fmt: skip


def random_scores(seed, samples=200):
    return np.random.default_rng(seed).normal(size=(samples, 4)).astype(np.float32)


def test_the_rows_are_all_samples_answered_differently():
    a, b = random_scores(0), random_scores(1)
    found = disagreements(side(a), side(b), limit=None)
    wanted = np.flatnonzero(a.argmax(1) != b.argmax(1))
    assert sorted(row.index for row in found.rows) == wanted.tolist()
    assert (found.total, found.samples) == (len(wanted), 200)
    for row in found.rows:
        assert row.reference == str(a[row.index].argmax())
        assert row.candidate == str(b[row.index].argmax())


def test_both_sure_and_different_come_first():
    """Order by brute force: the smaller of both ranks of margin among all samples."""
    a, b = random_scores(0), random_scores(1) * 50  # units of the scores do not matter
    found = disagreements(side(a), side(b), limit=None)

    def ranks(scores):
        ordered = np.sort(scores, axis=1)
        margin = (ordered[:, -1].astype("f2") - ordered[:, -2].astype("f2")).astype("f8")
        return np.array([np.mean(margin <= m) for m in margin])

    low = np.minimum(ranks(a), ranks(b))
    order = [low[row.index] for row in found.rows]
    assert np.all(np.diff(order) <= 0.011)  # scores are kept with half precision
    first = found.rows[0]
    assert first.reference_certainty is not None
    assert first.candidate_certainty is not None
    assert min(first.reference_certainty, first.candidate_certainty) == pytest.approx(
        low[first.index], abs=0.02
    )


def test_a_limit_keeps_the_surest():
    a, b = random_scores(0), random_scores(1)
    everything = disagreements(side(a), side(b), limit=None)
    assert disagreements(side(a), side(b), limit=3).rows == everything.rows[:3]


def test_classes_are_matched_by_name_and_shown_by_name():
    a = random_scores(0)
    order = [2, 0, 3, 1]
    same = disagreements(side(a, NAMES), side(a[:, order], [NAMES[k] for k in order]))
    assert same.total == 0
    b = random_scores(1)
    found = disagreements(side(a, NAMES), side(b[:, order], [NAMES[k] for k in order]), limit=None)
    assert found.total == np.sum(a.argmax(1) != b.argmax(1))
    row = found.rows[0]
    assert row.reference == NAMES[a[row.index].argmax()]
    assert row.candidate == NAMES[b[row.index].argmax()]


def test_truth_says_who_is_right():
    a, b = random_scores(0), random_scores(1)
    truth = np.random.default_rng(2).integers(-1, 4, 200).astype(np.int32)
    found = disagreements(side(a, NAMES), side(b, NAMES), truth=truth, limit=None)
    for row in found.rows:
        label = truth[row.index]
        if label < 0:
            assert (row.truth, row.right) == (None, None)
            continue
        wanted = (
            "reference" if a[row.index].argmax() == label
            else "candidate" if b[row.index].argmax() == label else "neither"
        )  # fmt: skip
        assert (row.truth, row.right) == (NAMES[label], wanted)


def test_indices_are_those_of_the_dataset():
    a, b = random_scores(0, 20), random_scores(1, 20)
    places = np.arange(20) * 7 + 3
    found = disagreements(side(a), side(b), indices=places, limit=None)
    plain = disagreements(side(a), side(b), limit=None)
    assert [row.index for row in found.rows] == [row.index * 7 + 3 for row in plain.rows]


def test_stored_answers_say_the_same_as_fresh_ones():
    a, b = random_scores(0), random_scores(1)
    space = label_space("animals", NAMES)
    stored = stored_disagreements(sketch(a), sketch(b), label_spaces=(space, space), limit=None)
    assert stored.rows == disagreements(side(a, NAMES), side(b, NAMES), limit=None).rows


def test_a_run_says_the_same_as_its_answers(tmp_path):
    one = tiny_classifier(tmp_path / "one.onnx", seed=0)
    other = tiny_classifier(tmp_path / "other.onnx", seed=1)
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    found = run_disagreements(one, other, x, labels=np.zeros(64, int), limit=None)
    by_name = run_disagreements(one, other, {"x": x}, labels=np.zeros(64, int), limit=None)
    assert found.names == ("one", "other")
    assert 0 < found.total < 64
    assert [row.index for row in found.rows] == [row.index for row in by_name.rows]
    assert all(row.truth is not None and row.right is not None for row in found.rows)


def test_no_answer_differs_from_every_answer():
    a = random_scores(0, 5)
    ours = side(a)
    silent = ours.answered.answers.copy()
    silent[2] = NO_ANSWER
    theirs = Side(Answered("labels", silent, True, 4, None, None))
    found = disagreements(ours, theirs)
    assert [(row.index, row.candidate) for row in found.rows] == [(2, "no answer")]
    assert found.rows[0].candidate_score is None


def test_models_without_scores_are_listed_in_order():
    one = Side(Answered("labels", np.array([0, 1, 2], np.uint32), True, None, None, None))
    other = Side(Answered("labels", np.array([1, 1, 0], np.uint32), True, None, None, None))
    found = disagreements(one, other)
    assert [row.index for row in found.rows] == [0, 2]
    assert found.rows[0].reference_certainty is None


def test_vectors_are_ordered_by_distance(tmp_path):
    one = embedding_model(tmp_path / "one.onnx", seed=0)
    other = embedding_model(tmp_path / "other.onnx", seed=1)
    x = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    found = run_disagreements(one, other, x, limit=None)
    distances = [row.distance for row in found.rows]
    assert distances == sorted(distances, reverse=True)
    assert found.total == len(distances) > 0


def test_text_and_data():
    found = disagreements(side(random_scores(0), NAMES), side(random_scores(1), NAMES), limit=4)
    assert len(str(found).splitlines()) == 6
    assert json.loads(json.dumps(found.as_dict()))["total"] == found.total


def test_what_cannot_be_compared_is_refused():
    a = random_scores(0)
    with pytest.raises(AnalysisError, match=r"different numbers of samples \(200 and 10\)"):
        disagreements(side(a), side(a[:10]))
    with pytest.raises(AnalysisError, match="different probe sets"):
        stored_disagreements(sketch(a), sketch(a, "other"))
    vectors = Side(Answered("vectors", a, True, 4, None, None))
    with pytest.raises(AnalysisError, match="labels cannot be compared with vectors"):
        disagreements(side(a), vectors)
