"""Names that only some room below knows, each asked when somebody completes a word with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping


def _connectors() -> list[str]:
    from sommelier.connectors.registry import connector_names

    return connector_names()


def _link_options() -> list[str]:
    from sommelier.connection.linking import LINK_OPTIONS

    return list(LINK_OPTIONS)


def _fusion_options() -> list[str]:
    from sommelier.connection.fusing import FUSION_OPTIONS

    return list(FUSION_OPTIONS)


def _cascade_options() -> list[str]:
    from sommelier.connection.cascading import CASCADE_OPTIONS

    return list(CASCADE_OPTIONS)


def _deploy_options() -> list[str]:
    from sommelier.engine.deployment import DEPLOY_OPTIONS
    from sommelier.runtime.policies import DEFAULT, knobs_of

    return list(dict.fromkeys((*DEPLOY_OPTIONS, *knobs_of(DEFAULT))))


def _simulate_options() -> list[str]:
    from sommelier.connection.simulating import SIMULATE_OPTIONS

    return list(SIMULATE_OPTIONS)


def _policies() -> list[str]:
    from sommelier.runtime.policies import POLICIES

    return list(POLICIES)


def _traces() -> list[str]:
    from sommelier.runtime.traces import TRACES

    return list(TRACES)


NAMES: Mapping[str, Callable[[], list[str]]] = {
    "connector": _connectors,
    "link_option": _link_options,
    "fusion_option": _fusion_options,
    "cascade_option": _cascade_options,
    "deploy_option": _deploy_options,
    "simulate_option": _simulate_options,
    "policy": _policies,
    "trace": _traces,
    "promise": lambda: ["latency", "accuracy", "memory"],
}
