"""`sommelier serve` where a deployment cannot be planned any more: the others are served, and who
asks it is told why."""

from __future__ import annotations

import json
import logging
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sommelier as sm
from sommelier.errors import SommelierError, UnknownNameError
from sommelier.runtime.server.process import Listening, ServerSettings
from sommelier.runtime.server.protocol import ProtocolError
from sommelier.shell import serving
from sommelier.shell.console import Console
from sommelier.shell.served import ServedDatabase
from sommelier.shell.serving_plan import Wanted, plan
from tests.factories import tiny_classifier
from tests.runtime.server.asking import ask, post, ready, rest_server, triton_inputs

WHY = "there is no pool 'two'"
BODY = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
).encode()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`vision` answers with model a; the pools of `lost` and `gone` are dropped."""
    folder: Path = tmp_path_factory.mktemp("served")
    tiny_classifier(folder / "a.onnx")
    path = folder / "zoo.sommelier"
    with sm.connect(path) as db:
        db.execute(f"IMPORT MODELS FROM folder '{folder}/*.onnx'")
        db.execute("DEPLOY MODEL a AS vision")
        for pool, name in (("two", "lost"), ("three", "gone")):
            db.execute(f"CREATE POOL {pool} AS SELECT MODELS")
            db.execute(f"DEPLOY POOL {pool} AS {name}")
        db.execute("DROP POOL two")
    return path


def wanted(database: Path, *names: str, models: tuple[str, ...] = ()) -> Wanted:
    return Wanted(str(database), names or None, models, None)


@pytest.fixture(scope="module")
def served(database: Path) -> Iterator[tuple[ServedDatabase, Any]]:
    """(what runs, its service)."""
    asked = wanted(database)
    runs = ServedDatabase(asked)
    service = runs.start(plan(asked))
    ready(service)
    yield runs, service
    runs.close()


def test_the_others_are_served_and_requests_for_it_are_503_with_the_reason(
    served: tuple[ServedDatabase, Any],
) -> None:
    _, service = served
    assert set(service.names) == {"vision", "gone"}
    with rest_server(service) as port:
        assert post(port, "/v2/models/vision/infer", BODY)[0] == 200
        status, _, body = post(port, "/v2/models/lost/infer", BODY)
        assert (status, json.loads(body)["error"]) == (503, f"'lost' is not served: {WHY}")
        assert post(port, "/v2/repository/models/lost/load")[0] == 503
        assert ask(port, "GET", "/v2/health/ready")[0] == 200
        assert ask(port, "GET", "/v2/models/lost/ready")[0] == 400
        status, _, body = ask(port, "GET", "/v2/models/lost")
        assert status == 400
        assert json.loads(body)["error"].endswith(f"that is not ready: {WHY}")
        index = {e["name"]: e for e in json.loads(post(port, "/v2/repository/index")[2])}
        assert index["lost"]["state"] == "UNAVAILABLE"
        assert index["lost"]["reason"] == WHY
        assert index["vision"]["state"] == "READY"
        only = json.loads(post(port, "/v2/repository/index", b'{"ready": true}')[2])
        assert "lost" not in [entry["name"] for entry in only]
        metrics = ask(port, "GET", "/metrics")[2].decode()
        assert 'request_failure_total{deployment="lost",reason="REJECTED"} 1' in metrics
        assert post(port, "/v2/models/nowhere/infer", BODY)[0] == 404


def test_over_grpc_it_is_unavailable_and_not_serving(served: tuple[ServedDatabase, Any]) -> None:
    grpc = pytest.importorskip("grpc")
    triton = pytest.importorskip("tritonclient.grpc")
    from sommelier.runtime.server.grpc_server import start_grpc

    _, service = served
    server = start_grpc(service, "127.0.0.1", 0)
    try:
        client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
        assert client.is_model_ready("vision")
        assert not client.is_model_ready("lost")
        with pytest.raises(triton.InferenceServerException, match=WHY) as refused:
            client.infer("lost", triton_inputs({"x": np.ones((1, 4), np.float32)}))
        assert str(grpc.StatusCode.UNAVAILABLE) == refused.value.status()
        client.close()
    finally:
        server.stop()


def test_the_person_who_starts_it_is_told(
    served: tuple[ServedDatabase, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    _, service = served
    console = Console(color="never")
    where = Listening("127.0.0.1", 8000, None)
    serving._tell(console, ServerSettings(), where, service, pages=False)
    serving._tell_when_ready(console, service)
    said = capsys.readouterr().err
    assert said.count(f"lost is not served: {WHY}") == 1
    assert "cannot be served" not in said
    assert "2 ready after" in said


def test_what_cannot_be_served_is_looked_at_again_when_the_database_changes(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is served once it can be, left out when it cannot be from the beginning, forgotten once
    it is undeployed; what was served already goes on."""
    path = database.parent / "changed.sommelier"
    with sm.connect(path) as db:
        db.execute(f"IMPORT MODELS FROM folder '{database.parent}/*.onnx'")
        db.execute("DEPLOY MODEL a AS vision")
        db.execute("CREATE POOL two AS SELECT MODELS")
        db.execute("DEPLOY POOL two AS lost")
        db.execute("DROP POOL two")
        asked = wanted(path)
        runs = ServedDatabase(asked)

        def after(*statements: str) -> Any:
            for statement in statements:
                db.execute(statement)
            return plan(asked)

        service = runs.start(after())
        with caplog.at_level(logging.WARNING, logger="sommelier"):
            runs.follow(after("ALTER MODEL a ADD TAG 'x'"))
        assert "lost" not in caplog.text, "it was told at the start"
        runs.follow(after("CREATE POOL two AS SELECT MODELS"))
        assert (set(service.names), service.left_out) == ({"vision", "lost"}, ())
        runs.follow(after("CREATE POOL three AS SELECT MODELS", "DROP POOL two"))
        assert set(service.names) == {"vision", "lost"}, "it was served, and stays as it was"
        with caplog.at_level(logging.WARNING, logger="sommelier"):
            runs.follow(after("DEPLOY POOL three AS new", "DROP POOL three"))
        assert "deployment new is not served: there is no pool 'three'" in caplog.text
        with pytest.raises(ProtocolError, match="no pool 'three'") as refused:
            service.expect("new")
        assert refused.value.status == 503
        runs.follow(after("UNDEPLOY new"))
        with pytest.raises(ProtocolError) as unknown:
            service.expect("new")
        assert unknown.value.status == 404
        runs.close()


