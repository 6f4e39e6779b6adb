"""A pool keeps its budget, tells why it evicts, and gives memory back."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from sommelier.errors import (
    AnalysisError,
    CancelledError,
    MemoryBudgetError,
    SommelierError,
    UnknownNameError,
)
from sommelier.runtime.pool import ModelPool
from sommelier.runtime.pool_entries import ModelState, PoolRules
from sommelier.runtime.predictor import Predictor
from sommelier.runtime.session_cache import ServedModel, SessionCache
from sommelier.runtime.sessions import SessionSettings
from tests.factories import hanging_model, mlp_classifier

SETTINGS = SessionSettings(batch=1)
WIDTHS = (200, 300, 400, 500)
X = np.ones((1, 4), np.float32)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[ServedModel]:
    """m0 to m3, each larger than the one before: 0.2, 0.4, 0.7 and 1.1 MB of weights."""
    folder = tmp_path_factory.mktemp("models")
    return [
        ServedModel.of_file(mlp_classifier(folder / f"m{i}.onnx", seed=i, hidden=(w, w)))
        for i, w in enumerate(WIDTHS)
    ]


def need(cache: SessionCache, model: ServedModel, servers: int = 1) -> int:
    """Bytes the pool counts for a model, from what was measured."""
    memory = cache.prepare(model, SETTINGS).preparation.memory
    return memory.private_bytes(servers) + memory.file_bytes


def pool_of(
    cache: SessionCache, models: list[ServedModel], rules: PoolRules, clock: Clock | None = None
) -> ModelPool:
    pool = ModelPool(cache, SETTINGS, rules, clock=clock or Clock())
    for model in models:
        pool.add(model)
    return pool


def state(pool: ModelPool, name: str) -> ModelState:
    return next(found for found in pool.states() if found.name == name)


def test_what_is_counted_is_at_least_the_weights(
    cache: SessionCache, models: list[ServedModel]
) -> None:
    """Linux: pages of the weights' file plus anonymous bytes; 4 (w^2 + 7 w) bytes of weights."""
    sizes = [need(cache, model) for model in models]
    for size, width in zip(sizes, WIDTHS, strict=True):
        assert 4 * width * width <= size < 4 * width * width + 2_000_000
    assert sizes == sorted(sizes)


