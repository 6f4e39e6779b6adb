"""The protocol over gRPC, asked by Triton's own client, over real models."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from sommelier.deployment_records import DeploymentOptions
from sommelier.errors import StorageError
from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.pool import ModelPool
from sommelier.runtime.server.grpc_server import GrpcServer, GrpcSettings, start_grpc
from sommelier.runtime.server.grpc_tensors import CONTENTS, infer_response
from sommelier.runtime.server.messages import HEALTH, INFERENCE, message, methods
from sommelier.runtime.server.protocol import InferResponse
from sommelier.runtime.server.served import single_model
from sommelier.runtime.server.service import ModelService
from sommelier.runtime.session_cache import ServedModel, SessionCache
from sommelier.runtime.sessions import SessionSettings
from tests.factories import loop_model, mlp_classifier
from tests.onnx_writer import save_model

grpc = pytest.importorskip("grpc")
triton = pytest.importorskip("tritonclient.grpc")

Array = NDArray[Any]
FOREVER = 2**60  # trips of the loop
WAIT_S = 60.0
TYPES = {
    "BOOL": TensorProto.BOOL, "INT8": TensorProto.INT8, "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32, "INT64": TensorProto.INT64, "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16, "UINT32": TensorProto.UINT32, "UINT64": TensorProto.UINT64,
    "FP16": TensorProto.FLOAT16, "FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}  # fmt: skip


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """mlp: a classifier. loop: runs as long as its input says. raw, typed: give back what they
    get, of all types and of those that have a field."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "mlp": mlp_classifier(folder / "mlp.onnx", hidden=(8,)),
        "loop": loop_model(folder / "loop.onnx", trips=None),
        "raw": _echo(folder / "raw.onnx", list(TYPES)),
        "typed": _echo(folder / "typed.onnx", [name for name in TYPES if name in CONTENTS]),
    }


def _echo(path: Path, names: list[str]) -> Path:
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in names]
    given: Any = {name: (TYPES[name], ["N"]) for name in names}
    return save_model(path, nodes, given, {f"{name}_out": given[name] for name in names})


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelPool]:
    cache = SessionCache(tmp_path_factory.mktemp("sessions"))
    with ModelPool(cache, SessionSettings(batch=4)) as pool:
        yield pool


@pytest.fixture(scope="module")
def running(pool: ModelPool, paths: dict[str, Path]) -> Iterator[dict[str, RunningDeployment]]:
    options = DeploymentOptions(queue=2, servers=1)
    models = [ServedModel.of_file(path) for path in paths.values()]
    found = {model.name: single_model(model, pool, options) for model in models}
    for deployment in found.values():
        assert deployment.wait_ready(WAIT_S), deployment.state()
    yield found
    for deployment in found.values():
        deployment.close()


@pytest.fixture(scope="module")
def service(pool: ModelPool, running: dict[str, RunningDeployment]) -> ModelService:
    return ModelService(pool, running.values())


@pytest.fixture
def loop(running: dict[str, RunningDeployment]) -> RunningDeployment:
    return running["loop"]


@pytest.fixture(scope="module")
def server(service: ModelService) -> Iterator[GrpcServer]:
    server = start_grpc(service, "127.0.0.1", 0, settings=GrpcSettings(max_message_bytes=1 << 20))
    yield server
    server.stop(0)


@pytest.fixture
def client(server: GrpcServer) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        yield client


def tensor(name: str, values: Array, datatype: str = "FP32") -> Any:
    given = triton.InferInput(name, list(values.shape), datatype)
    given.set_data_from_numpy(values)
    return given


def loops(trips: int) -> list[Any]:
    x = np.ones((1, 4), np.float32)
    return [tensor("x", x), tensor("trips", np.array(trips, np.int64), "INT64")]


def code_of(call: Callable[[], object]) -> str:
    """gRPC's code for a call that fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return str(caught.value.code().name)


def refused(call: Callable[[], object]) -> tuple[str, str]:
    """(code, message) of a call of Triton's client that fails."""
    with pytest.raises(triton.InferenceServerException) as caught:
        call()
    return caught.value.status().removeprefix("StatusCode."), caught.value.message()


def is_free(client: Any) -> bool:
    """Whether the loop's only server takes a request at once."""
    started = time.monotonic()
    client.infer("loop", loops(1), client_timeout=WAIT_S)
    return time.monotonic() - started < 5.0


