"""How deployments end, at any moment and more than once, and what an interrupt leaves behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from sommelier.deployment_records import Deployment
from sommelier.errors import SommelierError
from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.session_cache import ServedModel, SessionCache
from tests.runtime.deploying import AT_ONCE, X, deployed, deployment, pool_of

RNG = np.random.default_rng(3)


def test_an_interrupt_gives_its_server_and_its_model_back(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    with pool_of(cache) as pool:
        record = deployment(deployed("slow"))
        with RunningDeployment(record, {"slow": files["slow"]}, pool) as running:
            assert running.wait_ready(60)
            threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
            with pytest.raises(KeyboardInterrupt):
                _ask_for_ever(running)
            state = running.state()
            assert (state.running, state.waiting) == (0, 0)
            assert [model.leases for model in pool.states()] == [0]
            assert running.infer(AT_ONCE).model == "slow"
            assert running.drain(5) == 0


def _ask_for_ever(running: RunningDeployment) -> None:
    while True:
        running.infer({"x": X, "trips": np.array(100_000, np.int64)})


def test_closing_twice_and_draining_what_is_closed_take_nothing_from_others(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    record = deployment(deployed("small", "middle"))
    with pool_of(cache) as pool, RunningDeployment(record, files, pool) as other:
        running = RunningDeployment(record, files, pool)
        assert running.wait_ready(60)
        assert other.wait_ready(60)
        running.close()
        assert running.drain(5) == 0
        running.close()
        assert running.state().status == "closed"
        assert other.infer({"x": X}).model in ("small", "middle")


def test_closing_while_it_switches_leaves_nothing_behind_and_takes_nothing_from_others(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    shared, new = deployment(deployed("small")), deployment(deployed("small", "middle", "large"))
    for _ in range(10):
        with pool_of(cache) as pool:
            with RunningDeployment(shared, files, pool) as other:
                running = RunningDeployment(shared, files, pool)
                assert other.wait_ready(60)
                failures: list[str] = []
                switch = threading.Thread(target=_switch, args=(running, new, files, failures))
                switch.start()
                time.sleep(RNG.uniform(0, 0.02))
                running.close()
                switch.join(60)
                assert not switch.is_alive()
                assert failures in ([], ["deployment vision is closed"])
                assert other.infer({"x": X}).model == "small"
            end = time.monotonic() + 20
            while pool.states() and time.monotonic() < end:
                time.sleep(0.01)
            assert pool.states() == ()


def _switch(
    running: RunningDeployment, new: Deployment, files: dict[str, ServedModel], failures: list[str]
) -> None:
    try:
        running.replan(new, files)
    except SommelierError as error:
        failures.append(error.message)


def test_of_two_that_prepare_a_model_at_once_both_load_what_was_made(
    tmp_path: Path, files: dict[str, ServedModel]
) -> None:
    """The later one must not take away what the other is about to load."""
    for attempt in range(5):
        found: list[str] = []
        root = tmp_path / str(attempt)
        threads = [
            threading.Thread(target=_prepare, args=(root, files["small"], found)) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert found == ["prepacked", "prepacked"]


def _prepare(root: Path, model: ServedModel, found: list[str]) -> None:
    cache = SessionCache(root)
    with pool_of(cache) as pool:
        found.append(cache.prepare(model, pool.settings).preparation.recipe)