def test_who_names_it_or_has_no_other_gets_no_server(database: Path, tmp_path: Path) -> None:
    for names in (("lost",), ("vision", "lost")):
        asked = wanted(database, *names)
        with pytest.raises(SommelierError, match="'lost' cannot be served: there is no pool 'two'"):
            ServedDatabase(asked).start(plan(asked))
    asked = wanted(database, "nope")
    with pytest.raises(UnknownNameError, match="there is no deployment 'nope'") as unknown:
        ServedDatabase(asked).start(plan(asked))
    assert unknown.value.hint == "there is gone, lost, vision"
    asked = wanted(database, models=("nope",))
    with pytest.raises(UnknownNameError, match="there is no model 'nope'") as unknown:
        ServedDatabase(asked).start(plan(asked))
    assert unknown.value.hint == "there is a"


def test_where_none_can_be_served_there_is_no_server_and_each_says_why(tmp_path: Path) -> None:
    tiny_classifier(tmp_path / "a.onnx")
    path = tmp_path / "zoo.sommelier"
    with sm.connect(path) as db:
        db.execute(f"IMPORT MODELS FROM folder '{tmp_path}/*.onnx'")
        for pool, name in (("two", "lost"), ("three", "gone")):
            db.execute(f"CREATE POOL {pool} AS SELECT MODELS")
            db.execute(f"DEPLOY POOL {pool} AS {name}")
        db.execute("DROP POOL two")
        db.execute("DROP POOL three")
        asked = wanted(path)
        with pytest.raises(SommelierError, match="none of the deployments can be served") as none:
            ServedDatabase(asked).start(plan(asked))
        assert none.value.hint == f"gone: there is no pool 'three'; lost: {WHY}"
        db.execute("UNDEPLOY gone")
        with pytest.raises(SommelierError, match="'lost' cannot be served: there is no pool 'two'"):
            ServedDatabase(asked).start(plan(asked))


def test_a_deployment_that_fails_when_it_begins_is_left_out(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = ServedDatabase._begin

    def failing(self: ServedDatabase, name: str, found: Any) -> None:
        if name == "gone":
            raise SommelierError("its policy is unknown")
        begin(self, name, found)

    monkeypatch.setattr(ServedDatabase, "_begin", failing)
    asked = wanted(database)
    runs = ServedDatabase(asked)
    service = runs.start(plan(asked))
    assert service.names == ("vision",)
    assert {out.name: out.reason for out in service.left_out} == {
        "lost": WHY, "gone": "its policy is unknown",
    }  # fmt: skip
    runs.close()


def test_the_options_that_name_deployments_are_those_that_refuse() -> None:
    options: Namespace = serving._parser().parse_args(["zoo.sommelier"])
    assert serving._Serving(options)._wanted.everything
    options = serving._parser().parse_args(["zoo.sommelier", "--deployment", "lost"])
    assert not serving._Serving(options)._wanted.everything
