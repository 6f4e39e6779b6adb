"""How much of ONNX Runtime's speed is left behind a server: ours, MLServer and LitServe.

    python -m benchmarks.serving --quick

Every server runs on one core, what puts load on it on another, 8 connections, one image of 3 x 32 x
32 (12 KB, 34 KB as JSON) a request. The limit is ONNX Runtime alone in a loop on the server's core;
what no server in one process can pass is that and the system's calls to receive and to send, which
are a contender of their own: sockets alone.
Each contender is started anew in each round, the rounds go in turn; medians over rounds are told.
Shares of the limit are those of slices beside slices of ONNX Runtime alone (serving_pairs.py).
Two models: the smallest, of dense layers, and a convolutional one of about 0.3 ms. On a machine
that is five times slower than another, 0.3 ms are a fifth of the work behind the same requests;
--middle-ms makes it as much work as elsewhere.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import psutil

import sommelier as sm
from benchmarks.report import arguments, conclude, table
from benchmarks.serving_load import WARM_UP_S, Load, Post, closed_loop, cores, open_loop, pinned
from benchmarks.serving_models import MIDDLE, MIDDLE_MS, SHAPE, SMALL, alone, make_models
from benchmarks.serving_pairs import Pairs, merged, paired, stolen_s
from benchmarks.serving_peers import PEERS, Peer, python_of

START_S = 120.0
SOCKETS = "sockets alone"
OPEN_SHARE = 0.5  # of the rate of the closed loop
SLICE_S = 0.5  # of the closed loop, beside one of ONNX Runtime alone

LEAST_SHARE = {SMALL: 0.55, MIDDLE: 0.9}
LEAST_OVER_MLSERVER = 2.5
MOST_MIB = 120.0


@dataclass(frozen=True, slots=True)
class Server:
    """A contender: how it is started, asked and known to be ready."""

    command: Callable[[Path, str, int], list[str]]  # folder of the run, model, port
    post: Callable[[str, int], Post]
    ready: Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Run:
    """One contender in one round. closed : of the closed loop, beside ONNX Runtime alone. open : at
    half the rate, in an open loop. cpu_us : processor time a request of the closed loop.
    resident_mib, own_mib : memory of all its processes at the end, with and without what is mapped
    from files."""

    closed: Pairs
    open: Load
    cpu_us: float
    resident_mib: float
    own_mib: float


def main() -> None:
    parser = arguments("Requests a second behind a server, against ONNX Runtime alone and others")
    parser.add_argument("--seconds", type=float, help="of each load; 5 (quick: 1)")
    parser.add_argument("--rounds", type=int, help="5 (quick: 1)")
    parser.add_argument("--middle-ms", type=float, default=MIDDLE_MS, help="of the larger model")
    parser.add_argument("--without-peers", action="store_true", help="do not install others")
    options = parser.parse_args()
    seconds = options.seconds or (1.0 if options.quick else 5.0)
    rounds = options.rounds or (1 if options.quick else 5)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = make_models(folder, options.seed, options.middle_ms)
        servers = _sockets(models) | _ours(_database(folder))
        servers |= _peers(models, options.without_peers)
        for model, path in models.items():
            runs = _measured(servers, model, path, (seconds, rounds, options.seed))
            _print(model, runs)
            figures |= _figures(model, runs)
    conclude(figures, options.json, missed=misses(figures))


def misses(figures: Mapping[str, float]) -> list[str]:
    """What was expected and is not so. NaN, as of a peer that is not here, misses nothing."""
    expected = {
        "55 % of the limit on the smallest model": figures["binary_share"] < LEAST_SHARE[SMALL],
        "90 % of the limit on the larger one": figures["middle_binary_share"] < LEAST_SHARE[MIDDLE],
        "2.5 times MLServer by JSON": figures["json_over_mlserver"] < LEAST_OVER_MLSERVER,
        "120 MiB of resident memory": figures["resident_mib"] > MOST_MIB,
        "no answer but 200": figures["failed"] > 0,
    }
    return [line for line, missed in expected.items() if missed]


# ---- servers


def _database(folder: Path) -> Path:
    """With both models."""
    path = folder / "models.sommelier"
    with sm.connect(path) as db:
        db.import_models("folder", str(folder / "*.onnx"))
    return path


def _ours(database: Path) -> dict[str, Server]:
    def command(_: Path, model: str, port: int) -> list[str]:
        told = ["serve", str(database), "--port", str(port), "--models", model]
        return [sys.executable, "-m", "sommelier", *told]

    def ready(model: str) -> str:
        return f"/v2/models/{model}/ready"

    return {
        "ours, binary": Server(command, _binary_post, ready),
        "ours, JSON": Server(command, lambda m, p: _json_post(p, f"/v2/models/{m}/infer"), ready),
    }


def _sockets(models: Mapping[str, Path]) -> dict[str, Server]:
    """Receives, runs and sends."""
    program = [sys.executable, "-m", "benchmarks.serving_sockets"]
    return {
        SOCKETS: Server(
            lambda _, model, port: [*program, str(models[model]), str(port)],
            _binary_post,
            lambda _: "/",
        )
    }


def _binary_post(model: str, port: int) -> Post:
    """By the protocol's binary extension: 12 KB."""
    tensor = np.ones(SHAPE, np.float32).tobytes()
    size = {"binary_data_size": len(tensor)}
    given = {"name": "image", "shape": list(SHAPE), "datatype": "FP32", "parameters": size}
    asked = {"inputs": [given], "parameters": {"binary_data_output": True}}
    head = json.dumps(asked).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return Post(port, f"/v2/models/{model}/infer", headers, head + tensor)


