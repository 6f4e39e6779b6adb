"""`sommelier serve` as a process of its own: its ports, what it says, and its end."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.runtime.server.asking import wait_until

SOON_S = 180.0  # it is ready in 2 s on an idle machine
MAIN = ("-m", "sommelier")


@dataclass
class ServeProcess:
    """A serving process. said : its lines."""

    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        """Of REST; 0 as long as it listens nowhere."""
        return self._found(r"REST  https?://[^:]+:(\d+)/")

    @property
    def grpc_port(self) -> int:
        return self._found(r"gRPC  [^:]+:(\d+)")

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def end(self, number: int = signal.SIGTERM, within_s: float = SOON_S) -> int:
        """Its exit status after a signal."""
        self.process.send_signal(number)
        return self.process.wait(within_s)

    def _found(self, pattern: str) -> int:
        found = re.search(pattern, "".join(self.said))
        return int(found[1]) if found else 0


_P = TypeVar("_P", bound=ServeProcess)


@contextmanager
def serve_process(
    kind: type[_P],
    database: Path | str,
    flags: Sequence[str],
    *,
    program: tuple[str, ...] = MAIN,
    ready: str = "ready after",
) -> Iterator[_P]:
    """`sommelier serve` until the end of the block. ready : what it says once it may be asked."""
    process = subprocess.Popen(
        [sys.executable, *program, "serve", str(database), "--port", "0", *flags],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    served = kind(process)
    reader = threading.Thread(target=lambda: served.said.extend(process.stderr or ()), daemon=True)
    reader.start()

    def started() -> bool:
        return ready in "".join(served.said) or process.poll() is not None

    try:
        wait_until(started, within_s=SOON_S)
        yield served
    finally:
        process.kill()
        process.wait()
        reader.join(5)
