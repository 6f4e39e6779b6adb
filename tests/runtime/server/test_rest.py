"""The protocol over HTTP: golden replies, tensors in every form, and what is refused."""

from __future__ import annotations

import gzip
import json
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from sommelier.runtime.server.http_messages import Limits
from sommelier.runtime.server.service import ModelService
from tests.runtime.server.asking import ask, post, rest_server, wait_until

INFER = "/v2/models/mlp/infer"
X = np.array([[1, 2, 3, 4], [-1, 0.5, 0, 2]], np.float32)
TENSOR = {"name": "x", "datatype": "FP32", "shape": [2, 4]}


def get(port: int, path: str) -> tuple[int, Any]:
    status, headers, body = ask(port, "GET", path)
    assert headers["content-type"] == "application/json"
    return status, json.loads(body)


def infer(port: int, asked: object, **headers: str) -> tuple[int, dict[str, Any]]:
    body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    status, _, answer = post(port, headers.pop("path", INFER), body, **headers)
    return status, json.loads(answer)


def logits(service: ModelService, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What the model says when it is asked without a server."""
    with service.pool.lease("mlp") as predictor:
        return predictor.run(predictor.check({"x": x}))["logits"]


def binary(head: dict[str, Any], *tensors: bytes) -> tuple[bytes, dict[str, str]]:
    text = json.dumps(head).encode()
    return b"".join([text, *tensors]), {"Inference_Header_Content_Length": str(len(text))}


# ---- golden replies


def test_the_server_describes_itself(port: int) -> None:
    status, told = get(port, "/v2")
    assert (status, told["name"]) == (200, "sommelier")
    assert "binary_tensor_data" in told["extensions"]


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready"])
def test_health_is_200_with_what_kserves_client_reads(port: int, path: str) -> None:
    assert get(port, path) == (200, {"ready": True, "live": True}) or path.endswith("live")
    assert get(port, path)[1]["live"] is True


@pytest.mark.parametrize("path", ["/v2/models/mlp", "/v2/models/mlp/versions/1"])
def test_a_model_describes_its_tensors(port: int, path: str) -> None:
    assert get(port, path) == (
        200,
        {
            "name": "mlp",
            "versions": ["1"],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
            "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}],
        },
    )


@pytest.mark.parametrize(
    ("method", "path", "status", "told"),
    [
        ("GET", "/v2/models/nope", 404, "Request for unknown model: 'nope' is not found"),
        ("POST", "/v2/models/nope/infer", 404, "Request for unknown model: 'nope' is not found"),
        ("GET", "/v2/models/nope/ready", 404, "Request for unknown model: 'nope' is not found"),
        (
            "GET",
            "/v2/models/mlp/versions/9",
            404,
            "Request for unknown model: 'mlp' version 9 is not found",
        ),
        ("GET", "/v2/models/mlpp", 404, "did you mean 'mlp'?"),
        ("GET", "/nowhere", 404, "Not Found"),
        ("GET", "/v2/models/mlp/nowhere", 404, "Not Found"),
        ("GET", INFER, 405, "takes POST"),
        ("DELETE", "/v2", 405, "takes GET"),
        ("POST", "/v2/repository/models/nope/load", 404, "'nope' is not found"),
    ],
)
def test_what_is_not_there_is_told_as_triton_does(
    port: int, method: str, path: str, status: int, told: str
) -> None:
    found, _, body = ask(port, method, path, b"{}" if method == "POST" else b"")
    assert found == status
    assert told in json.loads(body)["error"]


def test_a_header_length_beyond_the_body_is_told_as_triton_does(port: int) -> None:
    body = b" " * 12468
    status, told = infer(port, body, Inference_Header_Content_Length="99999")
    assert status == 400
    assert told["error"] == "inference header size should be in range (0, 12468), got: 99999"


# ---- inference


def test_json_is_answered_with_the_models_numbers(port: int, service: ModelService) -> None:
    for data in (X.tolist(), X.ravel().tolist()):
        status, told = infer(port, {"id": "seven", "inputs": [{**TENSOR, "data": data}]})
        assert status == 200
        assert (told["model_name"], told["model_version"], told["id"]) == ("mlp", "1", "seven")
        (output,) = told["outputs"]
        assert {k: output[k] for k in ("name", "datatype", "shape")} == {
            "name": "logits",
            "datatype": "FP32",
            "shape": [2, 3],
        }
        got = np.array(output["data"], np.float32).reshape(2, 3)
        np.testing.assert_array_equal(got, logits(service, X))


def test_every_answer_says_which_model_and_why(port: int) -> None:
    _, told = infer(port, {"inputs": [{**TENSOR, "data": X.tolist()}]})
    parameters = told["parameters"]
    assert parameters["sommelier_model"] == "mlp"
    assert parameters["sommelier_reason"]
    assert parameters["sommelier_queue_ms"] >= 0
    assert parameters["sommelier_infer_ms"] > 0


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
def test_tensors_travel_in_all_forms(
    port: int, service: ModelService, named: bool, binary_in: bool, binary_out: bool
) -> None:
    given = (
        {**TENSOR, "parameters": {"binary_data_size": 32}}
        if binary_in
        else {**TENSOR, "data": X.ravel().tolist()}
    )
    head: dict[str, Any] = {"inputs": [given]}
    if named:
        head["outputs"] = [{"name": "logits", "parameters": {"binary_data": binary_out}}]
    else:
        head["parameters"] = {"binary_data_output": binary_out}
    body, headers = binary(head, X.tobytes()) if binary_in else (json.dumps(head).encode(), {})
    status, told, answer = post(port, INFER, body, **headers)
    assert status == 200
    if binary_out:
        length = int(told["inference-header-content-length"])
        assert told["content-type"] == "application/octet-stream"
        (output,) = json.loads(answer[:length])["outputs"]
        assert output["parameters"] == {"binary_data_size": 24}
        got = np.frombuffer(answer[length:], np.float32).reshape(output["shape"])
    else:
        assert "inference-header-content-length" not in told
        (output,) = json.loads(answer)["outputs"]
        got = np.array(output["data"], np.float32).reshape(output["shape"])
    np.testing.assert_array_equal(got, logits(service, X))


def test_a_raw_request_is_a_batch_of_one_and_answered_raw(port: int, service: ModelService) -> None:
    status, told, answer = post(port, INFER, X[:1].tobytes(), Inference_Header_Content_Length="0")
    assert status == 200
    got = np.frombuffer(answer[int(told["inference-header-content-length"]) :], np.float32)
    np.testing.assert_array_equal(got, logits(service, X[:1])[0])


def test_only_the_outputs_that_are_named_come_in_their_order(port: int) -> None:
    image = {"name": "image", "datatype": "FP32", "shape": [1, 3, 8, 8], "data": [0.5] * 192}
    for names in (["boxes"], ["scores"], ["boxes", "scores"], []):
        asked = {"inputs": [image], "outputs": [{"name": name} for name in names]}
        status, told = infer(port, asked, path="/v2/models/detector/infer")
        assert status == 200
        wanted = names or ["scores", "boxes"]
        assert [output["name"] for output in told["outputs"]] == wanted


@pytest.mark.parametrize("in_binary", [False, True])
def test_texts_travel_as_bytes(port: int, in_binary: bool) -> None:
    texts = ["", "zwölf", "日本\n"]
    given: dict[str, Any] = {"name": "text", "datatype": "BYTES", "shape": [3]}
    raw = b"".join(len(t.encode()).to_bytes(4, "little") + t.encode() for t in texts)
    if in_binary:
        given["parameters"] = {"binary_data_size": len(raw)}
        head = {"inputs": [given], "parameters": {"binary_data_output": True}}
        body, headers = binary(head, raw)
        _, told, answer = post(port, "/v2/models/texts/infer", body, **headers)
        assert answer[int(told["inference-header-content-length"]) :] == raw
    else:
        asked = {"inputs": [{**given, "data": texts}]}
        _, found = infer(port, asked, path="/v2/models/texts/infer")
        assert found["outputs"][0]["data"] == texts


def test_bf16_is_taken_as_binary_for_float_inputs(port: int, service: ModelService) -> None:
    head = {"inputs": [{**TENSOR, "datatype": "BF16", "parameters": {"binary_data_size": 16}}]}
    body, headers = binary(head, X.view(np.uint32).__rshift__(16).astype("<u2").tobytes())
    status, told = infer(port, body, **headers)
    assert status == 200
    got = np.array(told["outputs"][0]["data"], np.float32).reshape(2, 3)
    np.testing.assert_array_equal(got, logits(service, X))  # X is exact in 8 bits of mantissa


def test_numbers_that_json_lacks_become_null(port: int) -> None:
    asked = {"inputs": [{**TENSOR, "data": [None] * 8}]}
    status, told = infer(port, asked)
    assert status == 200
    assert told["outputs"][0]["data"] == [None] * 6


# ---- what is refused


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (b"", "failed to parse"),
        (b"{", "failed to parse"),
        (b"[" * 100_000, "failed to parse"),
        (b'{"inputs":' + b"[" * 900 + b"]" * 900 + b"}", "list of objects"),
        (b"\xff\xfe", "failed to parse"),
        (b"[1]", "no JSON object"),
        (b"null", "no JSON object"),
        ({}, "no inputs"),
        ({"inputs": {}}, "list of objects"),
        ({"inputs": [1]}, "list of objects"),
        ({"inputs": [{}]}, "no name"),
        ({"inputs": [{"name": 7}]}, "no name"),
        ({"inputs": [{"name": "x"}]}, "no shape"),
        ({"inputs": [{"name": "x", "shape": [2, 4]}]}, "no datatype"),
        ({"inputs": [TENSOR]}, "no data"),
        ({"inputs": [{**TENSOR, "data": [1.0]}]}, "takes 8 values, got 1"),
        ({"inputs": [{**TENSOR, "datatype": "INT32", "data": [1] * 8}]}, "float32"),
        ({"inputs": [{**TENSOR, "name": "y", "data": [1] * 8}]}, "no input 'y'"),
        ({"inputs": [{**TENSOR, "shape": [4, 2], "data": [1] * 8}]}, "shape"),
        ({"inputs": [{**TENSOR, "shape": [2**40, 4], "data": [1] * 8}]}, "takes"),
        ({"inputs": [{**TENSOR, "shape": [0, 2**62, 2**62], "data": []}]}, "absurd shape"),
        ({"inputs": [{**TENSOR, "data": ["1.5"] * 8}]}, "no numbers"),
        ({"inputs": [{**TENSOR, "data": [True] * 8}]}, "no numbers"),
        ({"inputs": [{**TENSOR, "data": [1e39] * 8}]}, "too large"),
        ({"inputs": [{**TENSOR, "data": [1] * 8}] * 2}, "twice"),
        ({"inputs": [{**TENSOR, "shape": [9, 4], "data": [1] * 36}]}, "at most 8"),
        ({"inputs": [{**TENSOR, "parameters": {"binary_data_size": 32}}]}, "0 are there"),
        ({"inputs": [{**TENSOR, "parameters": {"binary_data_size": -1}}]}, "0 are there"),
        ({"inputs": [{**TENSOR, "parameters": [1]}]}, "no object"),
        ({"inputs": [{**TENSOR, "data": [1] * 8}], "outputs": [{"name": "y"}]}, "no output 'y'"),
        ({"inputs": [{**TENSOR, "data": [1] * 8}], "id": 7}, "a text"),
        (
            {"inputs": [{**TENSOR, "data": [1] * 8}], "parameters": {"timeout": "soon"}},
            "timeout is soon",
        ),
        ({"inputs": [{**TENSOR, "data": [1] * 8}], "parameters": {"priority": -1}}, "priority"),
        ({"inputs": [{**TENSOR, "data": [1] * 8}], "parameters": {"sequence_id": 3}}, "sequences"),
        (
            {"inputs": [{**TENSOR, "data": [1] * 8}], "parameters": {"sommelier_deadline": 3}},
            "sommelier_deadline_ms",
        ),
        (
            {"inputs": [{**TENSOR, "data": [1] * 8}], "parameters": {"sommelier_min_accuracy": 2}},
            "from 0 to 1",
        ),
        ({"inputs": [{**TENSOR, "data": [1] * 8}], "parameters": {"a": {"b": 1}}}, "single value"),
    ],
)
def test_a_malformed_request_is_the_clients_fault(port: int, asked: object, told: str) -> None:
    status, found = infer(port, asked)
    assert (status, told in found["error"]) == (400, True), found


@pytest.mark.parametrize("cut", [1, 5, 31])
def test_binary_data_that_is_too_short_or_long_is_refused(port: int, cut: int) -> None:
    head = {"inputs": [{**TENSOR, "parameters": {"binary_data_size": 32}}]}
    for raw in (X.tobytes()[:cut], X.tobytes() + b"x" * cut):
        body, headers = binary(head, raw)
        assert infer(port, body, **headers)[0] == 400


@pytest.mark.parametrize("length", ["-1", "abc", "", "1e3", "0x10", "9" * 400])
def test_header_lengths_that_are_no_numbers_are_refused(port: int, length: str) -> None:
    status, told = infer(port, b"{}", Inference_Header_Content_Length=length)
    assert (status, "error" in told) == (400, True)


def endless(**parameters: object) -> bytes:
    """A request that is answered when somebody ends it."""
    return json.dumps(
        {
            "inputs": [
                {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]},
                {"name": "trips", "datatype": "INT64", "shape": [], "data": [2**60]},
            ],
            "parameters": parameters,
        }
    ).encode()


@contextmanager
def standing_still(port: int, service: ModelService) -> Iterator[None]:
    """`slow` runs for a client that goes away at the end of the block. It comes first also when it
    is asked again, in a thread, because it took the event loop too long."""
    body = endless(priority=1)
    head = f"POST /v2/models/slow/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    (slow,) = [d for d in service.deployments if d.name == "slow"]
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(head.encode() + body)
        wait_until(lambda: slow.state().running == 1)
        yield
    wait_until(lambda: slow.state().running == 0)


def test_who_gives_up_ends_the_inference(port: int, service: ModelService) -> None:
    def failures() -> int:
        (stats,) = service.statistics("slow")["model_stats"]
        return stats["inference_stats"]["fail"]["count"]

    before = failures()
    with standing_still(port, service):
        assert failures() == before
    wait_until(lambda: failures() == before + 1)


def test_a_deadline_that_passes_while_a_request_waits_is_504(
    port: int, service: ModelService
) -> None:
    with standing_still(port, service):
        # a second, for runs that others ended have taught how long the model takes at least
        for wish in ({"timeout": 10**6}, {"sommelier_deadline_ms": 1000, "timeout": 10**9}):
            started = time.monotonic()
            status, told = infer(port, endless(**wish), path="/v2/models/slow/infer")
            assert (status, time.monotonic() - started < 5) == (504, True), told


def test_a_deadline_that_passes_while_a_model_runs_is_504_and_ends_the_run(
    port: int, service: ModelService
) -> None:
    started = time.monotonic()
    # two seconds, for runs that others ended have taught how long the model takes at least
    status, told = infer(port, endless(timeout=2_000_000), path="/v2/models/slow/infer")
    assert (status, time.monotonic() - started < 8) == (504, True), told
    running = next(found for found in service.deployments if found.name == "slow")
    wait_until(lambda: running.state().running == 0)


def test_a_deadline_in_a_thousand_years_is_none(port: int) -> None:
    for timeout in (0, 2**63 - 1, 1e30):
        asked = {"inputs": [{**TENSOR, "data": X.tolist()}], "parameters": {"timeout": timeout}}
        assert infer(port, asked)[0] == 200


# ---- compression


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw deflate"])
def test_compressed_requests_are_read(port: int, service: ModelService, encoding: str) -> None:
    body = json.dumps({"inputs": [{**TENSOR, "data": X.tolist()}]}).encode()
    raw = zlib.compressobj(wbits=-15)
    packed = {
        "gzip": gzip.compress(body),
        "deflate": zlib.compress(body),
        "raw deflate": raw.compress(body) + raw.flush(),
    }[encoding]
    status, told = infer(port, packed, Content_Encoding=encoding.split()[-1])
    assert status == 200
    got = np.array(told["outputs"][0]["data"], np.float32).reshape(2, 3)
    np.testing.assert_array_equal(got, logits(service, X))


def test_large_answers_are_compressed_for_who_asks(port: int) -> None:
    asked = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["x" * 5000]}]}
    body = json.dumps(asked).encode()
    path = "/v2/models/texts/infer"
    _, told, answer = post(port, path, body, Accept_Encoding="deflate, gzip")
    assert told["content-encoding"] == "gzip"
    assert json.loads(gzip.decompress(answer))["outputs"][0]["data"] == ["x" * 5000]
    _, told, answer = post(port, path, body, Accept_Encoding="gzip;q=0")
    assert "content-encoding" not in told


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_is_refused_before_it_is_unpacked(service: ModelService, encoding: str) -> None:
    pack = gzip.compress if encoding == "gzip" else zlib.compress
    bomb = pack(bytes(64 << 20))
    assert len(bomb) < 100_000
    with rest_server(service, Limits(body=1 << 20)) as port:
        status, told = infer(port, bomb, Content_Encoding=encoding)
        assert (status, "1048576 bytes" in told["error"]) == (413, True)
        assert get(port, "/v2")[0] == 200


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("br", b"abc", 415),
        ("gzip", b"abc", 400),
        ("gzip", gzip.compress(b"{}")[:-4], 400),
        ("gzip", gzip.compress(b"{}") + b"more", 400),
        ("gzip", b"", 400),
        ("deflate", b"\x78\x9c\xff\xff", 400),
    ],
    ids=["unknown", "not gzip", "cut off", "more behind it", "empty", "not deflate"],
)
def test_damaged_compression_is_refused(port: int, encoding: str, body: bytes, status: int) -> None:
    assert infer(port, body, Content_Encoding=encoding)[0] == status


def test_json_larger_than_is_read_is_refused(port: int) -> None:
    assert infer(port, b'{"a": "' + b"x" * (17 << 20) + b'"}')[0] == 413


# ---- the rest


def test_the_repository_lists_loads_and_unloads(port: int) -> None:
    def index(**asked: bool) -> dict[str, str]:
        _, _, body = post(port, "/v2/repository/index", json.dumps(asked).encode())
        return {entry["name"]: entry["state"] for entry in json.loads(body)}

    assert index() == dict.fromkeys(["mlp", "texts", "detector", "slow"], "READY")
    assert post(port, "/v2/repository/models/mlp/unload")[0] == 200
    try:
        assert index()["mlp"] == "UNAVAILABLE"
        assert "mlp" not in index(ready=True)
        assert get(port, "/v2/models/mlp/ready") == (400, {"name": "mlp", "ready": False})
        status, told = infer(port, {"inputs": [{**TENSOR, "data": X.tolist()}]})
        assert (status, "not ready" in told["error"]) == (400, True)
        assert get(port, "/v2/health/ready")[0] == 200
    finally:
        assert post(port, "/v2/repository/models/mlp/load")[0] == 200
    assert get(port, "/v2/models/mlp/ready") == (200, {"name": "mlp", "ready": True})
    assert infer(port, {"inputs": [{**TENSOR, "data": X.tolist()}]})[0] == 200
    config = b'{"parameters": {"config": "{}"}}'
    assert post(port, "/v2/repository/models/mlp/load", config)[0] == 400


def test_statistics_count_what_was_answered(port: int) -> None:
    def counts() -> dict[str, Any]:
        (stats,) = get(port, "/v2/models/mlp/stats")[1]["model_stats"]
        return stats

    before = counts()
    assert infer(port, {"inputs": [{**TENSOR, "data": X.tolist()}]})[0] == 200
    assert infer(port, {"inputs": [{**TENSOR, "name": "y", "data": X.tolist()}]})[0] == 400
    after = counts()
    assert after["inference_count"] - before["inference_count"] == 2, "samples"
    assert after["execution_count"] - before["execution_count"] == 1
    for phase, more in {"success": 1, "fail": 1, "queue": 1, "compute_infer": 1}.items():
        phases = after["inference_stats"][phase], before["inference_stats"][phase]
        assert phases[0]["count"] - phases[1]["count"] == more, phase
    assert after["inference_stats"]["success"]["ns"] > before["inference_stats"]["success"]["ns"]
    assert abs(after["last_inference"] / 1e3 - time.time()) < 60
    names = [stats["name"] for stats in get(port, "/v2/models/stats")[1]["model_stats"]]
    assert names == ["mlp", "texts", "detector", "slow"]


def test_metrics_are_prometheus_text(port: int) -> None:
    infer(port, {"inputs": [{**TENSOR, "data": X.tolist()}]})
    status, headers, body = ask(port, "GET", "/metrics")
    assert (status, headers["content-type"].startswith("text/plain")) == (200, True)
    assert b'deployment="mlp"' in body or b'"mlp"' in body