def _peers(models: Mapping[str, Path], without: bool) -> dict[str, Server]:
    """Those that can be installed; why another one is left out is printed."""
    found = {}
    for peer in () if without else PEERS:
        python = python_of(peer)
        if isinstance(python, str):
            print(f"without {peer.name}: {python}")
        else:
            found[peer.name] = _peer(peer, python, models)
    return found


def _peer(peer: Peer, python: Path, models: Mapping[str, Path]) -> Server:
    return Server(
        lambda folder, model, port: peer.command(python, folder, models[model], port),
        lambda _, port: _json_post(port, peer.infer),
        lambda _: peer.ready,
    )


def _json_post(port: int, path: str) -> Post:
    """Random numbers of the seven digits a float32 has: 33 KB."""
    rng = np.random.default_rng(0)
    data = [round(float(value), 7) for value in rng.random(int(np.prod(SHAPE)))]
    given = {"name": "image", "shape": list(SHAPE), "datatype": "FP32", "data": data}
    body = json.dumps({"inputs": [given]}).encode()
    return Post(port, path, {"Content-Type": "application/json"}, body)


# ---- measuring


def _measured(
    servers: Mapping[str, Server], model: str, path: Path, plan: tuple[float, int, int]
) -> dict[str, list[Run]]:
    seconds, rounds, seed = plan
    runs: dict[str, list[Run]] = {name: [] for name in servers}
    for turn in range(rounds):
        for name, server in servers.items():
            runs[name].append(_run(server, model, path, seconds, seed + turn))
    return runs


def _run(server: Server, model: str, path: Path, seconds: float, seed: int) -> Run:
    load_core = cores()[1]
    length = min(SLICE_S, seconds)
    with tempfile.TemporaryDirectory() as folder, _started(server, model, Path(folder)) as process:
        post = server.post(model, process.port)
        closed_loop(post, WARM_UP_S, core=load_core)
        cpu_us: list[float] = []

        def served() -> Load:
            before = _cpu_s(process.id)
            load = closed_loop(post, length, core=load_core)
            cpu_us.append(1e6 * (_cpu_s(process.id) - before) / load.sent)
            return load

        closed = paired(lambda: alone(path, length), served, round(seconds / length), stolen_s)
        rate = OPEN_SHARE * closed.load.per_second
        opened = open_loop(post, seconds, rate, seed=seed, core=load_core)
        return Run(closed, opened, statistics.median(cpu_us), *_memory_mib(process.id))


@dataclass(frozen=True, slots=True)
class _Process:
    id: int
    port: int


@contextmanager
def _started(server: Server, model: str, folder: Path) -> Iterator[_Process]:
    """The server on its core, ready; it and its children end with the block."""
    port = _free_ports(3)
    command = pinned(server.command(folder, model, port), cores()[0])
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait(f"http://127.0.0.1:{port}{server.ready(model)}", process, folder / "log")
            yield _Process(process.pid, port)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # nothing of it matters any more
            process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            with urlopen(url, timeout=2.0):
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{process.args} did not become ready:\n{log.read_text()[-2000:]}")


