"""Whether a deployment that was planned again is another one, and how it is switched to."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sommelier.deployment_records import DeployedModel, Deployment

if TYPE_CHECKING:
    from sommelier.runtime.deployment import RunningDeployment
    from sommelier.runtime.session_cache import ServedModel

logger = logging.getLogger(__name__)

ALIKE = 0.2  # a latency that was measured anew within so much of the old one changes nothing


def alike(old: Deployment, new: Deployment) -> bool:
    """Whether a switch would change nothing that matters: the same models in the same order with
    the same accuracies, and latencies within ALIKE of each other."""
    rest = replace(new, models=old.models, catalog_version=old.catalog_version, notes=old.notes)
    same = rest == replace(old, created_at=new.created_at)
    pairs = zip(old.models, new.models, strict=False)
    return same and len(old.models) == len(new.models) and all(_alike(a, b) for a, b in pairs)


def switched(
    running: RunningDeployment,
    new: Deployment,
    models: Mapping[str, ServedModel],
    *,
    plan: Any = None,
) -> tuple[str, ...]:
    """What a person should know of the switch: models that could not be loaded, and why.

    Raises SommelierError, with nothing changed, where something of the new deployment is missing.
    """
    logger.info("deployment %s is planned again", new.name)
    switch = running.replan(new, models, plan=plan)
    if switch.added or switch.dropped:
        changes = (("new", switch.added), ("gone", switch.dropped), ("kept", switch.kept))
        told = "; ".join(f"{word}: {', '.join(names)}" for word, names in changes if names)
        logger.info("deployment %s has switched; %s", new.name, told)
    return tuple(f"{name}: {why}" for name, why in switch.failed.items())


def _alike(old: DeployedModel, new: DeployedModel) -> bool:
    latencies = (old.mean_ms, new.mean_ms)
    if replace(new, mean_ms=old.mean_ms, std_ms=old.std_ms) != old:
        return False
    if None in latencies:
        return latencies[0] is latencies[1]
    assert old.mean_ms is not None
    assert new.mean_ms is not None
    return abs(new.mean_ms - old.mean_ms) <= ALIKE * old.mean_ms
