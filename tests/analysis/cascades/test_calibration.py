from __future__ import annotations

from itertools import product
from math import inf

import numpy as np
import pytest

from sommelier.analysis.cascades.calibration import (
    Options,
    Target,
    accuracy_drop,
    calibrate,
    crossing,
    disagreement,
    ranking,
)
from sommelier.analysis.cascades.members import Member
from sommelier.analysis.cascades.paths import Route, answering, path
from sommelier.analysis.cascades.selection import aurc
from sommelier.analysis.cascades.thresholds import kept_within, needed
from sommelier.cascade_records import CascadePlan, expected_flops
from sommelier.errors import AnalysisError
from tests.analysis.cascades.populations import ladder

SCORES = ("margin", "softmax")


def true_loss(plan: CascadePlan, members: list[Member], losses: tuple[np.ndarray, ...]) -> float:
    """The mean loss of a plan on a large population, stage by stage as its definition says."""
    open_, total = np.ones(len(members[0]), dtype=bool), 0.0
    for stage, one, lost in zip(plan.stages[:-1], members[:-1], losses, strict=True):
        assert stage.score is not None
        kept = open_ & (one.score(stage.score, stage.temperature) >= stage.threshold)
        total += float(lost[kept].sum())
        open_ &= ~kept
    return total / len(open_)


@pytest.mark.parametrize(
    ("stages", "loss", "options"),
    [
        (2, "disagreement", Options(SCORES)),
        (2, "disagreement", Options(SCORES, correction="split", tempered=True)),
        (2, "accuracy drop", Options(SCORES)),
        (3, "disagreement", Options(SCORES)),
        (3, "disagreement", Options(SCORES, correction="split")),
        (3, "accuracy drop", Options(SCORES)),
    ],
)
def test_a_promise_is_broken_no_more_often_than_it_says(
    stages: int, loss: str, options: Options
) -> None:
    rng, runs = np.random.default_rng(5), 100
    target = Target(0.05, 0.8, loss)  # type: ignore[arg-type]  # parametrised by its text

    def losses_of(members: list[Member], truth: np.ndarray) -> tuple[np.ndarray, ...]:
        return disagreement(members) if loss == "disagreement" else accuracy_drop(members, truth)

    everyone = ladder(np.random.default_rng(99), 40_000, stages=stages)
    of_all = losses_of(*everyone)
    broken, shares = 0, []
    for _ in range(runs):
        some = ladder(rng, 500, stages=stages)
        found = calibrate(some[0], losses_of(*some), target, options=options, rng=rng)
        broken += true_loss(found.plan, everyone[0], of_all) > target.at_most
        shares.append(found.flops_share)
    assert broken <= 0.2 * runs + 3 * np.sqrt(runs * 0.16)
    assert np.mean(shares) < 0.95


def test_the_two_ways_to_choose_a_score_do_what_they_say() -> None:
    members, _ = ladder(np.random.default_rng(0), 800)
    lost = disagreement(members)
    target = Target(0.05, 0.9)
    spent = calibrate(members, lost, target, options=Options(SCORES))
    each = {
        name: kept_within(members[0].scores[name], lost[0], at_most=0.05, confidence=0.95)
        for name in SCORES
    }
    best = max(SCORES, key=lambda name: each[name].kept)
    assert spent.plan.stages[0].score == best
    assert spent.plan.thresholds == (each[best].value,)
    assert spent.answered[0] == pytest.approx(each[best].kept)
    split = calibrate(members, lost, target, options=Options(SCORES, correction="split"))
    assert split.plan.promise is not None
    assert split.plan.promise.samples == 400


def test_scores_are_ranked_by_how_well_they_tell_what_is_lost() -> None:
    members, _ = ladder(np.random.default_rng(0), 800)
    (lost,) = disagreement(members)
    blind = {**members[0].scores, "doctor": np.zeros(800)}
    found = ranking(Member("s", members[0].ids, blind, 1.0), lost)
    assert [name for name, _ in found][-1] == "doctor"
    assert dict(found)["doctor"] == pytest.approx(lost.mean())
    assert [area for _, area in found] == sorted(aurc(s, lost) for s in blind.values())


