from __future__ import annotations

from collections.abc import Callable
from math import inf, nan
from threading import Thread

import numpy as np
import pytest

from sommelier.analysis.cascades.calibration import Options, Target, calibrate, disagreement
from sommelier.analysis.cascades.members import Member
from sommelier.analysis.execution import open_session
from sommelier.cascade_records import (
    CascadePlan,
    CascadePromise,
    CascadeStage,
    threshold_for_share,
)
from sommelier.errors import SommelierError
from sommelier.runtime.cascade import AGREEMENT, Cascade, kept_share
from tests.analysis.cascades.populations import ladder
from tests.factories import tiny_classifier

Array = np.ndarray


def plan_of(*thresholds: float, score: str = "margin", flops: float = 10.0) -> CascadePlan:
    stages = [
        CascadeStage(f"m{k}", score, threshold, flops=flops**k)
        for k, threshold in enumerate(thresholds)
    ]
    return CascadePlan((*stages, CascadeStage("last", flops=flops ** len(thresholds))))


def calibrated(n: int = 1_000, *, stages: int = 2, seed: int = 0) -> CascadePlan:
    members, _ = ladder(np.random.default_rng(seed), n, stages=stages)
    of_logits = [
        Member(m.name, m.ids, {"softmax": m.scores["softmax"]}, m.flops, m.logits) for m in members
    ]
    found = calibrate(
        of_logits, disagreement(of_logits), Target(0.05), options=Options(("softmax",))
    )
    return found.plan


def counted(member: Member, log: list[int]) -> Callable[[Array], Array]:
    """A model that looks its answers up by the number of the input."""

    def answer(items: Array) -> Array:
        log.append(len(items))
        assert member.logits is not None
        return member.logits[items]

    return answer


def test_an_answer_is_the_first_that_is_sure_enough_by_brute_force() -> None:
    members, _ = ladder(np.random.default_rng(1), 500, stages=3)
    cascade = Cascade(plan_of(0.8, 0.5, score="softmax"))
    logs: list[list[int]] = [[], [], []]
    models = [counted(one, log) for one, log in zip(members, logs, strict=True)]
    found = cascade.run(np.arange(500), models)
    for i in range(500):
        sure = [float(one.scores["softmax"][i]) for one in members]
        stage = 0 if sure[0] >= 0.8 else 1 if sure[1] >= 0.5 else 2
        assert found.stage[i] == stage
        assert members[stage].logits is not None
        assert (found.values[i] == members[stage].logits[i]).all()
        assert (
            np.isnan(found.scores[i])
            if stage == 2
            else found.scores[i] == pytest.approx(sure[stage])
        )
    counts = np.bincount(found.stage, minlength=3)
    assert logs == [[500], [500 - counts[0]], [counts[2]]]  # a stage sees what was sent on only
    assert cascade.answered == tuple(counts)
    assert cascade.flops == pytest.approx(np.cumsum([1.0, 10.0, 100.0])[found.stage].mean())


def test_a_threshold_changes_between_requests_and_no_model_is_opened_again(tmp_path) -> None:
    sessions = [
        open_session(tiny_classifier(tmp_path / f"{seed}.onnx", seed=seed), 1) for seed in (0, 1)
    ]
    models = [lambda x, s=session: s.run(None, {"x": x})[0] for session in sessions]
    items = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    cascade = Cascade(plan_of(0.5))
    for threshold, share in ((inf, 0.0), (-inf, 1.0)):
        cascade.thresholds = (threshold,)
        found = cascade.run(items, models)
        assert (found.stage == 0).mean() == share
        assert np.array_equal(found.values, models[0 if share else 1](items))
    cascade.thresholds = (0.5,)
    assert 0 < (cascade.run(items, models).stage == 0).mean() < 1


def test_an_answer_with_nan_is_always_sent_on() -> None:
    cascade = Cascade(plan_of(-inf))
    kept, scores = cascade.route(0, np.array([[nan, 1.0], [0.0, 1.0]]))
    assert kept.tolist() == [False, True]
    assert np.isnan(scores[0])
    assert not cascade.keeps(0, nan)


def test_scores_of_detectors_and_regressors_are_routed_one_by_one() -> None:
    cascade = Cascade(plan_of(0.3))
    assert cascade.keeps(0, 0.3)
    assert not cascade.keeps(0, 0.29)
    assert cascade.keeps(1, nan)  # the last stage keeps all
    assert cascade.answered == (1, 1)


def test_agreement_stops_where_two_models_say_the_same() -> None:
    answers = [np.eye(3)[[0, 1, 2]], np.eye(3)[[0, 2, 2]], np.eye(3)[[1, 1, 1]]]
    plan = CascadePlan(
        (
            CascadeStage("a", "margin", inf),
            CascadeStage("b", AGREEMENT, 1.0),
            CascadeStage("c"),
        )
    )
    found = Cascade(plan).run(np.arange(3), [lambda i, a=a: a[i] for a in answers])
    assert found.stage.tolist() == [1, 2, 1]


