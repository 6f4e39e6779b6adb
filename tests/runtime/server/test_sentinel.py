"""Long runs are ended and leave the event loop; who is blamed, and for how long."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from sommelier.runtime.server.rest_requests import AWAY_S, LONGEST_AWAY_S, OFTEN, OFTEN_S, Place
from sommelier.runtime.server.sentinel import Sentinel
from sommelier.runtime.server.service import ModelService


class Run:
    """A request whose run can be ended."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def cancel(self) -> None:
        self.cancelled.set()


@pytest.fixture
def sentinel() -> Iterator[Sentinel]:
    found = Sentinel(0.05)
    yield found
    found.close()


def test_a_run_that_takes_long_is_ended(sentinel: Sentinel) -> None:
    for _ in range(2):  # also after the first one
        run = Run()
        sentinel.begun(run)
        assert run.cancelled.wait(10)
        assert sentinel.ended()


def test_runs_that_follow_each_other_are_not_taken_for_one(sentinel: Sentinel) -> None:
    runs = [Run() for _ in range(100)]
    for run in runs:
        sentinel.begun(run)
        time.sleep(0.002)
        sentinel.ended()
    assert not any(run.cancelled.is_set() for run in runs)


def test_a_run_is_ended_after_a_long_quiet_time(sentinel: Sentinel) -> None:
    sentinel.begun(Run())
    assert not sentinel.ended()
    time.sleep(1.5)  # it sleeps by now
    run = Run()
    sentinel.begun(run)
    assert run.cancelled.wait(10)


def test_a_run_that_computes_long_is_noticed(sentinel: Sentinel) -> None:
    run = Run()
    sentinel.begun(run)
    assert run.cancelled.wait(10)  # it has been seen
    until = time.thread_time() + 0.05
    while time.thread_time() < until:
        assert not sentinel.noticed
    assert sentinel.ended()
    assert sentinel.noticed


def test_a_run_that_only_waits_is_not(sentinel: Sentinel) -> None:
    """As one does that has no processor: it is not what took long."""
    sentinel.begun(Run())
    time.sleep(0.3)
    sentinel.ended()
    assert not sentinel.noticed


STOPPED = """
import time
from sommelier.runtime.server.sentinel import Sentinel

class Run:
    def cancel(self):
        pass

sentinel = Sentinel(0.4)
sentinel.begun(Run())
print("runs", flush=True)
stood_still = before = time.monotonic()
while stood_still - before < 1:
    before, stood_still = stood_still, time.monotonic()
time.sleep(0.05)
print(sentinel.ended())
"""


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no process can be stopped here")
def test_a_run_is_not_blamed_for_a_machine_that_stands_still() -> None:
    with subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True) as it:
        assert it.stdout is not None
        assert it.stdout.readline() == "runs\n"
        time.sleep(0.1)  # it is watched
        os.kill(it.pid, signal.SIGSTOP)
        time.sleep(2)
        os.kill(it.pid, signal.SIGCONT)
        assert it.stdout.read() == "False\n"


@pytest.fixture
def place() -> Iterator[Place]:
    loop = asyncio.new_event_loop()
    found = Place(ModelService(None, []), loop, 1 << 20)  # type: ignore[arg-type]  # none is served
    yield found
    found.close()
    loop.close()


def test_a_name_stays_out_of_the_event_loop_longer_each_time(place: Place) -> None:
    told = []
    for _ in range(12):
        place.send_away("m")
        assert place.is_away("m")
        until, away_s = place.away["m"]
        assert 0 < until - time.monotonic() <= away_s
        told.append(away_s)
    assert told[:4] == [AWAY_S, 2 * AWAY_S, 4 * AWAY_S, 8 * AWAY_S]
    assert told[-1] == LONGEST_AWAY_S


@pytest.mark.parametrize(("back_s", "next_s"), [(20.0, 16.0), (100.0, AWAY_S)])
def test_what_took_long_is_forgotten_after_a_good_while(
    place: Place, back_s: float, next_s: float
) -> None:
    """It was away for 8 s and has been back for so long."""
    place.away["m"] = time.monotonic() - back_s, 8.0
    assert not place.is_away("m")
    place.send_away("m")
    assert place.away["m"][1] == next_s


def test_a_name_leaves_whose_runs_often_take_long(place: Place) -> None:
    """None of them so long that it is ended, and most others are quick."""
    for _ in range(OFTEN):
        assert not place.is_away("m")
        place.sentinel.noticed = True
        place.run_ended("m")
        assert not place.sentinel.noticed
        place.run_ended("m")
    assert place.is_away("m")


def test_a_name_stays_whose_runs_take_long_now_and_then(place: Place) -> None:
    for i in range(2 * OFTEN):
        place.took_long("m" if i % 2 else "n")
        for times in place.slow.values():
            times[-1] -= OFTEN_S
    assert not place.is_away("m")
    assert not place.is_away("n")
