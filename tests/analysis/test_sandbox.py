"""The sandbox survives whatever its child does, and says what happened."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from sommelier.analysis import sandbox_messages as messages
from sommelier.analysis.sandbox import Sandbox
from sommelier.errors import (
    AnalysisError,
    CancelledError,
    RejectedModelError,
    WorkerCrashedError,
    WorkerTimeoutError,
)
from sommelier.records import OutputKind


def double(value: int) -> int:
    return 2 * value


def child_facts() -> tuple[int, str | None, bool]:
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    return os.getpid(), os.environ.get("OMP_NUM_THREADS"), ignored


def talk_on_stdout() -> str:
    os.write(1, b"native code prints here")
    sys.stdout.write("python prints here\n")
    sys.stdout.flush()
    return "heard"


def array(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.float32)


def reject() -> None:
    raise RejectedModelError("no outputs", hint="export it again")


def stumble() -> None:
    raise ZeroDivisionError("by zero")


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def die(number: int) -> None:
    os.kill(os.getpid(), number)


def leave(code: int) -> None:
    sys.stderr.write("the disk is on fire\n")
    sys.stderr.flush()
    os._exit(code)


def swallow(nbytes: int) -> int:
    return len(bytearray(nbytes))


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(time_limit_s=20, memory_limit_bytes=10**9, threads=1) as box:
        yield box


def test_a_call_returns_what_the_function_returns(sandbox: Sandbox) -> None:
    assert sandbox.call(double, 21) == 42
    assert np.array_equal(sandbox.call(array, 1000), np.arange(1000, dtype=np.float32))


def test_one_child_serves_many_calls_and_knows_its_thread_limit(sandbox: Sandbox) -> None:
    first, second = sandbox.call(child_facts), sandbox.call(child_facts)
    assert first == second == (sandbox.pid, "1", True)
    assert first[0] != os.getpid()


def test_output_of_native_code_does_not_disturb_the_answers(sandbox: Sandbox) -> None:
    assert sandbox.call(talk_on_stdout) == "heard"


def test_our_errors_arrive_as_they_were_raised(sandbox: Sandbox) -> None:
    with pytest.raises(RejectedModelError) as caught:
        sandbox.call(reject)
    assert (caught.value.message, caught.value.hint) == ("no outputs", "export it again")


def test_other_errors_arrive_as_analysis_errors(sandbox: Sandbox) -> None:
    with pytest.raises(AnalysisError, match="ZeroDivisionError: by zero"):
        sandbox.call(stumble)
    assert sandbox.call(double, 1) == 2


def test_a_function_that_hangs_is_ended_at_the_limit() -> None:
    with Sandbox(time_limit_s=20) as box:
        box.call(double, 1)  # the child is there; on a busy machine its start takes a second
        box.time_limit_s = 0.5
        child, start = box.pid, time.monotonic()
        with pytest.raises(WorkerTimeoutError, match="no answer within 500 ms"):
            box.call(sleep, 60)
        assert time.monotonic() - start < 5
        assert child is not None
        assert not psutil.pid_exists(child)
        box.time_limit_s = 20
        assert box.call(double, 4) == 8


def test_a_call_ends_soon_after_it_is_cancelled() -> None:
    cancelled = threading.Event()
    with Sandbox(time_limit_s=60, cancelled=cancelled.is_set) as box:
        box.call(double, 1)
        child, start = box.pid, time.monotonic()
        threading.Timer(0.3, cancelled.set).start()
        with pytest.raises(CancelledError):
            box.call(sleep, 60)
        assert 0.3 <= time.monotonic() - start < 5
        assert child is not None
        assert not psutil.pid_exists(child)
        cancelled.clear()
        assert box.call(double, 4) == 8


def test_the_time_limit_holds_while_a_large_request_is_sent_to_a_child_that_reads_nothing() -> None:
    with Sandbox(time_limit_s=20) as box:
        box.call(double, 1)
        assert box.pid is not None
        box.time_limit_s = 0.5
        os.kill(box.pid, signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(WorkerTimeoutError, match="no answer within 500 ms"):
            box.call(len, bytes(10_000_000))
        assert time.monotonic() - start < 5
        box.time_limit_s = 20
        assert box.call(len, bytes(10_000_000)) == 10_000_000


def test_a_child_that_dies_while_a_large_request_is_sent_is_noticed(sandbox: Sandbox) -> None:
    sandbox.call(double, 1)
    assert sandbox.pid is not None
    os.kill(sandbox.pid, signal.SIGSTOP)
    killer = threading.Timer(0.3, os.kill, (sandbox.pid, signal.SIGKILL))
    killer.start()
    with pytest.raises(WorkerCrashedError, match="died of SIGKILL"):
        sandbox.call(len, bytes(10_000_000))
    killer.join()


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_child_that_dies_names_its_signal_and_is_replaced(
    sandbox: Sandbox, number: signal.Signals
) -> None:
    with pytest.raises(WorkerCrashedError, match=number.name):
        sandbox.call(die, number)
    assert sandbox.call(double, 3) == 6


def test_a_child_that_exits_is_quoted(sandbox: Sandbox) -> None:
    with pytest.raises(WorkerCrashedError, match="exited with code 7: the disk is on fire"):
        sandbox.call(leave, 7)


def test_memory_beyond_the_limit_is_refused(sandbox: Sandbox) -> None:
    assert sandbox.call(swallow, 10**8) == 10**8
    with pytest.raises(WorkerCrashedError, match="needs more memory than the limit of 1 GB"):
        sandbox.call(swallow, 3 * 10**9)
    assert sandbox.call(double, 2) == 4


def test_closing_ends_the_child() -> None:
    with Sandbox() as box:
        box.call(double, 1)
        child = box.pid
    assert child is not None
    assert not psutil.pid_exists(child)


def test_ctrl_c_in_the_parent_kills_the_child_at_once(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys, time
            from sommelier.analysis.sandbox import Sandbox
            from tests.analysis.test_sandbox import double, sleep
            with Sandbox() as box:
                box.call(double, 1)
                print(box.pid, flush=True)
                box.call(sleep, 60)
            """
        )
    )
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(0.3)
    parent.send_signal(signal.SIGINT)
    assert parent.wait(timeout=10) != 0
    assert not psutil.pid_exists(child)


