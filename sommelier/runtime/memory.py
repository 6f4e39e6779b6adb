"""What memory sessions really take: anonymous bytes and the file pages they map.

Resident memory counts pages that sessions share once for each of them (ten sessions of one 174 MB
model: 1 725 MiB, runtime.md 4); anonymous memory and the pages of each file once do not.
"""

from __future__ import annotations

import contextlib
import ctypes
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

LARGE_BYTES = 4 * 2**20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h

_ROLLUP = Path("/proc/self/smaps_rollup")
_MAPS = Path("/proc/self/smaps")


@dataclass(frozen=True, slots=True)
class SessionMemory:
    """Bytes that one model takes.

    loaded_bytes : anonymous ones once it is loaded. run_bytes : what a run of `SessionSettings`'
    batch adds and the session keeps; None where it could not be run. file_bytes : pages of its
    weights' file, which all sessions of it share. device_bytes : on its accelerator; where its
    driver does not tell, the size of the model's files. method : see `method`.
    """

    loaded_bytes: int
    run_bytes: int | None
    file_bytes: int
    device_bytes: int
    method: str

    def private_bytes(self, servers: int = 1) -> int:
        """What is not shared, with as many runs at the same time as there are servers."""
        return self.loaded_bytes + servers * (self.run_bytes or 0)


def method() -> str:
    """How `private_bytes` counts on this system."""
    return "anonymous + file pages" if _ROLLUP.exists() else "unique set"


def private_bytes() -> int:
    """Anonymous bytes of this process; where the system does not tell, those only it has."""
    if _ROLLUP.exists():
        return _field(_ROLLUP.read_text(), "Anonymous")
    import psutil

    return int(psutil.Process().memory_full_info().uss)


def mapped_bytes(file: Path) -> int:
    """Resident bytes of this process' mappings of a file; its size where nobody counts them."""
    if not file.exists():
        return 0
    if not _MAPS.exists():
        return file.stat().st_size
    total, inside = 0, False
    name = str(file.resolve())
    for line in _MAPS.read_text().splitlines():
        first = line.split(maxsplit=1)[0]
        if not first.endswith(":"):  # an address range opens a mapping
            inside = line.endswith(name)
        elif inside and first == "Rss:":
            total += _kib(line)
    return total


def keep_no_large_buffers() -> None:
    """From now on, buffers of 4 MiB and more go back to the system when they are freed (glibc).

    Of itself glibc learns from the first large buffer to keep the following ones, and malloc_trim
    reaches the end of the main thread's heap only: a pool's threads would keep up to 64 MB each.
    For the whole process; other C libraries do as they please.
    """
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(None)
            library.mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
            library.mallopt(_M_TRIM_THRESHOLD, LARGE_BYTES // 4)


def device_bytes(device: str) -> int | None:
    """Bytes in use on a GPU, by all processes; None where its driver does not tell."""
    number = device.partition(":")[2] or "0"
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            [*command, f"--id={number}"], capture_output=True, text=True, timeout=10, check=True
        )
        return int(done.stdout.strip()) * 2**20
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _field(text: str, name: str) -> int:
    for line in text.splitlines():
        if line.startswith(f"{name}:"):
            return _kib(line)
    return 0


def _kib(line: str) -> int:
    return int(line.split()[1]) * 1024
