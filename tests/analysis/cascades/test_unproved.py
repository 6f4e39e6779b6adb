"""Cascades without a promise, stage by stage as their definition says."""

from __future__ import annotations

import numpy as np
import pytest

from sommelier.analysis.cascades import (
    Options,
    accuracy_drop,
    by_hand,
    disagreement,
    escalating,
)
from sommelier.analysis.cascades.members import Member
from sommelier.analysis.cascades.selection import aurc
from sommelier.errors import AnalysisError
from tests.analysis.cascades.populations import ladder

SCORES = Options(("margin", "softmax"))


@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("share", [0.0, 0.07, 0.3, 1.0])
def test_each_stage_sends_on_no_more_than_the_share_of_who_reaches_it(
    stages: int, share: float
) -> None:
    members, truth = ladder(np.random.default_rng(0), 997, stages=stages)
    found = escalating(members, accuracy_drop(members, truth), share, options=SCORES)
    assert found.plan.promise is None
    left = np.ones(997, bool)
    for one, stage in zip(members, found.plan.stages[:-1], strict=False):
        assert stage.score is not None
        reach = left.sum()
        sent = left & ~(one.score(stage.score) >= stage.threshold)
        assert share * reach - 1 <= sent.sum() <= share * reach
        assert stage.samples == reach
        left = sent
    assert found.answered[-1] == pytest.approx(left.mean())


def test_the_score_is_the_one_that_tells_best_what_is_lost() -> None:
    members, _ = ladder(np.random.default_rng(1), 2_000)
    lost = disagreement(members)
    noise = np.random.default_rng(2).random(2_000)
    first = Member("m0", members[0].ids, {**members[0].scores, "doctor": noise}, 1.0)
    found = escalating([first, members[1]], lost, 0.2)
    areas = {name: aurc(scores, lost[0]) for name, scores in first.scores.items()}
    assert found.plan.stages[0].score == min(areas, key=lambda name: areas[name])
    assert areas["doctor"] == max(areas.values())


def test_answers_without_a_score_are_sent_on_first() -> None:
    members, _ = ladder(np.random.default_rng(1), 100)
    scores = np.linspace(0, 1, 100)
    scores[:20] = np.nan
    first = Member("m0", members[0].ids, {"margin": scores}, 1.0)
    found = escalating([first, members[1]], disagreement(members), 0.25)
    assert found.answered[1] == pytest.approx(0.25)
    found = escalating([first, members[1]], disagreement(members), 0.1)
    assert found.answered[1] == pytest.approx(0.2)


def test_a_threshold_by_hand_is_told_with_what_it_does_on_the_samples() -> None:
    members, truth = ladder(np.random.default_rng(3), 500, stages=3)
    found = by_hand(members, accuracy_drop(members, truth), [("softmax", 0.6)] * 2)
    assert found.plan.thresholds == (0.6, 0.6)
    assert found.plan.promise is None
    sure = [one.scores["softmax"] >= 0.6 for one in members]
    shares = [sure[0].mean(), (~sure[0] & sure[1]).mean(), (~sure[0] & ~sure[1]).mean()]
    assert found.answered == pytest.approx(shares)
    ids = np.where(sure[0], members[0].ids, np.where(sure[1], members[1].ids, members[2].ids))
    drop = (members[2].ids == truth).mean() - (ids == truth).mean()
    assert found.loss == pytest.approx(drop)
    with pytest.raises(AnalysisError, match="no score 'entropy'"):
        by_hand(members, accuracy_drop(members, truth), [("entropy", 0.6)] * 2)
