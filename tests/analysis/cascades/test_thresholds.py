from __future__ import annotations

from collections.abc import Callable
from math import ceil, inf, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sommelier.analysis.cascades.thresholds import (
    GRID,
    Falling,
    Threshold,
    gained_within,
    graded_within,
    kept_within,
    needed,
)
from sommelier.confidence import lower_bound, upper_bound
from sommelier.errors import AnalysisError
from tests.analysis.cascades.populations import drawn, drop, risk

samples = st.lists(
    st.tuples(st.sampled_from([0.1, 0.2, 0.35, 0.5, 0.9, float("nan")]), st.booleans()),
    min_size=1,
    max_size=60,
)


@given(samples, st.sampled_from([0.05, 0.2, 0.4]))
@settings(max_examples=200, deadline=None)
def test_a_threshold_keeps_as_much_as_brute_force_finds(
    given_: list[tuple[float, bool]], at_most: float
) -> None:
    scores, lost = np.array([s for s, _ in given_]), np.array([x for _, x in given_])
    found = kept_within(scores, lost, at_most=at_most, confidence=0.9)
    best = 0
    for threshold in [-inf, *scores[~np.isnan(scores)], inf]:
        kept = scores >= threshold
        if upper_bound(int((lost & kept).sum()), len(scores), 0.1) <= at_most:
            best = max(best, int(kept.sum()))
    assert int((scores >= found.value).sum()) == best
    assert found.kept == best / len(scores)
    assert found.lost == (lost & (scores >= found.value)).mean()


@given(samples, st.data())
@settings(max_examples=15, deadline=None)
def test_an_accuracy_threshold_is_the_one_that_a_loop_over_the_grid_finds(
    given_: list[tuple[float, bool]], data: st.DataObject
) -> None:
    scores = np.array([s for s, _ in given_] * 6)
    change = np.array(
        data.draw(
            st.lists(st.sampled_from([-1, 0, 0, 1]), min_size=len(scores), max_size=len(scores))
        )
    )
    found = gained_within(scores, change, at_most=0.1, confidence=0.8)
    accepted = inf
    for threshold in GRID:
        kept = scores >= threshold
        most = upper_bound(int((change[kept] > 0).sum()), len(scores), 0.75 * 0.2)
        least = lower_bound(int((change[kept] < 0).sum()), len(scores), 0.25 * 0.2)
        if most - least > 0.1:
            break
        accepted = threshold
    assert (scores >= found.value).tolist() == (scores >= accepted).tolist()


@pytest.mark.parametrize(
    ("within", "column", "truth"),
    [(kept_within, 1, risk), (graded_within, 1, risk), (gained_within, 2, drop)],
)
def test_the_true_risk_exceeds_the_promise_no_more_often_than_said(
    within: Callable[..., Threshold], column: int, truth: Callable[[float], float]
) -> None:
    rng, runs, confidence, at_most = np.random.default_rng(1), 300, 0.8, 0.02
    broken, kept = 0, []
    for _ in range(runs):
        population = drawn(rng, 600)
        found = within(population[0], population[column], at_most=at_most, confidence=confidence)
        broken += truth(found.value) > at_most
        kept.append(found.kept)
    allowed = (1 - confidence) * runs + 3 * np.sqrt(runs * confidence * (1 - confidence))
    assert broken <= allowed
    assert np.mean(kept) > 0.25  # the promise is not kept by keeping nothing


def test_looking_for_the_lowest_threshold_costs_nothing_when_risk_is_monotone() -> None:
    """At n = 600 and 20 % risk the exact test is wrong nearly as often as it may be."""
    rng, runs = np.random.default_rng(2), 400
    broken = sum(
        risk(kept_within(*drawn(rng, 600)[:2], at_most=0.02, confidence=0.8).value) > 0.02
        for _ in range(runs)
    )
    assert 0.08 * runs < broken <= 0.2 * runs + 3 * np.sqrt(runs * 0.16)


@pytest.mark.parametrize(("loss", "risk_share"), [("disagreement", 1.0), ("accuracy drop", 0.75)])
def test_the_samples_needed_are_the_fewest_that_pass_without_a_loss(
    loss: str, risk_share: float
) -> None:
    count = needed(0.01, 0.95, loss=loss)
    assert count == ceil(log(0.05 * risk_share) / log(0.99))
    within = kept_within if loss == "disagreement" else gained_within
    for n, passes in ((count, True), (count - 1, False)):
        found = within(np.linspace(0, 1, n), np.zeros(n), at_most=0.01, confidence=0.95)
        assert (found.value < inf) is passes


def test_the_samples_needed_for_graded_losses_are_the_fewest_a_gambler_wins_on() -> None:
    count = needed(0.05, 0.9, loss="loss")
    for n, passes in ((count, True), (count - 1, False)):
        found = graded_within(np.linspace(0, 1, n), np.zeros(n), at_most=0.05, confidence=0.9)
        assert (found.value < inf) is passes


def test_nothing_is_kept_of_too_few_samples() -> None:
    found = kept_within([0.9] * 100, [False] * 100, at_most=0.01, confidence=0.95)
    assert (found.value, found.kept) == (inf, 0.0)


def test_a_student_that_never_differs_keeps_every_input_with_a_score() -> None:
    scores = np.append(np.linspace(0, 1, 999), np.nan)
    found = kept_within(scores, np.zeros(1000), at_most=0.01, confidence=0.95)
    assert (found.value, found.kept) == (-inf, 0.999)


@pytest.mark.parametrize("within", [kept_within, gained_within, graded_within])
def test_scores_without_any_value_keep_nothing(within: Callable[..., Threshold]) -> None:
    assert within([np.nan] * 500, np.zeros(500), at_most=0.1, confidence=0.9).kept == 0


def test_a_threshold_lies_between_two_scores_so_that_roundings_do_not_matter() -> None:
    scores, lost = np.repeat([0.9, 0.5, 0.1], 400), np.repeat([0, 0, 1], 400)
    found = kept_within(scores, lost, at_most=0.02, confidence=0.95)
    assert found.value == pytest.approx(0.3)


def test_thresholds_of_the_grid_are_dense_where_scores_are() -> None:
    assert (np.diff(GRID) < 0).all()
    assert GRID[-1] == -inf
    for centre in (0.0, 1.0):
        near = np.abs(GRID - centre)
        near = np.sort(near[(near > 1e-9) & (near < 0.4)])
        assert (near[1:] / near[:-1]).max() < 1.03


@pytest.mark.parametrize("wrong", [{"at_most": 0.0}, {"at_most": 1.0}, {"confidence": 1.0}])
def test_what_cannot_be_promised_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(AnalysisError, match="cannot be promised"):
        kept_within([0.5], [0.0], **{"at_most": 0.1, "confidence": 0.9, **wrong})


def test_groups_hold_all_samples_of_one_score() -> None:
    falling = Falling.of([0.5, np.nan, 0.9, 0.5])
    assert falling.values.tolist() == [0.9, 0.5]
    assert falling.ends.tolist() == [1, 3]
    assert falling.sums([1, 10, 2, 4]).tolist() == [2, 7]
