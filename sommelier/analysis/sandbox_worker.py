"""The child's side of a sandbox: read a call, run it, send back what came of it.

Started by sandbox.py as `python -m sommelier.analysis.sandbox_worker MEMORY_LIMIT_BYTES`.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import struct
import sys
import threading
import time
from typing import BinaryIO

from sommelier.analysis import sandbox_messages as messages

ORPHAN_CHECK_S = 1.0
GRACE_S = 10.0  # past the limit the parent should have ended us; then we end ourselves


def main(memory_limit_bytes: int) -> None:
    """Serve calls until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C ends
    calls, answers = _channels()
    _limit_memory(memory_limit_bytes)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
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


def _limit_memory(limit_bytes: int) -> None:
    if limit_bytes <= 0:
        return
    try:
        import resource
    except ImportError:  # not on Windows; the parent watches instead
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    ceiling = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (ceiling, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash leaves no core file


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(ORPHAN_CHECK_S)
    os._exit(1)


def _read(pipe: BinaryIO) -> bytes | None:
    head = pipe.read(8)
    if len(head) < 8:
        return None
    (size,) = struct.unpack("<Q", head)
    body = pipe.read(size)
    return body if len(body) == size else None


if __name__ == "__main__":
    main(int(sys.argv[1]))
