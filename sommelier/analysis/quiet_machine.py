"""Turns between the worker processes of one machine: who measures latency is alone.

Two files in the temporary folder, locked by the system, which ends a lock with its process. Who
wants a turn waits at the gate, so that one who wants to be alone is not passed by for ever.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

with contextlib.suppress(ImportError):  # where there are no such locks, nobody is kept apart
    import fcntl

LOOK_S = 0.02


@contextlib.contextmanager
def machine_turn(
    *, alone: bool, gives_up: Callable[[], bool], folder: Path | None = None
) -> Iterator[bool]:
    """A turn at this machine, with the others or alone; False if `gives_up` came first.

    folder : of the locks; None: the temporary one. They are those of one user.
    """
    if os.name != "posix":
        yield True
        return
    place = folder or Path(tempfile.gettempdir())
    user = os.getuid()
    with (
        _opened(place / f"sommelier-gate-{user}.lock") as gate,
        _opened(place / f"sommelier-turn-{user}.lock") as turn,
    ):
        there = _locked(gate, fcntl.LOCK_EX, gives_up)
        there = there and _locked(turn, fcntl.LOCK_EX if alone else fcntl.LOCK_SH, gives_up)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield there


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)  # its locks end with it


def _locked(descriptor: int, kind: int, gives_up: Callable[[], bool]) -> bool:
    while not gives_up():
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        time.sleep(LOOK_S)
    return False