def test_too_few_samples_send_everything_on_and_say_how_many_are_needed() -> None:
    members, _ = ladder(np.random.default_rng(0), 50)
    found = calibrate(members, disagreement(members), Target(0.01), options=Options(("margin",)))
    assert found.plan.thresholds == (inf,)
    assert found.answered == (0.0, 1.0)
    enough = needed(0.01, 0.95)
    assert "50 samples are too few to promise a disagreement of at most 1%" in found.plan.reason
    assert f"at least {enough} are needed" in found.plan.reason


def test_the_number_said_to_be_needed_is_enough_for_a_student_that_never_differs() -> None:
    options = Options(SCORES, correction="split")
    for correction, halves in (("spend", 1), ("split", 2)):
        options = Options(SCORES, correction=correction)  # type: ignore[arg-type]  # of a loop
        risk = 0.95 if halves == 2 else 1 - 0.05 / 2
        enough = halves * needed(0.02, risk)
        for count, works in ((enough, True), (enough - halves, False)):
            members, _ = ladder(np.random.default_rng(0), count)
            twins = [members[0], Member("t", members[0].ids, {}, 10.0)]
            found = calibrate(twins, disagreement(twins), Target(0.02), options=options)
            assert (found.plan.thresholds[0] < inf) is works, (correction, count)
            assert (f"at least {enough} are needed" in found.plan.reason) is not works


def test_a_student_that_is_wrong_where_it_is_sure_keeps_nothing_and_the_reason_says_so() -> None:
    members, _ = ladder(np.random.default_rng(0), needed(0.01, 0.975))  # two scores share 5 %
    liar = Member("liar", (members[1].ids + 1) % 10, members[0].scores, 1.0)
    pair = [liar, members[1]]
    found = calibrate(pair, disagreement(pair), Target(0.01), options=Options(SCORES))
    assert found.plan.thresholds == (inf,)
    assert "not even the surest answers" in found.plan.reason


def test_the_path_holds_the_cheapest_combination_for_every_loss_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    scores = tuple(rng.integers(0, 4, 40) / 4 for _ in range(2))
    losses = [(rng.uniform(size=40) < 0.3).astype(float) for _ in range(2)]
    route = Route(scores, ("a", "b"), (1.0, 1.0), (inf, inf), (1.0, 3.0, 20.0))
    listed = path(route, losses)

    def judged(thresholds: tuple[float, ...]) -> tuple[float, float]:
        stage = answering(scores, thresholds)
        lost = sum(float(values[stage == k].sum()) for k, values in enumerate(losses)) / 40
        return lost, float(np.cumsum([1.0, 3.0, 20.0])[stage].mean())

    everything = [judged(pair) for pair in product([inf, 0.75, 0.5, 0.25, 0.0, -inf], repeat=2)]
    for thresholds in listed:
        lost, cost = judged(thresholds)
        assert not any(a <= lost + 1e-12 and b < cost - 1e-12 for a, b in everything)
    found = [judged(thresholds) for thresholds in listed]
    assert found == sorted(found)
    for lost, cost in everything:
        assert any(a <= lost + 1e-9 and b <= cost + 1e-9 for a, b in found)


def test_an_accuracy_falls_by_no_more_than_the_disagreement() -> None:
    members, truth = ladder(np.random.default_rng(0), 3_000, stages=3)
    for differs, change in zip(disagreement(members), accuracy_drop(members, truth), strict=True):
        assert (change <= differs).all()


def test_two_stages_cost_what_the_paper_says() -> None:
    n_s, n_t, f_s, f_t = 70, 30, 2.0, 11.0
    paper = (n_s * f_s + n_t * (f_s + f_t)) / (n_s + n_t)
    assert expected_flops((f_s, f_t), (n_s, n_t)) == pytest.approx(paper)
    assert np.isnan(expected_flops((f_s, f_t), (0, 0)))