def test_a_model_is_loaded_once_however_many_ask(
    cache: SessionCache, models: list[ServedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    original = Predictor.__init__

    def counted(self: Predictor, model: ServedModel, *rest: object) -> None:
        made.append(model.name)
        original(self, model, *rest)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(Predictor, "__init__", counted)
    with pool_of(cache, models, PoolRules()) as pool, ThreadPoolExecutor(16) as threads:
        for future in [threads.submit(pool.load, "m0") for _ in range(64)]:
            future.result(60)
        assert pool.ready() == ("m0",)
    assert made == ["m0"]


def test_a_model_that_is_not_loaded_does_not_hold_up_the_caller(
    cache: SessionCache, models: list[ServedModel]
) -> None:
    large = ServedModel("large", models[3].path, models[3].id, stand_ins=("m0", "m1"))
    with pool_of(cache, [large, *models[:2]], PoolRules()) as pool:
        assert pool.acquire("large") is None
        assert pool.stand_in("large") is None
        pool.load("m1")
        assert pool.stand_in("large") == "m1"
        pool.load("m0")
        assert pool.stand_in("large") == "m0"  # the better one
        pool.request("large").result(60)
        predictor = pool.acquire("large")
        assert predictor is not None
        assert predictor.run(predictor.check({"x": X}))["logits"].shape == (1, 3)
        pool.release("large")


def test_the_budget_is_kept_and_the_reason_told(
    cache: SessionCache, models: list[ServedModel]
) -> None:
    clock = Clock()
    m0, m1, m2, _ = models
    budget = need(cache, m1) + need(cache, m2)
    rules = PoolRules(host_bytes=budget, settle_s=10)
    with pool_of(cache, models, rules, clock) as pool:
        pool.load("m1")
        pool.load("m2")
        assert pool.host_bytes() == budget
        clock.now_s += 60
        for _ in range(50):
            with pool.lease("m1"):
                pass
        pool.load("m0")  # m2 is larger and nobody used it
        assert pool.ready() == ("m0", "m1")
        assert pool.host_bytes() == need(cache, m0) + need(cache, m1)
        told = state(pool, "m2")
        assert told.state == "absent"
        assert told.host_bytes == 0
        assert str(told.reason).startswith("evicted for m0: 0 requests/s that would wait")
        assert told.idle_s is None


def test_two_models_that_do_not_fit_together_do_not_evict_each_other_without_end(
    cache: SessionCache, models: list[ServedModel]
) -> None:
    clock = Clock()
    rules = PoolRules(host_bytes=need(cache, models[3]), settle_s=10)
    with pool_of(cache, models, rules, clock) as pool:
        pool.load("m3")
        clock.now_s += 9
        with pytest.raises(MemoryBudgetError, match="no room for m2") as refused:
            pool.load("m2")
        assert refused.value.hint == "kept are m3 (loaded 9 s ago)"
        clock.now_s += 2
        pool.load("m2")
        assert pool.ready() == ("m2",)


def test_a_model_in_use_or_pinned_is_not_evicted(
    cache: SessionCache, models: list[ServedModel]
) -> None:
    clock = Clock()
    rules = PoolRules(host_bytes=need(cache, models[0]) + need(cache, models[1]))
    with pool_of(cache, models, rules, clock) as pool:
        pool.load("m0")
        pool.load("m1")
        pool.pin("m1")
        clock.now_s += 100
        with pool.lease("m0"):
            with pytest.raises(MemoryBudgetError) as refused:
                pool.load("m2")
            assert refused.value.hint == "kept are m0 (in use), m1 (pinned)"
            assert pool.ready() == ("m0", "m1")
        with pytest.raises(MemoryBudgetError, match="no room for m3"):
            pool.load("m3")  # m0 alone is too little, so it stays
        assert pool.ready() == ("m0", "m1")


def test_servers_have_room_for_their_runs_counted(
    cache: SessionCache, models: list[ServedModel]
) -> None:
    run = cache.prepare(models[0], SETTINGS).preparation.memory.run_bytes
    assert run is not None
    assert need(cache, models[0], servers=3) == need(cache, models[0]) + 2 * run


def test_models_of_equal_content_share_their_pages(
    cache: SessionCache, models: list[ServedModel]
) -> None:
    twin = ServedModel("twin", models[3].path, models[3].id)
    with pool_of(cache, [models[3], twin], PoolRules()) as pool:
        pool.load("m3")
        one = pool.host_bytes()
        pool.load("twin")
        pages = cache.prepare(twin, SETTINGS).preparation.memory.file_bytes
        assert pages > 500 * 500 * 4
        assert pool.host_bytes() == 2 * one - pages


def test_an_idle_model_is_unloaded(cache: SessionCache, models: list[ServedModel]) -> None:
    clock = Clock()
    with pool_of(cache, models, PoolRules(keep_alive_s=60), clock) as pool:
        for name in ("m0", "m1", "m2"):
            pool.load(name)
        pool.pin("m1")
        clock.now_s += 50
        with pool.lease("m2"):
            pass
        clock.now_s += 15
        with pool.lease("m0"):
            assert pool.expire() == ()
        clock.now_s += 50
        assert pool.expire() == ("m2",)
        assert state(pool, "m2").reason == "nobody used it for 60 s (keep_alive)"
        assert pool.ready() == ("m0", "m1")


def test_a_thread_of_the_pool_unloads_what_is_idle(
    cache: SessionCache, models: list[ServedModel]
) -> None:
    pool = ModelPool(cache, SETTINGS, PoolRules(keep_alive_s=0.1))
    pool.add(models[0])
    with pool:
        pool.load("m0")
        deadline = time.monotonic() + 30
        while pool.ready() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert pool.ready() == ()


def test_unloading_waits_for_runs(cache: SessionCache, models: list[ServedModel]) -> None:
    with pool_of(cache, models, PoolRules()) as pool:
        pool.load("m0")
        predictor = pool.acquire("m0")
        assert predictor is not None
        with pytest.raises(TimeoutError, match="'m0' is still in use"):
            pool.unload("m0", timeout_s=0.05)
        assert pool.ready() == ("m0",)
        ended = threading.Timer(0.2, pool.release, ["m0"])
        ended.start()
        assert pool.unload("m0")
        assert not pool.unload("m0")
        assert pool.acquire("m0") is None
        assert pool.host_bytes() == 0
        with pytest.raises(AnalysisError, match="not loaded any more"):
            predictor.run(predictor.check({"x": X}))


def test_a_model_that_cannot_be_loaded_is_not_tried_with_every_request(tmp_path: Path) -> None:
    clock = Clock()
    bad = ServedModel.of_file(hanging_model(tmp_path / "bad.onnx"))
    cache = SessionCache(tmp_path / "c", time_limit_s=3)
    with pool_of(cache, [bad], PoolRules(retry_s=30), clock) as pool:
        with pytest.raises(AnalysisError, match="bad: no answer within"):
            pool.load("bad")
        assert state(pool, "bad").state == "failed"
        assert "no answer within" in str(state(pool, "bad").reason)
        started = time.monotonic()
        assert pool.request("bad").exception(0) is not None
        assert time.monotonic() - started < 3  # not the sandbox again
        clock.now_s += 31
        assert not pool.request("bad").done()


def test_closing_does_not_wait_for_a_model_that_hangs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = ServedModel.of_file(hanging_model(tmp_path / "bad.onnx"))
    with pool_of(SessionCache(tmp_path / "c", time_limit_s=300), [bad], PoolRules()) as pool:
        waiting = pool.request("bad")
        while state(pool, "bad").state != "loading":
            time.sleep(0.01)
    error = waiting.exception(0)
    assert isinstance(error, CancelledError)  # long before the sandbox's limit
    assert error.message.startswith("preparing bad was given up")
    assert not caplog.records  # who closes need not be told


def test_a_name_is_of_one_model_and_unknown_ones_are_said(
    cache: SessionCache, models: list[ServedModel]
) -> None:
    with pool_of(cache, models, PoolRules()) as pool:
        with pytest.raises(UnknownNameError, match="'n0'"):
            pool.request("n0")
        with pytest.raises(SommelierError, match="another model named 'm0'"):
            pool.add(ServedModel("m0", models[1].path, models[1].id))
        pool.load("m0")
        pool.remove("m0")
        with pytest.raises(UnknownNameError):
            pool.acquire("m0")
    with pytest.raises(SommelierError, match="closed"):
        pool.load("m1")


def test_accounts_are_exact_while_many_threads_load_run_and_unload(
    cache: SessionCache, models: list[ServedModel]
) -> None:
    """However they interleave: the budget is never exceeded, who has a lease gets right answers,
    and in the end everything is given back."""
    sizes = {model.name: need(cache, model) for model in models}
    budget = sizes["m1"] + sizes["m3"]  # any two fit, no three
    rules = PoolRules(host_bytes=budget, settle_s=0.0, loaders=3)
    wanted = {}
    with pool_of(cache, models, PoolRules()) as pool:
        for model in models:
            with pool.lease(model.name) as predictor:
                wanted[model.name] = predictor.run(predictor.check({"x": X}))["logits"]
    stop = threading.Event()
    peaks: list[int] = []
    served = dict.fromkeys(sizes, 0)
    pool = ModelPool(cache, SETTINGS, rules)
    for model in models:
        pool.add(model)

    def watch() -> None:
        while not stop.is_set():
            states = pool.states()  # one moment
            peaks.append(sum(found.host_bytes for found in states))

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(60):
            name = f"m{rng.integers(4)}"
            action = rng.random()
            if action < 0.1:
                pool.unload(name, timeout_s=5)
            elif action < 0.3:
                pool.request(name)
            else:
                predictor = pool.acquire(name)
                if predictor is None:
                    pool.request(name)
                    continue
                found = predictor.run(predictor.check({"x": X}))["logits"]
                pool.release(name)
                assert np.array_equal(found, wanted[name])
                served[name] += 1

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(8) as threads:
        for future in [threads.submit(work, seed) for seed in range(8)]:
            future.result(120)
    stop.set()
    watcher.join()
    assert max(peaks) <= budget
    assert sum(served.values()) > 0
    for name in sizes:  # which of them had a chance is the machine's affair; each has one now
        with pool.lease(name, timeout_s=60) as predictor:
            found = predictor.run(predictor.check({"x": X}))["logits"]
            assert np.array_equal(found, wanted[name])
    assert all(found.leases == 0 for found in pool.states())
    loaded = sum(sizes[name] for name in pool.ready())
    for name in pool.ready():
        pool.pin(name)
    while any(found.state in ("loading", "unloading") for found in pool.states()):
        time.sleep(0.01)
    assert pool.host_bytes() == sum(sizes[name] for name in pool.ready()) >= loaded
    pool.close()
    assert pool.host_bytes() == 0
    assert pool.ready() == ()


CYCLES = """
import gc, sys
gc.disable()  # a session is in no cycle
from pathlib import Path
from sommelier.runtime import memory
from sommelier.runtime.pool import ModelPool
from sommelier.runtime.session_cache import ServedModel, SessionCache
from sommelier.runtime.sessions import SessionSettings
pool = ModelPool(SessionCache(Path(sys.argv[1])), SessionSettings(batch=1))
pool.add(ServedModel.of_file(Path(sys.argv[2]), "m"))
kept = []
for cycle in range(101):
    with pool.lease("m") as predictor:
        feed = predictor.check({"x": [[1.0, 2.0, 3.0, 4.0]]})
        kept.append(predictor.run(feed))  # a caller that keeps its answers
    pool.unload("m")
    if cycle == 0:
        base = memory.private_bytes()
print((memory.private_bytes() - base) / 2**20, pool.host_bytes())
"""


def test_a_hundred_loads_and_unloads_leave_nothing(tmp_path: Path) -> None:
    """An 8 MB model, whose answers are kept: under 10 MiB more than after the first time."""
    path = mlp_classifier(tmp_path / "m.onnx", hidden=(1024, 1024, 1024))
    done = subprocess.run(
        [sys.executable, "-c", CYCLES, str(tmp_path / "c"), str(path)],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    grown, left = done.stdout.split()
    assert float(grown) < 10
    assert left == "0"


LIGHT = """
import sys
from pathlib import Path
from sommelier.runtime.pool import ModelPool
from sommelier.runtime.session_cache import ServedModel, SessionCache
from sommelier.runtime.sessions import SessionSettings
with ModelPool(SessionCache(Path(sys.argv[1])), SessionSettings(batch=1)) as pool:
    pool.add(ServedModel("m", Path(sys.argv[2]), sys.argv[3]))
    with pool.lease("m") as predictor:
        predictor.run(predictor.check({"x": [[1.0, 2.0, 3.0, 4.0]]}))
print(*(name for name in sys.argv[4:] if name in sys.modules))
"""


def test_a_serving_process_loads_neither_torch_nor_what_reads_or_queries_models(
    cache: SessionCache, models: list[ServedModel]
) -> None:
    """onnx and torch stay in the sandbox; there is no database on the request path."""
    heavy = ("torch", "onnx", "duckdb", "sqlalchemy", "pandas", "scipy", "lark")
    model = models[0]
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, str(cache.root), str(model.path), model.id, *heavy],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.split() == []
