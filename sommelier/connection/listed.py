"""Names that only some room below knows, for completing a word with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sommelier.connection.cascading import CASCADE_OPTIONS
from sommelier.connection.fusing import FUSION_OPTIONS
from sommelier.connection.linking import LINK_OPTIONS
from sommelier.connection.simulating import SIMULATE_OPTIONS
from sommelier.engine.deployment import DEPLOY_OPTIONS


def _connectors() -> list[str]:
    from sommelier.connectors.registry import connector_names

    return connector_names()


def _deploy_options() -> list[str]:
    from sommelier.runtime.policies import DEFAULT, knobs_of

    return list(dict.fromkeys((*DEPLOY_OPTIONS, *knobs_of(DEFAULT))))


def _policies() -> list[str]:
    from sommelier.runtime.policies import POLICIES

    return list(POLICIES)


def _traces() -> list[str]:
    from sommelier.runtime.traces import TRACES

    return list(TRACES)


NAMES: Mapping[str, Callable[[], list[str]]] = {
    "connector": _connectors,
    "link_option": lambda: list(LINK_OPTIONS),
    "fusion_option": lambda: list(FUSION_OPTIONS),
    "cascade_option": lambda: list(CASCADE_OPTIONS),
    "deploy_option": _deploy_options,
    "simulate_option": lambda: list(SIMULATE_OPTIONS),
    "policy": _policies,
    "trace": _traces,
    "promise": lambda: ["latency", "accuracy", "memory"],
}
"""Names by kind; each is asked when somebody completes a word, for some take a while to import."""
