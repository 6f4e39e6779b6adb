from __future__ import annotations

from math import inf

import numpy as np
import pytest

from sommelier.analysis.cascades.calibration import Target, accuracy_drop, disagreement
from sommelier.analysis.cascades.members import Member
from sommelier.analysis.cascades.pairs import CascadePair, pareto, search_pairs
from sommelier.analysis.cascades.thresholds import gained_within, kept_within
from sommelier.errors import AnalysisError
from tests.analysis.cascades.populations import ladder

SCORES = ("margin", "softmax")


@pytest.mark.parametrize("labelled", [False, True])
def test_every_pair_is_what_calibrating_it_alone_at_its_share_of_the_risk_gives(
    labelled: bool,
) -> None:
    members, truth = ladder(np.random.default_rng(0), 700, stages=4)
    target = Target(0.08, 0.9, "accuracy drop" if labelled else "disagreement")
    found = search_pairs(members, target, labels=truth if labelled else None, scores=SCORES)
    assert {(p.student, p.teacher) for p in found} == {
        (f"m{i}", f"m{j}") for i in range(4) for j in range(i + 1, 4)
    }
    risk = 0.1 / (6 * 2)
    by_name = {one.name: one for one in members}
    for pair in found:
        student, teacher = by_name[pair.student], by_name[pair.teacher]
        two = [student, teacher]
        lost = accuracy_drop(two, truth) if labelled else disagreement(two)
        within = gained_within if labelled else kept_within
        alone = {
            name: within(student.scores[name], lost[0], at_most=0.08, confidence=1 - risk)
            for name in SCORES
        }
        best = max(alone.values(), key=lambda one: one.kept)
        assert pair.routed == pytest.approx(1 - best.kept)
        assert pair.threshold == alone[pair.score].value
        assert pair.lost == pytest.approx(alone[pair.score].lost)
        assert student.flops is not None
        assert teacher.flops is not None
        assert pair.flops == pytest.approx(student.flops + pair.routed * teacher.flops)
        assert pair.flops_share == pytest.approx(pair.flops / teacher.flops)
    assert [p.flops_share for p in found] == sorted(p.flops_share for p in found)


def test_all_promises_of_a_zoo_hold_at_once() -> None:
    """The best of 30 equal students looks better than it is; its promise holds all the same."""
    rng, runs, broken = np.random.default_rng(3), 120, 0
    for _ in range(runs):
        n = 400
        score = rng.uniform(size=n)
        teacher = Member("t", np.zeros(n, np.int64), {}, 100.0)
        students = [
            Member(f"s{i}", (rng.uniform(size=n) < 0.4 * (1 - score) ** 2).astype(np.int64),
                   {"margin": score}, 1.0)
            for i in range(30)
        ]  # fmt: skip
        found = search_pairs([*students, teacher], Target(0.03, 0.8), scores=("margin",))
        # P(kept and differs) = .4 (1 - t)^3 / 3 is .03 at t = .392
        broken += any(pair.threshold < 1 - (0.09 / 0.4) ** (1 / 3) for pair in found)
    assert broken <= 0.2 * runs + 3 * np.sqrt(runs * 0.16)


def test_only_the_teachers_asked_for_and_students_that_cost_less_are_paired() -> None:
    members, _ = ladder(np.random.default_rng(0), 300, stages=3)
    members.append(Member("unknown", members[0].ids, members[0].scores, None))
    found = search_pairs(members, Target(0.3, 0.8), teachers=["m1"], scores=SCORES)
    assert [(pair.student, pair.teacher) for pair in found] == [("m0", "m1")]
    with pytest.raises(AnalysisError, match="no answers of nobody"):
        search_pairs(members, Target(0.3), teachers=["nobody"])


def test_pairs_that_nothing_can_be_promised_of_cost_more_than_their_teacher() -> None:
    members, _ = ladder(np.random.default_rng(0), 60)
    (pair,) = search_pairs(members, Target(0.01), scores=SCORES)
    assert pair.threshold == inf
    assert pair.flops_share == pytest.approx(1.1)


def test_a_promise_of_accuracy_needs_labels() -> None:
    members, truth = ladder(np.random.default_rng(0), 60)
    with pytest.raises(AnalysisError, match="accuracy drop without labels"):
        search_pairs(members, Target(0.1, loss="accuracy drop"))
    with pytest.raises(AnalysisError, match="disagreement with labels"):
        search_pairs(members, Target(0.1), labels=truth)


def test_the_front_holds_what_nothing_beats() -> None:
    rng = np.random.default_rng(0)
    pairs = [
        CascadePair(f"s{i}", "t", "margin", 0.5, 0.5, float(cost), 1.0, 0.0)
        for i, cost in enumerate(rng.integers(1, 20, 40))
    ]
    quality = rng.integers(0, 10, 40) / 10
    front = pareto(pairs, quality.tolist())
    for i, one in enumerate(pairs):
        beaten = any(
            other.flops <= one.flops and q >= quality[i]
            and (other.flops < one.flops or q > quality[i])
            for other, q in zip(pairs, quality, strict=True)
        )  # fmt: skip
        equals = [p for p in front if (p.flops, quality[pairs.index(p)]) == (one.flops, quality[i])]
        assert bool(equals) is not beaten


def test_a_zoo_of_hundreds_is_searched_in_seconds() -> None:
    rng, n = np.random.default_rng(0), 1_000
    members = [
        Member(f"m{i}", rng.integers(0, 10, n), {"margin": rng.uniform(size=n)}, float(i + 1))
        for i in range(150)
    ]
    found = search_pairs(members, Target(0.5, 0.9), scores=("margin",))
    assert len(found) == 150 * 149 // 2
