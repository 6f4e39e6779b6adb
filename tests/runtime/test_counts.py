"""What a deployment counts of its requests: what was promised, and the runs that it took."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import sommelier as sm
from sommelier.deployment_records import DeployedModel
from sommelier.engine.result import Table
from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.jobs import Counts
from sommelier.runtime.pool import ModelPool
from sommelier.runtime.server.metrics import Metrics
from sommelier.runtime.session_cache import ServedModel, SessionCache
from tests.factories import mlp_classifier
from tests.runtime.deploying import X, deployed, deployment, pool_of
from tests.runtime.test_dispatcher import fragile


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ServedModel]:
    """`fragile` fails where x is 100; `small` answers."""
    folder = tmp_path_factory.mktemp("two")
    small = mlp_classifier(folder / "small.onnx", hidden=(20, 20))
    return {"fragile": fragile(folder), "small": ServedModel.of_file(small)}


@pytest.fixture
def pool(cache: SessionCache) -> Iterator[ModelPool]:
    with pool_of(cache) as pool:
        yield pool


def told(running: RunningDeployment, pool: ModelPool) -> tuple[int, int, int]:
    """(met, missed, promised); what Prometheus reads is compared with it."""
    state = running.state()
    lines = Metrics().text([state], pool).splitlines()
    read = [
        int(line.split()[-1])
        for name in ("met", "missed")
        for line in lines
        if line.startswith(f"sommelier_sla_{name}_total{{")
    ]
    assert read == [state.promised - state.late, state.late]
    return read[0], read[1], state.promised


def test_where_nothing_is_promised_nothing_is_met_or_missed(
    pool: ModelPool, two: dict[str, ServedModel]
) -> None:
    with RunningDeployment(deployment(deployed("small")), two, pool) as running:
        for _ in range(3):
            running.infer({"x": X})
        assert told(running, pool) == (0, 0, 0)
        running.infer({"x": X}, deadline_ms=60_000)  # a promise of its own
        assert told(running, pool) == (1, 0, 1)
        assert running.state().answered == 4


def test_under_an_sla_every_answer_is_met_or_missed(
    pool: ModelPool, two: dict[str, ServedModel]
) -> None:
    record = deployment(deployed("small"), sla_ms=60_000.0)
    with RunningDeployment(record, two, pool) as running:
        for _ in range(3):
            running.infer({"x": X})
        assert told(running, pool) == (3, 0, 3)
        stint = running.open_stint([{"x": X}] * 4, at_most_ms=1e9)
        assert stint is not None
        stint.answer(lambda *_: None)
        stint.end()
        assert told(running, pool) == (7, 0, 7), "of requests that shared a run each"


def test_an_answer_is_late_behind_its_deadline_and_not_at_it() -> None:
    counts = Counts()
    for now_ms in (4.0, 5.0, 6.0):
        counts.answered_by({"m": 2}, 2, 5.0, 2 * (now_ms > 5.0))
    counts.answered_by({"m": 1}, 1, float("inf"), 0)
    assert (counts.answered, counts.promised, counts.late) == (7, 6, 2)


def test_describe_tells_what_the_state_does(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    mlp_classifier(tmp_path / "models" / "small.onnx")
    with sm.connect(tmp_path / "models.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM folder '{tmp_path / 'models'}'")
        running = db.deploy("DEPLOY MODEL small AS vision")
        running.infer({"x": X})
        running.infer({"x": X}, deadline_ms=60_000)
        table = db.execute("DESCRIBE DEPLOYMENT vision")
        assert isinstance(table, Table)
        (here,) = [str(value) for key, value in table.rows if key == "here"]
        assert "2 answered, 1 with a deadline (0 late)" in here
        state = running.state()
        assert (state.answered, state.promised, state.late) == (2, 1, 0)


def test_a_run_that_failed_is_none_of_those_that_brought_an_answer(
    pool: ModelPool, two: dict[str, ServedModel]
) -> None:
    models = [DeployedModel("fragile", "id", 0.99, 0.1), *deployed("small", small=0.1)]
    with RunningDeployment(deployment(models), two, pool) as running:
        assert running.wait_ready(60)
        usual = running.infer({"x": X})
        assert (usual.model, usual.runs) == ("fragile", ())
        other = running.infer({"x": np.full((3, 4), 100, np.float32)})
        assert other.model == "small"
        ((samples, took_ms),) = other.runs
        assert samples == 3
        assert 0 < took_ms < other.infer_ms
