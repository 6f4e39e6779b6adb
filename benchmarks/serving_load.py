"""Load on an HTTP server, from a process of its own: as fast as it answers, or at random instants.

A closed loop (wrk where it is installed, else our own client) says how many requests a server
answers in a second. It hides queueing, because a slow answer delays the next request; so latency
under load is taken with an open loop: Poisson arrivals, and latency counted from the instant at
which a request was due.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

CONNECTIONS = 8
WARM_UP_S = 0.5
OPEN_CONNECTIONS = 64  # so many requests may be on the way in an open loop

WRK_SCRIPT = """
wrk.method, wrk.path = "POST", "{path}"
{headers}
local file = io.open("{body}", "rb")
wrk.body = file:read("*all")
"""


@dataclass(frozen=True, slots=True)
class Post:
    """A request that is sent again and again to 127.0.0.1."""

    port: int
    path: str
    headers: dict[str, str]
    body: bytes

    def text(self) -> bytes:
        """As it goes over the wire."""
        headers = {**self.headers, "Host": "127.0.0.1", "Content-Length": str(len(self.body))}
        lines = [f"POST {self.path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
        return "\r\n".join(lines).encode() + self.body


@dataclass(frozen=True, slots=True)
class Load:
    """What became of it. Times in ms. failed : answers other than 200. sent : all requests, those
    of the warm-up included. cpu_ms : of ONNX Runtime alone, processor time a run."""

    per_second: float
    p50_ms: float
    p99_ms: float
    failed: int
    sent: int
    cpu_ms: float = float("nan")


def closed_loop(post: Post, seconds: float, *, core: int | None = None) -> Load:
    """`CONNECTIONS` connections, each sending its next request when it has its answer."""
    wrk = shutil.which("wrk")
    if wrk is None:
        return _in_process(post, seconds, rate=0.0, seed=0, core=core)
    return _with_wrk(wrk, post, seconds, core)


def open_loop(
    post: Post, seconds: float, rate: float, *, seed: int, core: int | None = None
) -> Load:
    """`rate` requests a second at the instants of a Poisson process."""
    return _in_process(post, seconds, rate=rate, seed=seed, core=core)


def _in_process(post: Post, seconds: float, *, rate: float, seed: int, core: int | None) -> Load:
    with tempfile.NamedTemporaryFile() as file:
        file.write(post.text())
        file.flush()
        command = [sys.executable, "-m", "benchmarks.serving_load", file.name]
        command += [str(value) for value in (post.port, seconds, rate, seed)]
        done = subprocess.run(pinned(command, core), capture_output=True, text=True, check=True)
    return Load(**json.loads(done.stdout))


def _with_wrk(wrk: str, post: Post, seconds: float, core: int | None) -> Load:
    with tempfile.TemporaryDirectory() as folder:
        body, script = Path(folder, "body"), Path(folder, "post.lua")
        body.write_bytes(post.body)
        headers = "\n".join(f'wrk.headers["{k}"] = "{v}"' for k, v in post.headers.items())
        script.write_text(WRK_SCRIPT.format(path=post.path, headers=headers, body=body))
        command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s", "--latency"]
        command += ["-s", str(script), f"http://127.0.0.1:{post.port}"]
        done = subprocess.run(pinned(command, core), capture_output=True, text=True, check=True)
    told = done.stdout
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", told)
    return Load(
        float(_found(r"Requests/sec:\s+([\d.]+)", told)),
        _milliseconds(_found(r"\b50%\s+(\S+)", told)),
        _milliseconds(_found(r"\b99%\s+(\S+)", told)),
        int(failed[1]) if failed else 0,
        int(_found(r"(\d+) requests in", told)),
    )


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match is not None, f"wrk wrote no {pattern}: {text}"
    return match[1]


def _milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]


def pinned(command: list[str], core: int | None) -> list[str]:
    taskset = shutil.which("taskset")
    return command if core is None or taskset is None else [taskset, "-c", str(core), *command]


def cores() -> tuple[int | None, int | None]:
    """One for servers, one for load; None where there is only one or nothing can be pinned."""
    known = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return (known[0], known[1]) if len(known) > 1 else (None, None)


class _Connection:
    """One connection and the request that is on its way. due_s : when it was to be sent."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.due_s = 0.0

    def send(self, request: bytes, due_s: float) -> None:
        self.due_s = due_s
        self.socket.sendall(request)

    def answered(self) -> bool | None:
        """Whether the answer is 200; None while it is not all there."""
        part = self.socket.recv(1 << 18)
        if not part:
            raise ConnectionError("the server closed the connection")
        self.received = self.received + part if self.received else part
        head = self.received.find(b"\r\n\r\n")
        if head < 0:
            return None
        found = re.search(rb"content-length: *(\d+)", self.received[:head], re.IGNORECASE)
        if found is None:
            raise ConnectionError("the answer does not tell its length")
        if len(self.received) < head + 4 + int(found[1]):
            return None
        good = self.received.startswith(b"HTTP/1.1 200")
        self.received = b""
        return good


def _closed(request: bytes, port: int, seconds: float) -> Load:
    selector = selectors.DefaultSelector()
    for _ in range(CONNECTIONS):
        connection = _Connection(port)
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        connection.send(request, time.perf_counter())
    begin = time.perf_counter() + WARM_UP_S
    end, failed, sent = begin + seconds, 0, CONNECTIONS
    times: list[float] = []
    now = time.perf_counter()
    while now < end:
        for key, _ in selector.select(1.0):
            good = key.data.answered()
            if good is None:
                continue
            now = time.perf_counter()
            if now >= begin:
                times.append(now - key.data.due_s)
                failed += not good
            key.data.send(request, now)
            sent += 1
    return _load(times, seconds, failed, sent)


def _open(request: bytes, port: int, seconds: float, rate: float, seed: int) -> Load:
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds * 1.2) + 10)
    after = np.cumsum(gaps)
    instants = deque((after[after < seconds] + time.perf_counter() + WARM_UP_S).tolist())
    selector = selectors.DefaultSelector()
    idle = [_Connection(port) for _ in range(OPEN_CONNECTIONS)]
    for connection in idle:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    wanted, failed = len(instants), 0
    times: list[float] = []
    while len(times) < wanted:
        now = time.perf_counter()
        while instants and idle and instants[0] <= now:
            idle.pop().send(request, instants.popleft())
        waits = instants[0] - time.perf_counter() if instants and idle else 1.0
        for key, _ in selector.select(max(waits, 0.0)):
            good = key.data.answered()
            if good is not None:
                times.append(time.perf_counter() - key.data.due_s)
                failed += not good
                idle.append(key.data)
    return _load(times, seconds, failed, wanted)


def _load(times: list[float], seconds: float, failed: int, sent: int) -> Load:
    p50, p99 = np.quantile(times, [0.5, 0.99]) * 1e3 if times else (np.nan, np.nan)
    return Load(len(times) / seconds, float(p50), float(p99), failed, sent)


def main() -> None:
    request = Path(sys.argv[1]).read_bytes()
    port, seed = int(sys.argv[2]), int(sys.argv[5])
    seconds, rate = float(sys.argv[3]), float(sys.argv[4])
    if rate:
        found = _open(request, port, seconds, rate, seed)
    else:
        found = _closed(request, port, seconds)
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
