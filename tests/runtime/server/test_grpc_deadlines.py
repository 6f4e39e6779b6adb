"""A deadline of gRPC's parameters counts with the call's own, whatever type it is sent as."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

pytest.importorskip("grpc")

import grpc

from sommelier.runtime.server.grpc_server import start_grpc
from sommelier.runtime.server.grpc_tensors import infer_request
from sommelier.runtime.server.messages import INFERENCE, message, methods
from sommelier.runtime.server.parameters import wishes
from sommelier.runtime.server.protocol import InferRequest, ProtocolError
from sommelier.runtime.server.service import ModelService

OURS, TRITONS = "sommelier_deadline_ms", "timeout"


def asked(**parameters: str | float) -> Any:
    """A request with these parameters."""
    request = message("ModelInferRequest")(model_name="mlp")
    for name, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
        setattr(request.parameters[name], kind[type(value)], value)
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    request.raw_input_contents.append(bytes(16))
    return request


@pytest.mark.parametrize(
    ("parameters", "left_s", "counts_ms"),
    [
        ({OURS: "100"}, 0.25, 100.0),
        ({OURS: "900"}, 0.25, 250.0),
        ({OURS: " 9e2 "}, 0.25, 250.0),
        ({OURS: "900"}, None, 900.0),
        ({OURS: "0.5"}, 0.25, 0.5),
        ({OURS: 900}, 0.25, 250.0),
        ({OURS: "900", TRITONS: 1_000}, 0.25, 250.0),  # ours goes before
        ({OURS: "100", TRITONS: "1"}, 0.25, 100.0),
        ({TRITONS: "100000"}, 0.25, 100.0),
        ({TRITONS: "900000"}, 0.25, 250.0),
        ({TRITONS: "0"}, 0.25, 250.0),  # 0 is none
        ({TRITONS: "0"}, None, None),
        ({OURS: "100"}, -1.0, 0.001),  # the call's is over
    ],
)
def test_the_sooner_deadline_counts_also_as_a_text(
    parameters: dict[str, str | float], left_s: float | None, counts_ms: float | None
) -> None:
    found = infer_request(asked(**parameters), left_s).parameters
    assert wishes(found)["deadline_ms"] == counts_ms


NO_DEADLINES: tuple[Mapping[str, str | float], ...] = (
    {OURS: "soon"},
    {OURS: ""},
    {OURS: "-1"},
    {OURS: "nan"},
    {OURS: "inf"},
    {OURS: -1.0},
    {OURS: float("nan")},
    {OURS: float("inf")},
    {OURS: True},
    {TRITONS: "soon"},
    {TRITONS: "-1"},
    {TRITONS: float("inf")},
    {TRITONS: True},
    {OURS: "100", TRITONS: "soon"},
)


@pytest.mark.parametrize("parameters", NO_DEADLINES, ids=str)
@pytest.mark.parametrize("left_s", [None, 0.0005, 100.0])
def test_what_is_no_deadline_is_refused_with_and_without_one_of_the_call(
    parameters: dict[str, str | float], left_s: float | None
) -> None:
    found = infer_request(asked(**parameters), left_s).parameters
    with pytest.raises(ProtocolError) as caught:
        wishes(found)
    assert caught.value.status == 400


# ---- over a socket


@pytest.fixture(scope="module")
def call(apart: ModelService) -> Iterator[Any]:
    """ModelInfer of a server."""
    server = start_grpc(apart, "127.0.0.1", 0)
    method = methods(INFERENCE)["ModelInfer"]
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel.unary_unary(
            f"/{INFERENCE}/ModelInfer",
            method.request.SerializeToString,
            method.response.FromString,
        )
    server.stop(0)


def test_what_the_service_is_asked_ends_with_the_call(
    call: Any, apart: ModelService, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[InferRequest] = []
    answer = apart.answer_now

    def watched(request: InferRequest, **how: Any) -> Any:
        seen.append(request)
        return answer(request, **how)

    monkeypatch.setattr(apart, "answer_now", watched)
    for told in ("1e9", 1e9):
        call(asked(**{OURS: told}), timeout=60)
    deadlines = [wishes(request.parameters)["deadline_ms"] for request in seen]
    # gRPC rounds its own up, so a little more than the 60 s may be left
    assert all(found is not None and 0 < found < 70_000 for found in deadlines), deadlines


@pytest.mark.parametrize("parameters", NO_DEADLINES, ids=str)
def test_what_is_no_deadline_is_an_invalid_argument(
    call: Any, apart: ModelService, parameters: dict[str, str | float]
) -> None:
    def failures() -> int:
        (stats,) = apart.statistics("mlp")["model_stats"]
        count: int = stats["inference_stats"]["fail"]["count"]
        return count

    before = failures()
    with pytest.raises(grpc.RpcError) as caught:
        call(asked(**parameters), timeout=60)
    assert caught.value.code().name == "INVALID_ARGUMENT"
    assert failures() == before + 1