def test_a_child_outlives_a_killed_parent_by_seconds_only(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "from sommelier.analysis.sandbox import Sandbox\n"
        "from tests.analysis.test_sandbox import double, sleep\n"
        "box = Sandbox()\nbox.call(double, 1)\nprint(box.pid, flush=True)\nbox.call(sleep, 60)\n"
    )
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait(timeout=10)
    gone, _ = psutil.wait_procs([child], timeout=10)
    assert gone


class _Exploit:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


@pytest.mark.parametrize("value", [_Exploit(), os.system, Sandbox])
def test_an_answer_that_names_code_is_not_unpickled(value: object) -> None:
    with pytest.raises(WorkerCrashedError, match="is not a value"):
        messages.decode_answer(pickle.dumps(("result", value)))


def _named(module: str, name: str) -> bytes:
    return _text(module) + _text(name) + pickle.STACK_GLOBAL


def _text(value: str) -> bytes:
    return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()


def _with_attribute(value: bytes, name: str, *, slots: bool) -> bytes:
    """A pickle of ("result", value) that sets an attribute of the value to a class."""
    state = pickle.EMPTY_DICT + _text(name) + _named("builtins", "complex") + pickle.SETITEM
    if slots:  # set with setattr, where an object has no dictionary that can be written to
        state = pickle.NONE + state + pickle.TUPLE2
    return (
        pickle.PROTO + b"\x04" + pickle.MARK + _text("result") + value + state + pickle.BUILD
        + pickle.TUPLE + pickle.STOP
    )  # fmt: skip


def test_an_answer_changes_no_class_and_no_member_of_an_enum_in_the_parent() -> None:
    member = _named("sommelier.records", "OutputKind") + _text("classification")
    member += pickle.TUPLE1 + pickle.REDUCE
    exists, value = Path.exists, OutputKind.CLASSIFICATION.value
    for answer in (
        _with_attribute(_named("pathlib", "Path"), "exists", slots=True),
        _with_attribute(member, "_value_", slots=False),
    ):
        with pytest.raises(WorkerCrashedError, match="attributes of a class"):
            messages.decode_answer(answer)
    assert (Path.exists, OutputKind.CLASSIFICATION.value) == (exists, value)
