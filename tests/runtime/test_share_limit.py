"""ESCALATE AT MOST while inputs change: the share that is sent on, against its bound."""

from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest

from sommelier.cascade_records import CascadePlan, CascadePromise, CascadeStage
from sommelier.runtime.cascade import Cascade
from sommelier.runtime.cascade_runner import logits_of
from sommelier.runtime.share_limit import STEP, ShareLimit

N = 20_000


def sent_on(limit: ShareLimit, scores: np.ndarray) -> np.ndarray:
    """Which of the inputs, one a request, are sent on."""
    sent = np.zeros(len(scores), bool)
    for k, score in enumerate(scores):
        one = np.array([score])
        kept = one >= limit.threshold
        limit.follow(one, kept)
        sent[k] = not kept[0]
    return sent


SEQUENCES = {
    "even": np.random.default_rng(0).random(N),
    "sure, then not": np.r_[np.full(N // 2, 0.99), 0.2 * np.random.default_rng(1).random(N // 2)],
    "all the same": np.ones(N),
    "falling": np.linspace(1, 0, N),
    "in turn": np.tile([0.0, 1.0], N // 2),
}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("scores", SEQUENCES.values(), ids=list(SEQUENCES))
def test_of_any_inputs_the_first_n_send_on_at_most_the_share_and_a_constant(
    scores: np.ndarray, share: float
) -> None:
    start = 0.6
    counted = np.cumsum(sent_on(ShareLimit(share, start), scores))
    bound = share * np.arange(1, N + 1) + start / STEP + 1  # the least score is 0
    assert (counted <= bound).all()


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_the_share_is_used_where_inputs_allow_it(share: float) -> None:
    scores = np.random.default_rng(2).beta(5, 1, N)
    sent = sent_on(ShareLimit(share, share), scores)
    assert sent[N // 4 :].mean() == pytest.approx(share, abs=0.005)


def test_a_threshold_that_was_proved_is_never_exceeded() -> None:
    stage = CascadeStage("m", "margin", 0.5, quantiles=tuple(np.linspace(0, 1, 101)), samples=100)
    limit = ShareLimit.of(stage, 0.1, proved=True)
    assert limit.threshold == pytest.approx(0.1)
    sure = sent_on(limit, np.full(N, 0.99))
    assert not sure.any()
    assert limit.threshold == 0.5


def test_inputs_without_a_score_move_nothing_and_a_share_of_nothing_sends_nothing_on() -> None:
    limit = ShareLimit(0.1, 0.4)
    assert sent_on(limit, np.full(50, nan)).all()
    assert limit.threshold == 0.4
    none = ShareLimit(0.0, 0.4)
    assert not sent_on(none, np.random.default_rng(0).random(1000) - 5).any()
    assert none.threshold == -inf


def test_a_step_is_a_part_of_what_scores_span() -> None:
    wide = tuple(np.linspace(-300, 700, 101))
    limit = ShareLimit.of(CascadeStage("m", "free_energy", 50.0, quantiles=wide), 0.1, proved=False)
    limit.follow(np.array([0.0]), np.array([False]))
    assert limit.threshold == pytest.approx(50 - 0.9 * STEP * 1000)


def plan(threshold: float, promise: CascadePromise | None = None) -> CascadePlan:
    rising = tuple(np.linspace(0, 1, 101))
    stage = CascadeStage("m", "margin", threshold, quantiles=rising, samples=100_000)
    return CascadePlan((stage, CascadeStage("last")), promise)


def logits_of_margin(margins: np.ndarray) -> np.ndarray:
    """Logits of two classes whose probabilities lie so far apart."""
    return np.log(np.stack([1 + margins, 1 - margins], axis=1) / 2)


def test_a_cascade_follows_its_inputs_promises_nothing_and_still_sees_drift() -> None:
    promise = CascadePromise("disagreement", 0.01, 0.95, 100_000)
    cascade = Cascade(plan(0.8, promise), at_most=0.2)
    assert cascade.thresholds == (0.2,)
    assert cascade.plan.promise is None
    rng = np.random.default_rng(3)
    for _ in range(4_000):
        cascade.route(0, logits_of_margin(rng.random(1)))
    assert cascade.answered[0] / sum(cascade.answered) == pytest.approx(0.8, abs=0.02)
    assert cascade.drift == ()
    for _ in range(4_000):  # less sure than any sample
        cascade.route(0, logits_of_margin(0.2 * rng.random(1)))
    assert cascade.answered[0] / sum(cascade.answered) == pytest.approx(0.8, abs=0.02)
    assert cascade.thresholds[0] < 0.15
    (found,) = cascade.drift
    assert found.kept < found.low


def test_thresholds_that_are_set_by_hand_are_where_it_goes_on() -> None:
    cascade = Cascade(plan(0.3), at_most=0.5)
    cascade.thresholds = (0.9,)
    assert cascade.thresholds == (0.9,)
    cascade.route(0, logits_of_margin(np.array([0.1])))
    assert cascade.thresholds == pytest.approx((0.9 - 0.5 * STEP,))


def test_a_switch_to_the_same_plan_goes_on_where_the_inputs_have_led() -> None:
    old, same, other = (Cascade(plan(start), at_most=0.5) for start in (0.3, 0.3, 0.4))
    old.route(0, logits_of_margin(np.random.default_rng(0).random(50)))
    assert old.thresholds != (0.3,)
    same.resume(old)
    assert same.thresholds == old.thresholds
    other.resume(old)
    assert other.thresholds == (0.4,)
    fixed = Cascade(plan(0.3))
    fixed.resume(old)
    assert fixed.thresholds == (0.3,)


def test_answers_of_an_unknown_format_are_probabilities_where_rows_sum_to_one() -> None:
    shares = np.array([[0.7, 0.2, 0.1], [0.0, 0.5, 0.5]])
    np.testing.assert_allclose(np.exp(logits_of(shares, None)), shares)
    logits = np.array([[0.7, 0.2, 0.1], [1.0, 0.5, 0.5]])
    np.testing.assert_array_equal(logits_of(logits, None), logits)
