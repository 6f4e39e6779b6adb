"""What a request may wish, by the parameters of the protocol and by ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypedDict

from sommelier.errors import InputError
from sommelier.runtime.server.protocol import BAD_REQUEST, ProtocolError
from sommelier.runtime.server.telling import as_protocol_error
from sommelier.runtime.wishes import wished_accuracy, wished_deadline, wished_priority
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
    `sommelier_deadline_ms` goes before it. Numbers may be texts, for some clients can send no
    fractions. Raises ProtocolError for values that make no sense, by the rules of `infer` in
    process, for a `sommelier_...` that does not exist, and for sequences, which no model here can
    follow.
    """
    if not has_wishes(parameters):
        return {"deadline_ms": None, "priority": 0, "min_accuracy": None}
    for name in parameters:
        if name.startswith("sommelier_") and name not in _OURS:
            meant = " or ".join(nearest(name, list(_OURS)) or _OURS)
            raise ProtocolError(BAD_REQUEST, f"there is no parameter '{name}'; perhaps {meant}")
    if parameters.get("sequence_id") not in (None, 0, ""):
        raise ProtocolError(BAD_REQUEST, "requests are independent: there are no sequences")
    try:
        return {
            "deadline_ms": _deadline(parameters),
            "priority": _priority(parameters),
            "min_accuracy": _accuracy(parameters),
        }
    except InputError as error:
        raise as_protocol_error(error) from error


def has_wishes(parameters: Mapping[str, Any]) -> bool:
    """Whether any of them is one that `wishes` looks at."""
    return any(name in _KNOWN or name.startswith("sommelier_") for name in parameters)


def _deadline(parameters: Mapping[str, Any]) -> float | None:
    timeout_us = _value(parameters, "timeout")
    if timeout_us is not None:
        known = isinstance(timeout_us, int | float) and not isinstance(timeout_us, bool)
        if not known or not 0 <= timeout_us < math.inf:
            told = f"timeout is {str(parameters['timeout'])[:40]}"
            raise InputError(f"{told}, but takes microseconds, 0 or more; 0 is none")
    deadline_ms = _value(parameters, DEADLINE)
    if deadline_ms is not None:
        return wished_deadline(deadline_ms, DEADLINE)
    return timeout_us / 1e3 if timeout_us else None


def _priority(parameters: Mapping[str, Any]) -> int:
    """As `infer` counts it."""
    given = _value(parameters, "priority")
    if given is None:
        return 0
    priority = wished_priority(given, least=0, hint="1 is the highest, 0 the usual one")
    return priority - USUAL_PRIORITY if priority else 0


def _accuracy(parameters: Mapping[str, Any]) -> float | None:
    given = _value(parameters, MIN_ACCURACY)
    return None if given is None else wished_accuracy(given, MIN_ACCURACY)


def _value(parameters: Mapping[str, Any], name: str) -> Any:
    """A number that was sent as a text as the number it is."""
    value = parameters.get(name)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
