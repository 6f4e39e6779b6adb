"""Requests that shared a run which failed, or was refused: what becomes of each; what counts."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from sommelier.deployment_records import DeployedModel, Deployment, DeploymentOptions
from sommelier.errors import RejectedError
from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.pool import ModelPool
from sommelier.runtime.server.service import ModelService
from sommelier.runtime.session_cache import ServedModel
from tests import factories
from tests.onnx_writer import FLOAT, INT64, save_model
from tests.runtime.server.asking import ready
from tests.runtime.server.test_lane import clients, post, read, rounds, serving

ROWS = np.arange(20, dtype=np.float32).reshape(10, 2)
X, Y = {"x": (INT64, ["N", 1])}, {"y": (FLOAT, ["N", 1, 2])}


@pytest.fixture
def running(pool: ModelPool, tmp_path: Path) -> Iterator[RunningDeployment]:
    """`table` fails on an index beyond it; `safe` is less accurate and answers everything."""
    table = save_model(
        tmp_path / "table.onnx", [helper.make_node("Gather", ["w", "x"], ["y"])], X, Y, {"w": ROWS}
    )
    clip = helper.make_node("Clip", ["x", "low", "high"], ["i"])
    safe = save_model(
        tmp_path / "safe.onnx", [clip, helper.make_node("Gather", ["w", "i"], ["y"])],
        X, Y, {"w": -ROWS, "low": np.array(0), "high": np.array(9)},
    )  # fmt: skip
    models = {"table": ServedModel.of_file(table), "safe": ServedModel.of_file(safe)}
    deployed = (
        DeployedModel("table", models["table"].id, accuracy=0.95, mean_ms=0.05),
        DeployedModel("safe", models["safe"].id, accuracy=0.60, mean_ms=0.04),
    )
    deployment = Deployment("two", "models", "", deployed, options=DeploymentOptions())
    with RunningDeployment(deployment, models, pool) as found:
        assert found.wait_ready(60)
        for name in found.models:
            pool.load(name)
        found._now.interface.together = 8  # as if measured: how fast this machine is counts not
        yield found


def test_only_who_fails_is_answered_by_another_model(
    pool: ModelPool, running: RunningDeployment
) -> None:
    good = [post("two", {"x": np.array([[i]])}) for i in (1, 2, 3, 4)]
    bad = post("two", {"x": np.array([[99]])})
    with serving(ready(ModelService(pool, [running]))) as server, clients(server.port, 5) as those:
        rounds(server, those, [*good, good[0]])
        with server.held():
            for client, request in zip(those, [*good, bad], strict=True):
                client.send(request)
        answers = [read(client.answer()) for client in those]
    models = [told["parameters"]["sommelier_model"] for told, _ in answers]
    assert models == ["table"] * 4 + ["safe"]
    assert [found["y"].ravel()[0] for _, found in answers] == [2, 4, 6, 8, -18]
    counts = running._dispatcher.counts
    assert (counts.failed, counts.failures) == (0, {"table": 1})
    assert running._dispatcher.drain(5) == 0


def test_a_model_that_fails_at_once_hands_no_other_one_the_event_loop(
    running: RunningDeployment,
) -> None:
    """How long another model takes nobody has asked."""
    given = {"x": np.array([[99]])}
    before = dict(running._dispatcher.counts.by_model)
    with pytest.raises(CancelledError):
        running.try_infer(given, at_most_ms=1e3)
    assert running._dispatcher.counts.by_model == before
    assert running.submit(given).result(20).model == "safe"
    assert running._dispatcher.counts.failures == {"table": 1}


def test_each_that_fails_counts_once(pool: ModelPool, tmp_path: Path) -> None:
    table = save_model(
        tmp_path / "table.onnx", [helper.make_node("Gather", ["w", "x"], ["y"])], X, Y, {"w": ROWS}
    )
    model = ServedModel.of_file(table, "table")
    deployment = Deployment("one", "models", "", (DeployedModel("table", model.id),))
    with RunningDeployment(deployment, {"table": model}, pool) as running:
        assert running.wait_ready(60)
        running._now.interface.together = 8
        good = post("one", {"x": np.array([[1]])})
        bad = post("one", {"x": np.array([[99]])})
        service = ready(ModelService(pool, [running]))
        with serving(service) as server, clients(server.port, 4) as those:
            rounds(server, those, [good] * 4)
            with server.held():
                for client, request in zip(those, [good, bad, bad, good], strict=True):
                    client.send(request)
            assert [client.answer()[0] for client in those] == [200, 400, 400, 200]
        counts = running._dispatcher.counts
        assert (counts.failed, counts.failures) == (2, {"table": 2})


def test_a_refusal_that_nobody_got_is_not_counted(pool: ModelPool, tmp_path: Path) -> None:
    model = ServedModel.of_file(factories.mlp_classifier(tmp_path / "m.onnx"), "m")
    deployed = (DeployedModel("m", model.id, accuracy=0.9, mean_ms=50.0, std_ms=1.0),)
    deployment = Deployment("one", "models", "", deployed, sla_ms=10.0)
    with RunningDeployment(deployment, {"m": model}, pool) as running:
        assert running.wait_ready(60)
        x = {"x": np.ones((1, 4), np.float32)}
        running.infer(x, deadline_ms=1e4)
        for _ in range(3):
            with pytest.raises(RejectedError):
                running.open_stint([x], at_most_ms=1e3)
        assert running._dispatcher.counts.rejected == {}
        with pytest.raises(RejectedError):
            running.try_infer(x, at_most_ms=1e3)
        assert running._dispatcher.counts.rejected == {429: 1}
