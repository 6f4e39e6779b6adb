"""How many requests share a run: no more than hold the event loop for a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.open_requests import LONGEST_MS
from sommelier.runtime.pool import ModelPool
from sommelier.runtime.server.rest_requests import QUICK_MS, Place
from sommelier.runtime.server.sentinel import LIMIT_S
from sommelier.runtime.server.served import single_model
from sommelier.runtime.server.service import ModelService
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


@pytest.mark.parametrize(("one_ms", "most"), [(0.01, BATCH), (0.3, 32), (0.9, 8), (50.0, BATCH)])
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
    assert running.together == 64


def test_few_share_a_run_whatever_the_model_takes(running: RunningDeployment) -> None:
    running._now.interface.together = 8
    running.telemetry.profile("m", 0.9)
    running.telemetry.profile("m", 40.0, batch=8)
    assert running.together == 8  # run_together asks how long that takes


@pytest.fixture
def place() -> Iterator[Place]:
    loop = asyncio.new_event_loop()
    found = Place(ModelService(None, []), loop, 1 << 20)  # type: ignore[arg-type]  # none is served
    yield found
    found.close()
    loop.close()


@pytest.mark.parametrize(("count", "ms"), [(2, 2 * QUICK_MS), (8, 8 * QUICK_MS), (240, LONGEST_MS)])
def test_a_run_may_take_as_long_as_its_requests_but_not_too_long(
    place: Place, count: int, ms: float
) -> None:
    told: dict[str, Any] = {}

    def run(**limits: Any) -> str:
        told.update(limits)
        return "answers"

    assert place.run_together("m", count, run) == "answers"
    assert told["at_most_ms"] == ms <= LIMIT_S * 1e3 / 5