def test_a_promise_outlives_a_higher_threshold_and_not_a_lower_one() -> None:
    promise = CascadePromise("disagreement", 0.01, 0.95, 1_000)
    plan = CascadePlan(plan_of(0.5).stages, promise, "proved")
    cascade = Cascade(plan)
    cascade.thresholds = (0.6,)
    assert cascade.plan.promise == promise
    assert cascade.warnings == ()
    cascade.thresholds = (0.4,)
    assert cascade.plan.promise is None
    assert "nothing is promised" in cascade.plan.reason
    (warning,) = cascade.warnings
    told = "thresholds were set by hand to {}: what was proved with 0.6 does not hold"
    assert warning == told.format("0.4")
    cascade.thresholds = (0.3,)
    assert cascade.warnings == (told.format("0.3"),)


@pytest.mark.parametrize("stages", [2, 3])
def test_an_accuracy_promise_or_one_of_three_stages_does_not_outlive_any_change(
    stages: int,
) -> None:
    kind = "accuracy drop" if stages == 2 else "disagreement"
    thresholds = (0.5,) * (stages - 1)
    promise = CascadePromise(kind, 0.01, 0.95, 1_000)  # type: ignore[arg-type]  # either literal
    cascade = Cascade(CascadePlan(plan_of(*thresholds).stages, promise))
    cascade.thresholds = thresholds
    assert cascade.plan.promise == promise
    cascade.thresholds = tuple(value + 0.1 for value in thresholds)
    assert cascade.plan.promise is None


@pytest.mark.parametrize("values", [(), (0.1, 0.2), (nan,)])
def test_thresholds_that_do_not_fit_are_refused(values: tuple[float, ...]) -> None:
    message = "cannot be NaN" if len(values) == 1 else f"{len(values)} thresholds for 2 stages"
    with pytest.raises(SommelierError, match=message):
        Cascade(plan_of(0.5)).thresholds = values


def test_a_plan_without_a_score_is_refused() -> None:
    with pytest.raises(SommelierError, match="all but the last with a score"):
        Cascade(CascadePlan((CascadeStage("a"), CascadeStage("b"))))


def test_the_share_that_calibration_samples_say_covers_the_truth_for_all_thresholds_at_once() -> (
    None
):
    rng, missed, runs = np.random.default_rng(0), 0, 300
    thresholds = np.linspace(0, 1, 41)
    for _ in range(runs):
        rising = np.sort(rng.uniform(size=250))
        at = np.maximum(np.ceil(np.linspace(0, 1, 101) * 250).astype(int) - 1, 0)
        stage = CascadeStage("m", "margin", 0.5, quantiles=tuple(rising[at]), samples=250)
        for threshold in thresholds:
            low, high = kept_share(stage, float(threshold), risk=0.1)
            if not low <= 1 - threshold <= high:
                missed += 1
                break
    assert missed <= 0.1 * runs + 3 * np.sqrt(runs * 0.09)
    low, high = kept_share(stage, 0.5, risk=0.1)
    assert high - low < 0.18  # 2 sqrt(ln(20) / 500) + .01


@pytest.mark.slow
def test_a_warning_is_no_more_often_false_than_stated() -> None:
    runs, alarms = 150, 0
    for seed in range(runs):
        cascade = Cascade(calibrated(300, seed=seed), false_alarms=0.2)
        fresh, _ = ladder(np.random.default_rng([seed, 7]), 2_000)
        assert fresh[0].logits is not None
        cascade.route(0, fresh[0].logits)
        alarms += bool(cascade.drift)
    assert alarms <= 0.2 * runs + 3 * np.sqrt(runs * 0.16)


@pytest.mark.parametrize("sharper", [0.6, 1.7])
def test_inputs_that_are_harder_or_easier_raise_a_warning_that_says_what_to_do(
    sharper: float,
) -> None:
    cascade = Cascade(calibrated(2_000))
    fresh, _ = ladder(np.random.default_rng(11), 3_000)
    assert fresh[0].logits is not None
    cascade.route(0, fresh[0].logits * sharper)
    (found,) = cascade.drift
    assert not found.low <= found.kept <= found.high
    assert "m0 keeps" in found.warning
    assert "Calibrate again" in found.warning
    cascade.thresholds = cascade.thresholds
    assert cascade.drift == ()  # counted anew


def test_a_threshold_set_by_hand_is_watched_at_its_own_share() -> None:
    cascade = Cascade(calibrated(2_000))
    cascade.thresholds = (0.999,)
    fresh, _ = ladder(np.random.default_rng(11), 3_000)
    assert fresh[0].logits is not None
    cascade.route(0, fresh[0].logits)
    assert cascade.drift == ()


@pytest.mark.parametrize("routed", [0.0, 0.1, 0.55, 1.0])
def test_a_share_to_send_on_is_kept_on_the_calibration_samples(routed: float) -> None:
    rng = np.random.default_rng(0)
    rising = np.sort(rng.integers(0, 30, 777) / 30)
    at = np.maximum(np.ceil(np.linspace(0, 1, 101) * 777).astype(int) - 1, 0)
    stage = CascadeStage("m", "margin", quantiles=tuple(rising[at]), samples=777)
    sent = (rising < threshold_for_share(stage, routed)).mean()
    assert sent <= routed
    assert sent >= routed - 1 / 30 - 0.02  # a group of equal scores, and a percentile


def test_decisions_of_several_threads_are_all_counted() -> None:
    cascade = Cascade(calibrated(500))
    fresh, _ = ladder(np.random.default_rng(0), 200)
    logits = fresh[0].logits

    def work() -> None:
        for row in logits:
            cascade.route(0, row[None])

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(cascade.answered) == 800
