"""The tasks of ANALYZE on a Ray cluster: Ray says where, the leases in the catalog see to the rest.

Each task is a Ray task that takes its lease and keeps what it finds, as `sommelier worker` does. If
its node dies Ray starts it again elsewhere, where it waits for the lease to run out. A task that
needs a GPU asks Ray for one. This process only hands them out; what it has not handed out when it
ends stays in the catalog, for any worker.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sommelier.errors import AnalysisError, MissingDependencyError
from sommelier.storage.tasks import COMPARISON, TaskQueue

if TYPE_CHECKING:
    from sommelier.connection.connection import Connection
    from sommelier.connection.working import Worker
    from sommelier.records import AnalysisTask

logger = logging.getLogger(__name__)

LEASE_S = 10.0  # shorter than that of other workers: Ray tells a dead node sooner
LOOK_S = 0.2
IN_FLIGHT = 4  # tasks that Ray is given at once, for each CPU of the cluster
RETRIES = 5  # of Ray, for nodes that die; three tries that began set a task aside
_OPEN = ("pending", "running")


@dataclass(frozen=True, slots=True)
class Place:
    """A catalog as the nodes of a cluster reach it. url : with the password, if it has one."""

    url: str = field(repr=False)
    folder: str
    artifacts: str | None = None


@dataclass(frozen=True, slots=True)
class RayCluster:
    """Where `connect(workers=...)` has ANALYZE run. address : 'ray', or 'ray://head:10001'."""

    address: str
    place: Place


class OnRay:
    """One job on the cluster, handed out by a thread of its own until it has ended."""

    def __init__(self, db: Connection, cluster: RayCluster, job_id: int) -> None:
        """Begins at once. Raises MissingDependencyError without Ray, AnalysisError where it cannot
        be reached."""
        self.error: str | None = None
        self._queue = TaskQueue(db.catalog)
        self._cluster = cluster
        self._job_id = job_id
        self._ray = reached(cluster.address)
        self._thread = threading.Thread(target=self._run, name=f"ray {job_id}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._hand_out()
        except Exception as error:  # whoever waits has to hear of it
            logger.warning("job %d on Ray", self._job_id, exc_info=True)
            self.error = str(error) or repr(error)

    def _hand_out(self) -> None:
        perform = self._ray.remote(max_retries=RETRIES, num_cpus=1)(_perform)
        most = IN_FLIGHT * max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        flying: list[Any] = []
        tasks = [task for task in self._queue.tasks(self._job_id) if task.state in _OPEN]
        needed = self._queue.devices(self._job_id)
        for task in sorted(tasks, key=lambda task: task.aspect == COMPARISON):
            if task.aspect == COMPARISON:
                most = 1  # it waits for all others
            while len(flying) >= most:
                flying = self._landed(flying)
            device = needed.get(task.key, "cpu")
            options = {"num_gpus": 1} if device != "cpu" else {}
            flying.append(
                perform.options(**options).remote(self._cluster.place, device, *_named(task))
            )
        while flying:
            flying = self._landed(flying)

    def _landed(self, flying: list[Any]) -> list[Any]:
        """Those that fly on. Raises what went wrong on the cluster itself; nothing flies any more
        once the job has ended."""
        ended, going = self._ray.wait(flying, timeout=LOOK_S)
        self._ray.get(ended)
        if self._queue.job(self._job_id).state != "running":
            return []
        return list(going)


def reached(address: str) -> Any:
    """Ray, connected to a cluster; one on this machine for 'ray' where none is known."""
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError(
            "workers on a cluster need Ray, which is not installed",
            hint="pip install 'sommelier-db[ray]', on the cluster's nodes too",
        ) from error
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(address=None if address == "ray" else address, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise AnalysisError(
                f"the Ray cluster at '{address}' cannot be reached: {error}",
                hint="ray start --head starts one; 'ray' is one on this machine",
            ) from error
    return ray


def _named(task: AnalysisTask) -> tuple[int, str]:
    return task.job_id, task.key


def _perform(place: Place, device: str, job_id: int, key: str) -> str:
    """On a node: do one task, or wait until it is done; its state."""
    worker, queue = _here().worker(place, device)
    while True:
        worker.step(job_id=job_id, key=key)
        state = queue.state_of(job_id, key)
        if state not in _OPEN or queue.job(job_id).state != "running":
            return state
        time.sleep(LOOK_S)


@functools.cache
def _here() -> _Process:
    return _Process()


class _Process:
    """What a process of Ray's keeps open between tasks."""

    def __init__(self) -> None:
        self._asked: tuple[Place, str] | None = None
        self._open: tuple[Connection, Worker, TaskQueue] | None = None

    def worker(self, place: Place, device: str) -> tuple[Worker, TaskQueue]:
        """The worker of a catalog; that of another one is closed before."""
        from sommelier.connection.connecting import connect
        from sommelier.connection.working import Worker

        if self._open is None or self._asked != (place, device):
            self._close()
            db = connect(place.url, folder=place.folder, artifacts=place.artifacts)
            self._open = db, Worker(db, device=device, lease_s=LEASE_S), TaskQueue(db.catalog)
            self._asked = place, device
        return self._open[1:]

    def _close(self) -> None:
        before, self._open = self._open, None
        if before is not None:
            before[1].close()
            before[0].close()