def test_a_server_tells_what_it_is_and_what_it_serves(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mlp")
    assert client.is_model_ready("mlp", "1")
    assert client.get_server_metadata().name == "sommelier"
    told = client.get_model_metadata("mlp", as_json=True)
    assert told["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "4"]}]
    assert told["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": ["-1", "3"]}]
    index = client.get_model_repository_index().models
    assert {model.name: model.state for model in index} == dict.fromkeys(
        ("mlp", "loop", "raw", "typed"), "READY"
    )


def test_raw_tensors_are_answered_as_onnx_runtime_does(client: Any, paths: dict[str, Path]) -> None:
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    found = client.infer("mlp", [tensor("x", x)], request_id="seven")
    session = onnxruntime.InferenceSession(str(paths["mlp"]))
    assert np.array_equal(found.as_numpy("logits"), session.run(None, {"x": x})[0])
    response = found.get_response()
    assert (response.id, response.model_name, response.model_version) == ("seven", "mlp", "1")
    assert response.parameters["sommelier_model"].string_param == "mlp"
    assert response.parameters["sommelier_reason"].string_param
    assert response.parameters["sommelier_infer_ms"].double_param > 0


def test_every_type_goes_through_a_model_unchanged_when_it_is_raw(client: Any) -> None:
    given = [tensor(name, _two(name), name) for name in TYPES]
    found = client.infer("raw", given)
    for name in TYPES:
        assert np.array_equal(found.as_numpy(f"{name}_out"), _two(name)), name


def test_every_type_that_has_a_field_goes_through_a_model_unchanged(server: GrpcServer) -> None:
    names = [name for name in TYPES if name in CONTENTS]
    sent = InferResponse("typed", "1", "", {name: _two(name) for name in names}, {})
    request = message("ModelInferRequest")(model_name="typed")
    for output in infer_response(sent, typed=True).outputs:
        request.inputs.add().ParseFromString(output.SerializeToString())
    answer = _call(server, "ModelInfer", request)
    assert not answer.raw_output_contents
    found = {output.name: output for output in answer.outputs}
    for given in request.inputs:
        output = found[f"{given.name}_out"]
        assert (output.datatype, output.shape) == (given.datatype, given.shape)
        assert output.contents == given.contents


def test_typed_contents_are_answered_with_typed_contents(server: GrpcServer) -> None:
    request = message("ModelInferRequest")(model_name="mlp")
    given = request.inputs.add(name="x", datatype="FP32", shape=[2, 4])
    given.contents.fp32_contents.extend(range(8))
    answer = _call(server, "ModelInfer", request)
    assert not answer.raw_output_contents
    assert len(answer.outputs[0].contents.fp32_contents) == 6


def test_only_the_outputs_that_were_asked_for_come(client: Any) -> None:
    asked = [triton.InferRequestedOutput(name) for name in ("INT8_out", "BOOL_out")]
    given = [tensor(name, _two(name), name) for name in TYPES]
    found = client.infer("raw", given, outputs=asked).get_response()
    assert [output.name for output in found.outputs] == ["INT8_out", "BOOL_out"]


def test_faults_of_the_client_are_told_as_such(client: Any, server: GrpcServer) -> None:
    wrong = tensor("x", np.ones((1, 5), np.float32))
    good = tensor("x", np.ones((1, 4), np.float32))
    assert refused(lambda: client.infer("nope", [good]))[0] == "NOT_FOUND"
    assert refused(lambda: client.infer("mlp", [good], model_version="9"))[0] == "NOT_FOUND"
    code, told = refused(lambda: client.infer("mlp", [wrong]))
    assert code == "INVALID_ARGUMENT"
    assert "x" in told
    assert "[1, 5]" in told
    asked = [triton.InferRequestedOutput("nope")]
    assert refused(lambda: client.infer("mlp", [good], outputs=asked))[0] == "INVALID_ARGUMENT"
    cut = message("ModelInferRequest")(model_name="mlp", raw_input_contents=[b"\0" * 15])
    cut.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    assert code_of(lambda: _call(server, "ModelInfer", cut)) == "INVALID_ARGUMENT"
    none = message("ModelInferRequest")(model_name="mlp", raw_input_contents=[b""])
    none.inputs.add(name="x", datatype="FP32", shape=[0, 2**62, 2**62])
    assert code_of(lambda: _call(server, "ModelInfer", none)) == "INVALID_ARGUMENT"
    large = tensor("x", np.ones((1 << 17, 4), np.float32))
    assert refused(lambda: client.infer("mlp", [large]))[0] == "RESOURCE_EXHAUSTED"


def test_garbage_is_no_harm(server: GrpcServer, client: Any) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = channel.unary_unary(f"/{INFERENCE}/ModelInfer")
        assert code_of(lambda: call(b"\xff" * 1000, timeout=WAIT_S)) == "INTERNAL"
        call = channel.unary_unary(f"/{INFERENCE}/ModelConfig")
        assert code_of(lambda: call(b"", timeout=WAIT_S)) == "UNIMPLEMENTED"
    assert client.infer("mlp", [tensor("x", np.ones((1, 4), np.float32))])


def test_the_deadline_of_the_call_ends_the_inference(client: Any) -> None:
    code, _ = refused(lambda: client.infer("loop", loops(FOREVER), client_timeout=0.3))
    assert code == "DEADLINE_EXCEEDED"
    assert is_free(client)


def test_a_call_that_is_cancelled_ends_the_inference(client: Any, loop: RunningDeployment) -> None:
    done: Queue[Any] = Queue()
    call = client.async_infer("loop", loops(FOREVER), lambda result, error: done.put(error))
    _until(lambda: loop.state().running == 1)
    call.cancel()
    assert "CANCELLED" in str(done.get(timeout=WAIT_S).status())
    assert is_free(client)


def test_a_timeout_in_the_queue_is_a_deadline_and_a_full_queue_is_exhausted(
    client: Any, loop: RunningDeployment
) -> None:
    done: Queue[Any] = Queue()
    running = client.async_infer("loop", loops(FOREVER), lambda result, error: done.put(error))
    _until(lambda: loop.state().running == 1)
    late: Queue[Any] = Queue()
    for _ in range(2):  # as many as may wait
        client.async_infer(
            "loop", loops(1), lambda result, error: late.put(error), timeout=1_500_000
        )
    _until(lambda: loop.state().waiting == 2)
    assert refused(lambda: client.infer("loop", loops(1)))[0] == "RESOURCE_EXHAUSTED"
    for _ in range(2):
        assert "DEADLINE_EXCEEDED" in late.get(timeout=WAIT_S).status()
    running.cancel()
    assert "CANCELLED" in str(done.get(timeout=WAIT_S).status())
    assert is_free(client)


def test_many_callers_at_the_same_time_get_their_own_answers(
    client: Any, paths: dict[str, Path]
) -> None:
    x = np.random.default_rng(1).normal(size=(64, 4)).astype(np.float32)
    wanted = onnxruntime.InferenceSession(str(paths["mlp"])).run(None, {"x": x})[0]

    def ask(row: int) -> Array:
        while True:  # the queue is short
            try:
                found: Array = client.infer("mlp", [tensor("x", x[row : row + 1])]).as_numpy(
                    "logits"
                )
                return found
            except triton.InferenceServerException as error:
                if "RESOURCE_EXHAUSTED" not in error.status():
                    raise

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(ask, range(len(x))))
    np.testing.assert_allclose(np.concatenate(found), wanted, rtol=1e-5)


