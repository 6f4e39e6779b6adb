"""What runs behind a server: deployments as a plan says them, started, switched and ended."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from sommelier.errors import SommelierError
from sommelier.runtime.ledger import ServedLedger
from sommelier.runtime.switching import alike, switched
from sommelier.shell.config import ConfigError
from sommelier.shell.serving_plan import ServingPlan, Wanted
from sommelier.storage.servers import shown

if TYPE_CHECKING:
    from sommelier.connection import Connection
    from sommelier.deployment_records import Deployment
    from sommelier.runtime.deployment import RunningDeployment
    from sommelier.runtime.pool import ModelPool
    from sommelier.runtime.server.service import ModelService
    from sommelier.runtime.session_cache import ServedModel
    from sommelier.runtime.watching import Watch

logger = logging.getLogger(__name__)

DRAIN_S = 30.0  # what a deployment that was undeployed has for the requests it accepted

_Ready = tuple["Deployment", Mapping[str, "ServedModel"]]


class ServedDatabase:
    """The deployments and models of a database that this process serves. `start`, `follow` and
    `close` are for one thread at a time.

    ledger : what they measured and nobody has kept yet.
    """

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self.ledger = ServedLedger()
        self._running: dict[str, RunningDeployment] = {}
        self._watches: dict[str, Watch] = {}
        self._told: dict[str, str] = {}
        self._pool: ModelPool | None = None
        self._db: Connection | None = None
        self._service: ModelService | None = None

    def start(self, plan: ServingPlan) -> ModelService:
        """Everything that is served, on its way into memory. What cannot be is left out, unless it
        was asked for by name. Raises SommelierError for that, and where nothing can be served."""
        from sommelier.runtime.server.service import ModelService

        failed = dict(plan.failed)
        self._check(failed, len(plan.deployments) + len(plan.models) + len(plan.with_database))
        self._service = service = ModelService(self._make_pool(plan), [])
        for name, begin in self._to_begin(plan).items():
            try:
                begin()
            except SommelierError as error:
                failed[name] = error
        self._check(failed, len(service.names))
        for name, why in failed.items():
            self._told[name] = _not_served(why)  # by who lists what is served
            service.leave_out(name, why.message)
        return service

    def follow(self, plan: ServingPlan) -> None:
        """Go on as another plan says. No request that was accepted is lost; what cannot be planned
        any more stays as it was, and says so."""
        asked = self._asked(plan)
        for name, ready in asked.items():
            running = self._running.get(name)
            try:
                if running is None:
                    logger.info("deployment %s is new", name)
                    self._begin(name, ready)
                else:
                    self._go_on(running, ready)
            except SommelierError as error:
                self._stays(name, error)
        for name, why in plan.failed:
            self._stays(name, why)
        for name in plan.with_database:
            self._waits(name)
        self._drop({*asked, *plan.with_database, *(name for name, _ in plan.failed)})

    def look(self) -> bool:
        """Whether a deployment is to be planned again because its models take other times than it
        was planned by; their notices are as of now."""
        reasons = [watch.look() for watch in self._watches.values()]
        return any(reason is not None for reason in reasons)

    def collect(self) -> None:
        """Take down what was measured until now."""
        for running in tuple(self._running.values()):
            self.ledger.collect(running)

    def close(self) -> None:
        """Ends what was started."""
        for running in self._running.values():
            running.close()
        if self._db is not None:
            self._db.close()
        elif self._pool is not None:
            self._pool.close()

    # ---- inside

    def _check(self, failed: Mapping[str, SommelierError], others: int) -> None:
        """Raises where the server is not to start. others : that may be served."""
        if failed and (not self._wanted.everything or (len(failed) == 1 and not others)):
            raise _refusal(*next(iter(failed.items())))
        if failed and not others:
            raise SommelierError(
                "none of the deployments can be served",
                hint="; ".join(f"{name}: {error.message}" for name, error in failed.items()),
            )
        if not others and not self._wanted.questions:
            raise ConfigError(
                f"nothing is deployed in {shown(self._wanted.database)}",
                hint="DEPLOY (SELECT MODELS ...) AS name keeps a deployment; --models NAME serves"
                " a single model; --query serves answers to questions alone",
            )

    def _asked(self, plan: ServingPlan) -> dict[str, _Ready]:
        """Deployments by name, a single model being a deployment of one."""
        from sommelier.deployment_records import DeploymentOptions
        from sommelier.runtime.server.served import deployment_of

        found: dict[str, _Ready] = {d.name: (d, files) for d, files in plan.deployments}
        options = DeploymentOptions(queue=self._wanted.queue)
        for model in plan.models:
            found[model.name] = deployment_of(model, options), {model.name: model}
        return found

    def _to_begin(self, plan: ServingPlan) -> Mapping[str, Callable[[], None]]:
        """By name what starts each of them, which raises SommelierError where it cannot be."""
        found = {name: partial(self._begin_plan, name) for name in plan.with_database}
        asked = self._asked(plan).items()
        return found | {name: partial(self._begin, name, ready) for name, ready in asked}

    def _begin_plan(self, name: str) -> None:
        assert self._service is not None, "started"
        assert self._db is not None, "connected"
        self._service.add(self._db.deploy(name))

    def _begin(self, name: str, ready: _Ready) -> None:
        from sommelier.runtime.deployment import RunningDeployment
        from sommelier.runtime.watching import Watch

        assert self._service is not None, "started"
        if name in self._service.names:
            raise SommelierError("it was an activation plan", hint="start the server again")
        running = RunningDeployment(*ready, self._service.pool)
        self._running[name], self._watches[name] = running, Watch(running)
        self._told.pop(name, None)
        self._service.add(running)

    def _go_on(self, running: RunningDeployment, ready: _Ready) -> None:
        """Switch to another plan, if it is another one."""
        new, files = ready
        told: tuple[str, ...] = ()
        self._told.pop(new.name, None)
        if not alike(running.deployment, new):
            self.ledger.collect(running)  # of models that go
            told = switched(running, new, files)
        self._watches[running.name].planned(*told)

    def _stays(self, name: str, error: SommelierError) -> None:
        """What is served goes on as it was, what is not is left out."""
        assert self._service is not None, "started"
        if name not in self._service.names:
            self._tell(name, _not_served(error))
            self._service.leave_out(name, error.message)
            return
        self._tell(name, f"cannot be planned: {error.message}")
        if name in self._watches:
            told = f"planned again in vain, so it stays as it was: {error.message}"
            self._watches[name].planned(told)

    def _waits(self, name: str) -> None:
        """An activation plan that is not served yet."""
        assert self._service is not None, "started"
        if name not in self._service.names:
            told = "is an activation plan, which is served from the next start on"
            self._tell(name, told)
            self._service.leave_out(name, f"it {told}")

    def _tell(self, name: str, what: str) -> None:
        """Log what is wrong with a deployment, once."""
        if self._told.get(name) != what:
            self._told[name] = what
            logger.warning("deployment %s %s", name, what)

    def _drop(self, known: set[str]) -> None:
        """Others than these were undeployed: unknown to new requests, closed once they have
        answered what they accepted."""
        assert self._service is not None, "started"
        for left_out in self._service.left_out:
            if left_out.name not in known:
                logger.info("deployment %s was dropped", left_out.name)
                self._service.remove(left_out.name)
        for name in sorted(set(self._service.names) - known):
            logger.info("deployment %s was dropped", name)
            self._service.remove(name)
            running = self._running.pop(name, None)
            if running is None:
                assert self._db is not None, "else it would run here"
                left = self._db.serving.stop(name, DRAIN_S)
            else:
                del self._watches[name]
                left = running.drain(DRAIN_S)
                self.ledger.collect(running)
                running.close()
            if left:
                logger.warning("%d requests to %s were cancelled", left, name)

    def _make_pool(self, plan: ServingPlan) -> ModelPool:
        """Of the database's connection where a deployment needs one."""
        if plan.with_database:
            from sommelier.connection import connect

            self._db = connect(self._wanted.database, read_only=True, folder=self._wanted.folder)
            return self._db.serving.pool
        from sommelier.runtime.pool import ModelPool
        from sommelier.runtime.session_cache import SessionCache

        self._pool = ModelPool(SessionCache(plan.sessions), plan.settings, plan.rules)
        return self._pool


def _not_served(error: SommelierError) -> str:
    return f"is not served: {error.message}"


def _refusal(name: str, error: SommelierError) -> SommelierError:
    """Why there is no start; it names what was asked for."""
    if f"'{name}'" in error.message:
        return error
    told = f"'{name}' cannot be served: {error.message}"
    return SommelierError(told, hint=error.hint, suggestions=error.suggestions)
