"""How likely annealing draws an elite: the formula that works, the printed and the released one."""

from __future__ import annotations

import math

import pytest

from sommelier.analysis.fusion.search.annealing import (
    corrected_probability,
    elite_probability,
    printed_probability,
    released_probability,
)


def test_the_corrected_probability_rises_to_95_percent_at_half_the_budget() -> None:
    assert [corrected_probability(x / 200, 16) for x in (0, 50, 100, 200)] == pytest.approx(
        [0, 0.475, 0.95, 0.95]
    )
    assert corrected_probability(1.0, 8) == pytest.approx(0.95 * math.sqrt(0.5))
    assert corrected_probability(1.0, 40) == pytest.approx(0.95)
    assert corrected_probability(1.0, 0) == 0


def test_the_printed_probability_is_random_sampling_in_effect() -> None:
    """The numbers of algorithms.md F.1, for a drop of one point and a full list."""
    found = {t: printed_probability(t, 0.01, 16) for t in (0, 200, 859)}
    assert found[0] == pytest.approx(1.2e-4, rel=0.03)
    assert found[200] == pytest.approx(9.1e-4, rel=0.01)
    assert found[859] == pytest.approx(0.5, abs=0.01)
    draws = sum(printed_probability(t, 0.01, int(16 * t / 200)) for t in range(200))
    assert draws < 0.07


def test_the_released_probability_prefers_elites_from_the_start() -> None:
    assert [released_probability(t, 0.0, 16) for t in (0, 50, 100, 200)] == pytest.approx(
        [0.63, 0.81, 0.93, 0.999], abs=0.01
    )


@pytest.mark.parametrize("formula", ["corrected", "printed", "released"])
def test_a_probability_stays_between_0_and_1(formula: str) -> None:
    for step in (0, 10, 500):
        for drop in (-0.5, 0.0, 1.0, 3.0):
            for elites in (0, 1, 16, 99):
                found = elite_probability(formula, step / 500, elites, step=step, drop=drop)
                assert 0 <= found <= 1