def test_a_stream_answers_each_request_and_goes_on_after_a_fault(client: Any) -> None:
    told: Queue[tuple[Any, Any]] = Queue()
    client.start_stream(lambda result, error: told.put((result, error)))
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    found = {}
    for row in range(3):
        client.async_stream_infer("mlp", [tensor("x", x[row : row + 1])], request_id=str(row))
        result, error = told.get(timeout=WAIT_S)
        assert error is None
        found[result.get_response().id] = result.as_numpy("logits")
        client.async_stream_infer("nope", [tensor("x", x)])
        result, error = told.get(timeout=WAIT_S)
        assert result is None
        assert "nope" in error.message()
    client.stop_stream()
    assert set(found) == {"0", "1", "2"}
    assert not np.allclose(found["0"], found["1"])


def test_a_stream_that_is_closed_has_all_its_answers(server: GrpcServer) -> None:
    request = message("ModelInferRequest")(model_name="mlp")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4]).contents.fp32_contents.extend(
        [1] * 4
    )

    def requests() -> Iterator[Any]:
        for i in range(200):
            request.id = str(i)
            yield request

    method = methods(INFERENCE)["ModelStreamInfer"]
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = channel.stream_stream(
            f"/{INFERENCE}/ModelStreamInfer",
            method.request.SerializeToString,
            method.response.FromString,
        )
        answers = list(call(requests(), timeout=WAIT_S))
    assert sorted(int(answer.infer_response.id) for answer in answers) == list(range(200))


def test_a_stream_that_is_cancelled_ends_its_inferences(
    client: Any, loop: RunningDeployment
) -> None:
    client.start_stream(lambda result, error: None)
    client.async_stream_infer("loop", loops(FOREVER))
    _until(lambda: loop.state().running == 1)
    client.stop_stream(cancel_requests=True)
    assert is_free(client)


def test_models_are_unloaded_and_loaded_again(client: Any) -> None:
    x = tensor("x", np.ones((1, 4), np.float32))
    client.unload_model("mlp")
    assert not client.is_model_ready("mlp")
    assert refused(lambda: client.infer("mlp", [x]))[0] == "INVALID_ARGUMENT"
    client.load_model("mlp")
    assert client.is_model_ready("mlp")
    client.infer("mlp", [x])
    assert refused(lambda: client.load_model("nope"))[0] == "NOT_FOUND"


