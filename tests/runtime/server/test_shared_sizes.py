"""How many requests share a run: no more than hold the event loop for a moment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.pool import ModelPool
from sommelier.runtime.server.served import single_model
from sommelier.runtime.session_cache import ServedModel
from tests import factories

BATCH = 256


@pytest.fixture
def running(pool: ModelPool, tmp_path: Path) -> Iterator[RunningDeployment]:
    model = ServedModel.of_file(factories.mlp_classifier(tmp_path / "m.onnx"), "m")
    with single_model(model, pool) as found:
        assert found.wait_ready(60)
        found._now.interface.together = BATCH  # as if measured, of a pool with such a batch
        yield found


@pytest.mark.parametrize(("one_ms", "most"), [(0.01, BATCH), (0.3, 32), (0.9, 8), (50.0, 1)])
def test_as_many_share_a_run_as_take_a_moment(
    running: RunningDeployment, one_ms: float, most: int
) -> None:
    """A model of 50 ms does not run in the event loop at all."""
    running.telemetry.profile("m", one_ms)
    assert running.together == most


def test_it_is_what_was_measured_that_counts(running: RunningDeployment) -> None:
    running.telemetry.profile("m", 0.3)
    running.telemetry.profile("m", 4.0, batch=64)  # they gain by it
    running.telemetry.profile("m", 9.0, batch=128)
    assert running.together == 128
    running.telemetry.profile("m", 11.0, batch=128)
    running._asked = None  # it is asked again after some runs
    assert running.together == 64
