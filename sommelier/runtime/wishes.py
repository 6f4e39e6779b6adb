"""What a request may wish of a deployment besides an answer: looked at before it waits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

from sommelier.errors import InputError
from sommelier.storage.naming import nearest

MOST_PRIORITY = 2**32  # and the least is as far below 0


def wished_deadline(value: Any, name: str = "deadline_ms") -> float:
    """A deadline in ms from now on, above 0 and finite. name : as the caller knows it. Raises
    InputError."""
    number = _number(value)
    if not 0 < number < math.inf:
        what = "no number" if math.isnan(number) else "endless" if number > 0 else "not above 0"
        raise InputError(
            f"the deadline is {what}: {_told(value)}",
            hint=f"give {name} in ms from now on, 50 say, or leave it",
        )
    return number


def wished_priority(
    value: Any,
    *,
    least: int = -MOST_PRIORITY,
    hint: str = "0 is usual, smaller is served first: -1, say",
) -> int:
    """A whole number from `least` to MOST_PRIORITY; smaller is served first. Raises InputError."""
    number = _number(value)
    if not (number.is_integer() and least <= number <= MOST_PRIORITY):
        told = f"no whole number from {least} to {MOST_PRIORITY}"
        raise InputError(f"the priority {_told(value)} is {told}", hint=hint)
    return int(number)


def wished_accuracy(value: Any, name: str = "min_accuracy") -> float:
    """An accuracy in [0, 1]. name : as the caller knows it. Raises InputError."""
    number = _number(value)
    if not 0 <= number <= 1:
        hint = "give a fraction from 0 to 1"
        if 1 < number <= 100:
            hint += f": {number:g} % is {number / 100:g}"
        raise InputError(f"{name} cannot be {_told(value)}", hint=hint)
    return number


def wished_outputs(value: Any) -> tuple[str, ...] | None:
    """Names of outputs; None is all, as is an empty list. Raises InputError."""
    names = value
    if type(names) is not tuple:
        listed = isinstance(value, Sequence) and not isinstance(value, str)
        names = tuple(value) if listed else (None,)
    for name in names:
        if not isinstance(name, str):
            raise InputError(
                f"outputs cannot be {_told(value)}",
                hint="give a list of names, or leave it for all",
            )
    return names or None


def unknown_output(name: str, known: Sequence[str]) -> InputError:
    """That there is no such output, in process and over any transport; to be raised."""
    return InputError(
        f"there is no output '{name[:200]}'",
        hint=f"there is {', '.join(known)}",
        suggestions=tuple(nearest(name, list(known))),
    )


def count_of_items(given: Any) -> int:
    """How many raw items there are. Raises InputError for what is neither an array nor a list of
    arrays or bytes, and for none."""
    if hasattr(given, "dtype"):
        known = len(given.shape) > 0
    else:
        known = isinstance(given, Sequence) and all(
            isinstance(item, bytes) or hasattr(item, "dtype") for item in given
        )
    if not known:
        raise InputError(
            f"inputs cannot be {_told(given)}",
            hint="give tensors by name, {'x': array}, or items: an array (n, ...), "
            "or a list of arrays or bytes",
        )
    if len(given) == 0:
        raise InputError("no items are given")
    return len(given)


def _number(value: Any) -> float:
    """NaN for what is no number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _told(value: Any) -> str:
    told = repr(value)
    return told if len(told) <= 40 else f"{told[:37]}..."
