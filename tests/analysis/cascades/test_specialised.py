from __future__ import annotations

import numpy as np
import pytest

from sommelier.analysis.cascades.calibration import Options, Target, calibrate, disagreement
from sommelier.analysis.cascades.members import Member
from sommelier.analysis.cascades.scores import SCORES, class_score
from sommelier.analysis.cascades.specialised import (
    Spread,
    Training,
    grouped,
    popular_classes,
    specialise,
)
from sommelier.analysis.probabilities import softmax
from sommelier.errors import AnalysisError

torch = pytest.importorskip("torch")

CLASSES, POPULAR = 6, (4, 1)


def task(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(inputs (n, 2), a teacher's logits (n, 6), labels): six blobs on a circle; three of four
    inputs are of the popular classes."""
    popular = rng.uniform(size=n) < 0.75
    labels = np.where(popular, rng.choice(POPULAR, n), rng.choice([0, 2, 3, 5], n))
    angles = 2 * np.pi * np.arange(CLASSES) / CLASSES
    centres = 5 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    inputs = centres[labels] + 0.7 * rng.normal(size=(n, 2))
    logits = -((inputs[:, None] - centres[None]) ** 2).sum(axis=2)
    return inputs.astype(np.float32), logits, labels


def network(outputs: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(2, 16), torch.nn.ReLU(), torch.nn.Linear(16, outputs)
    )


@pytest.mark.parametrize("labelled", [False, True])
def test_a_specialised_student_learns_the_popular_classes_and_sends_on_the_others(
    labelled: bool,
) -> None:
    rng = np.random.default_rng(0)
    inputs, logits, labels = task(rng, 2_000)
    student = specialise(
        network(3), inputs, logits, POPULAR,
        labels=labels if labelled else None, training=Training(epochs=15),
    )  # fmt: skip
    inputs, logits, labels = task(rng, 2_000)
    answers = student.logits(inputs)
    popular = np.isin(labels, POPULAR)
    other = answers.argmax(axis=1) == len(POPULAR)
    assert other[~popular].mean() > 0.9
    assert other[popular].mean() < 0.1
    found = student.member("s", inputs, flops=1.0)
    kept = ~other
    assert (found.ids[kept] == logits.argmax(axis=1)[kept]).mean() > 0.97
    assert set(found.ids.tolist()) <= set(POPULAR)
    assert (np.isnan(found.scores["paper"]) == other).all()


def test_a_specialised_student_serves_in_a_cascade_with_a_promise() -> None:
    rng = np.random.default_rng(1)
    inputs, logits, _ = task(rng, 2_000)
    student = specialise(network(3), inputs, logits, POPULAR, training=Training(epochs=15))
    inputs, logits, _ = task(rng, 2_000)
    pair = [
        student.member("s", inputs, flops=1.0),
        Member("teacher", logits.argmax(axis=1), {}, 20.0),
    ]
    found = calibrate(pair, disagreement(pair), Target(0.03), options=Options(("popular", "paper")))
    assert 0.4 < found.answered[0] < 0.8  # three quarters are popular
    assert found.flops_share is not None
    assert found.flops_share < 0.65


def test_training_depends_on_its_seed_only() -> None:
    inputs, logits, _ = task(np.random.default_rng(0), 300)
    answers = [
        specialise(network(3), inputs, logits, POPULAR, training=Training(2, seed=seed)).logits(
            inputs
        )
        for seed in (0, 0, 1)
    ]
    assert np.array_equal(answers[0], answers[1])
    assert not np.array_equal(answers[0], answers[2])


def test_all_other_classes_are_one() -> None:
    shares = np.array([[0.1, 0.2, 0.3, 0.4]])
    assert np.allclose(grouped(shares, [3, 0]), [[0.4, 0.1, 0.5]])


@pytest.mark.parametrize("classes", [[], [0, 0], [6], list(range(6))])
def test_classes_that_a_student_cannot_be_specialised_in_are_refused(classes: list[int]) -> None:
    inputs, logits, _ = task(np.random.default_rng(0), 20)
    with pytest.raises(AnalysisError, match="of a teacher of 6"):
        specialise(network(3), inputs, logits, classes)


def test_unknown_labels_are_not_learned() -> None:
    """With nearly all of them unknown the teacher's half of the loss is what is left."""
    inputs, logits, labels = task(np.random.default_rng(0), 600)
    few = np.where(np.arange(600) < 5, labels, -1)
    found = {
        name: specialise(network(3), inputs, logits, POPULAR, labels=given, training=Training(20))
        .logits(inputs)
        for name, given in (("wrong", (labels + 1) % CLASSES), ("few", few), ("none", None))
    }  # fmt: skip
    far, near = (np.abs(found[name] - found["none"]).mean() for name in ("wrong", "few"))
    assert near < 0.25 * far


def test_a_callback_is_told_of_every_epoch() -> None:
    inputs, logits, _ = task(np.random.default_rng(0), 50)
    heard: list[int] = []
    specialise(network(3), inputs, logits, POPULAR, training=Training(3), told=heard.append)
    assert heard == [1, 2, 3]


@pytest.mark.parametrize(
    ("share", "found"), [(0.5, (2,)), (0.51, (2, 0)), (0.8, (2, 0)), (1.0, (2, 0, 1))]
)
def test_popular_classes_are_the_fewest_that_cover_a_share(
    share: float, found: tuple[int, ...]
) -> None:
    answers = [2] * 5 + [0] * 3 + [1] + [3]
    assert popular_classes(answers, 4, share) == found


# ---- a student's answers in its teacher's classes


def some_logits(outputs: int) -> np.ndarray:
    return 3 * np.random.default_rng(3).normal(size=(400, outputs))


def test_other_is_shared_out_over_the_classes_left() -> None:
    logits = some_logits(3)
    wide = softmax(Spread.of((4, 1), 6)(logits))
    own = softmax(logits)
    sure = logits.argmax(axis=1) < 2
    np.testing.assert_allclose(wide[sure][:, [4, 1]], own[sure][:, :2], rtol=1e-6)
    np.testing.assert_allclose(
        wide[sure][:, [0, 2, 3, 5]], np.repeat(own[sure][:, 2:] / 4, 4, axis=1), rtol=1e-6
    )


@pytest.mark.parametrize("score", SCORES)
def test_no_score_is_lower_than_that_of_an_answer_other(score: str) -> None:
    logits = some_logits(3)
    wide = Spread.of((4, 1), 6)(logits)
    other = logits.argmax(axis=1) == 2
    scores = class_score(score, wide)
    assert scores[other].max() < scores[~other].min()
    assert set(wide[other].argmax(axis=1)) <= {0, 2, 3, 5}


def test_a_single_class_that_is_left_is_what_other_means() -> None:
    logits = some_logits(3)
    assert np.array_equal(Spread.of((2, 0), 3)(logits)[:, [2, 0, 1]], logits)
