"""Limits on what a fused model costs, as shares of what its originals cost."""

from __future__ import annotations

import pytest

from sommelier.analysis.fusion_limits import CostLimit, shares_of
from sommelier.errors import AnalysisError
from sommelier.fusion_records import FusionCost

ALONE = {
    "a": FusionCost(flops=300.0, params=30, memory=1000.0, latency_ms=3.0),
    "b": FusionCost(flops=100.0, params=10, memory=600.0, latency_ms=1.0),
}
TOGETHER = FusionCost(flops=400.0, params=40, memory=1400.0, latency_ms=4.0)


@pytest.mark.parametrize(
    ("limit", "share"),
    [
        (CostLimit("latency", 0.6), 0.6),
        (CostLimit("latency", 0.6, of="a"), 0.45),
        (CostLimit("flops", 0.5, of="b"), 0.125),
        (CostLimit("memory", 700.0, absolute=True), 0.5),
        (CostLimit("latency", 5.0, absolute=True), 1.25),
    ],
)
def test_every_limit_becomes_a_share_of_all_models_together(limit: CostLimit, share: float) -> None:
    found = shares_of([limit], ALONE, TOGETHER)
    assert getattr(found, limit.metric) == pytest.approx(share)


def test_of_two_limits_on_one_metric_the_lower_holds() -> None:
    limits = [CostLimit("flops", 0.6), CostLimit("flops", 100.0, absolute=True)]
    assert shares_of(limits, ALONE, TOGETHER).flops == pytest.approx(0.25)


def test_less_than_is_not_at_most() -> None:
    (strict, loose) = (
        shares_of([CostLimit("memory", 0.5, strict=strict)], ALONE, TOGETHER)
        for strict in (True, False)
    )
    costs = {"latency": None, "flops": None, "memory": 0.5}
    assert strict.allow(**costs) is False
    assert loose.allow(**costs) is True


def test_a_cost_that_is_unknown_cannot_be_limited_by_an_amount() -> None:
    unknown = FusionCost(flops=400.0, params=40)
    assert shares_of([CostLimit("latency", 0.6)], {}, unknown).latency == 0.6
    with pytest.raises(AnalysisError, match="latency of the originals is unknown"):
        shares_of([CostLimit("latency", 5.0, absolute=True)], {}, unknown)


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(AnalysisError, match="leaves nothing"):
        shares_of([CostLimit("flops", 0.0)], ALONE, TOGETHER)
