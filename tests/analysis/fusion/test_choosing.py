"""Finalists are those of which the fastest that passes is expected to be fastest."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from sommelier.analysis.fusion.lessons import Judged
from sommelier.analysis.fusion.module import FusedModule
from sommelier.analysis.fusion.search.choosing import (
    Hope,
    chance,
    chosen,
    expected_speedup,
    most_expected,
)
from sommelier.analysis.fusion.search.costs import CostModel
from sommelier.analysis.fusion.search.options import FINALISTS, SearchOptions
from sommelier.analysis.fusion.search.ranking import Limits
from sommelier.analysis.fusion.search.state import Elite, State
from sommelier.analysis.fusion.search.study import Study, arrays
from tests.analysis.fusion.digit_tasks import Digits, digits
from tests.analysis.fusion.test_finishing import STRICT, some_state

RIGHT, WRONG = 1.0, 0.0


@pytest.fixture(scope="module")
def study() -> Digits:
    return digits()


def _hopes(*pairs: tuple[float, float]) -> list[Hope]:
    """Of (speed-up, chance)."""
    made = []
    for step, (speedup, likely) in enumerate(pairs):
        elite = Elite(step, None, {}, 1 / speedup, 0.0)  # type: ignore[arg-type]
        made.append(Hope(elite, speedup, likely))
    return made


def test_the_expected_speedup_is_that_of_the_fastest_that_passes() -> None:
    assert expected_speedup([]) == 1.0
    assert expected_speedup(_hopes((4, 1.0), (2, 1.0))) == 4.0
    assert expected_speedup(_hopes((2, 1.0), (4, 0.5))) == 3.0
    assert expected_speedup(_hopes((4, 0.5), (2, 0.5))) == pytest.approx(0.5 * 4 + 0.25 * 2 + 0.25)


def test_a_safe_one_is_taken_where_the_fast_ones_are_not() -> None:
    hopes = _hopes((6, 0.02), (5.9, 0.02), (5.8, 0.02), (5.7, 0.02), (3, 0.5), (2, 0.99))
    steps = [elite.step for elite in most_expected(hopes, 3)]
    assert steps == sorted(steps)
    assert {4, 5} < set(steps)


def test_few_are_all_taken_even_without_hope() -> None:
    assert len(most_expected(_hopes((3, 0.0), (2, 0.0)))) == 2


@pytest.mark.parametrize("seed", range(5))
def test_taking_one_after_the_other_loses_little_against_all_choices(seed: int) -> None:
    rng = np.random.default_rng(seed)
    hopes = _hopes(*zip(rng.uniform(1, 6, 9).tolist(), rng.random(9).tolist(), strict=True))
    best = max(expected_speedup(some) for some in combinations(hopes, FINALISTS))
    by_step = {hope.elite.step: hope for hope in hopes}
    taken = expected_speedup([by_step[e.step] for e in most_expected(hopes)])
    assert 0.97 * best <= taken <= best


def _judged(lost: int, gained: int, n: int = 600) -> Judged:
    teacher, fused = np.full(n, RIGHT), np.full(n, RIGHT)
    fused[:lost] = WRONG
    teacher[lost : lost + gained] = WRONG
    return Judged(fused, teacher, graded=False)


def test_the_chance_grows_with_what_is_allowed_and_falls_with_what_is_lost() -> None:
    at = [chance(_judged(12, 6), 600, tolerance, 0.0) for tolerance in (0, 0.01, 0.02, 0.1)]
    assert at == sorted(at)
    assert at[0] < 0.2
    assert at[-1] > 0.999
    lost = [chance(_judged(lost, 6), 600, 0.01, 0.0) for lost in (0, 6, 12, 30)]
    assert lost == sorted(lost, reverse=True)
    assert chance(_judged(6, 6), 600, 0.01, 2.5) < chance(_judged(6, 6), 600, 0.01, 0.0)
    assert chance(_judged(0, 0), 600, 0.0, 0.0) > 0.5  # as likely as not, and a tie passes


def test_chances_come_true_as_often_as_they_say() -> None:
    """Candidates of random losses, judged on 600 samples, then on 600 others."""
    rng = np.random.default_rng(7)
    said, came = [], []
    for _ in range(3000):
        disagreement = rng.uniform(0.02, 0.12)
        loss = rng.uniform(-0.01, 0.03)
        odds = [(disagreement + loss) / 2, (disagreement - loss) / 2]
        odds = np.clip([*odds, 0], 0, None)
        odds[2] = 1 - odds[0] - odds[1]
        seen, later = rng.multinomial(600, odds, size=2)
        said.append(chance(_judged(seen[0], seen[1]), 600, 0.01, 0.0))
        came.append(later[0] - later[1] <= 6)
    said, came = np.array(said), np.array(came)
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
        inside = (said >= low) & (said < high)
        assert abs(said[inside].mean() - came[inside].mean()) < 0.1


def _study(models: Digits, options: SearchOptions) -> Study:
    module = FusedModule.original(models.models)
    return Study(models.models, models.few, options, CostModel.of(models.models), module)


def test_a_slow_one_that_answers_like_the_originals_is_among_them(study: Digits) -> None:
    asked = _study(study, STRICT)
    state = some_state(asked, FINALISTS + 1)
    safe = Elite(9, asked.module.graph, arrays(asked.module), 0.95, 0.0)
    state = replace(state, elites=(*state.elites, safe))
    found = chosen(asked, state)
    assert len(found) == FINALISTS
    assert found[-1].step == 9
    assert [e.share for e in found] == sorted(e.share for e in found)


def test_what_came_near_comes_after_all_elites_as_far_as_there_is_room(study: Digits) -> None:
    asked = _study(study, STRICT)
    state = some_state(asked, FINALISTS)
    elites = state.elites
    slow = replace(state, elites=elites[2:], best=elites[2]).with_near(elites[0])
    assert [e.step for e in chosen(asked, slow)] == [2, 3, 0]
    none = replace(State(), near=elites[1:3])
    assert [e.step for e in chosen(asked, none)] == [1, 2]
    full = state.with_near(replace(elites[0], step=9))
    assert [e.step for e in chosen(asked, full)] == [0, 1, 2, 3]


def test_what_misses_a_limit_for_certain_is_left_out_and_what_may_comes_last(
    study: Digits,
) -> None:
    free = _study(study, STRICT)
    state = some_state(free, 3)
    flops = sorted(free.costs.relative(e.graph)[0] for e in state.elites)
    limited = _study(study, replace(STRICT, limits=Limits(flops=(flops[0] + flops[1]) / 2)))
    assert len(chosen(limited, state)) == 1
