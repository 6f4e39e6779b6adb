"""`sommelier serve` while other processes change its database: what is served follows, what was
measured is kept, and no request is lost. Real processes, real sockets."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil
import pytest

import sommelier as sm
from sommelier.errors import DatabaseLockedError
from sommelier.records import Measurement, Provenance
from tests.asking import rows
from tests.factories import mlp_classifier
from tests.runtime.server.asking import wait_until
from tests.serve_process import MAIN, ServeProcess, serve_process

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

SOON_S = 180.0  # a change is followed in 3 s on an idle machine
RESIDENT_MIB = 120
BODY = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
).encode()


class Serve(ServeProcess):
    """What a process of these tests is asked."""

    def ask(self, path: str, body: bytes | None = None) -> tuple[int, Any]:
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        client.request("GET" if body is None else "POST", path, body)
        answer = client.getresponse()
        content = answer.read()
        client.close()
        return answer.status, json.loads(content)

    def infer(self, name: str) -> tuple[int, str]:
        """(status, the model that answered)."""
        status, told = self.ask(f"/v2/models/{name}/infer", BODY)
        return status, told.get("parameters", {}).get("sommelier_model", "")


OFTEN = """
import sys
from sommelier.shell import cli, following
following.WRITE_EVERY_S = 0.5
sys.exit(cli.main(sys.argv[1:]))
"""
WRITING_OFTEN = ("-c", OFTEN)  # every 30 s is long for a test


def serving(
    database: Path, *flags: str, program: tuple[str, ...] = MAIN
) -> AbstractContextManager[Serve]:
    return serve_process(Serve, database, ("--drain-delay", "0", *flags), program=program)


class Clients:
    """Threads that ask for one name without a pause. refused : answers other than 200."""

    def __init__(self, served: Serve, name: str, count: int = 4) -> None:
        self.models: list[str] = []
        self.refused: list[Any] = []
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask_on, args=(served.port, name)) for _ in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(SOON_S)

    def _ask_on(self, port: int, name: str) -> None:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while not self._ended.is_set():
            try:
                client.request("POST", f"/v2/models/{name}/infer", BODY)
                answer = client.getresponse()
                told = json.loads(answer.read())
                if answer.status == 200:
                    self.models.append(told["parameters"]["sommelier_model"])
                else:
                    self.refused.append(told)
            except Exception as error:
                self.refused.append(error)
                client.close()
            time.sleep(0.002)
        client.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with zoo.sommelier: models a, b and c; `vision` answers with a, `other` with b."""
    folder = tmp_path_factory.mktemp("made")
    for seed, name in enumerate("abc"):
        mlp_classifier(folder / f"{name}.onnx", seed=seed)
    with sm.connect(folder / "zoo.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM folder '{folder}/*.onnx'")
        db.execute("DEPLOY MODEL a AS vision")
        db.execute("DEPLOY MODEL b AS other")
    return folder


@pytest.fixture
def database(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "own")
    return tmp_path / "own" / "zoo.sommelier"


def change(database: Path, *statements: str) -> None:
    """As another process would."""
    code = "import sys, sommelier as sm\nwith sm.connect(sys.argv[1]) as db:\n"
    code += "".join(f"    db.execute({statement!r})\n" for statement in statements)
    subprocess.run([sys.executable, "-c", code, str(database)], check=True, timeout=SOON_S)


def test_deployments_are_switched_added_and_dropped_while_requests_flow(database: Path) -> None:
    grpc = pytest.importorskip("tritonclient.grpc")
    with serving(database, "--grpc-port", "0") as served:
        clients = Clients(served, "vision")
        wait_until(lambda: clients.models.count("a") > 50, within_s=SOON_S)
        change(database, "DEPLOY OR REPLACE MODEL b AS vision", "DEPLOY MODEL c AS third")
        wait_until(lambda: "b" in clients.models[-4:], within_s=SOON_S)
        wait_until(lambda: served.infer("third") == (200, "c"), within_s=SOON_S)
        change(database, "UNDEPLOY other")
        wait_until(lambda: served.infer("other")[0] == 404, within_s=SOON_S)
        index = grpc.InferenceServerClient(f"127.0.0.1:{served.grpc_port}")
        told = index.get_model_repository_index(as_json=True)["models"]
        assert sorted(entry["name"] for entry in told) == ["third", "vision"]
        assert served.ask("/v2/health/ready")[0] == 200
        clients.end()
        resident = psutil.Process(served.process.pid).memory_info().rss / 2**20
        maps = Path(f"/proc/{served.process.pid}/maps")
        loaded = maps.read_text() if maps.exists() else ""
        assert served.end() == 0
    assert clients.refused == []
    assert set(clients.models) == {"a", "b"}
    assert clients.models[-1] == "b"
    assert not {"duckdb", "torch", "pandas"} & set(re.findall(r"duckdb|torch|pandas", loaded))
    assert resident < RESIDENT_MIB
    with sm.connect(database, read_only=True) as db:
        asked = (  # requests that shared a run are in a row of their batch
            "SELECT model, sum(requests) FROM served WHERE deployment = 'vision' GROUP BY model"
        )
        kept = dict(db.sql(asked).rows)
    for name in "ab":  # one that ran too long in the event loop was run twice
        assert kept[name] == pytest.approx(clients.models.count(name), rel=0.01)


