"""The load generator counts what it says, and rates are found where they are."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.loadgen import Trial, highest
from benchmarks.serving import misses
from benchmarks.serving_load import Post, closed_loop, open_loop


class Handler(BaseHTTPRequestHandler):
    """Answers what it is sent after 20 ms; every fifth time 500, at /bad."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(0.02)
        with self.server.counting:
            self.server.count += 1
            bad = self.path == "/bad" and self.server.count % 5 == 0
        self.send_response(500 if bad else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.count, server.counting = 0, threading.Lock()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def _post(server: ThreadingHTTPServer, path: str = "/") -> Post:
    return Post(server.server_address[1], path, {"Content-Type": "text/plain"}, b"x" * 20_000)


def test_a_closed_loop_counts_answers_and_failures(
    server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")  # without wrk
    found = closed_loop(_post(server, "/bad"), 1.0)
    assert found.p50_ms >= 20
    assert found.p99_ms >= found.p50_ms
    assert 0 < found.per_second <= 8 / 0.02, "8 connections, 20 ms each"
    assert found.failed == pytest.approx(found.per_second / 5, rel=0.5)
    assert found.sent >= found.per_second


@pytest.mark.slow
def test_an_open_loop_sends_at_its_rate_and_counts_from_the_due_instant(
    server: ThreadingHTTPServer,
) -> None:
    calm = open_loop(_post(server), 1.0, 30.0, seed=0)
    assert calm.failed == 0
    assert 15 <= calm.sent <= 45, "Poisson with a mean of 30"
    assert calm.p50_ms >= 20


def test_requests_that_had_to_wait_for_a_connection_are_late(
    server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import serving_load

    monkeypatch.setattr(serving_load, "OPEN_CONNECTIONS", 1)
    found = serving_load._open(_post(server).text(), server.server_address[1], 0.5, 100.0, 0)
    assert found.sent > 30
    last_ms = 20 * found.sent - 500  # 20 ms each, one after the other; all were due in 500 ms
    assert found.p99_ms > 0.9 * last_ms


def test_the_highest_rate_is_found_within_the_precision() -> None:
    asked: list[float] = []

    def trial(rate: float) -> Trial:
        asked.append(rate)
        return Trial(rate, rate <= 37.0, 1.0, 0, 1.0)

    for start in (1.0, 30.0, 1000.0):
        found = highest(trial, start=start, precision=1.05)
        assert 37 / 1.05 <= found.rate <= 37
    assert len(asked) < 60
    with pytest.raises(ValueError, match="too many"):
        highest(lambda rate: Trial(rate, False, 1.0, 0, 1.0), start=1.0, precision=1.05)


def test_each_gate_tells_when_it_is_missed() -> None:
    good = {
        "binary_share": 0.6, "middle_binary_share": 0.95, "json_over_mlserver": 3.0,
        "resident_mib": 100.0, "failed": 0.0,
    }  # fmt: skip
    assert misses(good) == []
    assert misses({**good, "json_over_mlserver": float("nan")}) == [], "MLServer is not here"
    for name, value in [
        ("binary_share", 0.5), ("middle_binary_share", 0.8), ("json_over_mlserver", 2.0),
        ("resident_mib", 130.0), ("failed", 1.0),
    ]:  # fmt: skip
        assert len(misses({**good, name: value})) == 1, name
