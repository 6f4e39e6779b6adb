"""One name that is asked for: a deployment, and what clients have done with it; or why not."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sommelier.deployment_records import DeployedModel, Deployment, DeploymentOptions
from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.pool_entries import READY
from sommelier.runtime.server.metrics import counted
from sommelier.runtime.server.protocol import BAD_REQUEST, NOT_FOUND, UNAVAILABLE, ProtocolError
from sommelier.runtime.server.statistics import Tally
from sommelier.storage.naming import nearest

if TYPE_CHECKING:
    from sommelier.runtime.answers import Answer
    from sommelier.runtime.pool import ModelPool
    from sommelier.runtime.session_cache import ServedModel


def deployment_of(model: ServedModel, options: DeploymentOptions | None = None) -> Deployment:
    """A model as a deployment of one, under its own name."""
    return Deployment(
        name=model.name,
        kind="models",
        statement="",
        models=(DeployedModel(model.name, model.id),),
        options=options or DeploymentOptions(),
    )


def single_model(
    model: ServedModel, pool: ModelPool, options: DeploymentOptions | None = None
) -> RunningDeployment:
    """The same, running."""
    return RunningDeployment(deployment_of(model, options), {model.name: model}, pool)


@dataclass(slots=True, eq=False)
class Served:
    """tally : of its requests. unloaded : a client unloaded it."""

    running: RunningDeployment
    tally: Tally
    unloaded: bool = False

    @property
    def ready(self) -> bool:
        """Whether requests are welcome."""
        return self.running.ready and not self.unloaded

    def give_back(self, others: Iterable[RunningDeployment], timeout_s: float) -> None:
        """Unload its models but those that others need. Raises TimeoutError where what was accepted
        takes longer than this."""
        left = self.running.withdraw(timeout_s)
        if left:
            raise TimeoutError(f"{left} requests have no answer after {timeout_s:g} s")
        needed = {model for other in others for model in other.models}
        for model in self.running.models:
            if model not in needed:
                reason = "a client unloaded it"
                self.running.pool.unload(model, timeout_s=timeout_s, reason=reason)

    def count(self, answer: Answer, instants: tuple[int, int, int]) -> None:
        """instants : ns; when it came, was submitted, and its answer was begun to be made up."""
        started, submitted, made = instants
        now = time.perf_counter_ns()
        ns = (
            now - started, int(answer.queue_ms * 1e6), submitted - started,
            int(answer.infer_ms * 1e6), now - made,
        )  # fmt: skip
        self.tally.answered(counted(answer, time.time(), ns))

    @property
    def hopeless(self) -> bool:
        """Whether it is not and will not be."""
        return self.unloaded or self.state[0] == "UNAVAILABLE"

    @property
    def state(self) -> tuple[str, str]:
        """State and reason in the words of the protocol."""
        if self.unloaded:
            return "UNAVAILABLE", "a client unloaded it"
        if self.ready:
            return "READY", ""
        state = self.running.state()
        told = "; ".join(
            f"{m.name}: {m.reason or m.state}" for m in state.models if m.state != READY
        )
        return ("UNAVAILABLE" if state.status == "failed" else "LOADING"), told

    @property
    def not_ready(self) -> ProtocolError:
        """What a client is told who needs it."""
        return _not_ready(self.running.name, self.state[1])


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A deployment of the database that cannot be served, and why."""

    name: str
    reason: str

    @property
    def refusal(self) -> ProtocolError:
        """What a client is told who asks it."""
        return ProtocolError(UNAVAILABLE, f"'{self.name}' is not served: {self.reason}")

    @property
    def not_ready(self) -> ProtocolError:
        """What a client is told who wants to know what it takes."""
        return _not_ready(self.name, self.reason)


def _not_ready(name: str, reason: str) -> ProtocolError:
    return ProtocolError(BAD_REQUEST, f"Request for model '{name}' that is not ready: {reason}")


def not_found(name: str, version: str, names: Iterable[str]) -> ProtocolError:
    """What a client is told of a name, or a version of it, that there is not. names : there are."""
    asked, told = f"'{name[:200]}'", ""
    if name in names:
        asked += f" version {version[:40]}"
    elif near := nearest(name, names):
        told = f"; did you mean '{near[0]}'?"
    return ProtocolError(NOT_FOUND, f"Request for unknown model: {asked} is not found{told}")