@pytest.mark.slow
def test_new_latencies_of_models_switch_a_deployment(database: Path) -> None:
    statement = "DEPLOY (SELECT MODELS ORDER BY latency LIMIT 1) AS quickest"
    with sm.connect(database) as db:
        for name, ms in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
            measure(db, name, ms)
        db.execute(statement)
    with serving(database, "--deployment", "quickest") as served:
        assert served.infer("quickest") == (200, "a")
        assert served.infer("vision")[0] == 404
        clients = Clients(served, "quickest", 2)
        with sm.connect(database) as db:  # what ANALYZE would write
            measure(db, "c", 0.1)
        wait_until(lambda: "c" in clients.models[-2:], within_s=SOON_S)
        clients.end()
        assert clients.refused == []
        change(database, "UNDEPLOY quickest")
        wait_until(lambda: "cannot be planned" in "".join(served.said), within_s=SOON_S)
        assert served.infer("quickest") == (200, "c"), "it was asked for by name"
        assert served.end() == 0


def measure(db: sm.Connection, name: str, ms: float) -> None:
    db.catalog.add_measurements(
        Measurement(
            db.catalog.resolve(name).id, "latency", value, Provenance.MEASURED, "onnxruntime",
            device="cpu", batch=1, percentile=percentile, threads=1,
        )
        for percentile, value in ((50, ms), (99, 1.1 * ms))
    )  # fmt: skip


def test_figures_wait_for_another_writer_and_are_kept_after_it(database: Path) -> None:
    with serving(database) as served:
        for _ in range(20):
            assert served.infer("vision") == (200, "a")
        with sm.connect(database):
            served.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "another process writes" in "".join(served.said), within_s=SOON_S)
        assert served.process.wait(SOON_S) == 0
    with sm.connect(database) as db:
        (kept,) = db.catalog.served("vision")
        assert kept.requests == 20
        assert kept.mean_ms is not None
        assert kept.mean_ms > 0
        (row,) = rows(db, "SELECT MODELS served_latency, served_requests WHERE name = 'a'")
        assert row["served_latency"] == pytest.approx(kept.mean_ms)
        assert row["served_requests"] == 20
    assert "".join(served.said).count("another process writes") == 1


def test_what_was_written_survives_a_kill_and_later_runs_add_to_it(database: Path) -> None:
    def kept() -> int:
        with sm.connect(database, read_only=True) as db:
            return sum(figure.requests for figure in db.catalog.served("vision"))

    for _ in range(2):
        before = kept()
        with serving(database, program=WRITING_OFTEN) as served:
            for _ in range(20):
                assert served.infer("vision") == (200, "a")
            until = time.monotonic() + SOON_S
            while kept() < before + 20:
                assert time.monotonic() < until
            served.process.kill()
            served.process.wait()
        assert kept() == before + 20
        assert "planned again" not in "".join(served.said), "its own writes change no plan"


def test_nothing_is_written_with_no_write(database: Path) -> None:
    before = database.read_bytes()
    with serving(database, "--no-write") as served:
        assert served.infer("vision") == (200, "a")
        assert served.end() == 0
    assert database.read_bytes() == before


def test_who_writes_briefly_is_waited_for(database: Path) -> None:
    from sommelier.storage.catalog import Catalog

    brief = Catalog.open(database, brief=True)
    threading.Timer(0.5, brief.close).start()
    with sm.connect(database) as db:
        assert db.catalog.deployment_names() == ["other", "vision"]
        with pytest.raises(DatabaseLockedError):
            Catalog.open(database, brief=True)
