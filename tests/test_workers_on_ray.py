"""ANALYZE on a real Ray cluster of three nodes, made on this machine, of which one is killed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sommelier as sm
from sommelier.errors import StorageError
from tests.factories import hanging_model, mlp_classifier
from tests.over_postgres import Databases

MODELS = 8
SOON = 240.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_raylet_start_wait_time_s", "240")  # a machine with other things to do
        import ray
        from ray.cluster_utils import Cluster

        node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
        # the head has no CPU to give, so tasks run on the other two
        head = {**node, "num_cpus": 0, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(2):
            cluster.add_node(**node)
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def db(databases: Databases, tmp_path: Path) -> Iterator[sm.Connection]:
    for index in range(MODELS):
        mlp_classifier(tmp_path / f"m{index}.onnx", seed=index, hidden=(8,))
    np.save(tmp_path / "points.npy", np.random.default_rng(0).normal(size=(80, 4)).astype("f4"))
    url = databases.fresh(tmp_path / "server")
    with sm.connect(url, folder=tmp_path / "files", workers="ray") as connection:
        connection.import_models("folder", f"{tmp_path}/*.onnx")
        connection.register_dataset("points", tmp_path / "points.npy")
        yield connection


@pytest.mark.slow
def test_a_cluster_analyzes_and_loses_nothing_with_a_node(
    cluster: Any, db: sm.Connection, tmp_path: Path
) -> None:
    outcome: Any = db.execute("ANALYZE m0, m1 FOR EQUIVALENCE USING dataset = 'points'")
    assert (outcome.dicts()[0]["status"], outcome.dicts()[0]["rows"]) == ("analyzed", 2)
    for number in range(2):
        hanging_model(tmp_path / f"slow{number}.onnx", trips=800_000 + number)
        db.import_models("folder", f"{tmp_path}/slow{number}.onnx")
    several = ", ".join(f"m{index}" for index in range(2, MODELS))
    started: Any = db.execute(
        f"ANALYZE slow0, slow1, {several} FOR EQUIVALENCE USING samples = 1 ASYNC"
    )
    job = started.dicts()[0]["job"]
    busy = "SELECT 1 FROM job_tasks WHERE job_id = ? AND state = 'running' AND model LIKE 'slow%'"
    end = time.monotonic() + SOON
    while len(db.sql(busy, [job]).rows) < 2:  # one on each node
        assert time.monotonic() < end
        time.sleep(0.02)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    row = db.wait(job, SOON)
    query = "SELECT model, state, attempts, reason, log FROM job_tasks WHERE model IS NOT NULL"
    tasks: list[dict[str, Any]] = db.sql(query).dicts()
    assert (row.state, row.failed) == ("done", 0), tasks
    assert sorted(task["attempts"] for task in tasks if task["model"].startswith("slow")) == [1, 2]
    counts = "SELECT count(*), count(DISTINCT (model_id, probe_set_id)) FROM sketches"
    found, different = db.sql(counts).rows[0]
    assert found == different
    assert row.done + row.skipped == row.total


@pytest.mark.slow
def test_a_statement_on_a_cluster_can_be_cancelled(
    cluster: Any, db: sm.Connection, tmp_path: Path
) -> None:
    hanging_model(tmp_path / "hangs.onnx")
    db.import_models("folder", f"{tmp_path}/hangs.onnx")
    threading.Timer(3, db.cancel).start()
    with pytest.raises(sm.SommelierError, match="cancelled"):
        db.execute("ANALYZE hangs FOR EQUIVALENCE USING samples = 1, time_limit = 10min")
    assert db.sql("SELECT state FROM jobs").rows == [("cancelled",)]


@pytest.mark.duckdb("it is about files")
def test_a_file_is_not_analyzed_on_a_cluster(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="DuckDB file"):
        sm.connect(tmp_path / "m.sommelier", workers="ray")
