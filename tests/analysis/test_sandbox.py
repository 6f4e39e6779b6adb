"""The sandbox survives whatever its child does, and says what happened."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import signal
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import tracemalloc
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
import pytest

from sommelier.analysis import sandbox_messages as messages
from sommelier.analysis.sandbox import ANSWER_BYTES, FILE_BYTES, Sandbox
from sommelier.errors import (
    AnalysisError,
    CancelledError,
    RejectedModelError,
    WorkerCrashedError,
    WorkerTimeoutError,
)
from sommelier.records import OutputKind, Rejection


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


def start_another(seconds: float) -> int:
    """The id of a process that this one starts, which holds the pipes it has."""
    started = os.fork()
    if started == 0:
        time.sleep(seconds)
        os._exit(0)
    return started


def start_another_and(how: str, note: str) -> None:
    Path(note).write_text(str(start_another(60)))
    if how == "hang":
        time.sleep(60)
    os._exit(3)


def ended(pid: int) -> bool:
    """Whether a process is gone, or is there in name only, within seconds."""
    try:
        return bool(psutil.wait_procs([psutil.Process(pid)], timeout=5)[0])
    except psutil.NoSuchProcess:
        return True


def test_what_a_child_started_ends_with_it(sandbox: Sandbox) -> None:
    started = sandbox.call(start_another, 60)
    assert psutil.pid_exists(started)
    sandbox.close()
    assert ended(started)


@pytest.mark.parametrize(
    ("how", "said"), [("hang", "no answer within"), ("leave", "exited with code 3")]
)
def test_what_a_child_started_ends_when_the_child_hangs_or_leaves(
    tmp_path: Path, how: str, said: str
) -> None:
    with Sandbox(time_limit_s=20) as box:
        box.call(double, 1)
        box.time_limit_s = 3
        with pytest.raises(AnalysisError, match=said):
            box.call(start_another_and, how, str(tmp_path / "note"))
        assert ended(int((tmp_path / "note").read_text()))


def hold_the_lock(seconds: int) -> None:
    """Sleeps in C code with the interpreter locked, as a model's native code may."""
    ctypes.PyDLL(None).sleep(seconds)


@pytest.mark.skipif(sys.platform != "linux", reason="others end at the time limit")
def test_a_child_that_holds_the_interpreter_lock_does_not_outlive_its_parent(
    tmp_path: Path,
) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "from sommelier.analysis.sandbox import Sandbox\n"
        "from tests.analysis.test_sandbox import double, hold_the_lock\n"
        "box = Sandbox()\nbox.call(double, 1)\nprint(box.pid, flush=True)\n"
        "box.call(hold_the_lock, 60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(2)  # until it sleeps
    parent.kill()
    parent.wait(timeout=10)
    assert ended(child)


def test_a_child_serves_on_when_the_thread_that_started_it_is_gone(sandbox: Sandbox) -> None:
    thread = threading.Thread(target=sandbox.call, args=(double, 1))
    thread.start()
    thread.join()
    child = sandbox.pid
    time.sleep(0.5)
    assert sandbox.call(double, 2) == 4
    assert sandbox.pid == child


def announce(size: int) -> None:
    """Writes the head of an answer to every pipe there is, past the worker."""
    for number in range(3, 20):
        with contextlib.suppress(OSError):
            os.write(number, struct.pack("<Q", size))
    time.sleep(60)


def test_the_length_a_child_announces_allocates_nothing() -> None:
    with Sandbox(time_limit_s=20) as box:
        box.call(double, 1)
        start = time.monotonic()
        with pytest.raises(WorkerCrashedError, match="announced an answer of more than 2 GB"):
            box.call(announce, 2**62)
        assert time.monotonic() - start < 10
        box.call(double, 1)
        box.time_limit_s = 3
        tracemalloc.start()
        with pytest.raises(WorkerTimeoutError):
            box.call(announce, ANSWER_BYTES)
        assert tracemalloc.get_traced_memory()[1] < 10**8
        tracemalloc.stop()


def write(path: str, nbytes: int) -> None:
    with Path(path).open("wb") as file:
        file.truncate(nbytes)


