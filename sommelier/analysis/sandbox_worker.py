"""The child's side of a sandbox: read a call, run it, send back what came of it.

Started by sandbox.py as `python -m sommelier.analysis.sandbox_worker`, with main's arguments.
"""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import struct
import sys
import threading
import time
from typing import BinaryIO

from sommelier.analysis import sandbox_messages as messages

ORPHAN_CHECK_S = 1.0
GRACE_S = 10.0  # past the limit the parent should have ended us; then we end ourselves


def main(memory_limit_bytes: int, file_limit_bytes: int, lifeline: int = -1) -> None:
    """Serve calls until the parent closes the pipe.

    lifeline : a descriptor that the parent holds the other end of; -1 for none.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C ends
    calls, answers = _channels()
    _limit(memory_limit_bytes, file_limit_bytes)
    _end_with_parent(lifeline)
    while (request := _read(calls)) is not None:
        answer = _serve(request)
        answers.write(struct.pack("<Q", len(answer)) + answer)
        answers.flush()


def _serve(request: bytes) -> bytes:
    try:
        function, args, kwargs, limit_s = messages.decode_call(request)
        # runs without the interpreter lock, so it works while a model hangs in native code
        faulthandler.dump_traceback_later(limit_s + GRACE_S, exit=True, file=sys.stderr)
        return messages.encode_result(function(*args, **kwargs))
    except (KeyboardInterrupt, SystemExit) as error:
        return messages.encode_error(RuntimeError(f"the worker was asked to end: {error!r}"))
    except Exception as error:  # every failure of the function is the caller's to judge
        return messages.encode_error(error)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _channels() -> tuple[BinaryIO, BinaryIO]:
    """The pipes to the parent, moved away from stdin and stdout, which native code writes to."""
    calls = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    return calls, answers


def _limit(memory_bytes: int, file_bytes: int) -> None:
    """Memory, where it is above 0, and the size of files; a write beyond it is an OSError."""
    try:
        import resource
    except ImportError:  # not on Windows; the parent watches the memory instead
        return
    limits = {resource.RLIMIT_FSIZE: file_bytes, resource.RLIMIT_CORE: 0}  # a crash leaves no core
    if memory_bytes > 0:
        limits[resource.RLIMIT_DATA] = memory_bytes
    for limit, most in limits.items():
        _, hard = resource.getrlimit(limit)
        ceiling = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (ceiling, hard))


def _end_with_parent(lifeline: int) -> None:
    """See that this process and what it starts end when the parent does.

    Linux kills them while a model holds the interpreter lock; elsewhere a thread waits for it.
    """
    pipes = [lifeline] if lifeline >= 0 else []
    if lifeline >= 0:
        os.set_inheritable(lifeline, False)
        _kill_at_end_of(lifeline)
    threading.Thread(target=_watch, args=(os.getppid(), pipes), daemon=True).start()


def _kill_at_end_of(pipe: int) -> None:
    """Let the kernel kill our group when the last writer of the pipe is gone, where it can.

    PR_SET_PDEATHSIG would do so when the thread that started us is gone, which comes earlier.
    """
    import fcntl

    if sys.platform == "linux":
        fcntl.fcntl(pipe, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)


def _watch(parent: int, pipes: list[int]) -> None:
    """Ends us once the parent has another number, or a pipe is closed at its other end."""
    while os.getppid() == parent:
        if not pipes:
            time.sleep(ORPHAN_CHECK_S)
        elif select.select(pipes, [], [], ORPHAN_CHECK_S)[0]:
            break
    if os.name == "posix":
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


def _read(pipe: BinaryIO) -> bytes | None:
    head = pipe.read(8)
    if len(head) < 8:
        return None
    (size,) = struct.unpack("<Q", head)
    body = pipe.read(size)
    return body if len(body) == size else None


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
