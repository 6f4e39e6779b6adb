"""What Prometheus reads, parsed by Prometheus' own client."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from sommelier.deployment_records import DeployedModel, Deployment
from sommelier.runtime.answers import Answer
from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.policy import Decision
from sommelier.runtime.pool import ModelPool
from sommelier.runtime.pool_entries import PoolRules
from sommelier.runtime.server.metrics import Metrics, counted, decision_class, histogram_rows
from sommelier.runtime.server.protocol import InferRequest, ProtocolError
from sommelier.runtime.server.service import ModelService
from sommelier.runtime.server.statistics import BOUNDS_US, Answered, Histogram, Tally
from sommelier.runtime.server.telling import decision as as_parameters
from sommelier.runtime.session_cache import ServedModel, SessionCache
from sommelier.runtime.sessions import SessionSettings
from tests.factories import tiny_classifier

parser = pytest.importorskip("prometheus_client.parser")

Key = tuple[str, tuple[tuple[str, str], ...]]
X = np.ones((3, 4), np.float32)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelPool]:
    cache = SessionCache(tmp_path_factory.mktemp("sessions"))
    rules = PoolRules(host_bytes=10**9)
    with ModelPool(cache, SessionSettings(batch=4), rules) as pool:
        yield pool


@pytest.fixture(scope="module")
def running(
    pool: ModelPool, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningDeployment]:
    """Two models, of .9 and .8, under a name that has to be escaped."""
    folder = tmp_path_factory.mktemp("models")
    models = {
        name: ServedModel.of_file(tiny_classifier(folder / f"{name}.onnx", seed=seed))
        for seed, name in enumerate(("good", "fast"))
    }
    deployed = (
        DeployedModel("good", models["good"].id, 0.9, 1.0, 0.1),
        DeployedModel("fast", models["fast"].id, 0.8, 0.5, 0.1),
    )
    deployment = Deployment('a "b"\\c', "models", "", deployed, policy="fixed")
    with RunningDeployment(deployment, models, pool) as running:
        assert running.wait_ready(60.0)
        yield running


def read(text: str) -> dict[Key, float]:
    """Samples by name and sorted labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_say_what_was_done(pool: ModelPool, running: RunningDeployment) -> None:
    service = ModelService(pool, [running])
    name = running.name
    for promised in ({}, {"timeout": 60_000_000}, {}, {"timeout": 60_000_000}, {}):
        service.infer(InferRequest(name, {"x": X}, parameters=promised))
    with pytest.raises(ProtocolError):
        service.infer(InferRequest(name, {"x": X[:, :2]}))
    with pytest.raises(ProtocolError):
        service.infer(InferRequest(name, {"x": X}, parameters={"sommelier_min_accuracy": 0.95}))
    with pytest.raises(ProtocolError):
        service.infer(InferRequest("unknown", {"x": X}))
    found = read(service.metrics_text())
    mine = ("deployment", name)

    def value(metric: str, *labels: tuple[str, str]) -> float:
        return found[f"sommelier_{metric}", tuple(sorted(labels))]

    assert value("inference_request_success_total", mine) == 5
    assert value("inference_count_total", mine) == 15, "three samples a request"
    assert value("inference_request_failure_total", mine, ("reason", "OTHER")) == 1
    assert value("inference_request_failure_total", mine, ("reason", "REJECTED")) == 1
    assert value("decisions_total", mine, ("model", "good"), ("reason", "fixed")) == 5
    assert value("accuracy_expected", mine) == pytest.approx(0.9)
    assert value("sla_met_total", mine) == 2, "of the others nothing was promised"
    assert value("sla_missed_total", mine) == 0
    assert value("inference_pending_request_count", mine) == 0
    assert value("inference_running_request_count", mine) == 0
    for kind in ("request", "queue", "compute_infer"):
        metric = f"inference_{kind}_duration_us"
        assert value(f"{metric}_count", mine) == 5
        assert value(f"{metric}_bucket", mine, ("le", "+Inf")) == 5
    whole = value("inference_request_duration_us_sum", mine)
    parts = sum(
        value(f"inference_{kind}_duration_us_sum", mine) for kind in ("queue", "compute_infer")
    )
    assert 0 < parts < whole
    assert value("pool_memory_bytes", ("kind", "host")) == pool.host_bytes() > 0
    assert value("pool_memory_limit_bytes", ("kind", "host")) == 10**9
    assert ("sommelier_pool_memory_limit_bytes", (("kind", "device"),)) not in found
    assert value("pool_evictions_total") == 0
    assert value("model_ready", ("model", "good")) == 1
    assert value("process_memory_bytes") > 0
    assert not any("unknown" in str(key) for key in found), "labels stay few"


def test_every_family_says_its_type_and_what_it_is(
    pool: ModelPool, running: RunningDeployment
) -> None:
    families = list(parser.text_string_to_metric_families(Metrics().text([running.state()], pool)))
    assert {family.name for family in families} >= {"sommelier_decisions", "sommelier_sla_met"}
    for family in families:
        assert family.type in ("counter", "gauge", "histogram"), family.name
        assert family.documentation, family.name


