"""Replicas keep what they measured in the database that all of them serve, side by side."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import sommelier as sm
from sommelier.connection import scale_out
from sommelier.connection.scale_out import Figures, served
from sommelier.errors import SommelierError, StorageError
from sommelier.runtime.ray_serve import Replica
from sommelier.runtime.server.protocol import InferRequest, ProtocolError
from sommelier.runtime.server.service import ModelService
from tests.deployed import deployed_mlp

INPUTS = {"x": np.ones((1, 4), np.float32)}
SERVES = """
import sys
from pathlib import Path
import numpy as np
from sommelier.connection import scale_out
from sommelier.connection.scale_out import served
from sommelier.runtime.server.protocol import InferRequest
scale_out.LAST_S = 120.0  # the machine may be busy
with served(Path(sys.argv[1]), ()) as service:
    for _ in range(int(sys.argv[2])):
        service.infer(InferRequest("vision", {"x": np.ones((1, 4), np.float32)}))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return deployed_mlp(tmp_path_factory.mktemp("made") / "zoo.sommelier").parent


@pytest.fixture
def database(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "own")
    return tmp_path / "own" / "zoo.sommelier"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first write imports a lot, which takes long on a busy machine."""
    monkeypatch.setattr(scale_out, "LAST_S", 120.0)


def _kept(database: Path) -> int:
    with sm.connect(database, read_only=True) as db:
        return sum(figure.requests for figure in db.catalog.served("vision"))


def _infer(service: ModelService, times: int) -> None:
    for _ in range(times):
        service.infer(InferRequest("vision", INPUTS))


def test_figures_of_replicas_add_up(database: Path) -> None:
    with served(database, ()) as one, served(database, ("vision",)) as other:
        _infer(one, 3)
        _infer(other, 4)
    assert _kept(database) == 7
    with sm.connect(database, read_only=True) as db:
        found = db.execute("SELECT MODELS served_latency, served_requests").fetchall()
        assert found[0][1] == 7
        assert found[0][0] > 0


def test_replicas_in_processes_of_their_own_keep_all_figures(database: Path) -> None:
    command = [sys.executable, "-c", SERVES, str(database)]
    replicas = [subprocess.Popen([*command, str(times)]) for times in (2, 3)]
    with served(database, ()) as service:
        _infer(service, 5)
    assert [replica.wait(300) for replica in replicas] == [0, 0]
    assert _kept(database) == 2 + 3 + 5


def test_figures_wait_for_another_writer_and_are_kept_after_it(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with sm.connect(database, read_only=True) as db:
        running = db.deploy("vision")
        figures = Figures(database, [running])
        running.infer(dict(INPUTS))
        with sm.connect(database):
            assert not figures.write()
            assert not figures.write()
        running.infer(dict(INPUTS))
        assert figures.write()
        assert figures.write(), "there is nothing to keep"
        running.infer(dict(INPUTS))
        figures.close()
    assert _kept(database) == 3
    assert caplog.text.count("another process writes the database") == 1


def test_they_are_kept_now_and_then(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale_out, "WRITE_EVERY_S", 0.05)
    with served(database, ()) as service:
        _infer(service, 2)
        until = time.monotonic() + 60
        while _kept(database) < 2:
            assert time.monotonic() < until
            time.sleep(0.1)
    assert _kept(database) == 2


def test_the_end_waits_for_another_writer_but_not_for_ever(
    database: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(scale_out, "LAST_S", 1.5)
    with sm.connect(database), served(database, ()) as service:
        _infer(service, 6)
    assert "what 6 requests took could not be kept" in caplog.text
    assert _kept(database) == 0
    monkeypatch.setattr(scale_out, "LAST_S", 120.0)
    writer = sm.connect(database)
    with served(database, ()) as service:
        _infer(service, 6)
        threading.Timer(0.5, writer.close).start()
    assert _kept(database) == 6


def test_a_replica_that_ends_keeps_what_is_left(database: Path) -> None:
    replica = Replica(partial(served, database, ()), 10.0)
    _infer(replica._service, 4)
    replica.__del__()
    assert _kept(database) == 4
    replica.__del__()
    assert _kept(database) == 4


def test_nothing_is_written_where_it_is_not_to_be(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = database.read_bytes()
    with served(database, (), write=False) as service:
        _infer(service, 1)
    monkeypatch.setattr(scale_out, "_writable", lambda _: False)  # root may write everything
    with served(database, ()) as service:
        _infer(service, 1)
    assert database.read_bytes() == before


def test_a_database_that_was_removed_is_not_created_again(
    database: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(scale_out, "LAST_S", 1.0)
    with served(database, ()) as service:
        _infer(service, 1)
        database.unlink()
    assert not database.exists()
    assert "there is no database at" in caplog.text


def test_a_deployment_that_cannot_be_served_does_not_keep_others_from_it(database: Path) -> None:
    with sm.connect(database) as db:
        db.execute("CREATE POOL two AS SELECT MODELS")
        db.execute("DEPLOY POOL two AS lost")
        db.execute("DROP POOL two")
    with served(database, ()) as service:
        _infer(service, 1)
        assert service.names == ("vision",)
        with pytest.raises(ProtocolError, match="lost") as refused:
            service.infer(InferRequest("lost", INPUTS))
        assert refused.value.status == 503
    with pytest.raises(SommelierError), served(database, ("vision", "lost")):
        pass
    with sm.connect(database) as db:
        db.execute("UNDEPLOY vision")
    none = pytest.raises(StorageError, match="none of the deployments can be served")
    with none, served(database, ()):
        pass


def test_a_database_without_deployments_is_told(tmp_path: Path) -> None:
    sm.connect(tmp_path / "empty.sommelier").close()
    with (
        pytest.raises(StorageError, match=r"nothing is deployed in .*empty"),
        served(tmp_path / "empty.sommelier", ()),
    ):
        pass
