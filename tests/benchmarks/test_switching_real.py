"""Worker threads around the scheduler answer every request, as the simulator says."""

from __future__ import annotations

import time

import numpy as np
import pytest

from benchmarks.switching import Contender, Ladder
from benchmarks.switching_real import _Deployment
from sommelier.runtime import traces
from sommelier.runtime.simulator import Given, SimulatedModel

LADDER = Ladder(
    (SimulatedModel("slow", 0.9, Given(4.0)), SimulatedModel("quick", 0.8, Given(0.2))), 4.0
)
RUNS = {"slow": lambda: time.sleep(4e-3), "quick": lambda: time.sleep(2e-4)}


@pytest.mark.parametrize("servers", [1, 2])
def test_every_request_is_answered_and_latency_is_wait_and_run(servers: int) -> None:
    trace = traces.poisson(60, 4.0, seed=0)
    contender = Contender("balanced", servers=servers)
    result = _Deployment(LADDER, RUNS, contender).replay(trace)
    assert len(result) == 60
    assert (result.status == 200).all()
    assert set(result.chosen) <= {0, 1}
    assert (result.waits_ms >= 0).all()
    shortest = np.where(result.chosen == 0, 4.0, 0.2)
    assert (result.latency_ms - result.waits_ms >= shortest - 1e-6).all()


def test_under_load_the_quick_model_takes_over() -> None:
    """One request every 2 ms, of which the slow model alone bears half."""
    trace = traces.constant(100, 2.0)
    switched = _Deployment(LADDER, RUNS, Contender("balanced")).replay(trace)
    fixed = _Deployment(LADDER, RUNS, Contender("fixed")).replay(trace)
    assert fixed.shares["slow"] == 1.0
    assert switched.shares["quick"] > 0.2
    assert switched.latency_quantile(0.9) < fixed.latency_quantile(0.9) / 2
