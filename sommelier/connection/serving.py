"""The deployments that run in this process: started, planned again, and what they measured kept.

One pool of models is shared by all of them. Three things happen beside the requests, each in a
thread of its own and none on their way: models load, statements are run again when the catalog
has changed, and what was measured is written down.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from sommelier.deployment_records import Deployment
from sommelier.errors import SommelierError, StorageError
from sommelier.runtime.ledger import ServedLedger
from sommelier.runtime.switching import alike, switched

if TYPE_CHECKING:
    from sommelier.connection.connection import Connection
    from sommelier.runtime.deployment import RunningDeployment
    from sommelier.runtime.pool import ModelPool
    from sommelier.runtime.pool_entries import PoolRules
    from sommelier.runtime.session_cache import ServedModel
    from sommelier.runtime.sessions import SessionSettings
    from sommelier.runtime.watching import Watch

logger = logging.getLogger(__name__)

WRITE_EVERY_S = 30.0  # a crash loses at most what was measured since
LOOK_EVERY_S = 2.0  # how soon a change of the catalog is noticed
DRAIN_S = 10.0  # what close() and UNDEPLOY wait for requests that were accepted


class Serving:
    """What runs of a database's deployments in this process. Nothing is made before it is used."""

    def __init__(self, db: Connection) -> None:
        self._db = db
        self._lock = threading.RLock()
        self._pool: ModelPool | None = None
        self._running: dict[str, RunningDeployment] = {}
        self._watches: dict[str, Watch] = {}
        self._ledger = ServedLedger()
        self._writing = threading.Lock()
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
            for known in self.running():
                if known.state().status == "closed":  # by who had it
                    self.stop(known.name)
            if name in self._running:
                return self._running[name]
            if self._pool is not None and not self._running and self.overruled():
                self._pool.close()
                self._pool = None
            deployment = self._up_to_date(self._db.catalog.deployment(name))
            running = self._run(deployment)
            self._begin(running)
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
                self._switch(running, deployment)

    def stop(self, name: str, timeout_s: float = DRAIN_S) -> int:
        """End a deployment, if it runs here: what it has accepted is answered first; how many
        requests were left at the end of the time, and are cancelled."""
        with self._lock:
            running = self._running.pop(name, None)
            self._watches.pop(name, None)
        if running is None:
            return 0
        left = running.drain(timeout_s)
        self._ledger.collect(running)
        self.write()
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
        if self._db.read_only:
            return
        with self._writing:
            for running in self.running():
                self._ledger.collect(running)
            figures = self._ledger.figures()
            if not figures:
                return
            catalog = self._db.catalog
            seen = catalog.generation == self._looked_at
            catalog.add_served(figures)
            self._ledger.kept(figures)
            if seen:  # what was measured is no reason to plan anything again
                self._looked_at = catalog.generation

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
            changed = [running for running in self.running() if self._runs_otherwise(running)]
            if changed:
                self.write()
            version = self._db.catalog.generation
            if version != self._looked_at:
                changed = list(self.running())
            for running in changed:
                self._check(running)
            self._looked_at = version

    # ---- inside

    def _begin(self, running: RunningDeployment) -> None:
        from sommelier.runtime.watching import Watch

        self._running[running.name] = running
        self._watches[running.name] = Watch(running)

    def _runs_otherwise(self, running: RunningDeployment) -> bool:
        """Whether it is to be planned again because its models take other times than planned. Where
        nothing may be written the catalog says the same again."""
        watch = self._watches.get(running.name)
        return watch is not None and watch.look() is not None and not self._db.read_only

    def _switch(self, running: RunningDeployment, new: Deployment) -> None:
        self._ledger.collect(running)  # of models that go
        told = switched(running, new, self._served(new), plan=self._plan(new))
        self._tell(running, *told)

    def _tell(self, running: RunningDeployment, *told: str) -> None:
        """What planning again brought."""
        watch = self._watches.get(running.name)
        if watch is not None:
            watch.planned(*told)

    def _run(self, deployment: Deployment) -> RunningDeployment:
        from sommelier.runtime.deployment import RunningDeployment

        return RunningDeployment(
            deployment, self._served(deployment), self.pool, plan=self._plan(deployment)
        )

    def settings(self) -> tuple[SessionSettings, PoolRules]:
        """How models run: the pool is of all deployments, so the largest of what each asks for. On
        which device its models run, what they may take together and how long they are kept is of
        each deployment alone."""
        from sommelier.runtime.pool_entries import PoolRules
        from sommelier.runtime.sessions import SessionSettings

        asked = [found.options for found in self._db.catalog.deployments()]
        usual = SessionSettings()
        settings = SessionSettings(
            threads=max([o.threads for o in asked if o.threads], default=usual.threads),
            batch=max([o.batch for o in asked if o.batch], default=usual.batch),
        )
        rules = PoolRules(servers=max([o.servers for o in asked if o.servers], default=1))
        return settings, rules

    def overruled(self) -> tuple[str, ...]:
        """Options of kept deployments that the pool does not follow, for it was made before: it is
        made anew once nothing runs here."""
        with self._lock:
            if self._pool is None:
                return ()
            settings, rules = self.settings()
            have = _options(self._pool.settings, self._pool.rules)
            return tuple(n for n, value in _options(settings, rules).items() if have[n] != value)

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
                model.name, path, record.id, record.preprocessing, model.stand_ins,
                inputs=record.inputs, outputs=record.outputs,
            )  # fmt: skip
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
                self._tell(running)
            else:
                self._switch(running, new)
        except SommelierError as error:
            logger.warning("deployment %s stays as it was: %s", old.name, error.message)
            self._tell(running, f"planned again in vain, so it stays as it was: {error.message}")

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


def _options(settings: SessionSettings, rules: PoolRules) -> dict[str, object]:
    """How a pool runs models, by the words of USING."""
    return {
        "threads": settings.threads,
        "batch": settings.batch,
        "servers": rules.servers,
    }
