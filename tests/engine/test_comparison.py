"""CORR against theory: Clopper-Pearson bounds from scipy's beta distribution, per row."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from sommelier.engine.bound_methods import samples_needed
from sommelier.engine.comparison import Comparison
from sommelier.engine.plan import CorrBound
from sommelier.storage.candidates import Candidates, Ranked

N = 500


def candidates(agreements: list[int], samples: int = N) -> Candidates:
    counts = np.array(agreements, dtype=np.int64)
    order = np.lexsort((np.arange(len(counts)), -counts))
    return Candidates(
        reference_id="r",
        probe_set_id="p",
        ranking=Ranked(order.astype(np.int64), counts[order]),
        samples=samples,
        method="sketch",
        labels="named",
    )


def everything(count: int) -> np.ndarray:
    return np.ones(count, dtype=bool)


def lower(k: int, alpha: float, n: int = N) -> float:
    return 0.0 if k == 0 else float(beta.ppf(alpha, k, n - k + 1))


def upper(k: int, alpha: float, n: int = N) -> float:
    return 1.0 if k == n else float(beta.ppf(1 - alpha, k + 1, n - k))


def bound(threshold: float, operator: str = ">=", confidence: float | None = 0.95) -> CorrBound:
    return CorrBound("equivalence", operator, threshold, confidence)


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("operator", [">=", ">", "<", "<="])
def test_a_row_passes_exactly_when_its_lower_bound_does(threshold: float, operator: str) -> None:
    counts = list(range(0, N + 1, 3))
    comparison = Comparison(candidates(counts), everything(len(counts)))
    tests = comparison.count
    found = comparison.passing((bound(threshold, operator),), tests, possible=False)
    compare = {">=": np.greater_equal, ">": np.greater, "<": np.less, "<=": np.less_equal}
    bounds = np.array([lower(k, 0.05 / tests) for k in counts])
    expected = np.flatnonzero(compare[operator](bounds, threshold))
    assert sorted(found.tolist()) == expected.tolist()


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.95, 1.0])
def test_a_row_is_possible_while_its_upper_bound_reaches_the_threshold(threshold: float) -> None:
    counts = list(range(0, N + 1))
    comparison = Comparison(candidates(counts), everything(len(counts)))
    found = comparison.passing((bound(threshold),), 1, possible=True)
    expected = [k for k in counts if upper(k, 0.05) >= threshold - 1e-12]
    assert sorted(found.tolist()) == expected


def test_passing_rows_come_best_first() -> None:
    comparison = Comparison(candidates([480, 500, 490, 10]), everything(4))
    found = comparison.passing((bound(0.9),), comparison.count, possible=False)
    assert found.tolist() == [1, 2, 0]


def test_only_rows_that_reach_the_stage_share_alpha() -> None:
    counts = [489] * 50
    alone = everything(50)
    alone[1:] = False
    threshold = lower(489, 0.05)  # passes without correction, and only then
    one = Comparison(candidates(counts), alone)
    assert one.count == 1
    assert one.passing((bound(threshold - 1e-9),), one.count, possible=False).tolist() == [0]
    many = Comparison(candidates(counts), everything(50))
    assert len(many.passing((bound(threshold - 1e-9),), many.count, possible=False)) == 0


def test_observed_agreement_needs_no_confidence() -> None:
    comparison = Comparison(candidates([475, 474, 476]), everything(3))
    at_least = comparison.passing((bound(0.95, ">=", None),), 3, possible=False)
    above = comparison.passing((bound(0.95, ">", None),), 3, possible=False)
    assert (sorted(at_least.tolist()), above.tolist()) == ([0, 2], [2])


def test_interval_columns_are_clopper_pearson_bounds() -> None:
    counts = [500, 470, 470, 3, 0]
    comparison = Comparison(candidates(counts), everything(5))
    interval = comparison.interval(np.arange(5), 0.01, 5)
    np.testing.assert_allclose(interval.lower, [lower(k, 0.01) for k in counts], atol=1e-9)
    np.testing.assert_allclose(interval.upper, [upper(k, 0.01) for k in counts], atol=1e-9)
    np.testing.assert_allclose(interval.agreement, np.array(counts) / N)


def test_minimum_probes_are_those_of_the_specification() -> None:
    # algorithms.md A.4: 299 (1 %), 149 (2 %), 59 (5 %), 29 (10 %) at 95 % confidence
    needed = [samples_needed(1 - eps, 0.05) for eps in (0.01, 0.02, 0.05, 0.10)]
    assert needed == [299, 149, 59, 29]
    assert samples_needed(1.0, 0.05) is None
