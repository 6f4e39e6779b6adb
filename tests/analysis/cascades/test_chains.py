from __future__ import annotations

from itertools import pairwise
from math import inf

import numpy as np
import pytest

from sommelier.analysis.bounds import shown_below
from sommelier.analysis.cascades.chains import FACTORS, lowest, thresholds_at
from sommelier.analysis.cascades.paths import answering
from sommelier.analysis.cascades.thresholds import GRID, gain_passes, kept_within
from sommelier.confidence import largest_count_upper_below


def drawn(seed: int, stages: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(scores, losses) in which surer answers lose less, ties and missing scores among them."""
    rng = np.random.default_rng(seed)
    scores = [np.round(rng.uniform(size=300), 2) for _ in range(stages)]
    lost = [(rng.uniform(size=300) < 0.5 * (1 - s)).astype(float) for s in scores]
    scores[0][rng.uniform(size=300) < 0.05] = np.nan
    return scores, lost


@pytest.mark.parametrize("loss", ["disagreement", "accuracy drop", "loss"])
@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_a_chain_stops_where_testing_every_place_of_the_grid_in_turn_stops(
    loss: str, factor: float, stages: int
) -> None:
    rng = np.random.default_rng(stages)
    scores, losses = drawn(stages, stages)
    if loss == "accuracy drop":
        losses = [one * np.where(rng.uniform(size=300) < 0.7, 1, -1) for one in losses]
    if loss == "loss":
        losses = [one * rng.uniform(size=300) for one in losses]
    found = lowest(
        scores,
        losses,
        factor=factor,
        at_most=0.1,
        confidence=0.9,
        loss=loss,  # type: ignore[arg-type]
    )
    allowed = largest_count_upper_below(300, 0.1, 1 - 0.9)
    accepted = (inf,) * stages
    for u in GRID:
        thresholds = thresholds_at(float(u), stages, factor)
        stage = answering(scores, thresholds)
        lost = np.zeros(300)
        for k, values in enumerate(losses):
            lost[stage == k] = values[stage == k]
        if loss == "disagreement":
            passes = lost.sum() <= allowed
        elif loss == "accuracy drop":
            counts = [(lost > 0).sum()], [(lost < 0).sum()]
            passes = gain_passes(*counts, 300, at_most=0.1, confidence=0.9)[0]
        else:
            passes = shown_below(lost[None], 0.1, 1 - 0.9)[0]
        if not passes:
            break
        accepted = thresholds
    assert found == accepted
    assert found[0] < inf


def test_all_thresholds_of_a_chain_fall_together_to_minus_infinity() -> None:
    for factor in FACTORS:
        for above, below in pairwise(GRID):
            high, low = (thresholds_at(float(u), 2, factor) for u in (above, below))
            assert all(x >= y for x, y in zip(high, low, strict=True))
        assert thresholds_at(-inf, 2, factor) == (-inf, -inf)
        assert thresholds_at(inf, 2, factor) == (inf, inf)


def test_a_chain_of_one_student_comes_near_the_exact_test() -> None:
    rng = np.random.default_rng(0)
    score = rng.uniform(size=2_000)
    lost = (rng.uniform(size=2_000) < 0.4 * (1 - score) ** 2).astype(float)
    exact = kept_within(score, lost, at_most=0.03, confidence=0.9)
    (chained,) = lowest(
        [score], [lost], factor=1.0, at_most=0.03, confidence=0.9, loss="disagreement"
    )
    assert 0 <= (score >= exact.value).mean() - (score >= chained).mean() < 0.02


def test_too_few_samples_stop_a_chain_before_it_begins() -> None:
    found = lowest(
        [np.full(20, 0.9)] * 2, [np.zeros(20)] * 2,
        factor=1.0, at_most=0.01, confidence=0.95, loss="disagreement",
    )  # fmt: skip
    assert found == (inf, inf)
