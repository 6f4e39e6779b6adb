"""Notices what a deployment was planned by and is so no longer, and has it planned again.

catalog version, served latency, models without room --Watch--> Change --replan--> Replanned
  --RunningDeployment.replan--> the new models answer
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from sommelier.deployment_records import Deployment
from sommelier.errors import SommelierError
from sommelier.runtime.collaborate import CollaborativePlan
from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.session_cache import ServedModel

logger = logging.getLogger(__name__)

INTERVAL_S = 5.0
FAR = (
    1.5  # a model that takes so many times its profile, or so much less, is another one to plan by
)
ENOUGH = 50  # served requests before that is believed

ChangeKind = Literal["catalog", "latency", "memory"]


@dataclass(frozen=True, slots=True)
class Change:
    """Why a deployment is to be planned again. reason : one sentence."""

    deployment: str
    kind: ChangeKind
    reason: str


@dataclass(frozen=True, slots=True)
class Replanned:
    """What to go on with; as RunningDeployment.replan takes it."""

    deployment: Deployment
    models: Mapping[str, ServedModel]
    plan: CollaborativePlan | None = None


Replan = Callable[[Change], Replanned | None]


@dataclass(slots=True)
class _Watched:
    """version : of the catalog it was last planned to. planned_ms : mean times it was planned by.
    short : models that had no room when it was planned."""

    running: RunningDeployment
    replan: Replan
    version: int
    planned_ms: dict[str, float] = field(default_factory=dict)
    short: frozenset[str] = frozenset()


class Watch:
    """Looks at deployments from time to time, in a thread of its own. `close` ends it.

    A change is told once: whatever `replan` answers, the state of that moment counts as planned by.
    """

    def __init__(
        self, catalog_version: Callable[[], int], *, interval_s: float = INTERVAL_S
    ) -> None:
        """catalog_version : a number that grows with every change that may matter; cheap."""
        self._catalog_version = catalog_version
        self._interval_s = interval_s
        self._watched: dict[str, _Watched] = {}
        self._looking = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, deployment: RunningDeployment, replan: Replan) -> None:
        """Watch a deployment. replan : plans it again, None to leave it as it is; called in the
        watch's thread, one at a time."""
        with self._looking:
            planned = deployment.deployment
            watched = _Watched(deployment, replan, planned.catalog_version)
            watched.planned_ms = _profiles(planned)
            self._watched[deployment.name] = watched
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, daemon=True)
                self._thread.start()

    def remove(self, name: str) -> None:
        """Watch it no longer; a planning that has begun is waited for."""
        with self._looking:
            self._watched.pop(name, None)

    def check(self) -> tuple[Change, ...]:
        """Look now; the changes that were found and acted on."""
        found = []
        with self._looking:
            for watched in tuple(self._watched.values()):
                change = self._change(watched)
                if change is not None:
                    found.append(change)
                    self._act(watched, change)
        return tuple(found)

    def close(self) -> None:
        """Look no more."""
        self._closed.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _look(self) -> None:
        while not self._closed.wait(self._interval_s):
            try:
                self.check()
            except SommelierError as error:  # the catalog could not be asked: next time
                logger.warning("deployments could not be looked after: %s", error)

    def _change(self, watched: _Watched) -> Change | None:
        """What is not as it was planned; notes it as known."""
        name = watched.running.name
        version = self._catalog_version()
        if version != watched.version:
            watched.version = version
            return Change(name, "catalog", "the catalog has changed")
        for model, mean_ms in _served(watched.running).items():
            planned = watched.planned_ms.get(model, math.nan)
            if planned != planned:
                watched.planned_ms[model] = mean_ms
            elif not planned / FAR <= mean_ms <= planned * FAR:
                watched.planned_ms[model] = mean_ms
                reason = f"{model} takes {mean_ms:.3g} ms, and was planned to take {planned:.3g} ms"
                return Change(name, "latency", reason)
        short = _without_room(watched.running)
        if short - watched.short:
            reason = f"there is no room for {', '.join(sorted(short - watched.short))}"
            watched.short = short
            return Change(name, "memory", reason)
        watched.short = short
        return None

    def _act(self, watched: _Watched, change: Change) -> None:
        """Plan again; a failure is told by the deployment and tried with the next change."""
        running = watched.running
        try:
            planned = watched.replan(change)
            if planned is not None:
                switch = running.replan(planned.deployment, planned.models, plan=planned.plan)
                watched.planned_ms.update(_profiles(planned.deployment))
                logger.info("%s was planned again, %s: %s", running.name, change.reason, switch)
        except SommelierError as error:
            logger.warning("%s could not be planned again: %s", running.name, error)
            running.notice(f"{change.reason}, and planning it again failed: {error.message}")
        else:
            running.notice()


def _profiles(deployment: Deployment) -> dict[str, float]:
    return {m.name: m.mean_ms for m in deployment.models if m.mean_ms is not None}


def _served(running: RunningDeployment) -> dict[str, float]:
    """Mean times of models that answered enough requests of one sample."""
    return {
        row.model: row.mean_ms
        for row in running.telemetry.summary()
        if row.batch == 1 and row.samples >= ENOUGH
    }


def _without_room(running: RunningDeployment) -> frozenset[str]:
    """Models of the deployment for which the pool has no room."""
    return frozenset(
        model.name
        for model in running.state().models
        if model.state == "absent" and (model.reason or "").startswith("no room")
    )