def test_buckets_hold_what_is_at_most_their_bound() -> None:
    histogram = Histogram()
    values = [0.0, 10.0, 10.1, 50.0, 9e6, 1e7, 1e9]
    for value in values:
        histogram.add(value)
    told = histogram_rows(histogram, {})
    rows = {(suffix, labels.get("le")): value for suffix, labels, value in told}
    for bound in BOUNDS_US:
        assert rows["_bucket", str(bound)] == sum(value <= bound for value in values)
    assert rows["_bucket", "+Inf"] == rows["_count", None] == len(values)
    assert math.isclose(rows["_sum", None], sum(values))


def test_no_count_is_lost_among_threads(pool: ModelPool) -> None:
    metrics = Metrics()
    answer = Answered("m", "balanced", 1, 0.0, (10**6, 0, 0, 0, 0))
    with ThreadPoolExecutor(8) as threads:
        for _ in range(8):
            threads.submit(lambda: [metrics.tally("d").answered(answer) for _ in range(2000)])
    found = read(metrics.text([], pool))
    labels = (("deployment", "d"),)
    assert found["sommelier_inference_request_success_total", labels] == 16_000
    assert found["sommelier_inference_request_duration_us_sum", labels] == 16_000 * 1e3


def test_what_was_counted_late_is_told_at_once() -> None:
    """After any number of answers, also within what is counted together."""
    tally, last_s = Tally(), 0.0
    for count in range(1, 40):
        last_s = float(count)
        tally.answered(Answered("m", "fixed", 2, last_s, (5000, 1000, 500, 3000, 100)))
        told = tally.to_json("d", "1")
        assert told["execution_count"] == count
        assert told["inference_count"] == 2 * count
        assert told["last_inference"] == last_s * 1e3
        phases = told["inference_stats"]
        assert phases["success"] == {"count": count, "ns": 5000 * count}
        assert phases["compute_input"] == {"count": count, "ns": 500 * count}
    tally.failed(429, 7)
    assert tally.to_json("d", "1")["inference_stats"]["fail"] == {"count": 1, "ns": 7}


def test_a_name_that_is_served_again_goes_on_counting() -> None:
    metrics = Metrics()
    metrics.tally("d").failed(503, 1)
    assert metrics.tally("d") is metrics.tally("d")
    assert metrics.tally("e") is not metrics.tally("d")


@pytest.mark.parametrize(
    ("stage", "predicted", "told"),
    [(None, (), "balanced"), (1, (), "stage 1"), (0, ("emotion",), "predicted")],
)
def test_reasons_are_of_few_kinds(stage: int | None, predicted: tuple[str, ...], told: str) -> None:
    assert decision_class(_answer(stage, predicted)) == told


def test_samples_of_a_cascade_are_counted_by_the_model_that_answered_each() -> None:
    """Of eight in a request, three stop at the first stage, though the last one is the answer's."""
    decision = Decision("big", "cascade", "", 1.0, 0.1, 5.0, 0)
    answer = Answer(
        {}, "big", decision, 0.5, 0.25, 0.75, "d", stage=2, samples=8,
        stages=(0, 2, 0, 2, 2, 0, 2, 2), models=("small", "middle", "big"),
    )  # fmt: skip
    tally = Tally()
    tally.answered(counted(answer, 0.0, (5000, 1000, 500, 3000, 100)))
    with tally.counts() as counts:
        assert counts.decisions == {("small", "stage 0"): 3, ("big", "stage 2"): 5}
        assert (counts.answers, counts.samples) == (1, 8)


def test_a_client_is_told_which_model_of_a_cascade_answered_each_sample() -> None:
    decision = Decision("big", "cascade", "", 1.0, 0.1, 5.0, 0)
    answer = Answer(
        {}, "big", decision, 0.5, 0.25, 0.75, "d", stage=1, samples=3,
        stages=(0, 1, 0), scores=(0.91234, math.nan, 1.0), models=("small", "big"),
    )  # fmt: skip
    told = as_parameters(answer)
    assert told["sommelier_models"] == "small, big"
    assert told["sommelier_stages"] == "0, 1, 0"
    assert told["sommelier_scores"] == "0.9123, nan, 1"
    assert "sommelier_models" not in as_parameters(_answer())


def test_expected_accuracy_counts_samples(pool: ModelPool, running: RunningDeployment) -> None:
    """Of a cascade's request several models answer samples; 0.9 for three and 0.8 for one."""
    state = running.state()
    models = [
        replace(model, answered=1, samples=samples)
        for model, samples in zip(state.models, (3, 1), strict=True)
    ]
    text = Metrics().text([replace(state, models=tuple(models))], pool)
    (value,) = [v for (name, _), v in read(text).items() if name == "sommelier_accuracy_expected"]
    assert value == pytest.approx((3 * 0.9 + 0.8) / 4)


def _answer(stage: int | None = None, predicted: tuple[str, ...] = ()) -> Answer:
    decision = Decision("m", "balanced", "{waiting} wait", 1.0, 0.1, 5.0, 3)
    return Answer({}, "m", decision, 0.5, 0.25, 0.75, "d", stage=stage, predicted=predicted)