def test_what_a_calibration_tells_is_what_its_thresholds_do() -> None:
    members, _ = ladder(np.random.default_rng(0), 900, stages=3)
    losses = disagreement(members)
    found = calibrate(members, losses, Target(0.1), options=Options(SCORES))
    scores = [members[k].scores[str(found.plan.stages[k].score)] for k in range(2)]
    stage = answering(scores, found.plan.thresholds)
    assert found.answered == tuple(np.bincount(stage, minlength=3) / 900)
    assert found.loss == pytest.approx(true_loss(found.plan, members, losses))
    assert found.flops == pytest.approx(np.cumsum([1.0, 10.0, 100.0])[stage].mean())
    assert found.flops_share == pytest.approx(float(found.flops or 0) / 100)
    reached = found.plan.stages[1]
    assert reached.samples == int((stage >= 1).sum())
    assert reached.quantiles[50] == np.quantile(scores[1][stage >= 1], 0.5, method="inverted_cdf")


def test_a_cascade_that_costs_more_than_its_last_model_says_so() -> None:
    members, _ = ladder(np.random.default_rng(0), 900, flops=1.05)
    found = calibrate(members, disagreement(members), Target(0.05), options=Options(SCORES))
    assert found.flops_share is not None
    assert found.flops_share > 1
    assert found.plan.reason.endswith("it costs more than m1 alone")


def test_unknown_flops_stay_unknown_and_a_cascade_is_found_all_the_same() -> None:
    members, _ = ladder(np.random.default_rng(0), 900, stages=3)
    blind = [Member(m.name, m.ids, m.scores, None, m.logits) for m in members]
    options = Options(SCORES, correction="split")
    found = calibrate(blind, disagreement(blind), Target(0.1), options=options)
    assert (found.flops, found.flops_share) == (None, None)
    assert found.answered[-1] < 1


def test_the_papers_threshold_promises_nothing() -> None:
    members, _ = ladder(np.random.default_rng(0), 900)
    found = crossing(members, disagreement(members), score="softmax")
    assert found.plan.promise is None
    assert 0 < found.answered[0] < 1
    assert "nothing is promised" in found.plan.reason


@pytest.mark.parametrize(
    ("losses", "target", "told"),
    [
        ([np.full(100, 0.5)], Target(0.1), "no disagreement"),
        ([np.full(100, -1.0)], Target(0.1), "no disagreement"),
        ([np.full(100, 2.0)], Target(0.1, loss="loss"), "no loss"),
        ([np.zeros(99)], Target(0.1), "losses of shapes"),
        ([np.zeros(100)] * 2, Target(0.1), "losses of shapes"),
    ],
)
def test_losses_that_do_not_fit_are_refused(
    losses: list[np.ndarray], target: Target, told: str
) -> None:
    members, _ = ladder(np.random.default_rng(0), 100)
    with pytest.raises(AnalysisError, match=told):
        calibrate(members, losses, target, options=Options(SCORES))


def test_a_temperature_is_not_fitted_to_the_samples_that_prove() -> None:
    members, _ = ladder(np.random.default_rng(0), 100)
    options = Options(SCORES, correction="spend", tempered=True)
    with pytest.raises(AnalysisError, match="a temperature was fitted"):
        calibrate(members, disagreement(members), Target(0.1), options=options)


def test_a_student_without_scores_is_refused_by_name() -> None:
    members, _ = ladder(np.random.default_rng(0), 100)
    mute = [Member("mute", members[0].ids, {}, 1.0), members[1]]
    with pytest.raises(AnalysisError, match="mute has none of the scores"):
        calibrate(mute, disagreement(mute), Target(0.1))


def test_models_that_answered_different_inputs_are_refused() -> None:
    members, _ = ladder(np.random.default_rng(0), 100)
    with pytest.raises(AnalysisError, match="the same inputs: m0 50, m1 100"):
        disagreement([members[0].rows(np.arange(50)), members[1]])
