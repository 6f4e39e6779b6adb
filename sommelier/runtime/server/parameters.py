"""What a request may wish, by the parameters of the protocol and by ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypedDict

from sommelier.runtime.server.protocol import BAD_REQUEST, ProtocolError
from sommelier.storage.naming import nearest

DEADLINE, MIN_ACCURACY = "sommelier_deadline_ms", "sommelier_min_accuracy"
USUAL_PRIORITY = 5
"""What a request without a priority counts as; the protocol's highest is 1."""
_OURS = (DEADLINE, MIN_ACCURACY)
_KNOWN = frozenset({"priority", "timeout", "sequence_id"})


class Wishes(TypedDict):
    """Keywords of `RunningDeployment.infer`. deadline_ms : from now on. priority : smaller is
    served first, 0 is usual. min_accuracy : in [0, 1]."""

    deadline_ms: float | None
    priority: int
    min_accuracy: float | None


def wishes(parameters: Mapping[str, Any]) -> Wishes:
    """The wishes among a request's parameters; others are ignored, as the protocol has it.

    `priority` : 1 is the highest, 0 the usual one. `timeout` : microseconds; 0 is none.
    `sommelier_deadline_ms` goes before it. Raises ProtocolError for values that make no sense, for
    a `sommelier_...` that does not exist, and for sequences, which no model here can follow.
    """
    if not has_wishes(parameters):
        return {"deadline_ms": None, "priority": 0, "min_accuracy": None}
    for name in parameters:
        if name.startswith("sommelier_") and name not in _OURS:
            meant = " or ".join(nearest(name, list(_OURS)) or _OURS)
            raise ProtocolError(BAD_REQUEST, f"there is no parameter '{name}'; perhaps {meant}")
    if parameters.get("sequence_id") not in (None, 0, ""):
        raise ProtocolError(BAD_REQUEST, "requests are independent: there are no sequences")
    priority = _number(parameters, "priority", 0, 2**32)
    timeout_us = _number(parameters, "timeout", 0, math.inf)
    deadline_ms = _number(parameters, DEADLINE, 0, math.inf)
    if deadline_ms is None and timeout_us:
        deadline_ms = timeout_us / 1e3
    return {
        "deadline_ms": deadline_ms,
        "priority": int(priority) - USUAL_PRIORITY if priority else 0,
        "min_accuracy": _number(parameters, MIN_ACCURACY, 0, 1),
    }


def has_wishes(parameters: Mapping[str, Any]) -> bool:
    """Whether any of them is one that `wishes` looks at."""
    return any(name in _KNOWN or name.startswith("sommelier_") for name in parameters)


def _number(parameters: Mapping[str, Any], name: str, least: float, most: float) -> float | None:
    value = parameters.get(name)
    if value is None:
        return None
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not least <= number <= most or number == math.inf:
        told = str(value)[:40]
        bounds = f"from {least} to {most}" if most != math.inf else f"of {least} or more"
        raise ProtocolError(BAD_REQUEST, f"{name} is {told}, but takes a number {bounds}")
    return number
