"""Inputs larger than those a model was quick for do not run where others wait meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from sommelier.runtime.batching import SLOWEST_MS
from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.pool import ModelPool
from sommelier.runtime.server.served import single_model
from sommelier.runtime.session_cache import ServedModel
from tests import factories
from tests.onnx_writer import FLOAT, save_model
from tests.runtime.server.asking import wait_until


@pytest.fixture
def running(tmp_path: Path, pool: ModelPool) -> Iterator[RunningDeployment]:
    """Of a model that takes a time with the square of an input's length."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "t"], ["g"]),
        helper.make_node("ReduceMean", ["g"], ["y"], axes=[1, 2], keepdims=0),
    ]
    x, y = {"x": (FLOAT, ["N", "L", 4])}, {"y": (FLOAT, ["N"])}
    file = save_model(tmp_path / "gram.onnx", nodes, x, y, {})
    with single_model(ServedModel.of_file(file, "gram"), pool) as found:
        assert found.wait_ready(60)
        yield found


def of_length(length: int, samples: int = 1) -> dict[str, np.ndarray]:
    return {"x": np.ones((samples, length, 4), np.float32)}


def becomes_quick(running: RunningDeployment, length: int) -> None:
    """Asked in a thread until that took a moment only, whatever else the machine does."""

    def quick() -> bool:
        running.submit(of_length(length)).result(20)
        return running.try_infer(of_length(length), at_most_ms=SLOWEST_MS) is not None

    wait_until(quick)


def test_a_larger_input_does_not_run_at_once(running: RunningDeployment) -> None:
    becomes_quick(running, 16)
    before = running.state().answered
    assert running.try_infer(of_length(2_000), at_most_ms=SLOWEST_MS) is None
    assert running.try_infer(of_length(17), at_most_ms=SLOWEST_MS) is None
    assert running.state().answered == before
    assert running.submit(of_length(2_000)).result(20).model == "gram"
    assert running.try_infer(of_length(2_000), at_most_ms=SLOWEST_MS) is None


def test_it_does_once_it_was_quick_in_a_thread(running: RunningDeployment) -> None:
    becomes_quick(running, 16)
    becomes_quick(running, 24)
    for length in (24, 16, 20):
        assert running.try_infer(of_length(length), at_most_ms=1e3) is not None


def test_samples_are_not_counted_as_size(running: RunningDeployment) -> None:
    becomes_quick(running, 16)
    stint = running.open_stint([of_length(16)] * 4, at_most_ms=1e3)
    assert stint is not None
    told: list[object] = []
    stint.answer(lambda outputs, *_: told.append(outputs))
    stint.end()
    assert len(told) == 4


def test_another_model_of_the_name_begins_anew(running: RunningDeployment) -> None:
    becomes_quick(running, 16)
    running.telemetry.forget("gram")
    running.infer(of_length(8))
    assert running.try_infer(of_length(16), at_most_ms=1e3) is None


def test_where_all_are_of_one_size_nothing_is_asked(pool: ModelPool, tmp_path: Path) -> None:
    model = ServedModel.of_file(factories.mlp_classifier(tmp_path / "m.onnx"), "m")
    with single_model(model, pool) as running:
        assert running.wait_ready(60)
        assert running.try_infer({"x": np.ones((1, 4), np.float32)}, at_most_ms=1e3) is not None
