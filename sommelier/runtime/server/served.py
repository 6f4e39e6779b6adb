"""One name that is served: a deployment, and what clients have done with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sommelier.deployment_records import DeployedModel, Deployment, DeploymentOptions
from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.pool_entries import READY
from sommelier.runtime.server.statistics import Tally

if TYPE_CHECKING:
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
