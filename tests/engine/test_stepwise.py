"""Holm and Benjamini-Hochberg: against the library's p-values, and by simulation of null models."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from sommelier.analysis.bounds import adjusted, p_values
from sommelier.confidence import lower_bound
from sommelier.engine.comparison import Comparison
from sommelier.engine.plan import CorrBound
from sommelier.engine.stepwise import hochberg_tests, holm_tests
from tests.engine.conftest import SAMPLES, Bench
from tests.engine.test_comparison import candidates, everything

N, THRESHOLD, ALPHA = 500, 0.9, 0.05
Way = Literal["fwer", "fdr", "fdr_by"]
LIBRARY = {"fwer": "holm", "fdr": "bh", "fdr_by": "by"}


def decided(counts: np.ndarray, way: Way) -> tuple[np.ndarray, float]:
    """(which candidates pass, by what alpha was divided)."""
    comparison = Comparison(candidates(counts.tolist(), N), everything(len(counts)))
    claim = CorrBound("equivalence", ">=", THRESHOLD, 1 - ALPHA)

    def passing(tests: float) -> int:
        return len(comparison.passing((claim,), tests, possible=False))

    if way == "fwer":
        tests = holm_tests(passing, len(counts))
    else:
        tests = hochberg_tests(passing, len(counts), any_dependence=way == "fdr_by")
    rows = comparison.passing((claim,), tests, possible=False)
    return np.isin(np.arange(len(counts)), rows), tests


@pytest.mark.parametrize("way", ["fwer", "fdr", "fdr_by"])
@pytest.mark.parametrize("seed", range(40))
def test_the_rows_are_those_of_the_adjusted_p_values(way: Way, seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 60))
    rates = rng.choice([0.88, 0.9, 0.92, 0.94, 0.99], size)
    counts = rng.binomial(N, rates)
    passed, tests = decided(counts, way)
    expected = adjusted(p_values(counts, N, THRESHOLD), LIBRARY[way]) <= ALPHA  # type: ignore[arg-type]  # a key of the table
    assert passed.tolist() == expected.tolist()
    shown = lower_bound(counts, N, ALPHA / tests)
    assert (shown >= THRESHOLD).tolist() == expected.tolist()


def test_stepwise_corrections_pass_more_than_bonferroni_and_fewer_than_none() -> None:
    counts = np.array([470] * 20 + [480] * 20 + [440] * 10)
    rows = {way: int(decided(counts, way)[0].sum()) for way in LIBRARY}
    alone = int((lower_bound(counts, N, ALPHA) >= THRESHOLD).sum())
    bonferroni = int((lower_bound(counts, N, ALPHA / len(counts)) >= THRESHOLD).sum())
    assert bonferroni <= rows["fwer"] <= rows["fdr"] <= alone
    assert rows["fdr_by"] <= rows["fdr"]


@pytest.mark.parametrize("way", ["fwer", "fdr", "fdr_by"])
def test_null_models_pass_no_more_often_than_stated(way: Way) -> None:
    # 30 models just below the threshold share every probe with 10 that are well above it
    rng = np.random.default_rng(3)
    rates = np.array([THRESHOLD - 1e-6] * 30 + [0.97] * 10)
    null = rates < THRESHOLD
    repeats = 1500
    errors = np.empty(repeats)
    for repeat in range(repeats):
        passed, _ = decided(rng.binomial(N, rates), way)
        false = int((passed & null).sum())
        errors[repeat] = false > 0 if way == "fwer" else false / max(1, passed.sum())
    spread = errors.std(ddof=1) / np.sqrt(repeats)
    assert errors.mean() <= ALPHA + 3 * spread
    if way != "fdr_by":
        assert errors.mean() > ALPHA / 10  # the procedures spend what they are given


def test_uncorrected_rows_fail_far_more_often() -> None:
    rng = np.random.default_rng(4)
    counts = rng.binomial(N, THRESHOLD - 1e-6, size=(400, 30))
    wrong = (lower_bound(counts, N, ALPHA) >= THRESHOLD).any(axis=1)
    assert wrong.mean() > 0.5


@pytest.mark.parametrize("way", ["fwer", "fdr", "fdr_by"])
@pytest.mark.parametrize("threshold", [90, 93, 95, 97])
def test_questions_show_the_bound_that_decides_and_the_guarantee_that_holds(
    ladder: Bench, way: Way, threshold: int
) -> None:
    counts = np.array([SAMPLES - 4 * step for step in range(1, 10)])
    expected = adjusted(p_values(counts, SAMPLES, threshold / 100), LIBRARY[way]) <= ALPHA  # type: ignore[arg-type]  # a key of the table
    text = f"SELECT MODELS name, equivalence CORR m0 {threshold}% USING correction = {way}"
    result = ladder.ask(text)
    rows = result.fetchall()
    assert {name for name, _ in rows} == {f"m{i + 1}" for i in np.flatnonzero(expected)}
    assert all(lower >= threshold / 100 - 1e-12 for _, lower in rows)
    words = {"fwer": "together (Holm)", "fdr": "Benjamini-Hochberg", "fdr_by": "Yekutieli"}
    assert any(words[way] in note for note in result.notes)


@pytest.mark.parametrize("way", ["fwer", "fdr", "fdr_by"])
@pytest.mark.parametrize("quantifier", ["ANY", "ALL"])
def test_several_references_are_paid_for(ladder: Bench, quantifier: str, way: Way) -> None:
    """A model is one claim: its p-value is twice its least for ANY, its largest for ALL."""
    to_first = np.array([SAMPLES - 4 * i for i in range(1, 9)])
    to_last = np.array([SAMPLES - 4 * (9 - i) for i in range(1, 9)])
    both = np.stack([p_values(k, SAMPLES, 0.95) for k in (to_first, to_last)])
    p = np.minimum(2 * both.min(axis=0), 1) if quantifier == "ANY" else both.max(axis=0)
    expected = {
        f"m{i + 1}"
        for i in np.flatnonzero(adjusted(p, LIBRARY[way]) <= ALPHA)  # type: ignore[arg-type]  # a key of the table
    }
    result = ladder.ask(f"SELECT MODELS CORR {quantifier} (m0, m9) 95% USING correction = {way}")
    assert {m.name for m in result} == expected


def test_without_a_threshold_there_is_nothing_to_step_through(ladder: Bench) -> None:
    text = "SELECT MODELS name, equivalence CORR m0 USING correction = "
    assert ladder.ask(text + "fdr").fetchall() == ladder.ask(text + "bonferroni").fetchall()
