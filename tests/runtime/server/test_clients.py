"""The official clients of the protocol are served unchanged: they know it independently of us."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sommelier.runtime.server.service import ModelService

triton = pytest.importorskip("tritonclient.http")
X = np.array([[1, 2, 3, 4], [-1, 0.5, 0, 2]], np.float32)


@pytest.fixture
def client(port: int) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        yield client


def logits(service: ModelService, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with service.pool.lease("mlp") as predictor:
        return predictor.run(predictor.check({"x": x}))["logits"]


def tensor(name: str, values: np.ndarray[Any, Any], *, binary: bool = True) -> Any:
    given = triton.InferInput(name, values.shape, triton.np_to_triton_dtype(values.dtype))
    return given.set_data_from_numpy(values, binary_data=binary) or given


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True, None])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_tritons_client_gets_the_models_numbers(
    client: Any,
    service: ModelService,
    binary_in: bool,
    binary_out: bool | None,
    compression: str | None,
) -> None:
    """binary_out None: no outputs are named."""
    wanted = None
    if binary_out is not None:
        wanted = [triton.InferRequestedOutput("logits", binary_data=binary_out)]
    answer = client.infer(
        "mlp",
        [tensor("x", X, binary=binary_in)],
        outputs=wanted,
        request_id="seven",
        priority=1,
        timeout=10_000_000,
        parameters={"sommelier_deadline_ms": 9_000, "someone_elses": "word"},
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    np.testing.assert_array_equal(answer.as_numpy("logits"), logits(service, X))
    told = answer.get_response()
    assert told["id"] == "seven"
    assert told["parameters"]["sommelier_model"] == "mlp"


def test_tritons_client_reads_health_metadata_index_and_statistics(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mlp")
    assert client.is_model_ready("mlp", "1")
    assert "statistics" in client.get_server_metadata()["extensions"]
    assert client.get_model_metadata("mlp")["inputs"][0]["datatype"] == "FP32"
    assert {entry["name"] for entry in client.get_model_repository_index()} >= {"mlp", "slow"}
    client.infer("mlp", [tensor("x", X)])
    (stats,) = client.get_inference_statistics("mlp")["model_stats"]
    assert stats["inference_stats"]["success"]["count"] >= 1


def test_tritons_client_loads_and_unloads(client: Any) -> None:
    client.unload_model("mlp")
    try:
        assert not client.is_model_ready("mlp")
    finally:
        client.load_model("mlp")
    assert client.is_model_ready("mlp")


@pytest.mark.parametrize("binary", [False, True])
def test_tritons_client_sends_texts(client: Any, binary: bool) -> None:
    texts = np.array(["", "zwölf", "日本"], object)
    given = triton.InferInput("text", [3], "BYTES")
    given.set_data_from_numpy(texts, binary_data=binary)
    answer = client.infer(
        "texts", [given], outputs=[triton.InferRequestedOutput("same", binary_data=binary)]
    )
    got = [t.decode() if isinstance(t, bytes) else t for t in answer.as_numpy("same")]
    assert got == list(texts)


def test_tritons_client_sends_bf16_to_float_inputs(client: Any, service: ModelService) -> None:
    given = triton.InferInput("x", [2, 4], "BF16")
    ml_dtypes = pytest.importorskip("ml_dtypes")
    given.set_data_from_numpy(X.astype(ml_dtypes.bfloat16))
    answer = client.infer("mlp", [given])
    np.testing.assert_array_equal(answer.as_numpy("logits"), logits(service, X))


def test_tritons_client_gets_raw_requests_answered(client: Any, service: ModelService) -> None:
    body = X[:1].tobytes()
    answer = client._post("v2/models/mlp/infer", body, {"Inference-Header-Content-Length": 0}, None)
    size = int(answer.get("Inference-Header-Content-Length"))
    result = client.parse_response_body(answer.read(), header_length=size)
    np.testing.assert_array_equal(result.as_numpy("logits"), logits(service, X[:1]))


def test_tritons_client_is_told_what_is_wrong(client: Any) -> None:
    with pytest.raises(triton.InferenceServerException, match="'nope' is not found") as caught:
        client.infer("nope", [tensor("x", X)])
    assert caught.value.status() == "404"
    with pytest.raises(triton.InferenceServerException, match="int64") as caught:
        client.infer("mlp", [tensor("x", X.astype(np.int64))])
    assert caught.value.status() == "400"


KSERVE_NEEDS = [
    "httpx", "orjson", "grpcio", "protobuf<7", "numpy", "pandas<3", "pyyaml", "fastapi", "psutil",
    "cloudevents<2",
]  # fmt: skip
KSERVE = """
import asyncio, importlib.util, sys, types
package = types.ModuleType("kserve")  # its __init__ asks for Kubernetes, which no client needs
package.__path__ = importlib.util.find_spec("kserve").submodule_search_locations
sys.modules["kserve"] = package
import numpy as np
from kserve.inference_client import InferenceRESTClient, RESTConfig
from kserve.protocol.infer_type import InferInput, InferOutput, InferRequest, RequestedOutput

async def main(url):
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=30))
    assert await client.is_server_live(url) is True
    assert await client.is_server_ready(url) is True
    assert await client.is_model_ready(url, "mlp") is True
    x = np.array([[1, 2, 3, 4]], np.float32)
    answers = []
    for binary in (False, True):
        given = InferInput("x", list(x.shape), "FP32")
        given.set_data_from_numpy(x, binary_data=binary)
        outputs = [RequestedOutput("logits", parameters={"binary_data": binary})]
        request = InferRequest("mlp", [given], request_id="7", request_outputs=outputs)
        answer = await client.infer(url, request, model_name="mlp")
        assert answer.id == "7", answer
        answers.append(answer.outputs[0].as_numpy().tolist())
    assert answers[0] == answers[1], answers
    print(answers[0])

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.network
@pytest.mark.slow
def test_kserves_client_is_served(port: int, service: ModelService, tmp_path: Path) -> None:
    """In an environment of its own: kserve asks for older pandas and protobuf than we do."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    pip = [python, "-m", "pip", "install", "-q"]
    subprocess.run([*pip, "--no-deps", "kserve==0.21.0"], check=True)
    subprocess.run([*pip, *KSERVE_NEEDS], check=True)
    ended = subprocess.run(
        [python, "-c", KSERVE, f"http://127.0.0.1:{port}"],
        capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    got = np.array(json.loads(ended.stdout), np.float32)
    np.testing.assert_array_equal(got, logits(service, X[:1]))
