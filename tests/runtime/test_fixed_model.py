"""ROUTE BY fixed: the model that was asked for answers, or nobody but the fallback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sommelier.deployment_records import Deployment, DeploymentOptions
from sommelier.errors import RejectedError
from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.loading import RETRY_MS
from sommelier.runtime.session_cache import ServedModel, SessionCache
from tests.runtime.deploying import X, deployed, deployment, ladder, pool_of

ONE = DeploymentOptions(warm=1)  # only the first model is loaded at the start


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ServedModel]:
    return ladder(tmp_path_factory.mktemp("models"))


def fixed(*names: str, **changes: Any) -> Deployment:
    given = {"policy": "fixed", "knobs": {"model": "small"}, **changes}
    return deployment(deployed(*names), **given)


def test_a_request_waits_for_the_model_while_another_is_loaded(
    tmp_path: Path, files: dict[str, ServedModel]
) -> None:
    record = fixed("large", "small", options=ONE)
    with pool_of(SessionCache(tmp_path)) as pool, RunningDeployment(record, files, pool) as running:
        assert running.wait_ready(60)
        assert [model.state for model in running.state().models] != ["ready", "ready"]
        answers = [running.submit({"x": X}) for _ in range(20)]
        assert {answer.result(60).model for answer in answers} == {"small"}


def test_the_fallback_answers_while_the_model_is_loaded(
    tmp_path: Path, files: dict[str, ServedModel]
) -> None:
    record = fixed("large", "small", options=ONE, fallback="large")
    with pool_of(SessionCache(tmp_path)) as pool, RunningDeployment(record, files, pool) as running:
        assert running.wait_ready(60)
        first = running.infer({"x": X})
        assert first.model == "large"
        pool.load("small")
        running.infer({"x": X})
        assert running.infer({"x": X}).model == "small"


def test_a_model_that_cannot_be_loaded_is_refused_with_when_to_come_again(
    tmp_path: Path, files: dict[str, ServedModel]
) -> None:
    gone = {**files, "small": ServedModel("small", tmp_path / "gone.onnx", "id")}
    record = fixed("large", "small", options=DeploymentOptions())
    with pool_of(SessionCache(tmp_path)) as pool, RunningDeployment(record, gone, pool) as running:
        running.wait_ready(60)
        with pytest.raises(RejectedError) as raised:
            running.infer({"x": np.asarray(X)})
        assert raised.value.status == 503
        assert "gone.onnx" in raised.value.message
        assert raised.value.retry_after_ms is not None
        assert 0 <= raised.value.retry_after_ms <= RETRY_MS


def test_a_model_that_is_not_as_accurate_as_asked_for_is_not_said_to_be_absent_alone(
    tmp_path: Path, files: dict[str, ServedModel]
) -> None:
    record = fixed("large", "small")
    with pool_of(SessionCache(tmp_path)) as pool, RunningDeployment(record, files, pool) as running:
        pool.load("small")
        pool.load("large")
        with pytest.raises(RejectedError, match=r"does not reach an accuracy of 0\.94"):
            running.infer({"x": X}, min_accuracy=0.94)


@pytest.mark.parametrize("fallback", ["small", None])
def test_a_request_that_asks_for_more_than_any_model_reaches_is_refused_with_a_fallback_as_without(
    fallback: str | None, tmp_path: Path, files: dict[str, ServedModel]
) -> None:
    record = deployment(deployed("middle", "small"), min_accuracy=0.92, fallback=fallback)
    with pool_of(SessionCache(tmp_path)) as pool, RunningDeployment(record, files, pool) as running:
        pool.load("middle")
        pool.load("small")
        with pytest.raises(RejectedError, match=r"reaches an accuracy of 0\.94") as raised:
            running.infer({"x": X}, min_accuracy=0.94)
        assert raised.value.status == 503
