"""Requests under threads: exact limits, deadlines, cancellation, failures, and one answer each."""

from __future__ import annotations

import concurrent.futures
import gc
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from sommelier.deployment_records import DeployedModel, DeploymentOptions
from sommelier.errors import InputError, RejectedError
from sommelier.runtime.answers import Ticket
from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.session_cache import ServedModel, SessionCache
from tests.onnx_writer import FLOAT, INT64, save_model
from tests.runtime.deploying import (
    AT_ONCE,
    FOREVER,
    X,
    deployed,
    deployment,
    pool_of,
)


@pytest.fixture
def busy(cache: SessionCache, files: dict[str, ServedModel]) -> Iterator[RunningDeployment]:
    """A deployment of the slow model with one server and a queue of 3."""
    options = DeploymentOptions(servers=1, queue=3)
    with pool_of(cache) as pool:
        record = deployment(deployed("slow"), options=options)
        with RunningDeployment(record, {"slow": files["slow"]}, pool) as running:
            assert running.wait_ready(60)
            yield running


def occupied(running: RunningDeployment) -> Ticket:
    """Its server, by a run that does not end by itself."""
    ticket = running.submit(FOREVER)
    wait_until(lambda: running.state().running == 1 and running.state().waiting == 0)
    return ticket


def wait_until(holds: object, timeout_s: float = 20.0) -> None:
    assert callable(holds)
    until = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < until, "it never came to that"
        time.sleep(0.002)


def test_a_deadline_comes_while_another_request_still_runs(busy: RunningDeployment) -> None:
    occupied(busy)
    began = time.perf_counter()
    late = busy.submit(AT_ONCE, deadline_ms=80)
    with pytest.raises(RejectedError, match=r"its deadline passed.*; 80 ms were given") as refused:
        late.result(10)
    took_ms = (time.perf_counter() - began) * 1e3
    assert refused.value.status == 504
    assert 79 <= took_ms < 1000  # the run before it takes hours
    state = busy.state()
    assert (state.running, state.waiting, state.rejected) == (1, 0, {504: 1})


def test_a_run_ends_at_the_deadline_of_its_request_and_its_server_is_free(
    busy: RunningDeployment,
) -> None:
    """In a worker, and in the caller's own thread; the run would take hours."""
    for ask in (
        lambda: busy.submit(FOREVER, deadline_ms=80).result(10),
        lambda: busy.infer(FOREVER, deadline_ms=80),
    ):
        began = time.perf_counter()
        with pytest.raises(RejectedError, match="its deadline passed after slow ran") as refused:
            ask()
        assert refused.value.message.endswith("; 80 ms were given")
        took_ms = (time.perf_counter() - began) * 1e3
        assert refused.value.status == 504
        assert 79 <= took_ms < 2000
        wait_until(lambda: busy.state().running == 0)
        assert busy.infer(AT_ONCE).model == "slow"
    state = busy.state()
    assert (state.rejected, state.late, state.answered) == ({504: 2}, 0, 2)


