"""Does analysis get quicker with workers, and does anything get lost when they are killed?

A private PostgreSQL server, a catalog of small convolutional networks, `sommelier worker` in
processes of their own on this machine, as a user starts them. For 1, 2 and 4 workers: the networks
answer the same images, ANALYZE ALL FOR EQUIVALENCE ASYNC, from the statement to the end of the job
(the comparison of all pairs included); workers have been started and have done a job before.
`efficiency`: throughput by that of one worker and the number of workers; more workers than cores
cannot be efficient. `here`: ANALYZE in the process that asks, on one sandbox.

Then the same with two workers of which one is killed (-9) in the middle of a task, with leases of
3 s so that this takes no half minute: `lost` tasks that are not done, `duplicated` rows that are
there twice, and tasks that were begun twice (`retried`).

On a Ray cluster, made on this machine where Ray is installed, of a head without CPUs and two nodes
of one: the same job, then once more with one node removed without warning in the middle of it.

Figures: tasks_per_s_here, _1, _2, _4, _ray, efficiency_2, efficiency_4, lost, duplicated, retried,
killed_extra_s (what the job took longer than an undisturbed one with two workers), and of the node
that was killed ray_lost, ray_duplicated, ray_retried.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Cell, arguments, finish, table
from sommelier.connection import Connection, connect
from sommelier.records import Job
from tests.factories import conv_classifier
from tests.postgres_server import server

STATEMENT = "ANALYZE ALL FOR EQUIVALENCE USING dataset = 'images', workers = 1"
WARMING = "ANALYZE ALL FOR RESOURCES USING batch = 1"
PATIENCE_S = 600.0
LEASE_S = 3.0
SIZE = 32
DOUBLE = (
    "SELECT count(*) - count(DISTINCT (model_id, probe_set_id)) FROM sketches",
    "SELECT count(*) - count(DISTINCT (reference, candidate, probe_set_id)) FROM equivalences",
    """SELECT count(*) - count(DISTINCT (model_id, metric, method, device, batch, dataset,
    percentile, precision, threads, provenance)) FROM profiles""",
)


class Ground:
    """One catalog with models and images, of which every run gets a copy."""

    def __init__(self, url: str, folder: Path, models: int, images: int, seed: int) -> None:
        self._url, self._folder = url, folder
        self._copies = 0
        zoo = folder / "zoo"
        zoo.mkdir()
        for index in range(models):
            conv_classifier(zoo / f"net{index:03}.onnx", seed=seed + index, size=SIZE, width=16)
        data = np.random.default_rng(seed).normal(size=(images, 3, SIZE, SIZE))
        np.save(folder / "images.npy", data.astype(np.float32))
        self._create("ground", "template0 ENCODING 'UTF8'")
        with connect(self._address("ground"), folder=folder / "ground") as db:
            db.import_models("folder", f"{zoo}/*.onnx")
            db.register_dataset("images", folder / "images.npy")

    @contextlib.contextmanager
    def copy(
        self, workers: int, *, lease_s: float = 30.0, on_ray: bool = False
    ) -> Iterator[tuple[Connection, Workers]]:
        """A connection to a catalog of its own, and so many workers that are alive and warm."""
        self._copies += 1
        name = f"run{self._copies}"
        self._create(name, "ground")
        place = self._folder / name
        shutil.copytree(self._folder / "ground", place)
        kind = "ray" if on_ray else "shared"
        with (
            connect(self._address(name), folder=place, workers=kind) as db,
            Workers(self._address(name), place, workers, lease_s) as started,
        ):
            if workers:
                _until(lambda: len(_alive(db)) == workers, "the workers do not come")
                _job(db, f"{WARMING} ASYNC")
            yield db, started

    def _address(self, database: str) -> str:
        return f"{self._url.rpartition('/')[0]}/{database}"

    def _create(self, name: str, template: str) -> None:
        import psycopg

        with psycopg.connect(self._url.replace("+psycopg", ""), autocommit=True) as raw:
            raw.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())


class Workers:
    """Processes of `sommelier worker`, told to end at the end of the block."""

    def __init__(self, url: str, folder: Path, count: int, lease_s: float) -> None:
        command = [sys.executable, "-m", "sommelier", "worker", "--db", url]
        command += ["--folder", str(folder), "--grace", "0", "--lease", str(lease_s)]
        self.processes = [
            subprocess.Popen([*command, "--name", f"w{number}"], stderr=subprocess.DEVNULL)
            for number in range(count)
        ]

    def kill(self, number: int) -> None:
        self.processes[number].send_signal(signal.SIGKILL)
        self.processes[number].wait()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(PATIENCE_S)


def throughput(ground: Ground, workers: int) -> float:
    """Tasks a second; 0 workers: in this process."""
    with ground.copy(workers) as (db, _):
        begun = time.perf_counter()
        if workers:
            _job(db, f"{STATEMENT} ASYNC")
        else:
            db.execute(STATEMENT)
        seconds = time.perf_counter() - begun
        done = _number(db, "SELECT count(*) FROM sketches")
    return done / seconds


def killed(ground: Ground, usual_s: float) -> dict[str, float]:
    """What became of a job of which one of two workers was killed in the middle of a task."""
    with ground.copy(2, lease_s=LEASE_S) as (db, workers):
        begun = time.perf_counter()
        job = _asked(db, f"{STATEMENT} ASYNC")
        models = len(db.catalog.models())
        at_work = (
            "SELECT 1 FROM job_tasks WHERE job_id = ? AND worker = 'w0' AND state = 'running'"
            " AND aspect = 'sketch'"
            " AND (SELECT done FROM jobs WHERE id = job_id) >= ?"
        )
        _until(lambda: bool(db.sql(at_work, [job, models // 4]).rows), "w0 is never at work")
        workers.kill(0)
        ended = db.wait(job, PATIENCE_S)
        seconds = time.perf_counter() - begun
        return harm(db, ended) | {"killed_extra_s": seconds - usual_s}


def harm(db: Connection, job: Job) -> dict[str, float]:
    """What a job lost, has twice, and began twice."""
    tried = "SELECT count(*) FROM job_tasks WHERE job_id = ? AND attempts > 1"
    return {
        "lost": float(job.total - job.done - job.skipped),
        "duplicated": float(sum(_number(db, sql) for sql in DOUBLE)),
        "retried": float(_number(db, tried, job.id)),
    }


def on_ray(ground: Ground) -> dict[str, float]:
    """The throughput of a local cluster, and what became of a job whose node was killed."""
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    head = {**node, "num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        with ground.copy(0, on_ray=True) as (db, _):
            _job(db, f"{WARMING} ASYNC")
            begun = time.perf_counter()
            _job(db, f"{STATEMENT} ASYNC")
            rate = len(db.catalog.models()) / (time.perf_counter() - begun)
        with ground.copy(0, on_ray=True) as (db, _):
            job = _asked(db, f"{STATEMENT} ASYNC")
            working = "SELECT 1 FROM job_tasks WHERE job_id = ? AND state = 'running'"
            quarter = len(db.catalog.models()) // 4
            _until(
                lambda: (
                    db.background.job(job).done >= quarter and len(db.sql(working, [job]).rows) > 1
                ),
                "the nodes are never at work",
            )
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
            found = harm(db, db.wait(job, PATIENCE_S))
    finally:
        ray.shutdown()
        cluster.shutdown()
    return {"tasks_per_s_ray": rate} | {f"ray_{name}": value for name, value in found.items()}


def _number(db: Connection, sql: str, *values: object) -> int:
    found: Any = db.sql(sql, values).rows[0][0]
    return int(found)


def _asked(db: Connection, statement: str) -> int:
    """The number of the job."""
    found: Any = db.execute(statement)
    return int(found.dicts()[0]["job"])


def _alive(db: Connection) -> Sequence[object]:
    return db.sql("SELECT name FROM workers WHERE alive").rows


def _job(db: Connection, statement: str) -> None:
    job = _asked(db, statement)
    ended = db.wait(job, PATIENCE_S)
    if ended.state != "done":
        raise SystemExit(f"job {job} is {ended.state}: {ended.reason}")


def _until(true: object, what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():  # type: ignore[operator]
        if time.monotonic() > end:
            raise SystemExit(what)
        time.sleep(0.02)


def main() -> None:
    parser = arguments("throughput of analysis with workers, and what kills cost")
    parser.add_argument("--models", type=int, help="networks to analyse")
    parser.add_argument("--images", type=int, help="that each of them answers")
    options = parser.parse_args()
    models = options.models or (16 if options.quick else 64)
    images = options.images or (256 if options.quick else 2048)
    counts = (1, 2) if options.quick else (1, 2, 4)
    figures: dict[str, float] = {}
    rows: list[list[Cell]] = []
    with server() as url, tempfile.TemporaryDirectory() as folder:
        ground = Ground(url, Path(folder), models, images, options.seed)
        for count in (0, *counts):
            rate = throughput(ground, count)
            figures[f"tasks_per_s_{count or 'here'}"] = rate
            one = figures.get("tasks_per_s_1", rate)
            share: Cell = rate / one / count if count else "-"
            if count > 1:
                figures[f"efficiency_{count}"] = float(share)
            rows.append([f"{count} workers" if count else "here", rate, models / rate, share])
        figures |= killed(ground, models / figures["tasks_per_s_2"])
        if importlib.util.find_spec("ray") is None:
            print("on a Ray cluster: not run; pip install 'sommelier-db[ray]'")
        else:
            found = on_ray(ground)
            rate = found["tasks_per_s_ray"]
            rows.append(["ray, 2 nodes", rate, models / rate, rate / figures["tasks_per_s_1"] / 2])
            figures |= found
    header = ("", "tasks/s", "job s", "efficiency")
    print(table(f"{models} networks, {images} images, {os.cpu_count()} cores", header, rows))
    finish(figures, options.json)


if __name__ == "__main__":
    main()