def test_statistics_count_what_was_answered(client: Any) -> None:
    before = client.get_inference_statistics("raw").model_stats[0].inference_stats
    client.infer("raw", [tensor(name, _two(name), name) for name in TYPES])
    after = client.get_inference_statistics("raw").model_stats[0].inference_stats
    assert after.success.count == before.success.count + 1
    assert after.success.ns > before.success.ns
    assert len(client.get_inference_statistics().model_stats) == 4


def test_probes_ask_the_health_service(server: GrpcServer) -> None:
    method = methods(HEALTH)["Check"]
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = channel.unary_unary(
            f"/{HEALTH}/Check", method.request.SerializeToString, method.response.FromString
        )
        assert call(method.request(), timeout=WAIT_S).status == 1
        assert call(method.request(service="mlp"), timeout=WAIT_S).status == 1
        assert code_of(lambda: call(method.request(service="no"), timeout=WAIT_S)) == "NOT_FOUND"


def test_a_key_is_asked_for_but_by_probes(service: ModelService) -> None:
    server = start_grpc(
        service, "127.0.0.1", 0, settings=GrpcSettings(api_keys=frozenset({"sesame", "other"}))
    )
    x = [tensor("x", np.ones((1, 4), np.float32))]
    try:
        with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
            assert client.is_server_live()
            assert refused(lambda: client.infer("mlp", x))[0] == "UNAUTHENTICATED"
            wrong = {"authorization": "Bearer sesam"}
            assert refused(lambda: client.infer("mlp", x, headers=wrong))[0] == "UNAUTHENTICATED"
            assert refused(client.get_server_metadata)[0] == "UNAUTHENTICATED"
            client.infer("mlp", x, headers={"authorization": "Bearer sesame"})
            client.infer("mlp", x, headers={"x-api-key": "other"})
    finally:
        server.stop(0)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_tls_is_spoken_with_a_certificate(service: ModelService, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    tls = (certificate.read_bytes(), key.read_bytes())
    server = start_grpc(service, "127.0.0.1", 0, settings=GrpcSettings(tls=tls))
    credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
    options = [("grpc.ssl_target_name_override", "localhost")]
    try:
        with grpc.secure_channel(f"127.0.0.1:{server.port}", credentials, options) as channel:
            call = channel.unary_unary(f"/{INFERENCE}/ServerLive")
            assert call(b"", timeout=WAIT_S) == b"\x08\x01"
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            call = channel.unary_unary(f"/{INFERENCE}/ServerLive")
            assert code_of(lambda: call(b"", timeout=5.0)) == "UNAVAILABLE"
    finally:
        server.stop(0)


def test_a_port_that_is_taken_is_an_error(service: ModelService, server: GrpcServer) -> None:
    with pytest.raises(StorageError, match=str(server.port)):
        start_grpc(service, "127.0.0.1", server.port)


def test_while_it_drains_it_is_not_ready_answers_and_then_is_unavailable(
    pool: ModelPool, paths: dict[str, Path]
) -> None:
    running = single_model(ServedModel.of_file(paths["mlp"]), pool)
    assert running.wait_ready(WAIT_S)
    service = ModelService(pool, [running])
    server = start_grpc(service, "127.0.0.1", 0)
    x = [tensor("x", np.ones((1, 4), np.float32))]
    try:
        with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
            service.begin_drain()
            assert not client.is_server_ready()
            assert client.is_server_live()
            client.infer("mlp", x)
            service.refuse()
            assert refused(lambda: client.infer("mlp", x))[0] == "UNAVAILABLE"
    finally:
        server.stop(0)
        running.close()


def test_stopping_waits_for_what_was_begun(service: ModelService, loop: RunningDeployment) -> None:
    server = start_grpc(service, "127.0.0.1", 0)
    done: Queue[Any] = Queue()
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        client.async_infer("loop", loops(100_000), lambda result, error: done.put((result, error)))
        _until(lambda: loop.state().running == 1)
        stopping = threading.Thread(target=server.stop, args=(WAIT_S,))
        stopping.start()
        result, error = done.get(timeout=WAIT_S)
        assert error is None
        assert result.as_numpy("y").shape == (1, 4)
        stopping.join(WAIT_S)
        assert not stopping.is_alive()


def _call(server: GrpcServer, name: str, request: Any) -> Any:
    """A call with our own messages, which lets any field be set."""
    method = methods(INFERENCE)[name]
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = channel.unary_unary(
            f"/{INFERENCE}/{name}", method.request.SerializeToString, method.response.FromString
        )
        return call(request, timeout=WAIT_S)


def _two(datatype: str) -> Array:
    """Two values of a type, as Triton's client takes them."""
    if datatype == "BYTES":
        return np.array([b"a", b"bc"], object)
    dtype: Any = triton.triton_to_np_dtype(datatype)
    return np.array([0, 1], dtype)


def _until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)
