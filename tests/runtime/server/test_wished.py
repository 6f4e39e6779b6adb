"""Wishes mean the same in process, over REST and over gRPC, and are refused with the same words."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from sommelier.errors import InputError
from sommelier.runtime.server.parameters import wishes
from sommelier.runtime.server.protocol import InferRequest, ProtocolError
from sommelier.runtime.server.served import single_model
from sommelier.runtime.server.service import ModelService
from sommelier.runtime.session_cache import ServedModel, SessionCache
from tests.factories import mlp_classifier
from tests.runtime.deploying import X, pool_of
from tests.runtime.server.asking import post, ready, rest_server, triton_inputs

OURS = {"deadline_ms": "sommelier_deadline_ms", "min_accuracy": "sommelier_min_accuracy"}
TENSOR = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]}
REFUSED: tuple[tuple[str, Any, str], ...] = (
    ("deadline_ms", 0, "the deadline is not above 0: 0"),
    ("deadline_ms", -0.5, "the deadline is not above 0: -0.5"),
    ("deadline_ms", math.nan, "the deadline is no number: nan"),
    ("deadline_ms", math.inf, "the deadline is endless: inf"),
    ("deadline_ms", True, "the deadline is no number: True"),
    ("deadline_ms", "soon", "the deadline is no number: 'soon'"),
    ("priority", 1.7, "the priority 1.7 is no whole number"),
    ("priority", True, "the priority True is no whole number"),
    ("priority", "high", "the priority 'high' is no whole number"),
    ("priority", 2**33, f"the priority {2**33} is no whole number from"),
    ("min_accuracy", 1.5, "min_accuracy cannot be 1.5"),
    ("min_accuracy", True, "min_accuracy cannot be True"),
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelService]:
    folder = tmp_path_factory.mktemp("models")
    model = ServedModel.of_file(mlp_classifier(folder / "mlp.onnx"))
    with pool_of(SessionCache(folder / "sessions")) as pool, single_model(model, pool) as running:
        yield ready(ModelService(pool, [running]))


def infer(port: int, **body: Any) -> tuple[int, Any]:
    status, _, answer = post(
        port, "/v2/models/mlp/infer", json.dumps({"inputs": [TENSOR], **body}).encode()
    )
    return status, json.loads(answer)


@pytest.mark.parametrize(("name", "value", "told"), REFUSED)
def test_what_makes_no_sense_is_refused_everywhere(
    service: ModelService, port: int, name: str, value: Any, told: str
) -> None:
    (running,) = service.deployments
    with pytest.raises(InputError) as refused:
        running.infer({"x": X}, **{name: value})
    assert refused.value.message.startswith(told)
    asked = {OURS.get(name, name): value}
    with pytest.raises(ProtocolError) as answered:
        wishes(asked)
    assert answered.value.status == 400
    assert told in answered.value.message
    assert OURS.get(name, name) in answered.value.message, "what is to be changed"
    status, found = infer(port, parameters=asked)
    assert status == 400
    if value not in (math.inf, math.nan):  # which are no JSON
        assert told in found["error"]


def test_a_timeout_is_microseconds_and_0_is_none(port: int) -> None:
    for value in (-1, "soon", True):
        status, found = infer(port, parameters={"timeout": value})
        assert (status, "timeout is" in found["error"]) == (400, True)
    assert infer(port, parameters={"timeout": 0, "priority": 0})[0] == 200
    assert wishes({"timeout": 0})["deadline_ms"] is None
    assert wishes({"timeout": 60_000})["deadline_ms"] == 60.0
    assert wishes({"timeout": 60_000, "sommelier_deadline_ms": 5})["deadline_ms"] == 5.0


def test_whole_numbers_are_priorities_and_texts_numbers_however_they_are_written() -> None:
    assert [wishes({"priority": value})["priority"] for value in (1, 0, 7, 3.0, "2")] == [
        -4, 0, 2, -2, -3
    ]  # fmt: skip
    asked = {"sommelier_deadline_ms": " 5e1 ", "sommelier_min_accuracy": "0.25"}
    assert wishes(asked) == {"deadline_ms": 50.0, "priority": 0, "min_accuracy": 0.25}
    with pytest.raises(ProtocolError, match="from 0 to 4294967296; 1 is the highest"):
        wishes({"priority": -1})


def test_no_names_of_outputs_are_all_of_them(service: ModelService, port: int) -> None:
    (running,) = service.deployments
    wanted = running.infer({"x": X}).outputs["logits"]
    nothing: tuple[Any, ...] = ([], (), None)
    for outputs in nothing:
        assert np.array_equal(running.infer({"x": X}, outputs=outputs).outputs["logits"], wanted)
        ticket = running.submit({"x": X}, outputs=outputs)
        assert tuple(ticket.result(60).outputs) == ("logits",)
        status, found = infer(port, outputs=list(outputs or ()))
        assert (status, [output["name"] for output in found["outputs"]]) == (200, ["logits"])


@pytest.mark.parametrize("name", ["logit", "y" * 300])
def test_an_output_that_there_is_not_is_told_in_the_same_words(
    service: ModelService, port: int, name: str
) -> None:
    (running,) = service.deployments
    with pytest.raises(InputError) as refused:
        running.infer({"x": X}, outputs=[name])
    told = f"{refused.value.message}; {refused.value.hint}"
    assert told == f"there is no output '{name[:200]}'; there is logits"
    assert infer(port, outputs=[{"name": name}]) == (400, {"error": told})
    with pytest.raises(ProtocolError) as answered:
        service.infer(InferRequest("mlp", {"x": X}, (name,)))
    assert (answered.value.status, answered.value.message) == (400, told)


def test_tritons_client_of_grpc_is_told_the_same(service: ModelService) -> None:
    triton = pytest.importorskip("tritonclient.grpc")
    from sommelier.runtime.server.grpc_server import start_grpc

    server = start_grpc(service, "127.0.0.1", 0)
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"parameters": {"sommelier_deadline_ms": -3}}, "the deadline is not above 0: -3"),
        ({"outputs": [triton.InferRequestedOutput("logit")]}, "there is no output 'logit'; there"),
    )
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        for how, told in wrong:
            with pytest.raises(triton.InferenceServerException, match=told) as caught:
                client.infer("mlp", triton_inputs({"x": X}), **how)
            assert "INVALID_ARGUMENT" in caught.value.status()
        assert client.infer("mlp", triton_inputs({"x": X}), outputs=[]).as_numpy("logits").size
    server.stop(0)


@pytest.fixture
def port(service: ModelService) -> Iterator[int]:
    with rest_server(service) as port:
        yield port
