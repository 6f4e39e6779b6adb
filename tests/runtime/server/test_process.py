"""`sommelier serve` as a process of its own, over real sockets: how it starts, what it holds in
memory, how it ends, and that it ends without losing a request."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil
import pytest

import sommelier
from tests import factories
from tests.runtime.server.asking import hear, wait_until
from tests.serve_process import ServeProcess, serve_process

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

RESIDENT_MIB = 120
BODY = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
).encode()


class Serve(ServeProcess):
    """What a process of these tests is asked."""

    def ask(self, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        client.request("GET" if body is None else "POST", path, body, named)
        answer = client.getresponse()
        content = answer.read()
        client.close()
        return answer.status, json.loads(content) if content else None


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mlp, and `slow`, which takes as long as its request says."""
    folder = tmp_path_factory.mktemp("served")
    factories.mlp_classifier(folder / "mlp.onnx")
    factories.loop_model(folder / "slow.onnx", trips=None)
    path = folder / "zoo.sommelier"
    with sommelier.connect(path) as db:
        db.execute(f"IMPORT MODELS FROM folder '{folder}/*.onnx'")
    return path


def serving(database: Path, *flags: str, until_ready: bool = True) -> AbstractContextManager[Serve]:
    models = ("--models", "mlp", "slow")
    return serve_process(
        Serve, database, (*models, *flags), ready="ready after" if until_ready else "REST  "
    )


def endless_request() -> bytes:
    body = json.dumps(
        {
            "inputs": [
                {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]},
                {"name": "trips", "datatype": "INT64", "shape": [], "data": [2**60]},
            ]
        }
    ).encode()
    head = f"POST /v2/models/slow/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def test_it_serves_in_little_memory_and_ends_on_sigterm(database: Path) -> None:
    with serving(database, "--drain-delay", "1.5") as served:
        for _ in range(50):
            status, told = served.ask("/v2/models/mlp/infer", BODY)
            assert (status, told["parameters"]["sommelier_model"]) == (200, "mlp")
        resident = psutil.Process(served.process.pid).memory_info().rss / 2**20
        maps = Path(f"/proc/{served.process.pid}/maps")
        loaded = maps.read_text() if maps.exists() else ""
        served.process.send_signal(signal.SIGTERM)
        wait_until(lambda: served.ask("/v2/health/ready")[0] == 503, within_s=1.4)
        assert served.ask("/v2/health/live") == (200, {"live": True})
        assert served.ask("/v2/models/mlp/infer", BODY)[0] == 200, "it serves on meanwhile"
        assert served.process.wait(30) == 0
    assert resident < RESIDENT_MIB
    assert "torch" not in loaded
    assert "pandas" not in loaded
    assert "duckdb" not in loaded
    assert "Traceback" not in "".join(served.said)


class Load:
    """Clients that ask without a pause until the server takes no more connections.

    lost : requests that were sent on an accepted connection and got no whole answer.
    """

    def __init__(self, port: int, clients: int, *, keep_alive: bool) -> None:
        self.answered = 0
        self.lost: list[str] = []
        self._port = port
        self._keep_alive = keep_alive
        self._lock = threading.Lock()
        self.threads = [threading.Thread(target=self._ask_on) for _ in range(clients)]
        for thread in self.threads:
            thread.start()

    def _ask_on(self) -> None:
        client = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        while True:
            try:
                client.connect()
            except OSError:
                return  # it has stopped listening
            while True:
                try:
                    client.request("POST", "/v2/models/mlp/infer", BODY)
                    answer = client.getresponse()
                    assert answer.status == 200
                    json.loads(answer.read())
                except Exception as error:
                    with self._lock:
                        self.lost.append(repr(error))
                    return
                with self._lock:
                    self.answered += 1
                if not self._keep_alive or answer.will_close:
                    client.close()
                    break


def test_sigterm_under_load_loses_no_request(database: Path) -> None:
    with serving(database, "--drain-delay", "0.5") as served:
        load = Load(served.port, 8, keep_alive=True)
        wait_until(lambda: load.answered > 100, within_s=60)
        assert served.end() == 0
        before = load.answered
        for thread in load.threads:
            thread.join(30)
    assert load.lost == []
    assert load.answered >= before > 100


