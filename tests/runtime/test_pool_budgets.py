"""What deployments promise of memory holds for the models of each, whatever the others promise."""

from __future__ import annotations

import numpy as np
import pytest

from sommelier.deployment_records import DeploymentOptions
from sommelier.errors import AnalysisError, MemoryBudgetError
from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.pool import ModelPool
from sommelier.runtime.pool_entries import Budget
from sommelier.runtime.session_cache import ServedModel, SessionCache
from tests.runtime.deploying import X, deployed, deployment, pool_of

Files = dict[str, ServedModel]


def size(pool: ModelPool, *names: str) -> int:
    """Bytes that models take in a pool where they are loaded."""
    return sum(state.host_bytes for state in pool.states() if state.name in names)


@pytest.fixture(scope="module")
def sizes(cache: SessionCache, files: Files) -> dict[str, int]:
    with pool_of(cache) as pool:
        for name in ("large", "middle", "small"):
            pool.add(files[name])
            pool.load(name)
        return {state.name: state.host_bytes for state in pool.states()}


def test_a_promise_holds_beside_a_deployment_that_promises_nothing(
    cache: SessionCache, files: Files, sizes: dict[str, int]
) -> None:
    most = sizes["large"] + sizes["small"]
    options = DeploymentOptions(memory_bytes=most)
    with pool_of(cache) as pool:
        free = RunningDeployment(deployment(deployed("middle")), files, pool)
        assert free.wait_ready(60)
        record = deployment(deployed("large", "middle", "small"), options=options)
        with RunningDeployment(record, files, pool) as bound:
            for name in ("large", "middle", "small", "large"):
                pool.load(name, timeout_s=60)
                assert size(pool, "large", "middle", "small") <= most
            assert pool.evictions >= 2
            assert free.infer({"x": X}).model == "middle"
            assert size(pool, "large", "middle", "small") <= most
            assert bound.infer({"x": X}).model in ("large", "middle", "small")
        free.close()


def test_models_of_others_are_not_evicted_for_a_promise_and_the_refusal_says_whose_it_is(
    cache: SessionCache, files: Files, sizes: dict[str, int]
) -> None:
    with pool_of(cache) as pool:
        pool.retain(files["small"])
        pool.load("small", timeout_s=60)
        budget = Budget("vision", sizes["large"] - 1)
        pool.retain(files["large"], budget=budget)
        with pytest.raises(MemoryBudgetError, match="that deployment vision may take"):
            pool.load("large", timeout_s=60)
        assert pool.ready() == ("small",)
        assert pool.evictions == 0


def test_a_promise_that_is_made_later_unloads_what_is_too_much(
    cache: SessionCache, files: Files, sizes: dict[str, int]
) -> None:
    """By DEPLOY of other models, and by DEPLOY OR REPLACE with a smaller promise."""
    names = ("large", "middle", "small")
    with (
        pool_of(cache) as pool,
        RunningDeployment(deployment(deployed(*names)), files, pool) as running,
    ):
        assert running.wait_ready(60)
        for name in names:
            pool.load(name, timeout_s=60)
        for most in (sizes["large"] + sizes["small"], sizes["small"]):
            less = DeploymentOptions(memory_bytes=most, warm=0)
            running.replan(deployment(deployed(*names), options=less), files)
            assert 0 < size(pool, *names) <= most


def test_a_device_is_of_one_deployment_and_where_there_is_none_that_one_failed(
    cache: SessionCache, files: Files
) -> None:
    with pool_of(cache) as pool:
        away = deployment(deployed("small"), options=DeploymentOptions(device="cuda:77"))
        with (
            RunningDeployment(deployment(deployed("small")), files, pool) as here,
            RunningDeployment(away, files, pool) as elsewhere,
        ):
            assert here.wait_ready(60)
            assert not elsewhere.wait_ready(60)
            assert (here.status, elsewhere.status) == ("ready", "failed")
            (model,) = elsewhere.state().models
            assert "cuda:77" in str(model.reason)
            assert elsewhere.state().status == "failed"
            assert here.infer({"x": X}).model == "small"
            assert np.isfinite(here.state().models[0].mean_ms)
            assert set(here.models).isdisjoint(elsewhere.models)
            # written anew for this machine, it goes on
            elsewhere.replan(deployment(deployed("small")), files)
            assert elsewhere.infer({"x": X}).model == "small"
            assert elsewhere.status == "ready"


def test_versions_and_devices_have_names_of_their_own(cache: SessionCache, files: Files) -> None:
    newer = ServedModel("small", files["middle"].path, files["middle"].id)
    with pool_of(cache) as pool:
        names = [
            pool.retain(model, device=device)
            for model in (files["small"], newer)
            for device in (None, "cpu", "cuda")
        ]
        assert names[0] == names[1] == "small"
        assert len(set(names)) == 4
        pool.load(names[3], timeout_s=60)
        with pytest.raises(AnalysisError, match="cuda"):
            pool.load(names[2], timeout_s=60)
