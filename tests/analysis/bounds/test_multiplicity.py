"""Corrections against step-by-step definitions and by simulation; splits; undecidability."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sommelier.analysis.bounds import (
    Verdict,
    adjusted,
    bound,
    judge,
    p_values,
    samples_needed,
    split,
)
from sommelier.confidence import lower_bound
from sommelier.errors import AnalysisError
from tests.analysis.bounds.coverage import least_coverage

MANY = np.random.default_rng(1).random(40) ** 4


def rejected_by_definition(p, correction, alpha):
    """The textbook procedures, one step at a time."""
    order, count = np.argsort(p), len(p)
    rejected = np.zeros(count, dtype=bool)
    if correction == "bonferroni":
        return p <= alpha / count
    if correction == "holm":
        for step, one in enumerate(order):
            if p[one] > alpha / (count - step):
                break
            rejected[one] = True
        return rejected
    share = alpha / (sum(1 / i for i in range(1, count + 1)) if correction == "by" else 1)
    passing = [i for i, one in enumerate(order, start=1) if p[one] <= share * i / count]
    rejected[order[: max(passing, default=0)]] = True
    return rejected


@pytest.mark.parametrize("correction", ["bonferroni", "holm", "bh", "by"])
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.3])
def test_adjusted_p_values_reject_what_the_procedure_rejects(correction, alpha):
    found = adjusted(MANY, correction) <= alpha
    assert np.array_equal(found, rejected_by_definition(MANY, correction, alpha))
    assert np.any(found)


@pytest.mark.parametrize("correction", ["bh", "by"])
def test_false_discovery_adjustments_are_scipys(correction):
    expected = stats.false_discovery_control(MANY, method=correction)
    assert adjusted(MANY, correction) == pytest.approx(expected)


def test_corrections_are_ordered_by_how_much_they_ask():
    none, bh, holm, bonferroni = (adjusted(MANY, c) for c in ("none", "bh", "holm", "bonferroni"))
    assert np.all(none <= bh)
    assert np.all(bh <= holm + 1e-15)
    assert np.all(holm <= bonferroni)
    assert len(adjusted([], "holm")) == 0


def test_p_values_are_binomial_tails_and_agree_with_clopper_pearson():
    k, n, threshold, alpha = np.arange(101), 100, 0.8, 0.05
    found = p_values(k, n, threshold)
    assert found == pytest.approx(stats.binom.sf(k - 1, n, threshold), abs=1e-12)
    assert np.array_equal(found <= alpha, lower_bound(k, n, alpha) >= threshold)


@pytest.mark.parametrize("correction", ["bonferroni", "holm"])
def test_familywise_corrections_seldom_let_a_bad_model_through(correction):
    rng, draws = np.random.default_rng(0), 600
    false = 0
    for _ in range(draws):
        k = np.concatenate([rng.binomial(1000, 0.95, 180), rng.binomial(1000, 0.98, 20)])
        verdicts = judge(k, 1000, 0.95, correction=correction)
        false += Verdict.PASSES in verdicts[:180]
    assert false / draws <= 1 - least_coverage(0.95, draws)


def test_without_correction_some_bad_model_nearly_always_passes():
    rng = np.random.default_rng(0)
    passed = [Verdict.PASSES in judge(rng.binomial(1000, 0.95, 200), 1000, 0.95, correction="none")
              for _ in range(50)]  # fmt: skip
    assert np.mean(passed) > 0.95


@pytest.mark.parametrize("correction", ["bh", "by"])
def test_the_share_of_false_discoveries_is_controlled(correction):
    rng, shares = np.random.default_rng(2), []
    for _ in range(400):
        k = np.concatenate([rng.binomial(1000, 0.95, 100), rng.binomial(1000, 0.97, 100)])
        passed = [v is Verdict.PASSES for v in judge(k, 1000, 0.95, correction=correction)]
        shares.append(sum(passed[:100]) / max(sum(passed), 1))
    assert np.mean(shares) <= 0.05 + 3 * np.std(shares) / np.sqrt(len(shares))


@pytest.mark.parametrize(("threshold", "n"), [(0.99, 299), (0.98, 149), (0.95, 59), (0.9, 29)])
def test_too_few_samples_leave_perfect_candidates_undecided(threshold, n):
    # algorithms.md A.4: the fewest probes without a disagreement
    assert samples_needed(threshold) == n
    few = judge([n - 1, 0], n - 1, threshold, correction="none")
    assert few == (Verdict.UNDECIDABLE, Verdict.FAILS)
    assert judge([n], n, threshold, correction="none") == (Verdict.PASSES,)


@pytest.mark.parametrize("correction", ["bonferroni", "holm", "bh", "by"])
def test_a_correction_raises_the_number_of_samples_it_takes(correction):
    enough = {
        "bonferroni": samples_needed(0.95, candidates=20),
        "holm": samples_needed(0.95, candidates=20),
        "bh": samples_needed(0.95),
        "by": samples_needed(0.95, confidence=1 - 0.05 / sum(1 / i for i in range(1, 21))),
    }[correction]
    assert set(judge([enough] * 20, enough, 0.95, correction=correction)) == {Verdict.PASSES}
    fewer = enough - 1
    assert set(judge([fewer] * 20, fewer, 0.95, correction=correction)) == {Verdict.UNDECIDABLE}


def test_the_winner_of_200_equal_models_is_overrated_unless_corrected_or_split():
    # algorithms.md A.5: plain CP covers .1 %, Bonferroni 95.5 %
    rng, n, rate, draws = np.random.default_rng(3), 1000, 0.95, 400
    best = rng.binomial(n, rate, (draws, 200)).max(axis=1)
    plain = np.array([bound("proportion", int(k), n, side="lower").low for k in best])
    safe = np.array(
        [bound("proportion", int(k), n, side="lower", candidates=200).low for k in best]
    )
    assert np.mean(plain <= rate) < 0.02
    assert np.mean(safe <= rate) >= least_coverage(0.95, draws)
    splits = [split(rng.random((200, n)) < rate, 1, rng=rng)[0] for _ in range(draws)]
    assert np.mean([w.interval.low <= rate for w in splits]) >= least_coverage(0.95, draws)
    assert np.mean([w.ranked_by for w in splits]) > rate + 0.02


def test_a_split_ranks_on_one_half_and_bounds_on_the_other():
    rng = np.random.default_rng(0)
    answers = rng.random((5, 400)) < np.array([0.5, 0.9, 0.7, 0.95, 0.6])[:, None]
    found = split(answers, 2, rng=np.random.default_rng(9))
    assert {one.candidate for one in found} == {1, 3}
    assert found[0].ranked_by >= found[1].ranked_by
    for one in found:
        assert one.interval.samples == 200
        seen = answers[one.candidate].sum() - round(one.ranked_by * 200)
        expected = lower_bound(seen, 200, 0.025)  # alpha halved: two winners
        assert one.interval.low == pytest.approx(float(expected))


def test_what_makes_no_sense_is_refused():
    with pytest.raises(AnalysisError, match="no correction 'sidak'"):
        adjusted([0.1], "sidak")
    with pytest.raises(AnalysisError, match="3 winners of 2"):
        split(np.ones((2, 10), dtype=bool), 3, rng=np.random.default_rng(0))
    with pytest.raises(AnalysisError, match="threshold 0"):
        judge([1], 2, 0.0)