def _family(process_id: int) -> list[psutil.Process]:
    root = psutil.Process(process_id)
    return [root, *root.children(recursive=True)]


def _cpu_s(process_id: int) -> float:
    """Processor time of a process and all below it, until now."""
    times = [process.cpu_times() for process in _family(process_id)]
    return sum(float(time.user + time.system) for time in times)


def _memory_mib(process_id: int) -> tuple[float, float]:
    """(resident, resident without pages of files) of a process and all below it."""
    infos = [process.memory_info() for process in _family(process_id)]
    resident = sum(float(info.rss) for info in infos)
    return resident / 2**20, (resident - sum(float(info.shared) for info in infos)) / 2**20


def _free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody listens on."""
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
        try:
            for other in range(port, port + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", other))
        except OSError:
            continue
        return port


# ---- what is told


def _print(model: str, runs: Mapping[str, list[Run]]) -> None:
    limit = _limit(runs)
    rows: list[list[str | float]] = [
        [
            "ONNX Runtime alone",
            limit.per_second,
            1.0,
            limit.p50_ms,
            limit.p99_ms,
            "",
            "",
            1e3 * limit.cpu_ms,
            "",
            "",
            0,
        ]
    ]
    for name, found in runs.items():
        load, opened = merged([r.closed.load for r in found]), merged([r.open for r in found])
        rows.append([
            name, load.per_second, _share(found), load.p50_ms, load.p99_ms,
            opened.p50_ms, opened.p99_ms, statistics.median(r.cpu_us for r in found),
            max(r.resident_mib for r in found), max(r.own_mib for r in found),
            load.failed + opened.failed,
        ])  # fmt: skip
    header = ("server", "requests/s", "of the limit", "p50 ms", "p99 ms", "p50 ms, half the rate",
              "p99 ms", "CPU us", "resident MiB", "own MiB", "failed")  # fmt: skip
    rounds = max(len(found) for found in runs.values())
    print(table(f"{model}, medians of {rounds} rounds", header, rows))


def _figures(model: str, runs: Mapping[str, list[Run]]) -> dict[str, float]:
    """Of the smallest model under plain names, of the other with its name before."""
    prefix = "" if model == SMALL else f"{model}_"
    loads = {name: merged([r.closed.load for r in found]) for name, found in runs.items()}
    rates = {name: load.per_second for name, load in loads.items()}
    shares = {name: _share(found) for name, found in runs.items()}
    binary = loads["ours, binary"]
    json_rps, mlserver = rates["ours, JSON"], rates.get("MLServer", float("nan"))
    figures = {
        "limit_rps": _limit(runs).per_second,
        "binary_rps": binary.per_second,
        "binary_share": shares["ours, binary"],
        "sockets_share": shares[SOCKETS],
        "binary_of_sockets": shares["ours, binary"] / shares[SOCKETS],
        "binary_p50_ms": binary.p50_ms,
        "binary_p99_ms": binary.p99_ms,
        "json_rps": json_rps,
        "mlserver_rps": mlserver,
        "json_over_mlserver": shares["ours, JSON"] / shares.get("MLServer", float("nan")),
        "binary_cpu_us": statistics.median(r.cpu_us for r in runs["ours, binary"]),
        "json_cpu_us": statistics.median(r.cpu_us for r in runs["ours, JSON"]),
        "litserve_rps": rates.get("LitServe", float("nan")),
        "resident_mib": max(r.resident_mib for name in runs if "ours" in name for r in runs[name]),
        "failed": sum(
            r.closed.load.failed + r.open.failed for found in runs.values() for r in found
        ),
        "calm_share": statistics.mean(r.closed.calm for found in runs.values() for r in found),
    }
    return {prefix + name: value for name, value in figures.items()}


def _limit(runs: Mapping[str, list[Run]]) -> Load:
    """Of ONNX Runtime alone, beside all of them."""
    return merged([r.closed.limit for found in runs.values() for r in found])


def _share(runs: list[Run]) -> float:
    return statistics.median(r.closed.share for r in runs)


if __name__ == "__main__":
    main()