def test_no_file_above_the_limit_is_written(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.call(write, str(tmp_path / "small"), 1000)
    with pytest.raises(AnalysisError, match="File too large"):
        sandbox.call(write, str(tmp_path / "large"), FILE_BYTES + 1)
    assert (tmp_path / "large").stat().st_size == 0


def test_temporary_files_go_where_the_caller_says(tmp_path: Path) -> None:
    with Sandbox(time_limit_s=20, scratch=tmp_path) as box:
        assert box.call(tempfile.gettempdir) == str(tmp_path)


class _Exploit:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


@pytest.mark.parametrize("value", [_Exploit(), os.system, Sandbox])
def test_an_answer_that_names_code_is_not_unpickled(value: object) -> None:
    with pytest.raises(WorkerCrashedError, match="is not a value"):
        messages.decode_answer(pickle.dumps(("result", value)))


class _Call:
    """Pickled as a call of a function."""

    def __init__(self, called: Callable[..., object], *arguments: object) -> None:
        self.called, self.arguments = called, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.called, self.arguments


RECONSTRUCT = np.zeros(1).__reduce__()[0]
SCALAR = np.float32(1).__reduce__()[0]


@pytest.mark.parametrize(
    "call",
    [
        _Call(bytearray, 3 * 10**9),
        _Call(set, range(10**12)),
        _Call(frozenset, range(10**12)),
        _Call(Counter, range(10**12)),
        _Call(OrderedDict, range(10**12)),
        _Call(np.ndarray, (3 * 10**9,)),
        _Call(RECONSTRUCT, np.ndarray, (3 * 10**9,), b"b"),
        _Call(SCALAR, np.dtype("S1000000000")),
        _Call(np.dtype, "f4," * 10**6),
        _Call(OutputKind, "many", range(10**12)),
    ],
    ids=lambda call: call.called.__name__,
)
def test_an_answer_that_would_allocate_or_never_end_is_refused_at_once(call: _Call) -> None:
    answer = pickle.dumps(("result", call), protocol=5)
    tracemalloc.start()
    started = time.monotonic()
    with pytest.raises(WorkerCrashedError, match="not acceptable"):
        messages.decode_answer(answer)
    assert time.monotonic() - started < 5
    assert tracemalloc.get_traced_memory()[1] < 10**8
    tracemalloc.stop()


@pytest.mark.parametrize("protocol", [0, 1])
def test_the_old_ways_to_make_an_object_are_refused(protocol: int) -> None:
    module, name = "sommelier.records", "Rejection"
    made = (
        pickle.MARK + pickle.INST + f"{module}\n{name}\n".encode()
        if protocol == 0
        else pickle.MARK + _named(module, name) + pickle.OBJ
    )
    with pytest.raises(WorkerCrashedError, match="makes no value"):
        messages.decode_answer(_answer(made))


def test_an_answer_does_not_make_the_parent_import_the_rooms_above() -> None:
    program = (
        "import sys\n"
        "from sommelier.analysis import sandbox_messages as messages\n"
        f"try: messages.decode_answer({_answer(_named('sommelier.shell.cli', 'main'))!r})\n"
        "except Exception as error: assert 'is not a value' in str(error), error\n"
        "sys.exit('sommelier.shell.cli' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def _values() -> list[object]:
    now = datetime.now(UTC)
    arrays = [np.arange(6.0).reshape(2, 3).T, np.array(["a", "bb"]), np.zeros((2, 0)), np.array(3)]
    plain = [{1}, frozenset({2}), bytearray(b"x"), range(3), slice(1, 2), 2j, now, Path("/a")]
    kept = [Counter("aab"), OrderedDict(a=1), np.float32(2), np.bool_(True), np.datetime64(1, "s")]
    return [*arrays, *plain, *kept, OutputKind.CLASSIFICATION, Rejection("a", "b", "c")]


@pytest.mark.parametrize("value", _values(), ids=lambda value: type(value).__name__)
def test_values_arrive_as_they_are(value: object) -> None:
    kind, found = messages.decode_answer(messages.encode_result(value))
    assert (kind, type(found)) == ("result", type(value))
    assert np.array_equal(found, value) if isinstance(value, np.ndarray) else found == value


def _answer(value: bytes) -> bytes:
    return pickle.PROTO + b"\x04" + _text("result") + value + pickle.TUPLE2 + pickle.STOP


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
