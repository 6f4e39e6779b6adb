"""The statistics of the protocol count runs of models, as Triton's own clients read them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.server.served import single_model
from sommelier.runtime.server.service import ModelService
from sommelier.runtime.server.statistics import Answered, Tally
from sommelier.runtime.session_cache import SessionCache
from tests.runtime.deploying import ladder, pool_of
from tests.runtime.server.asking import ready, rest_server, triton_inputs
from tests.runtime.test_left_out_stages import ALWAYS, cascade

ROWS = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelService]:
    """A model, and a cascade whose first model is sure of two of the rows, the second of all."""
    folder = tmp_path_factory.mktemp("models")
    files = ladder(folder)
    with (
        pool_of(SessionCache(folder / "sessions")) as pool,
        RunningDeployment(cascade(ALWAYS, ALWAYS), files, pool) as vision,
        single_model(files["large"], pool) as large,
    ):
        service = ready(ModelService(pool, [large, vision]))
        assert vision.wait_ready(60)
        assert vision.cascade is not None
        scores = sorted(vision.infer({"x": ROWS}).scores)
        vision.cascade.thresholds = ((scores[1] + scores[2]) / 2, ALWAYS)
        yield service


@contextmanager
def over_http(service: ModelService) -> Iterator[Any]:
    triton = pytest.importorskip("tritonclient.http")

    def tensor(x: np.ndarray[Any, Any]) -> Any:
        given = triton.InferInput("x", x.shape, "FP32")
        return given.set_data_from_numpy(x)

    with (
        rest_server(service) as port,
        triton.InferenceServerClient(f"127.0.0.1:{port}") as client,
    ):
        yield SimpleNamespace(
            infer=lambda name, x: client.infer(name, [tensor(x)]),
            stats=lambda name: _named(client.get_inference_statistics(name)),
        )


@contextmanager
def over_grpc(service: ModelService) -> Iterator[Any]:
    triton = pytest.importorskip("tritonclient.grpc")
    from sommelier.runtime.server.grpc_server import start_grpc

    server = start_grpc(service, "127.0.0.1", 0)
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        yield SimpleNamespace(
            infer=lambda name, x: client.infer(name, triton_inputs({"x": x})),
            stats=client.get_inference_statistics,
        )
    server.stop(0)


def _named(told: Any) -> Any:
    """JSON with names for its fields, as messages have them."""
    if isinstance(told, dict):
        return SimpleNamespace(**{key: _named(value) for key, value in told.items()})
    return [_named(value) for value in told] if isinstance(told, list) else told


PHASES = ("compute_input", "compute_infer", "compute_output")
Batches = dict[tuple[int, str], int]


def _counts(told: Any) -> tuple[int, int, Batches, Any]:
    """(samples, runs, runs by their samples and phase, all that was told)."""
    (stats,) = told.model_stats
    batches = {
        (batch.batch_size, phase): getattr(batch, phase).count
        for batch in stats.batch_stats
        for phase in PHASES
    }
    return stats.inference_count, stats.execution_count, batches, stats


def _more(after: Batches, before: Batches) -> Batches:
    more = {key: count - before.get(key, 0) for key, count in after.items()}
    return {key: count for key, count in more.items() if count}


@pytest.mark.parametrize("transport", [over_http, over_grpc])
def test_runs_of_a_model_are_counted_by_their_samples(
    service: ModelService, transport: Any
) -> None:
    with transport(service) as client:
        samples, runs, batches, _ = _counts(client.stats("large"))
        for count in (1, 3, 1):
            client.infer("large", ROWS[:count])
        after = _counts(client.stats("large"))
    assert (after[0] - samples, after[1] - runs) == (5, 3)
    assert _more(after[2], batches) == {
        **{(1, phase): 2 for phase in PHASES},
        **{(3, phase): 1 for phase in PHASES},
    }
    _adds_up(after[3])


@pytest.mark.parametrize("transport", [over_http, over_grpc])
def test_a_request_to_a_cascade_counts_a_run_for_each_stage_that_was_asked(
    service: ModelService, transport: Any
) -> None:
    """Four rows to the first model, the two that it is not sure of to the second."""
    with transport(service) as client:
        samples, runs, batches, _ = _counts(client.stats("vision"))
        client.infer("vision", ROWS)
        after = _counts(client.stats("vision"))
    assert (after[0] - samples, after[1] - runs) == (4, 2)
    assert _more(after[2], batches) == {
        (4, "compute_input"): 1,  # the request was looked at once, before the first
        (4, "compute_infer"): 1,
        (2, "compute_infer"): 1,
        (2, "compute_output"): 1,  # and its answer was made up once, after the last
    }
    _adds_up(after[3])


def _adds_up(stats: Any) -> None:
    """What runs took is what requests waited for: each had runs of its own."""
    runs = sum(batch.compute_infer.count for batch in stats.batch_stats)
    assert runs == stats.execution_count
    assert sum(batch.compute_infer.ns for batch in stats.batch_stats) > 0
    for phase in PHASES:
        of_runs = sum(getattr(batch, phase).ns for batch in stats.batch_stats)
        told = getattr(stats.inference_stats, phase).ns
        assert abs(of_runs - told) <= runs, "but for what is below a nanosecond"


def test_requests_that_shared_a_run_count_one(service: ModelService) -> None:
    samples, runs, batches, _ = _counts(_named(service.statistics("large")))
    requests = [{"x": ROWS[:count]} for count in (1, 2, 4)]
    served = service.expect("large")
    with served.running.pool.lease(served.running.models[0]) as predictor:
        predictor.joins = True  # as if measured
    stint = service.open_stint(served, requests, (), at_most_ms=1e9)
    assert stint is not None
    stint.answer(lambda *_: None)
    stint.end()
    after = _counts(_named(service.statistics("large")))
    assert (after[0] - samples, after[1] - runs) == (7, 1)
    assert _more(after[2], batches) == {(7, phase): 1 for phase in PHASES}
    done = after[3].inference_stats.compute_infer
    assert done.count >= 3, "while each of the requests waited for it"


def test_batches_are_told_in_order_with_what_their_runs_took() -> None:
    tally = Tally()
    tally.answered(
        Answered("m", "fixed", 8, 1.0, (900, 90, 50, 700, 60), runs=((8, 400), (3, 300)))
    )
    tally.answered(Answered("m", "fixed", 3, 2.0, (500, 10, 20, 200, 30)))
    told = tally.to_json("d", "1")
    assert (told["inference_count"], told["execution_count"]) == (11, 3)
    assert told["batch_stats"] == [
        {
            "batch_size": 3,
            "compute_input": {"count": 1, "ns": 20},
            "compute_infer": {"count": 2, "ns": 500},
            "compute_output": {"count": 2, "ns": 90},
        },
        {
            "batch_size": 8,
            "compute_input": {"count": 1, "ns": 50},
            "compute_infer": {"count": 1, "ns": 400},
            "compute_output": {"count": 0, "ns": 0},
        },
    ]