def test_a_run_behind_the_sla_is_finished_and_late(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    """Nobody said that a late answer is of no use."""
    with pool_of(cache) as pool:
        record = deployment(deployed("slow"), sla_ms=5.0)
        with RunningDeployment(record, {"slow": files["slow"]}, pool) as running:
            assert running.wait_ready(60)
            ticket = running.submit({"x": X, "trips": np.array(50_000, np.int64)})
            assert ticket.result(60).total_ms > 5.0
            assert running.state().late == 1


def test_who_is_always_ended_is_known_to_take_at_least_so_long(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    with pool_of(cache) as pool:
        record = deployment(deployed("slow", slow=1.0), options=DeploymentOptions(admission=False))
        with RunningDeployment(record, {"slow": files["slow"]}, pool) as running:
            assert running.wait_ready(60)
            for _ in range(30):
                with pytest.raises(RejectedError):
                    running.infer(FOREVER, deadline_ms=20)
            (state,) = running.state().models
            assert state.mean_ms > 15


def test_ended_runs_disturb_nobody_whatever_the_order(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    """Deadlines that come before, while and after a model runs; each request has one answer."""
    rng, options = np.random.default_rng(5), DeploymentOptions(servers=2, admission=False)
    with pool_of(cache) as pool:
        record = deployment(deployed("slow"), options=options)
        with RunningDeployment(record, {"slow": files["slow"]}, pool) as running:
            assert running.wait_ready(60)
            tickets: list[Ticket] = []
            errors: list[BaseException | None] = []
            for _ in range(200):
                given = {"x": X, "trips": np.array(rng.integers(1, 3000), np.int64)}
                try:
                    ticket = running.submit(given, deadline_ms=float(rng.uniform(0.5, 20)))
                    tickets.append(ticket)
                except RejectedError as late:  # its half millisecond was over before it got in
                    errors.append(late)
                time.sleep(0.001)
            assert concurrent.futures.wait(tickets, 60).not_done == set()
            wait_until(lambda: running.state().running == 0)
            state = running.state()
    errors += [ticket.exception() for ticket in tickets]
    refused = [error for error in errors if error is not None]
    assert all(isinstance(error, RejectedError) and error.status == 504 for error in refused)
    assert state.answered == errors.count(None)
    assert state.rejected.get(504, 0) == len(refused)


def test_what_cannot_be_in_time_is_refused_at_once(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    """The fastest is profiled at 20 +- 6 ms: 32 ms are needed."""
    with pool_of(cache) as pool:
        record = deployment(deployed("large", "small", large=90.0, small=20.0))
        with RunningDeployment(record, files, pool) as running:
            assert running.wait_ready(60)
            with pytest.raises(RejectedError, match="the fastest model needs 32 ms") as refused:
                running.infer({"x": X}, deadline_ms=31)
            assert (refused.value.status, refused.value.retry_after_ms) == (429, None)
            assert running.infer({"x": X}, deadline_ms=5000).model in ("large", "small")


def test_the_queue_holds_exactly_its_limit_however_many_threads_send(
    busy: RunningDeployment,
) -> None:
    occupied(busy)
    start = threading.Barrier(16)

    def send(_: int) -> Ticket | int:
        start.wait()
        try:
            return busy.submit(AT_ONCE)
        except RejectedError as error:
            return error.status

    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        found = list(threads.map(send, range(16)))
    tickets = [ticket for ticket in found if isinstance(ticket, Ticket)]
    assert len(tickets) == 3
    assert [status for status in found if not isinstance(status, Ticket)] == [429] * 13
    assert tickets[0].cancel()
    more = busy.submit(AT_ONCE)  # one left, one may come
    with pytest.raises(RejectedError):
        busy.submit(AT_ONCE)
    assert not more.done()


def test_a_run_that_is_cancelled_ends_and_its_server_is_free(busy: RunningDeployment) -> None:
    running, waiting = occupied(busy), busy.submit(AT_ONCE)
    assert running.cancel()
    assert running.cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        running.result(0)
    assert waiting.result(20).outputs["y"].tolist() == X.tolist()
    assert not waiting.cancel()
    assert busy.state().cancelled == 1


def test_a_request_that_is_cancelled_while_it_waits_never_runs(busy: RunningDeployment) -> None:
    running, waiting = occupied(busy), busy.submit(AT_ONCE)
    assert waiting.cancel()
    assert busy.state().waiting == 0
    running.cancel()
    assert busy.infer(AT_ONCE).model == "slow"
    state = busy.state()
    assert (state.answered, state.cancelled) == (1, 2)
    assert concurrent.futures.wait([waiting, running], 1).not_done == set()


def test_the_more_urgent_come_first(busy: RunningDeployment) -> None:
    running = occupied(busy)
    served: list[str] = []
    asked = {
        "late": busy.submit(AT_ONCE, deadline_ms=60_000),
        "soon": busy.submit(AT_ONCE, deadline_ms=50_000),
        "first": busy.submit(AT_ONCE, priority=-1),
    }
    for name, ticket in asked.items():
        ticket.add_done_callback(lambda _, name=name: served.append(name))
    running.cancel()
    concurrent.futures.wait(asked.values(), 20)
    assert served == ["first", "soon", "late"]


def test_closing_answers_everyone_and_ends_runs(busy: RunningDeployment) -> None:
    tickets = [occupied(busy), busy.submit(AT_ONCE), busy.submit(AT_ONCE)]
    began = time.monotonic()
    busy.close()
    assert time.monotonic() - began < 10
    for ticket in tickets:
        with pytest.raises(RejectedError, match="closed") as refused:
            ticket.result(0)
        assert refused.value.status == 503
    with pytest.raises(RejectedError, match="closed"):
        busy.infer(AT_ONCE)
    assert busy.state().status == "closed"


def test_draining_answers_what_was_accepted_and_refuses_the_rest(busy: RunningDeployment) -> None:
    running, waiting = occupied(busy), busy.submit(AT_ONCE)
    assert busy.drain(0.05) == 2
    with pytest.raises(RejectedError, match="shutting down") as refused:
        busy.submit(AT_ONCE)
    assert refused.value.status == 503
    assert not busy.ready
    running.cancel()
    assert busy.drain(20) == 0
    assert waiting.done()


def test_a_request_of_an_event_loop_is_cancelled_with_its_task(busy: RunningDeployment) -> None:
    import asyncio

    async def give_up() -> None:
        future = asyncio.wrap_future(busy.submit(FOREVER))
        await asyncio.wait_for(future, 0.2)

    with pytest.raises(TimeoutError):
        asyncio.run(give_up())
    assert busy.infer(AT_ONCE).model == "slow"  # the server is free


def test_in_this_thread_only_if_the_model_is_quick_and_nobody_waits(
    busy: RunningDeployment,
) -> None:
    assert busy.try_infer(AT_ONCE, at_most_ms=0.0) is None
    assert busy.state().waiting == 0
    found = busy.try_infer(AT_ONCE, at_most_ms=1e6)
    assert found is not None
    assert found.model == "slow"
    occupied(busy)
    assert busy.try_infer(AT_ONCE, at_most_ms=1e6) is None


def test_a_deadline_years_away_does_not_stop_the_timer(busy: RunningDeployment) -> None:
    occupied(busy)
    busy.submit(AT_ONCE, deadline_ms=1e18)
    with pytest.raises(RejectedError):
        busy.submit(AT_ONCE, deadline_ms=30).result(10)


def test_what_does_not_fit_is_the_clients_fault_and_said_at_once(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    with pool_of(cache) as pool:
        running = RunningDeployment(deployment(deployed("large", "small")), files, pool)
        assert running.wait_ready(60)
        with running:
            # no catalog describes these files: the first that was loaded does
            with pytest.raises(InputError, match=r"(large|small) has no input 'y'"):
                running.submit({"y": X})
            with pytest.raises(InputError, match="there is no output 'logit'") as wrong:
                running.submit({"x": X}, outputs=["logit"])
            assert wrong.value.suggestions == ("logits",)
            with pytest.raises(InputError, match="the deadline is no number"):
                running.submit({"x": X}, deadline_ms=float("nan"))
            assert running.state().answered == running.state().failed == 0


def fragile(folder: Path) -> ServedModel:
    """x[N,4] -> logits[N,3], rows of a table with 10 rows: it fails where x names another one."""
    nodes = [
        helper.make_node("Cast", ["x"], ["rows"], to=INT64),
        helper.make_node("Gather", ["table", "rows"], ["found"]),
        helper.make_node("ReduceSum", ["found", "axes"], ["logits"], keepdims=0),
    ]
    weights = {"table": np.ones((10, 3), np.float32), "axes": np.array([1], np.int64)}
    return ServedModel.of_file(
        save_model(
            folder / "fragile.onnx", nodes, {"x": (FLOAT, ["N", 4])},
            {"logits": (FLOAT, ["N", 3])}, weights,
        )
    )  # fmt: skip


def test_when_a_model_fails_another_one_answers_and_else_the_caller_is_told_which(
    tmp_path: Path, cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    models = {**files, "fragile": fragile(tmp_path)}
    first = DeployedModel("fragile", "id", 0.99, 0.1)
    outside = {"x": 100 * X}
    with pool_of(cache) as pool:
        both = deployment([first, *deployed("small", small=0.1)])
        with RunningDeployment(both, models, pool) as running:
            assert running.wait_ready(60)
            assert running.infer({"x": X}).model == "fragile"
            assert running.infer(outside).model == "small"
            assert running.submit(outside).result(20).model == "small"
            running.replan(deployment([first]), models)
            with pytest.raises(InputError, match="fragile failed on its input"):
                running.infer(outside)
            state = running.state()
            assert (state.answered, state.failed) == (3, 1)
            assert state.models[0].failed == 3


def test_the_inputs_of_an_answered_request_are_freed_without_the_garbage_collector(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    class Tensor(np.ndarray):
        pass

    with pool_of(cache) as pool:
        running = RunningDeployment(deployment(deployed("small")), files, pool)
        assert running.wait_ready(60)
        gc.disable()
        try:
            given = np.ones((1, 4), np.float32).view(Tensor)
            gone = weakref.ref(given)
            running.infer({"x": given})
            running.submit({"x": given}).result(10)
            del given
            wait_until(lambda: gone() is None, 5)
        finally:
            gc.enable()
            running.close()
