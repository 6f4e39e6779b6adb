"""The drift test: false alarms as rare as promised however often one looks, and soon enough."""

from __future__ import annotations

import numpy as np
import pytest

from sommelier.analysis.links.drift import DriftTest, paired, switching_margin
from sommelier.errors import AnalysisError

STREAMS = 2000
SAMPLES = 250


def _scores(rng: np.random.Generator, mean: float, count: int) -> np.ndarray:
    """Of six models two run and four are predicted, right or wrong."""
    return 2 / 6 + rng.binomial(4, 1 - (1 - mean) * 6 / 4, count) / 6


@pytest.mark.parametrize("kind", ["plans", "coins"])
def test_false_alarms_in_stationary_streams_are_rarer_than_alpha(kind: str) -> None:
    rng, alarms, alpha = np.random.default_rng(0), 0, 0.2
    for _ in range(STREAMS):
        plan = kind == "plans"
        scores = _scores(rng, 0.9, SAMPLES) if plan else rng.integers(0, 2, SAMPLES).astype(float)
        test = DriftTest(0.9 if plan else 0.5, alpha=alpha)
        alarms += test.update(scores).verdict == "reselect"  # it looks after every sample
    assert alarms <= alpha * STREAMS


def test_it_looks_after_every_sample_and_an_alarm_stays() -> None:
    test = DriftTest(0.9)
    first = next(n for n in range(1, 100) if test.update(0.0).verdict == "reselect")
    assert first < 20
    assert test.update(np.ones(500)).verdict == "reselect"
    together = DriftTest(0.9).update(np.concatenate([np.zeros(first), np.ones(500)]))
    assert together.verdict == "reselect"
    assert together.mean == pytest.approx(500 / (500 + first))


@pytest.mark.parametrize(("quiet", "after", "most"), [
    (0, 0.6, 15), (500, 0.6, 25), (500, 0.75, 45), (500, 0.82, 120), (2000, 0.75, 50),
])  # fmt: skip
def test_a_drop_is_found_within_the_documented_delay(quiet: int, after: float, most: int) -> None:
    rng, delays = np.random.default_rng(1), []
    for _ in range(21):
        test = DriftTest(0.9)
        test.update(_scores(rng, 0.9, quiet))
        looks = (test.update(_scores(rng, after, 1)).verdict for _ in range(5000))
        delays.append(1 + next(n for n, verdict in enumerate(looks) if verdict == "reselect"))
    assert np.median(delays) <= most


def test_the_evidence_of_a_promise_kept_does_not_grow_on_average() -> None:
    rng = np.random.default_rng(2)
    evidence = [DriftTest(0.9).update(_scores(rng, 0.9, 20)).evidence for _ in range(3000)]
    assert np.mean(evidence) == pytest.approx(1, abs=0.1)  # a martingale that starts at 1


def test_a_margin_tolerates_a_drop_that_is_not_worth_a_switch() -> None:
    rng = np.random.default_rng(3)
    scores = _scores(rng, 0.85, 3000)
    assert DriftTest(0.9).update(scores).verdict == "reselect"
    assert DriftTest(0.9, margin=0.1).update(scores).verdict == "keep"
    assert switching_margin(30, 1000) == pytest.approx(0.03)
    assert switching_margin(30, 20) == 1.0


def test_another_plan_that_became_better_is_found_on_the_same_inputs() -> None:
    rng = np.random.default_rng(4)
    current = _scores(rng, 0.8, 400)
    assert DriftTest(0.5).update(paired(current, _scores(rng, 0.95, 400))).verdict == "reselect"
    assert DriftTest(0.5).update(paired(current, _scores(rng, 0.7, 400))).verdict == "keep"


def test_scores_that_are_none_are_left_out_or_refused() -> None:
    test = DriftTest(0.9)
    assert test.state.samples == 0
    assert np.isnan(test.state.mean)
    assert test.update([0.5, float("nan"), 1.0]).samples == 2
    with pytest.raises(AnalysisError, match=r"lies in \[0, 1\]"):
        test.update([1.5])
    with pytest.raises(AnalysisError, match=r"mean 1\.2"):
        DriftTest(1.2)
    with pytest.raises(AnalysisError, match="in a period of 0"):
        switching_margin(1, 0)
    with pytest.raises(AnalysisError, match="paired scores of shapes"):
        paired([1.0], [1.0, 0.5])
