"""Requests that come at once are answered in one run, each as it would have been alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from sommelier.deployment_records import DeploymentOptions
from sommelier.errors import InputError
from sommelier.runtime.answering import ModelAnswering
from sommelier.runtime.batching import TURN_MS, cost_together, joined
from sommelier.runtime.feeds import Feed, concatenated, divided
from sommelier.runtime.pool import ModelPool
from sommelier.runtime.server.http_messages import HttpRequest, HttpResponse, Limits
from sommelier.runtime.server.protocol import InferRequest
from sommelier.runtime.server.rest import RestApi
from sommelier.runtime.server.served import single_model
from sommelier.runtime.server.service import ModelService
from sommelier.runtime.server.together import grouped
from sommelier.runtime.session_cache import ServedModel
from sommelier.runtime.sessions import SessionSettings, open_session
from tests import factories
from tests.onnx_writer import FLOAT, INT64, save_model
from tests.runtime.server.asking import ready

ROWS, FEATURES = 5, 4


# ---- which requests go together


def _request(samples: int, kind: int = 0, **parameters: Any) -> InferRequest:
    shape = (samples, 4) if kind != 1 else (samples, 4, 2)
    x = np.zeros(shape, np.float32 if kind != 2 else np.int64)
    outputs = ("logits",) if kind == 3 else ()
    return InferRequest("m", {"x": x}, outputs, parameters=parameters)


@given(
    asked=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3)), max_size=12),
    most=st.integers(1, 8),
)
def test_every_request_is_in_one_group_of_its_form(asked: list[tuple[int, int]], most: int) -> None:
    groups = grouped([_request(samples, kind) for samples, kind in asked], most)
    assert sorted(place for group in groups for place in group) == list(range(len(asked)))
    for group in groups:
        assert group == sorted(group)
        assert len({asked[place][1] for place in group}) == 1
        assert len(group) == 1 or sum(asked[place][0] for place in group) <= most


def test_who_wishes_something_stays_alone() -> None:
    plain, hurried = _request(1), _request(1, sommelier_deadline_ms=5.0)
    assert grouped([plain, hurried, plain, hurried], 8) == [[0, 2], [1], [3]]
    binary = _request(1, binary_data_output=True)
    assert grouped([plain, binary], 8) == [[0, 1]]


def test_what_has_no_samples_in_front_stays_alone() -> None:
    scalar = InferRequest("m", {"x": np.zeros((1, 4)), "rate": np.array(16_000)})
    uneven = InferRequest("m", {"x": np.zeros((1, 4)), "y": np.zeros((2, 4))})
    assert grouped([scalar, scalar, uneven, uneven], 8) == [[0], [1], [2], [3]]


def test_what_is_put_together_is_divided_again() -> None:
    feeds = [Feed({"x": np.full((n, 4), n, np.float32)}, n) for n in (1, 3, 2)]
    whole = concatenated(feeds)
    assert whole.samples == 6
    parts = divided({"y": whole.tensors["x"] + 1}, feeds)
    for feed, part in zip(feeds, parts, strict=True):
        assert np.array_equal(part["y"], feed.tensors["x"] + 1)
    for outputs in ({"y": np.zeros(5)}, {"y": np.array(1.0)}):
        with pytest.raises(InputError):
            divided(outputs, feeds)


# ---- which models


def _distinct(n: int = 4) -> dict[str, np.ndarray[Any, Any]]:
    return {"x": np.random.default_rng(0).normal(size=(n, FEATURES)).astype(np.float32)}


def _cost(path: Path) -> float | None:
    return cost_together(open_session(path, SessionSettings()), _distinct())


def test_samples_that_are_independent_have_a_cost_together(tmp_path: Path) -> None:
    cost = _cost(factories.mlp_classifier(tmp_path / "m.onnx"))
    assert cost is not None
    assert cost > 0


@pytest.mark.parametrize(
    ("node", "shape"),
    [
        (helper.make_node("Softmax", ["x"], ["y"], axis=0), ["N", FEATURES]),  # over the samples
        (helper.make_node("CumSum", ["x", "first"], ["y"]), ["N", FEATURES]),
        (helper.make_node("ReduceMean", ["x"], ["y"], axes=[0]), [1, FEATURES]),
        (helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0]), [FEATURES, "N"]),
    ],
    ids=lambda value: value.op_type if hasattr(value, "op_type") else "",
)
def test_samples_that_mix_have_none(node: Any, shape: list[Any], tmp_path: Path) -> None:
    used = {"first": np.array(0, np.int64)} if "first" in node.input else {}
    x = {"x": (FLOAT, ["N", FEATURES])}
    assert _cost(save_model(tmp_path / "m.onnx", [node], x, {"y": (FLOAT, shape)}, used)) is None


def test_a_model_of_one_sample_has_none(tmp_path: Path) -> None:
    assert _cost(factories.nan_model(tmp_path / "nan.onnx")) is None
    session = open_session(factories.unbatched_classifier(tmp_path / "one.onnx"), SessionSettings())
    given_ = session.get_inputs()[0]
    x = np.ones([n if isinstance(n, int) else 1 for n in given_.shape], np.float32)
    assert cost_together(session, {given_.name: x}) is None


@pytest.mark.parametrize(
    ("cost", "run_ms", "shared"),
    [
        (0.5, 0.9, True),  # dense layers read their weights once for all
        (1.0, 0.9, False),  # convolutions run in turn
        (1.0, 3 * TURN_MS, True),  # but what a run costs besides its model is paid once
        (1.0, 5 * TURN_MS, False),
        (1.5, 0.001, True),
        (3.0, 3 * TURN_MS, False),
    ],
)
def test_a_run_is_shared_where_it_saves_a_fifth(cost: float, run_ms: float, shared: bool) -> None:
    assert joined(cost, run_ms) is shared


# ---- behind the server


@pytest.fixture
def service(pool: ModelPool, tmp_path: Path) -> Iterator[ModelService]:
    """`mlp`, of which eight samples go together, and `table`, which fails on an index beyond it."""
    table = save_model(
        tmp_path / "table.onnx", [helper.make_node("Gather", ["w", "x"], ["y"])],
        {"x": (INT64, ["N", 1])}, {"y": (FLOAT, ["N", 1, 2])},
        {"w": np.arange(20, dtype=np.float32).reshape(10, 2)},
    )  # fmt: skip
    files = {"mlp": factories.mlp_classifier(tmp_path / "mlp.onnx"), "table": table}
    running = [single_model(ServedModel.of_file(file, name), pool) for name, file in files.items()]
    service = ready(ModelService(pool, running))
    for deployment in running:
        deployment._now.interface.together = 8  # as if measured, as is `joins`
        with pool.lease(deployment.models[0]) as predictor:
            predictor.joins = True
    yield service
    for deployment in running:
        deployment.close()


def _post(model: str, x: np.ndarray[Any, Any], **more: Any) -> HttpRequest:
    datatype = "FP32" if x.dtype == np.float32 else "INT64"
    given_ = {"name": "x", "shape": x.shape, "datatype": datatype, "data": x.ravel().tolist()}
    body = json.dumps({"inputs": [given_], **more}).encode()
    return HttpRequest("POST", f"/v2/models/{model}/infer", {}, body)


def _answers(
    service: ModelService, requests: list[HttpRequest], gone: tuple[int, ...] = ()
) -> list[HttpResponse | None]:
    """Of requests that one round of the event loop reads. gone : whose clients leave at once."""

    async def run() -> list[HttpResponse | None]:
        api = RestApi(service, Limits())
        answer = api.handler().answer
        found: list[HttpResponse | None] = [None] * len(requests)
        for place, request in enumerate(requests):
            cancel = answer(request, lambda told, place=place: found.__setitem__(place, told))
            if place in gone and cancel is not None:
                cancel()
        for _ in range(200):
            await asyncio.sleep(0.01)
            if all(found[place] is not None for place in range(len(found)) if place not in gone):
                break
        api.close()
        return found

    return asyncio.run(run())


def _read(response: HttpResponse | None) -> tuple[Any, Any]:
    assert response is not None
    told = json.loads(response.body)
    assert response.status == 200, told
    return np.array(told["outputs"][0]["data"], np.float32), told


def _alone(service: ModelService, model: str, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return next(iter(service.infer(InferRequest(model, {"x": x})).outputs.values())).ravel()


def test_each_gets_the_answer_it_would_have_got_alone(service: ModelService) -> None:
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(1 + i % 3, FEATURES)).astype(np.float32) for i in range(11)]
    wanted = [_alone(service, "mlp", x) for x in inputs]
    before = service.statistics("mlp")["model_stats"][0]
    responses = _answers(service, [_post("mlp", x, id=f"r{i}") for i, x in enumerate(inputs)])
    together = 0
    for place, (response, answer) in enumerate(zip(responses, wanted, strict=True)):
        found, told = _read(response)
        assert np.allclose(found, answer, atol=1e-5)
        assert told["id"] == f"r{place}"
        assert told["outputs"][0]["shape"][0] == len(inputs[place])
        together += told["parameters"].get("sommelier_together", 1) > 1
    assert together == 11  # in groups of 1+2+3+1, 2+3+1+2 and 3+1+2
    after = service.statistics("mlp")["model_stats"][0]
    assert after["inference_count"] - before["inference_count"] == sum(map(len, inputs))
    assert after["execution_count"] - before["execution_count"] == 3
    done = after["inference_stats"]["success"]["count"]
    assert done - before["inference_stats"]["success"]["count"] == 11
    assert service.deployments[0].state().answered == 22


def test_one_that_fails_does_not_fail_the_others(service: ModelService) -> None:
    inputs = [np.array([[i]], np.int64) for i in (1, 99, 3)]
    good, bad, other = _answers(service, [_post("table", x) for x in inputs])
    assert _read(good)[0].tolist() == [2, 3]
    assert _read(other)[0].tolist() == [6, 7]
    assert bad is not None
    assert bad.status == 400
    assert b"failed on its input" in bad.body


def test_a_wish_is_kept_alone(service: ModelService) -> None:
    x = np.ones((1, FEATURES), np.float32)
    hurried = {"parameters": {"sommelier_deadline_ms": 1e4}}
    responses = _answers(service, [_post("mlp", x), _post("mlp", x, **hurried), _post("mlp", x)])
    told = [_read(response)[1]["parameters"].get("sommelier_together") for response in responses]
    assert told == [2, None, 2]


def test_models_do_not_mix_and_who_has_gone_is_left_out(service: ModelService) -> None:
    x, index = np.ones((1, FEATURES), np.float32), np.array([[4]], np.int64)
    asked = [_post("mlp", x), _post("table", index), _post("mlp", x), _post("table", index)]
    responses = _answers(service, asked, gone=(2,))
    assert responses[2] is None
    assert "sommelier_together" not in _read(responses[0])[1]["parameters"]
    assert _read(responses[1])[1]["parameters"]["sommelier_together"] == 2
    assert _read(responses[3])[0].tolist() == [8, 9]


@pytest.mark.parametrize(
    ("owner", "name"), [(ModelAnswering, "_run_shared"), (ModelService, "open_stint")]
)
def test_a_fault_of_ours_leaves_nobody_without_an_answer(
    service: ModelService, monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(owner, name, fail)
    responses = _answers(service, [_post("mlp", np.ones((1, FEATURES), np.float32))] * 3)
    assert [response.status for response in responses if response is not None] == [200] * 3


def test_what_was_deployed_without_batching_is_answered_alone(
    pool: ModelPool, tmp_path: Path
) -> None:
    model = ServedModel.of_file(factories.mlp_classifier(tmp_path / "m.onnx"), "m")
    for options, most in ((DeploymentOptions(batching=False), 1), (DeploymentOptions(), 8)):
        with single_model(model, pool, options) as running:
            assert running.wait_ready(30)
            running._now.interface.together = 8
            assert running.together == most