def test_a_running_inference_is_finished_and_one_without_end_is_cut_off(
    database: Path,
) -> None:
    with serving(database, "--drain-delay", "0", "--drain-timeout", "2") as served:
        client = socket.create_connection(("127.0.0.1", served.port), timeout=30)
        client.sendall(endless_request())
        time.sleep(0.5)
        started = time.monotonic()
        assert served.end() == 0
        assert time.monotonic() - started > 1.9
        assert b"200 OK" not in hear(client)
        client.close()
    assert "1 requests were cut off after 2 s" in "".join(served.said)


def test_ctrl_c_skips_the_delay_and_a_second_one_the_rest(database: Path) -> None:
    with serving(database, "--drain-delay", "60") as served:
        started = time.monotonic()
        assert served.end(signal.SIGINT) == 0
        assert time.monotonic() - started < 20
    with serving(database, "--drain-delay", "60") as served:
        served.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "draining" in "".join(served.said))
        assert served.end(signal.SIGTERM) == 128 + signal.SIGTERM


def test_a_signal_while_models_load_ends_it(database: Path, tmp_path: Path) -> None:
    with serving(database, "--drain-delay", "0", until_ready=False) as served:
        assert served.end() == 0


def test_tls_and_a_key(database: Path, tmp_path: Path) -> None:
    certificate, key = tmp_path / "server.pem", tmp_path / "key.pem"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    request += ["-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost"]
    request += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    try:
        subprocess.run(request, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    keys = tmp_path / "keys"
    keys.write_text("# who may ask\nsecret\n\n")
    flags = ["--tls-cert", str(certificate), "--tls-key", str(key), "--api-key-file", str(keys)]
    with serving(database, *flags, "--drain-delay", "0") as served:
        context = ssl.create_default_context(cafile=str(certificate))
        client = http.client.HTTPSConnection("127.0.0.1", served.port, timeout=30, context=context)
        for headers, status in (({}, 401), ({"Authorization": "Bearer secret"}, 200)):
            client.request("POST", "/v2/models/mlp/infer", BODY, headers)
            answer = client.getresponse()
            assert (answer.status, bool(answer.read())) == (status, True)
            client.close()
        with socket.create_connection(("127.0.0.1", served.port), timeout=5) as plain:
            plain.sendall(b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n")
            assert b"200" not in hear(plain)
        assert served.end() == 0


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--models", "mpl"], "mlp"),
        (["--deployment", "nope"], "nope"),
        (["--deployment", "mlp", "--models", "mlp"], "'mlp' is asked for as a deployment and as a"),
        (["--models", "mlp", "--tls-cert", "x.pem"], "--tls-key go together"),
        (["--models", "mlp", "--tls-cert", "x.pem", "--tls-key", "y.pem"], "cannot be used"),
        (["--models", "mlp", "--api-key-file", os.devnull], "has no keys"),
        (["--models", "mlp", "--api-key-file", "no-such-file"], "cannot read"),
        (["--models", "mlp", "--max-body", "much"], "much"),
        (["--models", "mlp", "--port", "99999"], "there is no port 99999: take one up to 65535"),
        (["--models", "mlp", "--grpc-port", "65536"], "there is no port 65536"),
        (["--models", "mlp", "--port=-1"], "there is no port -1"),
        ([], "nothing is deployed"),
    ],
)
def test_what_cannot_be_served_is_told(database: Path, flags: list[str], told: str) -> None:
    command = [sys.executable, "-m", "sommelier", "serve", str(database), "--port", "0", *flags]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, told in ended.stderr) == (2, True), ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_port_that_is_taken_is_told(database: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "sommelier", "serve", str(database), "--models", "mlp"]
        ended = subprocess.run(
            [*command, "--port", port], capture_output=True, text=True, timeout=60, check=False
        )
    assert ended.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr


def test_without_its_libraries_the_command_that_installs_them_is_told(database: Path) -> None:
    code = (
        "import sys; sys.modules['httptools'] = None; from sommelier.shell.cli import main;"
        f"sys.exit(main(['serve', {str(database)!r}, '--models', 'mlp']))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2
    assert 'pip install "sommelier-db[serve]"' in ended.stderr
