"""How long an unused model stays loaded: as long as the most patient of its deployments says."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from sommelier.deployment_records import DeploymentOptions
from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.pool import ModelPool
from sommelier.runtime.pool_entries import Budget, Entry, PoolRules, keep_alive_s
from sommelier.runtime.session_cache import ServedModel, SessionCache
from sommelier.runtime.sessions import SessionSettings
from tests.runtime.deploying import X, deployed, deployment

Files = dict[str, ServedModel]
NEVER = float("inf")


@dataclass
class Clock:
    """Seconds that pass when a test says so."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pool(cache: SessionCache, clock: Clock) -> Iterator[ModelPool]:
    with ModelPool(cache, SessionSettings(batch=8), clock=clock) as pool:
        yield pool


def running(
    name: str, keep_s: float | None, models: tuple[str, ...], files: Files, pool: ModelPool
) -> RunningDeployment:
    options = DeploymentOptions(keep_alive_s=keep_s)
    record = replace(deployment(deployed(*models), options=options), name=name)
    made = RunningDeployment(record, files, pool)
    assert made.wait_ready(60)
    for model in models:
        pool.load(model, timeout_s=60)
    return made


def test_each_model_stays_as_long_as_the_most_patient_deployment_that_has_it_says(
    pool: ModelPool, clock: Clock, files: Files
) -> None:
    with (
        running("short", 60.0, ("large", "middle"), files, pool),
        running("long", 600.0, ("middle", "small"), files, pool) as long,
    ):
        clock.now_s += 61
        assert pool.expire() == ("large",)
        reasons = {state.name: state.reason for state in pool.states()}
        assert reasons["large"] == "nobody used it for 60 s (keep_alive)"
        clock.now_s += 600
        assert set(pool.expire()) == {"middle", "small"}
        assert long.infer({"x": X}).model in ("middle", "small")


def test_models_of_who_says_nothing_stay_beside_a_deployment_that_is_impatient(
    pool: ModelPool, clock: Clock, files: Files
) -> None:
    with (
        running("short", 1.0, ("large", "middle"), files, pool),
        running("patient", None, ("middle",), files, pool),
    ):
        clock.now_s += 1e6
        assert pool.expire() == ("large",)
        assert pool.ready() == ("middle",)


def test_keep_alive_is_followed_by_a_switch(pool: ModelPool, clock: Clock, files: Files) -> None:
    with running("vision", None, ("small",), files, pool) as vision:
        clock.now_s += 100
        assert pool.expire() == ()
        options = replace(vision.deployment.options, keep_alive_s=60.0)
        vision.replan(replace(vision.deployment, options=options), files)
        clock.now_s += 61
        assert pool.expire() == ("small",)


def test_a_deployment_alone_begins_the_thread_that_unloads(
    cache: SessionCache, files: Files
) -> None:
    with ModelPool(cache, SessionSettings(batch=8)) as pool:
        record = deployment(deployed("small"), options=DeploymentOptions(keep_alive_s=0.5))
        with RunningDeployment(record, files, pool) as running:
            assert running.infer({"x": X}).model == "small"
            until = time.monotonic() + 60
            while pool.ready():
                assert time.monotonic() < until
                time.sleep(0.01)
            assert running.ready, "the next request loads it"


@pytest.mark.parametrize(
    ("usual", "asked", "others", "kept"),
    [
        (None, [], 0, NEVER),
        (60.0, [], 0, 60.0),
        (None, [5.0, 9.0], 0, 9.0),
        (None, [5.0, None], 0, NEVER),
        (60.0, [5.0, None], 0, 60.0),
        (None, [5.0], 1, NEVER),
        (60.0, [5.0, 90.0], 1, 90.0),
    ],
)
def test_who_has_a_model_without_a_word_keeps_it_as_the_pool_does(
    usual: float | None, asked: list[float | None], others: int, kept: float, files: Files
) -> None:
    entry = Entry(files["small"], SessionSettings())
    entry.budgets = [Budget(str(i), keep_alive_s=s) for i, s in enumerate(asked)]
    entry.retained = len(asked) + others
    assert keep_alive_s(entry, PoolRules(keep_alive_s=usual)) == kept
