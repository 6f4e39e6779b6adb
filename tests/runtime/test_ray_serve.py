"""Replicas on a Ray cluster of two nodes, which is made on this machine, answer as one server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import sommelier as sm
from sommelier.connection.scale_out import ray_application, served
from sommelier.runtime.ray_serve import Replica, Scale
from sommelier.runtime.server.http_messages import Limits
from sommelier.runtime.server.protocol import InferRequest, ProtocolError
from tests.deployed import deployed_mlp

HOST = "127.0.0.1"
PREFIX = "/my-models"
KEY = {"Authorization": "Bearer of-the-test"}
MOST = 1 << 20  # bytes of a body
PATIENCE_S = 60.0
X = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return deployed_mlp(tmp_path_factory.mktemp("zoo") / "models.sommelier")


@pytest.fixture(scope="module")
def answers(database: Path) -> Any:
    session = onnxruntime.InferenceSession(str(database.parent / "mlp.onnx"))
    return session.run(None, {"x": X})[0]


def test_what_a_replica_serves_comes_from_the_database(database: Path, answers: Any) -> None:
    with served(database, ()) as service, served(database, ("vision",)) as other:
        assert service.names == other.names == ("vision",)
        for one in (service, other):
            found = one.infer(InferRequest("vision", {"x": X}))
            assert np.array_equal(found.outputs["logits"], answers)


def test_a_replica_answers_http_and_values_and_finishes_what_it_took(
    database: Path, answers: Any
) -> None:
    requests = pytest.importorskip("starlette.requests")

    async def ask(replica: Replica, method: str, path: str, body: bytes = b"") -> Any:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(),
                 "headers": [], "query_string": b""}  # fmt: skip
        return await replica(requests.Request(scope, receive))

    async def run() -> None:
        replica = Replica(partial(served, database, ()), 10.0)
        replica.check_health()
        said = await ask(
            replica, "POST", "/v2/models/vision/infer", json.dumps(_request()).encode()
        )
        assert (said.status_code, said.media_type) == (200, "application/json")
        found = np.array(json.loads(said.body)["outputs"][0]["data"]).reshape(answers.shape)
        np.testing.assert_allclose(found, answers, rtol=1e-6)
        assert (await ask(replica, "GET", "/v2/models/nope")).status_code == 404
        assert (await ask(replica, "GET", "/metrics")).status_code == 200
        value = await replica.infer(InferRequest("vision", {"x": X}))
        assert np.array_equal(value.outputs["logits"], answers)
        replica.__del__()
        with pytest.raises(ProtocolError, match="shutting down"):
            await replica.infer(InferRequest("vision", {"x": X}))

    asyncio.run(run())


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    pytest.importorskip("ray.serve")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_raylet_start_wait_time_s", "240")  # a machine with other things to do
        import ray
        from ray.cluster_utils import Cluster

        head = {**_node(), "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        cluster.add_node(**_node())
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def port(cluster: Any, database: Path) -> Iterator[int]:
    from ray import serve

    port = 18_765
    serve.start(http_options={"host": HOST, "port": port})
    keys = database.with_name("keys")
    keys.write_text(KEY["Authorization"].removeprefix("Bearer "))
    scale = Scale(replicas=2, limits=Limits(body=MOST))
    application = ray_application(database, ("vision",), scale, api_key_file=keys)
    serve.run(application, route_prefix=PREFIX)
    until = time.monotonic() + PATIENCE_S
    while _ask(port, "GET", "/v2/health/live")[0] == 404 and time.monotonic() < until:
        time.sleep(0.1)  # the proxy is told of routes after the application is called ready
    yield port
    serve.shutdown()


@pytest.mark.slow
def test_http_speaks_the_open_protocol(port: int, answers: Any) -> None:
    status, told = _ask(port, "GET", "/v2/models/vision")
    assert status == 200, told
    assert told["inputs"][0]["name"] == "x"
    status, told = _ask(port, "POST", "/v2/models/vision/infer", _request())
    assert status == 200
    found = np.array(told["outputs"][0]["data"]).reshape(answers.shape)
    np.testing.assert_allclose(found, answers, rtol=1e-6)
    assert told["parameters"]["sommelier_model"] == "mlp"
    assert _ask(port, "GET", "/v2/models/nope")[0] == 404
    assert _ask(port, "POST", "/v2/models/vision/infer", {"inputs": []})[0] == 400


@pytest.mark.slow
def test_keys_and_the_limit_on_bodies_hold_behind_the_proxy(port: int) -> None:
    path = "/v2/models/vision/infer"
    assert _ask(port, "POST", path, _request(), key={})[0] == 401
    assert _ask(port, "POST", path, _request(), key={"X-API-Key": "another"})[0] == 401
    assert _ask(port, "GET", "/v2/health/ready", key={})[0] == 200
    large = b" " * (2 * MOST)
    assert _ask(port, "POST", path, large)[0] == 413
    assert _ask(port, "POST", path, iter([large[:MOST]] * 2))[0] == 413, "in chunks"
    assert _ask(port, "POST", path, _request())[0] == 200


@pytest.mark.slow
def test_handles_take_values(port: int, answers: Any) -> None:
    from ray import serve

    handle = serve.get_app_handle("default")
    found = handle.infer.remote(InferRequest("vision", {"x": X}, id="7")).result(timeout_s=60)
    assert found.id == "7"
    assert np.array_equal(found.outputs["logits"], answers)


@pytest.mark.slow
def test_each_node_has_a_replica_and_one_is_enough(cluster: Any, port: int) -> None:
    nodes = _replica_nodes()
    assert len(nodes) == 2, "one CPU each, so they cannot share a node"
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    until = time.monotonic() + PATIENCE_S
    good = 0
    while good < 10 and time.monotonic() < until:  # the proxy has to notice
        try:
            status, _ = _ask(port, "POST", "/v2/models/vision/infer", _request())
        except (OSError, HTTPException):  # the proxy of the node that died had the connection
            status = 0
        good = good + 1 if status == 200 else 0
    assert good == 10


@pytest.mark.slow
def test_what_is_left_of_figures_is_kept_when_replicas_end(port: int, database: Path) -> None:
    from ray import serve

    before = _kept(database)
    for _ in range(5):
        assert _ask(port, "POST", "/v2/models/vision/infer", _request())[0] == 200
    serve.delete("default")
    until = time.monotonic() + PATIENCE_S
    while _kept(database) < before + 5:
        assert time.monotonic() < until
        time.sleep(0.5)


def _kept(database: Path) -> int:
    """Requests whose figures are in the database."""
    with sm.connect(database, read_only=True) as db:
        return sum(figure.requests for figure in db.catalog.served("vision"))


def _node() -> dict[str, Any]:
    """A node of one CPU. Its address is Ray's choice: nodes that are told 127.0.0.1 listen there
    alone, and `ray.init` then waits in vain for the machine's other address."""
    return {"num_cpus": 1, "object_store_memory": 80 * 2**20}


def _request() -> dict[str, Any]:
    given = {"name": "x", "shape": [2, 4], "datatype": "FP32", "data": X.ravel().tolist()}
    return {"inputs": [given]}


def _ask(
    port: int, method: str, path: str, body: Any = None, *, key: dict[str, str] | None = None
) -> tuple[int, Any]:
    """(status, answer). body : a dict is sent as JSON, an iterator in chunks. key : of the test."""
    connection = HTTPConnection(HOST, port, timeout=60)
    if isinstance(body, dict):
        body = json.dumps(body)
    try:
        connection.request(method, PREFIX + path, body, KEY if key is None else key)
        answer = connection.getresponse()
        told = answer.read()
    finally:
        connection.close()
    return answer.status, json.loads(told) if told.startswith(b"{") else told


def _replica_nodes() -> set[str]:
    """Nodes on which a replica lives."""
    from ray._private.state import actors

    return {
        actor["Address"]["NodeID"]
        for actor in actors().values()
        if actor["ActorClassName"].startswith("ServeReplica:") and actor["State"] == "ALIVE"
    }
