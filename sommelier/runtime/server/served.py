"""One name that is served: a deployment, and what clients have done with it."""

from __future__ import annotations

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
    """tally : of its requests. unloaded : a client unloaded it. warm : it was ready once."""

    running: RunningDeployment
    tally: Tally
    unloaded: bool = False
    warm: bool = False

    @property
    def ready(self) -> bool:
        """Whether requests are welcome. A deployment is ready once it was, until a client unloads
        it: a model that left memory for want of use is loaded again by the next request."""
        self.warm = self.warm or self.running.ready
        return self.warm and not self.unloaded

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
        models = self.running.state().models
        told = "; ".join(f"{m.name}: {m.reason or m.state}" for m in models if m.state != READY)
        failed = bool(models) and all(m.state == "failed" for m in models)
        return ("UNAVAILABLE" if failed else "LOADING"), told
