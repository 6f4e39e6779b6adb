"""The deployments that run in this process: started, planned again, and what they measured kept.

One pool of models is shared by all of them. Three things happen beside the requests, each in a
thread of its own and none on their way: models load, statements are run again when the catalog
has changed, and what was measured is written down.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sommelier.deployment_records import DeployedModel, Deployment, ServedFigures
from sommelier.errors import SommelierError, StorageError

if TYPE_CHECKING:
    from sommelier.connection.connection import Connection
    from sommelier.runtime.deployment import RunningDeployment
    from sommelier.runtime.pool import ModelPool
    from sommelier.runtime.pool_entries import PoolRules
    from sommelier.runtime.session_cache import ServedModel
    from sommelier.runtime.sessions import SessionSettings

logger = logging.getLogger(__name__)

WRITE_EVERY_S = 30.0  # a crash loses at most what was measured since
LOOK_EVERY_S = 2.0  # how soon a change of the catalog is noticed
DRAIN_S = 10.0  # what close() and UNDEPLOY wait for requests that were accepted
ALIKE = 0.2  # a latency that was measured anew within so much of the old one changes nothing


class Serving:
    """What runs of a database's deployments in this process. Nothing is made before it is used."""

    def __init__(self, db: Connection) -> None:
        self._db = db
        self._lock = threading.RLock()
        self._pool: ModelPool | None = None
        self._running: dict[str, RunningDeployment] = {}
        self._answered_before: dict[tuple[str, str, str, int], int] = {}
        self._looked_at = -1
        self._checking = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, name: str) -> RunningDeployment:
        """The deployment of this name, running; the same object while it runs.

        Its statement is run again if the catalog has changed since. Raises UnknownNameError,
        BinderError where it can no longer be served.
        """
        with self._db.turn, self._lock:
            if name in self._running:
                return self._running[name]
            deployment = self._up_to_date(self._db.catalog.deployment(name))
            running = self._run(deployment)
            self._running[name] = running
            self._remember(name)
            self._look()
            return running

    def prepared(self, name: str) -> tuple[Deployment, dict[str, ServedModel]]:
        """A deployment as it would start, and its models' files: for another process to run.

        Raises as `start` does.
        """
        with self._db.turn:
            deployment = self._up_to_date(self._db.catalog.deployment(name))
            return deployment, self._served(deployment)

    def running(self) -> tuple[RunningDeployment, ...]:
        """The deployments that run here, by name."""
        with self._lock:
            return tuple(self._running[name] for name in sorted(self._running))

    def renew(self, deployment: Deployment) -> None:
        """Go on as another Deployment of its name says, if it runs here; no request is lost."""
        with self._lock:
            running = self._running.get(deployment.name)
            if running is not None:
                running.replan(deployment, self._served(deployment), plan=self._plan(deployment))

    def stop(self, name: str, timeout_s: float = DRAIN_S) -> int:
        """End a deployment, if it runs here: what it has accepted is answered first; how many
        requests were left at the end of the time, and are cancelled."""
        with self._lock:
            running = self._running.pop(name, None)
        if running is None:
            return 0
        left = running.drain(timeout_s)
        self._write({name: running})
        running.close()
        return left

    @property
    def pool(self) -> ModelPool:
        """The models that are loaded here, made on first use."""
        with self._lock:
            if self._pool is None:
                from sommelier.runtime.pool import ModelPool
                from sommelier.runtime.session_cache import SessionCache

                cache = SessionCache(self._db.catalog.directory / "sessions")
                self._pool = ModelPool(cache, *self.settings())
            return self._pool

    def write(self) -> None:
        """Keep what was measured until now; nothing for a read-only connection."""
        self._write(dict(self._running))

    def figures(
        self, running: Mapping[str, RunningDeployment] | None = None
    ) -> list[ServedFigures]:
        """What was measured until now, with the requests of earlier runs; of all that run here."""
        chosen = self._running if running is None else running
        return [figure for one in list(chosen.values()) for figure in self._figures(one)]

    def close(self) -> None:
        """Drain and end everything; what was measured is kept."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(DRAIN_S)
        for running in self.running():
            running.refuse()
        for running in self.running():
            self.stop(running.name)
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def check(self) -> None:
        """Look whether the catalog has changed, and plan what runs again; a thread does it too."""
        with self._checking:  # who calls it while the thread is at it waits for the outcome
            version = self._db.catalog.generation
            if version == self._looked_at:
                return
            for running in self.running():
                self._check(running)
            self._looked_at = version

    # ---- inside

    def _run(self, deployment: Deployment) -> RunningDeployment:
        from sommelier.runtime.deployment import RunningDeployment

        return RunningDeployment(
            deployment, self._served(deployment), self.pool, plan=self._plan(deployment)
        )

    def settings(self) -> tuple[SessionSettings, PoolRules]:
        """How models run: the pool is of all deployments, so the largest of what each asks for."""
        from sommelier.runtime.pool_entries import PoolRules
        from sommelier.runtime.sessions import SessionSettings

        asked = [found.options for found in self._db.catalog.deployments()]
        usual = SessionSettings()
        memory = [options.memory_bytes for options in asked]
        alive = [options.keep_alive_s for options in asked]
        settings = SessionSettings(
            device=next((o.device for o in asked if o.device), usual.device),
            threads=max([o.threads for o in asked if o.threads], default=usual.threads),
            batch=max([o.batch for o in asked if o.batch], default=usual.batch),
        )
        known = [number for number in memory if number is not None]
        rules = PoolRules(
            host_bytes=sum(known) if known and len(known) == len(memory) else None,
            servers=max([o.servers for o in asked if o.servers], default=1),
            keep_alive_s=max([s for s in alive if s is not None], default=None),
        )
        return settings, rules

    def _served(self, deployment: Deployment) -> dict[str, ServedModel]:
        """Its models with their files. Raises StorageError for a file that is gone."""
        from sommelier.runtime.session_cache import ServedModel

        catalog, artifacts = self._db.catalog, self._db.artifacts
        found = {}
        for model in deployment.models:
            record = catalog.model(model.model_id)
            if record.artifact is None:
                raise StorageError(f"{model.name} has no file to run")
            path = artifacts.path(record.artifact)
            found[model.name] = ServedModel(
                model.name, path, record.id, record.preprocessing, model.stand_ins
            )
        return found

    def _plan(self, deployment: Deployment) -> Any:
        """Of kind 'plan', what runs it."""
        if deployment.plan is None:
            return None
        from sommelier.connection.linking import open_plan

        return open_plan(self._db, self._db.catalog.plan(deployment.plan).plan)

    # ---- planning again

    def _up_to_date(self, deployment: Deployment) -> Deployment:
        """By the catalog as it is; as it was planned where nothing has changed since."""
        if deployment.catalog_version == self._db.catalog.generation:
            return deployment
        from sommelier.connection.deploying import planned_again

        with self._db.turn:
            return planned_again(deployment, self._db)

    def _check(self, running: RunningDeployment) -> None:
        """Plan one deployment again; where that fails, it goes on as it is and says so."""
        old = running.deployment
        try:
            new = self._up_to_date(old)
            if alike(old, new):
                running.notice()
                return
            logger.info("deployment %s is planned again", old.name)
            switch = running.replan(new, self._served(new), plan=self._plan(new))
            running.notice(*(f"{name}: {why}" for name, why in switch.failed.items()))
        except SommelierError as error:
            logger.warning("deployment %s stays as it was: %s", old.name, error.message)
            running.notice(f"planned again in vain, so it stays as it was: {error.message}")

    # ---- what was measured

    def _look(self) -> None:
        """Begin to look after what runs."""
        if self._thread is None:
            self._looked_at = self._db.catalog.generation
            self._thread = threading.Thread(
                target=self._look_after, name="deployments", daemon=True
            )
            self._thread.start()

    def _look_after(self) -> None:
        waited = 0.0
        with self._db.catalog.spared():
            while not self._stop.wait(LOOK_EVERY_S):
                waited += LOOK_EVERY_S
                try:
                    self.check()
                    if waited >= WRITE_EVERY_S:
                        waited = 0.0
                        self.write()
                except SommelierError as error:
                    logger.warning("deployments were not looked after: %s", error.message)

    def _remember(self, name: str) -> None:
        """How many requests were answered in earlier runs."""
        for figure in self._db.catalog.served(name):
            key = (name, figure.model_id, figure.device, figure.batch)
            self._answered_before[key] = figure.requests

    def _write(self, running: Mapping[str, RunningDeployment]) -> None:
        if self._db.read_only:
            return
        figures = self.figures(running)
        if figures:
            catalog = self._db.catalog
            seen = catalog.generation == self._looked_at
            catalog.add_served(figures)
            if seen:  # what was measured is no reason to plan anything again
                self._looked_at = catalog.generation

    def _figures(self, running: RunningDeployment) -> list[ServedFigures]:
        ids = {model.name: model.model_id for model in running.deployment.models}
        found = []
        for served in running.telemetry.summary():
            if served.samples and served.model in ids:
                key = (running.name, ids[served.model], served.device, served.batch)
                before = self._answered_before.get(key, 0)
                found.append(
                    ServedFigures(
                        *key, before + served.samples, served.mean_ms, served.std_ms,
                        served.p50_ms, served.p99_ms, served.queue_mean_ms,
                    )
                )  # fmt: skip
        return found


def alike(old: Deployment, new: Deployment) -> bool:
    """Whether a switch would change nothing that matters: the same models in the same order with
    the same accuracies, and latencies within ALIKE of each other."""
    rest = replace(new, models=old.models, catalog_version=old.catalog_version, notes=old.notes)
    same = rest == replace(old, created_at=new.created_at)
    pairs = zip(old.models, new.models, strict=False)
    return same and len(old.models) == len(new.models) and all(_alike(a, b) for a, b in pairs)


def _alike(old: DeployedModel, new: DeployedModel) -> bool:
    latencies = (old.mean_ms, new.mean_ms)
    if replace(new, mean_ms=old.mean_ms, std_ms=old.std_ms) != old:
        return False
    if None in latencies:
        return latencies[0] is latencies[1]
    assert old.mean_ms is not None
    assert new.mean_ms is not None
    return abs(new.mean_ms - old.mean_ms) <= ALIKE * old.mean_ms
