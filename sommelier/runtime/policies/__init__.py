"""Routing policies by the names that ROUTE BY knows.

balanced            the time left is shared with those who wait
chance_constrained  the most accurate model that is on time with a given probability
drift_plus_penalty  accuracy times chance, less what its time costs those who wait
modipick            ModiPick as published; modipick_queue_aware subtracts the wait
fixed, static_greedy, dynamic_greedy, related_random, related_accurate, pure_random : baselines
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from types import MappingProxyType
from typing import Any

from sommelier.deployment_records import DEFAULT_POLICY
from sommelier.errors import UnknownNameError
from sommelier.runtime.policies.balanced import Balanced
from sommelier.runtime.policies.baselines import DynamicGreedy, Fixed, PureRandom, StaticGreedy
from sommelier.runtime.policies.modipick import ModiPick, RelatedAccurate, RelatedRandom
from sommelier.runtime.policies.stochastic import ChanceConstrained, DriftPlusPenalty
from sommelier.runtime.policy import RoutingPolicy

DEFAULT = DEFAULT_POLICY

POLICIES: Mapping[str, Callable[..., RoutingPolicy]] = MappingProxyType(
    {
        "balanced": Balanced,
        "chance_constrained": ChanceConstrained,
        "drift_plus_penalty": DriftPlusPenalty,
        "dynamic_greedy": DynamicGreedy,
        "fixed": Fixed,
        "modipick": ModiPick,
        "modipick_queue_aware": partial(ModiPick, queue_aware=True),
        "pure_random": PureRandom,
        "related_accurate": RelatedAccurate,
        "related_random": RelatedRandom,
        "static_greedy": StaticGreedy,
    }
)


def routing_policy(name: str = DEFAULT, /, **knobs: Any) -> RoutingPolicy:
    """A policy by name with its knobs; each deployment needs its own.

    Raises UnknownNameError with the nearest names for a policy or a knob that does not exist,
    BinderError for a value out of range.
    """
    if name not in POLICIES:
        raise _unknown("policy", name, tuple(POLICIES))
    known = knobs_of(name)
    for knob in knobs:
        if knob not in known:
            raise _unknown(f"knob of '{name}'", knob, known)
    return POLICIES[name](**knobs)


def knobs_of(name: str) -> tuple[str, ...]:
    """Names of what can be set about a policy, in the order it documents them."""
    made = POLICIES[name]
    settled = made.keywords if isinstance(made, partial) else {}
    kind: Any = made.func if isinstance(made, partial) else made
    return tuple(f.name for f in fields(kind) if f.init and f.name not in settled)


def _unknown(kind: str, name: str, names: tuple[str, ...]) -> UnknownNameError:
    from sommelier.storage.naming import nearest  # needed only for a mistake

    return UnknownNameError(
        f"there is no {kind} '{name}'",
        suggestions=nearest(name, names),
        hint=f"there is {', '.join(names)}" if names else "it has none",
    )
