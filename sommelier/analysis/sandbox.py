"""Running untrusted work in a child process with limits: a hostile model cannot hurt us.

The child is started with `python -m`, not multiprocessing's spawn, because spawn imports the
user's main script again. It serves many calls and is replaced when it dies.

Memory is limited twice. RLIMIT_DATA makes an allocation beyond the limit fail inside the child,
where it becomes a clean error; RLIMIT_AS is not used, because thread stacks, arenas and mapped
libraries reserve address space they never touch, and ONNX Runtime fails to start under it. Where
the system has no such limit, the parent watches the resident memory and kills the child.

The child leads a process group: what it starts ends with it. The parent holds the one end of a pipe
for writing; the kernel closes it when the parent dies, however that happens, and the child ends.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, ParamSpec, Self, TypeVar

from sommelier.analysis import sandbox_messages as messages
from sommelier.errors import AnalysisError, CancelledError, WorkerCrashedError, WorkerTimeoutError
from sommelier.units import Dimension, format_value

P = ParamSpec("P")
R = TypeVar("R")

MODEL_SECONDS = 600.0  # of ANALYZE, COMPARE and CREATE MODEL for one model, unless USING says more
MODEL_BYTES = 8 * 10**9
FILE_BYTES = 8 * 10**9  # largest file that a child may write
ANSWER_BYTES = 2 * 10**9  # 50 000 answers of 10 000 classes in float32
POLL_S = 0.02  # how often limits are checked while a call runs
STDERR_TAIL = 2000  # bytes of the child's complaints that a message quotes
_FOREIGN = """\
import sys
from importlib.util import module_from_spec, spec_from_file_location
home, *numbers = sys.argv[1:]
init = home + "/__init__.py"
spec = spec_from_file_location("sommelier", init, submodule_search_locations=[home])
sys.modules["sommelier"] = package = module_from_spec(spec)
spec.loader.exec_module(package)
from sommelier.analysis.sandbox_worker import main
main(*map(int, numbers))
"""  # a Python of another environment finds our package, and nothing else of our environment
_CHUNK = 1 << 24
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)  # fmt: skip


class Sandbox:
    """A child process that runs importable functions under a time and a memory limit.

    Used as a context manager; the child starts with the first call. One call at a time.
    """

    def __init__(
        self,
        *,
        time_limit_s: float = 60.0,
        memory_limit_bytes: int | None = 4 * 10**9,
        threads: int = 1,
        cancelled: Callable[[], bool] = bool,
        python: Path | None = None,
        scratch: Path | None = None,
    ) -> None:
        """cancelled : asked many times a second while a call runs, which then ends.

        python : of another environment, 3.11 or newer, to run the child; it needs no more than
        what the function imports. scratch : a folder for the child's temporary files, which the
        caller removes; a child that is killed removes nothing.
        """
        self._cancelled = cancelled
        self.time_limit_s = time_limit_s
        self.memory_limit_bytes = memory_limit_bytes
        self.threads = threads
        self._python = python
        self._scratch = scratch
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: queue.SimpleQueue[bytes | WorkerCrashedError | None] = queue.SimpleQueue()
        self._complaints: IO[bytes] | None = None
        self._lifeline: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The child's process id; None when none runs."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if running and self._process else None

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What `function(*args, **kwargs)` returns or raises in the child.

        function : importable by name; arguments and result are pickled.
        Raises WorkerTimeoutError past the time limit, WorkerCrashedError if the child dies or
        runs out of memory, CancelledError once it is cancelled, AnalysisError for exceptions that
        are not Sommelier's own. After each of the first three the next call starts a new child.
        """
        request = messages.encode_call(function, args, kwargs, self.time_limit_s)
        process = self._running()
        try:
            # from a thread: a child that hangs reads nothing, and a pipe holds 64 KiB
            threading.Thread(
                target=_send, args=(process.stdin, request), name="sandbox-request", daemon=True
            ).start()
            answer = self._wait(process)
        except BaseException:
            self.close()  # Ctrl-C, or a limit: whatever the child is doing, it stops now
            raise
        result: R = self._unpack(answer)
        return result

    def close(self) -> None:
        """Kill the child and what it started, if there is one."""
        process, self._process = self._process, None
        files = [self._complaints, self._lifeline]
        self._complaints = self._lifeline = None
        if process is not None:
            _kill(process)
            process.wait()
            files += [process.stdin, process.stdout]
        for file in files:
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115  (closed by close)
        numbers = [self.memory_limit_bytes or 0, FILE_BYTES]
        with contextlib.ExitStack() as stack:
            ends: list[int] = []
            if os.name == "posix":  # elsewhere a child inherits nothing else
                reading, writing = os.pipe()
                stack.callback(os.close, reading)
                self._lifeline = os.fdopen(writing, "wb", 0)
                ends = [reading]
            self._process = subprocess.Popen(
                [*self._command(), *map(str, numbers + ends)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._complaints,
                env=self._environment(),
                pass_fds=ends,
                start_new_session=True,  # Ctrl-C in the terminal reaches us, and we end the child
            )
        self._answers = queue.SimpleQueue()
        threading.Thread(
            target=_read_answers, args=(self._process.stdout, self._answers), daemon=True
        ).start()
        return self._process

    def _command(self) -> list[str]:
        if self._python is None:
            return [sys.executable, "-P", "-m", "sommelier.analysis.sandbox_worker"]
        return [str(self._python), "-I", "-c", _FOREIGN, str(Path(__file__).parents[1])]

    def _environment(self) -> dict[str, str]:
        environment = dict(os.environ)
        environment.update(dict.fromkeys(_THREAD_VARIABLES, str(self.threads)))
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(Path(__file__).parents[2]), *(p for p in sys.path if p)]
        )
        if self._scratch is not None:
            environment.update(dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(self._scratch)))
        return environment

    def _wait(self, process: subprocess.Popen[bytes]) -> bytes:
        deadline = time.monotonic() + self.time_limit_s
        while True:
            try:
                answer = self._answers.get(timeout=POLL_S)
            except queue.Empty:
                if self._cancelled():
                    raise CancelledError("cancelled while a model was running") from None
                if time.monotonic() > deadline:
                    raise WorkerTimeoutError(
                        f"no answer within {format_value(self.time_limit_s * 1e3, Dimension.TIME)}"
                    ) from None
                self._check_memory(process)
                if process.poll() is not None:
                    _kill(process)  # what it started may hold its end of the pipe open
                continue
            if isinstance(answer, WorkerCrashedError):
                raise answer
            if answer is None:
                raise self._crashed(process)
            return answer

    def _check_memory(self, process: subprocess.Popen[bytes]) -> None:
        if self.memory_limit_bytes is None:
            return
        import psutil

        with contextlib.suppress(psutil.Error):
            if psutil.Process(process.pid).memory_info().rss > self.memory_limit_bytes:
                raise self._out_of_memory()

    def _out_of_memory(self) -> WorkerCrashedError:
        limit = format_value(self.memory_limit_bytes, Dimension.BYTES)
        return WorkerCrashedError(f"needs more memory than the limit of {limit}")

    def _crashed(self, process: subprocess.Popen[bytes]) -> WorkerCrashedError:
        """Why the child died, with the last thing it said."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        code = process.returncode
        if code is not None and code < 0:
            try:
                how = f"died of {signal.Signals(-code).name}"
            except ValueError:
                how = f"died of signal {-code}"
        elif code is None:
            how = "closed the pipe that its answers come through"
        else:
            how = f"exited with code {code}"
        said = self._last_words()
        self.close()
        return WorkerCrashedError(f"the worker process {how}{f': {said}' if said else ''}")

    def _last_words(self) -> str:
        if self._complaints is None:
            return ""
        size = self._complaints.seek(0, os.SEEK_END)
        self._complaints.seek(max(0, size - STDERR_TAIL))
        lines = self._complaints.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip()[:300] if lines else ""

    def _unpack(self, answer: bytes) -> Any:
        kind, value = messages.decode_answer(answer)
        if kind == "result":
            return value
        if kind == "memory":
            self.close()  # what the failed call left behind would count against the next one
            raise self._out_of_memory()
        if isinstance(value, BaseException):
            raise value
        raise AnalysisError(str(value))


def _send(pipe: IO[bytes], request: bytes) -> None:
    """Write a request whole; a child that is gone is noticed where its answer is waited for."""
    with contextlib.suppress(OSError, ValueError):
        pipe.write(struct.pack("<Q", len(request)) + request)
        pipe.flush()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the child and what it started, also where the child is gone already."""
    with contextlib.suppress(OSError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _read_answers(
    pipe: IO[bytes], answers: queue.SimpleQueue[bytes | WorkerCrashedError | None]
) -> None:
    """Whole answers, then None when there will be no more."""
    try:
        with contextlib.suppress(OSError, ValueError):  # the pipe was closed at our end
            while (answer := _read_answer(pipe)) is not None:
                answers.put(answer)
    except WorkerCrashedError as error:
        answers.put(error)
    finally:
        answers.put(None)


def _read_answer(pipe: IO[bytes]) -> bytes | None:
    """The next answer, None where the child closed its end. It takes the memory of what has come of
    it: how long it is, only the child says. Raises WorkerCrashedError for one above ANSWER_BYTES.
    """
    head = pipe.read(8)
    if len(head) < 8:
        return None
    (left,) = struct.unpack("<Q", head)
    if left > ANSWER_BYTES:
        most = format_value(ANSWER_BYTES, Dimension.BYTES)
        raise WorkerCrashedError(f"the worker announced an answer of more than {most}")
    parts = []
    while left:
        part = pipe.read(min(left, _CHUNK))
        if not part:
            return None
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
