"""Certified drops cover the truth, come from samples nothing else saw, and decide thresholds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from sommelier.analysis.bounds import Verdict
from sommelier.analysis.fusion.certifying import Certificate, certify, samples_needed
from sommelier.analysis.fusion.distillation import FineTuning, answer, fine_tune
from sommelier.analysis.fusion.lessons import Indices, Lessons, Splits, divide
from sommelier.analysis.links.formats import AnswerFormat
from sommelier.confidence import paired_difference
from sommelier.errors import AnalysisError
from tests.analysis.fusion.toys import TwoLinear, TwoTasks, lessons, logits, numbers

RUNS = 1500
SLACK = 3  # standard deviations of a share of RUNS simulated intervals


def _answers(ids: NDArray[np.int64], width: int) -> NDArray[np.float32]:
    return np.eye(width, dtype=np.float32)[ids]


def _simulated(
    n: int, rates: tuple[float, float, float], rng: np.random.Generator, labelled: bool
) -> Certificate:
    """Two classes; rates : that only the teacher is right, only the fused model, neither."""
    kind = rng.choice(4, n, p=[*rates, 1 - sum(rates)])
    truth = rng.integers(0, 2, n)
    teacher, fused = (
        np.where(np.isin(kind, wrong), 1 - truth, truth) for wrong in ([1, 2], [0, 2])
    )
    every = np.arange(n)
    none: Indices = np.empty(0, dtype=np.int64)
    lessons = Lessons(
        (np.zeros((n, 1)),),
        (_answers(teacher, 2),),
        (logits(2),),
        (truth if labelled else None,),
        Splits(none, none, every),
    )
    return certify(lessons, [_answers(fused, 2)], confidence=0.9)


@pytest.mark.parametrize(
    ("n", "rates"), [(60, (0.02, 0.0, 0.1)), (300, (0.03, 0.02, 0.1)), (300, (0.2, 0.1, 0.1))]
)
@pytest.mark.parametrize("labelled", [True, False])
def test_the_interval_covers_the_true_drop_as_often_as_it_says(
    n: int, rates: tuple[float, float, float], labelled: bool
) -> None:
    rng = np.random.default_rng(0)
    truth = rates[0] - rates[1] if labelled else rates[0] + rates[1]
    drops = [_simulated(n, rates, rng, labelled).drops[0] for _ in range(RUNS)]
    covered = np.mean([drop.interval.contains(truth) for drop in drops])
    above = np.mean([drop.interval.high >= truth for drop in drops])
    assert covered >= 0.9 - SLACK * np.sqrt(0.09 / RUNS)
    assert above >= 0.95 - SLACK * np.sqrt(0.0475 / RUNS)
    assert all(drop.interval.proved for drop in drops)


def test_a_winner_chosen_elsewhere_is_certified_honestly_and_one_chosen_here_is_not() -> None:
    """Of 40 equally bad candidates the one that looks best on a split looks too good on it."""
    rng = np.random.default_rng(0)
    flattered = honest = 0
    for _ in range(300):
        wrong = rng.random((40, 2, 300)) < 0.1  # candidates, splits, samples
        best = int(wrong[:, 0].mean(axis=1).argmin())
        chosen, fresh = wrong[best]
        for side in (chosen, fresh):
            _, _, high = paired_difference(int(side.sum()), 0, 300, 0.9)
            flattered += side is chosen and high < 0.1
            honest += side is fresh and high < 0.1
    assert honest / 300 <= 0.05 + SLACK * np.sqrt(0.0475 / 300)
    assert flattered / 300 > 0.2


def test_only_the_certify_samples_are_looked_at() -> None:
    taught = lessons(TwoTasks(1), (logits(3), logits(4)))
    rows = taught.splits.certify
    module = TwoTasks(2)
    outputs = answer(module, taught.inputs_of(rows))
    before = certify(taught, outputs)
    scrambled = [given.copy() for given in taught.answers]
    others = np.concatenate([taught.splits.fine_tune, taught.splits.select])
    for given in scrambled:
        given[others] = -given[others]
    assert certify(replace(taught, answers=tuple(scrambled)), outputs) == before
    assert not set(others) & set(rows)


def test_the_counts_are_those_of_the_paired_difference() -> None:
    rng = np.random.default_rng(1)
    [drop] = _simulated(500, (0.1, 0.05, 0.2), rng, True).drops
    assert drop.lost is not None
    assert drop.gained is not None
    assert drop.displayed is not None
    point, low, high = paired_difference(drop.lost, drop.gained, 500, 0.9)
    assert drop.drop == pytest.approx(point)
    assert (drop.interval.low, drop.interval.high) == pytest.approx((low, high))
    assert low < drop.displayed.low < point < drop.displayed.high < high
    assert not drop.displayed.proved
    assert drop.measure == "accuracy"


def test_answers_right_in_part_are_bounded_too() -> None:
    format = AnswerFormat("labels", 10, "probabilities")
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (4000, 10))
    teacher, fused = (np.abs(truth - (rng.random(truth.shape) < rate)) for rate in (0.1, 0.2))
    splits = divide(4000, 0)
    for known, measure, expected in ((truth, "score", 0.1), (None, "likeness", 0.26)):
        material = Lessons((truth,), (teacher * 1.0,), (format,), (known,), splits)
        [drop] = certify(material, [fused[splits.certify] * 1.0]).drops
        assert drop.measure == measure
        assert drop.interval.contains(expected)
        assert drop.interval.width < 0.08
        assert drop.interval.proved
        assert drop.lost is drop.displayed is None


def test_numbers_are_certified_by_their_likeness() -> None:
    taught = lessons(TwoLinear(1), (numbers(3), numbers(4)))
    module = TwoLinear(2)
    fine_tune(module, taught, FineTuning(epochs=30, learning_rate=0.02, predictor=None))
    found = certify(taught, answer(module, taught.inputs_of(taught.splits.certify)), side="upper")
    assert found.worst.measure == "likeness"
    assert found.meets(0.05) is Verdict.PASSES
    assert found.worst.interval.low == 0.0


def test_a_threshold_is_held_against_the_upper_end_or_the_drop_itself() -> None:
    [drop] = _simulated(2000, (0.02, 0.01, 0.1), np.random.default_rng(0), True).drops
    between = (drop.drop + drop.interval.high) / 2
    assert drop.meets(between) is Verdict.FAILS
    assert drop.meets(between, upper_end=False) is Verdict.PASSES
    assert drop.meets(drop.interval.high) is Verdict.PASSES
    assert drop.meets(drop.drop - 1e-9, upper_end=False) is Verdict.FAILS


def test_every_task_has_to_meet_the_threshold() -> None:
    taught = lessons(TwoTasks(1), (logits(3), logits(4)), n=3000)
    rows = taught.splits.certify
    same = [given[rows] for given in taught.answers]
    assert certify(taught, same).meets(0.01) is Verdict.PASSES
    broken = [same[0], -same[1]]
    found = certify(taught, broken)
    assert found.drops[0].meets(0.01) is Verdict.PASSES
    assert found.meets(0.01) is Verdict.FAILS
    assert found.worst is found.drops[1]


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("side", ["two", "upper"])
def test_the_samples_needed_are_enough_and_one_less_is_not(labelled: bool, side: str) -> None:
    needed = samples_needed(0.01, labelled=labelled, side=side)  # type: ignore[arg-type]  # a side

    def perfect(n: int) -> Verdict:
        none: Indices = np.empty(0, dtype=np.int64)
        ids = np.zeros(n, dtype=np.int64)
        material = Lessons(
            (np.zeros((n, 1)),),
            (_answers(ids, 2),),
            (logits(2),),
            (ids if labelled else None,),
            Splits(none, none, np.arange(n)),
        )
        return certify(material, [_answers(ids, 2)], side=side).meets(0.01)  # type: ignore[arg-type]  # a side

    assert perfect(needed) is Verdict.PASSES
    assert perfect(needed - 1) is Verdict.UNDECIDABLE
    if side == "upper" and not labelled:
        assert needed == 299  # algorithms.md F.5


def test_several_candidates_widen_the_interval_of_each() -> None:
    taught = lessons(TwoTasks(1), (logits(3), logits(4)))
    outputs = answer(TwoTasks(2), taught.inputs_of(taught.splits.certify))
    one, five = (certify(taught, outputs, candidates=k).worst.interval for k in (1, 5))
    assert five.low < one.low < one.high < five.high
    assert one.confidence == five.confidence == 0.95


def test_outputs_of_other_samples_are_refused() -> None:
    taught = lessons(TwoTasks(1), (logits(3), logits(4)))
    with pytest.raises(AnalysisError):
        certify(taught, [given[:10] for given in taught.answers])
