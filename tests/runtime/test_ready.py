"""When requests are welcome, what takes a deployment out of service, and what does not bring it
back."""

from __future__ import annotations

import threading
import time

import pytest

from sommelier.errors import RejectedError
from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.pool_entries import READY
from sommelier.runtime.server import service as server
from sommelier.runtime.server.protocol import InferRequest, ProtocolError
from sommelier.runtime.server.service import ModelService
from sommelier.runtime.session_cache import ServedModel, SessionCache
from tests.runtime.deploying import FOREVER, X, deployed, deployment, pool_of
from tests.runtime.server.asking import wait_until

Files = dict[str, ServedModel]


def test_a_deployment_stays_ready_without_its_models_here_as_over_the_protocol(
    cache: SessionCache, files: Files
) -> None:
    with (
        pool_of(cache) as pool,
        RunningDeployment(deployment(deployed("small")), files, pool) as running,
    ):
        service = ModelService(pool, [running])
        assert running.wait_ready(60)
        pool.unload("small")
        assert running.ready
        assert running.state().status == "ready"
        assert service.ready("vision")
        assert running.infer({"x": X}).model == "small"


def test_an_unload_answers_who_waits_and_nobody_loads_it_again(
    cache: SessionCache, files: Files
) -> None:
    """Requests that come all the time, of whom some wait when it is unloaded."""
    with pool_of(cache) as pool, RunningDeployment(
        deployment(deployed("large")), files, pool
    ) as running:  # fmt: skip
        service = ModelService(pool, [running])
        assert running.wait_ready(60)
        stop, told = threading.Event(), set()

        def ask() -> None:
            while not stop.is_set():
                try:
                    service.submit(InferRequest("vision", {"x": X})).result(30)
                except ProtocolError as error:
                    told.add(error.status)

        askers = [threading.Thread(target=ask) for _ in range(8)]
        for asker in askers:
            asker.start()
        time.sleep(0.2)
        service.unload("vision")
        time.sleep(0.3)
        assert pool.ready() == ()
        assert [entry["state"] for entry in service.index()] == ["UNAVAILABLE"]
        assert running.status == "unloaded"
        service.load("vision")
        assert running.ready
        stop.set()
        for asker in askers:
            asker.join(30)
        assert told <= {400, 503}
        assert running.infer({"x": X}).model == "large"


def test_an_unload_that_fails_leaves_the_name_in_service(
    cache: SessionCache, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "UNLOAD_S", 0.2)
    with pool_of(cache) as pool, RunningDeployment(
        deployment(deployed("slow", "other")),
        {**files, "other": ServedModel("other", files["slow"].path, files["slow"].id)},
        pool,
    ) as running:  # fmt: skip
        service = ModelService(pool, [running])
        assert running.wait_ready(60)
        ticket = running.submit(FOREVER)
        wait_until(lambda: running.state().running == 1)
        with pytest.raises(ProtocolError, match="failed to unload 'vision': 1 requests"):
            service.unload("vision")
        assert service.ready("vision")
        assert running.ready
        ticket.cancel()
        wait_until(lambda: running.state().running == 0)
        service.unload("vision")
        with pytest.raises(RejectedError, match="was unloaded"):
            running.submit(FOREVER)


def test_a_change_of_the_catalog_loads_nothing_of_a_name_that_is_unloaded(
    cache: SessionCache, files: Files
) -> None:
    with pool_of(cache) as pool, RunningDeployment(
        deployment(deployed("small")), files, pool
    ) as running:  # fmt: skip
        service = ModelService(pool, [running])
        assert running.wait_ready(60)
        service.unload("vision")
        switch = running.replan(deployment(deployed("large", "middle")), files)
        assert switch.added == ("large", "middle")
        assert switch.failed == {}
        assert {state.state for state in pool.states()}.isdisjoint({READY, "loading"})
        assert running.status == "unloaded"
        service.load("vision")
        assert running.infer({"x": X}).model in ("large", "middle")


def test_while_it_drains_no_name_is_ready_but_all_are_answered(
    cache: SessionCache, files: Files
) -> None:
    with pool_of(cache) as pool, RunningDeployment(
        deployment(deployed("small")), files, pool
    ) as running:  # fmt: skip
        service = ModelService(pool, [running])
        assert running.wait_ready(60)
        assert service.ready("vision")
        service.begin_drain()
        assert not service.ready()
        assert not service.ready("vision")
        service.infer(InferRequest("vision", {"x": X}))
